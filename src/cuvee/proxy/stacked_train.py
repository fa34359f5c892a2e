"""Train runs of one shape together, as one stacked model; each leaves the folder it would alone.

`train_stack` is a task (`executors`). A run is finished when its own folder bears its name, so a
stack that was killed goes on with the members that are not.
"""

import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from cuvee import artifacts, config
from cuvee.artifacts import Json
from cuvee.corpus.store import TokenStore
from cuvee.errors import ConfigError
from cuvee.proxy.accuracy import measure_accuracy
from cuvee.proxy.batches import EvaluationSet, TrainingPlan, WindowStream
from cuvee.proxy.documents import open_evaluation_sets, training_plan
from cuvee.proxy.record import RunRecord, input_digests, measured_steps
from cuvee.proxy.sizes import model_size
from cuvee.proxy.spec import TrainingSpec, portable_spec
from cuvee.proxy.stack import StackedModel
from cuvee.proxy.stacked_step import StackedStep, can_compile
from cuvee.proxy.train import EVALUATION_TOKENS, initial_model, one_thread

_ASK_EVERY = 100
"""Steps between two looks at whether any member is still running."""


def train_stack(spec: Mapping[str, Json], folder: Path) -> None:
    """Train and measure runs of one shape.

    Args:
        spec: ``runs``, `TrainingSpec`s of one shape as JSON by run id; ``device`` that trains them;
            ``compiled``, whether with torch.compile where it works.
        folder: The sweep's. Each run that is not finished there gets its folder, as of
            `train.train_proxy`.

    Raises:
        DataError: A domain with weight has no documents to draw from.
        ConfigError: The stack does not fit in the device's memory.
    """
    plain = cast(Mapping[str, Mapping[str, Json]], spec["runs"])
    runs = {
        name: config.parse(TrainingSpec, one)
        for name, one in plain.items()
        if not artifacts.is_done(folder / name)
    }
    if not runs:
        return
    device = torch.device(str(spec["device"]))
    compiled = bool(spec["compiled"]) and can_compile(str(device))
    torch.compiler.reset()  # of many shapes in one process torch compiles only the first few
    with ExitStack() as open_folders, one_thread(), on_device(device):
        asides = [
            open_folders.enter_context(
                artifacts.writing(
                    folder / name,
                    stage="train",
                    settings=portable_spec(run),
                    seed=run.seed,
                    inputs=input_digests(run),
                )
            )
            for name, run in runs.items()
        ]
        try:
            trainer = _StackTrainer(list(runs.values()), asides, device=device, compiled=compiled)
            trainer.train()
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"a stack of {len(runs)} runs does not fit in the memory of {device}. Set "
                "proxy.stack to a smaller number, or to none, and run the same command again."
            ) from error
        trainer.write()
        del trainer
        free_memory(device)


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which a card is the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def free_memory(device: torch.device) -> None:
    """Give a card's memory back; this process may go on with another card."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def empty_stack(
    run: TrainingSpec, *, n_members: int, vocabulary_size: int, device: torch.device
) -> StackedModel:
    """Return a stack of a run's shape on its device, without weights."""
    with device:
        return StackedModel(
            model_size(run.size),
            n_members=n_members,
            vocabulary_size=vocabulary_size,
            context=run.context,
            products=torch.bfloat16 if run.precision == "bfloat16" else None,
        )


class _StackTrainer:
    """Some runs, from their specs to their folders."""

    def __init__(
        self,
        runs: Sequence[TrainingSpec],
        folders: Sequence[Path],
        *,
        device: torch.device,
        compiled: bool,
    ) -> None:
        self._runs = runs
        self._device = device
        self._started = time.perf_counter()
        pool = TokenStore.open(Path(runs[0].pool))
        streams: dict[str, WindowStream] = {}
        self._plans = [training_plan(run, pool, shared=streams) for run in runs]
        self._sets = open_evaluation_sets(runs[0], pool)
        self._records = [
            RunRecord(run, folder, sets=self._sets, realised=plan.realised_columns)
            for run, folder, plan in zip(runs, folders, self._plans, strict=True)
        ]
        self._vocabulary_size = pool.vocabulary_size
        self._model = empty_stack(
            runs[0], n_members=len(runs), vocabulary_size=pool.vocabulary_size, device=device
        )
        state, made_for = {}, None
        for member, run in enumerate(runs):
            if (run.seed, run.base) != made_for:  # runs of a sweep share their initial weights
                made_for = (run.seed, run.base)
                state = initial_model(run, pool.vocabulary_size).state_dict()
            self._model.load_member(member, state)
        self._step = StackedStep(self._model, runs, compiled=compiled)

    def train(self) -> None:
        """Run all steps, measuring at the points; stop where no member is left."""
        run = self._runs[0]
        measured = measured_steps(run)
        if 0 in measured:
            self._measure(0)
        n_sequences = 0
        batches = _ahead(_stacked(self._plans, run.batch_sequences, pinned=self._pinned))
        for step, batch in enumerate(batches, start=1):
            self._step(*(part.to(self._device, non_blocking=True) for part in batch))
            n_sequences += batch[0].shape[1]
            for _ in range(measured.count(step)):
                self._measure(n_sequences * run.context)
            if step % _ASK_EVERY == 0 and not any(self._step.running):
                break

    def write(self) -> None:
        """Write the files of all runs."""
        accuracies = [self._accuracy(member) for member in range(len(self._runs))]
        # Sums over runs stay hours of a device.
        seconds = round((time.perf_counter() - self._started) / len(self._runs), 3)
        running, losses = self._step.running, self._step.losses
        for member, record in enumerate(self._records):
            record.diverged = not running[member]
            state = self._state(member, kept=record.run.checkpoints == "final")
            timing = {"seconds": seconds, "stack": len(self._runs)}
            record.write(losses[member], state, timing, accuracy=accuracies[member])

    def _accuracy(self, member: int) -> dict[str, Json]:
        """Measure a member alone; a task is measured once in a run."""
        if not self._step.running[member] or all(one.answers is None for one in self._sets):
            return {}
        run = self._runs[member]
        model = initial_model(run, self._vocabulary_size)
        model.load_state_dict(self._state(member, kept=True))
        return measure_accuracy(model.to(self._device), self._sets, precision=run.precision)

    @property
    def _pinned(self) -> bool:
        return self._device.type == "cuda"

    def _measure(self, n_tokens: int) -> None:
        """Measure the members that are running; of one that diverged nothing more is recorded."""
        losses = np.array([self._evaluate(one).tolist() for one in self._sets])
        for member, running in enumerate(self._step.running):
            if running:
                record = self._records[member]
                state = self._state(member, kept=record.run.checkpoints == "every")
                record.measured(n_tokens, losses[:, member].tolist(), state)

    @torch.no_grad()
    def _evaluate(self, one: EvaluationSet) -> Tensor:
        """Return the (n_members,) mean losses over the counted tokens, in nats per token."""
        step = max(1, EVALUATION_TOKENS // self._runs[0].context)
        total = torch.zeros(len(self._runs), dtype=torch.float64, device=self._device)
        for first in range(0, len(one.batch.tokens), step):
            rows = slice(first, first + step)
            tokens, segments, targets, counted = (
                torch.from_numpy(part[rows]).to(self._device).expand(len(self._runs), -1, -1)
                for part in (
                    one.batch.tokens,
                    one.batch.segments,
                    one.batch.targets,
                    one.counted,
                )
            )
            losses = self._model.token_losses(tokens, segments, targets).double()
            if one.weights is not None:
                losses *= torch.from_numpy(one.weights[rows]).to(self._device)
            total += torch.where(counted, losses, 0.0).sum((1, 2))
        return total / one.total_weight

    def _state(self, member: int, *, kept: bool) -> dict[str, Tensor]:
        return self._model.member_state(member) if kept else {}


def _stacked(
    plans: Sequence[TrainingPlan], n_sequences: int, *, pinned: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the (n_members, n_sequences, context) tokens, segments and targets of each step."""
    for batches in zip(*(plan.batches(n_sequences) for plan in plans), strict=True):
        parts = (
            torch.from_numpy(np.stack([getattr(batch, name) for batch in batches]))
            for name in ("tokens", "segments", "targets")
        )
        tokens, segments, targets = (part.pin_memory() if pinned else part for part in parts)
        yield tokens, segments, targets


def _ahead(
    batches: Iterator[tuple[Tensor, Tensor, Tensor]],
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Make each batch while the one before it is trained on."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        following = thread.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = thread.submit(next, batches, None)
            yield batch
