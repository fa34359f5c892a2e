"""Cross-entropy of many linear heads at once, never a table of all members, tokens and vocabulary.

As `losses`, with a leading axis of members. A portion, some members by some tokens, has its logits
computed, turned into their own gradient in place and used up before the next one.

Shapes in comments: M members, N tokens of each, C width, V vocabulary.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

_PORTION = {"cpu": 2**22, "cuda": 2**28}
"""Logits held at a time. A card wants few large products, a processor what its cache holds."""
_TOKENS = {"cpu": 512, "cuda": 4096}
"""Tokens of a member in a portion, at most."""


class _StackedHeadLoss(torch.autograd.Function):
    """Scaled sum of each member's cross-entropies; d / d logits = softmax - onehot."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, scale: float, compiled: bool
    ) -> Tensor:
        gradients = _compiled_gradients() if compiled else logits_to_gradients
        narrow = head.to(hidden.dtype)
        grad_hidden, grad_head = torch.empty_like(hidden), torch.zeros_like(head)
        losses = hidden.new_empty(targets.shape, dtype=_wide(hidden))
        for members, tokens in _portions(hidden, head.shape[1]):
            rows = hidden[members, tokens]
            table = torch.bmm(rows, narrow[members].transpose(1, 2))
            losses[members, tokens] = gradients(table, targets[members, tokens])
            grad_hidden[members, tokens] = torch.bmm(table, narrow[members])
            _add_product(grad_head[members], table.transpose(1, 2), rows)
        ctx.gradients = (grad_hidden, grad_head)
        ctx.scale = scale
        return losses.sum(1) * scale

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_hidden, grad_head = ctx.gradients
        del ctx.gradients  # scaled in place: of a large vocabulary there is no room for two
        factor = (grads[0] * ctx.scale)[:, None, None]
        return (
            grad_hidden.mul_(factor.to(grad_hidden.dtype)),
            grad_head.mul_(factor.to(grad_head.dtype)),
            None,
            None,
            None,
        )


def stacked_head_loss(
    hidden: Tensor, head: Tensor, targets: Tensor, *, scale: float, compiled: bool = False
) -> Tensor:
    """Return the scaled sum of each member's cross-entropies; differentiable once.

    Args:
        hidden: (M, N, C) last hidden states, in the type of matrix products.
        head: (M, V, C) head weights; may be of a wider type, as its gradient then is.
        targets: (M, N) token ids, int64.
        scale: Factor of the sums, 1 / N for a mean.
        compiled: Softmax and gradient of the logits in one kernel (`torch.compile`).

    Returns:
        (M,) nats, at least float32.
    """
    losses: Tensor = _StackedHeadLoss.apply(  # type: ignore[no-untyped-call]
        hidden, head, targets, scale, compiled
    )
    return losses


def stacked_token_losses(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Return each token's cross-entropy, without gradients.

    Args:
        hidden: (M, N, C).
        head: (M, V, C), of any type.
        targets: (M, N) int64.

    Returns:
        (M, N) nats, at least float32.
    """
    narrow = head.to(hidden.dtype)
    losses = hidden.new_empty(targets.shape, dtype=_wide(hidden))
    for members, tokens in _portions(hidden, head.shape[1]):
        table = torch.bmm(hidden[members, tokens], narrow[members].transpose(1, 2))
        chosen = targets[members, tokens, None]
        wide = table.to(losses.dtype)
        losses[members, tokens] = wide.logsumexp(2) - wide.gather(2, chosen)[:, :, 0]
    return losses


def logits_to_gradients(table: Tensor, targets: Tensor) -> Tensor:
    """Turn logits into the gradients of their cross-entropies, in place.

    Args:
        table: (M, N, V) logits; becomes softmax - onehot.
        targets: (M, N) token ids, int64.

    Returns:
        (M, N) cross-entropies in nats: log sum exp(l - max) + max - l[target], which no small
        probability can spoil.
    """
    chosen = targets[:, :, None]
    peak = table.amax(2, keepdim=True)
    picked = table.gather(2, chosen)
    table.sub_(peak).exp_()
    total = table.sum(2, keepdim=True, dtype=_wide(table))
    losses = total.log() + (peak - picked)
    table.div_(total)
    table.scatter_add_(2, chosen, torch.full_like(picked, -1))
    return losses[:, :, 0]


@cache
def _compiled_gradients() -> Callable[[Tensor, Tensor], Tensor]:
    compiled: Callable[[Tensor, Tensor], Tensor] = torch.compile(logits_to_gradients)
    return compiled


def _portions(hidden: Tensor, vocabulary_size: int) -> Iterator[tuple[slice, slice]]:
    """Yield (members, tokens) that cover a stack."""
    kind = "cuda" if hidden.is_cuda else "cpu"
    n_members, n_tokens = hidden.shape[:2]
    tokens = min(n_tokens, _TOKENS[kind])
    members = max(1, _PORTION[kind] // (tokens * vocabulary_size))
    for first in range(0, n_members, members):
        for start in range(0, n_tokens, tokens):
            yield slice(first, first + members), slice(start, start + tokens)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right to total, which may be of a wider type."""
    if total.dtype == left.dtype:
        total.baddbmm_(left, right)
    else:
        total.add_(torch.bmm(left, right))


def _wide(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)
