"""Mean loss gradient of a reference set."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from cuvee.errors import ConfigError, DataError
from cuvee.influence.batches import Chunk, Document, chunks
from cuvee.influence.model import CausalModel, Layer, Where, tracked_layers, weights_digest
from cuvee.influence.passes import against_targets, backward_tokens
from cuvee.influence.vectors import LayerVector

Mean = Literal["tokens", "documents"]


def gradient(
    model: CausalModel,
    reference: Iterable[Document],
    *,
    where: Where = "attention",
    mean: Mean = "tokens",
) -> LayerVector:
    """Compute the mean gradient of the loss on a reference set, a batch at a time.

    Args:
        model: The model.
        reference: Token ids of its documents, streamed.
        where: Which matrices.
        mean: Over all tokens alike; or over documents, each with the mean of its tokens.

    Returns:
        sum_t grad loss_t / n_tokens in float64, on the model's device.

    Raises:
        ConfigError: ``mean`` is unknown.
        DataError: The set has no predicted token, or a gradient is not finite.
    """
    if mean not in ("tokens", "documents"):
        raise ConfigError(f"mean={mean!r} is unknown; allowed: tokens, documents.")
    layers = tracked_layers(model, where)
    total = zeros(model, layers)
    count = 0.0
    for chunk in chunks(model, reference):
        count += _add_chunk(model, layers, chunk, total, by_document=mean == "documents")
    if count == 0:
        raise DataError("the reference set has no predicted token. Give documents of 2 or more.")
    for name, value in total.items():
        value /= count
        if not torch.isfinite(value).all():
            raise DataError(
                f"the gradient of {name} is not finite. Look for a loss that is not finite: a "
                "broken checkpoint, or a precision too narrow for this model."
            )
    return LayerVector(total, weights_digest(model, layers), model.tokenizer)


def zeros(model: CausalModel, layers: tuple[Layer, ...]) -> dict[str, Tensor]:
    """Return a float64 zero (n_out, n_in) for each layer."""
    return {
        layer.name: torch.zeros(layer.n_out, layer.n_in, dtype=torch.float64, device=model.device)
        for layer in layers
    }


def _add_chunk(
    model: CausalModel,
    layers: tuple[Layer, ...],
    chunk: Chunk,
    total: dict[str, Tensor],
    *,
    by_document: bool,
) -> float:
    """Add the gradients of a chunk; return how many tokens or documents counted."""

    def add(name: str, inputs: Tensor, grads: Tensor) -> None:
        total[name] += product(grads, inputs)

    counted = torch.from_numpy(chunk.n_predicted).to(model.device)
    each = torch.cat([1 / counted.double().clamp(min=1), counted.new_zeros(1).double()])
    for batch in chunk.batches():
        weights = each[batch.document] if by_document else None
        backward_tokens(model, layers, batch, against_targets(batch, weights), add)
    return float((counted > 0).sum() if by_document else counted.sum())


def product(grads: Tensor, inputs: Tensor) -> Tensor:
    """Return sum_t g_t a_t^T, (n_out, n_in), in float32 or wider."""
    if grads.dtype in (torch.bfloat16, torch.float16):
        grads, inputs = grads.float(), inputs.float()
    return grads.t() @ inputs
