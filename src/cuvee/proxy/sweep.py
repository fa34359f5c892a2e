"""A sweep: one folder a run, made by any number of workers, killed and resumed at any moment."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, cast

import numpy as np

from cuvee import artifacts, config
from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.errors import ConfigError, DataError
from cuvee.executors import Task, run_tasks
from cuvee.policy.mixture import Mixture
from cuvee.proxy.machine import gpu_share
from cuvee.proxy.sizes import model_size
from cuvee.proxy.spec import Step, TrainingSpec, possible_step
from cuvee.proxy.stacking import StackChoice, run_cost, shape_of, stack_tasks
from cuvee.tables.runs import Runs, read_trajectory
from cuvee.tables.statistics import PoolStatistics

logger = logging.getLogger(__name__)

_TASK = "cuvee.proxy.train:train_proxy"


@dataclass(frozen=True, kw_only=True, slots=True)
class ProxyConfig:
    """The proxy models of a sweep."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    size: str = "0.1m"
    """Parameters without embedding and head: 0.03m, 0.05m, 0.1m, 0.2m, 0.4m, 0.8m, 1m, 1.5m, 3m,
    10m, 20m, 30m, 60m, 85m, 300m or 800m."""
    n_tokens: int = 600_000
    """Tokens each proxy trains on. RegMix: 1e9 at 1m."""
    context: int = 256
    """Tokens of a sequence. RegMix: 2048."""
    batch_tokens: int = 2048
    """Tokens of a step, rounded down to whole sequences. RegMix: 1e6."""
    learning_rate: float | None = None
    """Peak learning rate; None calibrates it on the natural mixture (`calibration_rates`)."""
    calibration_rates: tuple[float, ...] = (5e-4, 1e-3, 2e-3, 4e-3)
    """Learning rates tried by the calibration, at a size of width 128; scaled by 128 / width."""
    calibration_share: float = 0.25
    """Tokens of a calibration run, as a share of `n_tokens`."""
    warmup_share: float = 0.05
    """Share of the steps with rising learning rate."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After warm-up. Constant makes each point of a trajectory stand for a shorter run."""
    weight_decay: float = 0.1
    """AdamW's decoupled weight decay (RegMix: 0.1)."""
    clip: float = 1.0
    """Largest gradient norm (RegMix: 1.0)."""
    points: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    """Shares of the run at which validation losses are measured; the last is 1."""
    evaluation_tokens: int = 16_384
    """Validation tokens of each target."""
    domain_evaluation_tokens: int = 4_096
    """Validation tokens of each domain."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the matrix products; auto takes bfloat16 where the processor multiplies in it."""
    device: str = "auto"
    """A torch device; auto takes CUDA where there is one."""
    step: Literal["auto", "explicit", "autograd"] = "auto"
    """How gradients are computed; auto takes the written-out backward pass on a CPU. Contexts above
    1024 tokens and other devices always take autograd."""
    stack: Literal["auto", "none"] | int = "auto"
    """Most runs of one shape that are trained as one stacked model. auto measures it on a CUDA
    device, and elsewhere trains each run alone, as none and 1 do."""
    checkpoints: Literal["none", "final", "every"] = "none"
    """Which weights are kept."""
    repetition_matched: bool = True
    """Draw from such a part of each domain that the run repeats it as the target run will."""
    min_subset_tokens: int = 2_048
    """A part smaller than this is refused: too little text to stand for its domain."""

    def __post_init__(self) -> None:
        model_size(self.size)
        if self.context < 8 or self.batch_tokens < self.context:
            raise ConfigError(
                f"batch_tokens {self.batch_tokens} and context {self.context}: a batch holds at "
                "least one sequence, a sequence at least 8 tokens. Raise batch_tokens or lower "
                "context."
            )
        if self.n_tokens < self.batch_tokens:
            raise ConfigError(
                f"n_tokens {self.n_tokens} is below one batch of {self.batch_tokens} tokens. Raise "
                "n_tokens or lower batch_tokens."
            )
        rising = all(a < b for a, b in zip(self.points, self.points[1:], strict=False))
        if not self.points or not rising or self.points[0] <= 0 or self.points[-1] != 1.0:
            raise ConfigError(
                f"points {self.points} must rise within (0, 1] and end at 1, such as (0.5, 1.0)."
            )
        if isinstance(self.stack, int) and self.stack < 1:
            raise ConfigError(
                f"stack {self.stack} is no number of runs; give auto, none, or 1 and more."
            )
        if self.learning_rate is None and not self.calibration_rates:
            raise ConfigError(
                "learning_rate is None and calibration_rates is empty; give one or the other."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepInputs:
    """What all runs of a sweep share."""

    pool: Path
    """Folder of the pool's token store."""
    targets: Path | None
    """Folder of the target sets' token store."""
    statistics: PoolStatistics | None
    """The pool's, for the match of repetition; None draws from everything."""
    target_tokens: int
    """Token budget of the real run, for the match of repetition."""
    precision: Literal["float32", "bfloat16"]
    device: str
    step: Step = "autograd"


def training_spec(
    proxy: ProxyConfig,
    inputs: SweepInputs,
    mixture: Mixture,
    *,
    seed: int,
    run_seed: int,
    learning_rate: float,
    half: Literal["search", "verdict"] = "search",
) -> TrainingSpec:
    """Describe one run.

    Args:
        proxy: Size, tokens and schedule.
        inputs: What all runs share.
        mixture: What the run is trained on.
        seed: The whole command's seed: validation windows and subsets.
        run_seed: Initial weights and data order; runs that share it are paired.
        learning_rate: Peak rate.
        half: Half of the targets to measure on.

    Raises:
        DataError: Repetition cannot be matched because a domain's part would be too small.
    """
    n_sequences = proxy.n_tokens // proxy.context
    batch_sequences = proxy.batch_tokens // proxy.context
    n_steps = -(-n_sequences // batch_sequences)
    return TrainingSpec(
        pool=str(inputs.pool),
        targets=str(inputs.targets) if inputs.targets else None,
        half=half,
        mixture=mixture,
        size=proxy.size,
        n_sequences=n_sequences,
        context=proxy.context,
        batch_sequences=batch_sequences,
        learning_rate=learning_rate,
        warmup_steps=max(1, round(proxy.warmup_share * n_steps)),
        schedule=proxy.schedule,
        weight_decay=proxy.weight_decay,
        clip=proxy.clip,
        seed=run_seed,
        evaluation_seed=seed,
        subset_tokens=subset_tokens(proxy, inputs.statistics, inputs.target_tokens),
        points=proxy.points,
        evaluation_tokens=proxy.evaluation_tokens,
        domain_evaluation_tokens=proxy.domain_evaluation_tokens,
        precision=inputs.precision,
        device=inputs.device,
        checkpoints=proxy.checkpoints,
        step=possible_step(inputs.step, device=inputs.device, context=proxy.context),
    )


def subset_tokens(
    proxy: ProxyConfig, statistics: PoolStatistics | None, target_tokens: int
) -> dict[str, int] | None:
    """Return the tokens of each domain a proxy may draw from, so that it repeats as the target run.

    A proxy of b tokens standing for a run of B draws from b/B of each domain's available tokens.

    Returns:
        Tokens by domain; None where matching is off or the proxy is as long as the target run.

    Raises:
        DataError: A part would be below `min_subset_tokens`, or the given sample of the domain is
            smaller than the part.
    """
    if statistics is None or not proxy.repetition_matched or proxy.n_tokens >= target_tokens:
        return None
    share = proxy.n_tokens / target_tokens
    parts = np.floor(statistics.available_tokens * share).astype(np.int64)
    for name, part, given in zip(statistics.domains, parts, statistics.n_tokens, strict=True):
        if part < proxy.min_subset_tokens:
            raise DataError(
                f"repetition matching leaves domain {name!r} {part} tokens "
                f"({share:.2%} of its available tokens); the least is {proxy.min_subset_tokens}. "
                "Raise proxy.n_tokens, lower target_tokens, merge the domain with another, or set "
                "proxy.repetition_matched: false."
            )
        if part > given:
            raise DataError(
                f"repetition matching needs {part} tokens of domain {name!r}, but the given sample "
                f"has {given}. Give more of the domain, lower proxy.n_tokens, or set "
                "proxy.repetition_matched: false."
            )
    return dict(zip(statistics.domains, parts.tolist(), strict=True))


def train_all(
    specs: Mapping[str, TrainingSpec],
    folder: Path,
    *,
    workers: int,
    on_done: Callable[[str], None] = lambda run_id: None,
    stacks: Mapping[str, StackChoice] | None = None,
    devices: Sequence[str] = ("cpu",),
) -> None:
    """Train every run of a sweep that is not finished yet.

    Args:
        specs: Run id to spec.
        folder: Receives one folder a run, under its id.
        workers: Processes; 0 trains in this one.
        on_done: Called with each run id as it is finished.
        stacks: How runs are stacked, by shape (`stacking.shape_of`); other shapes train alone.
        devices: What stacks are dealt out to; of cards each has a process of its own.
    """
    chosen = {shape for shape, choice in (stacks or {}).items() if choice.members > 1}
    together = {run_id: spec for run_id, spec in specs.items() if shape_of(spec) in chosen}
    alone = []
    for run_id, spec in specs.items():
        plain, cost = config.dump(spec), run_cost(spec)
        if run_id not in together:
            alone.append(
                Task(
                    function=_TASK,
                    spec=plain,
                    folder=folder / run_id,
                    cost=cost,
                    gpus=gpu_share(spec.device),
                )
            )
        elif artifacts.is_done(folder / run_id):
            on_done(run_id)
    for task in run_tasks(alone, workers=workers):
        on_done(task.folder.name)
    tasks = stack_tasks(together, folder, choices=stacks or {}, devices=devices)
    on_cards = any(task.device for task in tasks)
    for task in run_tasks(tasks, workers=len(devices) if workers and on_cards else workers):
        for run_id in task.members:
            on_done(run_id)


def collect(run_ids: Sequence[str], folder: Path) -> Runs:
    """Gather the final losses of finished runs, in the order given.

    Raises:
        ArtifactError: A run is not finished.
    """
    results = [read_result(folder / run_id) for run_id in run_ids]
    domains = tuple(cast(list[str], results[0]["columns"]))
    targets = tuple(cast(list[str], results[0]["sets"]))
    finals = [_final_losses(folder / run_id, len(targets)) for run_id in run_ids]
    return Runs(
        run_ids=tuple(run_ids),
        domains=domains,
        weights=np.array(
            [[cast(dict[str, float], one["weights"])[name] for name in domains] for one in results]
        ),
        targets=targets,
        losses=np.array([losses for losses, _ in finals]),
        losses_bpb=np.array([losses for _, losses in finals]),
        diverged=np.array([bool(one["diverged"]) for one in results]),
        n_tokens=np.array([int(cast(int, one["n_tokens"])) for one in results], dtype=np.int64),
        untrained={
            name: str(one["untrained"])
            for name, one in zip(run_ids, results, strict=True)
            if "untrained" in one
        },
    )


def read_result(folder: Path) -> dict[str, Json]:
    """Read a finished run's result.json."""
    artifacts.require(folder, made_by="cuvee train")
    return cast(dict[str, Json], artifacts.read_json(folder / "result.json"))


def _final_losses(folder: Path, n_targets: int) -> tuple[FloatArray, FloatArray]:
    trajectory = read_trajectory(folder / "trajectory.parquet")
    result = read_result(folder)
    if result["diverged"] or len(trajectory.n_tokens) == 0:
        missing = np.full(n_targets, np.nan)
        return missing, missing
    return trajectory.losses[-1], trajectory.losses_bpb[-1]


def calibration_specs(spec: TrainingSpec, proxy: ProxyConfig) -> dict[str, TrainingSpec]:
    """Describe the short runs that choose a learning rate for one size.

    Args:
        spec: A run on the natural mixture.
        proxy: The rates, and how short the runs are.

    Returns:
        Run id ``rate-<k>`` to spec; rates are scaled by 128 / width.
    """
    n_sequences = max(spec.batch_sequences, int(spec.n_sequences * proxy.calibration_share))
    scale = 128 / model_size(spec.size).width
    n_steps = -(-n_sequences // spec.batch_sequences)
    return {
        f"rate-{number}": replace(
            spec,
            n_sequences=n_sequences,
            learning_rate=rate * scale,
            warmup_steps=max(1, round(proxy.warmup_share * n_steps)),
            points=(1.0,),
            checkpoints="none",
        )
        for number, rate in enumerate(proxy.calibration_rates)
    }


def choose_rate(specs: Mapping[str, TrainingSpec], folder: Path) -> tuple[float, Runs]:
    """Choose the learning rate with the lowest mean validation loss of the calibration runs.

    Returns:
        The rate, and the runs it was chosen from.

    Raises:
        DataError: Every run diverged.
    """
    runs = collect(tuple(specs), folder)
    mean = np.where(runs.diverged, np.inf, np.nan_to_num(runs.losses_bpb, nan=np.inf).mean(axis=1))
    if not np.isfinite(mean).any():
        raise DataError(
            "every learning rate of the calibration diverged; lower proxy.calibration_rates."
        )
    return specs[runs.run_ids[int(np.argmin(mean))]].learning_rate, runs
