"""How a bandit over clusters explores, what it accepts and how much it takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from cuvee.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class BanditConfig:
    """How the bandit explores, what it accepts and how much it takes."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    n_probes: int = 10
    """Documents scored a pull. Quad's released code: 10."""
    n_arms: int | None = None
    """Clusters pulled a round; None: a twentieth of all, at least 1. Released: 50 of 9,873."""
    exploration: float = 1.0
    """alpha, at least 0: 0 is greedy, a very large one pulls all clusters in turn. Released: 1e-4
    in the unit of rewards."""
    exploration_unit: Literal["spread", "reward"] = "spread"
    """spread: alpha in standard deviations of the mean of one pull, measured on the probes, so that
    1 suits rewards of any scale. reward: alpha as it stands."""
    neighbour_radius: float | None = None
    """Cosine distance of centres below which clusters share what their probes said, in (0, 2];
    None: none do. Released: 0.2."""
    threshold: float | None = None
    """Mean reward a cluster must exceed to be accepted; None: a quantile. Released: 0.0020."""
    quantile: float | None = None
    """Accept clusters from this quantile of the means up, clusters weighted by their tokens left,
    in [0, 1); None: the highest at which the clusters accepted can still fill the budget."""
    take_share: float = 0.5
    """gamma: share of what an accepted cluster can still give that one pull takes, in (0, 1]; never
    fewer documents than a pull scores."""
    take_documents: int | None = None
    """Documents a pull takes in place of a share. Released: 20,000."""
    max_share: float | None = None
    """Share of a cluster's documents taken in all, in (0, 1], so that no cluster, least of all one
    of near-duplicates, is taken whole for its mean alone. None: half-way between the budget's share
    of the pool and 1. Released: 1."""
    max_probes: int | None = None
    """Documents scored at most; then the best known clusters fill the budget. None: no limit."""
    max_rounds: int | None = None
    """Rounds at most after the first pulls; None: no limit. Released: 200."""
    n_refreshes: int = 0
    """Times that rewards are estimated anew, with a model trained on what was taken so far: each
    time another equal share of the budget is taken. Quad: 0."""

    def __post_init__(self) -> None:
        for name in ("n_probes", "n_arms", "take_documents", "max_probes", "max_rounds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1.")
        if self.n_refreshes < 0:
            raise ConfigError(f"n_refreshes is {self.n_refreshes}; it must be at least 0.")
        if not (np.isfinite(self.exploration) and self.exploration >= 0.0):
            raise ConfigError(f"exploration is {self.exploration:g}; it must be at least 0.")
        if self.neighbour_radius is not None and not 0.0 < self.neighbour_radius <= 2.0:
            raise ConfigError(
                f"neighbour_radius is {self.neighbour_radius:g}; it is a cosine distance and must "
                "lie in (0, 2]."
            )
        for name in ("take_share", "max_share"):
            share = getattr(self, name)
            if share is not None and not 0.0 < share <= 1.0:
                raise ConfigError(f"{name} is {share:g}; it must lie in (0, 1].")
        self._check_acceptance()

    def _check_acceptance(self) -> None:
        if self.threshold is not None and self.quantile is not None:
            raise ConfigError("both threshold and quantile are given; give one, or neither.")
        if self.threshold is not None and not np.isfinite(self.threshold):
            raise ConfigError(f"threshold is {self.threshold}; it must be a finite reward.")
        if self.quantile is not None and not 0.0 <= self.quantile < 1.0:
            raise ConfigError(f"quantile is {self.quantile:g}; it must lie in [0, 1).")


PAPER: Mapping[str, Any] = {
    "n_probes": 10,
    "n_arms": 50,
    "exploration": 1e-4,
    "exploration_unit": "reward",
    "neighbour_radius": 0.2,
    "threshold": 0.0020,
    "take_documents": 20_000,
    "max_share": 1.0,
    "max_rounds": 200,
}
"""Settings of Quad's released code. What the code does otherwise (probes in file order, clusters of
fewer than 20,000 documents never pulled, unpulled clusters at reward 0) is not imitated."""
