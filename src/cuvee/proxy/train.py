"""Train one proxy model on one mixture and measure it on every evaluation set.

`train_proxy` is a task (`executors`): it reads the token stores, trains, and leaves a folder with
the losses at several points of the run. Nothing in it but timing.json depends on the clock.
"""

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from cuvee import artifacts, config
from cuvee.arrays import FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.corpus.store import TokenStore
from cuvee.errors import ConfigError, DataError
from cuvee.policy.mixture import Mixture
from cuvee.policy.sampling import subset
from cuvee.proxy.batches import EvaluationSet, TrainingPlan, WindowStream, evaluation_set
from cuvee.proxy.model import ProxyModel
from cuvee.proxy.sizes import model_size
from cuvee.randomness import hash64, integer_seed, stream
from cuvee.tables.runs import Trajectory, write_trajectory

logger = logging.getLogger(__name__)

SPIKE = 1.5
"""A training loss this many times the loss of an untrained model counts as divergence."""
RELAPSE = 1.0
"""So does a run whose last losses lie this many nats above its lowest, on average over a window."""
_RELAPSE_WINDOW = 20
_EVALUATION_TOKENS = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSpec:
    """All that decides one run's result."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    pool: str
    """Folder of the pool's token store."""
    targets: str | None
    """Folder of the target sets' token store."""
    half: Literal["search", "verdict"]
    """The half of the targets this run is measured on."""
    mixture: Mixture
    """The policy; domains in the order of the pool."""
    size: str
    n_sequences: int
    context: int
    batch_sequences: int
    learning_rate: float
    warmup_steps: int
    schedule: Literal["constant", "cosine"]
    weight_decay: float
    clip: float
    seed: int
    """Initial weights and order of the data."""
    evaluation_seed: int
    """Choice of validation windows and of the subset; the same for a whole sweep."""
    subset_tokens: dict[str, int] | None
    """Tokens of each domain that the run may draw from; None for all."""
    points: tuple[float, ...]
    """Shares of the run at which losses are measured, rising; the last is 1."""
    evaluation_tokens: int
    """Validation tokens of each target."""
    domain_evaluation_tokens: int
    """Validation tokens of each domain."""
    precision: Literal["float32", "bfloat16"]
    device: str
    checkpoints: Literal["none", "final", "every"]


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


def portable_spec(run: TrainingSpec) -> dict[str, Json]:
    """Return a spec as JSON without the paths of the stores, whose digests the manifest names."""
    plain = config.dump(run)
    return {name: value for name, value in plain.items() if name not in ("pool", "targets")}


def open_evaluation_sets(run: TrainingSpec, pool: TokenStore) -> list[EvaluationSet]:
    """Choose the validation windows of every target and every domain.

    Returns:
        ``target/<name>`` from the run's half of the targets, then ``domain/<name>``.

    Raises:
        DataError: A target or a domain has no validation text.
    """
    sets = []
    if run.targets:
        store = TokenStore.open(Path(run.targets))
        side = 1 if run.half == "verdict" else 0
        sets += [
            _set("target", name, store, _on_side(store, index, side), run)
            for index, name in enumerate(store.domains)
        ]
    for index, name in enumerate(pool.domains):
        documents = _on_side(pool, index, 1)
        if not run.targets:
            documents = _half(pool, documents, run)
        sets.append(_set("domain", name, pool, documents, run))
    return sets


def _on_side(store: TokenStore, domain: int, side: int) -> IntArray:
    return np.flatnonzero((store.domain == domain) & (store.side == side))


def _half(pool: TokenStore, documents: IntArray, run: TrainingSpec) -> IntArray:
    """Take every second validation document in hash order: the objective's search or verdict half.

    Without targets the domains' validation text is the objective, and the verdict needs text the
    search has not seen.
    """
    keys = pool.keys[documents]
    order = np.lexsort((keys, hash64(run.evaluation_seed, "half", keys)))
    return np.sort(documents[order[1::2] if run.half == "verdict" else order[::2]])


def _set(
    kind: str, name: str, store: TokenStore, documents: IntArray, run: TrainingSpec
) -> EvaluationSet:
    if len(documents) == 0:
        raise DataError(
            f"{kind} {name!r} has no validation documents for the {run.half} half. Give it more "
            "documents or raise pool.validation_share."
        )
    return evaluation_set(
        f"{kind}/{name}",
        store,
        documents,
        context=run.context,
        n_tokens=run.evaluation_tokens if kind == "target" else run.domain_evaluation_tokens,
        seed=run.evaluation_seed,
    )


def training_documents(run: TrainingSpec, store: TokenStore) -> dict[str, IntArray]:
    """Return the documents a run may draw from, by domain: the training side or a part of it."""
    chosen = {}
    for index, name in enumerate(store.domains):
        documents = _on_side(store, index, 0)
        if run.subset_tokens is not None:
            kept = subset(
                store.keys[documents],
                store.n_tokens[documents],
                quota=run.subset_tokens[name],
                seed=run.evaluation_seed,
            )
            documents = documents[kept]
        chosen[name] = documents
    return chosen


class _Trainer:
    """One run, from its spec to its folder."""

    def __init__(self, run: TrainingSpec, folder: Path) -> None:
        self._run = run
        self._folder = folder
        self._started = time.perf_counter()
        pool = TokenStore.open(Path(run.pool))
        self._device = torch.device(run.device)
        self._plan = _training_plan(run, pool)
        self._sets = open_evaluation_sets(run, pool)
        generator = torch.Generator().manual_seed(integer_seed(stream(run.seed, "proxy-weights")))
        self._model = ProxyModel(
            model_size(run.size),
            vocabulary_size=pool.vocabulary_size,
            context=run.context,
            generator=generator,
        ).to(self._device)
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
        measure_after = [max(1, round(point * n_steps)) for point in run.points]
        n_sequences = 0
        for step, batch in enumerate(self._plan.batches(run.batch_sequences), start=1):
            for group in self._optimiser.param_groups:
                group["lr"] = learning_rate_at(step, n_steps, run)
            with self._autocast():
                loss = self._model.loss(
                    self._tensor(batch.tokens),
                    self._tensor(batch.segments),
                    self._tensor(batch.targets),
                )
            self._losses.append(float(loss.detach()))
            if not self._losses[-1] < self._spike:
                self.diverged = True
                break
            loss.backward()  # type: ignore[no-untyped-call]
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
                "weights": dict(zip(self._domains, self._plan.realised.tolist(), strict=True)),
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

    @property
    def _domains(self) -> tuple[str, ...]:
        return self._run.mixture.domains

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
            with self._autocast():
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

    def _autocast(self) -> AbstractContextManager[object]:
        if self._run.precision == "float32":
            return nullcontext()
        return torch.autocast(self._device.type, dtype=torch.bfloat16)

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


def _training_plan(run: TrainingSpec, pool: TokenStore) -> TrainingPlan:
    mixture = run.mixture
    if mixture.domains != pool.domains:
        raise ConfigError(
            f"the mixture's domains {', '.join(mixture.domains)} are not the pool's "
            f"{', '.join(pool.domains)}; bind the mixture to this pool's domains."
        )
    documents = training_documents(run, pool)
    streams: list[WindowStream | None] = []
    for name, weight in zip(mixture.domains, mixture.overall, strict=True):
        if weight > 0 and len(documents[name]) == 0:
            raise DataError(f"domain {name!r} has weight {weight:.4f} but no training documents.")
        streams.append(
            WindowStream(pool, documents[name], context=run.context, seed=run.seed)
            if weight > 0
            else None
        )
    return TrainingPlan(
        streams,
        mixture,
        n_sequences=run.n_sequences,
        context=run.context,
        rng=stream(run.seed, "proxy-order"),
    )


def _parameter_groups(model: ProxyModel, weight_decay: float) -> list[dict[str, object]]:
    """Decay matrices only; gains are left alone."""
    parameters: Sequence[torch.nn.Parameter] = list(model.parameters())
    return [
        {"params": list(_of_rank(parameters, 2)), "weight_decay": weight_decay},
        {"params": list(_of_rank(parameters, 1)), "weight_decay": 0.0},
    ]


def _of_rank(parameters: Sequence[torch.nn.Parameter], rank: int) -> Iterator[torch.nn.Parameter]:
    return (parameter for parameter in parameters if parameter.dim() == rank)
