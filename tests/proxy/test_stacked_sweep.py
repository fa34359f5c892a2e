"""Sweeps in stacks: the folders that runs alone would leave, resumed member by member."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cuvee import artifacts, config
from cuvee.corpus.store import TokenStore
from cuvee.errors import ConfigError, DataError
from cuvee.methods.job import Job
from cuvee.methods.measure import stack_choices, stack_speed
from cuvee.policy.mixture import Mixture
from cuvee.proxy import stack_trials, stacked_train
from cuvee.proxy.machine import choose_stack, stack_devices
from cuvee.proxy.spec import TrainingSpec
from cuvee.proxy.stack_trials import calibrate_stack, stack_seconds
from cuvee.proxy.stacking import (
    StackChoice,
    Trial,
    choose_members,
    compiling_pays,
    divide,
    shape_of,
    stack_tasks,
)
from cuvee.proxy.sweep import ProxyConfig, SweepInputs, collect, train_all, training_spec
from cuvee.tables.runs import read_trajectory

PROXY = ProxyConfig(
    size="0.03m",
    n_tokens=5120 - 64,  # the last batch is smaller
    context=32,
    batch_tokens=256,
    points=(0.5, 1.0),
    evaluation_tokens=512,
    domain_evaluation_tokens=256,
    repetition_matched=False,
    learning_rate=4e-3,
)
CLOSE = 2e-4
"""In float32 over twenty steps, relative: sums are made in another order."""

SINGLE = 2e-3
"""Of a single weight: AdamW moves by the rate, 0.002 to 0.01 here, whatever the gradient's size."""


@pytest.fixture
def specs(stores: Path, store: TokenStore) -> dict[str, TrainingSpec]:
    """Four runs of one shape that differ in all that members may differ in; ``c`` diverges."""
    inputs = SweepInputs(
        pool=stores / "tokens",
        targets=stores / "targets" / "tokens",
        statistics=store.statistics(),
        target_tokens=100_000,
        precision="float32",
        device="cpu",
        step="autograd",
    )

    def one(weights: tuple[float, ...], seed: int, rate: float, **changes: Any) -> TrainingSpec:
        mixture = Mixture.flat(store.domains, weights)
        run = training_spec(PROXY, inputs, mixture, seed=1, run_seed=seed, learning_rate=rate)
        return replace(run, **changes)

    return {
        "a": one((1.0, 0.0, 0.0), 7, 4e-3, checkpoints="final"),
        "b": one((0.2, 0.5, 0.3), 7, 1e-2, schedule="cosine", weight_decay=0.3),
        "c": one((0.0, 0.0, 1.0), 8, 1e6, clip=1e9),
        "d": one((0.3, 0.3, 0.4), 9, 2e-3, checkpoints="every", clip=0.5),
    }


def stacks_of(specs: dict[str, TrainingSpec], members: int) -> dict[str, StackChoice]:
    """Choose one size for all shapes."""
    choice = StackChoice(members=members, compiled=False)
    return {shape_of(spec): choice for spec in specs.values()}


def result_of(folder: Path) -> dict[str, Any]:
    """Read a run's result."""
    result: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return result


def test_a_stack_leaves_what_runs_alone_leave(
    specs: dict[str, TrainingSpec], tmp_path: Path
) -> None:
    """Files, trajectories, training losses, checkpoints and the mark of divergence."""
    done: list[str] = []
    train_all(specs, tmp_path / "s", workers=0, stacks=stacks_of(specs, 4), on_done=done.append)
    train_all(specs, tmp_path / "alone", workers=0)
    assert sorted(done) == sorted(specs)
    for name, spec in specs.items():
        ours, theirs = tmp_path / "s" / name, tmp_path / "alone" / name
        assert sorted(path.name for path in ours.iterdir()) == sorted(
            path.name for path in theirs.iterdir()
        )
        mine, wanted = result_of(ours), result_of(theirs)
        losses, expected = mine.pop("training_losses"), wanted.pop("training_losses")
        assert mine == wanted
        assert mine["diverged"] == (name == "c")
        np.testing.assert_allclose(losses, expected, rtol=CLOSE)
        found, known = (read_trajectory(path / "trajectory.parquet") for path in (ours, theirs))
        np.testing.assert_array_equal(found.n_tokens, known.n_tokens)
        np.testing.assert_allclose(found.losses, known.losses, rtol=CLOSE)
        for path in theirs.glob("*.safetensors"):
            weights = load_file(ours / path.name)
            for key, value in load_file(path).items():
                torch.testing.assert_close(weights[key], value, rtol=0.0, atol=SINGLE)
        assert json.loads((ours / "spec.json").read_text())["step"] == "stacked"
        assert config.dump(spec)["step"] == "autograd"
    assert result_of(tmp_path / "s" / "a")["training_losses"][-1] < 4.0


def test_a_killed_stack_goes_on_with_the_members_that_are_left(
    specs: dict[str, TrainingSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing looks finished after a kill; finished runs are neither touched nor trained again."""
    stacks = stacks_of(specs, 4)
    train_all(specs, tmp_path, workers=0, stacks=stacks)
    before = {name: (tmp_path / name / artifacts.DONE).stat().st_mtime_ns for name in "ac"}
    whole = {name: collect((name,), tmp_path).losses for name in "bd"}
    for name in "bd":
        shutil.rmtree(tmp_path / name)
    measure = stacked_train._StackTrainer._measure

    def killed(self: Any, n_tokens: int) -> None:
        measure(self, n_tokens)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(stacked_train._StackTrainer, "_measure", killed)
        with pytest.raises(KeyboardInterrupt):
            train_all(specs, tmp_path, workers=0, stacks=stacks)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c"]
    (tmp_path / "b.partial").mkdir()  # what kill -9 leaves
    (tmp_path / "b.partial" / "spec.json").write_text("{")
    train_all(specs, tmp_path, workers=0, stacks=stacks)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c", "d"]
    for name, moment in before.items():
        assert (tmp_path / name / artifacts.DONE).stat().st_mtime_ns == moment
    for name, losses in whole.items():
        np.testing.assert_allclose(collect((name,), tmp_path).losses, losses, rtol=CLOSE)


def test_a_worker_trains_stacks(specs: dict[str, TrainingSpec], tmp_path: Path) -> None:
    """In a process of its own, two stacks of two."""
    done: list[str] = []
    short = {name: replace(spec, n_sequences=16) for name, spec in specs.items()}
    train_all(short, tmp_path, workers=1, stacks=stacks_of(short, 2), on_done=done.append)
    assert sorted(done) == ["a", "b", "c", "d"]
    timing = json.loads((tmp_path / "d" / artifacts.TIMING).read_text())
    assert timing["stack"] == 2


def test_runs_of_a_shape_without_stacks_are_trained_alone(
    specs: dict[str, TrainingSpec], tmp_path: Path
) -> None:
    """Their spec says so."""
    short = {name: replace(specs[name], n_sequences=16) for name in "ab"}
    stacks = stacks_of(short, 2)
    other = replace(short["a"], context=16, checkpoints="none")
    train_all({**short, "other": other}, tmp_path, workers=0, stacks=stacks)
    steps = {
        name: json.loads((tmp_path / name / "spec.json").read_text())["step"]
        for name in ("a", "b", "other")
    }
    assert steps == {"a": "stacked", "b": "stacked", "other": "autograd"}


def test_members_share_what_their_shape_says(specs: dict[str, TrainingSpec]) -> None:
    """A name for the shape that does not depend on where the files lie."""
    first = specs["a"]
    assert len({shape_of(spec) for spec in specs.values()}) == 1
    assert shape_of(first).startswith("0.03m-")
    assert shape_of(replace(first, pool="elsewhere")) == shape_of(first)
    for change in ({"context": 16}, {"n_sequences": 8}, {"size": "0.1m"}, {"half": "verdict"}):
        assert shape_of(replace(first, **change)) != shape_of(first)  # type: ignore[arg-type]


def test_stacks_are_dealt_out_to_all_cards(specs: dict[str, TrainingSpec], tmp_path: Path) -> None:
    """A stack names its card; runs of other pools are never in one stack."""
    many = {f"{name}{number}": spec for number in range(5) for name, spec in specs.items()}
    many["z"] = replace(specs["a"], pool="elsewhere")
    tasks = stack_tasks(many, tmp_path, choices=stacks_of(specs, 8), devices=("cuda:0", "cuda:1"))
    assert sorted(len(task.members) for task in tasks) == [1, 5, 5, 5, 5]
    assert [task.device for task in tasks[:4]] == ["cuda:0", "cuda:1"] * 2
    assert sorted(name for task in tasks for name in task.members) == sorted(many)
    assert [task.members for task in tasks if "z" in task.members] == [("z",)]


def test_runs_are_divided_evenly() -> None:
    """At most the size of a stack; no device idles at the end for want of a stack."""
    for n_runs, most, n_devices in [(512, 100, 1), (512, 100, 8), (3, 32, 8), (1, 4, 1), (9, 1, 2)]:
        parts = divide([str(n) for n in range(n_runs)], most, n_devices=n_devices)
        sizes = [len(part) for part in parts]
        assert sum(sizes) == n_runs
        assert max(sizes) <= most
        assert max(sizes) - min(sizes) <= 1
        assert len(parts) % n_devices == 0 or len(parts) == n_runs


def trials(*points: tuple[int, float, float]) -> list[Trial]:
    """Make trials of members, seconds and gigabytes."""
    return [
        Trial(members=members, seconds=seconds, n_bytes=int(gigabytes * 1e9))
        for members, seconds, gigabytes in points
    ]


@pytest.mark.parametrize(
    ("measured", "free", "most", "expected"),
    [
        # The card is full at eight members: more are as slow each, and are lost together.
        ([(1, 1, 1), (2, 1, 2), (4, 1, 4), (8, 1, 8), (16, 2, 16), (32, 4, 32)], 80, 256, 8),
        # Never full: as many as there are runs, then as memory holds.
        ([(1, 1, 1), (2, 1, 2), (4, 1, 4), (8, 1, 8)], 80, 12, 12),
        ([(1, 1, 1), (2, 1, 2), (4, 1, 4), (8, 1, 8)], 12, 256, 10),
        # Twice the largest trial at most: beyond that nothing is known.
        ([(1, 1, 1), (2, 1, 2)], 1000, 256, 4),
        # A stack gains nothing, does not fit, or was never made.
        ([(1, 1, 1), (2, 2, 2), (4, 4, 4)], 80, 256, 1),
        ([(1, 1, 100)], 80, 256, 1),
        ([], 80, 256, 1),
    ],
)
def test_the_size_of_a_stack_follows_from_the_trials(
    measured: list[tuple[int, float, float]], free: float, most: int, expected: int
) -> None:
    chosen = choose_members(trials(*measured), free_bytes=int(free * 1e9), most=most)
    assert chosen == expected


def test_compilation_must_be_sooner_done() -> None:
    """Sixty seconds for ten a thousand steps pay after six thousand."""
    for n_steps, pays in ((5000, False), (7000, True)):
        assert compiling_pays(first=60.0, compiled=0.01, eager=0.02, n_steps=n_steps) == pays
    assert not compiling_pays(first=0.5, compiled=0.03, eager=0.02, n_steps=10**6)


def test_choices_are_recorded_and_stand(
    specs: dict[str, TrainingSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured once for a shape, or the config's number; older sweeps and none stack nothing."""
    job = Job(out=tmp_path, workers=0)
    shape = shape_of(specs["a"])
    machine = tmp_path / "machine.json"

    def choices() -> dict[str, StackChoice]:
        return stack_choices(job, specs, vocabulary_size=300)

    for recorded in ({"device": "cpu"}, {"device": "cpu", "stack": "none"}):
        artifacts.write_json(machine, recorded)
        assert choices() == {}
    artifacts.write_json(machine, {"device": "cpu", "stack": 3})
    assert choices() == {shape: StackChoice(members=3, compiled=False)}
    known = {"members": 5, "compiled": True}
    artifacts.write_json(machine, {"device": "cuda", "stack": "auto", "stacks": {shape: known}})
    assert choices() == {shape: StackChoice(members=5, compiled=True)}
    # Measured now: the task's folder is there already, as after a kill between it and the record.
    folder = job.folder("stacks", shape)
    with artifacts.writing(folder, stage="dry-run", settings={}, seed=0, inputs={}) as aside:
        artifacts.write_json(aside / artifacts.TIMING, {"members": 2, "compiled": False})
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    cards = {name: replace(spec, device="cuda") for name, spec in specs.items()}
    artifacts.write_json(machine, {"device": "cuda", "stack": "auto"})
    shape_on_card = shape_of(cards["a"])
    folder.rename(job.folder("stacks", shape_on_card))
    found = stack_choices(job, cards, vocabulary_size=300)
    assert found == {shape_on_card: StackChoice(members=2, compiled=False)}
    kept = json.loads(machine.read_text())
    assert kept["stacks"] == {shape_on_card: {"members": 2, "compiled": False}}
    assert kept["device"] == "cuda"


def test_auto_stacks_on_cards_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number holds on every device."""
    assert choose_stack("auto", "cpu") == "none"
    assert choose_stack("auto", "cuda:1") == "auto"
    assert choose_stack(4, "cpu") == 4
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert stack_devices("cuda") == ("cuda:0", "cuda:1", "cuda:2")
    assert stack_devices("cuda:1") == ("cuda:1",)
    assert stack_devices("cpu") == ("cpu",)


@pytest.mark.parametrize("stack", [0, -3])
def test_a_stack_of_no_runs_is_refused(stack: int) -> None:
    with pytest.raises(ConfigError, match=f"stack {stack} is no number of runs; give auto, none"):
        replace(PROXY, stack=stack)


def test_a_stack_that_does_not_fit_is_refused_with_the_remedy(
    specs: dict[str, TrainingSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(stacked_train._StackTrainer, "train", full)
    with pytest.raises(ConfigError, match=r"stack of 4 runs does not fit .* Set proxy.stack to a"):
        train_all(specs, tmp_path, workers=0, stacks=stacks_of(specs, 4))
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_one_member_is_raised(specs: dict[str, TrainingSpec], tmp_path: Path) -> None:
    """While batches are made, in the thread that makes them, or before."""
    broken = {**specs, "a": replace(specs["a"], base=str(tmp_path / "gone.safetensors"))}
    (tmp_path / "gone.safetensors").write_bytes(b"no")
    with pytest.raises(DataError, match=r"gone.safetensors cannot be read"):
        train_all(broken, tmp_path / "s", workers=0, stacks=stacks_of(specs, 4))


def test_a_step_is_timed_on_any_device(specs: dict[str, TrainingSpec]) -> None:
    """What the calibration measures, on the processor; it scales batches that it cuts."""
    first, later = stack_seconds(specs["a"], 2, 300, torch.device("cpu"))
    assert first > 0
    assert math.isfinite(later)


def test_a_plan_is_timed_as_the_sweep_will_run(
    specs: dict[str, TrainingSpec], tmp_path: Path
) -> None:
    """In stacks of the config's size, or fewer where there are fewer runs; or alone."""
    for n_runs, stack, members in ((5, 3, 3), (2, 3, 2), (5, "auto", 1)):
        folder = tmp_path / f"{n_runs}-{stack}"
        folder.mkdir()
        found = stack_speed(
            specs["a"],
            300,
            folder,
            n_runs=n_runs,
            stack=stack,  # type: ignore[arg-type]
            workers=0,
        )
        assert found.members == members
        assert found.tokens_per_second > 0
        assert found.startup_seconds >= 0


def test_a_calibration_measures_until_memory_is_full(
    specs: dict[str, TrainingSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a made-up card of ten gigabytes: five members take nine; compilation halves a step."""
    asked: list[tuple[int, bool]] = []

    def measured(
        run: TrainingSpec, members: int, *_: object, compiled: bool = False
    ) -> tuple[float, float]:
        asked.append((members, compiled))
        if members > 5:
            raise torch.OutOfMemoryError
        return (20.0, 0.5) if compiled else (1.0, 1.0)

    monkeypatch.setattr(stack_trials, "stack_seconds", measured)
    monkeypatch.setattr(stack_trials, "can_compile", lambda device: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**10, 10**10))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: int(1.7e9) * asked[-1][0])
    spec: dict[str, Any] = {
        "run": config.dump(replace(specs["a"], n_sequences=8 * 30)),
        "vocabulary_size": 300,
        "device": "cpu",
    }
    calibrate_stack({**spec, "n_runs": 40}, tmp_path / "many")
    calibrate_stack({**spec, "n_runs": 3}, tmp_path / "few")
    found = json.loads((tmp_path / "many" / artifacts.TIMING).read_text())
    assert (found["members"], found["compiled"]) == (5, True)
    assert [trial["members"] for trial in found["trials"]] == [1, 2, 4]
    assert found["compiled_seconds"] == [20.0, 0.5]
    few = json.loads((tmp_path / "few" / artifacts.TIMING).read_text())
    assert (few["members"], few["compiled"]) == (3, False)
    assert asked == [
        *[(members, False) for members in (1, 2, 4, 8, 5)],
        (5, True),
        *[(members, False) for members in (1, 2, 3)],
        (3, True),
    ]


@pytest.mark.gpu
def test_a_stack_on_a_card_equals_the_runs_alone(
    specs: dict[str, TrainingSpec], tmp_path: Path
) -> None:
    """Compiled, in float32, with the card's own kernels."""
    cards = {name: replace(spec, device="cuda") for name, spec in specs.items()}
    stacks = {shape_of(cards["a"]): StackChoice(members=4, compiled=True)}
    train_all(cards, tmp_path / "s", workers=0, stacks=stacks, devices=("cuda:0",))
    train_all(cards, tmp_path / "alone", workers=0)
    ours, theirs = (collect(tuple(cards), tmp_path / name) for name in ("s", "alone"))
    np.testing.assert_array_equal(ours.diverged, theirs.diverged)
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-3)
