"""Mixtures that leave the least doubt: I-optimal for a Gaussian-process prior over losses.

The prior is what few runs can be expected to show: a target's loss falls with the logarithm of the
shares, of its own domain most, plus something smooth. Each mixture is chosen so that, once all are
measured, the prior's variance over the mixtures of interest, summed over targets, is small.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from cuvee.arrays import BoolArray, FloatArray, IntArray
from cuvee.design.dirichlet import DUPLICATE_DISTANCE, DesignConfig, sample_mixtures
from cuvee.design.own_domains import own_table
from cuvee.errors import ConfigError, InfeasibleError
from cuvee.simplex import TOLERANCE, cap, check_weights, normalise
from cuvee.tables.design import Design

_EPS = 0.002
_LEVEL = 4.0
_SLOPE_OWN, _SLOPE_OTHER = 1.34, 0.1
_PLAIN = 0.3
_SMOOTH = 0.5
_LENGTH_OWN, _LENGTH_OTHER = 1.0, float(np.e)
_NOISE = 0.01
"""Variances and lengths in units of a target's spread: the centres of what
`fit.shared_prior.Layout` learns, which this cannot import."""
_OVERSAMPLE = 8
"""Many candidates are wanted, so few draws for each find them."""
_FIRST_AMONG, _NEXT_AMONG = 20, 2
_VERTEX_SHARES = (0.35, 0.7, 0.95)
_FACTORS = (0.0, 0.25, 4.0)
_STEP = 0.25
_LEAST_REST = 0.05
"""A domain with more than all but this is not taken away."""
_LEAST_GAIN = 1e-3

Kinds: TypeAlias = tuple[BoolArray, FloatArray]
"""(n_kinds, n_domains) own domains that some target has, and (n_kinds,) how many targets do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimalConfig(DesignConfig):
    """How the measured mixtures are chosen; candidates and region are drawn as the base says."""

    n_candidates: int = 1000
    """Mixtures drawn to choose from, beside those near vertices."""
    n_reference: int = 256
    """Mixtures drawn that the design is to make predictable."""
    n_sweeps: int = 2
    """Times every chosen mixture is moved to where it tells more, at least 0."""

    def __post_init__(self) -> None:
        DesignConfig.__post_init__(self)
        if self.n_candidates < 1 or self.n_reference < 1 or self.n_sweeps < 0:
            raise ConfigError(
                f"n_candidates is {self.n_candidates}, n_reference {self.n_reference} and n_sweeps "
                f"{self.n_sweeps}; they must be at least 1, 1 and 0."
            )


def i_optimal_rows(
    weights: FloatArray,
    *,
    n: int,
    own_columns: tuple[int | None, ...],
    rng: np.random.Generator,
    candidates: IntArray | None = None,
    reference: FloatArray | None = None,
) -> IntArray:
    """Choose the rows of a given pool that are worth measuring.

    Greedy: the row i that maximises ``sum_j sum_x C_j(x, i)^2 / (C_j(i, i) + noise)`` over targets
    j and reference mixtures x is taken, and every C_j conditioned on it. The first is drawn from
    the 20 best, further ones from the 2 best.

    Args:
        weights: (n_rows, n_domains) the pool's mixtures; rows sum to 1.
        n: Rows to choose.
        own_columns: (n_targets,) column of each target's own domain, None where it has none.
        rng: Draws among the best.
        candidates: Row numbers that may be chosen; None: all.
        reference: (n_reference, n_domains) mixtures to be made predictable; None: the candidates.

    Returns:
        (n,) row numbers, in the order chosen.

    Raises:
        DataError: The pool's rows are not mixtures.
        ConfigError: More rows are wanted than there are, or an own column is not one.
    """
    check_weights(weights, n_domains=weights.shape[1])
    rows = np.arange(len(weights)) if candidates is None else np.asarray(candidates, dtype=np.int64)
    if not 1 <= n <= len(rows):
        raise ConfigError(f"n is {n}; it must lie in 1 to {len(rows)}, the rows to choose from.")
    kinds = _kinds_of_columns(own_columns, weights.shape[1])
    pool = weights[rows]
    posterior = _Posterior(kinds, pool, reference=pool if reference is None else reference)
    chosen: list[int] = []
    for _ in range(n):
        among = _NEXT_AMONG if chosen else _FIRST_AMONG
        gains = posterior.gains()
        gains[chosen] = -np.inf
        best = np.argsort(-gains, kind="stable")[: min(among, len(rows) - len(chosen))]
        chosen.append(int(rng.choice(best)))
        posterior.measure(chosen[-1])
    return rows[chosen]


def i_optimal_design(
    domains: tuple[str, ...],
    prior: FloatArray,
    *,
    caps: FloatArray,
    own_domains: Mapping[str, tuple[str, ...]],
    config: OptimalConfig,
    rng: np.random.Generator,
) -> Design:
    """Lay out a sweep that makes the mixtures about the prior predictable.

    The natural and the uniform mixture come first. The rest is chosen greedily among draws
    (`sample_mixtures`) and points near vertices; then each is moved, share by share, as long as
    that leaves less doubt about the reference mixtures, which are draws of their own.

    Args:
        domains: (n_domains,) names.
        prior: (n_domains,) natural weights; sum to 1.
        caps: (n_domains,) largest shares.
        own_domains: For each target the domains that are of its own kind; may be empty.
        config: Number of runs and the settings of draws and search.
        rng: Source of the draws.

    Returns:
        ``config.n_runs`` mixtures: ``natural``, ``uniform``, ``optimal-000``, ...

    Raises:
        ConfigError: A target's own domain is unknown, or too few runs are left to choose.
        InfeasibleError: The caps cannot be met, or leave too few mixtures.
    """
    kinds = _distinct_kinds(own_table(domains, own_domains))
    draws = replace(config, oversample=min(config.oversample, _OVERSAMPLE))
    reference = sample_mixtures(prior, n=config.n_reference, caps=caps, config=draws, rng=rng)
    drawn = sample_mixtures(prior, n=config.n_candidates, caps=caps, config=draws, rng=rng)
    fixed = {"natural": cap(prior, upper=caps)}
    uniform = cap(np.full(len(domains), 1.0 / len(domains)), upper=caps)
    if np.abs(uniform - fixed["natural"]).sum() > DUPLICATE_DISTANCE:
        fixed["uniform"] = uniform
    n_chosen = config.n_runs - len(fixed)
    if n_chosen < 1:
        raise ConfigError(
            f"n_runs is {config.n_runs}; {' and '.join(fixed)} are always measured and at least "
            f"one more is needed. Use n_runs >= {len(fixed) + 1}."
        )
    pool = np.vstack([drawn, _near_vertices(prior, kinds, caps)])
    start = np.stack(list(fixed.values()))
    rows = _choose(kinds, pool, reference, start=start, n=n_chosen)
    for _ in range(config.n_sweeps):
        if not _improve(rows, kinds, reference, caps=caps, config=config, n_fixed=len(fixed)):
            break
    return Design(
        run_ids=(*fixed, *(f"optimal-{number:03d}" for number in range(n_chosen))),
        kinds=(*fixed, *("optimal" for _ in range(n_chosen))),
        domains=domains,
        weights=rows,
    )


class _Posterior:
    """Covariances between reference and candidates, given the mixtures measured so far.

    Memory: 8 n_kinds n_reference n_candidates bytes.
    """

    def __init__(
        self,
        kinds: Kinds,
        candidates: FloatArray,
        *,
        reference: FloatArray,
        measured: FloatArray | None = None,
    ) -> None:
        self._own, self._counts = kinds
        self._candidates = candidates
        self._cross = _covariance(self._own, reference, candidates)
        self._variance = np.stack([_variance(own, candidates) for own in self._own])
        self._roots: list[FloatArray] = []
        if measured is not None and len(measured):
            self._condition(reference, measured)

    def gains(self) -> FloatArray:
        """Return by how much each candidate would lower the variance, summed over the reference."""
        explained = np.einsum("jxi,jxi->ji", self._cross, self._cross)
        gains: FloatArray = self._counts @ (explained / (self._variance + _NOISE))
        return gains

    def measure(self, row: int) -> None:
        """Condition on a candidate."""
        along = _covariance(self._own, self._candidates[[row]], self._candidates)[:, 0, :]
        for root in self._roots:
            along -= root[:, [row]] * root
        scale = np.sqrt(self._variance[:, [row]] + _NOISE)
        across = self._cross[:, :, row] / scale
        root = along / scale
        self._cross -= across[:, :, None] * root[:, None, :]
        self._variance = np.maximum(self._variance - root**2, 0.0)
        self._roots.append(root)

    def _condition(self, reference: FloatArray, measured: FloatArray) -> None:
        noise = _NOISE * np.eye(len(measured))
        factor = np.linalg.cholesky(_covariance(self._own, measured, measured) + noise)
        across = np.linalg.solve(factor, _covariance(self._own, measured, reference))
        along = np.linalg.solve(factor, _covariance(self._own, measured, self._candidates))
        self._cross -= across.transpose(0, 2, 1) @ along
        self._variance = np.maximum(self._variance - (along**2).sum(axis=1), 0.0)
        self._roots = list(along.transpose(1, 0, 2))


def _choose(
    kinds: Kinds, pool: FloatArray, reference: FloatArray, *, start: FloatArray, n: int
) -> FloatArray:
    """Return the start and the n candidates that tell most beside it, none twice."""
    apart = np.abs(pool[:, None, :] - start[None, :, :]).sum(axis=2).min(axis=1)
    pool = pool[apart > DUPLICATE_DISTANCE]
    if len(pool) < n:
        raise InfeasibleError(
            f"the caps leave {len(pool)} mixtures to choose {n} runs from. Allow more epochs, "
            "lower the target token budget or measure fewer runs."
        )
    posterior = _Posterior(kinds, pool, reference=reference, measured=start)
    free = np.ones(len(pool), dtype=np.bool_)
    chosen = []
    for _ in range(n):
        best = int(np.argmax(np.where(free, posterior.gains(), -np.inf)))
        chosen.append(best)
        posterior.measure(best)
        free &= np.abs(pool - pool[best]).sum(axis=1) > DUPLICATE_DISTANCE
        if not free.any() and len(chosen) < n:
            raise InfeasibleError(
                f"the caps leave {len(chosen)} distinct mixtures of the {n} wanted. Allow more "
                "epochs, lower the target token budget or measure fewer runs."
            )
    return np.vstack([start, pool[chosen]])


def _improve(
    rows: FloatArray,
    kinds: Kinds,
    reference: FloatArray,
    *,
    caps: FloatArray,
    config: OptimalConfig,
    n_fixed: int,
) -> bool:
    """Move each chosen row, in place, to the neighbour that tells most beside the others."""
    moved = False
    for place in range(n_fixed, len(rows)):
        others = np.delete(rows, place, axis=0)
        near = np.vstack([rows[place], _neighbours(rows[place], caps, config.min_share)])
        apart = np.abs(near[:, None, :] - others[None, :, :]).sum(axis=2).min(axis=1)
        gains = _Posterior(kinds, near, reference=reference, measured=others).gains()
        gains = np.where(apart > DUPLICATE_DISTANCE, gains, -np.inf)
        best = int(np.argmax(gains))
        if gains[best] > (1.0 + _LEAST_GAIN) * gains[0]:
            rows[place] = near[best]
            moved = True
    return moved


def _neighbours(row: FloatArray, caps: FloatArray, min_share: float) -> FloatArray:
    """Return mixtures in which one domain has more or less than in the row, within the caps."""
    n_domains = len(row)
    each = np.eye(n_domains, dtype=np.bool_)
    near = [np.where(each, factor * row, row) for factor in _FACTORS]
    near.append(np.where(each, row + _STEP, row))
    drawn = np.vstack(near)
    drawn = normalise(drawn[drawn.sum(axis=1) > _LEAST_REST])
    moved = cap(np.where(drawn < min_share, 0.0, drawn), upper=caps)
    allowed = np.all((moved == 0.0) | (moved >= np.minimum(min_share, caps) - TOLERANCE), axis=1)
    neighbours: FloatArray = moved[allowed]
    return neighbours


def _near_vertices(prior: FloatArray, kinds: Kinds, caps: FloatArray) -> FloatArray:
    """Return mixtures of one domain, or a target's own ones, with the prior, within the caps."""
    groups = np.unique(np.vstack([np.eye(len(prior), dtype=np.bool_), kinds[0]]), axis=0)
    groups = groups[(groups * prior).sum(axis=1) > 0.0]
    corners = normalise(groups * prior)
    mixed = [share * corners + (1.0 - share) * prior for share in _VERTEX_SHARES]
    return cap(np.vstack(mixed), upper=caps)


def _kinds_of_columns(own_columns: tuple[int | None, ...], n_domains: int) -> Kinds:
    own = np.zeros((len(own_columns), n_domains), dtype=np.bool_)
    for target, column in enumerate(own_columns):
        if column is None:
            continue
        if not 0 <= column < n_domains:
            raise ConfigError(
                f"own column of target {target} is {column}; columns run from 0 to {n_domains - 1}."
            )
        own[target, column] = True
    return _distinct_kinds(own)


def _distinct_kinds(own: BoolArray) -> Kinds:
    """Join targets of equal own domains: their covariances are equal."""
    if not len(own):
        return np.zeros((1, own.shape[1]), dtype=np.bool_), np.ones(1)
    distinct, counts = np.unique(own, axis=0, return_counts=True)
    return distinct, counts.astype(np.float64)


def _covariance(owns: BoolArray, one: FloatArray, other: FloatArray) -> FloatArray:
    """Return the (n_kinds, n_one, n_other) prior covariances."""
    ones, others = _features(one), _features(other)
    return np.stack([_kernel(own, one, other, ones, others) for own in owns])


def _kernel(
    own: BoolArray, one: FloatArray, other: FloatArray, ones: FloatArray, others: FloatArray
) -> FloatArray:
    slope = np.where(own, _SLOPE_OWN, _SLOPE_OTHER)
    length = np.where(own, _LENGTH_OWN, _LENGTH_OTHER)
    a, b = ones / length, others / length
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2.0 * a @ b.T
    distance = np.sqrt(5.0 * np.maximum(squared, 0.0))
    smooth = _SMOOTH * (1.0 + distance + distance**2 / 3.0) * np.exp(-distance)
    linear = (ones * slope) @ others.T + _PLAIN * (one * slope) @ other.T
    kernel: FloatArray = _LEVEL + linear + smooth
    return kernel


def _variance(own: BoolArray, weights: FloatArray) -> FloatArray:
    slope = np.where(own, _SLOPE_OWN, _SLOPE_OTHER)
    linear = (_features(weights) ** 2 + _PLAIN * weights**2) @ slope
    variance: FloatArray = _LEVEL + _SMOOTH + linear
    return variance


def _features(weights: FloatArray) -> FloatArray:
    features: FloatArray = np.log1p(weights / _EPS) / np.log1p(1.0 / _EPS)
    return features
