"""Causal attention within segments, one segment at a time, forward and backward written out.

Packed documents do not see each other, so nothing is computed between them; within a document a
strip of queries meets only the keys up to its end. For contexts of some hundred tokens on a
processor this costs less than half of the general kernel's backward pass.

Shapes in comments: B sequences, T tokens, H heads, K head width, G query heads of one key head.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from cuvee.influence.batches import Span

_STRIP = 128


class _SegmentAttention(torch.autograd.Function):
    """softmax(q k^T) v, token t of a segment seeing tokens 0..t of it."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, spans: Sequence[Span]) -> Tensor:
        b, h, t, width = q.shape
        mixed = q.new_zeros(b, t, h, width).transpose(1, 2)
        weights = []
        masks: dict[int, Tensor] = {}
        for rows, seen in _strips(spans):
            queries, keys, values = _part(q, rows, k), _part(k, seen, k), _part(v, seen, k)
            n_queries, n_seen = rows[1].stop - rows[1].start, seen[1].stop - seen[1].start
            table = torch.bmm(queries, keys.transpose(1, 2))
            if n_queries not in masks:
                masks[n_queries] = _causal(n_queries, table)
            corner = table.view(-1, n_queries, n_seen)[:, :, n_seen - n_queries :]
            corner.add_(masks[n_queries])
            torch.softmax(table, -1, out=table)
            mixed[rows[0], :, rows[1]] = torch.bmm(table, values).view(h, n_queries, width)
            if any(ctx.needs_input_grad):
                weights.append(table)
        ctx.save_for_backward(q, k, v, *weights)
        ctx.spans = spans
        return mixed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *weights = ctx.saved_tensors
        grad = grads[0]
        q_grad, k_grad, v_grad = (torch.zeros_like(part) for part in (q, k, v))
        for (rows, seen), table in zip(_strips(ctx.spans), weights, strict=True):
            queries, keys, values = _part(q, rows, k), _part(k, seen, k), _part(v, seen, k)
            mixed_grad = _part(grad, rows, k)
            v_grad[seen[0], :, seen[1]] += torch.bmm(table.transpose(1, 2), mixed_grad)
            scores = torch.bmm(mixed_grad, values.transpose(1, 2))
            scores = torch._softmax_backward_data(scores, table, -1, table.dtype)
            part = torch.bmm(scores, keys)
            q_grad[rows[0], :, rows[1]] = part.view(q.shape[1], -1, q.shape[3])
            k_grad[seen[0], :, seen[1]] += torch.bmm(scores.transpose(1, 2), queries)
        return q_grad, k_grad, v_grad, None


def segment_attention(
    q: Tensor, k: Tensor, v: Tensor, spans: Sequence[Span], scale: float | None
) -> Tensor:
    """Mix the values of each segment.

    Args:
        q: (B, H, T, K) queries.
        k: (B, H / G, T, K) keys.
        v: (B, H / G, T, K) values.
        spans: The segments; what stands in none of them becomes 0.
        scale: Of scores; None for 1 / sqrt(K).

    Returns:
        (B, H, T, K).
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    mixed: Tensor = _SegmentAttention.apply(q * scale, k, v, spans)  # type: ignore[no-untyped-call]
    return mixed


def segment_attention_change(
    parts: Sequence[Tensor], changes: Sequence[Tensor], spans: Sequence[Span], scale: float | None
) -> tuple[Tensor, Tensor]:
    """Mix the values of each segment, and differentiate the mix along a change.

    With scores s and weights p = softmax(s): dp = p (ds - sum p ds).

    Args:
        parts: (B, H, T, K) queries, and keys and values as in `segment_attention`.
        changes: Changes of the three.
        spans: The segments.
        scale: Of scores; None for 1 / sqrt(K).

    Returns:
        The mix and its change, both (B, H, T, K).
    """
    q, k = parts[:2]
    b, h, t, width = q.shape
    scale = width**-0.5 if scale is None else scale
    mixed, change = (q.new_zeros(b, t, h, width).transpose(1, 2) for _ in range(2))
    for rows, seen in _strips(spans):
        (q0, q1), (k0, k1), (v0, v1) = (
            (_part(part, place, k), _part(moved, place, k))
            for part, moved, place in zip(parts, changes, (rows, seen, seen), strict=True)
        )
        n_queries, n_seen = rows[1].stop - rows[1].start, seen[1].stop - seen[1].start
        table = torch.bmm(q0, k0.transpose(1, 2)).mul_(scale)
        corner = table.view(-1, n_queries, n_seen)[:, :, n_seen - n_queries :]
        corner.add_(_causal(n_queries, table))
        table = torch.softmax(table, -1)
        moved = torch.bmm(q1, k0.transpose(1, 2)).baddbmm_(q0, k1.transpose(1, 2)).mul_(scale)
        moved.mul_(table)
        moved.addcmul_(table, moved.sum(-1, keepdim=True), value=-1)
        shape = (h, n_queries, width)
        mixed[rows[0], :, rows[1]] = torch.bmm(table, v0).view(shape)
        change[rows[0], :, rows[1]] = torch.bmm(moved, v0).baddbmm_(table, v1).view(shape)
    return mixed, change


_Place = tuple[int, slice]


def _strips(spans: Sequence[Span]) -> Iterator[tuple[_Place, _Place]]:
    """Yield the place of each strip's queries and that of the keys they see."""
    for span in spans:
        n_tokens = span.stop - span.start
        n_strips = -(-n_tokens // _STRIP)
        ends = [span.start + n_tokens * number // n_strips for number in range(n_strips + 1)]
        for start, stop in pairwise(ends):
            yield (span.row, slice(start, stop)), (span.row, slice(span.start, stop))


def _part(x: Tensor, place: _Place, keys: Tensor) -> Tensor:
    """Return (H / G, G * n_tokens, K): the heads of one key head stand one after another."""
    part = x[place[0], :, place[1]]
    if x.shape[1] == keys.shape[1]:
        return part
    return part.reshape(keys.shape[1], -1, x.shape[3])


def _causal(n_tokens: int, like: Tensor) -> Tensor:
    """Return (n_tokens, n_tokens): 0 on and below the diagonal, minus infinity above."""
    mask = torch.full((n_tokens, n_tokens), float("-inf"), dtype=like.dtype, device=like.device)
    return mask.triu_(1)
