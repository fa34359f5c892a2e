"""Do mixtures keep their order elsewhere: at other sizes, at other learning rates."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from scipy import special, stats

from cuvee import artifacts, config
from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.errors import DataError

FOLDER, FOUND = "agreement", "agreement.json"
"""Where agreements stand in a run's folder: one folder for each thing that was changed."""
LEAST_MIXTURES = 4
"""Below this a rank correlation has no interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """One set of mixtures trained twice: as the proxies were, and otherwise."""

    name: str
    """What was changed, in words."""
    n_mixtures: int
    """Diverged runs apart."""
    rank: float | None
    """Spearman's correlation of their losses; None where all losses of a side are equal."""
    low: float | None
    high: float | None
    regret_bpb: float
    """There: the loss of the mixture that is best here, minus the lowest loss, bits per byte."""
    spread_bpb: float
    """There: the highest minus the lowest loss."""

    def to_json(self) -> dict[str, Json]:
        """Return the agreement as plain JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> "Agreement":
        """Rebuild an agreement from `to_json`."""
        return config.parse(cls, data)


def agreement(
    here: FloatArray, there: FloatArray, *, name: str, confidence: float = 0.95
) -> Agreement:
    """Compare the order of mixtures in two places.

    The interval is Fisher's, tanh(atanh r -/+ z s) with s^2 = (1 + r^2 / 2) / (n - 3). A perfect
    order has no such interval; its ends are those of the order next to it, two neighbours swapped
    (r = 1 - 12 / (n^3 - n)), the outer one being 1.

    Args:
        here: (n_mixtures,) losses of the proxies, bits per byte.
        there: (n_mixtures,) losses elsewhere, of the same mixtures; NaN where a run diverged.
        name: What was changed.
        confidence: Coverage of the interval.

    Raises:
        DataError: Fewer than four mixtures have both losses.

    Source: D. G. Bonett and T. A. Wright, Sample size requirements for estimating Pearson, Kendall
        and Spearman correlations, Psychometrika 65 (2000).

    Example:
        >>> found = agreement(np.arange(6.0), np.arange(6.0) ** 2, name="0.4m")
        >>> found.rank, found.high, round(found.low, 2), found.regret_bpb
        (1.0, 1.0, 0.38, 0.0)
    """
    kept = np.isfinite(here) & np.isfinite(there)
    n = int(kept.sum())
    if n < LEAST_MIXTURES:
        raise DataError(
            f"{n} mixtures have losses at both ends of {name}; an order needs at least "
            f"{LEAST_MIXTURES}. Train more mixtures, or lower the learning rate."
        )
    here, there = here[kept], there[kept]
    rank, low, high = None, None, None
    if np.ptp(here) > 0.0 and np.ptp(there) > 0.0:
        rank = round(float(stats.spearmanr(here, there).statistic), 12)
        low, high = _interval(rank, n, confidence)
    return Agreement(
        name=name,
        n_mixtures=n,
        rank=rank,
        low=low,
        high=high,
        regret_bpb=float(there[int(np.argmin(here))] - there.min()),
        spread_bpb=float(np.ptp(there)),
    )


def read_agreement(folder: Path) -> Agreement:
    """Read one finished agreement."""
    return Agreement.from_json(cast(dict[str, Json], artifacts.read_json(folder / FOUND)))


def read_agreements(out: Path) -> tuple[Agreement, ...]:
    """Read all that were found in a run's folder, by the names of what was changed."""
    folders = sorted(one for one in (out / FOLDER).glob("*") if artifacts.is_done(one))
    return tuple(read_agreement(one) for one in folders)


def describe_agreements(found: Sequence[Agreement]) -> tuple[str, ...]:
    """Say of each how far the order of mixtures held, a sentence each."""
    return tuple(_sentence(one) for one in found)


def _sentence(one: Agreement) -> str:
    if one.rank is None:
        return f"{one.name}: all {one.n_mixtures} mixtures have the same loss; there is no order."
    return (
        f"{one.name}: {one.n_mixtures} mixtures of the design keep the proxies' order by a rank "
        f"correlation of {one.rank:.2f} ({one.low:.2f} to {one.high:.2f}); the one that is best "
        f"among the proxies is {one.regret_bpb:.4f} bits per byte from the best there, of "
        f"{one.spread_bpb:.4f} between best and worst."
    )


def _interval(rank: float, n: int, confidence: float) -> tuple[float, float]:
    most = 1.0 - 12.0 / (n**3 - n)
    inner = min(max(rank, -most), most)
    half = float(special.ndtri(0.5 + confidence / 2.0)) * math.sqrt((1.0 + inner**2 / 2) / (n - 3))
    low, high = math.tanh(math.atanh(inner) - half), math.tanh(math.atanh(inner) + half)
    return (-1.0 if rank < -most else low), (1.0 if rank > most else high)
