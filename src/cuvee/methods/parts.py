"""A sweep trained in parts, each by a command of its own: array jobs where no cluster can be used.

One command makes the plan: everything before the runs, and each run's spec. The parts deal the
planned runs among themselves without a word to each other, since the deal follows from the plan
alone. Whoever comes last, `cuvee run` or `cuvee train`, finds the runs finished and goes on.
"""

import heapq
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

from cuvee import artifacts, config
from cuvee.artifacts import Json
from cuvee.corpus.store import TokenStore
from cuvee.errors import ConfigError
from cuvee.methods import measure
from cuvee.methods.job import Job, claim
from cuvee.methods.table import METHODS, Method, method_named
from cuvee.proxy.machine import choose_device, stack_devices
from cuvee.proxy.spec import PATHS, TrainingSpec
from cuvee.proxy.stacking import StackChoice, run_cost
from cuvee.proxy.sweep import train_all

PLAN = "plan"
SWEEP = "sweep"
_RUNS = "runs.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One of several equal parts of a sweep."""

    number: int
    """From 1."""
    of: int
    """Parts in all."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a part such as 3/16.

        Raises:
            ConfigError: It is no such part.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise ConfigError(
                f"--part is {text!r}; give K/N with K from 1 to N, such as 3/16 for the third of "
                "16 parts."
            )
        return cls(number=int(found[1]), of=int(found[2]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The runs to be trained."""

    runs: Mapping[str, TrainingSpec]
    """By run id."""
    stacks: Mapping[str, StackChoice]
    """How runs are stacked, by shape (`stacking.shape_of`)."""


def deal(costs: Mapping[str, float], n_parts: int) -> list[list[str]]:
    """Deal runs to parts of about equal work: the dearest first, each to the part with least.

    Source: the LPT rule (Graham 1969, "Bounds on multiprocessing timing anomalies"): the largest
    part has at most 4/3 - 1/(3 n) times the least that is possible.

    Args:
        costs: Run id to its work, in any unit; their order does not matter.
        n_parts: Number of parts.

    Returns:
        Run ids of each part; none where there are more parts than runs.

    Example:
        >>> deal({"a": 1.0, "b": 3.0, "c": 1.0, "d": 1.0}, 2)
        [['b'], ['a', 'c', 'd']]
    """
    parts: list[list[str]] = [[] for _ in range(n_parts)]
    loads = [(0.0, number) for number in range(n_parts)]
    for run_id in sorted(costs, key=lambda name: (-costs[name], name)):
        load, number = heapq.heappop(loads)
        parts[number].append(run_id)
        heapq.heappush(loads, (load + costs[run_id], number))
    return parts


def prepare(method: str, settings: Any, job: Job) -> Plan:
    """Do all that comes before the runs of a sweep, and write down the runs.

    Finished stages are not made again. The learning rate is calibrated here, so that parts train
    the planned runs and nothing else.

    Args:
        method: Name of the method.
        settings: Its config.
        job: Where and with how many workers.

    Returns:
        The runs that are known before any is measured: of a sweep in rounds, those of the first.

    Raises:
        ConfigError: The method has no sweep.
    """
    chosen = _with_sweep(method)
    for verb, step in chosen.steps.items():
        if verb == "train":
            break
        step(settings, job)
    if not artifacts.is_done(job.folder(PLAN)):
        with job.stage("train"):
            _write_plan(chosen, settings, job)
    return read_plan(job)


def train_part(settings: object, job: Job, part: Part) -> list[str]:
    """Train the planned runs of one part that are not finished.

    Args:
        settings: The method's config, for which `prepare` was called.
        job: Where and with how many workers.
        part: Which runs; other processes may train the other parts meanwhile.

    Returns:
        Ids of the part's runs; all are finished.

    Raises:
        ArtifactError: There is no plan, it is of another config, or somebody else works on this
            part or on the whole.
        ConfigError: The planned device is not on this machine.
    """
    artifacts.require(job.folder(PLAN), made_by="cuvee train --prepare")
    division = f"`cuvee train --part` in {part.of} parts"
    with artifacts.locked_part(job.out, part=f"part-{part.number}", division=division):
        claim(job.out, settings)
        plan = read_plan(job)
        costs = {run_id: run_cost(spec) for run_id, spec in plan.runs.items()}
        own = deal(costs, part.of)[part.number - 1]
        if own:
            _train(plan, own, job, f"train part {part.number}/{part.of}")
    return own


def read_plan(job: Job) -> Plan:
    """Read the runs to be trained.

    Raises:
        ArtifactError: There is no plan.
    """
    folder = artifacts.require(job.folder(PLAN), made_by="cuvee train --prepare")
    found = cast(dict[str, dict[str, Any]], artifacts.read_json(folder / _RUNS))
    return Plan(
        runs={
            run_id: config.parse(TrainingSpec, _with_paths(one, lambda path: str(job.out / path)))
            for run_id, one in found["runs"].items()
        },
        stacks={shape: config.parse(StackChoice, one) for shape, one in found["stacks"].items()},
    )


def n_finished(plan: Plan, job: Job) -> int:
    """Count the planned runs that are finished."""
    return sum(artifacts.is_done(job.folder(SWEEP, run_id)) for run_id in plan.runs)


def _with_sweep(method: str) -> Method:
    chosen = method_named(method)
    if chosen.planned is None:
        others = [name for name in METHODS if method_named(name).planned is not None]
        raise ConfigError(
            f"method {method} trains no sweep that could be divided; --prepare and --part serve "
            f"{', '.join(others)}."
        )
    return chosen


def _write_plan(chosen: Method, settings: Any, job: Job) -> None:
    assert chosen.planned is not None
    specs = chosen.planned(settings, job)
    stacks: Mapping[str, StackChoice] = {}
    if specs:
        size = TokenStore.open(job.folder("tokens")).vocabulary_size
        stacks = measure.stack_choices(job, specs, vocabulary_size=size)
    described: dict[str, Json] = {
        "runs": {
            run_id: _with_paths(config.dump(spec), lambda path: _within(Path(path), job.out))
            for run_id, spec in specs.items()
        },
        "stacks": {shape: config.dump(choice) for shape, choice in stacks.items()},
    }
    with artifacts.writing(
        job.folder(PLAN),
        stage="train",
        settings={},
        seed=settings.seed,
        inputs={"design": artifacts.digest_of(job.folder("design"))},
    ) as aside:
        artifacts.write_json(aside / _RUNS, described)


def _train(plan: Plan, run_ids: list[str], job: Job, stage: str) -> None:
    specs = {run_id: plan.runs[run_id] for run_id in run_ids}
    device = choose_device(next(iter(specs.values())).device)
    done: list[str] = []

    def advance(run_id: str) -> None:
        done.append(run_id)
        job.progress(stage, len(done), len(specs), "")

    job.progress(stage, 0, len(specs), "")
    train_all(
        specs,
        job.folder(SWEEP),
        workers=job.workers,
        on_done=advance,
        stacks=plan.stacks,
        devices=stack_devices(device),
    )


def _with_paths(spec: Mapping[str, Json], named: Callable[[str], str]) -> dict[str, Json]:
    """Name the files and folders of a spec otherwise."""
    return {
        name: named(value) if name in PATHS and isinstance(value, str) else value
        for name, value in spec.items()
    }


def _within(path: Path, out: Path) -> str:
    """Name a path as seen from a folder it lies in, and others as from anywhere.

    A run's folder may then be moved, or called by another name.
    """
    return path.relative_to(out).as_posix() if path.is_relative_to(out) else str(path.absolute())
