"""Many proxy models as one: parameters have a leading axis of members, products are batched.

A model of a million parameters leaves most of a card idle. Members of a stack share nothing but
their shape; what one computes is what `ProxyModel` computes, and no sum runs over members, so that
a NaN in one reaches no other.

Shapes in comments: M members, B sequences of each, T tokens, C width, H heads, D head width,
F hidden, V vocabulary.
"""

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuvee.proxy.model import EPSILON, rotate, rotation_tables, segment_mask
from cuvee.proxy.sizes import ModelSize
from cuvee.proxy.stacked_losses import stacked_head_loss, stacked_token_losses


class StackedBlock(nn.Module):
    """`model.Block` for every member."""

    def __init__(self, size: ModelSize, n_members: int) -> None:
        super().__init__()
        width, hidden = size.width, size.hidden
        self.n_heads = size.n_heads
        self.attention_gain = _parameter(n_members, width)
        self.query_key_value = _parameter(n_members, 3 * width, width)
        self.attention_out = _parameter(n_members, width, width)
        self.feed_gain = _parameter(n_members, width)
        self.gate_up = _parameter(n_members, 2 * hidden, width)
        self.down = _parameter(n_members, width, hidden)

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor, products: torch.dtype
    ) -> Tensor:
        """Map (M, B * T, C) to the same.

        Args:
            x: Residual stream.
            rotation: cos and sin, (T, D) each.
            mask: (M * B, 1, T, T), of the type of products.
            products: Type of matrix products.
        """
        m, n, c = x.shape
        normed = _rms_norm(x, self.attention_gain)
        qkv = _linear(normed, self.query_key_value, products)
        qkv = qkv.view(len(mask), -1, 3, self.n_heads, c // self.n_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (M * B, H, T, D) each
        attended = F.scaled_dot_product_attention(
            rotate(q, rotation), rotate(k, rotation), v, attn_mask=mask
        )
        attended = attended.transpose(1, 2).reshape(m, n, c)
        x = x + _linear(attended, self.attention_out, products)
        normed = _rms_norm(x, self.feed_gain)
        gate, up = _linear(normed, self.gate_up, products).chunk(2, dim=-1)  # (M, B * T, F)
        return x + _linear(F.silu(gate) * up, self.down, products)


class StackedModel(nn.Module):
    """Members' parameters bear the names they have in `ProxyModel`, with one axis more in front."""

    def __init__(
        self,
        size: ModelSize,
        *,
        n_members: int,
        vocabulary_size: int,
        context: int,
        products: torch.dtype | None = None,
    ) -> None:
        """Take the memory; weights come by `load_member`.

        Args:
            size: Dimensions of each member.
            n_members: Models in the stack.
            vocabulary_size: Number of token ids.
            context: Longest sequence, in tokens.
            products: Type of matrix products; None for the parameters' own.
        """
        super().__init__()
        self.n_members = n_members
        self._products = products
        self.embedding = _parameter(n_members, vocabulary_size, size.width)
        self.blocks = nn.ModuleList(StackedBlock(size, n_members) for _ in range(size.n_layers))
        self.final_gain = _parameter(n_members, size.width)
        self.head = _parameter(n_members, vocabulary_size, size.width)
        cos, sin = rotation_tables(context, size.width // size.n_heads)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    @torch.no_grad()
    def load_member(self, member: int, state: Mapping[str, Tensor]) -> None:
        """Copy the parameters of a `ProxyModel` of this shape into a member."""
        for name, value in self.named_parameters():
            value[member].copy_(state[name])

    def member_state(self, member: int) -> dict[str, Tensor]:
        """Return a member's parameters as `ProxyModel.state_dict` names them, copied to the CPU."""
        return {
            name: value.detach()[member].to("cpu", copy=True)
            for name, value in self.named_parameters()
        }

    def hidden(self, tokens: Tensor, segments: Tensor) -> Tensor:
        """Compute the last hidden states.

        Args:
            tokens: (M, B, T) input ids, int64.
            segments: (M, B, T) number of the document window each token belongs to.

        Returns:
            (M, B * T, C), normalised, of the type of products.
        """
        products = self._products or self.embedding.dtype
        x = self._embedded(tokens)
        mask = segment_mask(segments.flatten(0, 1), products)
        length = tokens.shape[2]
        cos, sin = cast(Tensor, self.cos)[:length], cast(Tensor, self.sin)[:length]
        for block in self.blocks:
            x = block(x, (cos, sin), mask, products)
        return _rms_norm(x, self.final_gain).to(products)

    def _embedded(self, tokens: Tensor) -> Tensor:
        """Look up (M, B, T) ids in one table, each member's rows behind the last one's."""
        first = torch.arange(len(tokens), device=tokens.device) * self.embedding.shape[1]
        rows = tokens.flatten(1) + first[:, None]
        return F.embedding(rows, self.embedding.flatten(0, 1))

    def losses(
        self, hidden: Tensor, targets: Tensor, *, scale: float, compiled: bool = False
    ) -> Tensor:
        """Return (M,) scaled sums of the cross-entropies, in nats.

        Args:
            hidden: (M, B * T, C) from `hidden`.
            targets: (M, B, T) ids to be predicted.
            scale: Factor of the sums.
            compiled: See `stacked_head_loss`.
        """
        return stacked_head_loss(
            hidden, self.head, targets.flatten(1), scale=scale, compiled=compiled
        )

    @torch.no_grad()
    def token_losses(self, tokens: Tensor, segments: Tensor, targets: Tensor) -> Tensor:
        """Return (M, B, T) losses in nats, without gradients."""
        hidden = self.hidden(tokens, segments)
        return stacked_token_losses(hidden, self.head, targets.flatten(1)).view(targets.shape)


def _parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(*shape))


def _rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), None, EPSILON) * gain[:, None]


def _linear(x: Tensor, weight: Tensor, products: torch.dtype) -> Tensor:
    """Return (M, N, in) by (M, out, in) as (M, N, out)."""
    return torch.bmm(x.to(products), weight.to(products).transpose(1, 2))
