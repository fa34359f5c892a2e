"""Mixture weights as a sampling policy: one flat rate a domain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, cast

import numpy as np

from cuvee.arrays import FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.errors import DataError
from cuvee.simplex import TOLERANCE, check_weights, largest_remainder, normalise
from cuvee.tables.statistics import PoolStatistics


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A part of a run trained on one set of weights."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    share: float = 1.0
    """Share of the run's tokens, in (0, 1]."""
    weights: tuple[float, ...]
    """(n_domains,) token shares; sum to 1."""

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise DataError(f"phase share is {self.share:g}; it must be above 0 and at most 1.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixture:
    """What a run is trained on: phases in order, each with its mixture weights."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    domains: tuple[str, ...]
    """Unique names, in the order of every phase's weights."""
    phases: tuple[Phase, ...]
    """At least one; shares sum to 1."""

    def __post_init__(self) -> None:
        if len(set(self.domains)) != len(self.domains) or not self.domains:
            raise DataError(
                f"mixture domains {list(self.domains)} must be unique names, at least one."
            )
        if not self.phases:
            raise DataError("mixture has no phases; give at least one.")
        total = sum(phase.share for phase in self.phases)
        if abs(total - 1.0) > TOLERANCE:
            raise DataError(f"phase shares sum to {total:.12g}; they must sum to 1.")
        for phase in self.phases:
            check_weights(phase.weights, n_domains=len(self.domains))

    @classmethod
    def flat(
        cls,
        domains: Sequence[str],
        weights: Sequence[float] | FloatArray,
        *,
        shares: Sequence[float] = (1.0,),
    ) -> Self:
        """Make a mixture that is the same in all phases, by default in one.

        Args:
            domains: (n_domains,) unique names.
            weights: (n_domains,) token shares; sum to 1.
            shares: (n_phases,) share of the run's tokens of each phase.
        """
        same = tuple(float(weight) for weight in weights)
        phases = tuple(Phase(share=share, weights=same) for share in shares)
        return cls(domains=tuple(domains), phases=phases)

    @classmethod
    def of_columns(
        cls,
        domains: Sequence[str],
        columns: Sequence[float] | FloatArray,
        *,
        shares: Sequence[float] = (1.0,),
    ) -> Self:
        """Make a mixture from one row of a design, the inverse of `columns`.

        Args:
            domains: (n_domains,) unique names.
            columns: (n_phases * n_domains,) weights of each phase times its share, one phase after
                the other; each phase's sum is its share.
            shares: (n_phases,) share of the run's tokens of each phase.

        Raises:
            DataError: A phase's columns do not sum to its share.
        """
        parts = np.asarray(columns, dtype=np.float64).reshape(len(shares), len(domains))
        for share, part in zip(shares, parts, strict=True):
            if abs(float(part.sum()) - share) > TOLERANCE:
                raise DataError(
                    f"columns of a phase sum to {part.sum():.12g}; they must sum to its share "
                    f"{share:g}. Project them with search.constraints."
                )
        phases = tuple(
            Phase(share=float(share), weights=tuple(normalise(part).tolist()))
            for share, part in zip(shares, parts, strict=True)
        )
        return cls(domains=tuple(domains), phases=phases)

    @property
    def columns(self) -> FloatArray:
        """(n_phases * n_domains,) weights of each phase times its share; they sum to 1.

        A run of one phase gives its weights. So a predictor of one phase fits runs of several.
        """
        return np.concatenate([phase.share * np.asarray(phase.weights) for phase in self.phases])

    @property
    def column_names(self) -> tuple[str, ...]:
        """(n_phases * n_domains,) domains, followed by ``@<phase>`` where there are several."""
        return column_names(self.domains, len(self.phases))

    @property
    def overall(self) -> FloatArray:
        """(n_domains,) token shares over the whole run."""
        return normalise(sum(phase.share * np.asarray(phase.weights) for phase in self.phases))

    def to_json(self) -> dict[str, Json]:
        """Return the mixture as plain JSON, weights by domain name."""
        return {
            "domains": list(self.domains),
            "phases": [
                {
                    "share": phase.share,
                    "weights": dict(zip(self.domains, phase.weights, strict=True)),
                }
                for phase in self.phases
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> Self:
        """Make a mixture from the answer of `to_json`.

        Raises:
            DataError: A key is missing, or a phase does not name each domain once.
        """
        try:
            domains = tuple(cast(Sequence[str], data["domains"]))
            phases = cast(Sequence[Mapping[str, Json]], data["phases"])
            return cls(domains=domains, phases=tuple(_phase(phase, domains) for phase in phases))
        except (KeyError, TypeError) as error:
            raise DataError(
                f"mixture is not in the expected form ({error!r}); it needs domains, and phases "
                "each with share and a weight for every domain."
            ) from error

    def bind(self, statistics: PoolStatistics, *, n_tokens: int) -> "BoundMixture":
        """Turn shares into rates for one pool and budget.

        Args:
            statistics: The pool. Its domains that the mixture does not name get no tokens.
            n_tokens: Token budget of the run.

        Raises:
            DataError: The mixture gives weight to a domain that the pool does not have.
        """
        named = dict(zip(self.domains, self.overall.tolist(), strict=True))
        for name in sorted(set(named) - set(statistics.domains)):
            if named[name] > 0.0:
                raise DataError(
                    f"mixture gives weight {named[name]:g} to domain {name!r}, which the pool does "
                    f"not have; its domains are {', '.join(statistics.domains)}."
                )
        weights = np.asarray([named.get(name, 0.0) for name in statistics.domains])
        return BoundMixture(
            domains=statistics.domains,
            weights=weights,
            quotas=largest_remainder(weights, n_tokens),
            rates=weights * n_tokens / statistics.n_tokens,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class BoundMixture:
    """A mixture bound to a pool and a token budget; domains in the pool's order."""

    domains: tuple[str, ...]
    weights: FloatArray
    """(n_domains,) token shares over the whole run."""
    quotas: IntArray
    """(n_domains,) tokens to take; they sum to the budget exactly."""
    rates: FloatArray
    """(n_domains,) expected copies of each document: ``w_i B / N_i``."""

    def copies(self, domain_index: IntArray) -> FloatArray:
        """Return the expected copies of documents.

        Args:
            domain_index: (n_documents,) positions in ``domains``.

        Returns:
            (n_documents,) expected copies, at least 0.
        """
        copies: FloatArray = self.rates[domain_index]
        return copies


def _phase(data: Mapping[str, Json], domains: tuple[str, ...]) -> Phase:
    weights = cast(Mapping[str, float], data["weights"])
    unknown = sorted(set(weights) - set(domains))
    if unknown:
        raise DataError(
            f"mixture phase weighs {unknown[0]!r}, which is not among its domains "
            f"{', '.join(domains)}."
        )
    return Phase(
        share=cast(float, data["share"]), weights=tuple(float(weights[name]) for name in domains)
    )


def column_names(domains: Sequence[str], n_phases: int) -> tuple[str, ...]:
    """Name the columns of a design whose runs have ``n_phases`` phases.

    Example:
        >>> column_names(["code", "web"], 2)
        ('code@1', 'web@1', 'code@2', 'web@2')
    """
    if n_phases == 1:
        return tuple(domains)
    return tuple(f"{name}@{phase}" for phase in range(1, n_phases + 1) for name in domains)
