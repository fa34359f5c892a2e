"""The view of a running sweep: counts, pace, expected end, best and last losses."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from cuvee import artifacts
from cuvee.cli import watch as verb
from cuvee.errors import ArtifactError
from cuvee.methods.watching import describe_watched, watch
from cuvee.tables.runs import Trajectory, write_trajectory

START = 1_700_000_000.0
ESCAPE = "\x1b[2J"


def stage(folder: Path) -> Any:
    """Begin an artefact."""
    return artifacts.writing(folder, stage="test", settings={}, seed=1, inputs={})


def add_run(
    out: Path,
    name: str,
    loss: float,
    ended: float,
    *,
    size: str = "0.1m",
    sweep: str = "sweep",
    spec: Mapping[str, float] | None = None,
) -> None:
    """Finish a run at a time."""
    with stage(out / sweep / name) as aside:
        artifacts.write_json(aside / "result.json", {"diverged": bool(np.isnan(loss))})
        artifacts.write_json(aside / "spec.json", spec or {"size": size})
        losses = np.array([[9.0, 9.0, 9.0], [loss - 0.1, loss + 0.1, 7.0]])
        names = ("target/qa", "target/code", "domain/web")
        write_trajectory(
            aside / "trajectory.parquet",
            Trajectory(n_tokens=np.array([1, 2]), targets=names, losses=losses, losses_bpb=losses),
        )
    os.utime(out / sweep / name / artifacts.DONE, (ended, ended))


@pytest.fixture(name="out")
def _out(tmp_path: Path) -> Path:
    """A sweep of eight runs, three of them done, one a quarter of an hour."""
    out = tmp_path / "out"
    with stage(out / "design") as aside:
        pq.write_table(pa.table({"run_id": [str(k) for k in range(8)]}), aside / "design.parquet")
    (out / "config.yaml").write_text(yaml.safe_dump({"seed": 1}), encoding="utf-8")
    for place, (name, loss) in enumerate(
        [("natural", 2.5), ("draw-000", 2.25), ("draw-001", float("nan"))]
    ):
        add_run(out, name, loss, START + 900 * place)
    (out / "sweep" / "draw-002.partial").mkdir()
    return out


def test_pace_and_end_follow_from_finished_runs(out: Path) -> None:
    """Two intervals of a quarter of an hour: four an hour, five runs to go."""
    (sweep,) = watch(out).sweeps
    assert (len(sweep.finished), sweep.n_total) == (3, 8)
    assert sweep.runs_per_hour == pytest.approx(4.0)
    assert sweep.expected_end == pytest.approx(START + 1800 + 5 * 900)
    assert sweep.best is not None
    assert (sweep.best.name, sweep.best.loss_bpb) == ("draw-000", pytest.approx(2.25))


def test_one_run_has_no_pace(out: Path) -> None:
    """Nothing is guessed from a single run, nor from a count that is not known."""
    add_run(out, "chosen-seed0", 2.0, START + 9000, sweep="validation")
    last = watch(out).sweeps[-1]
    assert (last.name, last.n_total, last.runs_per_hour, last.expected_end) == (
        *("validation", None),
        *(None, None),
    )


def test_best_is_of_the_largest_size(out: Path) -> None:
    """Losses of larger models are lower whatever the mixture."""
    add_run(out, "small", 1.5, START + 2000, size="0.03m")
    best = watch(out).sweeps[0].best
    assert best is not None
    assert best.name == "draw-000"


def test_sizes_are_ordered_by_their_parameters(out: Path) -> None:
    """Not by the numbers in their names."""
    add_run(out, "of-800m", 1.25, START + 2000, size="800m", sweep="validation")
    add_run(out, "of-1m", 1.5, START + 3000, size="1m", sweep="validation")
    best = watch(out).sweeps[-1].best
    assert best is not None
    assert best.name == "of-800m"


def test_runs_of_another_trainer_are_watched(out: Path) -> None:
    """They have a number of parameters, or nothing, in place of a size."""
    add_run(out, "ours", 1.25, START + 2000, sweep="ingested", spec={"n_parameters": 1e6})
    add_run(out, "theirs", 1.5, START + 3000, sweep="ingested", spec={"n_parameters": 4e8})
    found = watch(out)
    best = found.sweeps[-1].best
    assert best is not None
    assert best.name == "theirs"
    assert "theirs 1.500 bits per byte (mean over" in describe_watched(found)


def test_rounds_and_sizes_add_to_the_total(out: Path) -> None:
    """A round's design counts all runs so far; every mixture is trained at each size."""
    (out / "config.yaml").write_text(yaml.safe_dump({"sizes": ["0.03m", "0.1m"]}), encoding="utf-8")
    with stage(out / "rounds" / "000") as aside:
        pq.write_table(pa.table({"run_id": [str(k) for k in range(11)]}), aside / "design.parquet")
    assert watch(out).sweeps[0].n_total == 22


def test_text_says_it_all_and_is_harmless(out: Path) -> None:
    """Counts, losses, divergence; a name cannot steer the terminal."""
    add_run(out, f"x{ESCAPE}", 2.125, START + 2700)
    text = describe_watched(watch(out))
    assert "[############............]  4 of 8 runs, 4.0 an hour, end expected " in text
    assert "(1 h 0 min after the last)" in text
    assert "best of sweep so far: x" in text
    assert "2.125 bits per byte (0.1m" in text
    assert "diverged  draw-001" in text
    assert "\x1b" not in text


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    """The message says what to give."""
    with pytest.raises(ArtifactError, match="holds no run; give the --out folder"):
        watch(tmp_path)


def test_once_prints_plain_text(out: Path, cuvee: Callable[..., Any]) -> None:
    """No colours, no cursor movements."""
    ended = cuvee("watch", out, "--once")
    assert (ended.status, ended.stderr) == (0, "")
    assert ended.stdout == describe_watched(watch(out)) + "\n"


@pytest.mark.parametrize("is_terminal", [False, True])
def test_watching_ends_with_the_run(
    out: Path, cuvee: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    """Each change is shown; the report's page and a free folder are the end."""
    steps = iter(
        [
            lambda: None,
            lambda: add_run(out, "draw-003", 2.0, START + 2700),
            lambda: (out / "report.html").write_text("", encoding="utf-8"),
        ]
    )
    monkeypatch.setattr(verb.time, "sleep", lambda seconds: next(steps)())
    if is_terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
    ended = cuvee("watch", out)
    assert ended.status == 0
    assert ("\x1b[" in ended.stdout) == is_terminal
    if not is_terminal:
        assert ended.stdout.index("3 of 8 runs") < ended.stdout.index("4 of 8 runs")
        assert ended.stdout.count("4 of 8 runs") == 2
        assert ended.stdout.count(": finished") == 1
