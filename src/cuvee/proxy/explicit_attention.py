"""Causal attention within segments for short contexts, forward and backward written out.

A sequence's table of weights stays in the cache while it is used: sequences are taken one by one,
and queries in two halves, the first of which meets only the first half of the keys. The weights are
kept for the backward pass, H x 3/4 T^2 numbers a sequence, so this is for short contexts.

Shapes in comments: B sequences, T tokens, C width, H heads, K head width.
"""

from itertools import pairwise

import torch
from torch import Tensor

from cuvee.proxy.buffers import Buffers

_softmax_backward = torch.ops.aten._softmax_backward_data.out


class ExplicitAttention:
    """Rotary attention of one layer, between its two projections."""

    def __init__(self, rotation: Tensor, n_heads: int, buffers: Buffers) -> None:
        """Take the buffers of a layer.

        Args:
            rotation: (2, T, K / 2) cosines and sines (`rotation_of`).
            n_heads: H.
            buffers: Where memory comes from.
        """
        context, head_width = rotation.shape[1], 2 * rotation.shape[2]
        width = n_heads * head_width
        # Scores are q k / sqrt(K); the queries' rotation carries the root.
        scale = rotation.new_tensor([head_width**-0.5, 1.0])
        self._cos, self._sin = rotation[:, None, None] * scale[:, None, None, None]  # (2, 1, T, K/2)
        self._heads = buffers.new(1, 3, n_heads, context, head_width)
        half = (context + 1) // 2
        self._halves = [(start, stop) for start, stop in pairwise((0, half, context)) if stop > start]
        self._weights = [
            buffers.new(1, n_heads, stop - start, stop) for start, stop in self._halves
        ]
        self._scores_grad = [torch.empty_like(weights[0]) for weights in self._weights]
        self._mixed = buffers.new(context, width)
        self._by_head = buffers.shared("by_head", 1, n_heads, context, head_width)
        self._heads_grad = buffers.shared(
            "heads_grad", 1, 3, n_heads, context, head_width
        )
        self._grad = buffers.shared("query_key_value_grad", context, 3 * width)

    def forward(self, query_key_value: Tensor, mask: Tensor) -> Tensor:
        """Mix the values.

        Args:
            query_key_value: (B * T, 3 * C).
            mask: (B, T, T), 0 where a token may look, minus infinity elsewhere.

        Returns:
            (B * T, C), valid until the next call.
        """
        parts = self._split(query_key_value, 3)  # (B, 3, H, T, K)
        _rotate(parts[:, :2], self._cos, self._sin, out=self._heads[:, :2])
        self._heads[:, 2].copy_(parts[:, 2])
        for number, (q, k, v) in enumerate(self._heads):
            for (start, stop), weights in zip(self._halves, self._weights, strict=True):
                table = weights[number]
                torch.bmm(q[:, start:stop], k[:, :stop].transpose(1, 2), out=table)
                table.add_(mask[number, start:stop, :stop])
                torch.softmax(table, -1, out=table)
                torch.bmm(table, v[:, :stop], out=self._by_head[number, :, start:stop])
        self._split(self._mixed, 1)[:, 0].copy_(self._by_head)
        return self._mixed

    def backward(self, grad: Tensor) -> Tensor:
        """Return the gradient of `query_key_value`, (B * T, 3 * C), valid until the next call.

        Args:
            grad: (B * T, C) gradient of what `forward` returned.
        """
        self._by_head.copy_(self._split(grad, 1)[:, 0])
        for number in range(len(self._heads)):
            self._backward_of(number)
        parts = self._split(self._grad, 3)
        _rotate(self._heads_grad[:, :2], self._cos, -self._sin, out=parts[:, :2])
        parts[:, 2].copy_(self._heads_grad[:, 2])
        return self._grad

    def _backward_of(self, number: int) -> None:
        """Fill the gradients of one sequence's heads; the last queries reach every key."""
        q, k, v = self._heads[number]
        q_grad, k_grad, v_grad = self._heads_grad[number]
        for half in reversed(range(len(self._halves))):
            start, stop = self._halves[half]
            weights, scores_grad = self._weights[half][number], self._scores_grad[half]
            mixed_grad = self._by_head[number, :, start:stop]
            torch.bmm(mixed_grad, v[:, :stop].transpose(1, 2), out=scores_grad)
            # torch 2.13 leaves a grad_input that is not contiguous unwritten, without a word.
            _softmax_backward(scores_grad, weights, -1, weights.dtype, grad_input=scores_grad)
            torch.bmm(scores_grad, k[:, :stop], out=q_grad[:, start:stop])
            beta = 0 if stop == q.shape[1] else 1
            for total, table, rows in ((v_grad, weights, mixed_grad), (k_grad, scores_grad, q)):
                part = rows if rows is mixed_grad else rows[:, start:stop]
                total[:, :stop].baddbmm_(table.transpose(1, 2), part, beta=beta)

    def _split(self, rows: Tensor, n_parts: int) -> Tensor:
        """View (B * T, n_parts * C) as (B, n_parts, H, T, K)."""
        n_sequences, _, n_heads, context, head_width = self._heads.shape
        shape = (n_sequences, context, n_parts, n_heads, head_width)
        return rows.view(shape).permute(0, 2, 3, 1, 4)


def rotation_of(cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (2, T, K / 2) cosines and sines of a model's (T, K) tables, each given once."""
    half = cos.shape[1] // 2
    return torch.stack([cos[:, half:], sin[:, half:]]).to(dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, *, out: Tensor) -> None:
    """Turn pair (a, b) into (a cos - b sin, b cos + a sin)."""
    (a, b), (first, second) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
    torch.mul(a, cos, out=first).addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=second).addcmul_(a, sin)
