"""Causal attention within segments for short contexts, forward and backward written out.

Queries are taken in strips of at most 128 tokens, each of which meets only the keys up to its end,
and a few sequences at a time, so that their tables of weights stay in the cache while they are
used. The weights are kept for the backward pass: more than half of H x T^2 numbers a sequence.

Shapes in comments: B sequences, T tokens, C width, H heads, K head width.
"""

from itertools import pairwise

import torch
from torch import Tensor

from cuvee.proxy.buffers import Buffers

_STRIP = 128
_CACHED = 1 << 18
"""Numbers of the table that is worked on at once."""
_softmax_backward = torch.ops.aten._softmax_backward_data.out


class _Strip:
    """Queries of a stretch of each sequence, rotated and scaled, and their weights."""

    def __init__(self, rows: slice, rotation: Tensor, n_heads: int, buffers: Buffers) -> None:
        n_rows, head_width = rows.stop - rows.start, 2 * rotation.shape[2]
        self.rows, self.stop = rows, rows.stop
        self.rotation = rotation[:, rows] * head_width**-0.5
        shape = (1, n_heads, n_rows, head_width)
        self.queries = buffers.new(*shape)
        self.weights = buffers.new(1, n_heads, n_rows, rows.stop)
        self.queries_grad = buffers.shared(f"gradient of {n_rows} queries", *shape)
        self.mixed = buffers.shared(f"values mixed for {n_rows} queries", *shape)
        """Or, in the backward pass, their gradient."""


class ExplicitAttention:
    """Rotary attention of one layer, between its two projections."""

    def __init__(self, rotation: Tensor, n_heads: int, buffers: Buffers) -> None:
        """Take the buffers of a layer.

        Args:
            rotation: (2, T, K / 2) cosines and sines (`rotation_of`).
            n_heads: H.
            buffers: Where memory comes from.
        """
        _, context, half_head = rotation.shape
        width, shape = n_heads * 2 * half_head, (1, n_heads, context, 2 * half_head)
        n_strips = -(-context // _STRIP)
        ends = [context * number // n_strips for number in range(n_strips + 1)]
        self._strips = [
            _Strip(slice(start, stop), rotation, n_heads, buffers) for start, stop in pairwise(ends)
        ]
        self._rotation = rotation
        self._keys, self._values = buffers.new(*shape), buffers.new(*shape)
        self._keys_grad = buffers.shared("keys_grad", *shape)
        self._values_grad = buffers.shared("values_grad", *shape)
        self.mixed = buffers.new(context, width)
        """What `forward` returned last, (B * T, C)."""
        self._grad = buffers.shared("query_key_value_grad", context, 3 * width)
        last = self._strips[-1].weights
        self._group = max(1, min(len(last), _CACHED // last[0].numel()))
        self._scores_grad = torch.empty_like(last[: self._group]).flatten()

    def forward(self, query_key_value: Tensor, mask: Tensor) -> Tensor:
        """Mix the values.

        Args:
            query_key_value: (B * T, 3 * C).
            mask: (B, T, T), 0 where a token may look, minus infinity elsewhere.

        Returns:
            (B * T, C), kept for the backward pass.
        """
        queries, keys, values = self._by_head(query_key_value, 3)
        _rotate(keys, self._rotation, out=self._keys)
        self._values.copy_(values)
        (mixed,) = self._by_head(self.mixed, 1)
        for strip in self._strips:
            _rotate(queries[:, :, strip.rows], strip.rotation, out=strip.queries)
            for group in self._groups():
                table, q = strip.weights[group], strip.queries[group].flatten(0, 1)
                k, v = (part[group].flatten(0, 1) for part in (self._keys, self._values))
                weights = table.flatten(0, 1)
                torch.bmm(q, k[:, : strip.stop].transpose(1, 2), out=weights)
                table.add_(mask[group, None, strip.rows, : strip.stop])
                torch.softmax(weights, -1, out=weights)
                torch.bmm(weights, v[:, : strip.stop], out=strip.mixed[group].flatten(0, 1))
            mixed[:, :, strip.rows].copy_(strip.mixed)
        return self.mixed

    def backward(self, grad: Tensor) -> Tensor:
        """Return the gradient of `query_key_value`, (B * T, 3 * C), valid until the next call.

        Args:
            grad: (B * T, C) gradient of what `forward` returned.
        """
        (mixed_grad,) = self._by_head(grad, 1)
        queries_grad, keys_grad, values_grad = self._by_head(self._grad, 3)
        for strip in reversed(self._strips):
            strip.mixed.copy_(mixed_grad[:, :, strip.rows])
            for group in self._groups():
                self._backward_of(strip, group)
            out = queries_grad[:, :, strip.rows]
            _rotate(strip.queries_grad, _reversed(strip.rotation), out=out)
        _rotate(self._keys_grad, _reversed(self._rotation), out=keys_grad)
        values_grad.copy_(self._values_grad)
        return self._grad

    def _backward_of(self, strip: _Strip, group: slice) -> None:
        """Fill the gradients of a strip's queries; add to those of keys and values."""
        weights, queries, mixed_grad, queries_grad = (
            part[group].flatten(0, 1)
            for part in (strip.weights, strip.queries, strip.mixed, strip.queries_grad)
        )
        k, v = (part[group].flatten(0, 1)[:, : strip.stop] for part in (self._keys, self._values))
        scores_grad = self._scores_grad[: weights.numel()].view_as(weights)
        torch.bmm(mixed_grad, v.transpose(1, 2), out=scores_grad)
        # torch 2.13 leaves a grad_input that is not contiguous unwritten, without a word.
        _softmax_backward(scores_grad, weights, -1, weights.dtype, grad_input=scores_grad)
        torch.bmm(scores_grad, k, out=queries_grad)
        for grad, table, rows in (
            (self._values_grad, weights, mixed_grad),
            (self._keys_grad, scores_grad, queries),
        ):
            total = grad[group].flatten(0, 1)
            if strip is self._strips[-1]:  # the first to be worked on, and it meets every key
                torch.bmm(table.transpose(1, 2), rows, out=total)
            else:
                total[:, : strip.stop].add_(torch.bmm(table.transpose(1, 2), rows))

    def _groups(self) -> list[slice]:
        starts = range(0, len(self._keys), self._group)
        return [slice(start, start + self._group) for start in starts]

    def _by_head(self, rows: Tensor, n_parts: int) -> tuple[Tensor, ...]:
        """View (B * T, n_parts * C) as parts of (B, H, T, K)."""
        n_sequences, n_heads, context, head_width = self._keys.shape
        parts = rows.view(n_sequences, context, n_parts, n_heads, head_width)
        return parts.permute(2, 0, 3, 1, 4).unbind()


def rotation_of(cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (2, T, K / 2) cosines and sines of a model's (T, K) tables, each given once."""
    half = cos.shape[1] // 2
    return torch.stack([cos[:, half:], sin[:, half:]]).to(dtype)


def _reversed(rotation: Tensor) -> Tensor:
    cos, sin = rotation
    return torch.stack([cos, -sin])


def _rotate(x: Tensor, rotation: Tensor, *, out: Tensor) -> None:
    """Turn each pair (a, b) of x into (a cos - b sin, b cos + a sin)."""
    (a, b), (first, second) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
    cos, sin = rotation
    torch.mul(a, cos, out=first).addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=second).addcmul_(a, sin)
