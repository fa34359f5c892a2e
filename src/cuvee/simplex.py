"""Mixture weights as points of the simplex: check, scale, cap, project and round them."""

import numpy as np
import numpy.typing as npt

from cuvee.arrays import FloatArray, IntArray
from cuvee.errors import DataError, InfeasibleError

TOLERANCE = 1e-9
"""How far a row of weights may sum from 1, and how far a bound may be missed."""


def check_weights(weights: npt.ArrayLike, *, n_domains: int) -> None:
    """Refuse weights that are not rows of shares.

    Args:
        weights: (n_runs, n_domains) or (n_domains,) token shares; rows sum to 1.
        n_domains: Number of columns to expect.

    Raises:
        DataError: A row is negative, not finite, of another length, or does not sum to 1.
    """
    rows = np.atleast_2d(np.asarray(weights, dtype=np.float64))
    if rows.ndim != 2 or rows.shape[1] != n_domains:
        raise DataError(
            f"weights have shape {np.shape(weights)}; expected {n_domains} columns, one a domain."
        )
    for row, column in np.argwhere(~np.isfinite(rows) | (rows < 0.0))[:1]:
        raise DataError(
            f"weights row {row} column {column} is {rows[row, column]:g}; weights must be finite "
            "and at least 0. Correct the row or leave it out."
        )
    sums = rows.sum(axis=1)
    for row in np.flatnonzero(np.abs(sums - 1.0) > TOLERANCE)[:1]:
        raise DataError(
            f"weights row {row} sums to {sums[row]:.12g}; rows must sum to 1 (tolerance "
            f"{TOLERANCE:g}). Rescale with simplex.normalise()."
        )


def normalise(values: npt.ArrayLike) -> FloatArray:
    """Divide non-negative values by their sum along the last axis.

    Args:
        values: (..., n_domains) finite, at least 0, each row with a positive sum.

    Returns:
        (..., n_domains) token shares; rows sum to 1.

    Raises:
        DataError: A value is negative or not finite, or a row has no positive value.
    """
    array = np.asarray(values, dtype=np.float64)
    if not np.all(np.isfinite(array)) or np.any(array < 0.0):
        raise DataError("values to normalise must be finite and at least 0; correct them first.")
    largest = array.max(axis=-1, keepdims=True, initial=0.0)
    if np.any(largest <= 0.0):
        raise DataError("values to normalise are all 0; at least one must be positive.")
    scaled = array / largest
    shares: FloatArray = scaled / scaled.sum(axis=-1, keepdims=True)
    return shares


def temper(weights: npt.ArrayLike, temperature: float) -> FloatArray:
    """Flatten or sharpen weights: ``w**T / sum(w**T)``.

    Args:
        weights: (..., n_domains) token shares.
        temperature: Exponent T above 0; below 1 flattens towards uniform. Zero weights stay zero.

    Returns:
        (..., n_domains) token shares; rows sum to 1.
    """
    shares = normalise(weights)
    largest = shares.max(axis=-1, keepdims=True)
    return normalise((shares / largest) ** temperature)


def project(point: npt.ArrayLike, *, lower: npt.ArrayLike, upper: npt.ArrayLike) -> FloatArray:
    """Find the nearest weights within bounds: ``argmin |w - x|`` with ``lower <= w <= upper``.

    The answer is ``clip(x - shift, lower, upper)``. Its sum is piecewise linear in the shift, so
    the shift at which it is 1 is found exactly between two of the 2 n_domains breakpoints.

    Args:
        point: (n_domains,) or (n_rows, n_domains) any finite values.
        lower: (n_domains,) least shares, at least 0.
        upper: (n_domains,) largest shares.

    Returns:
        Weights of the shape of ``point``; rows sum to 1 and keep the bounds.

    Raises:
        InfeasibleError: No weights keep the bounds.
    """
    points = np.asarray(point, dtype=np.float64)
    n_domains = points.shape[-1]
    low = np.broadcast_to(np.asarray(lower, dtype=np.float64), (n_domains,))
    high = np.broadcast_to(np.asarray(upper, dtype=np.float64), (n_domains,))
    _check_bounds(low, high)
    rows = points.reshape(-1, n_domains)
    projected = np.empty_like(rows)
    for start in range(0, len(rows), _CHUNK):
        block = rows[start : start + _CHUNK]
        projected[start : start + _CHUNK] = _project_rows(block, low, high)
    return projected.reshape(points.shape)


def cap(weights: npt.ArrayLike, *, upper: npt.ArrayLike) -> FloatArray:
    """Move the mass above the caps to the other domains, in proportion to their weights.

    Domains at their cap stay there; the rest are scaled up, until all keep their caps. Mass that no
    domain of positive weight can take goes to the rest in proportion to their caps.

    Args:
        weights: (n_domains,) or (n_rows, n_domains) token shares; rows sum to 1.
        upper: (n_domains,) largest shares.

    Returns:
        Weights of the shape of ``weights``; rows sum to 1 and keep the caps.

    Raises:
        InfeasibleError: The caps sum to less than 1.
    """
    shares = np.asarray(weights, dtype=np.float64)
    n_domains = shares.shape[-1]
    high = np.broadcast_to(np.asarray(upper, dtype=np.float64), (n_domains,))
    _check_bounds(np.zeros(n_domains), high)
    rows = normalise(shares).reshape(-1, n_domains)
    return _cap_rows(rows, high).reshape(shares.shape)


def supply_caps(
    available_tokens: npt.ArrayLike, *, max_epochs: npt.ArrayLike, n_tokens: int
) -> FloatArray:
    """Return the largest share of each domain that its text allows: ``min(E_i N_i / B, 1)``.

    Args:
        available_tokens: (n_domains,) tokens N_i of the real pool.
        max_epochs: Epoch limit E_i, one for all or (n_domains,).
        n_tokens: Target token budget B.

    Returns:
        (n_domains,) caps in (0, 1].

    Raises:
        DataError: The budget or an epoch limit is not positive.
        InfeasibleError: All domains together, repeated to their limits, hold less than the budget.
    """
    limits = np.asarray(max_epochs, dtype=np.float64)
    if n_tokens <= 0 or np.any(~(limits > 0.0)):
        raise DataError(
            f"token budget {n_tokens} and epoch limits {limits.tolist()} must be positive."
        )
    supply = limits * np.asarray(available_tokens, dtype=np.float64)
    if supply.sum() < n_tokens:
        raise InfeasibleError(
            f"the pool holds {supply.sum():.0f} tokens when repeated to its epoch limits, fewer "
            f"than the target budget of {n_tokens}. Lower the budget, allow more epochs or add "
            "text."
        )
    return np.minimum(supply / n_tokens, 1.0)


def sample_dirichlet(
    concentration: npt.ArrayLike, *, n: int, rng: np.random.Generator
) -> FloatArray:
    """Draw weights from Dirichlet distributions, exact for concentrations near 0.

    Gamma values of small shape underflow, so their logarithms are drawn:
    ``log Gamma(a) = log Gamma(a + 1) + log(U) / a``.

    Args:
        concentration: (n_domains,) or (n, n_domains) at least 0; a domain of 0 gets no weight.
        n: Number of draws.
        rng: Source of the draws.

    Returns:
        (n, n_domains) token shares; rows sum to 1.

    Raises:
        DataError: A concentration is negative or a row has none above 0.
    """
    shape = np.atleast_2d(np.asarray(concentration, dtype=np.float64))
    shape = np.broadcast_to(shape, (n, shape.shape[1]))
    if not np.all(shape >= 0.0) or np.any(shape.max(axis=1, initial=0.0) <= 0.0):
        raise DataError(
            "concentrations must be at least 0 and one in each row positive; they are prior shares "
            "times a strength."
        )
    positive = shape > 0.0
    safe = np.where(positive, shape, 1.0)
    logs = np.log(rng.standard_gamma(safe + 1.0)) - rng.standard_exponential(shape.shape) / safe
    logs = np.where(positive, logs, -np.inf)
    return normalise(np.exp(logs - logs.max(axis=1, keepdims=True, initial=-np.inf)))


def largest_remainder(weights: npt.ArrayLike, n_units: int) -> IntArray:
    """Apportion whole units to shares; every quota is within one unit of its exact value.

    Args:
        weights: (n_domains,) token shares; sum to 1.
        n_units: Units to hand out, at least 0.

    Returns:
        (n_domains,) quotas that sum to ``n_units``; ties go to the lower index.

    Example:
        >>> largest_remainder([0.5, 0.25, 0.25], 5).tolist()
        [3, 1, 1]
    """
    exact = normalise(weights) * n_units
    # A share that is whole but for rounding of its last bits must not lose its unit.
    slack = 4.0 * np.finfo(np.float64).eps * max(n_units, 1)
    quotas: IntArray = np.floor(exact + slack).astype(np.int64)
    missing = n_units - int(quotas.sum())
    remainders = np.round((exact - quotas) / slack) * slack
    for position in np.argsort(-remainders, kind="stable")[: max(missing, 0)]:
        quotas[position] += 1
    for position in np.argsort(remainders, kind="stable")[: max(-missing, 0)]:
        quotas[position] -= 1
    return quotas


_CHUNK = 8192


def _check_bounds(lower: FloatArray, upper: FloatArray) -> None:
    for position in np.flatnonzero(~(lower <= upper))[:1]:
        raise InfeasibleError(
            f"bound {position} has lower {lower[position]:g} above upper {upper[position]:g}; "
            "lower bounds must not exceed upper bounds."
        )
    if lower.sum() > 1.0 + TOLERANCE:
        raise InfeasibleError(
            f"lower bounds sum to {lower.sum():.12g}; they must sum to at most 1. Lower some "
            "of them."
        )
    if upper.sum() < 1.0 - TOLERANCE:
        raise InfeasibleError(
            f"upper bounds sum to {upper.sum():.12g}; they must sum to at least 1. Raise some of "
            "them: allow more epochs, lower the token budget or add text."
        )


def _project_rows(points: FloatArray, lower: FloatArray, upper: FloatArray) -> FloatArray:
    """Solve ``sum clip(x - shift, lower, upper) = 1`` for each row's shift."""
    breaks = np.sort(np.concatenate([points - lower, points - upper], axis=1), axis=1)
    first = np.zeros(len(points), dtype=np.int64)
    last = np.full(len(points), breaks.shape[1] - 1, dtype=np.int64)
    rows = np.arange(len(points))
    while np.any(last - first > 1):
        middle = (first + last) // 2
        sums = np.clip(points - breaks[rows, middle][:, None], lower, upper).sum(axis=1)
        first = np.where(sums >= 1.0, middle, first)
        last = np.where(sums >= 1.0, last, middle)
    left, right = breaks[rows, first], breaks[rows, last]
    sum_left = np.clip(points - left[:, None], lower, upper).sum(axis=1)
    sum_right = np.clip(points - right[:, None], lower, upper).sum(axis=1)
    fall = sum_left - sum_right
    fraction = np.clip((sum_left - 1.0) / np.where(fall > 0.0, fall, 1.0), 0.0, 1.0)
    shift = left + fraction * (right - left)
    clipped: FloatArray = np.clip(points - shift[:, None], lower, upper)
    return _settle(clipped, lower, upper)


def _settle(weights: FloatArray, lower: FloatArray, upper: FloatArray) -> FloatArray:
    """Spread what rounding left of the sum over the room inside the bounds."""
    excess = weights.sum(axis=1, keepdims=True) - 1.0
    room = np.where(excess > 0.0, weights - lower, upper - weights)
    total = room.sum(axis=1, keepdims=True)
    share = np.clip(np.abs(excess) / np.where(total > 0.0, total, 1.0), 0.0, 1.0)
    settled: FloatArray = np.clip(weights - np.sign(excess) * share * room, lower, upper)
    return settled


def _cap_rows(weights: FloatArray, upper: FloatArray) -> FloatArray:
    capped = np.minimum(weights, upper)
    fixed = weights >= upper
    for _ in range(len(upper)):
        free = ~fixed & (weights > 0.0)
        left = 1.0 - np.where(fixed, capped, 0.0).sum(axis=1, keepdims=True)
        total = np.where(free, weights, 0.0).sum(axis=1, keepdims=True)
        with np.errstate(over="ignore"):
            scaled = weights * (left / np.where(total > 0.0, total, 1.0))
        over = free & (scaled > upper)
        capped = np.where(free, np.minimum(scaled, upper), capped)
        if not over.any():
            break
        fixed |= over
    return _settle(capped, np.zeros_like(upper), upper)
