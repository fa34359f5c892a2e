"""Parameter vectors of quality curves drawn from their prior, and recombined.

Source: QuaDMix (arXiv:2504.16511), Algorithm 1; docs/papers/quadmix.md says which of its two
readings of lambda is the default, and why.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from cuvee.arrays import FloatArray
from cuvee.errors import ConfigError
from cuvee.policy.quality_curve import CURVE

_LOG_REACH = 100.0
"""Largest over smallest threshold of a log prior, where no smallest is given."""
_LOG_MEAN = 7.0
_UNIFORM_MEAN = 2.0
"""Largest threshold over the budget's share at which the mean draw meets the budget."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityPriorConfig:
    """Ranges of the parameters."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    steepness: Literal["log", "linear"] = "log"
    """log: lambda is 10^(3 u), u uniform; linear: 1000 u, a near step for most draws."""
    largest_steepness: float = 1000.0
    """Largest lambda."""
    threshold: Literal["log", "linear"] = "log"
    """Spread of omega, which decides the domains' shares: log, so that a domain can be nearly left
    out or taken whole; linear over its range. QuaDMix: linear."""
    largest_threshold: float | None = None
    """Largest omega: the largest share of a domain's tokens that is taken for its quality. None:
    so that the mean draw meets the token budget, seven times (log) or twice (linear) its share of
    the pool, at most 1. QuaDMix: 0.1."""
    smallest_threshold: float | None = None
    """Smallest omega; None: a hundredth of the largest (log) or 0 (linear). QuaDMix: 0."""
    largest_exponent: float = 1.0
    """Largest eta, at most 1: a document is taken at most 2^eta + epsilon times in expectation."""
    largest_base: float = 0.001
    """Largest epsilon: copies of documents beyond the threshold."""

    def __post_init__(self) -> None:
        lowest = 0.0 if self.threshold == "linear" else 1e-9
        smallest = lowest if self.smallest_threshold is None else self.smallest_threshold
        largest = 1.0 if self.largest_threshold is None else self.largest_threshold
        if not lowest <= smallest < largest <= 1.0:
            raise ConfigError(
                f"thresholds are {smallest:g} to {largest:g}; they must rise within [0, 1], from "
                "above 0 where they are log."
            )
        if not self.largest_steepness > 1.0:
            raise ConfigError(
                f"largest_steepness is {self.largest_steepness:g}; it must be above 1."
            )
        if not 0.0 <= self.largest_base <= 1.0:
            raise ConfigError(f"largest_base is {self.largest_base:g}; it must lie in [0, 1].")
        if not 0.0 <= self.largest_exponent <= 1.0:
            raise ConfigError(
                f"largest_exponent is {self.largest_exponent:g}; it must lie in [0, 1]."
            )

    @property
    def most_copies(self) -> float:
        """Largest expected copies of a document."""
        return float(2.0**self.largest_exponent + self.largest_base)

    def for_budget(self, share: float, *, max_epochs: float = np.inf) -> "QualityPriorConfig":
        """Fill in the thresholds, and keep expected copies within the epoch limit.

        Args:
            share: Token budget over the pool's tokens.
            max_epochs: Largest expected copies of a document.

        Raises:
            ConfigError: The epoch limit is below 1.
        """
        if max_epochs < 1.0:
            raise ConfigError(
                f"max_epochs is {max_epochs:g}; a quality curve takes its best documents at least "
                "once. Set it to at least 1."
            )
        linear = self.threshold == "linear"
        smallest, largest = self.smallest_threshold, self.largest_threshold
        if largest is None:
            given = 0.0 if smallest is None else smallest
            mean = _UNIFORM_MEAN if linear else _LOG_MEAN
            largest = max(min(mean * share, 1.0), min(given + 1e-6, 1.0))
        if smallest is None:
            smallest = 0.0 if linear else largest / _LOG_REACH
        base = min(self.largest_base, max_epochs - 1.0)
        exponent = min(self.largest_exponent, np.log2(max_epochs - base))
        return replace(
            self,
            smallest_threshold=smallest,
            largest_threshold=largest,
            largest_base=base,
            largest_exponent=float(exponent),
        )


def draw_vectors(
    config: QualityPriorConfig, *, n: int, n_domains: int, n_criteria: int, rng: np.random.Generator
) -> FloatArray:
    """Draw vectors of parameters; the first of many are those of fewer.

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
    n_each = n_criteria + len(CURVE)
    uniform = rng.uniform(size=(n, n_criteria + n_domains * n_each))
    common = uniform[:, None, :n_criteria]
    own = uniform[:, n_criteria:].reshape(n, n_domains, n_each)
    merge = np.maximum(common * own[:, :, :n_criteria], 1e-12)
    merge = merge / merge.sum(axis=2, keepdims=True)
    u = own[:, :, n_criteria:]
    curve = np.stack(
        [
            _steepness(config, u[..., 0]),
            _threshold(config.for_budget(1.0), u[..., 1]),
            config.largest_exponent * u[..., 2],
            config.largest_base * u[..., 3],
        ],
        axis=2,
    )
    return np.concatenate([merge, curve], axis=2).reshape(n, -1)


def recombine_vectors(
    parents: FloatArray, fresh: FloatArray, *, n_domains: int, rng: np.random.Generator
) -> FloatArray:
    """Make vectors whose domains are those of good ones, a few drawn anew: nothing else is varied.

    A child takes each domain's parameters from one of two parents, and on average one domain's from
    a fresh draw, so that all of them stay within the prior's ranges.

    Args:
        parents: (n_parents, n_parameters) vectors, domain by domain.
        fresh: (n, n_parameters) draws from the prior, one a child.
        n_domains: Domains.
        rng: Source of the choices.

    Returns:
        (n, n_parameters)
    """
    n = len(fresh)
    blocks = parents.reshape(len(parents), n_domains, -1)
    pair = rng.integers(len(parents), size=(2, n))
    second = rng.uniform(size=(n, n_domains, 1)) < rng.uniform(0.0, 0.5, size=(n, 1, 1))
    children = np.where(second, blocks[pair[1]], blocks[pair[0]])
    anew = rng.uniform(size=(n, n_domains, 1)) < 1.0 / n_domains
    return np.where(anew, fresh.reshape(n, n_domains, -1), children).reshape(n, -1)


def mean_vector(
    config: QualityPriorConfig, vectors: FloatArray, *, n_domains: int, n_criteria: int
) -> FloatArray:
    """Average vectors in the space they are drawn in: logarithms where the prior is log.

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
    for place, spread in enumerate((config.steepness, config.threshold)):
        if spread == "log":
            values = np.maximum(parts[:, :, n_criteria + place], 1e-12)
            mean[:, n_criteria + place] = np.exp(np.log(values).mean(axis=0))
    mean[:, :n_criteria] /= mean[:, :n_criteria].sum(axis=1, keepdims=True)
    return np.asarray(mean.ravel(), dtype=np.float64)


def _steepness(config: QualityPriorConfig, u: FloatArray) -> FloatArray:
    if config.steepness == "log":
        return np.asarray(config.largest_steepness**u)
    return np.maximum(config.largest_steepness * u, 1e-6)


def _threshold(config: QualityPriorConfig, u: FloatArray) -> FloatArray:
    smallest, largest = config.smallest_threshold, config.largest_threshold
    assert smallest is not None, "filled in"
    assert largest is not None, "filled in"
    if config.threshold == "log":
        return np.asarray(smallest * (largest / smallest) ** u)
    return smallest + (largest - smallest) * u
