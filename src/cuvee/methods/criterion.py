"""The settings of one quality criterion."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from cuvee.artifacts import Json
from cuvee.errors import ConfigError

Kind: TypeAlias = Literal[
    "heuristics",
    "classifier",
    "importance",
    "perplexity",
    "dsir",
    "column",
    "labels",
    "influence",
    "hf-classifier",
    "fasttext",
    "ask-llm",
]

LEARNT = ("classifier", "importance", "perplexity", "dsir")
"""Kinds that are learnt from the targets."""
LOCAL = ("hf-classifier", "fasttext", "ask-llm")
"""Kinds whose models lie on this machine."""
_NEEDED: Mapping[Kind, tuple[str, ...]] = {
    "column": ("column", "larger_is_better"),
    "labels": ("folder",),
    "influence": ("folder",),
    "hf-classifier": ("model",),
    "fasttext": ("model", "label"),
    "ask-llm": ("model", "prompt"),
}
_OWN: Mapping[str, tuple[Kind, ...]] = {
    "column": ("column",),
    "folder": ("labels", "influence"),
    "model": ("hf-classifier", "fasttext", "ask-llm"),
    "label": ("hf-classifier", "fasttext"),
    "prompt": ("ask-llm",),
    "max_tokens": ("hf-classifier", "ask-llm"),
}
"""Settings that only some kinds have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CriterionConfig:
    """One quality criterion."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Kind
    """heuristics: rules of thumb for clean text. classifier: probability of being of the reference.
    importance: log ratio of n-grams under reference and pool. perplexity: of the reference's
    bigrams. dsir: that of importance summed over the document, plus Gumbel noise, so that the best
    are a sample drawn by importance. column: numbers that the pool's shards hold already. labels:
    a label column of another run on these documents, such as the influence of `cuvee influence
    score`. influence: that of few scored documents, learnt from their n-grams. By models on this
    machine: hf-classifier: a sequence classifier's output. fasttext: probability of a label.
    ask-llm: probability of "yes" to a prompt."""
    targets: tuple[str, ...] = ()
    """Target sets that are the reference; none: all of them. Only their search half is read."""
    larger_is_better: bool | None = None
    """Direction of the score; None: that of its kind, smaller for perplexity, larger otherwise. A
    column has none of its own: say it."""
    column: str | None = None
    """Of kind column: its name; a.b is field b of a group column a. Documents without a number
    stand with the worst that have one."""
    folder: str | None = None
    """Of kind labels: the column's folder, ``OUT/labels/<name>``. Of kind influence: the folder of
    a quad run, such a column, or a Parquet file with key and score."""
    model: str | None = None
    """Of kinds with a model: its folder, or fastText file. Nothing is fetched, and no code of a
    model's own is run."""
    label: str | None = None
    """Label whose probability is the score; none for a sequence classifier of one output."""
    prompt: str | None = None
    """Of kind ask-llm: a question to be answered yes or no; {text} stands for the document."""
    max_tokens: int | None = None
    """Tokens of a document read at most; None: as many as the model takes."""

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
        if self.prompt is not None and "{text}" not in self.prompt:
            raise ConfigError("prompt has no {text}; put it where the document is to stand.")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ConfigError(f"max_tokens is {self.max_tokens}; it must be at least 1.")

    @property
    def turned(self) -> bool:
        """True where larger scores are better."""
        given = self.larger_is_better
        return self.kind != "perplexity" if given is None else given

    def options(self, seed: int) -> dict[str, Json]:
        """Return what its scorer is told besides its model's file."""
        if self.kind == "column":
            return {"number": self.column}
        if self.kind == "dsir":
            return {"seed": seed}
        named = {"label": self.label, "prompt": self.prompt, "max_tokens": self.max_tokens}
        return {name: value for name, value in named.items() if value is not None}
