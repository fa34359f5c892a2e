"""Power laws with a floor, many at once: the step law of a run and the size law of a mixture.

Both are ``L(x) = E + B (x / x_last)^(-g)`` with E and B at least 0: for x tokens the step law of
Data Mixing Laws (arXiv:2403.16952), for x parameters its size law. Given the exponent the rest is a
least-squares problem of two unknowns with a closed form, so the fit is one search along g for all
series together (variable projection) instead of restarts from random places.
"""

from dataclasses import dataclass

import numpy as np

from cuvee.arrays import BoolArray, FloatArray
from cuvee.errors import DataError

EXPONENT_CENTRE = 0.5
"""Centre of the exponent's prior: where a third of a run is seen, a free one is arbitrary."""
EXPONENT_WIDTH = 0.5
"""Its width, in units of log exponent."""
MINIMUM_POINTS = 3
_GRID = np.geomspace(0.02, 4.0, 81)
_ROUNDS = 4
_REFINE = 24
_HUBER = 2.0
_OUTLIER = 4.0
_PRIOR_NOISE = 0.003
"""Misfit of a well-behaved series as a share of its loss, where its points tell no more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerLaws:
    """Fitted laws of many series."""

    last: float
    """Largest x of the fit: the unit of x."""
    floor: FloatArray
    """(n_series,) E, the loss that more x does not take away."""
    amplitude: FloatArray
    """(n_series,) B, what it takes away at the unit."""
    exponent: FloatArray
    """(n_series,) g."""
    residual_sd: FloatArray
    """(n_series,) misfit of a point."""
    covariance: FloatArray
    """(n_series, 3, 3) of E, B and log g (Laplace)."""
    outliers: tuple[tuple[int, int], ...]
    """(series, point) pairs missed by more than four robust standard deviations."""

    def predict(self, x: FloatArray | float) -> tuple[FloatArray, FloatArray]:
        """Predict the losses at other x.

        Args:
            x: (n_series,) or one number; in the unit of the fit's x.

        Returns:
            Mean and standard deviation of a new measurement, both (n_series,).
        """
        ratio = np.log(np.broadcast_to(np.asarray(x, dtype=np.float64), self.floor.shape))
        ratio = ratio - np.log(self.last)
        decay = np.exp(-self.exponent * ratio)
        mean = self.floor + self.amplitude * decay
        along = np.stack(
            [np.ones_like(decay), decay, -self.amplitude * decay * ratio * self.exponent], axis=1
        )
        doubt = np.einsum("si,sij,sj->s", along, self.covariance, along)
        return mean, np.sqrt(np.maximum(doubt, 0.0) + self.residual_sd**2)


def fit_power_laws(
    x: FloatArray,
    losses: FloatArray,
    *,
    centre: float = EXPONENT_CENTRE,
    width: float = EXPONENT_WIDTH,
) -> PowerLaws:
    """Fit one law to each series.

    The exponent has a normal prior in its logarithm. Points far off are weighed down as Huber does.

    Args:
        x: (n_points,) tokens or parameters, rising, the same for all series.
        losses: (n_series, n_points) finite.
        centre: Centre of the exponent's prior.
        width: Width of its logarithm's.

    Returns:
        The laws.

    Raises:
        DataError: There are fewer than 3 points, x does not rise, or a loss is not finite.
    """
    points, values = np.asarray(x, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    _check(points, values)
    log_ratio = np.log(points) - np.log(points[-1])
    trust = np.ones_like(values)
    noise = _first_noise(values)
    for _ in range(_ROUNDS):
        exponent = _best_exponent(log_ratio, values, trust, noise, centre=centre, width=width)
        floor, amplitude, _ = _project(log_ratio, values, trust, exponent)
        fitted = floor[:, None] + amplitude[:, None] * np.exp(-exponent[:, None] * log_ratio)
        misfit = values - fitted
        noise = _noise(misfit, trust, values)
        trust = np.minimum(1.0, _HUBER * noise[:, None] / np.maximum(np.abs(misfit), 1e-300))
    far = np.argwhere(np.abs(misfit) > _OUTLIER * noise[:, None])
    return PowerLaws(
        last=float(points[-1]),
        floor=floor,
        amplitude=amplitude,
        exponent=exponent,
        residual_sd=noise,
        covariance=_covariance(log_ratio, amplitude, exponent, trust, noise, width=width),
        outliers=tuple((int(series), int(point)) for series, point in far),
    )


def constant_phase(n_tokens: FloatArray, *, warmup_tokens: float, schedule: str) -> BoolArray:
    """Tell which points of a run may enter a step law: those after warm-up, at a constant rate.

    Args:
        n_tokens: (n_points,) tokens at each point.
        warmup_tokens: Tokens of the warm-up.
        schedule: ``constant`` or ``cosine``.

    Raises:
        DataError: The rate decays: a point of such a run does not stand for a shorter run.
    """
    if schedule != "constant":
        raise DataError(
            f"schedule is {schedule!r}; points along a decaying learning rate do not stand for "
            "shorter runs, so no step law can be fitted. Train with schedule: constant, or give "
            "only final losses of runs of several lengths."
        )
    kept: BoolArray = np.asarray(n_tokens > 2.0 * warmup_tokens)
    return kept


def _check(points: FloatArray, values: FloatArray) -> None:
    if points.ndim != 1 or values.ndim != 2 or values.shape[1] != len(points):
        raise DataError(
            f"x has shape {points.shape} and losses {values.shape}; expected (n_points,) and "
            "(n_series, n_points)."
        )
    if len(points) < MINIMUM_POINTS:
        raise DataError(
            f"a power law with a floor needs at least {MINIMUM_POINTS} points; found "
            f"{len(points)}. Measure more points."
        )
    if not np.all(points > 0) or np.any(np.diff(points) <= 0):
        raise DataError(f"x is {points.tolist()}; it must be above 0 and rise.")
    for series, point in np.argwhere(~np.isfinite(values))[:1]:
        raise DataError(
            f"loss of series {series} at point {point} is {values[series, point]}; losses must be "
            "finite. Leave diverged runs out."
        )


def _first_noise(values: FloatArray) -> FloatArray:
    noise: FloatArray = np.maximum(_PRIOR_NOISE * np.abs(values).mean(axis=1), 1e-12)
    return noise


def _noise(misfit: FloatArray, trust: FloatArray, values: FloatArray) -> FloatArray:
    """Estimate each series' misfit; a weak prior stands in where few points are left over."""
    left = np.maximum(trust.sum(axis=1) - 2.5, 0.0)
    prior = (_PRIOR_NOISE * np.abs(values).mean(axis=1)) ** 2
    variance = ((trust * misfit**2).sum(axis=1) + 2.0 * prior) / (left + 2.0)
    noise: FloatArray = np.sqrt(np.maximum(variance, 1e-24))
    return noise


def _best_exponent(
    log_ratio: FloatArray,
    values: FloatArray,
    trust: FloatArray,
    noise: FloatArray,
    *,
    centre: float,
    width: float,
) -> FloatArray:
    """Search each series' exponent: the best of a grid, then golden section between neighbours."""

    def cost(exponent: FloatArray) -> FloatArray:
        _, _, squares = _project(log_ratio, values, trust, exponent)
        pull = ((np.log(exponent) - np.log(centre)) / width) ** 2
        total: FloatArray = squares / noise**2 + pull
        return total

    costs = np.stack([cost(np.full(len(values), one)) for one in _GRID])
    best = np.clip(costs.argmin(axis=0), 1, len(_GRID) - 2)
    low, high = np.log(_GRID[best - 1]), np.log(_GRID[best + 1])
    golden = 0.5 * (5.0**0.5 - 1.0)
    for _ in range(_REFINE):
        left, right = high - golden * (high - low), low + golden * (high - low)
        lower = cost(np.exp(left)) < cost(np.exp(right))
        low, high = np.where(lower, low, left), np.where(lower, right, high)
    return np.asarray(np.exp(0.5 * (low + high)), dtype=np.float64)


def _project(
    log_ratio: FloatArray, values: FloatArray, trust: FloatArray, exponent: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Solve for floor and amplitude, both at least 0, at given exponents; also return squares."""
    decay = np.exp(-exponent[:, None] * log_ratio)
    mass = trust.sum(axis=1)
    s1, s2 = (trust * decay).sum(axis=1), (trust * decay**2).sum(axis=1)
    y0, y1 = (trust * values).sum(axis=1), (trust * values * decay).sum(axis=1)
    determinant = np.maximum(mass * s2 - s1**2, 1e-300)
    floor, amplitude = (s2 * y0 - s1 * y1) / determinant, (mass * y1 - s1 * y0) / determinant
    # Two unknowns: where one leaves its bound it is 0 and the other has its own solution.
    flat, free = amplitude < 0.0, floor < 0.0
    floor, amplitude = (
        np.where(flat, np.maximum(y0 / mass, 0.0), np.where(free, 0.0, floor)),
        np.where(flat, 0.0, np.where(free, np.maximum(y1 / s2, 0.0), amplitude)),
    )
    misfit = values - floor[:, None] - amplitude[:, None] * decay
    return floor, amplitude, (trust * misfit**2).sum(axis=1)


def _covariance(
    log_ratio: FloatArray,
    amplitude: FloatArray,
    exponent: FloatArray,
    trust: FloatArray,
    noise: FloatArray,
    *,
    width: float,
) -> FloatArray:
    decay = np.exp(-exponent[:, None] * log_ratio)
    along = np.stack(
        [
            np.ones_like(decay),
            decay,
            -amplitude[:, None] * decay * log_ratio * exponent[:, None],
        ],
        axis=2,
    )
    precision = np.einsum("sp,spi,spj->sij", trust, along, along) / noise[:, None, None] ** 2
    precision[:, 2, 2] += width**-2.0
    precision[:, [0, 1], [0, 1]] += 1e-9 * precision[:, :1, 0]
    return np.asarray(np.linalg.inv(precision), dtype=np.float64)
