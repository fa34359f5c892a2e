"""Which runs of a sweep are trained as one stack, and how many at a time.

Runs are of one shape where only the mixture, the documents, the seed, the rate, the decay and the
clip differ. How many a stack holds follows from measurements (`choose_members`); it is decided once
for a shape and recorded, so that a sweep that goes on does so as it began.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cuvee import artifacts, config
from cuvee.arrays import FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.executors import Task
from cuvee.proxy.sizes import model_size
from cuvee.proxy.spec import TrainingSpec

_TASK = "cuvee.proxy.stacked_train:train_stack"
_HEADROOM = 0.85
"""Share of the free memory that a stack may fill; the allocator loses some to fragments."""
_ENOUGH = 0.97
"""A stack with this share of the best rate is large enough: a smaller one loses less if killed."""
MOST_MEMBERS = 256
_OWN = (
    "mixture",
    "learning_rate",
    "warmup_steps",
    "schedule",
    "weight_decay",
    "clip",
    "seed",
    "subset_tokens",
    "checkpoints",
    "curve",
    "quality",
    "base",
    "step",
)
"""What members of a stack may differ in."""
_PATHS = ("pool", "targets")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A stack that was measured."""

    members: int
    seconds: float
    """Of a step, not compiled."""
    n_bytes: int
    """Most memory it took."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StackChoice:
    """How the runs of a shape are trained."""

    members: int
    """Most runs in a stack; 1 trains each alone."""
    compiled: bool
    """Whether torch.compile pays."""


def shape_of(run: TrainingSpec) -> str:
    """Return a name that runs of one shape share: the size, and a digest of the rest."""
    shape = _shape(run)
    portable = {name: value for name, value in shape.items() if name not in _PATHS}
    return f"{run.size}-{artifacts.digest_json(portable)[:8]}"


def _shape(run: TrainingSpec) -> dict[str, Json]:
    return {name: value for name, value in config.dump(run).items() if name not in _OWN}


def choose_members(trials: Sequence[Trial], *, free_bytes: int, most: int = MOST_MEMBERS) -> int:
    """Choose the size of a stack: the smallest that is about as fast, run for run, as any.

    Seconds and bytes are taken as straight lines between the trials and, up to twice the largest,
    beyond them.

    Args:
        trials: Members rising; none where not even one member fitted.
        free_bytes: The device's free memory.
        most: Largest stack.

    Returns:
        Members, at least 1.

    Example:
        >>> flat = [Trial(members=n, seconds=1.0 + n / 8, n_bytes=n) for n in (1, 2, 4, 8, 16, 32)]
        >>> choose_members(flat, free_bytes=1000, most=32)
        28
        >>> choose_members(flat, free_bytes=20)
        16
    """
    if not trials:
        return 1
    members = np.arange(1, min(most, 2 * trials[-1].members) + 1)
    n_bytes = _lines([(one.members, one.n_bytes) for one in trials], members)
    members = members[n_bytes <= _HEADROOM * free_bytes]
    if len(members) == 0:
        return 1
    rates = members / _lines([(one.members, one.seconds) for one in trials], members)
    return int(members[np.argmax(rates >= _ENOUGH * rates.max())])


def _lines(points: Sequence[tuple[int, float]], at: IntArray) -> FloatArray:
    """Interpolate, and go on beyond the last point as between the last two."""
    x, y = (np.array(values, dtype=np.float64) for values in zip(*points, strict=True))
    slope = (y[-1] - y[-2]) / (x[-1] - x[-2]) if len(x) > 1 else y[-1] / x[-1]
    return np.asarray(np.interp(at, x, y) + slope * np.maximum(at - x[-1], 0.0))


def compiling_pays(*, first: float, compiled: float, eager: float, n_steps: int) -> bool:
    """Tell whether compilation is sooner done.

    Args:
        first: Seconds of the first compiled step, compilation included.
        compiled: Seconds of each later one.
        eager: Seconds of a step without.
        n_steps: Steps that one process will make.
    """
    return first + (n_steps - 1) * compiled < n_steps * eager


def stack_tasks(
    specs: Mapping[str, TrainingSpec],
    folder: Path,
    *,
    choices: Mapping[str, StackChoice],
    devices: Sequence[str],
) -> list[Task]:
    """Divide unfinished runs into stacks of about equal size, a task each.

    Args:
        specs: Run id to spec; all of shapes with a choice.
        folder: The sweep's.
        choices: By shape (`shape_of`).
        devices: Devices of the runs' kind; stacks are dealt out to them in turn.

    Returns:
        Tasks that leave a folder of every run; on a card one stack at a time.
    """
    groups: dict[str, dict[str, TrainingSpec]] = {}
    for run_id, spec in specs.items():
        if not artifacts.is_done(folder / run_id):
            groups.setdefault(artifacts.canonical_json(_shape(spec)), {})[run_id] = spec
    tasks: list[Task] = []
    for group in groups.values():
        choice = choices[shape_of(next(iter(group.values())))]
        for names in divide(list(group), choice.members, n_devices=len(devices)):
            device = devices[len(tasks) % len(devices)]
            runs = {name: replace(group[name], step="stacked") for name in names}
            tasks.append(_task(runs, folder, device=device, compiled=choice.compiled))
    return tasks


def divide(names: Sequence[str], most: int, *, n_devices: int) -> list[list[str]]:
    """Divide runs into stacks of at most `most`, as many as keep all devices busy to the end.

    Example:
        >>> [len(part) for part in divide(list("abcdefghij"), 4, n_devices=1)]
        [4, 3, 3]
        >>> [len(part) for part in divide(list("abcdefghij"), 4, n_devices=2)]
        [3, 3, 2, 2]
    """
    n_stacks = -(-len(names) // most)
    n_stacks = min(len(names), -(-n_stacks // n_devices) * n_devices)
    return [list(part) for part in np.array_split(np.array(names, dtype=object), n_stacks)]


def _task(runs: Mapping[str, TrainingSpec], folder: Path, *, device: str, compiled: bool) -> Task:
    plain: dict[str, Json] = {name: config.dump(run) for name, run in runs.items()}
    return Task(
        function=_TASK,
        spec={"runs": plain, "device": device, "compiled": compiled},
        folder=folder,
        members=tuple(runs),
        cost=sum(run_cost(run) for run in runs.values()),
        device=None if device == "cpu" else device,
    )


def run_cost(run: TrainingSpec) -> float:
    """Return a run's work, for the order of tasks."""
    return float(run.n_sequences * run.context * model_size(run.size).n_parameters)
