"""A sweep trained in parts by several commands at once, and what it leaves."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cuvee import artifacts

pytestmark = pytest.mark.timeout(900)

PLAN = ("plan/done", "plan/manifest.json", "plan/runs.json")


@pytest.fixture(scope="module")
def small(source: Path, tiny_config: Path) -> Path:
    """Give a config whose learning rate is calibrated."""
    text = tiny_config.read_text(encoding="utf-8")
    changed = text.replace("  learning_rate: 0.004\n", "", 1).replace("n_runs: 8", "n_runs: 6")
    path = source / "small.yaml"
    path.write_text(changed, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def planned(
    small: Path, tmp_path_factory: pytest.TempPathFactory, start: Callable[..., Any]
) -> Path:
    """Give a folder in which only the first command has worked."""
    out = tmp_path_factory.mktemp("planned") / "out"
    process = start("train", small, "--out", out, "--prepare", "--workers", 0, "-q")
    stdout, stderr = process.communicate()
    assert (process.returncode, stderr) == (0, "")
    assert stdout.startswith(f"6 runs are planned in {out / 'plan'}. ")
    return out


def test_parts_at_once_leave_what_one_command_leaves(
    planned: Path,
    small: Path,
    tmp_path: Path,
    start: Callable[..., Any],
    cuvee: Callable[..., Any],
    contents: Callable[[Path], Mapping[str, str]],
) -> None:
    """Two parts side by side train all runs; `train` then only gathers them, to the same bytes.

    The folder was moved after the plan was made.
    """
    out, whole = tmp_path / "out", tmp_path / "whole"
    shutil.copytree(planned, out)
    shutil.copytree(planned, whole, ignore=shutil.ignore_patterns("plan"))
    parts = [
        start("train", small, "--out", out, "--part", f"{k}/2", "--workers", 0, "-q")
        for k in (1, 2)
    ]
    ended = [(*part.communicate(), part.returncode) for part in parts]
    assert [(stderr, status) for _, stderr, status in ended] == [("", 0)] * 2
    assert ended[0][0].startswith("part 1/2: 3 runs, finished; of all 6 planned runs ")
    assert not artifacts.is_done(out / "runs")
    before = {path: path.stat().st_mtime_ns for path in (out / "sweep").rglob("*")}
    assert len([path for path in before if path.name == artifacts.DONE]) == 6
    for folder in (out, whole):
        done = cuvee("train", small, "--out", folder, "--workers", 0, "-q")
        assert (done.status, done.stderr) == (0, "")
    assert {path: path.stat().st_mtime_ns for path in (out / "sweep").rglob("*")} == before
    made = dict(contents(out))
    assert [made.pop(name, "") != "" for name in PLAN] == [True] * 3
    assert made == contents(whole)
    assert not any(path.name.startswith(artifacts.LOCK) for path in out.iterdir())


def test_the_plan_is_made_with_calibration(planned: Path) -> None:
    """The plan holds every run at the calibrated rate, and no path that a move would break."""
    rates = json.loads(next(planned.glob("calibration/*/calibration.json")).read_text("utf-8"))
    runs = json.loads((planned / "plan" / "runs.json").read_text("utf-8"))["runs"]
    assert len(runs) == 6
    assert {run["learning_rate"] for run in runs.values()} == {rates["learning_rate"]}
    assert {run["pool"] for run in runs.values()} == {"tokens"}
    assert not (planned / "sweep").exists()


def test_a_part_needs_the_plan(small: Path, tmp_path: Path, cuvee: Callable[..., Any]) -> None:
    """Without it one message says which command to run first, and nothing is left."""
    ended = cuvee("train", small, "--out", tmp_path / "out", "--part", "1/2", "-q")
    assert ended.stderr == (
        f"cuvee: {tmp_path / 'out' / 'plan'} is missing or unfinished; run `cuvee train --prepare` "
        "first.\n"
    )
    assert ended.status == 1
    assert not (tmp_path / "out").exists()


def test_a_part_of_another_config_is_refused(
    planned: Path, small: Path, cuvee: Callable[..., Any]
) -> None:
    """The key that differs is named."""
    arguments = ("--out", planned, "--part", "1/2", "--set", "seed=2", "-q")
    ended = cuvee("train", small, *arguments)
    assert ended.status == 1
    assert "was made with another config; different keys: seed." in ended.stderr


def test_parts_and_whole_commands_keep_off_each_other(
    planned: Path, small: Path, cuvee: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes second is refused in a line, and the first goes on."""
    monkeypatch.setattr(artifacts, "_PATIENCE", 0.0)
    division = "`cuvee train --part` in 2 parts"
    with artifacts.locked_part(planned, part="part-1", division=division):
        for verb in (("run", "regmix", small), ("train", small), ("train", small, "--part", "2/3")):
            ended = cuvee(*verb, "--out", planned, "-q")
            assert ended.stderr == (
                f"cuvee: {planned} is in use by {division}; wait for it, stop it, or choose "
                "another --out.\n"
            )
        ended = cuvee("train", small, "--part", "1/2", "--out", planned, "-q")
        assert ended.stderr.startswith(f"cuvee: part-1 of {planned} is in use by process ")
    with artifacts.locked(planned):
        ended = cuvee("train", small, "--part", "1/2", "--out", planned, "-q")
        assert ended.stderr.startswith(f"cuvee: {planned} is in use by process ")


def test_one_command_at_a_time(
    tiny_config: Path, tmp_path: Path, cuvee: Callable[..., Any]
) -> None:
    """Preparing and training a part are two commands."""
    ended = cuvee("train", tiny_config, "--prepare", "--part", "1/2", "--out", tmp_path / "out")
    assert "--dry-run, --prepare and --part are three commands; give one of them." in ended.stderr
    assert not (tmp_path / "out").exists()


def _of_method(method: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Turn the tiny settings into those of a method whose sweep takes seconds."""
    settings["proxy"] |= {"size": "0.03m", "n_tokens": 4096}
    if method == "mixing-laws":
        settings["proxy"] |= {"points": [0.25, 0.5, 1.0]}
        return {**settings, "sizes": ["0.03m", "0.05m"], "design": {"n_runs": 4}}
    if method == "regmix":
        rounds = {"batch_size": 2, "n_candidates": 200, "stop_share": 0.0}
        fewer = {"n_runs": 8, "oversample": 20}
        wanted = {"runs": "auto", "start_runs": 6, "sequential": rounds, "design": fewer}
        return {**settings, **wanted}
    settings["proxy"] |= {"repetition_matched": False}
    del settings["proxy"]["min_subset_tokens"]
    if method == "continual":
        for name in ("targets", "validate", "search", "target_tokens", "design"):
            del settings[name]
        base, shares = {"n_tokens": 4096}, [0.0, 0.25, 0.5, 1.0]
        return {**settings, "new_domains": ["code"], "base": base, "shares": shares}
    for name in ("search", "design"):
        del settings[name]
    criteria = {"clean": {"kind": "heuristics"}}
    fewer = {"n_runs": 14, "start_runs": 12, "batch_size": 2, "sample_documents": 50}
    simulated = {"n_simulated": 200, "n_generations": 1, "n_best": 4}
    curves = {**fewer, **simulated, "regressions": ["linear"]}
    return {**settings, "criteria": criteria, "curves": curves}


@pytest.mark.parametrize(
    ("method", "n_planned", "n_runs"),
    [("regmix", 6, 8), ("mixing-laws", 8, 8), ("continual", 4, 4), ("quadmix", 12, 14)],
)
def test_each_method_goes_on_from_its_parts(
    method: str,
    n_planned: int,
    n_runs: int,
    settings: dict[str, Any],
    write_config: Callable[[Path, Mapping[str, object]], Path],
    tmp_path: Path,
    cuvee: Callable[..., Any],
) -> None:
    """`train` finds the planned runs finished; of a sweep in rounds it trains the later ones."""
    config = write_config(tmp_path / "config.yaml", _of_method(method, settings))
    common = (config, "--out", tmp_path / "out", "--method", method, "--workers", 0, "-q")
    done, sweep = [], tmp_path / "out" / "sweep"
    for options in (("--prepare",), ("--part", "1/2"), ("--part", "2/2"), ()):
        ended = cuvee("train", *common, *options)
        assert ended.status == 0, ended.stderr
        done.append({path: path.stat().st_mtime_ns for path in sweep.glob("*/done")})
    plan = json.loads((tmp_path / "out" / "plan" / "runs.json").read_text("utf-8"))
    assert {path.parent.name for path in done[2]} == set(plan["runs"])
    assert (len(done[2]), len(done[3])) == (n_planned, n_runs)
    assert done[3].items() >= done[2].items()
    assert artifacts.is_done(tmp_path / "out" / "runs")
