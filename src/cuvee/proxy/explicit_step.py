"""A training step with its whole backward pass written out.

What it computes is what autograd computes on `ProxyModel.loss`, to rounding. It saves what autograd
spends on fresh memory, copies and small operations: all buffers are kept from step to step, norm
gains are folded into the matrices that follow them, and a batch is worked through in pieces, so
that memory does not grow with it.
"""

from typing import cast

import torch
from torch import Tensor, nn

from cuvee.proxy.buffers import Buffers
from cuvee.proxy.explicit_attention import rotation_of
from cuvee.proxy.explicit_layers import ExplicitBlock, Normalisation, Projection
from cuvee.proxy.losses import head_gradients, logits_table
from cuvee.proxy.model import Block, ProxyModel

_PIECE_TOKENS = 2048


class ExplicitStep:
    """Loss and gradients of a model on the CPU."""

    def __init__(
        self, model: ProxyModel, *, n_sequences: int, context: int, dtype: torch.dtype
    ) -> None:
        """Take the buffers.

        Args:
            model: Gradients are added to its parameters' ``grad``; where there is none, a tensor of
                zeros is put.
            n_sequences: Sequences of a batch, at most.
            context: Tokens of each sequence.
            dtype: Of matrix products; sums are made in the parameters' type.
        """
        for parameter in model.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._piece = max(1, min(n_sequences, _PIECE_TOKENS // context))
        self._buffers = buffers = Buffers(self._piece, dtype)
        self._model = model
        wide, width = model.head.dtype, model.head.shape[1]
        cos, sin = cast(Tensor, model.cos), cast(Tensor, model.sin)
        rotation = rotation_of(cos[:context], sin[:context], dtype)
        self._blocks = [ExplicitBlock(cast(Block, one), rotation, buffers) for one in model.blocks]
        self._norm = Normalisation(model.final_gain, context, buffers)
        self._head = Projection(model.head, dtype)
        self._projections = [self._head]
        for block in self._blocks:
            self._projections.extend(block.projections)
        self._x = buffers.new(context, width, dtype=wide)
        self._x_grad = buffers.new(context, width, dtype=wide)
        self._hidden = buffers.new(context, width)
        self._hidden_grad = buffers.new(context, width)
        self._logits = logits_table(self._hidden, len(model.head))
        self._mask = buffers.new(1, context, context)
        self._future = torch.full((context, context), float("-inf"), dtype=dtype).triu(1)

    @torch.no_grad()
    def __call__(self, tokens: Tensor, segments: Tensor, targets: Tensor) -> float:
        """Return the mean loss in nats per token; add its gradients to the parameters' ``grad``.

        Args:
            tokens: (B, T) input ids, int64.
            segments: (B, T) number of the document window each token belongs to.
            targets: (B, T) ids to be predicted.
        """
        for projection in self._projections:
            projection.refresh()
        loss, scale = 0.0, 1 / targets.numel()
        pieces = (torch.split(part, self._piece) for part in (tokens, segments, targets))
        for piece in zip(*pieces, strict=True):
            loss += self._add_piece(*piece, scale=scale)
        for projection in self._projections:
            projection.finish()
        return loss

    def _add_piece(
        self, tokens: Tensor, segments: Tensor, targets: Tensor, *, scale: float
    ) -> float:
        self._buffers.resize(len(tokens))
        ids, embedding = tokens.flatten(), self._model.embedding
        torch.index_select(embedding.detach(), 0, ids, out=self._x)
        self._mask.copy_(self._future.expand_as(self._mask))
        self._mask.masked_fill_(segments[:, :, None] != segments[:, None, :], float("-inf"))
        for block in self._blocks:
            block.forward(self._x, self._mask)
        loss = self._add_head(targets.flatten(), scale)
        for block in reversed(self._blocks):
            block.backward(self._x_grad)
        _grad(embedding).index_add_(0, ids, self._x_grad)
        return loss

    def _add_head(self, targets: Tensor, scale: float) -> float:
        """Return the loss; leave the gradient of the residual stream in its buffer."""
        gain = self._model.final_gain
        normed = self._norm.forward(self._x)
        loss = head_gradients(
            torch.mul(normed, gain.detach(), out=self._hidden),
            self._head.weight,
            targets,
            table=self._logits,
            grad_hidden=self._hidden_grad,
            grad_head=_grad(self._model.head),
            scale=scale,
        )
        products = torch.mul(self._hidden_grad, normed, out=self._hidden)
        _grad(gain).add_(products.sum(0, dtype=gain.dtype))
        self._norm.backward(self._hidden_grad.mul_(gain), self._x_grad.zero_())
        return float(loss)


def _grad(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None, "set when the step was made"
    return parameter.grad
