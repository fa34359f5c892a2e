"""Cross-entropy of a linear head without a table of tokens by vocabulary.

The logits of a few hundred tokens at a time are turned into probabilities in place, and the
gradients of hidden states and head are formed from them at once, so memory does not grow with
tokens x vocabulary and no logit is computed twice.
"""

from typing import Any

import torch
from torch import Tensor

_CHUNK = 512
"""Tokens whose logits are held at a time."""
_LEAST = 1e-30
"""A probability below this has lost digits."""


class _HeadLoss(torch.autograd.Function):
    """Mean cross-entropy; d loss / d logits = (softmax - onehot) / n_tokens."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        grad_hidden, grad_head = torch.empty_like(hidden), torch.zeros_like(head)
        loss = head_gradients(
            hidden,
            head,
            targets,
            table=logits_table(hidden, head.shape[0]),
            grad_hidden=grad_hidden,
            grad_head=grad_head,
            scale=1 / len(hidden),
        )
        ctx.save_for_backward(grad_hidden, grad_head)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_hidden, grad_head = ctx.saved_tensors
        return grad_hidden * grads[0], grad_head * grads[0], None


def head_gradients(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    *,
    table: Tensor,
    grad_hidden: Tensor,
    grad_head: Tensor,
    scale: float,
) -> Tensor:
    """Compute a scaled sum of cross-entropies with its gradients.

    Args:
        hidden: (n_tokens, width) last hidden states.
        head: (vocabulary, width) head weights, of the same type.
        targets: (n_tokens,) token ids, int64.
        table: Memory for logits, of the same type (`logits_table`).
        grad_hidden: (n_tokens, width), written.
        grad_head: (vocabulary, width), added to; may be of a wider type.
        scale: Factor of the sum, 1 / n_tokens for a mean.

    Returns:
        A scalar, at least float32. A token's loss is read from its probability; in bfloat16 that
        rounds it by up to 0.004 nats.
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)
    picked = torch.empty(len(hidden), dtype=wide, device=hidden.device)
    for start in range(0, len(hidden), _CHUNK):
        rows, chosen = hidden[start : start + _CHUNK], targets[start : start + _CHUNK, None]
        padded = table[: len(rows)]
        chances = padded[:, : len(head)]
        torch.mm(rows, head.t(), out=chances)
        padded[:, len(head) :] = float("-inf")
        torch.softmax(padded, dim=1, out=padded)
        picked[start : start + _CHUNK] = chances.gather(1, chosen)[:, 0]
        # d loss / d logits = probabilities - one at the target
        chances.scatter_add_(1, chosen, torch.full_like(chosen, -1, dtype=chances.dtype))
        grad_hidden[start : start + _CHUNK].addmm_(chances, head, beta=0, alpha=scale)
        add_product(grad_head, chances.t(), rows, scale=scale)
    losses = picked.log().neg_()
    lost = picked < _LEAST
    if lost.any():
        losses[lost] = token_losses(hidden[lost], head, targets[lost])
    return losses.sum() * scale


def logits_table(hidden: Tensor, vocabulary_size: int) -> Tensor:
    """Return memory for the logits of at most _CHUNK rows of `hidden`.

    Rows are an odd multiple of 16 numbers long: rows whose distance is a power of two meet in the
    same places of a cache, which costs the gradient of a narrow head a third of its time.
    """
    padded = 16 * (-(-vocabulary_size // 16) | 1)
    return hidden.new_empty(min(_CHUNK, len(hidden)), padded)


def add_product(total: Tensor, left: Tensor, right: Tensor, *, scale: float = 1.0) -> None:
    """Add scale * left @ right to total, which may be of a wider type."""
    if total.dtype == left.dtype:
        total.addmm_(left, right, alpha=scale)
    else:
        total.add_(torch.mm(left, right), alpha=scale)


def head_loss(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of a linear head, differentiable in both arguments.

    Args:
        hidden: (n_tokens, width) last hidden states.
        head: (vocabulary, width) head weights, of the same type.
        targets: (n_tokens,) token ids, int64.

    Returns:
        Nats per token, a scalar, at least float32.
    """
    loss: Tensor = _HeadLoss.apply(hidden, head, targets)  # type: ignore[no-untyped-call]
    return loss


def token_losses(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Return each token's cross-entropy, without gradients.

    Args:
        hidden: (n_tokens, width).
        head: (vocabulary, width).
        targets: (n_tokens,) int64.

    Returns:
        (n_tokens,) nats, at least float32.
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)
    losses = torch.empty(hidden.shape[0], dtype=wide, device=hidden.device)
    for start in range(0, hidden.shape[0], _CHUNK):
        logits = (hidden[start : start + _CHUNK] @ head.t()).to(wide)
        losses[start : start + _CHUNK] = torch.nn.functional.cross_entropy(
            logits, targets[start : start + _CHUNK], reduction="none"
        )
    return losses


def most_likely_tokens(hidden: Tensor, head: Tensor) -> Tensor:
    """Return the most likely next token after each hidden state.

    Args:
        hidden: (n_tokens, width).
        head: (vocabulary, width).

    Returns:
        (n_tokens,) int64 ids; the lowest of equals.
    """
    parts = [
        (hidden[start : start + _CHUNK] @ head.t()).argmax(1)
        for start in range(0, hidden.shape[0], _CHUNK)
    ]
    return torch.cat(parts)
