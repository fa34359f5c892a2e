"""Power law in effective data: how much of each domain counts as data for a target."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, cast

import numpy as np
from scipy.optimize import least_squares
from threadpoolctl import threadpool_limits

from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.fit.training_rows import check_mixtures, check_training_rows, own_of, require_fitted

logger = logging.getLogger(__name__)

NOISE = 0.03
"""Expected misfit, in units of the losses' range."""
STARTS = (0.0, -1.0, 1.0)
"""Where log beta starts, in prior standard deviations; all else starts at its prior mean."""
DATA_FLOOR = 1e-3
"""Least effective data: keeps the law finite for a target without an own domain."""
_ROBUST = 6.0
_ROBUST_ROUNDS = 2
_TOLERANCE = 1e-5
_MAX_EVALUATIONS = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class LawPrior:
    """Normal prior of (c, log k, log beta, log a0, log a_i), losses scaled to run from 0 to 1."""

    mean: FloatArray
    """(4 + n_domains,) centres."""
    sd: FloatArray
    """(4 + n_domains,) widths."""


class EffectiveDataPower:
    """Predict each target as ``c + k (a0 + sum_i a_i r_i)^(-beta)``, all but c positive.

    ``a_i`` is how much a token of domain i counts as data for the target. The law is convex in r.
    It is fitted by Levenberg and Marquardt's trust-region least squares with the analytic Jacobian
    and the priors of `law_prior`, from 3 starts; then again with far-off runs weighted down. The
    standard deviation is that of a new run: leave-one-out misfit plus the parameters' Laplace
    covariance.

    Args:
        own: (n_targets,) column of each target's own domain, None where it has none.

    Attributes:
        parameters_: (n_targets, 4 + n_domains) c, log k, log beta, log a0, log a_i of losses
            scaled to run from 0 to 1.
        scale_: (n_targets, 2) least loss and range that scale the losses.
        residual_sd_: (n_targets,) leave-one-out misfit, in the losses' unit.
        covariance_: (n_targets, 4 + n_domains, 4 + n_domains) of the parameters.
        converged_: False where the fit of a target stopped early.
    """

    def __init__(self, *, own: tuple[int | None, ...] | None = None) -> None:
        self.own = own

    def fit(self, weights: FloatArray, losses: FloatArray, *, rng: np.random.Generator) -> Self:
        """Learn from measured runs.

        Args:
            weights: (n_runs, n_domains) token shares; rows sum to 1.
            losses: (n_runs, n_targets) finite.
            rng: Not used; the starts are fixed.

        Returns:
            The same object, fitted.

        Raises:
            DataError: The runs are not what they must be.
            ConfigError: ``own`` does not fit the runs.
        """
        shares, measured = check_training_rows(weights, losses, own=self.own)
        self.converged_ = True
        with threadpool_limits(limits=1):
            fits = [
                self._fit_target(shares, measured[:, target], target)
                for target in range(measured.shape[1])
            ]
        self.parameters_ = np.stack([fit.parameters for fit in fits])
        self.covariance_ = np.stack([fit.covariance for fit in fits])
        self.scale_ = np.asarray([[fit.lowest, fit.spread] for fit in fits])
        self.residual_sd_ = np.asarray([fit.residual_sd for fit in fits])
        return self

    def predict(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Predict the losses of mixtures.

        Args:
            weights: (n_rows, n_domains) token shares; rows sum to 1.

        Returns:
            Mean and standard deviation of a new run, both (n_rows, n_targets).

        Raises:
            NotFittedError: `fit` was not called.
            DataError: The weights are not mixtures of the fitted domains.
        """
        require_fitted(self, "parameters_")
        shares = check_mixtures(weights, n_domains=self.parameters_.shape[1] - 4)
        mean = np.empty((len(shares), len(self.parameters_)))
        sd = np.empty_like(mean)
        for target, (parameters, covariance) in enumerate(
            zip(self.parameters_, self.covariance_, strict=True)
        ):
            lowest, spread = self.scale_[target]
            value, jacobian = law(parameters, shares)
            own_variance = np.einsum("ij,jk,ik->i", jacobian, covariance, jacobian)
            mean[:, target] = lowest + spread * value
            variance = spread**2 * np.maximum(own_variance, 0.0) + self.residual_sd_[target] ** 2
            sd[:, target] = np.sqrt(variance)
        return mean, sd

    def slopes(self, weights: FloatArray) -> FloatArray:
        """Compute the derivatives of the mean along the weights; the mean is convex in them.

        Args:
            weights: (n_rows, n_domains) token shares; rows sum to 1.

        Returns:
            (n_rows, n_targets, n_domains) derivatives, in the losses' unit.

        Raises:
            NotFittedError: `fit` was not called.
            DataError: The weights are not mixtures of the fitted domains.
        """
        require_fitted(self, "parameters_")
        shares = check_mixtures(weights, n_domains=self.parameters_.shape[1] - 4)
        scaled = self.scale_[:, 1, None, None] * law_slopes(self.parameters_, shares)
        return np.ascontiguousarray(scaled.transpose(1, 0, 2))

    def to_json(self) -> dict[str, Json]:
        """Return settings and all that was learnt, as plain JSON."""
        require_fitted(self, "parameters_")
        return {
            "own": None if self.own is None else list(self.own),
            "parameters": self.parameters_.tolist(),
            "covariance": self.covariance_.tolist(),
            "scale": self.scale_.tolist(),
            "residual_sd": self.residual_sd_.tolist(),
            "converged": self.converged_,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> Self:
        """Make a fitted model from `to_json`'s answer."""
        own = cast(list[int | None] | None, data["own"])
        model = cls(own=None if own is None else tuple(own))
        model.parameters_ = np.asarray(data["parameters"], dtype=np.float64)
        model.covariance_ = np.asarray(data["covariance"], dtype=np.float64)
        model.scale_ = np.asarray(data["scale"], dtype=np.float64)
        model.residual_sd_ = np.asarray(data["residual_sd"], dtype=np.float64)
        model.converged_ = bool(data["converged"])
        return model

    def _fit_target(self, weights: FloatArray, losses: FloatArray, target: int) -> "_Fit":
        prior = law_prior(weights.shape[1], own_of(self.own, target))
        lowest, spread = robust_range(losses)
        scaled = (losses - lowest) / (spread or 1.0)
        # Broken runs stay out of the first solution; they come back if it explains them.
        trust = ((scaled >= 0.0) & (scaled <= 1.0)).astype(np.float64)
        results = [_solve(start, weights, scaled, trust, prior) for start in _starts(prior)]
        best = min(results, key=lambda result: result.cost)
        for _ in range(_ROBUST_ROUNDS):
            trust = _trust(best.parameters, weights, scaled)
            best = _solve(best.parameters, weights, scaled, trust, prior)
        if not best.converged:
            self.converged_ = False
            logger.warning("target %d: the power law's fit stopped early", target)
        residual_sd, covariance = _errors(best.parameters, weights, scaled, prior)
        return _Fit(
            parameters=best.parameters,
            covariance=covariance,
            lowest=lowest,
            spread=spread,
            residual_sd=residual_sd * spread,
        )


def law(parameters: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Compute ``c + k (a0 + a . r)^(-beta)`` and its Jacobian; a0 is .001 above its parameter.

    Args:
        parameters: (..., 4 + n_domains) c, log k, log beta, log a0, log a_i.
        weights: (n_rows, n_domains) token shares; rows sum to 1.

    Returns:
        The (..., n_rows) values and the (..., n_rows, 4 + n_domains) derivatives.
    """
    scale, exponent, offset, counts = _unpack(parameters)
    counted = weights * counts
    effective = DATA_FLOOR + offset + counted.sum(axis=-1)
    logarithm = np.log(effective)
    decay = scale * np.exp(-exponent * logarithm)
    along_log_data = -exponent * decay / effective
    jacobian = np.empty((*decay.shape, parameters.shape[-1]))
    jacobian[..., 0] = 1.0
    jacobian[..., 1] = decay
    jacobian[..., 2] = -exponent * logarithm * decay
    jacobian[..., 3] = along_log_data * offset
    jacobian[..., 4:] = along_log_data[..., None] * counted
    return parameters[..., :1] + decay, jacobian


def law_slopes(parameters: FloatArray, weights: FloatArray) -> FloatArray:
    """Compute the derivatives of `law` along the weights.

    Args:
        parameters: (..., 4 + n_domains) c, log k, log beta, log a0, log a_i.
        weights: (n_rows, n_domains) token shares; rows sum to 1.

    Returns:
        (..., n_rows, n_domains) derivatives, none positive.
    """
    scale, exponent, offset, counts = _unpack(parameters)
    effective = DATA_FLOOR + offset + (weights * counts).sum(axis=-1)
    along_data = -exponent * scale * effective ** (-exponent - 1.0)
    slopes: FloatArray = along_data[..., None] * counts
    return slopes


def law_prior(n_domains: int, own: int | None) -> LawPrior:
    """Give the prior of one target's law, for losses scaled to run from 0 to 1.

    Args:
        n_domains: Number of domains.
        own: Column of the target's own domain, None where it has none.

    The centres and widths are those that served on RegMix's published runs.
    """
    counts_mean = np.full(n_domains, -1.5 if own is None else -3.0)
    counts_sd = np.full(n_domains, 2.0 if own is None else 1.5)
    if own is not None:
        counts_mean[own], counts_sd[own] = 0.0, 0.7
    return LawPrior(
        mean=np.concatenate([[-0.5, np.log(0.5), np.log(0.3), -4.0], counts_mean]),
        sd=np.concatenate([[2.0, 1.5, 0.7, 2.0], counts_sd]),
    )


def robust_range(losses: FloatArray) -> tuple[float, float]:
    """Return the least loss and the range, broken runs left aside; range 0 if all are equal.

    A loss beyond twice the range of the middle four fifths, counted from its ends, is left aside:
    one diverged run must not squeeze all others into a corner of the scale.
    """
    low, high = np.quantile(losses, [0.1, 0.9])
    reach = 2.0 * (high - low)
    inside = losses[(losses >= low - reach) & (losses <= high + reach)]
    lowest, spread = float(inside.min()), float(np.ptp(inside))
    return lowest, spread if spread > 1e-12 * max(abs(lowest), 1e-300) else 0.0


def _unpack(parameters: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return k, beta and a0, each (..., 1), and a, (..., 1, n_domains)."""
    # The limits lie far outside the priors; they only keep a wild trial step finite.
    three = np.exp(np.clip(parameters[..., 1:4], -20.0, [6.0, 2.0, 6.0]))
    counts = np.exp(np.clip(parameters[..., None, 4:], -20.0, 8.0))
    return three[..., 0:1], three[..., 1:2], three[..., 2:3], counts


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fit:
    parameters: FloatArray
    covariance: FloatArray
    lowest: float
    spread: float
    residual_sd: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Solution:
    parameters: FloatArray
    cost: float
    converged: bool


def _starts(prior: LawPrior) -> list[FloatArray]:
    """Start at three exponents: the only parameter along which the fit has several valleys."""
    starts = []
    for step in STARTS:
        start = prior.mean.copy()
        start[2] += step * prior.sd[2]
        starts.append(start)
    return starts


def _solve(
    start: FloatArray, weights: FloatArray, losses: FloatArray, trust: FloatArray, prior: LawPrior
) -> _Solution:
    """Minimise misfit plus prior, in parameters scaled by the prior."""
    root = np.sqrt(trust) / NOISE

    def residuals(scaled: FloatArray) -> FloatArray:
        misfit = law(prior.mean + prior.sd * scaled, weights)[0] - losses
        return np.concatenate([root * misfit, scaled])

    def jacobian(scaled: FloatArray) -> FloatArray:
        slopes = law(prior.mean + prior.sd * scaled, weights)[1]
        return np.vstack([root[:, None] * slopes * prior.sd, np.eye(len(scaled))])

    result = least_squares(
        residuals,
        (start - prior.mean) / prior.sd,
        jac=jacobian,
        method="lm",
        ftol=_TOLERANCE,
        xtol=_TOLERANCE,
        max_nfev=_MAX_EVALUATIONS,
    )
    return _Solution(
        parameters=prior.mean + prior.sd * np.asarray(result.x, dtype=np.float64),
        cost=float(result.cost),
        converged=bool(result.success),
    )


def _trust(parameters: FloatArray, weights: FloatArray, losses: FloatArray) -> FloatArray:
    """Weigh runs by ``1 / (1 + (misfit / 6 noise)^2)``, as Cauchy's loss does."""
    misfit = (law(parameters, weights)[0] - losses) / (NOISE * _ROBUST)
    return 1.0 / (1.0 + misfit**2)


def _errors(
    parameters: FloatArray, weights: FloatArray, losses: FloatArray, prior: LawPrior
) -> tuple[float, FloatArray]:
    """Estimate the misfit of a run left out, and the parameters' covariance."""
    value, jacobian = law(parameters, weights)
    misfit = losses - value
    trust = _trust(parameters, weights, losses)
    precision = (jacobian.T * trust) @ jacobian / NOISE**2 + np.diag(prior.sd**-2.0)
    covariance = np.asarray(np.linalg.inv(precision), dtype=np.float64)
    leverage = trust * np.einsum("ij,jk,ik->i", jacobian, covariance, jacobian) / NOISE**2
    left_out = misfit / np.maximum(1.0 - leverage, 0.05)
    return float(np.sqrt((trust * left_out**2).sum() / trust.sum())), covariance
