"""Mixtures to be measured, drawn from Dirichlet distributions about the prior.

Source: RegMix (arXiv:2407.01492), the paper's mixture generation and its released configuration.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.spatial import cKDTree

from cuvee.arrays import BoolArray, FloatArray
from cuvee.errors import ConfigError, InfeasibleError
from cuvee.simplex import TOLERANCE, cap, check_weights, normalise, sample_dirichlet, temper
from cuvee.tables.design import Design

logger = logging.getLogger(__name__)

DUPLICATE_DISTANCE = 1e-5
"""Mixtures whose shares differ by no more than this in sum are one mixture (RegMix)."""
_MAX_ROUNDS = 8
_ROUND_ROWS = 65536


@dataclass(frozen=True, kw_only=True, slots=True)
class DesignConfig:
    """How the measured mixtures are chosen."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    n_runs: int = 32
    """Runs in all: fixed points and draws together. RegMix: 512, all drawn."""
    temperature: float = 0.5
    """Exponent that flattens the prior before drawing, above 0. RegMix: 0.5."""
    strength_min: float = 0.1
    """Least total concentration of the Dirichlet: near the vertices. RegMix: 0.1."""
    strength_max: float = 5.0
    """Largest total concentration: near the flattened prior. RegMix: 5."""
    n_strengths: int = 15
    """Strengths between the two, evenly spaced in logarithm. RegMix: 15."""
    oversample: int = 100
    """Candidates drawn for each mixture wanted. RegMix: 100."""
    min_share: float = 2e-4
    """Shares below this become 0, in [0, 0.01]. RegMix: 2e-4."""
    own_share: float = 0.7
    """Weight of a target's own domains in its near-vertex point, in (0, 1]; the rest is natural.

    Ours: strong enough to show the own domains' effect, weak enough to keep the others' visible.
    """

    def __post_init__(self) -> None:
        checks = {
            f"n_runs is {self.n_runs}; it must be at least 1": self.n_runs >= 1,
            f"temperature is {self.temperature}; it must be above 0": self.temperature > 0.0,
            f"strengths {self.strength_min} to {self.strength_max} must be above 0 and ascend": (
                0.0 < self.strength_min <= self.strength_max
            ),
            f"n_strengths is {self.n_strengths}; it must be at least 1": self.n_strengths >= 1,
            f"oversample is {self.oversample}; it must be at least 1": self.oversample >= 1,
            f"min_share is {self.min_share}; it must lie in [0, 0.01]": (
                0.0 <= self.min_share <= 0.01
            ),
            f"own_share is {self.own_share}; it must lie in (0, 1]": 0.0 < self.own_share <= 1.0,
        }
        for message, holds in checks.items():
            if not holds:
                raise ConfigError(message + ".")


def sample_mixtures(
    prior: FloatArray,
    *,
    n: int,
    caps: FloatArray,
    config: DesignConfig,
    rng: np.random.Generator,
) -> FloatArray:
    """Draw distinct mixtures about the prior that keep the caps.

    With ``q = prior**T / sum(prior**T)``, candidates are ``Dirichlet(s q)`` for strengths s drawn
    from a log-spaced set. Small shares become 0, rows are rescaled, and those above a cap are
    rejected; ``n`` are chosen at random among the distinct rest. Where the caps are so tight that
    rejection finds too few in a bounded number of draws, rejected candidates are moved to the
    caps (`simplex.cap`), and the log says how many.

    Args:
        prior: (n_domains,) shares of the available tokens; sum to 1.
        n: Mixtures wanted.
        caps: (n_domains,) largest shares, from `simplex.supply_caps`: before the temperature.
        config: Temperature, strengths and thresholds.
        rng: Source of the draws.

    Returns:
        (n, n_domains) token shares; rows sum to 1, keep the caps, and each share is 0 or at least
        ``min_share`` (unless its cap is below that).

    Raises:
        InfeasibleError: The caps leave no mixture, or fewer than ``n`` distinct ones.

    Source: RegMix (arXiv:2407.01492), mixture generation.
    Deviation: caps and sums are checked after small shares became 0; the released code rounds
        last and can break both.
    """
    check_weights(prior, n_domains=len(caps))
    _check_caps(caps)
    centre = temper(prior, config.temperature)
    strengths = np.geomspace(config.strength_min, config.strength_max, config.n_strengths)
    kept = np.empty((0, len(centre)))
    rejected = kept
    for _ in range(_MAX_ROUNDS):
        for n_rows in _blocks(n * config.oversample):
            strength = rng.choice(strengths, size=n_rows)[:, None]
            drawn = sample_dirichlet(strength * centre, n=n_rows, rng=rng)
            rounded = _drop_small(drawn, config.min_share)
            feasible = np.all(rounded <= caps + TOLERANCE, axis=1)
            kept = np.concatenate([kept, rounded[feasible]])
            rejected = np.concatenate([rejected, rounded[~feasible]])[: max(4 * n, _MIN_SPARE)]
        kept = _distinct(kept)
        if len(kept) >= n:
            return kept[rng.choice(len(kept), size=n, replace=False)]
    return _fill(kept, rejected, n=n, caps=caps, min_share=config.min_share, rng=rng)


def make_design(
    domains: tuple[str, ...],
    prior: FloatArray,
    *,
    caps: FloatArray,
    own_domains: Mapping[str, tuple[str, ...]],
    config: DesignConfig,
    rng: np.random.Generator,
) -> Design:
    """Lay out a sweep: fixed points first, then draws.

    Fixed points are the natural mixture, the uniform one, and for each target one near the vertex
    of its own domains, all within the caps. A fixed point equal to an earlier one is left out.

    Args:
        domains: (n_domains,) names.
        prior: (n_domains,) natural weights; sum to 1.
        caps: (n_domains,) largest shares.
        own_domains: For each target the domains that are of its own kind; may be empty.
        config: Number of runs and the settings of the draws.
        rng: Source of the draws.

    Returns:
        ``config.n_runs`` mixtures: ``natural``, ``uniform``, ``own-<target>``, ``draw-000``, ...

    Raises:
        ConfigError: A target's own domain is unknown, or too few runs are left for draws.
        InfeasibleError: The caps cannot be met.
    """
    _check_caps(caps)
    points = {"natural": cap(prior, upper=caps)}
    points["uniform"] = cap(np.full(len(domains), 1.0 / len(domains)), upper=caps)
    for target, names in own_domains.items():
        if names:
            own = _own_point(domains, prior, target=target, names=names, share=config.own_share)
            points[f"own-{target}"] = cap(own, upper=caps)
    points = _without_repeats(points)
    n_draws = config.n_runs - len(points)
    if n_draws < 2:
        raise ConfigError(
            f"n_runs is {config.n_runs}; the design has {len(points)} fixed points "
            f"({', '.join(points)}) and needs at least 2 draws. Use n_runs >= {len(points) + 2}."
        )
    draws = sample_mixtures(prior, n=n_draws, caps=caps, config=config, rng=rng)
    return Design(
        run_ids=(*points, *(f"draw-{number:03d}" for number in range(n_draws))),
        kinds=(*(name.split("-")[0] for name in points), *("draw" for _ in range(n_draws))),
        domains=domains,
        weights=np.concatenate([np.stack(list(points.values())), draws]),
    )


_MIN_SPARE = 1024


def _check_caps(caps: FloatArray) -> None:
    total = float(caps.sum())
    if total < 1.0 - TOLERANCE:
        raise InfeasibleError(
            f"caps sum to {total:.6g}; they must sum to at least 1 for any mixture to keep them. "
            "Allow more epochs, lower the target token budget or add text."
        )


def _blocks(n_rows: int) -> list[int]:
    whole, rest = divmod(n_rows, _ROUND_ROWS)
    return [_ROUND_ROWS] * whole + [rest] * (rest > 0)


def _drop_small(weights: FloatArray, min_share: float) -> FloatArray:
    """Round small shares to 0 and rescale; the largest share always stays."""
    largest = weights.max(axis=1, keepdims=True)
    return normalise(np.where(weights < np.minimum(min_share, largest), 0.0, weights))


def _distinct(weights: FloatArray) -> FloatArray:
    """Drop rows within `DUPLICATE_DISTANCE` of an earlier one; the rest keep their order."""
    _, first = np.unique(weights, axis=0, return_index=True)
    rows = weights[np.sort(first)]
    if len(rows) < 2:
        return rows
    pairs = cKDTree(rows).query_pairs(DUPLICATE_DISTANCE, p=1, output_type="ndarray")
    repeated: BoolArray = np.zeros(len(rows), dtype=np.bool_)
    repeated[pairs[:, 1]] = True
    return rows[~repeated]


def _fill(
    kept: FloatArray,
    rejected: FloatArray,
    *,
    n: int,
    caps: FloatArray,
    min_share: float,
    rng: np.random.Generator,
) -> FloatArray:
    """Complete the kept mixtures with rejected candidates moved to the caps."""
    mixtures = _distinct(np.concatenate([kept, _move(rejected, caps, min_share)]))
    if len(mixtures) < n:
        # Few domains: all candidates were moved to the same few corners. Draw between those.
        ends = mixtures[rng.integers(len(mixtures), size=(2, max(4 * n, _MIN_SPARE)))]
        between = ends[0] + rng.random((ends.shape[1], 1)) * (ends[1] - ends[0])
        mixtures = _distinct(np.concatenate([mixtures, _move(between, caps, min_share)]))
    if len(mixtures) < n:
        raise InfeasibleError(
            f"caps sum to {caps.sum():.6g} and leave {len(mixtures)} distinct mixtures of the {n} "
            "wanted. Allow more epochs, lower the target token budget or measure fewer runs."
        )
    logger.info(
        "caps reject nearly all draws: %d of %d mixtures were moved to the caps", n - len(kept), n
    )
    return mixtures[:n]


def _move(weights: FloatArray, caps: FloatArray, min_share: float) -> FloatArray:
    """Move rows to the caps, without small shares where the others have room for their mass."""
    moved = cap(weights, upper=caps)
    support = np.where(moved < min_share, 0.0, caps)
    for row in np.flatnonzero((moved < min_share).any(axis=1) & (support.sum(axis=1) >= 1.0)):
        moved[row] = cap(np.where(support[row] > 0.0, moved[row], 0.0), upper=support[row])
    return moved


def _own_point(
    domains: tuple[str, ...],
    prior: FloatArray,
    *,
    target: str,
    names: tuple[str, ...],
    share: float,
) -> FloatArray:
    for name in names:
        if name not in domains:
            raise ConfigError(
                f"target {target!r} names own domain {name!r}, which the pool does not have; its "
                f"domains are {', '.join(domains)}."
            )
    inside = np.isin(np.asarray(domains), np.asarray(names))
    return share * normalise(np.where(inside, prior, 0.0)) + (1.0 - share) * prior


def _without_repeats(points: dict[str, FloatArray]) -> dict[str, FloatArray]:
    distinct: dict[str, FloatArray] = {}
    for name, point in points.items():
        for other, earlier in distinct.items():
            if np.abs(point - earlier).sum() <= DUPLICATE_DISTANCE:
                logger.info("fixed point %s equals %s and is left out", name, other)
                break
        else:
            distinct[name] = point
    return distinct
