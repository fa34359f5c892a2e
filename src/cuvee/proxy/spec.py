"""All that decides one run's result, as plain data."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from cuvee import config
from cuvee.artifacts import Json
from cuvee.policy.mixture import Mixture

Step = Literal["explicit", "autograd", "stacked"]
"""Backward pass written out for the CPU and short contexts, torch's, or torch's for many runs of
one shape at once (`stack`)."""
_LONGEST_EXPLICIT = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSpec:
    """All that decides one run's result."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    pool: str
    """Folder of the pool's token store."""
    targets: str | None
    """Folder of the target sets' token store."""
    half: Literal["search", "verdict"]
    """The half of the targets this run is measured on."""
    mixture: Mixture
    """The policy; domains in the order of the pool."""
    size: str
    n_sequences: int
    context: int
    batch_sequences: int
    learning_rate: float
    warmup_steps: int
    schedule: Literal["constant", "cosine"]
    weight_decay: float
    clip: float
    seed: int
    """Initial weights and order of the data."""
    evaluation_seed: int
    """Choice of validation windows and of the subset; the same for a whole sweep."""
    subset_tokens: dict[str, int] | None
    """Tokens of each domain that the run may draw from; None for all."""
    points: tuple[float, ...]
    """Shares of the run at which losses are measured, rising; the last is 1. 0: before a step."""
    evaluation_tokens: int
    """Validation tokens of each target."""
    domain_evaluation_tokens: int
    """Validation tokens of each domain."""
    precision: Literal["float32", "bfloat16"]
    device: str
    checkpoints: Literal["none", "final", "every"]
    curve: dict[str, Any] | None = None
    """A quality curve (`policy.quality_curve.QualityCurve.to_json`) that samples the documents;
    None takes them by the mixture alone. With it the mixture is what the curve is expected to give.
    """
    quality: str | None = None
    """File of the (n_documents, n_criteria) criteria on one scale, in the order of the pool's
    store; needed with a curve."""
    copies: str | None = None
    """File of the (n_documents,) whole copies of every document, in the order of the pool's store;
    None: as mixture or curve say. With it the mixture is that of the copies' tokens."""
    step: Step = "autograd"
    """How gradients are computed (`possible_step`); the same numbers to rounding."""
    base: str | None = None
    """A safetensors file of a model of this size to begin with; None for random weights."""


PATHS = ("pool", "targets", "quality", "copies", "base")
"""Fields that name files and folders."""


def portable_spec(run: TrainingSpec) -> dict[str, Json]:
    """Return a spec as JSON without paths; the manifest names the digests of what lies there."""
    plain = config.dump(run)
    return {name: value for name, value in plain.items() if name not in PATHS}


def possible_step(step: Step, *, device: str, context: int) -> Step:
    """Return ``step``, or "autograd" where the explicit one is not for that device or context.

    It keeps attention's weights, whose number grows with the square of the context.
    """
    explicit = device.partition(":")[0] == "cpu" and context <= _LONGEST_EXPLICIT
    return "autograd" if step == "explicit" and not explicit else step
