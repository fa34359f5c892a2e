"""The settings of one quality criterion."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from cuvee.errors import ConfigError

Kind: TypeAlias = Literal["heuristics", "classifier", "importance", "perplexity", "dsir", "column"]

LEARNT = ("classifier", "importance", "perplexity", "dsir")
"""Kinds that are learnt from the targets."""
_NEEDED: Mapping[Kind, tuple[str, ...]] = {"column": ("column", "larger_is_better")}
_OWN: Mapping[str, tuple[Kind, ...]] = {"column": ("column",)}
"""Settings that only some kinds have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CriterionConfig:
    """One quality criterion."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Kind
    """heuristics: rules of thumb for clean text. classifier: probability of being of the reference.
    importance: log ratio of n-grams under reference and pool. perplexity: of the reference's
    bigrams. dsir: that of importance summed over the document, plus Gumbel noise, so that the best
    are a sample drawn by importance. column: numbers that the pool's shards hold already."""
    targets: tuple[str, ...] = ()
    """Target sets that are the reference; none: all of them. Only their search half is read."""
    larger_is_better: bool | None = None
    """Direction of the score; None: that of its kind, smaller for perplexity, larger otherwise. A
    column has none of its own: say it."""
    column: str | None = None
    """Of kind column: its name; a.b is field b of a group column a. Documents without a number
    stand with the worst that have one."""

    def __post_init__(self) -> None:
        for name in _NEEDED.get(self.kind, ()):
            if getattr(self, name) is None:
                raise ConfigError(f"a criterion of kind {self.kind!r} needs {name}; give it.")
        for name, kinds in _OWN.items():
            if getattr(self, name) is not None and self.kind not in kinds:
                raise ConfigError(
                    f"{name} is a setting of criteria of kind {' or '.join(kinds)}, not of "
                    f"{self.kind!r}; leave it out."
                )

    @property
    def turned(self) -> bool:
        """True where larger scores are better."""
        given = self.larger_is_better
        return self.kind != "perplexity" if given is None else given
