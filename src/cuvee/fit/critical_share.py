"""How much of a new domain a model can take before it loses the old ones.

On the original domains' validation text the loss after a horizon of continued training is
``L(x) = c + A exp(t x)`` in the share x of the new domains, A at least 0; the critical share is
where it equals the base model's own loss: ``x* = ln((L_0 - c) / A) / t``.

Source: Data Mixing Laws (arXiv:2403.16952), continual pre-training and the critical mixture
proportion.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from cuvee.arrays import BoolArray, FloatArray
from cuvee.errors import DataError

MINIMUM_SHARES = 4
_RATES = np.concatenate([-np.geomspace(30.0, 0.02, 200), np.geomspace(0.02, 30.0, 200)])
_REFINE = 40
_FAR = 6.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ShareLaw:
    """``c + A exp(t x)``, fitted."""

    floor: float
    """c"""
    amplitude: float
    """A"""
    rate: float
    """t"""
    covariance: FloatArray
    """(3, 3) of c, A and t."""
    residual_sd: float
    """Misfit of a run."""
    n_runs: int

    def predict(self, shares: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Predict losses.

        Args:
            shares: (n,) of the new domains.

        Returns:
            Mean and standard deviation of a new run, both (n,).
        """
        x = np.asarray(shares, dtype=np.float64)
        growth = np.exp(self.rate * x)
        along = np.stack([np.ones_like(x), growth, self.amplitude * x * growth], axis=1)
        doubt = np.einsum("ni,ij,nj->n", along, self.covariance, along)
        sd = np.sqrt(np.maximum(doubt, 0.0) + self.residual_sd**2)
        return self.floor + self.amplitude * growth, sd


@dataclass(frozen=True, kw_only=True, slots=True)
class CriticalShare:
    """Where the law meets the base model's loss, at one horizon."""

    n_tokens: int
    """The horizon: tokens trained on beyond the base."""
    base_loss: float
    status: Literal["inside", "below", "above"]
    """inside: there is a critical share. below: even without the new domains the model is worse
    than the base. above: even with nothing else it is not."""
    share: float
    """The critical share; 0 below, 1 above."""
    low: float
    """A single new run with less of the new domains is better than the base (95%)."""
    high: float
    """A single new run with more of them is worse than the base (95%)."""
    law: ShareLaw
    left_out: tuple[float, ...]
    """Shares whose runs the law cannot follow, most often 1, where nothing of the old is left."""


def share_law_that_holds(
    shares: FloatArray, losses: FloatArray
) -> tuple[ShareLaw, tuple[float, ...]]:
    """Fit the law where it holds: shares that all others miss by far are left out, one by one.

    An exponential in the share is finite where nothing of the old domains is left; the loss there
    is of another kind. A share is left out when it lies beyond six standard deviations of what the
    others predict for it, and enough shares remain.

    Args:
        shares: (n_runs,) in [0, 1].
        losses: (n_runs,) finite.

    Returns:
        The law, and the shares left out.

    Raises:
        DataError: As `fit_share_law`.
    """
    left_out: list[float] = []
    kept = np.ones(len(shares), dtype=np.bool_)
    rungs = np.asarray(shares).round(6)
    while True:
        law = fit_share_law(shares[kept], losses[kept])
        worst, worst_share = _FAR, None
        for share in np.unique(rungs[kept]):
            others = kept & (rungs != share)
            if len(np.unique(rungs[others])) <= MINIMUM_SHARES:
                break
            mine = kept & (rungs == share)
            mean, sd = fit_share_law(shares[others], losses[others]).predict(shares[mine])
            missed = float(np.abs(losses[mine] - mean).mean() / sd.mean())
            if missed > worst:
                worst, worst_share = missed, float(share)
        if worst_share is None:
            return law, tuple(left_out)
        left_out.append(worst_share)
        kept &= rungs != worst_share


def fit_share_law(shares: FloatArray, losses: FloatArray) -> ShareLaw:
    """Fit the law to runs of several shares.

    Given t the rest is a straight line, so the fit is one search along t.

    Args:
        shares: (n_runs,) in [0, 1]; at least 4 different ones.
        losses: (n_runs,) finite.

    Returns:
        The law.

    Raises:
        DataError: There are too few shares, or a loss is not finite.
    """
    x, y = np.asarray(shares, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    n_shares = len(np.unique(x.round(6)))
    if n_shares < MINIMUM_SHARES or x.shape != y.shape:
        raise DataError(
            f"{len(y)} losses at {n_shares} different shares; a law of three parameters needs at "
            f"least {MINIMUM_SHARES} shares. Measure more of them."
        )
    if not np.isfinite(y).all():
        raise DataError("a loss is not finite. Leave diverged runs out.")
    costs = [_line(x, y, float(rate))[2] for rate in _RATES]
    place = int(np.clip(np.argmin(costs), 1, len(_RATES) - 2))
    low, high = float(_RATES[place - 1]), float(_RATES[place + 1])
    golden = 0.5 * (5.0**0.5 - 1.0)
    for _ in range(_REFINE):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if _line(x, y, left)[2] < _line(x, y, right)[2]:
            high = right
        else:
            low = left
    rate = 0.5 * (low + high)
    floor, amplitude, squares = _line(x, y, rate)
    growth = np.exp(rate * x)
    along = np.stack([np.ones_like(x), growth, amplitude * x * growth], axis=1)
    variance = squares / max(len(x) - 3, 1)
    information = along.T @ along
    information += 1e-10 * np.trace(information) * np.eye(3)
    return ShareLaw(
        floor=floor,
        amplitude=amplitude,
        rate=rate,
        covariance=np.asarray(variance * np.linalg.inv(information), dtype=np.float64),
        residual_sd=float(np.sqrt(variance)),
        n_runs=len(x),
    )


def critical_share(
    shares: FloatArray,
    losses: FloatArray,
    *,
    base_loss: float,
    n_tokens: int,
    confidence: float = 0.95,
) -> CriticalShare:
    """Find the share at which continued training leaves the old domains' loss as it was.

    The ends of the interval are where a single new run would be better or worse than the base with
    the given confidence each, by the law's uncertainty, the runs' scatter, and Student's quantile
    for the runs that are left over.

    Args:
        shares: (n_runs,) of the new domains.
        losses: (n_runs,) on the original domains' validation text.
        base_loss: The base model's own.
        n_tokens: The horizon.
        confidence: Of either end.

    Returns:
        The critical share with its interval, clipped to [0, 1].

    Raises:
        DataError: As `fit_share_law`.
    """
    law, left_out = share_law_that_holds(np.asarray(shares), np.asarray(losses))
    grid = np.linspace(0.0, 1.0, 2001)
    mean, sd = law.predict(grid)
    wide = float(stats.t.ppf(confidence, max(law.n_runs - 3, 1))) * sd
    status: Literal["inside", "below", "above"] = "inside"
    if mean[0] >= base_loss:
        status = "below"
    elif mean.max() <= base_loss:
        status = "above"
    return CriticalShare(
        n_tokens=n_tokens,
        base_loss=base_loss,
        status=status,
        share=_first(grid, mean >= base_loss),
        low=_first(grid, mean + wide >= base_loss),
        high=_first(grid, mean - wide >= base_loss),
        law=law,
        left_out=left_out,
    )


def _first(grid: FloatArray, reached: BoolArray) -> float:
    """Return the first share that reaches the base's loss, 1 where none does."""
    return float(grid[int(np.argmax(reached))]) if reached.any() else 1.0


def _line(x: FloatArray, y: FloatArray, rate: float) -> tuple[float, float, float]:
    """Fit floor and amplitude, the latter at least 0, and return them with the squares left."""
    growth = np.exp(rate * x)
    centred = growth - growth.mean()
    spread = float(centred @ centred)
    amplitude = max(float(centred @ y) / spread, 0.0) if spread > 0.0 else 0.0
    floor = float(y.mean() - amplitude * growth.mean())
    misfit = y - floor - amplitude * growth
    return floor, amplitude, float(misfit @ misfit)
