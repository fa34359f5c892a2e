"""A small decoder with separate, grouped-query projections, and documents of many lengths."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuvee.arrays import IntArray
from cuvee.influence.model import CausalModel

VOCABULARY, CONTEXT, START = 60, 24, 0
WIDTH, N_HEADS, N_KEY_HEADS, HIDDEN = 16, 4, 2, 24
HEAD_WIDTH = WIDTH // N_HEADS


class Attention(nn.Module):
    """Grouped-query attention with positions added to queries and keys."""

    def __init__(self) -> None:
        super().__init__()
        narrow = N_KEY_HEADS * HEAD_WIDTH
        self.q_proj = nn.Linear(WIDTH, WIDTH)
        self.k_proj = nn.Linear(WIDTH, narrow, bias=False)
        self.v_proj = nn.Linear(WIDTH, narrow, bias=False)
        self.o_proj = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        b, t, _ = x.shape
        q = self.q_proj(x).view(b, t, N_HEADS, -1).transpose(1, 2)
        k, v = (
            part(x).view(b, t, N_KEY_HEADS, -1).transpose(1, 2)
            for part in (self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(b, t, -1))


class Decoder(nn.Module):
    """Two blocks; positions are learnt and counted from the start of a segment."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm": nn.LayerNorm(WIDTH),
                    "attn": Attention(),
                    "mlp_up": nn.Linear(WIDTH, HIDDEN),
                    "mlp_down": nn.Linear(HIDDEN, WIDTH, bias=False),
                }
            )
            for _ in range(2)
        )
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(0.0, 0.35, generator=generator)

    def hidden(self, tokens: Tensor, segments: Tensor) -> Tensor:
        """Return (B, T, C)."""
        length = tokens.shape[1]
        same = segments[:, :, None] == segments[:, None, :]
        allowed = same & torch.ones(length, length, dtype=torch.bool).tril()
        place = allowed.sum(2) - 1
        x = self.embed(tokens) + self.positions(place)
        for block in self.blocks:
            assert isinstance(block, nn.ModuleDict)
            x = x + block["attn"](block["norm"](x), allowed[:, None])
            x = x + block["mlp_down"](torch.tanh(block["mlp_up"](x)))
        return x

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (B, T, C) of whole sequences."""
        return self.hidden(tokens, torch.zeros_like(tokens))

    def document_loss(self, ids: IntArray) -> Tensor:
        """Return the summed loss of a document that starts after START, window by window."""
        row = torch.from_numpy(np.concatenate([[START], ids]))
        total = self.head.weight.new_zeros(())
        for offset in range(0, len(ids), CONTEXT):
            window = row[offset : offset + CONTEXT + 1]
            hidden = self.hidden(window[None, :-1], torch.zeros_like(window[None, :-1]))
            total = total + F.cross_entropy(self.head(hidden)[0], window[1:], reduction="sum")
        return total


Make = Callable[..., CausalModel]


@pytest.fixture
def decoder() -> Decoder:
    """The small decoder, float32."""
    return Decoder(torch.Generator().manual_seed(1))


@pytest.fixture
def make(decoder: Decoder) -> Make:
    """Wrap the decoder, with any fields changed."""

    def wrapped(**fields: Any) -> CausalModel:
        model = CausalModel(
            module=decoder,
            hidden=decoder.hidden,
            head=decoder.head.weight,
            context=CONTEXT,
            start=START,
            tokenizer="t" * 64,
            batch_tokens=100,
            plain_attention=True,
        )
        return replace(model, **fields)

    return wrapped


@pytest.fixture
def documents() -> list[IntArray]:
    """Fourteen documents of 1 to 60 tokens: some empty of context, some of three windows."""
    rng = np.random.default_rng(0)
    lengths = [1, 2, 3, 5, 8, 13, 20, 24, 25, 30, 47, 49, 60, 7]
    return [rng.integers(1, VOCABULARY, size=length) for length in lengths]


def layer_names(where: str) -> list[str]:
    """Return the tracked names in order."""
    attention = [f"attn.{part}_proj.weight" for part in "qkvo"]
    parts = {"attention": attention, "mlp": ["mlp_up.weight", "mlp_down.weight"]}
    parts["all"] = parts["attention"] + parts["mlp"]
    return [f"blocks.{block}.{name}" for block in range(2) for name in parts[where]]


def autograd_gradients(
    decoder: Decoder, documents: list[IntArray], where: str
) -> list[dict[str, Tensor]]:
    """Return each document's summed gradient in float64, by torch alone."""
    exact = Decoder(torch.Generator().manual_seed(1)).double()
    exact.load_state_dict(decoder.state_dict())
    parameters = dict(exact.named_parameters())
    chosen = {name: parameters[name] for name in layer_names(where)}
    gradients = []
    for ids in documents:
        grads = torch.autograd.grad(exact.document_loss(ids), list(chosen.values()))
        gradients.append(dict(zip(chosen, grads, strict=True)))
    return gradients
