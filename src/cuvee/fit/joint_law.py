"""One law in size, tokens and mixture, for mixtures measured and not measured.

For one target, mixture r at N parameters and D tokens has

    L(N, D, r) = M(r) + exp(a_0 + a . r) (N / N_last)^-alpha + exp(b_0 + b . r) (D / D_last)^-beta

with the power law in effective data M(r) for what neither size nor tokens take away, and slopes
that depend on the mixture a little. Every term is convex in r. What the law misses is shared by all
points of a mixture, by all points of a run, or is a point's own; the three are told apart, so that
a long trajectory does not count as many runs.

Source: the form in size and tokens as in Hoffmann et al. (arXiv:2203.15556); joining it with a law
of mixtures is ours. Deviation from Data Mixing Laws (arXiv:2403.16952), which nests one law in
another: one fit, and effective data in place of the exponential law, which on few mixtures misses
new ones by far.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self, cast

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares
from threadpoolctl import threadpool_limits

from cuvee.arrays import FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.errors import DataError
from cuvee.fit.effective_data import law, law_prior, robust_range
from cuvee.fit.run_misfits import (
    OUTLIER,
    Factors,
    Groups,
    factorise,
    own_misfits,
    split_misfit,
    trust_points,
    whiten,
)
from cuvee.fit.training_rows import (
    check_mixtures,
    check_training_rows,
    own_of,
    require_fitted,
)

logger = logging.getLogger(__name__)

_SIZE_PRIOR, _TOKEN_PRIOR = (np.log(0.3), 0.5), (np.log(0.5), 0.5)
"""Centre and width of log alpha and log beta; published values lie within two widths."""
_SLOPE_PRIOR = (np.log(0.3), 1.5)
_SLOPE_TILT = 0.5
"""How far a domain moves the log of a slope: mixtures differ by far more in what is left."""
_OWN = 3  # a mixture's own level, size slope and token slope
_NOISE_PRIOR = np.array([0.05, 0.02, 0.02, 0.02, 0.01])
"""Misfit expected of a mixture's level and slopes, of a run and a point, losses from 0 to 1."""
_ROUNDS = 4
_REACH = 6.0
"""Bound of every parameter, in widths of its prior."""
_TOLERANCE = 1e-6
_MAX_EVALUATIONS = 200
_SAME = 1e-9
"""Mixtures closer than this in every share are one mixture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rows:
    """Where and on what the losses of a table were measured."""

    weights: FloatArray
    log_size: FloatArray
    """(n_rows,) log of N / N_last."""
    log_tokens: FloatArray
    """(n_rows,) log of D / D_last."""
    groups: Groups


@dataclass(frozen=True, kw_only=True, slots=True)
class _TargetLaw:
    """One target's law, in losses scaled to run from 0 to 1."""

    parameters: FloatArray
    """(8 + 3 n_domains,) log alpha, log beta, a_0, b_0, a, b, then M's; see `joint_law`."""
    covariance: FloatArray
    lowest: float
    spread: float
    noise: FloatArray
    """(5,) standard deviations of a mixture's own level, size slope and token slope, and of a
    run's and a point's misfit."""
    own: FloatArray
    """(n_mixtures, 3) best guess of each fitted mixture's own level and slopes."""
    own_covariance: FloatArray
    """(n_mixtures, 3, 3)"""
    own_pull: FloatArray
    """(n_mixtures, 3, n_parameters): how far a guess gives way when the law moves."""
    converged: bool
    outliers: tuple[int, ...]


class JointLaw:
    """Predict losses of any mixture at any size and token count.

    Fitted by bounded trust-region least squares with the analytic Jacobian and weak priors, from
    one start; in rounds, between which the three kinds of misfit are estimated and points far off
    are weighed down as Huber does. A mixture that was fitted keeps its own misfit in predictions.

    Args:
        own: (n_targets,) column of each target's own domain, None where it has none.

    Attributes:
        exponents_: (n_targets, 2) alpha and beta.
        noise_: (n_targets, 5) misfit of a mixture's level, size slope and token slope, of a run and
            of a point, in the losses' unit.
        outliers_: (row, target) pairs missed by more than five standard deviations of a point.
        converged_: False where the fit of a target stopped early.
    """

    def __init__(self, *, own: tuple[int | None, ...] | None = None) -> None:
        self.own = own

    def fit(
        self,
        weights: npt.ArrayLike,
        sizes: npt.ArrayLike,
        n_tokens: npt.ArrayLike,
        losses: npt.ArrayLike,
    ) -> Self:
        """Learn from the points of runs; rows with equal weights are one mixture.

        Args:
            weights: (n_rows, n_domains) token shares; rows sum to 1.
            sizes: (n_rows,) parameters without embedding.
            n_tokens: (n_rows,) tokens trained on, at a constant learning rate.
            losses: (n_rows, n_targets) finite.

        Returns:
            The same object, fitted.

        Raises:
            DataError: Shapes disagree, a value is not what it must be, or there are fewer than 2
                mixtures, sizes or token counts.
        """
        shares, measured = check_training_rows(weights, losses, own=self.own)
        parameters = _positive(sizes, "sizes", shares)
        tokens = _positive(n_tokens, "n_tokens", shares)
        self.last_ = np.array([parameters.max(), tokens.max()])
        mixtures, mixture = np.unique(shares.round(9), axis=0, return_inverse=True)
        mixture = mixture.reshape(-1).astype(np.int64)
        _check_variety(mixture, parameters, tokens)
        self.mixtures_ = np.asarray(mixtures, dtype=np.float64)
        rows = _Rows(
            weights=shares,
            log_size=np.log(parameters / self.last_[0]),
            log_tokens=np.log(tokens / self.last_[1]),
            groups=Groups.of(mixture, parameters),
        )
        with threadpool_limits(limits=1):
            self.laws_ = tuple(
                _fit_target(rows, column, own_of(self.own, target))
                for target, column in enumerate(measured.T)
            )
        self._announce()
        return self

    def predict(
        self, weights: npt.ArrayLike, sizes: npt.ArrayLike, n_tokens: npt.ArrayLike
    ) -> tuple[FloatArray, FloatArray]:
        """Predict losses.

        Args:
            weights: (n_rows, n_domains) token shares; rows sum to 1.
            sizes: (n_rows,) parameters without embedding, or one number for all rows.
            n_tokens: (n_rows,) tokens trained on, or one number for all rows.

        Returns:
            Mean and standard deviation of a new run, both (n_rows, n_targets).

        Raises:
            NotFittedError: `fit` was not called.
            DataError: The weights are not mixtures of the fitted domains, or a size or token count
                is not above 0.
        """
        require_fitted(self, "laws_")
        shares = check_mixtures(weights, n_domains=self.mixtures_.shape[1])
        log_size = np.log(_positive(sizes, "sizes", shares) / self.last_[0])
        log_tokens = np.log(_positive(n_tokens, "n_tokens", shares) / self.last_[1])
        distance = np.abs(shares[:, None] - self.mixtures_).max(axis=2)
        nearest = distance.argmin(axis=1)
        known = distance[np.arange(len(shares)), nearest] <= _SAME
        means, sds = [], []
        for fitted in self.laws_:
            value, jacobian = joint_law(fitted.parameters, shares, log_size, log_tokens)
            base = _bases(fitted.parameters, log_size, log_tokens)
            pull = np.einsum("ij,ijk->ik", base, fitted.own_pull[nearest])
            lever = jacobian - np.where(known[:, None], pull, 0.0)
            own = np.where(
                known[:, None, None],
                fitted.own_covariance[nearest],
                np.diag(fitted.noise[:_OWN] ** 2),
            )
            variance = np.einsum("ij,jk,ik->i", lever, fitted.covariance, lever)
            variance += np.einsum("ij,ijk,ik->i", base, own, base)
            variance += np.sum(fitted.noise[_OWN:] ** 2)
            value = value + np.where(known, np.sum(base * fitted.own[nearest], axis=1), 0.0)
            means.append(fitted.lowest + fitted.spread * value)
            sds.append(fitted.spread * np.sqrt(variance))
        return np.stack(means, axis=1), np.stack(sds, axis=1)

    def to_json(self) -> dict[str, Json]:
        """Return all that was learnt, as plain JSON."""
        require_fitted(self, "laws_")
        return {
            "own": None if self.own is None else list(self.own),
            "last": self.last_.tolist(),
            "mixtures": self.mixtures_.tolist(),
            "laws": [cast(Json, _plain(law)) for law in self.laws_],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> Self:
        """Make a fitted law from `to_json`'s answer."""
        own = cast(list[int | None] | None, data["own"])
        model = cls(own=None if own is None else tuple(own))
        model.last_ = np.asarray(data["last"], dtype=np.float64)
        model.mixtures_ = np.asarray(data["mixtures"], dtype=np.float64)
        model.laws_ = tuple(_from_plain(law) for law in cast(list[dict[str, Json]], data["laws"]))
        model._announce()
        return model

    def _announce(self) -> None:
        """Set what is read off the targets' laws."""
        self.exponents_ = np.exp([law.parameters[:2] for law in self.laws_])
        self.noise_ = np.stack([law.noise * law.spread for law in self.laws_])
        self.converged_ = all(law.converged for law in self.laws_)
        self.outliers_ = tuple(
            (row, target) for target, law in enumerate(self.laws_) for row in law.outliers
        )


def joint_law(
    parameters: FloatArray, weights: FloatArray, log_size: FloatArray, log_tokens: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Compute the law and its Jacobian.

    Args:
        parameters: (8 + 3 n_domains,) log alpha, log beta, a_0, b_0, then a and b by domain, then
            the parameters of `effective_data.law`.
        weights: (n_rows, n_domains) token shares; rows sum to 1.
        log_size: (n_rows,) log of N / N_last.
        log_tokens: (n_rows,) log of D / D_last.

    Returns:
        The (n_rows,) values and the (n_rows, 8 + 3 n_domains) derivatives.
    """
    n_domains = weights.shape[1]
    # The limits lie far outside the priors; they only keep a wild trial step finite.
    alpha, beta = np.exp(np.clip(parameters[:2], -8.0, 3.0))
    a, b = parameters[4 : 4 + 2 * n_domains].reshape(2, -1)
    mixing, along_mixing = law(parameters[4 + 2 * n_domains :], weights)
    by_size = np.exp(np.clip(parameters[2] + weights @ a - alpha * log_size, -30.0, 10.0))
    by_tokens = np.exp(np.clip(parameters[3] + weights @ b - beta * log_tokens, -30.0, 10.0))
    jacobian = np.column_stack(
        [
            -alpha * log_size * by_size,
            -beta * log_tokens * by_tokens,
            by_size,
            by_tokens,
            weights * by_size[:, None],
            weights * by_tokens[:, None],
            along_mixing,
        ]
    )
    return mixing + by_size + by_tokens, jacobian


def _positive(values: npt.ArrayLike, name: str, weights: FloatArray) -> FloatArray:
    found = np.asarray(values, dtype=np.float64)
    if found.shape not in ((), (len(weights),)):
        raise DataError(
            f"{name} have shape {found.shape}; expected one number or ({len(weights)},), one for "
            "each row of the weights."
        )
    if not np.all(np.isfinite(found) & (found > 0.0)):
        raise DataError(f"{name} go down to {found.min()}; they must be finite and above 0.")
    return np.broadcast_to(found, len(weights))


def _check_variety(mixture: IntArray, sizes: FloatArray, n_tokens: FloatArray) -> None:
    for name, values in (("mixture", mixture), ("size", sizes), ("token count", n_tokens)):
        if len(np.unique(values)) < 2:
            raise DataError(
                f"all rows have one {name}; a joint law needs at least 2 of each of mixtures, "
                "sizes and token counts. Measure more."
            )


def _prior(n_domains: int, own: int | None) -> tuple[FloatArray, FloatArray]:
    """Return centres and widths of the parameters."""
    head = (_SIZE_PRIOR, _TOKEN_PRIOR, _SLOPE_PRIOR, _SLOPE_PRIOR)
    tilts = np.zeros(2 * n_domains), np.full(2 * n_domains, _SLOPE_TILT)
    mixing = law_prior(n_domains, own)
    centre = np.concatenate([[pair[0] for pair in head], tilts[0], mixing.mean])
    return centre, np.concatenate([[pair[1] for pair in head], tilts[1], mixing.sd])


def _fit_target(rows: _Rows, losses: FloatArray, own: int | None) -> _TargetLaw:
    lowest, spread = robust_range(losses)
    spread = spread or 1.0
    scaled = (losses - lowest) / spread
    prior = centre, width = _prior(rows.weights.shape[1], own)
    place, noise, trust = np.zeros(len(centre)), _NOISE_PRIOR.copy(), np.ones(len(losses))
    bases = _bases(centre, rows.log_size, rows.log_tokens)
    for _ in range(_ROUNDS):
        factors = factorise(rows.groups, bases, noise, trust)
        place, converged = _solve(rows, scaled, factors, place, prior)
        parameters = centre + width * place
        value, jacobian = joint_law(parameters, rows.weights, rows.log_size, rows.log_tokens)
        whitened = whiten(factors, jacobian * width)
        covariance = np.linalg.inv(whitened.T @ whitened + np.eye(len(centre)))
        learnt = float(np.sum((whitened @ covariance) * whitened))
        bases = _bases(parameters, rows.log_size, rows.log_tokens)
        misfit = scaled - value
        noise = split_misfit(
            rows.groups, bases, misfit, trust, start=noise, expected=_NOISE_PRIOR, learnt=learnt
        )
        factors = factorise(rows.groups, bases, noise, trust)
        own_found = own_misfits(bases, misfit, jacobian, noise, factors)
        own_part = np.sum(bases * own_found[0][rows.groups.mixture], axis=1)
        trust = trust_points(rows.groups, misfit - own_part)
    return _TargetLaw(
        parameters=parameters,
        covariance=covariance * np.outer(width, width),
        lowest=lowest,
        spread=spread,
        noise=noise,
        own=own_found[0],
        own_covariance=own_found[1],
        own_pull=own_found[2],
        converged=converged,
        outliers=tuple(int(row) for row in np.flatnonzero(trust < OUTLIER)),
    )


def _bases(parameters: FloatArray, log_size: FloatArray, log_tokens: FloatArray) -> FloatArray:
    """Return (n_rows, 3) what multiplies a mixture's own level, size slope and token slope."""
    alpha, beta = np.exp(parameters[:2])
    level = np.ones(len(log_size))
    return np.column_stack([level, np.exp(-alpha * log_size), np.exp(-beta * log_tokens)])


def _solve(
    rows: _Rows,
    losses: FloatArray,
    factors: Factors,
    start: FloatArray,
    prior: tuple[FloatArray, FloatArray],
) -> tuple[FloatArray, bool]:
    """Minimise whitened misfit plus prior, in parameters scaled by the prior."""
    centre, width = prior

    def at(place: FloatArray) -> tuple[FloatArray, FloatArray]:
        return joint_law(centre + width * place, rows.weights, rows.log_size, rows.log_tokens)

    def residuals(place: FloatArray) -> FloatArray:
        return np.concatenate([whiten(factors, at(place)[0] - losses), place])

    def jacobian(place: FloatArray) -> FloatArray:
        return np.vstack([whiten(factors, at(place)[1] * width), np.eye(len(place))])

    result = least_squares(
        residuals,
        start,
        jac=jacobian,
        bounds=(-_REACH, _REACH),
        ftol=_TOLERANCE,
        xtol=_TOLERANCE,
        gtol=_TOLERANCE,
        max_nfev=_MAX_EVALUATIONS,
    )
    if not result.success:
        logger.warning("a joint law's fit stopped early: %s", result.message)
    return np.asarray(result.x, dtype=np.float64), bool(result.success)


def _plain(law: _TargetLaw) -> dict[str, object]:
    fields = asdict(law).items()
    return {name: each.tolist() if isinstance(each, np.ndarray) else each for name, each in fields}


def _from_plain(data: Mapping[str, Json]) -> _TargetLaw:
    arrays = ("parameters", "covariance", "noise", "own", "own_covariance", "own_pull")
    return _TargetLaw(
        **{name: np.asarray(data[name], dtype=np.float64) for name in arrays},
        lowest=cast(float, data["lowest"]),
        spread=cast(float, data["spread"]),
        converged=cast(bool, data["converged"]),
        outliers=tuple(cast(list[int], data["outliers"])),
    )
