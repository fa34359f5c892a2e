"""Layers of the proxy with their backward passes written out, on buffers that are used again.

Residual stream, normalisation and all sums of gradients are in the parameters' type; the operands
of matrix products are in the type of the buffers, bfloat16 or the same.

Shapes in comments: N tokens (of all sequences), C width, F hidden.
"""

import torch
from torch import Tensor, nn

from cuvee.proxy.buffers import Buffers
from cuvee.proxy.explicit_attention import ExplicitAttention
from cuvee.proxy.losses import add_product
from cuvee.proxy.model import EPSILON, Block

_silu = torch.ops.aten.silu.out
_silu_backward = torch.ops.aten.silu_backward.grad_input


class Projection:
    """A matrix, with the gain of the norm before it folded in: W = P diag(g)."""

    def __init__(
        self, parameter: nn.Parameter, dtype: torch.dtype, gain: nn.Parameter | None = None
    ) -> None:
        """Take a parameter whose ``grad`` is set.

        Args:
            parameter: P, (n_out, n_in).
            dtype: Of products.
            gain: g, (n_in,); None for ones.
        """
        assert parameter.grad is not None, "gradients are added to an existing tensor"
        self._parameter, self._gain = parameter, gain
        own = gain is None and parameter.dtype == dtype
        self.weight = parameter.detach() if own else torch.empty_like(parameter, dtype=dtype)
        self._grad = parameter.grad if gain is None else torch.zeros_like(parameter)

    def refresh(self) -> None:
        """Take over the parameters as they are now."""
        if self._gain is not None:
            torch.mul(self._parameter, self._gain, out=self.weight)
        elif self.weight.dtype != self._parameter.dtype:
            self.weight.copy_(self._parameter)

    def add_gradient(self, grad: Tensor, rows: Tensor) -> None:
        """Add that of W: grad (N, n_out) of the products, rows (N, n_in) that went in."""
        add_product(self._grad, grad.t(), rows)

    def finish(self) -> None:
        """Hand the gradient of W on to P and g."""
        if self._gain is None:
            return
        assert self._parameter.grad is not None
        assert self._gain.grad is not None
        self._parameter.grad.addcmul_(self._grad, self._gain)
        self._gain.grad.add_(self._grad.mul_(self._parameter).sum(0))
        self._grad.zero_()


class Normalisation:
    """Division of each row by its root mean square; the gain belongs to what follows."""

    def __init__(self, gain: nn.Parameter, context: int, buffers: Buffers) -> None:
        """Take buffers for rows of the width and type of a gain."""
        width, wide = len(gain), gain.dtype
        self.normed = buffers.new(context, width)
        """What `forward` returned last, (N, C)."""
        self._inverse = buffers.new(context, 1, dtype=wide)
        self._wide = buffers.shared("norm_grad", context, width, dtype=wide)
        self._products = buffers.shared("norm_products", context, width, dtype=wide)

    def forward(self, x: Tensor) -> Tensor:
        """Return x / sqrt(mean(x^2) + epsilon), (N, C)."""
        torch.linalg.vector_norm(x, dim=1, keepdim=True, out=self._inverse)
        self._inverse.square_().div_(x.shape[1]).add_(EPSILON).rsqrt_()
        return torch.mul(x, self._inverse, out=self.normed)

    def backward(self, grad: Tensor, x_grad: Tensor) -> None:
        """Add (grad - normed mean(grad normed)) / rms to x_grad; grad is used up."""
        if grad.dtype != x_grad.dtype:
            grad = self._wide.copy_(grad)
        along = torch.mul(grad, self.normed, out=self._products).mean(1, keepdim=True)
        grad.addcmul_(self.normed, along, value=-1)
        x_grad.addcmul_(grad, self._inverse)


class ExplicitBlock:
    """`model.Block`, forward and backward."""

    def __init__(self, block: Block, rotation: Tensor, buffers: Buffers) -> None:
        """Take the parameters of a block, whose ``grad`` is set.

        Args:
            block: Whose parameters are used and whose gradients are added to.
            rotation: (2, T, K / 2) cosines and sines.
            buffers: Where memory comes from.
        """
        context, dtype = rotation.shape[1], buffers.dtype
        hidden, width = block.down.shape[1], block.down.shape[0]
        self._attention_norm = Normalisation(block.attention_gain, context, buffers)
        self._query_key_value = Projection(block.query_key_value, dtype, block.attention_gain)
        self._attention = ExplicitAttention(rotation, block.n_heads, buffers)
        self._attention_out = Projection(block.attention_out, dtype)
        self._feed_norm = Normalisation(block.feed_gain, context, buffers)
        self._gate_up = Projection(block.gate_up, dtype, block.feed_gain)
        self._down = Projection(block.down, dtype)
        self._qkv = buffers.shared("query_key_value", context, 3 * width)
        self._gates = buffers.new(context, 2 * hidden)
        self._opened = buffers.new(context, hidden)
        self._fed = buffers.new(context, hidden)
        self._hidden_grad = buffers.shared("hidden_grad", context, hidden)
        self._gates_grad = buffers.shared("gates_grad", context, 2 * hidden)
        self._row_grad = buffers.shared("row_grad", context, width)
        self._narrow = buffers.shared("narrow_grad", context, width)
        self.projections = (self._query_key_value, self._attention_out, self._gate_up, self._down)

    def forward(self, x: Tensor, mask: Tensor) -> None:
        """Add attention and SwiGLU to x, (N, C), in place.

        Args:
            x: The residual stream.
            mask: (B, T, T), 0 where a token may look, minus infinity elsewhere.
        """
        normed = self._attention_norm.forward(x)
        torch.mm(normed, self._query_key_value.weight.t(), out=self._qkv)
        mixed = self._attention.forward(self._qkv, mask)
        add_product(x, mixed, self._attention_out.weight.t())
        normed = self._feed_norm.forward(x)
        torch.mm(normed, self._gate_up.weight.t(), out=self._gates)
        gate, up = self._gates.chunk(2, dim=1)
        _silu(gate, out=self._opened)
        torch.mul(self._opened, up, out=self._fed)
        add_product(x, self._fed, self._down.weight.t())

    def backward(self, x_grad: Tensor) -> None:
        """Turn the gradient of what `forward` left in x into that of what it found there."""
        grad = self._in_products(x_grad)
        self._down.add_gradient(grad, self._fed)
        torch.mm(grad, self._down.weight, out=self._hidden_grad)
        gate, up = self._gates.chunk(2, dim=1)
        gate_grad, up_grad = self._gates_grad.chunk(2, dim=1)
        torch.mul(self._hidden_grad, self._opened, out=up_grad)
        _silu_backward(self._hidden_grad.mul_(up), gate, grad_input=gate_grad)
        self._gate_up.add_gradient(self._gates_grad, self._feed_norm.normed)
        torch.mm(self._gates_grad, self._gate_up.weight, out=self._row_grad)
        self._feed_norm.backward(self._row_grad, x_grad)

        grad = self._in_products(x_grad)
        self._attention_out.add_gradient(grad, self._attention.mixed)
        torch.mm(grad, self._attention_out.weight, out=self._row_grad)
        qkv_grad = self._attention.backward(self._row_grad)
        self._query_key_value.add_gradient(qkv_grad, self._attention_norm.normed)
        torch.mm(qkv_grad, self._query_key_value.weight, out=self._row_grad)
        self._attention_norm.backward(self._row_grad, x_grad)

    def _in_products(self, x_grad: Tensor) -> Tensor:
        return x_grad if x_grad.dtype == self._narrow.dtype else self._narrow.copy_(x_grad)
