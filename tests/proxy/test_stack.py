"""A stack of proxies: each member computes what it would compute alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cuvee.policy.mixture import Mixture
from cuvee.proxy import stacked_losses, stacked_step
from cuvee.proxy.model import ProxyModel
from cuvee.proxy.record import SPIKE
from cuvee.proxy.sizes import model_size
from cuvee.proxy.spec import TrainingSpec
from cuvee.proxy.stack import StackedModel
from cuvee.proxy.stacked_losses import stacked_head_loss, stacked_token_losses
from cuvee.proxy.stacked_step import StackedStep
from cuvee.proxy.step import AutogradStep
from cuvee.proxy.sweep import ProxyConfig, SweepInputs, training_spec
from cuvee.proxy.train import _parameter_groups, learning_rate_at

VOCABULARY, CONTEXT, SEQUENCES, STEPS = 101, 16, 6, 30
EXACT = 1e-9
"""In float64: the sums of a batched product may be made in another order than those of one."""

ROUGH = 1e-5
"""Of weights after steps of size 1e5, which blow rounding up; losses are as exact as others'."""

Batch = tuple[Tensor, Tensor, Tensor]


@dataclass
class Alone:
    """What a run made alone leaves."""

    losses: list[float]
    diverged: bool
    state: dict[str, Tensor]


def spec(**changes: Any) -> TrainingSpec:
    """Describe a run of a few steps."""
    inputs = SweepInputs(
        pool="",  # type: ignore[arg-type]
        targets=None,
        statistics=None,
        target_tokens=0,
        precision="float32",
        device="cpu",
    )
    proxy = ProxyConfig(
        size="0.03m",
        context=CONTEXT,
        batch_tokens=SEQUENCES * CONTEXT,
        n_tokens=STEPS * SEQUENCES * CONTEXT,
        warmup_share=0.2,
    )
    run = training_spec(
        proxy,
        inputs,
        Mixture.flat(("any",), (1.0,)),
        seed=0,
        run_seed=0,
        learning_rate=1e-3,
    )
    return replace(run, **changes)


RUNS = [
    spec(learning_rate=4e-3, seed=1),
    spec(learning_rate=1e-2, seed=2, schedule="cosine", weight_decay=0.5),
    spec(learning_rate=1e5, seed=3, clip=1e9),
    spec(learning_rate=2e-3, seed=4, clip=0.1, warmup_steps=1),
]
WILD = 2


def single(run: TrainingSpec, *, dtype: torch.dtype = torch.float64) -> ProxyModel:
    """Return a run's model with weights of its seed, the gains and projections moved as well."""
    generator = torch.Generator().manual_seed(run.seed)
    model = ProxyModel(
        model_size(run.size), vocabulary_size=VOCABULARY, context=CONTEXT, generator=generator
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model.to(dtype)


def stacked(models: Sequence[ProxyModel], *, dtype: torch.dtype = torch.float64) -> StackedModel:
    """Stack some models."""
    stack = StackedModel(
        model_size(RUNS[0].size),
        n_members=len(models),
        vocabulary_size=VOCABULARY,
        context=CONTEXT,
    ).to(dtype)
    for member, model in enumerate(models):
        stack.load_member(member, model.state_dict())
    return stack


def batches(seed: int) -> list[Batch]:
    """Draw a member's own batches, the last one smaller; ids of a narrow range can be learnt."""
    rng = np.random.default_rng(seed)
    drawn = []
    for number in range(STEPS):
        rows = SEQUENCES if number < STEPS - 1 else 2
        ids = rng.integers(VOCABULARY // (1 + seed % 3), size=(rows, CONTEXT + 1))
        breaks = rng.random((rows, CONTEXT)) < 0.1
        drawn.append(
            (
                torch.from_numpy(ids[:, :-1]),
                torch.from_numpy(breaks.cumsum(1)),
                torch.from_numpy(ids[:, 1:]),
            )
        )
    return drawn


def train_alone(run: TrainingSpec, own: Sequence[Batch]) -> Alone:
    """Train as `train.train_proxy` does, in float64."""
    model = single(run)
    step = AutogradStep(model, "float32")
    optimiser = torch.optim.AdamW(
        _parameter_groups(model, run.weight_decay), betas=(0.9, 0.95), fused=True
    )
    losses: list[float] = []
    spike = SPIKE * math.log(VOCABULARY)
    for number, batch in enumerate(own, start=1):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate_at(number, STEPS, run)
        losses.append(step(*batch))
        if number == 1:
            spike = max(spike, SPIKE * losses[0])
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), run.clip)
        if not (losses[-1] < spike and math.isfinite(norm)):
            return Alone(losses, True, dict(model.state_dict()))
        optimiser.step()
        optimiser.zero_grad()
    return Alone(losses, False, dict(model.state_dict()))


def train_together(runs: Sequence[TrainingSpec]) -> tuple[StackedModel, StackedStep]:
    """Train the same runs as one stack, in pieces of two sequences."""
    model = stacked([single(run) for run in runs])
    step = StackedStep(model, runs, piece_tokens=2 * CONTEXT)
    for parts in zip(*(batches(run.seed) for run in runs), strict=True):
        step(*(torch.stack(part) for part in zip(*parts, strict=True)))
    return model, step


def test_a_whole_run_equals_the_run_alone() -> None:
    """Rates, schedules, decays, clips, seeds and data of its own; one member diverges."""
    model, step = train_together(RUNS)
    assert step.running == [True, True, False, True]
    for member, run in enumerate(RUNS):
        alone = train_alone(run, batches(run.seed))
        assert alone.diverged == (member == WILD)
        np.testing.assert_allclose(step.losses[member], alone.losses, rtol=EXACT)
        state = model.member_state(member)
        assert set(state) == set(alone.state)
        for name, value in alone.state.items():
            near = EXACT if member != WILD else ROUGH
            torch.testing.assert_close(state[name], value, rtol=near, atol=near)
    assert 1 < len(step.losses[WILD]) < STEPS
    assert step.losses[0][-2] < 0.9 * step.losses[0][0]


def test_a_member_that_diverges_leaves_its_neighbours_as_they_are() -> None:
    """Bit for bit, also where its parameters and losses are NaN from the first step on."""
    sane = [*RUNS[:WILD], replace(RUNS[0], seed=3), *RUNS[WILD + 1 :]]
    expected, calm = train_together(sane)
    for broken in (RUNS, [*sane[:WILD], replace(sane[WILD], learning_rate=math.nan), sane[-1]]):
        model, step = train_together(broken)
        assert not step.running[WILD]
        for member in (0, 1, 3):
            assert step.losses[member] == calm.losses[member]
            other = expected.member_state(member)
            for name, value in model.member_state(member).items():
                assert torch.equal(value, other[name])


@pytest.mark.parametrize("place", ["gradient", "loss"])
def test_a_member_that_is_not_finite_is_frozen(place: str) -> None:
    """At once, with the parameters it had; its loss is the last that is recorded."""
    model = stacked([single(run) for run in RUNS[:2]])
    step = StackedStep(model, RUNS[:2])
    with torch.no_grad():
        if place == "loss":
            model.head[1, 3, 3] = math.inf
        else:
            model.embedding.register_hook(
                lambda grad: grad.index_fill(0, torch.tensor([1]), math.nan)
            )
    before = model.member_state(1)
    other = model.member_state(0)["head"]
    for parts in zip(*(batches(run.seed)[:3] for run in RUNS[:2]), strict=True):
        step(*(torch.stack(part) for part in zip(*parts, strict=True)))
    assert step.running == [True, False]
    assert [len(losses) for losses in step.losses] == [3, 1]
    for name, value in model.member_state(1).items():
        assert torch.equal(value, before[name])
    assert not torch.equal(model.member_state(0)["head"], other)


def test_token_losses_equal_those_of_each_model() -> None:
    models = [single(run) for run in RUNS]
    own = [batches(run.seed)[0] for run in RUNS]
    stack = stacked(models)
    tokens, segments, targets = (torch.stack(part) for part in zip(*own, strict=True))
    losses = stack.token_losses(tokens, segments, targets)
    for member, model in enumerate(models):
        with torch.no_grad():
            expected = model.token_losses(*own[member])
        torch.testing.assert_close(losses[member], expected, rtol=EXACT, atol=EXACT)


def test_bfloat16_products_keep_float32_weights() -> None:
    """The loss stays near that in float32, and gradients have the parameters' type."""
    models = [single(run, dtype=torch.float32) for run in RUNS[:2]]
    narrow = StackedModel(
        model_size(RUNS[0].size),
        n_members=2,
        vocabulary_size=VOCABULARY,
        context=CONTEXT,
        products=torch.bfloat16,
    )
    for member, model in enumerate(models):
        narrow.load_member(member, model.state_dict())
    own = [batches(run.seed)[0] for run in RUNS[:2]]
    tokens, segments, targets = (torch.stack(part) for part in zip(*own, strict=True))
    losses = narrow.losses(narrow.hidden(tokens, segments), targets, scale=1 / targets[0].numel())
    losses.sum().backward()
    for member, model in enumerate(models):
        with torch.no_grad():
            expected = model.loss(*own[member])
        torch.testing.assert_close(losses.detach()[member], expected, rtol=0.01, atol=0.0)
    for parameter in narrow.parameters():
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32


def test_a_stack_that_cannot_be_compiled_runs_eagerly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning, and the same numbers."""

    def broken(*_: object) -> Tensor:
        raise RuntimeError("no compiler")

    batch = [torch.stack(part) for part in zip(*(batches(n)[0] for n in (1, 2)), strict=True)]
    losses = []
    with monkeypatch.context() as patched:
        patched.setattr(torch, "compile", lambda *_, **__: broken)
        for compiled in (False, True):
            step = StackedStep(
                stacked([single(run) for run in RUNS[:2]]), RUNS[:2], compiled=compiled
            )
            step(*batch)
            step(*batch)
            losses.append(step.losses)
    stacked_step._compiled_update.cache_clear()
    assert losses[0] == losses[1]
    assert "torch.compile failed; the stack runs eagerly: no compiler" in caplog.text


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation."""
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(one, Tensor):
                self.numel = max(self.numel, one.numel())
        return result


@pytest.mark.parametrize(("portion", "tokens"), [(2**22, 512), (2 * 4 * VOCABULARY, 4)])
def test_the_head_loss_and_its_gradients_equal_the_dense_ones(
    monkeypatch: pytest.MonkeyPatch, portion: int, tokens: int
) -> None:
    """Whole or in portions of two members by four tokens; never all logits at once then."""
    monkeypatch.setitem(stacked_losses._PORTION, "cpu", portion)
    monkeypatch.setitem(stacked_losses._TOKENS, "cpu", tokens)
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn(3, 30, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    head = torch.randn(3, VOCABULARY, 8, generator=generator).double().requires_grad_()
    targets = torch.randint(VOCABULARY, (3, 30), generator=generator)
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    with Largest() as largest:
        losses = stacked_head_loss(hidden, head, targets, scale=1 / 30)
        (losses * weights).sum().backward()
        each = stacked_token_losses(hidden.detach(), head.detach(), targets)
    assert hidden.grad is not None
    assert head.grad is not None
    if tokens == 4:
        assert largest.numel <= 3 * VOCABULARY * 8  # the head's gradient
    grads = (hidden.grad, head.grad)
    hidden, head = hidden.detach().requires_grad_(), head.detach().requires_grad_()
    logits = torch.einsum("mnc,mvc->mvn", hidden, head)
    dense = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    (dense.mean(1) * weights).sum().backward()
    torch.testing.assert_close(losses, dense.mean(1), rtol=EXACT, atol=0.0)
    torch.testing.assert_close(each, dense, rtol=EXACT, atol=EXACT)
    for mine, wanted in zip(grads, (hidden.grad, head.grad), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=EXACT, atol=EXACT)


def test_the_head_loss_survives_large_logits() -> None:
    """A token whose probability is no number still has its loss."""
    hidden = torch.full((1, 2, 4), 1e4)
    head = torch.tensor([[[1.0] * 4, [-1.0] * 4, [0.0] * 4]])
    losses = stacked_head_loss(hidden, head, torch.tensor([[0, 1]]), scale=1.0)
    assert losses.tolist() == [80_000.0]
