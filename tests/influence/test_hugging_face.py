"""Models of transformers: packed scores equal those of each document by itself."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cuvee.arrays import FloatArray, IntArray
from cuvee.errors import ConfigError, MissingDependencyError
from cuvee.influence import KroneckerFactors, gradient, influence
from cuvee.influence.hugging_face import block_mask, hugging_face_model

EXACT_TOLERANCE = 1e-5
CONTEXT = 32


def _made(kind: str, attention: str) -> Any:
    transformers = pytest.importorskip("transformers", reason="the extra cuvee[hf]")
    if kind == "llama":
        config = transformers.LlamaConfig(
            vocab_size=50,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            attn_implementation=attention,
            hidden_size=16,
            intermediate_size=24,
            num_key_value_heads=2,
        )
        return transformers.LlamaForCausalLM(config)
    config = transformers.GPT2Config(
        vocab_size=50,
        n_positions=CONTEXT,
        n_embd=16,
        n_layer=2,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    config._attn_implementation = attention
    return transformers.GPT2LMHeadModel(config)


def _documents() -> list[IntArray]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, 50, size=length) for length in (2, 5, 9, 20, 32, 13, 28, 3)]


def _truth(module: Any, names: list[str], direction: Any) -> FloatArray:
    exact = module.double()
    parameters = dict(exact.base_model.named_parameters())
    scores = []
    for ids in _documents():
        row = torch.from_numpy(np.concatenate([[0], ids]))[None]
        logits = exact(input_ids=row[:, :-1]).logits[0]
        loss = F.cross_entropy(logits, row[0, 1:], reduction="sum")
        grads = torch.autograd.grad(loss, [parameters[name] for name in names])
        total = 0.0
        for name, grad in zip(names, grads, strict=True):
            value = direction.values[name]
            transposed = ".h." in f".{name}"  # GPT-2's Conv1D
            total += float((grad * (value.t() if transposed else value)).sum())
        scores.append(total)
    return np.array(scores)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_scores_equal_float64_autograd(kind: str, attention: str) -> None:
    """nn.Linear and Conv1D, rotary and learnt positions, grouped-query heads."""
    module = _made(kind, attention)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    module.eval()
    model = hugging_face_model(module, context=CONTEXT, start=0, batch_tokens=100)
    assert model.plain_attention == (attention == "sdpa")
    factors = KroneckerFactors(model, "all").fit(_documents(), rng=np.random.default_rng(1))
    direction = factors.solve(gradient(model, _documents()[:3], where="all"), damping=0.2)
    assert len(direction.values) == {"llama": 14, "gpt2": 8}[kind]
    found = np.array(list(influence(model, direction, _documents())))
    truth = _truth(module, list(direction.values), direction)
    assert np.linalg.norm(found - truth) < EXACT_TOLERANCE * np.linalg.norm(truth)


def test_what_cannot_be_meant_is_refused() -> None:
    """One message each."""
    module = _made("llama", "sdpa")
    with pytest.raises(ConfigError, match="no causal language model of transformers"):
        hugging_face_model(nn.Linear(2, 2), context=8)
    with pytest.raises(ConfigError, match="not within the model's 32 positions"):
        hugging_face_model(module, context=64)
    with pytest.raises(ConfigError, match="precision='half' is unknown"):
        hugging_face_model(module, context=8, precision="half")
    module.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ConfigError, match="takes no block-diagonal mask"):
        hugging_face_model(module, context=8)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the line that installs it."""
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'cuvee\[hf\]'"):
        hugging_face_model(nn.Linear(2, 2), context=8)


def test_masks_keep_documents_apart() -> None:
    """Positions start again; nobody looks ahead or over a border."""
    mask, positions = block_mask(torch.tensor([[0, 0, 0, 1, 1]]), torch.float32)
    assert positions.tolist() == [[0, 1, 2, 0, 1]]
    seen = (mask[0, 0] == 0).int().tolist()
    assert seen[:3] == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]
    assert seen[3:] == [[0, 0, 0, 1, 0], [0, 0, 0, 1, 1]]
