"""Forward and backward passes over a batch, with each tracked layer's tokens at hand.

One backward pass of the sum of all token losses gives every token's gradient at the output of every
tracked matrix; inputs a and output gradients g of one layer are handed over together and dropped.

Shapes in comments: N tokens of the batch (padding included), C width.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from cuvee.influence.attention import segment_attention, segment_attention_change
from cuvee.influence.batches import Batch
from cuvee.influence.head import loss_gradient, token_losses
from cuvee.influence.intercept import Attention, Intercept, Linear, LinearMap
from cuvee.influence.model import CausalModel, Layer, evaluating

Tokens: TypeAlias = Callable[[str, Tensor, Tensor], None]
"""Receives a layer's name, inputs (N, n_in) and output gradients (N, n_out)."""
Pull: TypeAlias = Callable[[Tensor, Tensor | None], Tensor]
"""Maps hidden states (N, C) and the head to the gradient (N, C) that is sent back."""


class _Tapped(torch.autograd.Function):
    """A linear map whose inputs and output gradients are handed to a function."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, use: LinearMap, receive: Tokens) -> Tensor:
        out = use.plain()
        ctx.save_for_backward(x)
        ctx.use, ctx.receive = use, receive
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        grad = grads[0]
        ctx.receive(
            ctx.use.name,
            x.detach().reshape(-1, x.shape[-1]).to(grad.dtype),
            grad.reshape(-1, grad.shape[-1]),
        )
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        return (grad @ ctx.use.weight.to(grad.dtype)).to(x.dtype), None, None, None


@contextmanager
def running(
    model: CausalModel,
    layers: tuple[Layer, ...],
    batch: Batch,
    linear: Linear,
    *,
    changing: bool = False,
) -> Iterator[None]:
    """Catch the tracked linear maps of a forward pass, and its attention where that is plain.

    Args:
        model: The model.
        layers: Tracked matrices.
        batch: Whose windows attention stays within.
        linear: Computes a tracked linear map.
        changing: Tensors carry their change along a direction (forward-mode derivatives).
    """
    parameters = dict(model.module.named_parameters())
    names = {id(parameters[layer.name]): layer.name for layer in layers}
    attention = _changing_attention(batch) if changing else _attention(batch)
    with (
        evaluating(model.module),
        Intercept(names, linear=linear, attention=attention if model.plain_attention else None),
        model.autocast(),
    ):
        yield


def hidden_states(model: CausalModel, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Run the module: (N, C) last hidden states, and the head in their type."""
    hidden = model.hidden(batch.tokens, batch.segments)
    hidden = hidden.reshape(-1, hidden.shape[-1])
    if model.precision == "bfloat16":
        hidden = hidden.to(torch.bfloat16)
    head = None if model.head is None else model.head.detach().to(hidden.dtype)
    return hidden, head


def backward_tokens(
    model: CausalModel, layers: tuple[Layer, ...], batch: Batch, pull: Pull, receive: Tokens
) -> None:
    """Run forward and backward; hand over each tracked layer's inputs and output gradients.

    Args:
        model: The model.
        layers: Tracked matrices.
        batch: Tokens.
        pull: Gradient at the last hidden states.
        receive: Called once for each use of a layer, last layer first.
    """
    anchor = torch.zeros((), device=model.device, requires_grad=True)

    def tap(use: LinearMap) -> Tensor:
        out: Tensor = _Tapped.apply(use.x, anchor, use, receive)  # type: ignore[no-untyped-call]
        return out

    with torch.enable_grad(), running(model, layers, batch, tap):
        hidden, head = hidden_states(model, batch)
    with torch.no_grad():
        grad = pull(hidden.detach(), head)
    torch.autograd.grad(hidden, anchor, grad, allow_unused=True)


def window_gradients(batch: Batch, rows: Tensor, grads: Tensor) -> Iterator[Tensor]:
    """Yield sum_t g_t a_t^T, (n_out, n_in), of each window.

    Args:
        batch: Tokens.
        rows: (N, n_in) a layer's inputs.
        grads: (N, n_out) its output gradients.
    """
    width = batch.tokens.shape[1]
    for span in batch.spans:
        place = slice(span.row * width + span.start, span.row * width + span.stop)
        yield grads[place].t() @ rows[place]


def against_targets(batch: Batch, weights: Tensor | None = None) -> Pull:
    """Return the pull of the sum of losses on the text itself, weighted by token."""

    def pull(hidden: Tensor, head: Tensor | None) -> Tensor:
        each = batch.is_text if weights is None else weights
        return loss_gradient(hidden, head, batch.targets, each.to(hidden.dtype))

    return pull


def losses(
    model: CausalModel, layers: tuple[Layer, ...], batch: Batch, linear: Linear | None = None
) -> Tensor:
    """Return (N,) token losses without gradients, linear maps replaced if asked for."""
    with torch.no_grad(), running(model, layers, batch, linear or LinearMap.plain):
        hidden, head = hidden_states(model, batch)
        return token_losses(hidden, head, batch.targets)


def _attention(batch: Batch) -> Attention:
    def attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        return segment_attention(q.to(v.dtype), k.to(v.dtype), v, batch.spans, scale)

    return attention


def _changing_attention(batch: Batch) -> Attention:
    def attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        pairs = [forward_ad.unpack_dual(part) for part in (q, k, v)]  # type: ignore[no-untyped-call]
        parts = [primal.to(v.dtype) for primal, _ in pairs]
        changes = [
            torch.zeros_like(part) if change is None else change.to(v.dtype)
            for part, (_, change) in zip(parts, pairs, strict=True)
        ]
        mixed, change = segment_attention_change(parts, changes, batch.spans, scale)
        dual: Tensor = forward_ad.make_dual(mixed, change)  # type: ignore[no-untyped-call]
        return dual

    return attention
