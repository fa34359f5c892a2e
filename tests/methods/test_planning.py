"""What a run will cost."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cuvee.corpus.pool import PoolConfig
from cuvee.methods import measure, planning
from cuvee.methods.job import Job
from cuvee.methods.measure import Speed
from cuvee.methods.planning import PlannedRuns
from cuvee.methods.regmix import RegMixConfig
from cuvee.proxy.spec import TrainingSpec
from cuvee.proxy.sweep import ProxyConfig
from cuvee.validate.compare import ValidateConfig


@pytest.mark.parametrize(
    ("n_runs", "start_runs", "batch_size", "lists"),
    [
        (32, math.inf, 4, [32]),
        (32, 16, 4, [16, 4, 4, 4, 4]),
        (30, 16, 4, [16, 4, 4, 4, 2]),
        (12, 16, 4, [12]),
        (96, 48, 16, [48, 16, 16, 16]),
    ],
)
def test_runs_come_in_lists(
    n_runs: int, start_runs: float, batch_size: int, lists: list[float]
) -> None:
    """A first list, then batches until all runs are in one."""
    part = PlannedRuns(
        name="sweep",
        n_runs=n_runs,
        proxy=ProxyConfig(),
        start_runs=start_runs,
        batch_size=batch_size,
    )
    assert part.lists == lists
    assert sum(part.lists) == n_runs


@pytest.mark.parametrize(("device", "n_starts"), [("cpu", 1), ("cuda", 5)])
def test_workers_start_once_on_a_processor_and_for_each_list_on_a_gpu(
    device: str, n_starts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command keeps its workers; those that have opened a GPU are not kept."""
    monkeypatch.setattr(planning, "choose_device", lambda device: device)
    monkeypatch.setattr(planning, "stack_devices", lambda device: (device,))
    settings = RegMixConfig(
        pool=PoolConfig(shards=("pool",)), validate=ValidateConfig(size="0.2m", n_tokens=8192)
    )
    proxy = ProxyConfig(device=device, precision="float32", learning_rate=1e-3)
    parts = [
        PlannedRuns(name="sweep", n_runs=32, proxy=proxy, start_runs=8, batch_size=8),
        PlannedRuns(name="validate", n_runs=4, proxy=proxy),
    ]

    def seconds_of(startup: float) -> float:
        found = Speed(members=1, tokens_per_second=1e6, startup_seconds=startup)
        monkeypatch.setattr(measure, "stack_speed", lambda *_, **__: found)
        plan: Any = planning.dry_run(settings, Job(out=tmp_path, workers=2), parts)
        return float(plan["total"]["seconds"])

    assert seconds_of(1000.0) - seconds_of(0.0) == pytest.approx(1000 * n_starts, abs=0.5)


def test_runs_that_differ_in_length_alone_are_timed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One timing a size, in a plan and over the plans of one block; each plan has its own else."""
    timed: list[str] = []

    def time(spec: TrainingSpec, *_: Any, **__: Any) -> Speed:
        timed.append(spec.size)
        return Speed(members=1, tokens_per_second=1e6, startup_seconds=0.0)

    monkeypatch.setattr(measure, "stack_speed", time)
    settings = RegMixConfig(
        pool=PoolConfig(shards=("pool",)), validate=ValidateConfig(size="0.2m", n_tokens=8192)
    )
    short = ProxyConfig(size="0.05m", n_tokens=100_000, learning_rate=1e-3)
    long = replace(short, n_tokens=400_000, points=(0.5, 1.0))
    parts = [
        PlannedRuns(name="short", n_runs=8, proxy=short),
        PlannedRuns(name="long", n_runs=4, proxy=long),
        PlannedRuns(name="validate", n_runs=4, proxy=replace(long, size="0.2m")),
    ]
    job = Job(out=tmp_path, workers=0)
    with planning.timed_once():
        for _ in range(2):
            planning.dry_run(settings, job, parts)
    assert timed == ["0.05m", "0.2m"]
    planning.dry_run(settings, job, parts)
    assert timed == ["0.05m", "0.2m"] * 2
