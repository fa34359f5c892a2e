"""Loss and gradients of one batch: two ways to the same numbers.

`AutogradStep` runs anywhere; `ExplicitStep` is for the CPU and short contexts. Which one a sweep
takes is decided once (`machine.choose_step`) and recorded in its specs.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, Protocol

import torch
from torch import Tensor

from cuvee.proxy.explicit_step import ExplicitStep
from cuvee.proxy.model import ProxyModel
from cuvee.proxy.spec import TrainingSpec


class TrainingStep(Protocol):
    """Forward and backward pass of a model."""

    def __call__(self, tokens: Tensor, segments: Tensor, targets: Tensor) -> float:
        """Return the mean loss in nats per token; add its gradients to the parameters' ``grad``.

        Args:
            tokens: (B, T) input ids, int64.
            segments: (B, T) number of the document window each token belongs to.
            targets: (B, T) ids to be predicted.
        """
        ...


class AutogradStep:
    """The model's loss, differentiated by torch."""

    def __init__(self, model: ProxyModel, precision: Literal["float32", "bfloat16"]) -> None:
        self._model = model
        self._precision = precision

    def __call__(self, tokens: Tensor, segments: Tensor, targets: Tensor) -> float:
        """Return the mean loss; add its gradients."""
        with autocast(tokens.device, self._precision):
            loss = self._model.loss(tokens, segments, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())


def training_step(model: ProxyModel, run: TrainingSpec) -> TrainingStep:
    """Return the step that a spec names; a run alone is no stack, and takes autograd."""
    if run.step != "explicit":
        return AutogradStep(model, run.precision)
    return ExplicitStep(
        model,
        n_sequences=run.batch_sequences,
        context=run.context,
        dtype=torch.bfloat16 if run.precision == "bfloat16" else torch.float32,
    )


def autocast(
    device: torch.device, precision: Literal["float32", "bfloat16"]
) -> AbstractContextManager[object]:
    """Return the context in which products are made in a precision."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
