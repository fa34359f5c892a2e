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

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from cuvee import artifacts, config
from cuvee.arrays import FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.corpus.store import TokenStore
from cuvee.proxy.batches import EvaluationSet
from cuvee.proxy.documents import open_evaluation_sets, training_plan
from cuvee.proxy.model import ProxyModel, load_weights
from cuvee.proxy.sizes import model_size
from cuvee.proxy.spec import TrainingSpec, portable_spec
from cuvee.proxy.step import autocast, training_step
from cuvee.randomness import integer_seed, stream
from cuvee.tables.runs import Trajectory, write_trajectory

logger = logging.getLogger(__name__)

SPIKE = 1.5
"""A training loss this many times the first, or an untrained model's, counts as divergence."""
RELAPSE = 1.0
"""So does a run whose last losses lie this many nats above its lowest, on average over a window."""
_RELAPSE_WINDOW = 20
_EVALUATION_TOKENS = 4096


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
    inputs = {"pool": artifacts.digest_of(Path(run.pool))}
    if run.targets:
        inputs["targets"] = artifacts.digest_of(Path(run.targets))
    if run.quality:
        inputs["quality"] = artifacts.digest_file(Path(run.quality))
    if run.copies:
        inputs["copies"] = artifacts.digest_file(Path(run.copies))
    if run.base:
        inputs["base"] = artifacts.digest_file(Path(run.base))
    with (
        artifacts.writing(
            folder, stage="train", settings=portable_spec(run), seed=run.seed, inputs=inputs
        ) as aside,
        _one_thread(),
    ):
        trainer = _Trainer(run, aside)
        trainer.train()
        trainer.write()


@contextmanager
def _one_thread() -> Iterator[None]:
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
        self._folder = folder
        self._started = time.perf_counter()
        pool = TokenStore.open(Path(run.pool))
        self._device = torch.device(run.device)
        self._plan = training_plan(run, pool)
        self._sets = open_evaluation_sets(run, pool)
        generator = torch.Generator().manual_seed(integer_seed(stream(run.seed, "proxy-weights")))
        self._model = ProxyModel(
            model_size(run.size),
            vocabulary_size=pool.vocabulary_size,
            context=run.context,
            generator=generator,
        )
        if run.base:
            load_weights(self._model, Path(run.base))
        self._model.to(self._device)
        self._step = training_step(self._model, run)
        self._optimiser = torch.optim.AdamW(
            _parameter_groups(self._model, run.weight_decay),
            lr=run.learning_rate,
            betas=(0.9, 0.95),
            fused=True,
        )
        self._spike = SPIKE * math.log(pool.vocabulary_size)
        self._losses: list[float] = []
        self._measured: list[tuple[int, FloatArray]] = []
        self.diverged = False

    def train(self) -> None:
        """Run all steps, measuring at the points; stop where the loss diverges."""
        run = self._run
        n_steps = -(-run.n_sequences // run.batch_sequences)
        measure_after = [max(1, round(point * n_steps)) for point in run.points if point > 0]
        if run.points[0] == 0:
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
            if not self._losses[-1] < self._spike:
                self.diverged = True
                break
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), run.clip)
            self._optimiser.step()
            self._optimiser.zero_grad(set_to_none=False)
            n_sequences += len(batch.tokens)
            for _ in range(measure_after.count(step)):
                self._measure(n_sequences * run.context)
        self.diverged = self.diverged or relapsed(self._losses)

    def write(self) -> None:
        """Write the run's files."""
        run = self._run
        artifacts.write_json(self._folder / "spec.json", portable_spec(run))
        artifacts.write_json(
            self._folder / "result.json",
            {
                "diverged": self.diverged,
                "n_tokens": run.n_sequences * run.context,
                "n_parameters": model_size(run.size).n_parameters,
                "columns": list(run.mixture.column_names),
                "weights": dict(
                    zip(run.mixture.column_names, self._plan.realised_columns.tolist(), strict=True)
                ),
                "sets": [one.name for one in self._sets],
                "tokens_per_byte": {one.name: one.tokens_per_byte for one in self._sets},
                "training_losses": [loss if math.isfinite(loss) else None for loss in self._losses],
            },
        )
        write_trajectory(self._folder / "trajectory.parquet", self._trajectory())
        if run.checkpoints == "final":
            self._save("model.safetensors")
        seconds = time.perf_counter() - self._started
        artifacts.write_json(self._folder / artifacts.TIMING, {"seconds": round(seconds, 3)})

    def _trajectory(self) -> Trajectory:
        losses = np.array([row for _, row in self._measured]).reshape(-1, len(self._sets))
        ratio = np.array([one.tokens_per_byte for one in self._sets])
        return Trajectory(
            n_tokens=np.array([n_tokens for n_tokens, _ in self._measured], dtype=np.int64),
            targets=tuple(one.name for one in self._sets),
            losses=losses,
            losses_bpb=losses * ratio / math.log(2.0),
        )

    def _measure(self, n_tokens: int) -> None:
        losses = [self._evaluate(one) for one in self._sets]
        self._measured.append((n_tokens, np.array(losses)))
        if self._run.checkpoints == "every":
            self._save(f"model-{n_tokens:015d}.safetensors")

    @torch.no_grad()
    def _evaluate(self, one: EvaluationSet) -> float:
        """Return the mean loss over the counted tokens, in nats per token."""
        step = max(1, _EVALUATION_TOKENS // self._run.context)
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
            total += float(losses[counted].double().sum())
        return total / int(one.counted.sum())

    def _save(self, name: str) -> None:
        state = {key: value.contiguous().cpu() for key, value in self._model.state_dict().items()}
        save_file(state, self._folder / name)

    def _tensor(self, values: IntArray) -> Tensor:
        return torch.from_numpy(values).to(self._device)


def relapsed(losses: Sequence[float]) -> bool:
    """Tell whether a run lost what it had learnt: a spike it has not recovered from.

    Args:
        losses: (n_steps,) training losses in nats per token; domains are spread evenly over a run,
            so that means over a window can be compared.
    """
    n_windows = len(losses) // _RELAPSE_WINDOW
    if n_windows < 2:
        return False
    whole = np.array(losses[len(losses) - n_windows * _RELAPSE_WINDOW :])
    means = whole.reshape(n_windows, _RELAPSE_WINDOW).mean(axis=1)
    return bool(means[-1] > means.min() + RELAPSE)


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
