"""The mean gradient of a reference set, and which matrices it covers."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from cuvee.arrays import IntArray
from cuvee.errors import ArtifactError, ConfigError, DataError
from cuvee.influence.gradient import gradient
from cuvee.influence.model import CausalModel, tracked_layers
from cuvee.influence.vectors import LayerVector
from cuvee.proxy.model import ProxyModel
from cuvee.proxy.sizes import ModelSize

from .conftest import Decoder, Make, autograd_gradients, layer_names

FLOAT32_TOLERANCE = 2e-6
"""Relative length of the difference from float64."""
FLOAT64_TOLERANCE = 1e-12


def _relative(found: LayerVector, truth: dict[str, Tensor]) -> float:
    assert list(found.values) == list(truth)
    difference = sum(float((found.values[n] - truth[n]).square().sum()) for n in truth)
    return float(np.sqrt(difference / sum(float(value.square().sum()) for value in truth.values())))


@pytest.mark.parametrize("where", ["attention", "mlp", "all"])
@pytest.mark.parametrize("mean", ["tokens", "documents"])
def test_gradient_equals_float64_autograd(
    decoder: Decoder,
    make: Make,
    documents: list[IntArray],
    where: Literal["attention", "mlp", "all"],
    mean: Literal["tokens", "documents"],
) -> None:
    """The mean over tokens, or over documents of their own means."""
    each = autograd_gradients(decoder, documents, where)
    share = [1 / sum(map(len, documents))] * len(documents)
    if mean == "documents":
        share = [1 / len(ids) / len(documents) for ids in documents]
    truth = {
        name: sum((w * grads[name] for w, grads in zip(share, each, strict=True)), torch.zeros(()))
        for name in each[0]
    }
    found = gradient(make(), documents, where=where, mean=mean)
    assert _relative(found, truth) < FLOAT32_TOLERANCE


@pytest.mark.parametrize(
    "fields",
    [
        {"layout": "bucketed"},
        {"batch_tokens": 1},
        {"batch_tokens": 10_000},
        {"plain_attention": False},
        {"plain_attention": False, "layout": "bucketed"},
    ],
)
def test_gradient_does_not_depend_on_the_layout(
    decoder: Decoder, make: Make, documents: list[IntArray], fields: dict[str, Any]
) -> None:
    """Packing, padding, batch size and order change nothing beyond rounding."""
    decoder.double()
    truth = gradient(make(), documents)
    other = gradient(make(**fields), documents[::-1])
    assert _relative(other, dict(truth.values)) < FLOAT64_TOLERANCE


def test_layers_are_named_grouped_and_ordered(make: Make) -> None:
    """Projections of one input share a group; the head is never among them."""
    layers = tracked_layers(make(), "all")
    assert [layer.name for layer in layers] == layer_names("all")
    groups = [layer.group for layer in layers]
    assert groups[0] == groups[1] == groups[2]
    assert len(set(groups)) == len(groups) - 4
    by_name = tracked_layers(make(), lambda name: "q_proj" in name)
    assert [layer.name for layer in by_name] == [f"blocks.{i}.attn.q_proj.weight" for i in (0, 1)]


def test_proxies_of_bare_parameters_are_tracked(documents: list[IntArray]) -> None:
    """A module without nn.Linear: gradients equal those of its own loss."""
    size = ModelSize(name="tiny", n_layers=2, width=16, n_heads=2, hidden=24)
    proxy = ProxyModel(
        size, vocabulary_size=60, context=24, generator=torch.Generator().manual_seed(2)
    )
    with torch.no_grad():
        for block in proxy.blocks.parameters():
            block.add_(0.1 * torch.randn(block.shape, generator=torch.Generator().manual_seed(3)))
    model = CausalModel(
        module=proxy, hidden=proxy.hidden, head=proxy.head, context=24, plain_attention=True
    )
    ids = documents[6]
    found = gradient(model, [ids], where="all")
    row = torch.from_numpy(ids)[None]
    proxy.loss(row[:, :-1], torch.zeros_like(row[:, :-1]), row[:, 1:]).backward()  # type: ignore[no-untyped-call]
    truth = {}
    for name in found.values:
        grad = proxy.get_parameter(name).grad
        assert grad is not None
        truth[name] = grad
    assert len(truth) == 8
    assert _relative(found, truth) < 10 * FLOAT32_TOLERANCE


def test_parameters_are_left_as_they_were(make: Make, documents: list[IntArray]) -> None:
    """Training mode, requires_grad and grad are those of before."""
    model = make()
    model.module.train()
    gradient(model, documents[:3])
    for parameter in model.module.parameters():
        assert parameter.requires_grad
        assert parameter.grad is None
    assert all(part.training for part in model.module.modules())


def test_vectors_are_saved_and_compared(
    make: Make, decoder: Decoder, documents: list[IntArray], tmp_path: Path
) -> None:
    """A file gives back the same numbers; other layers, weights or tokenizers are refused."""
    one = gradient(make(), documents)
    one.save(tmp_path / "one.safetensors")
    again = LayerVector.load(tmp_path / "one.safetensors")
    assert one.dot(again) == pytest.approx(one.norm**2, rel=1e-12)
    with pytest.raises(DataError, match="different layers"):
        one.dot(gradient(make(), documents, where="mlp"))
    with pytest.raises(DataError, match="different tokenizer"):
        one.dot(gradient(make(tokenizer="other"), documents))
    with torch.no_grad():
        decoder.get_parameter("blocks.0.attn.q_proj.weight")[0, 0] += 1
    with pytest.raises(DataError, match="different weights"):
        one.dot(gradient(make(), documents))
    (tmp_path / "broken.safetensors").write_bytes(b"not a file of tensors")
    with pytest.raises(ArtifactError, match="cannot be read"):
        LayerVector.load(tmp_path / "broken.safetensors")


def test_what_cannot_be_meant_is_refused(make: Make, decoder: Decoder) -> None:
    """One message each."""
    with pytest.raises(ConfigError, match="where='heads' is unknown"):
        gradient(make(), [[1, 2]], where="heads")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="mean='words' is unknown"):
        gradient(make(), [[1, 2]], mean="words")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="leaves no matrix to track"):
        gradient(make(), [[1, 2]], where=lambda name: "head" in name)
    with pytest.raises(DataError, match="no predicted token"):
        gradient(make(start=None), [[1], []])
    with pytest.raises(DataError, match="document 1 is an array of float64"):
        gradient(make(), [[1], np.ones(3)])
    with torch.no_grad():
        decoder.embed.weight[5] = float("nan")
    with pytest.raises(DataError, match="is not finite"):
        gradient(make(), [[5, 5, 5]])
