"""The written-out step: gradients of each piece and of the whole equal those of autograd."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuvee import artifacts, config
from cuvee.corpus.store import TokenStore
from cuvee.policy.mixture import Mixture
from cuvee.proxy import explicit_attention, explicit_step
from cuvee.proxy.buffers import Buffers
from cuvee.proxy.explicit_attention import ExplicitAttention, rotation_of
from cuvee.proxy.explicit_layers import ExplicitBlock, Normalisation, Projection
from cuvee.proxy.explicit_step import ExplicitStep
from cuvee.proxy.machine import choose_step
from cuvee.proxy.model import EPSILON, Block, ProxyModel
from cuvee.proxy.sizes import ModelSize
from cuvee.proxy.spec import possible_step
from cuvee.proxy.step import AutogradStep, training_step
from cuvee.proxy.sweep import ProxyConfig, SweepInputs, training_spec
from cuvee.proxy.train import train_proxy
from cuvee.tables.runs import read_trajectory

FLOAT64_TOLERANCE = 1e-12
"""The same sums in another order."""
FLOAT32_TOLERANCE = 5e-6
"""Relative error of a gradient's norm; autograd in float32 has as much."""
BFLOAT16_SLACK = 1.25
"""Our error against that of autocast, which rounds at other places."""
CURVE_TOLERANCE = 2e-3
"""Relative; the bar for bits per byte of a finished proxy. Rounding grows over the steps."""
TINY = ModelSize(name="tiny", n_layers=2, width=32, n_heads=2, hidden=48)
VOCABULARY = 70


def _normal(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _model(dtype: torch.dtype = torch.float64, context: int = 300) -> ProxyModel:
    generator = torch.Generator().manual_seed(3)
    model = ProxyModel(
        TINY, vocabulary_size=VOCABULARY, context=context, generator=generator
    ).double()
    with torch.no_grad():  # gains of one and projections of zero would hide most gradients
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(0.1 * _normal(number, *parameter.shape))
    return model.to(dtype)


def _batch(n_sequences: int, context: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(context)
    shape = (n_sequences, context)
    tokens, targets = (torch.randint(VOCABULARY, shape, generator=generator) for _ in range(2))
    segments = torch.cumsum(torch.rand(shape, generator=generator) < 0.1, dim=1)
    return tokens, segments, targets


def _mask(segments: Tensor) -> Tensor:
    length = segments.shape[1]
    allowed = (segments[:, :, None] == segments[:, None, :]).tril()
    zeros = torch.zeros(len(segments), length, length, dtype=torch.float64)
    return zeros.masked_fill(~allowed, float("-inf"))


def _error(ours: Iterable[Tensor | None], truth: Iterable[Tensor | None]) -> float:
    """Return the largest relative error, by norm, of some tensors."""
    worst = 0.0
    for one, exact in zip(ours, truth, strict=True):
        assert one is not None
        assert exact is not None
        worst = max(worst, float((one.double() - exact).norm() / exact.norm()))
    return worst


def _grads(model: nn.Module) -> list[Tensor | None]:
    return [parameter.grad for parameter in model.parameters()]


def _exact(model: ProxyModel, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[float, ProxyModel]:
    """Return the loss and a float64 copy of the model that has its gradients."""
    copy = _model()
    copy.load_state_dict(model.state_dict())
    tokens, segments, targets = batch
    logits = copy.hidden(tokens, segments) @ copy.head.t()
    loss = F.cross_entropy(logits, targets.flatten())
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach()), copy


@pytest.mark.parametrize("context", [1, 9, 128, 131, 300])
@pytest.mark.parametrize("cached", [1, 1 << 18])
def test_attention_gradients_equal_autograd(
    context: int, cached: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explicit_attention, "_CACHED", cached)
    model, n_sequences, n_heads = _model(), 3, 2
    cos, sin = (cast(Tensor, table)[:context] for table in (model.cos, model.sin))
    _, segments, _ = _batch(n_sequences, context)
    mask = _mask(segments)
    rows = _normal(1, n_sequences * context, 3 * 32).requires_grad_()
    grad = _normal(2, n_sequences * context, 32)

    parts = rows.view(n_sequences, context, 3, n_heads, -1).permute(2, 0, 3, 1, 4)
    turned = [part * cos + part.roll(8, dims=-1) * sin for part in parts[:2]]
    expected = F.scaled_dot_product_attention(*turned, parts[2], attn_mask=mask[:, None])
    expected = expected.transpose(1, 2).reshape(n_sequences * context, 32)
    expected.backward(grad)  # type: ignore[no-untyped-call]

    buffers = Buffers(n_sequences, torch.float64)
    attention = ExplicitAttention(rotation_of(cos, sin, torch.float64), n_heads, buffers)
    mixed = attention.forward(rows.detach(), mask)
    assert _error([mixed], [expected.detach()]) < FLOAT64_TOLERANCE
    assert _error([attention.backward(grad)], [rows.grad]) < FLOAT64_TOLERANCE


def test_normalisation_gradient_equals_autograd() -> None:
    x = _normal(1, 12, 32).requires_grad_()
    before, grad = _normal(2, 12, 32), _normal(3, 12, 32)
    expected = F.rms_norm(x, (32,), eps=EPSILON)
    expected.backward(grad)  # type: ignore[no-untyped-call]
    norm = Normalisation(nn.Parameter(_normal(4, 32)), 6, Buffers(2, torch.float64))
    assert _error([norm.forward(x.detach())], [expected.detach()]) < FLOAT64_TOLERANCE
    total = before.clone()
    norm.backward(grad.clone(), total)
    assert x.grad is not None
    assert _error([total], [before + x.grad]) < FLOAT64_TOLERANCE


@torch.no_grad()
def test_a_projection_hands_its_gradient_on_to_matrix_and_gain() -> None:
    matrix, gain = nn.Parameter(_normal(1, 6, 4)), nn.Parameter(_normal(2, 4))
    rows, grad = _normal(3, 10, 4), _normal(4, 10, 6)
    for parameter in (matrix, gain):
        parameter.grad = torch.zeros_like(parameter)
    projection = Projection(matrix, torch.float64, gain)
    projection.refresh()
    projection.add_gradient(grad[:3], rows[:3])
    projection.add_gradient(grad[3:], rows[3:])
    projection.finish()
    assert _error([rows @ projection.weight.t()], [(rows * gain) @ matrix.t()]) < FLOAT64_TOLERANCE
    exact = [grad.t() @ (rows * gain), ((grad @ matrix) * rows).sum(0)]
    assert _error([matrix.grad, gain.grad], exact) < FLOAT64_TOLERANCE


def test_block_gradients_equal_autograd() -> None:
    model, context, n_sequences = _model(), 20, 2
    block = cast(Block, model.blocks[0])
    cos, sin = (cast(Tensor, table)[:context] for table in (model.cos, model.sin))
    mask = _mask(_batch(n_sequences, context)[1])
    x = _normal(5, n_sequences, context, 32).requires_grad_()
    expected = block(x, (cos, sin), mask[:, None])
    grad = _normal(6, n_sequences, context, 32)
    expected.backward(grad)
    exact = [gradient.clone() for gradient in _grads(block) if gradient is not None]
    block.zero_grad(set_to_none=False)
    with torch.no_grad():
        rotation = rotation_of(cos, sin, torch.float64)
        ours = ExplicitBlock(block, rotation, Buffers(n_sequences, torch.float64))
        for projection in ours.projections:
            projection.refresh()
        stream, stream_grad = x.detach().flatten(0, 1).clone(), grad.flatten(0, 1).clone()
        ours.forward(stream, mask)
        ours.backward(stream_grad)
        for projection in ours.projections:
            projection.finish()
    assert x.grad is not None
    assert _error([stream], [expected.detach().flatten(0, 1)]) < FLOAT64_TOLERANCE
    assert _error([stream_grad], [x.grad.flatten(0, 1)]) < FLOAT64_TOLERANCE
    assert _error(_grads(block), exact) < FLOAT64_TOLERANCE


@pytest.mark.parametrize("n_sequences", [1, 5])
@pytest.mark.parametrize("context", [7, 64, 150])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, FLOAT64_TOLERANCE), (torch.float32, FLOAT32_TOLERANCE)],
)
def test_gradients_of_the_whole_step_equal_float64_autograd(
    dtype: torch.dtype, tolerance: float, context: int, n_sequences: int
) -> None:
    model, batch = _model(dtype), _batch(n_sequences, context)
    step = ExplicitStep(model, n_sequences=n_sequences, context=context, dtype=dtype)
    loss = step(*batch)
    expected, exact = _exact(model, batch)
    assert loss == pytest.approx(expected, rel=FLOAT32_TOLERANCE)  # summed in float32
    assert _error(_grads(model), _grads(exact)) < tolerance


def test_bfloat16_products_are_as_exact_as_under_autocast() -> None:
    batch = _batch(4, 64)
    errors = []
    makers: list[Callable[[ProxyModel], explicit_step.ExplicitStep | AutogradStep]] = [
        lambda model: ExplicitStep(model, n_sequences=4, context=64, dtype=torch.bfloat16),
        lambda model: AutogradStep(model, "bfloat16"),
    ]
    for make in makers:
        model = _model(torch.float32)
        make(model)(*batch)
        _, exact = _exact(model, batch)
        ours, truth = (
            torch.cat([grad.double().flatten() for grad in _grads(one) if grad is not None])
            for one in (model, exact)
        )
        errors.append(_error([ours], [truth]))
    assert errors[0] < BFLOAT16_SLACK * errors[1]


def test_pieces_and_smaller_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explicit_step, "_PIECE_TOKENS", 50)
    model = _model()
    step = ExplicitStep(model, n_sequences=7, context=16, dtype=torch.float64)
    for n_sequences in (7, 2, 7):  # pieces of 3, 3 and 1 sequences; then of 2
        batch = _batch(n_sequences, 16)
        model.zero_grad(set_to_none=False)
        step(*batch)
        assert _error(_grads(model), _grads(_exact(model, batch)[1])) < FLOAT64_TOLERANCE


def test_gradients_are_added_and_follow_the_parameters() -> None:
    model, batch = _model(), _batch(2, 16)
    step = ExplicitStep(model, n_sequences=2, context=16, dtype=torch.float64)
    step(*batch)
    _, first = _exact(model, batch)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    step(*batch)
    _, second = _exact(model, batch)
    total = [one + other for one, other in zip(_grads(first), _grads(second), strict=True)]  # type: ignore[operator]
    assert _error(_grads(model), total) < FLOAT64_TOLERANCE


def test_a_diverged_model_has_no_finite_loss() -> None:
    model = _model(torch.float32)
    with torch.no_grad():
        model.head.fill_(float("inf"))
    step = ExplicitStep(model, n_sequences=2, context=16, dtype=torch.float32)
    assert not np.isfinite(step(*_batch(2, 16)))


def test_runs_of_both_steps_agree(stores: Path, store: TokenStore, tmp_path: Path) -> None:
    inputs = SweepInputs(
        pool=stores / "tokens",
        targets=stores / "targets" / "tokens",
        statistics=store.statistics(),
        target_tokens=100_000,
        precision="float32",
        device="cpu",
        step="explicit",
    )
    proxy = ProxyConfig(
        size="0.05m",
        n_tokens=16_400,
        context=40,
        batch_tokens=800,
        points=(0.5, 1.0),
        evaluation_tokens=512,
        domain_evaluation_tokens=256,
        repetition_matched=False,
    )
    mixture = Mixture.flat(store.statistics().domains, (0.4, 0.3, 0.3))
    spec = training_spec(proxy, inputs, mixture, seed=1, run_seed=7, learning_rate=4e-3)
    assert spec.step == "explicit"
    train_proxy(config.dump(spec), tmp_path / "explicit")
    train_proxy(config.dump(replace(spec, step="autograd")), tmp_path / "autograd")
    curves, finals = [], []
    for name in ("explicit", "autograd"):
        result = cast(dict[str, list[float]], artifacts.read_json(tmp_path / name / "result.json"))
        curves.append(result["training_losses"])
        finals.append(read_trajectory(tmp_path / name / "trajectory.parquet").losses_bpb)
    assert curves[0][-1] < 0.8 * curves[0][0]
    np.testing.assert_allclose(curves[0], curves[1], rtol=CURVE_TOLERANCE)
    np.testing.assert_allclose(finals[0], finals[1], rtol=CURVE_TOLERANCE)


def test_autograd_stands_in_where_the_explicit_step_is_not_for() -> None:
    assert choose_step("auto", "cpu") == "explicit"
    assert choose_step("auto", "cuda") == "autograd"
    assert choose_step("autograd", "cpu") == "autograd"
    assert possible_step("explicit", device="cpu", context=1024) == "explicit"
    assert possible_step("explicit", device="cpu", context=1025) == "autograd"
    assert possible_step("explicit", device="cuda:0", context=64) == "autograd"
    assert possible_step("autograd", device="cpu", context=64) == "autograd"


def test_a_spec_names_its_step() -> None:
    inputs = SweepInputs(
        pool=Path(),
        targets=None,
        statistics=None,
        target_tokens=0,
        precision="float32",
        device="cpu",
    )
    mixture = Mixture.flat(("any",), (1.0,))
    spec = training_spec(ProxyConfig(), inputs, mixture, seed=0, run_seed=0, learning_rate=1.0)
    model = _model(torch.float32)
    assert isinstance(training_step(model, spec), AutogradStep)
    assert isinstance(training_step(model, replace(spec, step="explicit")), ExplicitStep)
