"""Cross-entropy of a linear head and its curvature, a few hundred tokens of logits at a time.

Shapes in comments: N tokens, C width, V vocabulary. With p = softmax(z), z = W h:
d loss / d z = p - onehot(y), and the Hessian of the loss in z is diag(p) - p p^T.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_CHUNK = 512
_BLOCK = 128
"""Neighbouring ids whose chances are added up before one of them is drawn."""


def token_losses(hidden: Tensor, head: Tensor | None, targets: Tensor) -> Tensor:
    """Return (N,) cross-entropies in nats, without gradients.

    Args:
        hidden: (N, C) last hidden states, or (N, V) logits where there is no head.
        head: (V, C) or None.
        targets: (N,) ids.
    """
    losses = [
        F.cross_entropy(_widened(_logits(rows, head)), chosen, reduction="none")
        for rows, chosen in zip(
            torch.split(hidden, _CHUNK), torch.split(targets, _CHUNK), strict=True
        )
    ]
    return torch.cat(losses)


def loss_gradient(hidden: Tensor, head: Tensor | None, targets: Tensor, weights: Tensor) -> Tensor:
    """Return the gradient of the weighted sum of losses.

    Args:
        hidden: (N, C) last hidden states, or (N, V) logits where there is no head.
        head: (V, C) or None.
        targets: (N,) ids.
        weights: (N,) of each token's loss in the sum; 0 in padding.

    Returns:
        (N, C) in the type of ``hidden``.
    """

    def against_targets(chances: Tensor, rows: slice) -> Tensor:
        return _minus_one_at(chances, targets[rows])

    return _pulled_back(hidden, head, weights, against_targets)


def sampled_gradient(
    hidden: Tensor, head: Tensor | None, uniforms: Tensor, weights: Tensor
) -> Tensor:
    """Return the gradient of losses on labels drawn from the model itself.

    A label is drawn by inverting the distribution function, first over blocks of ids, then within
    the block.

    Args:
        hidden: (N, C) last hidden states, or (N, V) logits where there is no head.
        head: (V, C) or None.
        uniforms: (N,) in [0, 1).
        weights: (N,) of each token's loss; 0 in padding.

    Returns:
        (N, C) gradient of the weighted sum.
    """

    def against_draws(chances: Tensor, rows: slice) -> Tensor:
        return _minus_one_at(chances, drawn_labels(chances, uniforms[rows]))

    return _pulled_back(hidden, head, weights, against_draws)


def curvature_product(
    hidden: Tensor, tangent: Tensor, head: Tensor | None, weights: Tensor
) -> Tensor:
    """Return the Hessian of the weighted sum of losses in ``hidden``, times ``tangent``.

    Per token W^T (diag(p) - p p^T) W t: the output part of a Gauss-Newton product.

    Args:
        hidden: (N, C) last hidden states, or (N, V) logits where there is no head.
        tangent: (N, C) change of ``hidden``.
        head: (V, C) or None.
        weights: (N,) of each token's loss; 0 in padding.

    Returns:
        (N, C).
    """

    def curved(chances: Tensor, rows: slice) -> Tensor:
        change = _widened(_logits(tangent[rows], head))
        change -= (chances * change).sum(1, keepdim=True)
        return chances.mul_(change)

    return _pulled_back(hidden, head, weights, curved)


def drawn_labels(chances: Tensor, uniforms: Tensor) -> Tensor:
    """Draw one id a row by inverting its distribution function.

    Args:
        chances: (N, V) rows sum to 1.
        uniforms: (N,) in [0, 1).

    Returns:
        (N,) ids, int64.
    """
    n_tokens, n_ids = chances.shape
    padded = F.pad(chances, (0, -n_ids % _BLOCK)) if n_ids % _BLOCK else chances
    blocks = padded.view(n_tokens, -1, _BLOCK)
    ends = blocks.sum(2).double().cumsum_(1)
    level = uniforms.double()[:, None] * ends[:, -1:]
    block = torch.searchsorted(ends, level, right=True).clamp_(max=ends.shape[1] - 1)
    before = torch.where(block > 0, ends.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = blocks.gather(1, block[:, :, None].expand(-1, -1, _BLOCK))[:, 0].double().cumsum_(1)
    place = torch.searchsorted(inside, level - before, right=True).clamp_(max=_BLOCK - 1)
    return (block * _BLOCK + place)[:, 0].clamp_(max=n_ids - 1)


def _pulled_back(
    hidden: Tensor,
    head: Tensor | None,
    weights: Tensor,
    of_logits: Callable[[Tensor, slice], Tensor],
) -> Tensor:
    """Return weights * W^T of_logits(softmax(W h)), (N, C); `of_logits` may use its table up."""
    grad = torch.empty_like(hidden)
    table = None if head is None else _table(hidden, len(head))
    for start in range(0, len(hidden), _CHUNK):
        rows = slice(start, start + _CHUNK)
        part = of_logits(_chances(hidden[rows], head, table), rows)
        grad[rows] = part if head is None else part.to(head.dtype) @ head
    return grad.mul_(weights[:, None])


def _table(hidden: Tensor, n_ids: int) -> Tensor:
    """Return memory for the logits of a chunk.

    Rows are an odd multiple of 16 numbers long: rows whose distance is a power of two meet in the
    same places of a cache, which slows the products of a narrow head.
    """
    padded = 16 * (-(-n_ids // 16) | 1)
    return hidden.new_empty(min(_CHUNK, len(hidden)), padded)


def _chances(hidden: Tensor, head: Tensor | None, table: Tensor | None) -> Tensor:
    """Return softmax(W h), (N, V), in float32 or wider, in the table's memory where it fits."""
    if head is None or table is None:
        return torch.softmax(_widened(hidden), 1)
    padded, n_ids = table[: len(hidden)], len(head)
    torch.mm(hidden, head.t(), out=padded[:, :n_ids])
    padded[:, n_ids:] = float("-inf")
    wide = _widened(padded)
    return torch.softmax(wide, 1, out=wide)[:, :n_ids]


def _logits(hidden: Tensor, head: Tensor | None) -> Tensor:
    return hidden if head is None else hidden @ head.t()


def _widened(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def _minus_one_at(chances: Tensor, chosen: Tensor) -> Tensor:
    minus = torch.full((len(chosen), 1), -1.0, dtype=chances.dtype, device=chances.device)
    return chances.scatter_add_(1, chosen[:, None], minus)
