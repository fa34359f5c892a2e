"""Power laws with a floor, many at once: the step law of a run and the size law of a mixture.

Both are ``L(x) = E + B (x / x_last)^(-g)`` with E and B at least 0: for x tokens the step law of
Data Mixing Laws (arXiv:2403.16952), for x parameters its size law. Given the exponent the rest is a
least-squares problem of two unknowns with a closed form, so the fit is one search along g for all
series together (variable projection) instead of restarts from random places.
"""

import logging
from dataclasses import dataclass

import numpy as np

from cuvee.arrays import BoolArray, FloatArray
from cuvee.errors import DataError

logger = logging.getLogger(__name__)

EXPONENT_CENTRE = 0.5
"""Centre of the exponent's prior: where a third of a run is seen, a free one is arbitrary."""
EXPONENT_WIDTH = 0.5
"""Its width, in units of log exponent."""
MINIMUM_POINTS = 3
_GRID = np.geomspace(0.02, 4.0, 81)
_ROUNDS, _MAX_ROUNDS = 4, 12
_SETTLED = 0.02
"""A fit is done when no point moves by more than this share of the misfit in a round."""
_REFINE = 24
_HUBER = 2.0
_OUTLIER = 5.0
_MANY_POINTS = 8
"""With fewer, three parameters pass so close to most points that the rest tell neither the usual
misfit nor whether neighbours miss to the same side."""
_MAX_SERIAL = 0.9
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
    """(n_series, 3, 3) of E, B and log g (Laplace), widened where neighbours miss alike."""
    converged: BoolArray
    """(n_series,) False where the weights of the points did not settle."""
    outliers: tuple[tuple[int, int], ...]
    """(series, point) pairs missed by more than five robust standard deviations."""

    @property
    def scale(self) -> FloatArray:
        """(n_series,) x_0 of the law written E + (x_0 / x)^g; 0 where the losses do not fall."""
        with np.errstate(divide="ignore"):
            logs = np.log(self.amplitude) / self.exponent
        return np.asarray(self.last * np.exp(np.minimum(logs, 600.0)), dtype=np.float64)

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
    kept: BoolArray | None = None,
    centre: float = EXPONENT_CENTRE,
    width: float = EXPONENT_WIDTH,
) -> PowerLaws:
    """Fit one law to each series.

    The exponent has a normal prior in its logarithm. Points far off are weighed down as Huber does.

    Args:
        x: (n_points,) tokens or parameters, rising, the same for all series.
        losses: (n_series, n_points) finite where kept.
        kept: (n_points,) or (n_series, n_points) False for points to be left out, such as those of
            the warm-up (`constant_phase`); None: all are kept.
        centre: Centre of the exponent's prior.
        width: Width of its logarithm's.

    Returns:
        The laws.

    Raises:
        DataError: A series keeps fewer than 3 points, x does not rise, or a loss is not finite.
    """
    points, values = np.asarray(x, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    mask = _check(points, values, kept)
    values = np.where(mask, values, 0.0)
    log_ratio = np.log(points) - np.log(points[-1])
    trust = mask.astype(np.float64)
    noise, fitted = _first_noise(values, trust), np.zeros_like(values)
    for turn in range(_MAX_ROUNDS):
        exponent = _best_exponent(log_ratio, values, trust, noise, centre=centre, width=width)
        floor, amplitude, _ = _project(log_ratio, values, trust, exponent)
        before = fitted
        fitted = floor[:, None] + amplitude[:, None] * np.exp(-exponent[:, None] * log_ratio)
        misfit = np.where(mask, values - fitted, 0.0)
        noise = _noise(misfit, trust, values)
        usual = _usual_misfit(misfit, mask, values, noise)[:, None]
        excess = np.abs(misfit) / (_HUBER * usual)
        trust = np.where(mask, 1.0 / np.maximum(1.0, excess), 0.0)
        settled: BoolArray = (mask * np.abs(fitted - before)).max(axis=1) <= _SETTLED * noise
        if turn + 1 >= _ROUNDS and settled.all():
            break
    else:
        logger.warning("%d of %d power laws did not settle", np.sum(~settled), len(settled))
    covariance = _covariance(log_ratio, amplitude, exponent, trust, noise, width=width)
    outliers = np.argwhere(np.abs(misfit) > _OUTLIER * usual)
    return PowerLaws(
        last=float(points[-1]),
        floor=floor,
        amplitude=amplitude,
        exponent=exponent,
        residual_sd=noise,
        covariance=covariance * _serial(trust * misfit, mask)[:, None, None],
        converged=settled,
        outliers=tuple((int(series), int(point)) for series, point in outliers),
    )


def constant_phase(
    n_tokens: FloatArray, *, warmup_tokens: float, schedule: str, only_ends: bool = False
) -> BoolArray:
    """Tell which points of a run may enter a step law: those after warm-up, at a constant rate.

    Args:
        n_tokens: (n_points,) tokens at each point.
        warmup_tokens: Tokens of the warm-up.
        schedule: ``constant`` or ``cosine``.
        only_ends: Each point is the end of a run of its own, so that its schedule had run out.

    Returns:
        (n_points,) True where a point may enter.

    Raises:
        DataError: The rate decays: a point of such a run does not stand for a shorter run.
    """
    if schedule != "constant" and not only_ends:
        raise DataError(
            f"schedule is {schedule!r}; points along a decaying learning rate do not stand for "
            "shorter runs, so no step law can be fitted. Train with schedule: constant, or give "
            "only final losses of runs of several lengths."
        )
    kept: BoolArray = np.asarray(n_tokens > 2.0 * warmup_tokens)
    return kept


def _check(points: FloatArray, values: FloatArray, kept: BoolArray | None) -> BoolArray:
    if points.ndim != 1 or values.ndim != 2 or values.shape[1] != len(points):
        raise DataError(
            f"x has shape {points.shape} and losses {values.shape}; expected (n_points,) and "
            "(n_series, n_points)."
        )
    if kept is not None and kept.shape not in (points.shape, values.shape):
        raise DataError(f"kept has shape {kept.shape}; expected {points.shape} or {values.shape}.")
    mask: BoolArray = np.broadcast_to(True if kept is None else kept, values.shape)
    fewest = int(mask.sum(axis=1).min(initial=len(points)))
    if fewest < MINIMUM_POINTS:
        raise DataError(
            f"a power law with a floor needs at least {MINIMUM_POINTS} points; found "
            f"{fewest}. Measure more points."
        )
    if not np.all(points > 0) or np.any(np.diff(points) <= 0):
        raise DataError(f"x is {points.tolist()}; it must be above 0 and rise.")
    for series, point in np.argwhere(mask & ~np.isfinite(values))[:1]:
        raise DataError(
            f"loss of series {series} at point {point} is {values[series, point]}; losses must be "
            "finite. Leave diverged runs out."
        )
    return mask


def _first_noise(values: FloatArray, trust: FloatArray) -> FloatArray:
    mean = np.sum(trust * np.abs(values), axis=1) / trust.sum(axis=1)
    return np.asarray(np.maximum(_PRIOR_NOISE * mean, 1e-12), dtype=np.float64)


def _usual_misfit(
    misfit: FloatArray, mask: BoolArray, values: FloatArray, noise: FloatArray
) -> FloatArray:
    """Return the misfit by its median, which one broken point does not move."""
    n_points = mask.sum(axis=1)
    middle = np.nanmedian(np.where(mask, np.abs(misfit), np.nan), axis=1)
    robust = 1.4826 * middle * np.sqrt(n_points / np.maximum(n_points - 3, 1))
    least = 0.1 * _first_noise(values, mask.astype(np.float64))
    return np.asarray(np.where(n_points >= _MANY_POINTS, np.maximum(robust, least), noise))


def _serial(misfit: FloatArray, mask: BoolArray) -> FloatArray:
    """Return how much less the points tell than independent ones: (1 + r) / (1 - r).

    r is the correlation of neighbouring misfits, pooled over series: a law of the wrong shape
    misses by long waves, and thirty points on one wave are not thirty witnesses.
    """
    n_points = mask.sum(axis=1)
    pairs = np.sum(misfit[:, 1:] * misfit[:, :-1])
    squares = np.sum(misfit**2)
    close = int(np.median(n_points)) >= _MANY_POINTS and squares > 0.0
    r = float(np.clip(pairs / squares, 0.0, _MAX_SERIAL)) if close else 0.0
    return np.full(len(misfit), (1.0 + r) / (1.0 - r))


def _noise(misfit: FloatArray, trust: FloatArray, values: FloatArray) -> FloatArray:
    """Estimate each series' misfit; a weak prior stands in where few points are left over."""
    left = np.maximum(trust.sum(axis=1) - 2.5, 0.0)
    prior = _first_noise(values, trust) ** 2
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

    costs = _grid_squares(log_ratio, values, trust) / noise[:, None] ** 2
    costs = costs.T + ((np.log(_GRID) - np.log(centre)) / width)[:, None] ** 2
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
    weighed = trust * decay
    floor, amplitude = _solve(
        trust.sum(axis=1),
        weighed.sum(axis=1),
        (weighed * decay).sum(axis=1),
        (trust * values).sum(axis=1),
        (weighed * values).sum(axis=1),
    )
    misfit = values - floor[:, None] - amplitude[:, None] * decay
    return floor, amplitude, (trust * misfit**2).sum(axis=1)


def _grid_squares(log_ratio: FloatArray, values: FloatArray, trust: FloatArray) -> FloatArray:
    """Return the (n_series, n_grid) least squares at every exponent of the grid."""
    decay = np.exp(-np.outer(log_ratio, _GRID))
    # The level has no part in the squares; taken out, it costs no digits.
    level = (trust * values).sum(axis=1, keepdims=True) / trust.sum(axis=1, keepdims=True)
    apart = np.where(trust > 0.0, values - level, 0.0)
    mass, s1, s2 = trust.sum(axis=1, keepdims=True), trust @ decay, trust @ decay**2
    floor, amplitude = _solve(mass, s1, s2, mass * level, (trust * apart) @ decay + level * s1)
    below, y1 = floor - level, (trust * apart) @ decay
    squares = (trust * apart**2).sum(axis=1, keepdims=True) + below**2 * mass
    squares = squares + amplitude * (amplitude * s2 + 2.0 * below * s1 - 2.0 * y1)
    return np.asarray(np.maximum(squares, 0.0), dtype=np.float64)


def _solve(
    mass: FloatArray, s1: FloatArray, s2: FloatArray, y0: FloatArray, y1: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Solve the normal equations of floor and amplitude under their bounds.

    Two unknowns: where one leaves its bound it is 0 and the other has its own solution.
    """
    determinant = np.maximum(mass * s2 - s1**2, 1e-300)
    floor, amplitude = (s2 * y0 - s1 * y1) / determinant, (mass * y1 - s1 * y0) / determinant
    flat, free = amplitude < 0.0, floor < 0.0
    return (
        np.where(flat, np.maximum(y0 / mass, 0.0), np.where(free, 0.0, floor)),
        np.where(flat, 0.0, np.where(free, np.maximum(y1 / s2, 0.0), amplitude)),
    )


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
