"""Train one proxy model on one mixture and measure it on every evaluation set.

`train_proxy` is a task (`executors`): it reads the token stores, trains, and leaves a folder with
the losses at several points of the run. Nothing in it but timing.json depends on the clock.
"""

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from cuvee import artifacts, config
from cuvee.arrays import IntArray
from cuvee.artifacts import Json
from cuvee.corpus.store import TokenStore
from cuvee.proxy.accuracy import measure_accuracy
from cuvee.proxy.batches import EvaluationSet
from cuvee.proxy.documents import open_evaluation_sets, training_plan
from cuvee.proxy.model import ProxyModel, load_weights
from cuvee.proxy.record import SPIKE, RunRecord, input_digests, measured_steps
from cuvee.proxy.sizes import model_size
from cuvee.proxy.spec import TrainingSpec, portable_spec
from cuvee.proxy.step import autocast, training_step
from cuvee.randomness import integer_seed, stream

logger = logging.getLogger(__name__)

EVALUATION_TOKENS = 4096
"""Tokens measured at a time."""


def train_proxy(spec: Mapping[str, Json], folder: Path) -> None:
    """Train and measure one run.

    Args:
        spec: A `TrainingSpec` as JSON.
        folder: Receives spec.json, result.json, trajectory.parquet, timing.json and checkpoints if
            asked for.

    Raises:
        DataError: A domain with weight has no documents to draw from.
    """
    run = config.parse(TrainingSpec, spec)
    inputs = input_digests(run)
    with (
        artifacts.writing(
            folder, stage="train", settings=portable_spec(run), seed=run.seed, inputs=inputs
        ) as aside,
        one_thread(),
    ):
        trainer = _Trainer(run, aside)
        trainer.train()
        trainer.write()


@contextmanager
def one_thread() -> Iterator[None]:
    """Sum in one order, so that a run made in this process equals one made by a worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Trainer:
    """One run, from its spec to its folder."""

    def __init__(self, run: TrainingSpec, folder: Path) -> None:
        self._run = run
        self._started = time.perf_counter()
        pool = TokenStore.open(Path(run.pool))
        self._device = torch.device(run.device)
        self._plan = training_plan(run, pool)
        self._sets = open_evaluation_sets(run, pool)
        self._record = RunRecord(run, folder, sets=self._sets, realised=self._plan.realised_columns)
        self._model = initial_model(run, pool.vocabulary_size).to(self._device)
        self._step = training_step(self._model, run)
        self._optimiser = torch.optim.AdamW(
            _parameter_groups(self._model, run.weight_decay),
            lr=run.learning_rate,
            betas=(0.9, 0.95),
            fused=True,
        )
        self._spike = SPIKE * math.log(pool.vocabulary_size)
        self._losses: list[float] = []

    def train(self) -> None:
        """Run all steps, measuring at the points; stop where the loss diverges."""
        run = self._run
        n_steps = -(-run.n_sequences // run.batch_sequences)
        measured = measured_steps(run)
        if 0 in measured:
            self._measure(0)
        n_sequences = 0
        for step, batch in enumerate(self._plan.batches(run.batch_sequences), start=1):
            for group in self._optimiser.param_groups:
                group["lr"] = learning_rate_at(step, n_steps, run)
            parts = (batch.tokens, batch.segments, batch.targets)
            self._losses.append(self._step(*(self._tensor(part) for part in parts)))
            if step == 1 and math.isfinite(self._losses[0]):
                # A continued model may be worse on new text than an untrained one.
                self._spike = max(self._spike, SPIKE * self._losses[0])
            norm = torch.nn.utils.clip_grad_norm_(self._model.parameters(), run.clip)
            if not (self._losses[-1] < self._spike and math.isfinite(norm)):
                self._record.diverged = True
                break
            self._optimiser.step()
            self._optimiser.zero_grad(set_to_none=False)
            n_sequences += len(batch.tokens)
            for _ in range(measured.count(step)):
                self._measure(n_sequences * run.context)

    def write(self) -> None:
        """Write the run's files."""
        accuracy = {}
        if not self._record.diverged:
            accuracy = measure_accuracy(self._model, self._sets, precision=self._run.precision)
        seconds = round(time.perf_counter() - self._started, 3)
        self._record.write(
            self._losses, self._model.state_dict(), {"seconds": seconds}, accuracy=accuracy
        )

    def _measure(self, n_tokens: int) -> None:
        losses = [self._evaluate(one) for one in self._sets]
        self._record.measured(n_tokens, losses, self._model.state_dict())

    @torch.no_grad()
    def _evaluate(self, one: EvaluationSet) -> float:
        """Return the mean loss over the counted tokens, in nats per token."""
        step = max(1, EVALUATION_TOKENS // self._run.context)
        total = 0.0
        for first in range(0, len(one.batch.tokens), step):
            rows = slice(first, first + step)
            with autocast(self._device, self._run.precision):
                losses = self._model.token_losses(
                    self._tensor(one.batch.tokens[rows]),
                    self._tensor(one.batch.segments[rows]),
                    self._tensor(one.batch.targets[rows]),
                )
            counted = torch.from_numpy(one.counted[rows]).to(self._device)
            own = losses[counted].double()
            if one.weights is not None:
                own *= torch.from_numpy(one.weights[rows]).to(self._device)[counted]
            total += float(own.sum())
        return total / one.total_weight

    def _tensor(self, values: IntArray) -> Tensor:
        return torch.from_numpy(values).to(self._device)


def initial_model(run: TrainingSpec, vocabulary_size: int) -> ProxyModel:
    """Return the model a run begins with, on the CPU.

    Raises:
        DataError: The base checkpoint is of another model.
    """
    generator = torch.Generator().manual_seed(integer_seed(stream(run.seed, "proxy-weights")))
    model = ProxyModel(
        model_size(run.size),
        vocabulary_size=vocabulary_size,
        context=run.context,
        generator=generator,
    )
    if run.base:
        load_weights(model, Path(run.base))
    return model


def learning_rate_at(step: int, n_steps: int, run: TrainingSpec) -> float:
    """Return the learning rate of a step counted from 1: linear warm-up, then the schedule.

    ``cosine`` falls to a tenth of the peak at the last step.
    """
    if step <= run.warmup_steps:
        return run.learning_rate * step / run.warmup_steps
    if run.schedule == "constant":
        return run.learning_rate
    done = (step - run.warmup_steps) / max(1, n_steps - run.warmup_steps)
    return run.learning_rate * (0.55 + 0.45 * math.cos(math.pi * done))


def _parameter_groups(model: ProxyModel, weight_decay: float) -> list[dict[str, object]]:
    """Decay matrices only; gains are left alone."""
    parameters: Sequence[torch.nn.Parameter] = list(model.parameters())
    return [
        {"params": list(_of_rank(parameters, 2)), "weight_decay": weight_decay},
        {"params": list(_of_rank(parameters, 1)), "weight_decay": 0.0},
    ]


def _of_rank(parameters: Sequence[torch.nn.Parameter], rank: int) -> Iterator[torch.nn.Parameter]:
    return (parameter for parameter in parameters if parameter.dim() == rank)
