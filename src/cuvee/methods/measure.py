"""Measure mixtures by training on them: learning rate first, then every run of a sweep."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from cuvee import artifacts, config
from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.executors import Task, run_tasks
from cuvee.methods.job import Job
from cuvee.methods.pool import Prepared
from cuvee.policy.mixture import Mixture
from cuvee.proxy.machine import (
    choose_device,
    choose_precision,
    choose_stack,
    choose_step,
    gpu_share,
    stack_devices,
)
from cuvee.proxy.spec import Step, TrainingSpec
from cuvee.proxy.stacking import StackChoice, shape_of
from cuvee.proxy.sweep import (
    ProxyConfig,
    SweepInputs,
    calibration_specs,
    choose_rate,
    collect,
    read_result,
    train_all,
    training_spec,
)
from cuvee.randomness import integer_seed, stream
from cuvee.tables.runs import Runs, read_trajectory, write_runs

logger = logging.getLogger(__name__)

_MACHINE = "machine.json"
INGEST = "ingest"
"""Stage of runs that another trainer has measured."""


def sweep_inputs(
    job: Job, prepared: Prepared, proxy: ProxyConfig, *, target_tokens: int
) -> SweepInputs:
    """Gather what all runs share; what the machine decides is decided once and recorded."""
    path = job.out / _MACHINE
    if not path.exists():
        device = choose_device(proxy.device)
        choices: dict[str, Json] = {
            "device": device,
            "precision": choose_precision(proxy.precision, device),
            "step": choose_step(proxy.step, device),
            "stack": choose_stack(proxy.stack, device),
        }
        artifacts.write_json(path, choices)
    machine = cast(dict[str, str], artifacts.read_json(path))
    return SweepInputs(
        pool=job.folder("tokens"),
        targets=job.folder("targets", "tokens") if prepared.targets else None,
        statistics=prepared.statistics,
        target_tokens=target_tokens,
        precision=cast(Literal["float32", "bfloat16"], machine["precision"]),
        device=machine["device"],
        # A sweep begun before steps were recorded goes on as it began.
        step=cast(Step, machine.get("step", "autograd")),
    )


def learning_rate(
    job: Job, prepared: Prepared, proxy: ProxyConfig, inputs: SweepInputs, *, seed: int
) -> float:
    """Return the learning rate of a size: from the config, or calibrated on the natural mixture.

    The calibration's runs stay below ``calibration/<size>``; the choice is a function of their
    losses alone, so it is the same on every resumption.
    """
    if proxy.learning_rate is not None:
        return proxy.learning_rate
    natural = Mixture.flat(prepared.statistics.domains, prepared.statistics.natural)
    run_seed = integer_seed(stream(seed, "calibration", proxy.size))
    spec = training_spec(proxy, inputs, natural, seed=seed, run_seed=run_seed, learning_rate=1.0)
    specs = calibration_specs(spec, proxy)
    folder = job.folder("calibration", proxy.size)
    _train(job, f"calibrate {proxy.size}", specs, folder, prepared)
    rate, runs = choose_rate(specs, folder)
    artifacts.write_json(
        folder / "calibration.json",
        {
            "size": proxy.size,
            "learning_rate": rate,
            "rates": [one.learning_rate for one in specs.values()],
            "mean_bpb": [
                None if diverged else float(losses.mean())
                for losses, diverged in zip(runs.losses_bpb, runs.diverged, strict=True)
            ],
        },
    )
    logger.info("learning rate of %s: %g", proxy.size, rate)
    return rate


def measure(
    job: Job, stage: str, specs: Mapping[str, TrainingSpec], folder: Path, prepared: Prepared
) -> Runs:
    """Train every run of a sweep and gather its losses."""
    _train(job, stage, specs, folder, prepared)
    runs = collect(tuple(specs), folder)
    names = [name for name, bad in zip(runs.run_ids, runs.diverged, strict=True) if bad]
    names = [name for name in names if name not in runs.untrained]
    if names:
        logger.warning(
            "%d of %d runs diverged and are left out of every fit: %s",
            len(names),
            len(runs.run_ids),
            ", ".join(names),
        )
    return runs


def write_measured(
    job: Job,
    runs: Runs,
    *,
    seed: int,
    sweep: Path,
    ids: Sequence[str] | None = None,
    inputs: Mapping[str, str] | None = None,
) -> None:
    """Write the table of runs as an artefact.

    Args:
        job: Where.
        runs: The table.
        seed: The command's seed.
        sweep: Folder of the runs.
        ids: Folders the table was made of, where they are not the table's own run ids.
        inputs: Digests of what else it was made of, by name.
    """
    folder = job.folder("runs")
    if artifacts.is_done(folder):
        return
    names = runs.run_ids if ids is None else ids
    made_of = {run_id: artifacts.digest_of(sweep / run_id) for run_id in names} | dict(inputs or {})
    with artifacts.writing(folder, stage="train", settings={}, seed=seed, inputs=made_of) as aside:
        write_runs(aside / "runs.parquet", runs)


def ingested_size(job: Job) -> str | None:
    """Return the size of the proxies that another trainer has trained (`methods.ingest`).

    Returns:
        In words, such as 70m; None where the runs were measured here.
    """
    folder = job.folder("runs")
    manifest = cast(dict[str, Json], artifacts.read_json(folder / artifacts.MANIFEST))
    if manifest["stage"] != INGEST:
        return None
    runs = sorted(cast(dict[str, str], manifest["inputs"]))
    size = read_result(job.folder("sweep", runs[0]))["n_parameters"]
    return f"{size / 1e6:g}m" if isinstance(size, int) else "an unknown number of"


def objective_losses(runs: Runs, prepared: Prepared) -> FloatArray:
    """Return the (n_runs, n_targets) bits per byte of the objective's evaluation sets."""
    return np.column_stack([runs.column(name) for name in prepared.objective_names])


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """How fast a list of tasks is trained on this machine."""

    members: int
    """Runs that one process trains at once."""
    tokens_per_second: float
    """Of one process, all its members together, while the other workers are as busy."""
    startup_seconds: float
    """From handing in a list of tasks to the first step of new workers: Python and torch start."""


def speed(spec: TrainingSpec, vocabulary_size: int, folder: Path, *, workers: int) -> Speed:
    """Measure one worker that trains run after run while `workers` of them are side by side."""
    plain: dict[str, Json] = {"run": config.dump(spec), "vocabulary_size": vocabulary_size}
    tasks = [
        Task(
            function="cuvee.proxy.machine:measure_speed",
            spec=plain,
            folder=folder / str(number),
            gpus=gpu_share(spec.device),
        )
        for number in range(max(1, workers))
    ]
    started = time.perf_counter()
    done = list(run_tasks(tasks, workers=workers))
    seconds = time.perf_counter() - started
    timings = [
        cast(dict[str, float], artifacts.read_json(task.folder / artifacts.TIMING)) for task in done
    ]
    return Speed(
        members=1,
        tokens_per_second=float(np.mean([timing["tokens_per_second"] for timing in timings])),
        startup_seconds=max(0.0, seconds - max(timing["seconds"] for timing in timings)),
    )


def stack_speed(
    spec: TrainingSpec,
    vocabulary_size: int,
    folder: Path,
    *,
    n_runs: int,
    stack: Literal["auto", "none"] | int,
    workers: int,
) -> Speed:
    """Measure how runs of a shape would be trained, and how fast.

    Args:
        spec: One of them.
        vocabulary_size: Number of token ids.
        folder: Empty; receives what is measured.
        n_runs: Runs of the sweep.
        stack: The config's choice.
        workers: Worker processes.

    Returns:
        How many runs one process trains at once, and how fast.
    """
    plan: dict[str, Json] = {"device": spec.device, "stack": choose_stack(stack, spec.device)}
    artifacts.write_json(folder / _MACHINE, plan)
    specs = {str(number): spec for number in range(n_runs)}
    job = Job(out=folder, workers=workers)
    choice = stack_choices(job, specs, vocabulary_size=vocabulary_size).get(shape_of(spec))
    members = min(n_runs, choice.members) if choice else 1
    if choice is None or members == 1:
        return speed(spec, vocabulary_size, folder / "alone", workers=workers)
    plain: dict[str, Json] = {
        "run": config.dump(spec),
        "vocabulary_size": vocabulary_size,
        "members": members,
        "compiled": choice.compiled,
        "device": stack_devices(spec.device)[0],
    }
    task = Task(
        function="cuvee.proxy.stack_trials:measure_stack",
        spec=plain,
        folder=folder / "stack",
        gpus=float(spec.device.startswith("cuda")),
    )
    started = time.perf_counter()
    list(run_tasks([task], workers=min(1, workers)))
    seconds = time.perf_counter() - started
    timing = cast(dict[str, float], artifacts.read_json(task.folder / artifacts.TIMING))
    return Speed(
        members=members,
        tokens_per_second=timing["tokens_per_second"],
        startup_seconds=max(0.0, seconds - timing["seconds"]),
    )


def _train(
    job: Job, stage: str, specs: Mapping[str, TrainingSpec], folder: Path, prepared: Prepared
) -> None:
    done: list[float] = []
    job.progress(stage, 0, len(specs), "")

    def advance(run_id: str) -> None:
        done.append(_objective_of(folder / run_id, prepared))
        best = min(done)
        note = f"best {best:.4f} bits per byte" if math.isfinite(best) else ""
        job.progress(stage, len(done), len(specs), note)

    stacks = stack_choices(job, specs, vocabulary_size=prepared.store.vocabulary_size)
    device = cast(dict[str, str], artifacts.read_json(job.out / _MACHINE))["device"]
    train_all(
        specs,
        folder,
        workers=job.workers,
        on_done=advance,
        stacks=stacks,
        devices=stack_devices(device),
    )


def stack_choices(
    job: Job, specs: Mapping[str, TrainingSpec], *, vocabulary_size: int
) -> dict[str, StackChoice]:
    """Return how runs are stacked, by shape: as recorded, as the config says, or measured now.

    Args:
        job: Its folder holds machine.json, where a choice that was measured is recorded.
        specs: Run id to spec.
        vocabulary_size: Number of token ids.

    Returns:
        Nothing where runs are trained alone; a shape of a single run is not measured.
    """
    machine = cast(dict[str, Any], artifacts.read_json(job.out / _MACHINE))
    # A sweep begun before stacks were recorded goes on as it began.
    wanted, device = machine.get("stack", "none"), machine["device"]
    if wanted == "none":
        return {}
    shapes: dict[str, list[TrainingSpec]] = {}
    for spec in specs.values():
        shapes.setdefault(shape_of(spec), []).append(spec)
    if wanted != "auto":
        choice = StackChoice(members=int(wanted), compiled=device.startswith("cuda"))
        return dict.fromkeys(shapes, choice)
    recorded: dict[str, dict[str, Json]] = machine.get("stacks", {})
    for shape, runs in shapes.items():
        if shape not in recorded and len(runs) > 1:
            found = _calibrate_stack(job, shape, runs, vocabulary_size)
            recorded[shape] = config.dump(found)
            artifacts.write_json(job.out / _MACHINE, {**machine, "stacks": recorded})
    return {
        shape: config.parse(StackChoice, recorded[shape]) for shape in shapes if shape in recorded
    }


def _calibrate_stack(
    job: Job, shape: str, runs: Sequence[TrainingSpec], vocabulary_size: int
) -> StackChoice:
    plain: dict[str, Json] = {
        "run": config.dump(runs[0]),
        "vocabulary_size": vocabulary_size,
        "n_runs": len(runs),
        "device": stack_devices(runs[0].device)[0],
    }
    task = Task(
        function="cuvee.proxy.stack_trials:calibrate_stack",
        spec=plain,
        folder=job.folder("stacks", shape),
        gpus=float(runs[0].device.startswith("cuda")),
    )
    # In a process of its own: the memory it took is then free, its context too.
    list(run_tasks([task], workers=min(1, job.workers)))
    figures = cast(dict[str, Any], artifacts.read_json(task.folder / artifacts.TIMING))
    choice = StackChoice(members=figures["members"], compiled=figures["compiled"])
    logger.info(
        "%s: stacks of %d, %s", shape, choice.members, "compiled" if choice.compiled else "eager"
    )
    return choice


def _objective_of(folder: Path, prepared: Prepared) -> float:
    trajectory = read_trajectory(folder / "trajectory.parquet")
    if read_result(folder)["diverged"] or len(trajectory.n_tokens) == 0:
        return math.inf
    columns = [trajectory.targets.index(name) for name in prepared.objective_names]
    return float(trajectory.losses_bpb[-1, columns] @ prepared.objective)


def seeds_of(seed: int, n_seeds: int) -> Sequence[int]:
    """Return the run seeds of paired validation runs."""
    return [integer_seed(stream(seed, "validation", number)) for number in range(n_seeds)]
