"""Size laws of many mixtures that lean on one another: the joint law in size and tokens.

For one target, mixture i at N parameters and D tokens has

    L_i(N, D) = E_i + A_i (N / N_last)^-alpha [+ B_i (D / D_last)^-beta]

with exponents common to all mixtures and slopes A_i, B_i normal about a common mean. A mixture
measured at three sizes says little of its own slope and much of the common one. Given exponents and
variances the rest is linear and has a closed form (variable projection); those few are found by
maximum marginal likelihood, the exponents are then integrated over.

Source of the form: Data Mixing Laws (arXiv:2403.16952), size law; the joint form as in Hoffmann et
al. (arXiv:2203.15556). Deviation: pooling over mixtures is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from cuvee.arrays import FloatArray
from cuvee.errors import DataError

SIZE_EXPONENT = 0.3
"""Centre of alpha's prior: published values lie between 0.05 and 0.6."""
SIZE_WIDTH = 0.5
TOKEN_EXPONENT = 0.5
"""Centre of beta's prior."""
TOKEN_WIDTH = 0.5
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(7)
_FLAT = 25.0
"""Prior variance of a mixture's floor, in units of the losses' variance."""
_SLOPE_SD = 0.5
"""Prior scale of a slope's spread over mixtures, in units of its mean and of the losses' sd."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PooledLaw:
    """The law of one target, conditioned on its mixtures' measurements."""

    scale: FloatArray
    """(2,) mean and standard deviation that standardise the losses."""
    last: FloatArray
    """(n_axes,) largest size, and tokens if they are in the law."""
    nodes: "tuple[_Node, ...]"
    """Values of the exponents that are averaged over."""

    @property
    def exponents(self) -> FloatArray:
        """(n_axes,) mean exponents: alpha, and beta if tokens are in the law."""
        weights = np.array([node.weight for node in self.nodes])
        return np.asarray(weights @ np.stack([node.exponents for node in self.nodes]))

    def predict(self, *point: float) -> tuple[FloatArray, FloatArray]:
        """Predict every mixture elsewhere.

        Args:
            point: Parameters, and tokens if they are in the law.

        Returns:
            Mean and standard deviation of a new run, both (n_mixtures,).
        """
        ratio = np.log(np.array(point, dtype=np.float64) / self.last)
        means, variances = zip(*(node.predict(ratio) for node in self.nodes), strict=True)
        weights = np.array([node.weight for node in self.nodes])
        mean = weights @ np.stack(means)
        variance = weights @ (np.stack(variances) + (np.stack(means) - mean) ** 2)
        return self.scale[0] + self.scale[1] * mean, self.scale[1] * np.sqrt(variance)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Node:
    """The linear model at one value of the exponents."""

    weight: float
    exponents: FloatArray
    common: FloatArray
    """(1 + n_axes,) mean coefficients."""
    common_covariance: FloatArray
    own: FloatArray
    """(n_mixtures, 1 + n_axes) deviations of each mixture."""
    own_covariance: FloatArray
    """(1 + n_axes, 1 + n_axes) of the deviations."""
    pull: FloatArray
    """(1 + n_axes, 1 + n_axes): how a mixture's deviation moves with the common mean."""
    noise: float
    """Variance of a new run."""

    def predict(self, ratio: FloatArray) -> tuple[FloatArray, FloatArray]:
        basis = np.concatenate([[1.0], np.exp(-self.exponents * ratio)])
        mean = basis @ self.common + self.own @ basis
        lever = basis - self.pull.T @ basis
        variance = (
            basis @ self.own_covariance @ basis
            + lever @ self.common_covariance @ lever
            + self.noise
        )
        return mean, np.full(len(mean), variance)


def fit_pooled_law(axes: Sequence[FloatArray], losses: FloatArray) -> PooledLaw:
    """Fit one target.

    Args:
        axes: Parameters (n_points,) of each point, and its tokens (n_points,) if they are to be in
            the law. All mixtures have the same points.
        losses: (n_mixtures, n_points) finite.

    Returns:
        The law.

    Raises:
        DataError: There are fewer than 2 sizes or 2 mixtures, or a loss is not finite.
    """
    points = np.stack([np.asarray(axis, dtype=np.float64) for axis in axes], axis=1)
    values = np.asarray(losses, dtype=np.float64)
    _check(points, values)
    scale = np.array([values.mean(), values.std() or 1.0])
    problem = _Problem(points=points, values=(values - scale[0]) / scale[1])
    start = np.concatenate(
        [problem.centre, np.log(np.full(problem.n_axes, 0.1)), np.log([0.1, 0.05])]
    )
    found = minimize(problem.cost, start, method="BFGS", options={"gtol": 1e-4, "maxiter": 200})
    return PooledLaw(scale=scale, last=points.max(axis=0), nodes=problem.nodes(np.asarray(found.x)))


def _check(points: FloatArray, values: FloatArray) -> None:
    if values.ndim != 2 or values.shape[1] != len(points):
        raise DataError(
            f"losses have shape {values.shape} for {len(points)} points; expected (n_mixtures, "
            "n_points)."
        )
    n_sizes = len(np.unique(points[:, 0]))
    if n_sizes < 2 or len(values) < 2:
        raise DataError(
            f"{len(values)} mixtures at {n_sizes} sizes; a size law needs at least 2 of each, "
            "better 3 sizes. Train more."
        )
    for row, column in np.argwhere(~np.isfinite(values))[:1]:
        raise DataError(
            f"loss of mixture {row} at point {column} is {values[row, column]}; losses must be "
            "finite. Leave diverged runs out."
        )


class _Problem:
    """Marginal likelihood in log exponents, log spreads of slopes, log run and point noise."""

    def __init__(self, *, points: FloatArray, values: FloatArray) -> None:
        self.values = values
        self.n_axes = points.shape[1]
        self._ratio = np.log(points / points.max(axis=0))
        self._same_run = (points[:, :1] == points[:, 0]).astype(np.float64)
        self.centre = np.log([SIZE_EXPONENT, TOKEN_EXPONENT][: self.n_axes])
        self._width = np.array([SIZE_WIDTH, TOKEN_WIDTH][: self.n_axes])

    def cost(self, hyper: FloatArray) -> float:
        """Return minus the log marginal likelihood and priors."""
        basis, prior, noise = self._parts(hyper)
        covariance = basis @ prior @ basis.T + noise
        inverse: FloatArray = np.asarray(np.linalg.inv(covariance), dtype=np.float64)
        common = self._common(basis, inverse)
        misfit = self.values - basis @ common
        _, log_determinant = np.linalg.slogdet(covariance)
        value = 0.5 * len(self.values) * log_determinant
        value += 0.5 * float(np.einsum("mi,ij,mj->", misfit, inverse, misfit))
        pull = (hyper[: self.n_axes] - self.centre) / self._width
        spreads = (hyper[self.n_axes : -2] - np.log(_SLOPE_SD * 0.2)) / 1.0
        noises = (hyper[-2:] - np.log(0.05)) / 1.5
        return float(value + 0.5 * (pull @ pull + spreads @ spreads + noises @ noises))

    def nodes(self, hyper: FloatArray) -> tuple[_Node, ...]:
        """Average over the exponents about the maximum, spreads and noises held there."""
        found = []
        curvature = self._curvature(hyper)
        root = np.linalg.cholesky(np.linalg.inv(curvature))
        grids = np.stack(np.meshgrid(*[_NODES] * self.n_axes), axis=-1).reshape(-1, self.n_axes)
        masses = np.prod(
            np.stack(np.meshgrid(*[_WEIGHTS] * self.n_axes), axis=-1).reshape(-1, self.n_axes),
            axis=1,
        )
        for place, mass in zip(grids, masses, strict=True):
            shifted = hyper.copy()
            shifted[: self.n_axes] += root @ place
            found.append(self._node(shifted, float(mass / masses.sum())))
        return tuple(found)

    def _curvature(self, hyper: FloatArray) -> FloatArray:
        """Return second differences of the cost along the exponents, at least the prior's."""
        n, step = self.n_axes, 0.05
        curvature = np.empty((n, n))
        for i in range(n):
            for j in range(n):
                corners = []
                for a, b in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                    moved = hyper.copy()
                    moved[i] += a * step
                    moved[j] += b * step
                    corners.append(self.cost(moved))
                curvature[i, j] = (corners[0] - corners[1] - corners[2] + corners[3]) / (
                    4.0 * step**2
                )
        values, vectors = np.linalg.eigh(0.5 * (curvature + curvature.T))
        least = float(np.min(self._width**-2.0))
        floored: FloatArray = (vectors * np.maximum(values, least)) @ vectors.T
        return floored

    def _node(self, hyper: FloatArray, weight: float) -> _Node:
        basis, prior, noise = self._parts(hyper)
        inverse = np.asarray(np.linalg.inv(basis @ prior @ basis.T + noise), dtype=np.float64)
        common = self._common(basis, inverse)
        gain = prior @ basis.T @ inverse
        information = basis.T @ inverse @ basis * len(self.values)
        run, point = np.exp(2.0 * hyper[-2:])
        return _Node(
            weight=weight,
            exponents=np.exp(hyper[: self.n_axes]),
            common=common,
            common_covariance=np.asarray(np.linalg.pinv(information), dtype=np.float64),
            own=(self.values - basis @ common) @ gain.T,
            own_covariance=prior - gain @ basis @ prior,
            pull=gain @ basis,
            noise=float(run + point),
        )

    def _parts(self, hyper: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return the basis, the prior covariance of a mixture's deviations, and the noise's."""
        exponents = np.exp(np.clip(hyper[: self.n_axes], -5.0, 2.0))
        basis = np.column_stack([np.ones(len(self._ratio)), np.exp(-exponents * self._ratio)])
        spreads = np.exp(np.clip(hyper[self.n_axes : -2], -8.0, 3.0))
        prior = np.diag(np.concatenate([[_FLAT], spreads**2]))
        run, point = np.exp(2.0 * np.clip(hyper[-2:], -9.0, 2.0))
        return basis, prior, run * self._same_run + point * np.eye(len(basis))

    def _common(self, basis: FloatArray, inverse: FloatArray) -> FloatArray:
        information = basis.T @ inverse @ basis
        common: FloatArray = np.linalg.lstsq(
            information, basis.T @ inverse @ self.values.mean(axis=0), rcond=None
        )[0]
        return common
