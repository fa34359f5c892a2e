"""The model that training is continued from: given, or trained here."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from cuvee.errors import ConfigError
from cuvee.methods import measure
from cuvee.methods.job import Job
from cuvee.methods.pool import Prepared
from cuvee.policy.mixture import Mixture
from cuvee.proxy.sweep import ProxyConfig, training_spec
from cuvee.randomness import integer_seed, stream


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseConfig:
    """The model that training is continued from."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    checkpoint: str | None = None
    """A safetensors file of a run of the same size and tokenizer; None trains one here."""
    n_tokens: int = 1_000_000
    """Tokens the base is trained on, where it is trained here."""
    mixture: Mapping[str, float] = field(default_factory=dict)
    """Shares of the domains the base is trained on, in continual pre-training also of what is left
    of them later; empty takes their natural shares."""

    def __post_init__(self) -> None:
        if self.n_tokens < 1:
            raise ConfigError(f"base.n_tokens is {self.n_tokens}; it must be at least 1.")
        for name, share in self.mixture.items():
            if not share >= 0:
                raise ConfigError(f"base.mixture gives {name!r} {share}; it must be at least 0.")
        if self.mixture and not sum(self.mixture.values()) > 0:
            raise ConfigError("base.mixture is all 0; give at least one domain a share.")


def base_model(
    job: Job,
    settings: BaseConfig,
    *,
    proxy: ProxyConfig,
    mixture: Mixture,
    prepared: Prepared,
    seed: int,
) -> Path:
    """Return the base model's weights; a base that is trained here is trained once.

    Args:
        job: Where.
        settings: Checkpoint, or how long to train.
        proxy: Size, and how it is trained.
        mixture: What it is trained on.
        prepared: The pool.
        seed: The command's seed.
    """
    if settings.checkpoint is not None:
        return Path(settings.checkpoint)
    inputs = measure.sweep_inputs(job, prepared, proxy, target_tokens=0)
    trained = replace(proxy, n_tokens=settings.n_tokens, points=(1.0,), checkpoints="final")
    spec = training_spec(
        trained,
        inputs,
        mixture,
        seed=seed,
        run_seed=integer_seed(stream(seed, "base")),
        learning_rate=measure.learning_rate(job, prepared, proxy, inputs, seed=seed),
    )
    measure.measure(job, "train the base", {"base": spec}, job.folder("base"), prepared)
    return job.folder("base", "base", "model.safetensors")
