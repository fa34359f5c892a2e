"""How the best mixture is looked for, and what it must keep."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from cuvee.errors import ConfigError
from cuvee.search.constraints import GroupBound
from cuvee.simplex import TOLERANCE


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    """How the best mixture is looked for."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    n_simulated: int = 100_000
    """Mixtures drawn about the prior. RegMix: 100,000."""
    n_best: int = 128
    """Best predicted mixtures averaged into the answer. RegMix: 128."""
    temperature: float = 0.5
    """Exponent that flattens the prior before drawing, above 0. RegMix: 1."""
    strengths: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    """Total concentrations of the Dirichlet, drawn from evenly. RegMix: (1,).

    Ours reach from mixtures of few domains to even ones, where the best are often found.
    """
    refine: bool = True
    """Draw up to four rounds of an eighth as many about the answer, while it gets better.

    RegMix: False. Ours: with 17 domains one round leaves a clear distance to a known optimum.
    """
    solver: Literal["auto", "simulate"] = "auto"
    """auto: solve exactly where the predictor's losses are convex, simulate otherwise. RegMix:
    simulate."""
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Least and largest share of some domains, by name."""
    groups: tuple[GroupBound, ...] = ()
    """Least and largest shares of several domains together."""
    frozen: tuple[tuple[str, ...], ...] = ()
    """Groups of domains whose shares keep the ratios they have in the natural mixture."""
    floors: Mapping[str, float] = field(default_factory=dict)
    """Largest predicted loss of some targets, in bits per byte."""
    worse_by: float | None = None
    """Bits per byte by which any target may be predicted worse than under the natural mixture;
    None: no limit."""
    kl: float = 0.0
    """Pull towards the natural mixture: bits per byte of the objective for each nat of
    KL(mixture || natural)."""

    def __post_init__(self) -> None:
        if not 1 <= self.n_best <= self.n_simulated:
            raise ConfigError(
                f"n_best is {self.n_best} and n_simulated {self.n_simulated}; at least 1 must be "
                "kept, and no more than are simulated."
            )
        if not self.temperature > 0.0:
            raise ConfigError(f"temperature is {self.temperature:g}; it must be above 0.")
        if not self.strengths or any(not strength > 0.0 for strength in self.strengths):
            raise ConfigError(
                f"strengths are {list(self.strengths)}; give at least one, all above 0."
            )
        for name, (least, largest) in self.bounds.items():
            if not 0.0 <= least <= largest <= 1.0:
                raise ConfigError(
                    f"bounds of domain {name!r} are {least:g} to {largest:g}; they must ascend "
                    "within [0, 1]."
                )
        if not (np.isfinite(self.kl) and self.kl >= 0.0):
            raise ConfigError(f"kl is {self.kl:g}; it must be at least 0.")
        if self.worse_by is not None and not self.worse_by >= 0.0:
            raise ConfigError(
                f"worse_by is {self.worse_by:g}; it must be at least 0: the natural mixture itself "
                "is 0 worse."
            )
        total = sum(least for least, _ in self.bounds.values())
        if total > 1.0 + TOLERANCE:
            raise ConfigError(
                f"the bounds' least shares sum to {total:g}; they must sum to at most 1. Lower one "
                "of them."
            )
