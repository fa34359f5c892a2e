"""Gauss-Newton products and conjugate gradients against dense matrices."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from cuvee.arrays import IntArray
from cuvee.errors import DataError
from cuvee.influence.gradient import gradient
from cuvee.influence.kron import KroneckerFactors
from cuvee.influence.model import CausalModel, tracked_layers
from cuvee.influence.solve import gauss_newton_product

from .conftest import CONTEXT, START, Decoder, Make, layer_names

FLOAT64_TOLERANCE = 1e-10
WHERE = [f"blocks.{i}.attn.{part}_proj.weight" for i in (0, 1) for part in "kv"]


@pytest.fixture
def exact(decoder: Decoder, make: Make) -> CausalModel:
    """The decoder in float64."""
    decoder.double()
    return make()


def _dense(decoder: Decoder, documents: list[IntArray]) -> Tensor:
    """Return the Gauss-Newton matrix of the chosen layers, by jacobians of the logits."""
    n_tokens = sum(map(len, documents))
    total: Tensor | None = None
    for ids in documents:
        row = torch.from_numpy(np.concatenate([[START], ids]))
        for offset in range(0, len(ids), CONTEXT):
            window = row[offset : offset + CONTEXT + 1][None, :-1]

            def logits(values: dict[str, Tensor], window: Tensor = window) -> Tensor:
                hidden = torch.func.functional_call(decoder, values, (window,))
                return F.linear(hidden, decoder.head.weight)[0]

            chosen = {name: decoder.get_parameter(name).detach() for name in WHERE}
            jacobians = torch.func.jacrev(logits)(chosen)
            jacobian = torch.cat([jacobians[name].flatten(2) for name in WHERE], 2)
            p = logits(chosen).softmax(1).detach()
            curved = p[:, :, None] * (jacobian - torch.einsum("tv,tvd->td", p, jacobian)[:, None])
            part = torch.einsum("tvd,tve->de", jacobian, curved) / n_tokens
            total = part if total is None else total + part
    assert total is not None
    return total.detach()


@pytest.fixture
def dense(decoder: Decoder, exact: CausalModel, documents: list[IntArray]) -> Tensor:
    """The matrix of the first nine documents."""
    with sdpa_kernel(SDPBackend.MATH):
        return _dense(decoder, documents[:9])


@pytest.mark.parametrize("plain_attention", [True, False])
def test_products_equal_the_dense_gauss_newton_matrix(
    exact: CausalModel, documents: list[IntArray], dense: Tensor, plain_attention: bool
) -> None:
    """Terms between layers included; by our derivative of attention, or by torch's."""
    exact = replace(exact, plain_attention=plain_attention)
    layers = tracked_layers(exact, lambda name: name in WHERE)
    assert [layer.name for layer in layers] == WHERE
    generator = torch.Generator().manual_seed(4)
    shapes = {layer.name: (layer.n_out, layer.n_in) for layer in layers}
    vector = {
        name: torch.randn(shape, dtype=torch.float64, generator=generator)
        for name, shape in shapes.items()
    }
    found = gauss_newton_product(exact, layers, documents[:9], vector)
    flat, truth = (
        torch.cat([found[name].flatten() for name in WHERE]),
        dense @ torch.cat([vector[name].flatten() for name in WHERE]),
    )
    assert float((flat - truth).norm() / truth.norm()) < FLOAT64_TOLERANCE


def test_refined_solve_converges_to_the_dense_damped_solve(
    exact: CausalModel, documents: list[IntArray], dense: Tensor
) -> None:
    """Each block damped in units of its mean eigenvalue; more steps, smaller error."""
    sample = documents[:9]
    factors = KroneckerFactors(exact, lambda name: name in WHERE)
    factors.fit(sample, rng=np.random.default_rng(1))
    right = gradient(exact, documents[9:], where=lambda name: name in WHERE)
    amounts = torch.cat(
        [
            0.2 * p.eigenvalues.mean().expand(p.block.n_out * p.block.n_in)
            for p in factors.eigen_blocks()
        ]
    )
    flat = torch.cat([right.values[name].flatten() for name in WHERE])
    truth = torch.linalg.solve(dense + torch.diag(amounts), flat)
    errors = []
    for steps in (0, 5, 90):
        solved = factors.solve(right, damping=0.2, steps=steps, sample=sample)
        found = torch.cat([solved.values[name].flatten() for name in WHERE])
        errors.append(float((found - truth).norm() / truth.norm()))
    assert errors[1] < 0.5 * errors[0]
    assert errors[2] < 1e-6


def test_sampled_labels_give_the_gauss_newton_matrix_on_average(
    exact: CausalModel, documents: list[IntArray], dense: Tensor
) -> None:
    """The trace of corrected factors over many seeds, within what sampling allows."""
    factors = KroneckerFactors(exact, lambda name: name in WHERE)
    traces = []
    for seed in range(40):
        factors.fit(documents[:9], rng=np.random.default_rng(seed))
        traces.append(sum(float(p.eigenvalues.sum()) for p in factors.eigen_blocks()))
    spread = np.std(traces) / np.sqrt(len(traces))
    assert abs(np.mean(traces) - float(dense.trace())) < 4 * spread
    assert spread < 0.1 * float(dense.trace())


def test_products_in_float32_are_those_of_float64(
    decoder: Decoder, make: Make, documents: list[IntArray]
) -> None:
    """Up to rounding, for all attention matrices."""
    layers = tracked_layers(make(), "attention")
    assert [layer.name for layer in layers] == layer_names("attention")
    vector = {
        layer.name: torch.ones(layer.n_out, layer.n_in, dtype=torch.float64) for layer in layers
    }
    narrow = gauss_newton_product(make(), layers, documents, vector)
    decoder.double()
    wide = gauss_newton_product(make(), layers, documents, vector)
    for name, value in wide.items():
        assert float((narrow[name] - value).norm() / value.norm()) < 1e-4


def test_an_empty_sample_is_refused(make: Make) -> None:
    """No predicted token."""
    with pytest.raises(DataError, match="no predicted token"):
        gauss_newton_product(make(), tracked_layers(make(), "attention"), [], {})
