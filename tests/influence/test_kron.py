"""Kronecker factors against dense matrices, on files, and what they refuse."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cuvee.arrays import IntArray
from cuvee.errors import ArtifactError, ConfigError, DataError, NotFittedError
from cuvee.influence.gradient import gradient
from cuvee.influence.head import drawn_labels
from cuvee.influence.kron import KroneckerFactors
from cuvee.influence.model import CausalModel
from cuvee.influence.vectors import LayerVector
from cuvee.proxy.model import ProxyModel
from cuvee.proxy.sizes import ModelSize

from .conftest import CONTEXT, Decoder, Make, autograd_gradients

DENSE_TOLERANCE = 1e-10
"""Float64 closed forms against dense solves."""


@pytest.fixture
def exact(decoder: Decoder, make: Make) -> CausalModel:
    """The decoder in float64."""
    decoder.double()
    return make()


def _rng() -> np.random.Generator:
    return np.random.default_rng(5)


def _error(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).norm() / truth.norm())


@pytest.mark.parametrize("query_key_value", ["fused", "separate"])
@pytest.mark.parametrize("corrected", [True, False])
def test_closed_form_equals_the_dense_solve(
    exact: CausalModel, documents: list[IntArray], query_key_value: Any, corrected: bool
) -> None:
    """(S (x) A + damping)^-1 vec(G), or with the corrected eigenvalues, block by block."""
    factors = KroneckerFactors(
        exact, "all", query_key_value=query_key_value, corrected=corrected
    ).fit(documents, rng=_rng())
    right = gradient(exact, documents[:4], where="all")
    found = factors.solve(right, damping=0.3)
    sums = factors.sums_
    assert sums is not None
    assert len(factors.blocks) == {"fused": 8, "separate": 12}[query_key_value]
    for part in factors.eigen_blocks():
        block = part.block
        outputs, inputs = sums.outputs[block.name], sums.inputs[str(block.group)]
        dense = torch.kron(outputs / sums.n_tokens, inputs / sums.n_tokens)
        basis = torch.kron(part.q_out, part.q_in)
        if corrected:
            dense = basis @ torch.diag(part.eigenvalues.flatten()) @ basis.t()
        damping = 0.3 * float(dense.trace()) / len(dense)
        damped = dense + damping * torch.eye(len(dense), dtype=torch.float64)
        truth = torch.linalg.solve(damped, block.gather(right.values).flatten())
        assert _error(block.gather(found.values).flatten(), truth) < DENSE_TOLERANCE


def test_factors_equal_those_of_separate_sums(
    decoder: Decoder, exact: CausalModel, documents: list[IntArray]
) -> None:
    """Projections of one input have one A; the fused S holds the separate ones, widths differ."""
    fused = KroneckerFactors(exact, corrected=False).fit(documents, rng=_rng()).sums_
    apart = KroneckerFactors(exact, query_key_value="separate", corrected=False)
    separate = apart.fit(documents, rng=_rng()).sums_
    assert fused is not None
    assert separate is not None
    assert len(fused.inputs) == len(separate.inputs) == 4
    joined = next(value for name, value in fused.outputs.items() if "blocks.0.attn.q" in name)
    assert joined.shape == (32, 32)
    start = 0
    for part in "qkv":
        name = next(n for n in separate.outputs if f"blocks.0.attn.{part}" in n)
        stop = start + len(separate.outputs[name])
        torch.testing.assert_close(joined[start:stop, start:stop], separate.outputs[name])
        start = stop
    assert float(joined[:16, 24:].abs().max()) > 0


def test_fused_matrices_can_be_cut(documents: list[IntArray]) -> None:
    """A proxy's query_key_value in three; other widths are told by splits, wrong ones refused."""
    size = ModelSize(name="tiny", n_layers=1, width=16, n_heads=2, hidden=24)
    proxy = ProxyModel(
        size, vocabulary_size=60, context=CONTEXT, generator=torch.Generator().manual_seed(2)
    )
    model = CausalModel(module=proxy, hidden=proxy.hidden, head=proxy.head, context=CONTEXT)
    names = [block.name for block in KroneckerFactors(model, query_key_value="separate").blocks]
    whole = "blocks.0.query_key_value"
    parts = [f"{whole}[0:16]", f"{whole}[16:32]", f"{whole}[32:48]"]
    assert names == [*parts, "blocks.0.attention_out[0:16]"]
    other = KroneckerFactors(model, query_key_value="separate", splits={whole: (32, 8, 8)})
    assert other.blocks[0].n_out == 32
    with pytest.raises(ConfigError, match=r"rows \(16, 8\) do not add up to the 48 rows"):
        KroneckerFactors(model, query_key_value="separate", splits={whole: (16, 8)})


def test_corrected_eigenvalues_are_the_diagonal_of_the_rotated_fisher(
    decoder: Decoder, exact: CausalModel, documents: list[IntArray]
) -> None:
    """With the text's own labels, from torch's per-document gradients."""
    short = [ids for ids in documents if len(ids) <= CONTEXT]
    factors = KroneckerFactors(exact, labels="text").fit(short, rng=_rng())
    each = autograd_gradients(decoder, short, "attention")
    for part in factors.eigen_blocks():
        rows = torch.stack([part.block.gather(grads).flatten() for grads in each])
        fisher = rows.t() @ rows / sum(map(len, short))
        basis = torch.kron(part.q_out, part.q_in)
        truth = (basis.t() @ fisher @ basis).diagonal()
        assert _error(part.eigenvalues.flatten(), truth) < DENSE_TOLERANCE


def test_solve_is_symmetric_and_tends_to_the_plain_gradient(
    exact: CausalModel, documents: list[IntArray]
) -> None:
    """g^T H^-1 h = h^T H^-1 g; for a large damping, g / damping."""
    factors = KroneckerFactors(exact).fit(documents, rng=_rng())
    one, other = gradient(exact, documents[:3]), gradient(exact, documents[3:6])
    left, right = one.dot(factors.solve(other)), other.dot(factors.solve(one))
    assert left == pytest.approx(right, rel=DENSE_TOLERANCE)
    far = factors.solve(one, damping=1e9, relative=False)
    assert far.dot(one) * 1e9 == pytest.approx(one.norm**2, rel=1e-6)


@pytest.mark.parametrize(
    "fields", [{"batch_tokens": 1}, {"layout": "bucketed"}, {"plain_attention": False}]
)
def test_fit_does_not_depend_on_the_layout(
    exact: CausalModel, make: Make, documents: list[IntArray], fields: dict[str, Any]
) -> None:
    """Nor on the order of documents: labels are drawn by text and place."""
    one = KroneckerFactors(exact).fit(documents, rng=_rng())
    other = KroneckerFactors(make(**fields)).fit(documents[::-1], rng=_rng())
    right = gradient(exact, documents[:3])
    left, found = (factors.solve(right) for factors in (one, other))
    difference = left.with_values(
        a - b for a, b in zip(left.values.values(), found.values.values(), strict=True)
    )
    assert difference.norm < 1e-8 * left.norm


def test_bfloat16_factors_are_near_those_of_float32(make: Make, documents: list[IntArray]) -> None:
    """Products by autocast, sums in float32 and wider."""
    right = gradient(make(), documents[:3])
    wide, narrow = (
        KroneckerFactors(make(precision=precision), labels="text")
        .fit(documents, rng=_rng())
        .solve(right, damping=0.5)
        for precision in ("own", "bfloat16")
    )
    assert wide.dot(narrow) > 0.995 * wide.norm * narrow.norm
    assert narrow.norm == pytest.approx(wide.norm, rel=0.05)


def test_what_is_kept_in_memory_changes_nothing(
    exact: CausalModel, make: Make, documents: list[IntArray]
) -> None:
    """All batches of the first pass, some, or none."""
    model, right = make(batch_tokens=60), gradient(exact, documents[:3], where="all")
    products = [
        KroneckerFactors(model, "all")
        .fit(documents, rng=_rng(), keep_bytes=n_bytes)
        .solve(right)
        .norm
        for n_bytes in (0, 400_000, 1 << 30)
    ]
    assert products[1:] == pytest.approx(products[:1] * 2, rel=1e-12)


def test_labels_are_drawn_by_their_chances() -> None:
    """Inverting the distribution function: shares, both ends, chances of zero."""
    generator = torch.Generator().manual_seed(1)
    chances = torch.softmax(2 * torch.randn(1, 300, generator=generator), 1)
    chances[0, 130:260] = 0
    chances /= chances.sum()
    uniforms = (torch.arange(20_000) + 0.5) / 20_000
    drawn = drawn_labels(chances.expand(20_000, -1), uniforms.double())
    shares = torch.bincount(drawn, minlength=300) / 20_000
    assert float((shares - chances[0]).abs().max()) < 1e-4
    ends = drawn_labels(torch.eye(300)[[0, 299, 128]], torch.tensor([0.0, 1 - 1e-12, 0.5]))
    assert ends.tolist() == [0, 299, 128]


def test_files_add_up(exact: CausalModel, documents: list[IntArray], tmp_path: Path) -> None:
    """First passes of two halves, then second passes in the common eigenbasis, equal the whole."""
    whole = KroneckerFactors(exact)
    whole.fit_covariances(documents, label_seed=3).fit_eigenvalues(documents, label_seed=3)
    halves = [documents[::2], documents[1::2]]
    first, second = (
        [tmp_path / f"{step}-{i}.safetensors" for i in (0, 1)] for step in ("first", "second")
    )
    for half, path in zip(halves, first, strict=True):
        KroneckerFactors(exact).fit_covariances(half, label_seed=3).save(path)
    for half, path in zip(halves, second, strict=True):
        both = KroneckerFactors(exact).load(*first)
        both.fit_eigenvalues(half, label_seed=3).save(path)
    merged = KroneckerFactors(exact).load(*second)
    right = gradient(exact, documents[:3])
    assert merged.solve(right).dot(right) == pytest.approx(whole.solve(right).dot(right), rel=1e-8)
    KroneckerFactors(exact).fit(halves[0], rng=_rng()).save(tmp_path / "other.safetensors")
    whole.fit(halves[1], rng=_rng()).save(tmp_path / "another.safetensors")
    with pytest.raises(DataError, match="in different eigenbases, which do not add up"):
        KroneckerFactors(exact).load(
            tmp_path / "other.safetensors", tmp_path / "another.safetensors"
        )


def test_other_models_layers_and_tokenizers_are_refused(
    decoder: Decoder, make: Make, documents: list[IntArray], tmp_path: Path
) -> None:
    """By files, by gradients, and by a model that changed meanwhile."""
    path = tmp_path / "factors.safetensors"
    factors = KroneckerFactors(make()).fit(documents, rng=_rng())
    factors.save(path)
    with pytest.raises(DataError, match="of different tokenizer"):
        KroneckerFactors(make(tokenizer="other")).load(path)
    with pytest.raises(DataError, match="of different layers"):
        KroneckerFactors(make(), "all").load(path)
    with pytest.raises(DataError, match="of different labels"):
        KroneckerFactors(make(), labels="text").load(path)
    with pytest.raises(DataError, match="factors and gradient are of different layers"):
        factors.solve(gradient(make(), documents, where="mlp"))
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    with pytest.raises(DataError, match="is damaged"):
        KroneckerFactors(make()).load(path)
    with torch.no_grad():
        decoder.get_parameter("blocks.1.attn.o_proj.weight").mul_(2)
    with pytest.raises(DataError, match="weights changed since"):
        factors.fit_eigenvalues(documents, label_seed=1)
    path.write_bytes(b"")
    with pytest.raises(ArtifactError, match="cannot be read"):
        KroneckerFactors(make()).load(path)


def test_what_cannot_be_meant_is_refused(
    decoder: Decoder, make: Make, documents: list[IntArray]
) -> None:
    """One message each."""
    factors = KroneckerFactors(make())
    right: LayerVector = gradient(make(), documents)
    with pytest.raises(NotFittedError, match="not fitted"):
        factors.solve(right)
    with pytest.raises(ConfigError, match="labels='true' is unknown"):
        KroneckerFactors(make(), labels="true")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="query_key_value='apart' is unknown"):
        KroneckerFactors(make(), query_key_value="apart")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no file to load"):
        factors.load()
    with pytest.raises(DataError, match="can be read only once"):
        factors.fit(iter(documents), rng=_rng())
    with pytest.raises(DataError, match="no predicted token"):
        factors.fit([], rng=_rng())
    factors.fit(documents, rng=_rng())
    with pytest.raises(ConfigError, match="damping=0 and steps=0"):
        factors.solve(right, damping=0)
    with pytest.raises(ConfigError, match="needs a sample"):
        factors.solve(right, steps=2)
    with torch.no_grad():
        decoder.embed.weight[5] = float("nan")
    with pytest.raises(DataError, match="is not finite"):
        factors.fit([[5, 5, 5]], rng=_rng())
