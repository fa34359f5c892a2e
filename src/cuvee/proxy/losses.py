"""Cross-entropy of a linear head without a table of tokens by vocabulary.

The logits of a few hundred tokens at a time are turned into probabilities in place, and the
gradients of hidden states and head are formed from them at once, so memory does not grow with
tokens x vocabulary and no logit is computed twice.
"""

from typing import Any

import torch
from torch import Tensor

_CHUNK = 512


class _HeadLoss(torch.autograd.Function):
    """Mean cross-entropy; d loss / d logits = (softmax - onehot) / n_tokens."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        n_tokens = hidden.shape[0]
        grad_hidden = torch.empty_like(hidden)
        grad_head = torch.zeros_like(head)
        logits = hidden.new_empty((min(_CHUNK, n_tokens), head.shape[0]))
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, n_tokens, _CHUNK):
            rows = hidden[start : start + _CHUNK]
            chosen = targets[start : start + _CHUNK, None]
            table = logits[: rows.shape[0]]
            torch.mm(rows, head.t(), out=table)
            picked = table.gather(1, chosen).float()
            total += (_log_normaliser(table) - picked).sum()
            table.scatter_add_(1, chosen, torch.full_like(chosen, -1, dtype=table.dtype))
            torch.mm(table, head, out=grad_hidden[start : start + _CHUNK])
            grad_head.addmm_(table.t(), rows)
        ctx.save_for_backward(grad_hidden.div_(n_tokens), grad_head.div_(n_tokens))
        return total / n_tokens

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_hidden, grad_head = ctx.saved_tensors
        return grad_hidden * grads[0], grad_head * grads[0], None


def head_loss(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of a linear head, differentiable in both arguments.

    Args:
        hidden: (n_tokens, width) last hidden states.
        head: (vocabulary, width) head weights, of the same type.
        targets: (n_tokens,) token ids, int64.

    Returns:
        Nats per token, a float32 scalar.
    """
    loss: Tensor = _HeadLoss.apply(hidden, head, targets)  # type: ignore[no-untyped-call]
    return loss


def token_losses(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Return each token's cross-entropy in float32, without gradients.

    Args:
        hidden: (n_tokens, width).
        head: (vocabulary, width).
        targets: (n_tokens,) int64.

    Returns:
        (n_tokens,) nats.
    """
    losses = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
    for start in range(0, hidden.shape[0], _CHUNK):
        logits = (hidden[start : start + _CHUNK] @ head.t()).float()
        losses[start : start + _CHUNK] = torch.nn.functional.cross_entropy(
            logits, targets[start : start + _CHUNK], reduction="none"
        )
    return losses


def _log_normaliser(logits: Tensor) -> Tensor:
    """Turn logits into probabilities in place and return log sum exp of each row.

    log sum exp = max - log(largest probability), which is exact and spares a second pass of exp.
    """
    largest = logits.amax(1, keepdim=True)
    torch.softmax(logits, dim=1, out=logits)
    return largest.float() - logits.amax(1, keepdim=True).float().log()
