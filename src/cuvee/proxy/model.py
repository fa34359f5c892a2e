"""A compact decoder-only language model.

- pre-norm blocks with RMSNorm (learnt gain), rotary positions, SwiGLU, no biases
- untied embedding and head; the projections that write to the residual stream start at zero
- a token attends to earlier tokens of its own segment only, so documents that share a sequence do
  not see each other
- the head's loss never holds a table of tokens by vocabulary (`losses.head_loss`)

Shapes in comments: B sequences, T tokens, C width, H heads, K head width, F hidden, V vocabulary.
"""

from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cuvee.errors import DataError
from cuvee.proxy.losses import head_loss, most_likely_tokens, token_losses
from cuvee.proxy.sizes import ModelSize

_ROPE_BASE = 10_000.0
EPSILON = 1e-6


class Block(nn.Module):
    """Attention and SwiGLU, each on its normalised input, each added to the residual stream."""

    def __init__(self, size: ModelSize) -> None:
        super().__init__()
        width, hidden = size.width, size.hidden
        self.n_heads = size.n_heads
        self.attention_gain = nn.Parameter(torch.ones(width))
        self.query_key_value = nn.Parameter(torch.empty(3 * width, width))
        self.attention_out = nn.Parameter(torch.zeros(width, width))
        self.feed_gain = nn.Parameter(torch.ones(width))
        self.gate_up = nn.Parameter(torch.empty(2 * hidden, width))
        self.down = nn.Parameter(torch.zeros(width, hidden))

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        b, t, c = x.shape
        normed = F.rms_norm(x, (c,), self.attention_gain, EPSILON)
        qkv = F.linear(normed, self.query_key_value).view(b, t, 3, self.n_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, T, K) each
        attended = F.scaled_dot_product_attention(
            rotate(q, rotation), rotate(k, rotation), v, attn_mask=mask
        )
        x = x + F.linear(attended.transpose(1, 2).reshape(b, t, c), self.attention_out)
        normed = F.rms_norm(x, (c,), self.feed_gain, EPSILON)
        gate, up = F.linear(normed, self.gate_up).chunk(2, dim=-1)  # (B, T, F)
        return x + F.linear(F.silu(gate) * up, self.down)


class ProxyModel(nn.Module):
    """The decoder whose validation losses are measured."""

    def __init__(
        self, size: ModelSize, *, vocabulary_size: int, context: int, generator: torch.Generator
    ) -> None:
        """Initialise the weights.

        Args:
            size: Dimensions.
            vocabulary_size: Number of token ids.
            context: Longest sequence, in tokens.
            generator: Source of the initial weights.
        """
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(vocabulary_size, size.width))
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.n_layers))
        self.final_gain = nn.Parameter(torch.ones(size.width))
        self.head = nn.Parameter(torch.empty(vocabulary_size, size.width))
        cos, sin = rotation_tables(context, size.width // size.n_heads)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self._initialise(generator)

    def _initialise(self, generator: torch.Generator) -> None:
        width = self.embedding.shape[1]
        with torch.no_grad():
            self.embedding.normal_(0.0, 0.02, generator=generator)
            for module in self.blocks:
                block = cast(Block, module)
                block.query_key_value.normal_(0.0, width**-0.5, generator=generator)
                block.gate_up.normal_(0.0, width**-0.5, generator=generator)
            self.head.normal_(0.0, 0.02, generator=generator)

    def hidden(self, tokens: Tensor, segments: Tensor) -> Tensor:
        """Compute the last hidden states.

        Args:
            tokens: (B, T) input ids, int64.
            segments: (B, T) number of the document window each token belongs to.

        Returns:
            (B * T, C), normalised, of the type of matrix products.
        """
        x = F.embedding(tokens, self.embedding)
        length = tokens.shape[1]
        mask = segment_mask(segments, x.dtype)
        cos, sin = cast(Tensor, self.cos), cast(Tensor, self.sin)
        for block in self.blocks:
            x = block(x, (cos[:length], sin[:length]), mask)
        normed = F.rms_norm(x, (x.shape[-1],), self.final_gain, EPSILON)
        return normed.flatten(0, 1).to(_product_type(normed))

    def loss(self, tokens: Tensor, segments: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss in nats per token.

        Args:
            tokens: (B, T) input ids.
            segments: (B, T) window numbers.
            targets: (B, T) ids to be predicted.
        """
        hidden = self.hidden(tokens, segments)
        return head_loss(hidden, self.head.to(hidden.dtype), targets.flatten())

    def token_losses(self, tokens: Tensor, segments: Tensor, targets: Tensor) -> Tensor:
        """Return (B, T) losses in nats, without gradients."""
        hidden = self.hidden(tokens, segments)
        losses = token_losses(hidden, self.head.to(hidden.dtype), targets.flatten())
        return losses.view_as(targets)

    def scored_tokens(
        self, tokens: Tensor, segments: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return (B, T) losses in nats, and (B, T) whether the target is the most likely token."""
        hidden = self.hidden(tokens, segments)
        head = self.head.to(hidden.dtype)
        losses = token_losses(hidden, head, targets.flatten())
        hits = most_likely_tokens(hidden, head).view_as(targets) == targets
        return losses.view_as(targets), hits


def _product_type(x: Tensor) -> torch.dtype:
    """Return the type in which autocast makes products of a tensor."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def segment_mask(segments: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (B, 1, T, T): 0 where a token may look, minus infinity elsewhere.

    Args:
        segments: (B, T) number of the document window each token belongs to.
        dtype: Of the mask.
    """
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    allowed = (segments[:, :, None] == segments[:, None, :]) & causal
    mask = torch.zeros(allowed.shape, dtype=dtype, device=segments.device)
    return mask.masked_fill_(~allowed, float("-inf"))[:, None]


def rotation_tables(context: int, head_width: int) -> tuple[Tensor, Tensor]:
    """Return cos and sin of (T, K); the angle of pair i at position p is p / base^(2i/K).

    The sign of the rotation is folded into the first half of sin.
    """
    exponents = torch.arange(0, head_width, 2, dtype=torch.float64) / head_width
    angles = torch.outer(torch.arange(context, dtype=torch.float64), _ROPE_BASE**-exponents)
    cos, sin = angles.cos().float(), angles.sin().float()
    return torch.cat([cos, cos], 1), torch.cat([-sin, sin], 1)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn (..., T, K) queries or keys by their positions' angles (`rotation_tables`)."""
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)
    swapped = torch.cat([second, first], dim=-1)
    return (x * cos.to(x.dtype) + swapped * sin.to(x.dtype)).contiguous()


def load_weights(model: ProxyModel, path: Path) -> None:
    """Load a checkpoint that a run wrote, or any safetensors file of the same tensors.

    Raises:
        DataError: The file cannot be read, or is of another size or vocabulary.
    """
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"base checkpoint {path} cannot be read ({error}). Give the model.safetensors of a run "
            "that was trained with proxy.checkpoints: final."
        ) from error
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    wrong = [name for name in sorted({*wanted, *found}) if wanted.get(name) != found.get(name)]
    if wrong:
        name = wrong[0]
        raise DataError(
            f"base checkpoint {path} is of another model: tensor {name!r} has shape "
            f"{found.get(name, 'none')}, this one needs {wanted.get(name, 'none')} ({len(wrong)} "
            "differ). Set the size, context and tokenizer the checkpoint was trained with."
        )
    model.load_state_dict(state)
