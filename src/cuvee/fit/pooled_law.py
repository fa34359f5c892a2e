"""Size laws of many mixtures that lean on one another: the joint law in size and tokens.

For one target, mixture i at N parameters and D tokens has

    L_i(N, D) = E_i + A_i (N / N_last)^-alpha [+ B_i (D / D_last)^-beta]

with exponents common to all mixtures and slopes A_i, B_i normal about a common mean. A mixture
measured at three sizes says little of its own slope and much of the common one. Given exponents and
variances the rest is linear and has a closed form (variable projection); those few are found by
maximum marginal likelihood with its analytic gradient, then integrated over: how far a law falls
beyond its last point hangs on the exponents, and its doubt on the spreads.

Source of the form: Data Mixing Laws (arXiv:2403.16952), size law; the joint form as in Hoffmann et
al. (arXiv:2203.15556). Deviation: pooling over mixtures is ours.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize
from scipy.special import ndtri
from scipy.stats import chi2, qmc
from threadpoolctl import threadpool_limits

from cuvee.arrays import FloatArray
from cuvee.errors import DataError

logger = logging.getLogger(__name__)

SIZE_EXPONENT = 0.3
"""Centre of alpha's prior: published values lie between 0.05 and 0.6."""
SIZE_WIDTH = 0.5
TOKEN_EXPONENT = 0.5
"""Centre of beta's prior."""
TOKEN_WIDTH = 0.5
_FLAT = 25.0
"""Prior variance of a mixture's floor, in units of the losses' variance."""
_SPREAD, _SPREAD_WIDTH = 0.1, 1.0
"""Prior of a slope's spread over mixtures, in units of the losses' sd, and its log's width."""
_NOISE, _NOISE_WIDTH = 0.05, 1.5
"""Prior of a run's and a point's noise, in units of the losses' sd, and its log's width."""
_CURVATURE_STEP = 0.02
_JITTER = 1e-10
_N_PLACES = 128
"""Places in the space of exponents, spreads and noises that are averaged over."""
_STUDENT = 6.0
"""Degrees of freedom of their distribution: its tails reach where the likelihood's may."""
_NEGLIGIBLE = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class PooledLaw:
    """The law of one target, conditioned on its mixtures' measurements."""

    scale: FloatArray
    """(2,) mean and standard deviation that standardise the losses."""
    last: FloatArray
    """(n_axes,) largest size, and tokens if they are in the law."""
    nodes: "tuple[_Node, ...]"
    """Values of exponents, spreads and noises that are averaged over."""
    converged: bool
    """False where the search of the exponents stopped before it was done."""

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
    """The linear model at one value of exponents, spreads and noises."""

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
        [problem.centre, np.full(problem.n_axes, np.log(_SPREAD)), np.log([2.0 * _NOISE, _NOISE])]
    )
    with threadpool_limits(limits=1):
        found = minimize(problem.cost, start, jac=True, method="L-BFGS-B", bounds=problem.bounds)
        if not found.success:
            logger.warning("a pooled law stopped early: %s", found.message)
        nodes = problem.nodes(np.asarray(found.x), zero_loss=-float(scale[0] / scale[1]))
    return PooledLaw(
        scale=scale, last=points.max(axis=0), nodes=nodes, converged=bool(found.success)
    )


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


def _places(n: int) -> FloatArray:
    """Spread (_N_PLACES, n) places as Student's distribution, by Halton's sequence."""
    uniform = qmc.Halton(n + 1, scramble=False).random(_N_PLACES + 1)[1:]
    lengths = np.sqrt(_STUDENT / chi2.ppf(uniform[:, -1:], _STUDENT))
    return np.asarray(ndtri(uniform[:, :-1]) * lengths, dtype=np.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Parts:
    """What the likelihood is made of at one place."""

    basis: FloatArray
    """(n_points, 1 + n_axes)"""
    prior: FloatArray
    """(1 + n_axes, 1 + n_axes) covariance of a mixture's deviations."""
    run: float
    point: float
    """Variances of a run's and of a point's noise."""
    inverse: FloatArray
    """(n_points, n_points) of a mixture's covariance."""
    log_determinant: float
    common: FloatArray
    """(1 + n_axes,) mean coefficients by generalised least squares."""


class _Problem:
    """Marginal likelihood in log exponents, log spreads of slopes, log run and point noise."""

    def __init__(self, *, points: FloatArray, values: FloatArray) -> None:
        self.values = values
        self.n_axes = points.shape[1]
        self._ratio = np.log(points / points.max(axis=0))
        self._same_run = (points[:, :1] == points[:, 0]).astype(np.float64)
        self.centre = np.log([SIZE_EXPONENT, TOKEN_EXPONENT][: self.n_axes])
        self._prior_mean = np.concatenate(
            [self.centre, np.full(self.n_axes, np.log(_SPREAD)), np.full(2, np.log(_NOISE))]
        )
        self._prior_width = np.concatenate(
            [
                [SIZE_WIDTH, TOKEN_WIDTH][: self.n_axes],
                np.full(self.n_axes, _SPREAD_WIDTH),
                np.full(2, _NOISE_WIDTH),
            ]
        )
        self.bounds = [
            *[(-4.0, 1.0)] * self.n_axes,
            *[(-7.0, 1.0)] * self.n_axes,
            *[(-7.0, 1.0)] * 2,
        ]

    def cost(self, hyper: FloatArray) -> tuple[float, FloatArray]:
        """Return minus the log marginal likelihood and priors, and its gradient.

        The common mean is at its optimum, so that it adds nothing to the gradient.
        """
        parts = self._parts(hyper)
        n, basis, inverse = self.n_axes, parts.basis, parts.inverse
        misfit = self.values - basis @ parts.common
        pulled = misfit @ inverse
        pull = (hyper - self._prior_mean) / self._prior_width
        value = 0.5 * (len(misfit) * parts.log_determinant + np.sum(pulled * misfit) + pull @ pull)
        # d cost / d V = (n_mixtures V^-1 - V^-1 S V^-1) / 2, S the sum of squared misfits.
        along = 0.5 * (len(misfit) * inverse - pulled.T @ pulled)
        gradient = pull / self._prior_width
        exponents = np.exp(hyper[:n])
        spread = np.diag(parts.prior)[1:]
        columns = basis[:, 1:]
        moved = -columns * self._ratio * exponents
        along_columns = along @ columns
        gradient[:n] += 2.0 * spread * np.sum(moved * along_columns, axis=0)
        gradient[:n] -= parts.common[1:] * (pulled.sum(axis=0) @ moved)
        gradient[n:-2] += 2.0 * spread * np.sum(columns * along_columns, axis=0)
        gradient[-2] += 2.0 * parts.run * np.sum(along * self._same_run)
        gradient[-1] += 2.0 * parts.point * np.trace(along)
        return float(value), gradient

    def nodes(self, hyper: FloatArray, *, zero_loss: float) -> tuple[_Node, ...]:
        """Average over exponents, spreads and noises by weighted quasi-random places.

        Places follow Student's distribution about the maximum and are weighed by the true
        likelihood; those whose mean floor is below a loss of 0 are left out.
        """
        drawn = _places(len(hyper))
        root = np.linalg.cholesky(self._covariance(hyper))
        low, high = np.array(self.bounds).T
        places = np.clip(hyper + drawn @ root.T, low, high)
        costs = np.array([self.cost(place)[0] for place in places])
        freedom = _STUDENT + len(hyper)
        density = -0.5 * freedom * np.log1p(np.sum(drawn**2, axis=1) / _STUDENT)
        floors = np.array([self._parts(place).common[0] for place in places])
        logs = -costs - density
        if np.any(floors > zero_loss):
            logs[floors <= zero_loss] = -np.inf
        weights = np.exp(logs - logs.max())
        weights /= weights.sum()
        kept = np.flatnonzero(weights > _NEGLIGIBLE)
        return tuple(self._node(places[one], float(weights[one])) for one in kept)

    def _covariance(self, hyper: FloatArray) -> FloatArray:
        """Invert differences of the gradient, at least the priors' in every direction."""
        curvature = np.empty((len(hyper), len(hyper)))
        for place in range(len(hyper)):
            step = np.zeros(len(hyper))
            step[place] = _CURVATURE_STEP
            curvature[place] = self.cost(hyper + step)[1] - self.cost(hyper - step)[1]
        curvature *= np.outer(self._prior_width, self._prior_width) / (4.0 * _CURVATURE_STEP)
        values, vectors = np.linalg.eigh(curvature + curvature.T)
        scaled = (vectors / np.maximum(values, 1.0)) @ vectors.T
        covariance: FloatArray = scaled * np.outer(self._prior_width, self._prior_width)
        return covariance

    def _node(self, hyper: FloatArray, weight: float) -> _Node:
        parts = self._parts(hyper)
        basis, inverse = parts.basis, parts.inverse
        gain = parts.prior @ basis.T @ inverse
        information = basis.T @ inverse @ basis * len(self.values)
        return _Node(
            weight=weight,
            exponents=np.exp(hyper[: self.n_axes]),
            common=parts.common,
            common_covariance=np.asarray(np.linalg.pinv(information), dtype=np.float64),
            own=(self.values - basis @ parts.common) @ gain.T,
            own_covariance=parts.prior - gain @ basis @ parts.prior,
            pull=gain @ basis,
            noise=parts.run + parts.point,
        )

    def _parts(self, hyper: FloatArray) -> _Parts:
        exponents = np.exp(hyper[: self.n_axes])
        basis = np.column_stack([np.ones(len(self._ratio)), np.exp(-exponents * self._ratio)])
        prior = np.diag(np.concatenate([[_FLAT], np.exp(2.0 * hyper[self.n_axes : -2])]))
        run, point = np.exp(2.0 * hyper[-2:])
        covariance = basis @ prior @ basis.T + run * self._same_run
        diagonal = np.diag_indices_from(covariance)
        covariance[diagonal] += point + _JITTER * covariance[diagonal].mean()
        factor = cho_factor(covariance, lower=True)
        inverse = cho_solve(factor, np.eye(len(covariance)))
        information = basis.T @ inverse @ basis
        ridge = _JITTER * np.trace(information) * np.eye(len(information))
        return _Parts(
            basis=basis,
            prior=prior,
            run=float(run),
            point=float(point),
            inverse=inverse,
            log_determinant=2.0 * float(np.log(np.diag(factor[0])).sum()),
            common=np.linalg.solve(
                information + ridge, basis.T @ inverse @ self.values.mean(axis=0)
            ),
        )
