"""Parameter vectors of quality curves drawn from their prior.

Source: QuaDMix (arXiv:2504.16511), Algorithm 1; docs/papers/quadmix.md says which of its two
readings of lambda is the default, and why.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from cuvee.arrays import FloatArray
from cuvee.errors import ConfigError
from cuvee.policy.quality_curve import CURVE


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityPriorConfig:
    """Ranges of the parameters."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    steepness: Literal["log", "linear"] = "log"
    """log: lambda is 10^(3 u), u uniform; linear: 1000 u, a near step for most draws."""
    largest_steepness: float = 1000.0
    """Largest lambda."""
    largest_threshold: float | None = None
    """Largest omega: the largest share of a domain's tokens that is taken for its quality. None:
    twice the token budget's share of the pool, so that the mean draw meets the budget. QuaDMix:
    0.1."""
    smallest_threshold: float = 0.0
    """Smallest omega. QuaDMix: 0."""
    largest_base: float = 0.001
    """Largest epsilon: copies of documents beyond the threshold."""

    def __post_init__(self) -> None:
        largest = 1.0 if self.largest_threshold is None else self.largest_threshold
        if not 0.0 <= self.smallest_threshold < largest <= 1.0:
            raise ConfigError(
                f"thresholds are {self.smallest_threshold:g} to {largest:g}; they must rise within "
                "[0, 1]."
            )
        if not self.largest_steepness > 1.0:
            raise ConfigError(
                f"largest_steepness is {self.largest_steepness:g}; it must be above 1."
            )
        if not 0.0 <= self.largest_base <= 1.0:
            raise ConfigError(f"largest_base is {self.largest_base:g}; it must lie in [0, 1].")

    def for_budget(self, share: float) -> "QualityPriorConfig":
        """Fill in the largest threshold.

        Args:
            share: Token budget over the pool's tokens.
        """
        if self.largest_threshold is not None:
            return self
        largest = max(min(2.0 * share, 1.0), self.smallest_threshold + 1e-6)
        return replace(self, largest_threshold=largest)


def draw_vectors(
    config: QualityPriorConfig, *, n: int, n_domains: int, n_criteria: int, rng: np.random.Generator
) -> FloatArray:
    """Draw vectors of parameters.

    A criterion has one weight for the whole vector, drawn first, that the domains' own weights
    multiply; without it no criterion could be unimportant everywhere.

    Args:
        config: Ranges.
        n: Vectors.
        n_domains: Domains.
        n_criteria: Criteria.
        rng: Source of the draws.

    Returns:
        (n, (n_criteria + 4) n_domains) parameters, domain by domain: merge weights, lambda, omega,
        eta, epsilon.

    Source: QuaDMix, Algorithm 1.
    """
    common = rng.uniform(size=(n, 1, n_criteria))
    own = rng.uniform(size=(n, n_domains, n_criteria))
    merge = np.maximum(common * own, 1e-12)
    merge = merge / merge.sum(axis=2, keepdims=True)
    u = rng.uniform(size=(n, n_domains, len(CURVE)))
    if config.steepness == "log":
        steepness = config.largest_steepness ** u[..., 0]
    else:
        steepness = np.maximum(config.largest_steepness * u[..., 0], 1e-6)
    largest = config.for_budget(1.0).largest_threshold
    assert largest is not None, "filled in"
    room = largest - config.smallest_threshold
    curve = np.stack(
        [
            steepness,
            config.smallest_threshold + room * u[..., 1],
            u[..., 2],
            config.largest_base * u[..., 3],
        ],
        axis=2,
    )
    return np.concatenate([merge, curve], axis=2).reshape(n, -1)


def mean_vector(
    config: QualityPriorConfig, vectors: FloatArray, *, n_domains: int, n_criteria: int
) -> FloatArray:
    """Average vectors in the space they are drawn in: lambda on its logarithm where it is log.

    Args:
        config: Of their prior.
        vectors: (n, n_parameters) such as the best of many.
        n_domains: Domains.
        n_criteria: Criteria.

    Returns:
        (n_parameters,) whose merge weights still sum to 1.
    """
    parts = vectors.reshape(len(vectors), n_domains, n_criteria + len(CURVE))
    mean = parts.mean(axis=0)
    if config.steepness == "log":
        mean[:, n_criteria] = np.exp(np.log(parts[:, :, n_criteria]).mean(axis=0))
    mean[:, :n_criteria] /= mean[:, :n_criteria].sum(axis=1, keepdims=True)
    return np.asarray(mean.ravel(), dtype=np.float64)
