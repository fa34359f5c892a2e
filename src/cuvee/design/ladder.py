"""Mixtures on a doubling ladder: a domain's share is its largest, a half, a quarter ... or none.

Source: Data Mixing Laws (arXiv:2403.16952), the design of its training mixtures.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.spatial.distance import cdist

from cuvee.arrays import FloatArray
from cuvee.errors import ConfigError, InfeasibleError
from cuvee.simplex import TOLERANCE, cap, check_weights
from cuvee.tables.design import Design

_CANDIDATES = 8
"""Drawn for each row; more would push all rows to the edges."""
_TRIES = 64
_LEAST_DISTANCE = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class LadderConfig:
    """How the measured mixtures are chosen."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    n_runs: int = 20
    """Mixtures in all: natural, uniform and the ladder's. Data Mixing Laws: 20 for 3 domains to 40
    for 5."""
    n_levels: int = 6
    """Rungs above none: the largest share and its halvings."""

    def __post_init__(self) -> None:
        if self.n_runs < 4:
            raise ConfigError(f"n_runs is {self.n_runs}; a ladder needs at least 4.")
        if not 1 <= self.n_levels <= 20:
            raise ConfigError(f"n_levels is {self.n_levels}; it must lie in 1 to 20.")


def make_ladder(
    domains: tuple[str, ...],
    prior: FloatArray,
    *,
    caps: FloatArray,
    config: LadderConfig,
    rng: np.random.Generator,
) -> Design:
    """Lay out a sweep on a doubling ladder.

    Candidates take the domains in a random order; each gets a rung of its own ladder that leaves
    enough for the rest, the last one what is left. Of 8 candidates the one farthest from all rows
    before it is taken, in square roots of shares, so that small shares count.

    Args:
        domains: (n_domains,) names.
        prior: (n_domains,) natural weights; sum to 1.
        caps: (n_domains,) largest shares.
        config: Number of runs and rungs.
        rng: Source of orders and rungs.

    Returns:
        ``config.n_runs`` mixtures: ``natural``, ``uniform``, ``ladder-000``, ...

    Raises:
        InfeasibleError: The caps leave no mixture, or too few distinct ones.

    Source: Data Mixing Laws (arXiv:2403.16952), doubling ladder.
    Deviation: the paper enumerates all combinations of a few domains and draws from them; with many
        domains that is not possible, and drawing leaves gaps.
    """
    check_weights(prior, n_domains=len(domains))
    if caps.sum() < 1.0 - TOLERANCE:
        raise InfeasibleError(
            f"caps sum to {caps.sum():.6g}; they must sum to at least 1 for any mixture to keep "
            "them. Allow more epochs, lower the target token budget or add text."
        )
    fixed = {
        "natural": cap(prior, upper=caps),
        "uniform": cap(np.full(len(domains), 1.0 / len(domains)), upper=caps),
    }
    if np.abs(fixed["natural"] - fixed["uniform"]).sum() <= _LEAST_DISTANCE:
        del fixed["uniform"]
    rows = np.stack(list(fixed.values()))
    while len(rows) < config.n_runs:
        rows = np.vstack([rows, _farthest(rows, caps, config.n_levels, rng)])
    n_drawn = config.n_runs - len(fixed)
    return Design(
        run_ids=(*fixed, *(f"ladder-{number:03d}" for number in range(n_drawn))),
        kinds=(*fixed, *("ladder" for _ in range(n_drawn))),
        domains=domains,
        weights=rows,
    )


def _climb(caps: FloatArray, n_levels: int, rng: np.random.Generator) -> FloatArray:
    """Draw one mixture: rungs in a random order of domains, the rest to the last ones."""
    weights = np.zeros(len(caps))
    rungs = np.append(0.5 ** np.arange(n_levels), 0.0)
    # Some mixtures of few domains, some of many: rungs of half of the rows favour none.
    chance = np.ones(n_levels + 1)
    chance[-1] = rng.choice([0.5, 2.0, 8.0])
    chance /= chance.sum()
    left = 1.0
    order = rng.permutation(len(caps))
    room = np.append(np.cumsum(caps[order][::-1])[::-1][1:], 0.0)
    for domain, later in zip(order, room, strict=True):
        least = max(0.0, left - float(later))
        share = float(caps[domain] * rng.choice(rungs, p=chance))
        weights[domain] = min(max(share, least), float(caps[domain]), left)
        left -= weights[domain]
    return cap(weights / weights.sum(), upper=caps)


def _farthest(
    rows: FloatArray, caps: FloatArray, n_levels: int, rng: np.random.Generator
) -> FloatArray:
    """Draw candidates and return the one farthest from its nearest row."""
    for _ in range(_TRIES):
        drawn = np.stack([_climb(caps, n_levels, rng) for _ in range(_CANDIDATES)])
        distance = cdist(np.sqrt(drawn), np.sqrt(rows)).min(axis=1)
        if distance.max() > _LEAST_DISTANCE:
            best: FloatArray = drawn[int(np.argmax(distance))]
            return best
    raise InfeasibleError(
        f"the caps leave {len(rows)} distinct mixtures on the ladder, too few. Allow more epochs, "
        "lower the target token budget, or measure fewer runs."
    )
