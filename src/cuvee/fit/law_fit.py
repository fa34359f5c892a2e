"""Fit a law of mixtures to one target: least squares with a prior, robust, with its uncertainty."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy.optimize import least_squares

from cuvee.arrays import BoolArray, FloatArray
from cuvee.fit.effective_data import LawPrior, robust_range

Law: TypeAlias = Callable[[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]
"""(n_parameters,) and (n_rows, n_domains) to (n_rows,) values and (n_rows, n_parameters) slopes."""

NOISE = 0.03
"""Expected misfit, in units of the losses' range."""
_ROBUST = 6.0
_ROUNDS = 3
_TOLERANCE = 1e-4
_MAX_EVALUATIONS = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedLaw:
    """One target's law."""

    parameters: FloatArray
    """(n_parameters,) for losses scaled to run from 0 to 1."""
    covariance: FloatArray
    """(n_parameters, n_parameters) Laplace."""
    scale: FloatArray
    """(2,) least loss and range."""
    residual_sd: float
    """Misfit of a run left out, in the losses' unit."""
    noise: float
    """Misfit that the parameters were weighed by, for losses scaled to run from 0 to 1."""
    trust: FloatArray
    """(n_runs,) how much the robust loss hears of a run: 0 nothing, 1 all."""
    converged: bool

    @property
    def outliers(self) -> BoolArray:
        """(n_runs,) True for runs that the robust loss hears less than half."""
        return self.trust < 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Solution:
    """Where a least-squares solve came to rest."""

    parameters: FloatArray
    """(n_parameters,) for losses scaled to run from 0 to 1."""
    cost: float
    """Half the weighted squared misfit plus the prior's part."""
    converged: bool


def fit_law(
    law: Law,
    prior: LawPrior,
    weights: FloatArray,
    losses: FloatArray,
    *,
    start: FloatArray | None = None,
) -> FittedLaw:
    """Fit one target.

    Args:
        law: Values and slopes at parameters.
        prior: Normal prior of the parameters, for losses scaled to run from 0 to 1.
        weights: (n_runs, n_domains) token shares; rows sum to 1.
        losses: (n_runs,) finite.
        start: (n_parameters,) where to begin; None: the prior's centre.

    Returns:
        The law. The noise is learnt from the misfit; runs far off are weighed down as Cauchy's loss
        does.
    """
    lowest, spread = robust_range(losses)
    scaled = (losses - lowest) / (spread or 1.0)
    # Broken runs stay out of the first solution; they come back if it explains them.
    trust = ((scaled >= 0.0) & (scaled <= 1.0)).astype(np.float64)
    point, noise, converged = prior.mean if start is None else start, NOISE, True
    for _ in range(_ROUNDS):
        found = solve_law(law, prior, point, weights, scaled, precision=trust / noise**2)
        point, converged = found.parameters, found.converged
        misfit = scaled - law(point, weights)[0]
        noise = _noise(law, prior, point, weights, misfit, trust, noise)
        trust = 1.0 / (1.0 + (misfit / (_ROBUST * noise)) ** 2)
    covariance, leverage = _laplace(law, prior, point, weights, trust, noise)
    left_out = misfit / np.maximum(1.0 - leverage, 0.05)
    return FittedLaw(
        parameters=point,
        covariance=covariance,
        scale=np.array([lowest, spread]),
        residual_sd=float(np.sqrt((trust * left_out**2).sum() / trust.sum())) * spread,
        noise=noise,
        trust=trust,
        converged=converged,
    )


def solve_law(
    law: Law,
    prior: LawPrior,
    start: FloatArray,
    weights: FloatArray,
    losses: FloatArray,
    *,
    precision: FloatArray,
) -> Solution:
    """Minimise weighted misfit plus prior, in parameters scaled by the prior.

    Args:
        law: Values and slopes at parameters.
        prior: Normal prior of the parameters.
        start: (n_parameters,) where to begin.
        weights: (n_runs, n_domains) token shares; rows sum to 1.
        losses: (n_runs,) scaled to run from 0 to 1.
        precision: (n_runs,) inverse variances of the misfits; 0 for what does not count.
    """
    root = np.sqrt(precision)

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
    return Solution(
        parameters=prior.mean + prior.sd * np.asarray(result.x, dtype=np.float64),
        cost=float(result.cost),
        converged=bool(result.success),
    )


def _noise(
    law: Law,
    prior: LawPrior,
    point: FloatArray,
    weights: FloatArray,
    misfit: FloatArray,
    trust: FloatArray,
    noise: float,
) -> float:
    """Estimate the misfit of a run; where few are left over, lean on `NOISE`."""
    _, leverage = _laplace(law, prior, point, weights, trust, noise)
    left = max(float(trust.sum() - leverage.sum()), 0.0)
    variance = (float((trust * misfit**2).sum()) + 4.0 * NOISE**2) / (left + 4.0)
    return max(float(np.sqrt(variance)), 1e-4)


def _laplace(
    law: Law,
    prior: LawPrior,
    point: FloatArray,
    weights: FloatArray,
    trust: FloatArray,
    noise: float,
) -> tuple[FloatArray, FloatArray]:
    """Return the parameters' covariance and each run's leverage."""
    slopes = law(point, weights)[1]
    precision = (slopes.T * trust) @ slopes / noise**2 + np.diag(prior.sd**-2.0)
    covariance = np.asarray(np.linalg.inv(precision), dtype=np.float64)
    leverage: FloatArray = trust * np.einsum("ij,jk,ik->i", slopes, covariance, slopes) / noise**2
    return covariance, leverage
