"""The whole chain through the real command line: to its end, by steps, killed and resumed."""

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from cuvee import artifacts

pytestmark = pytest.mark.timeout(900)

STAGES = (
    "corpus/index",
    "labels/domain",
    "targets/index",
    "targets/tokens",
    "tokenizer",
    "tokens",
    "design",
    "runs",
    "predictor",
    "optimum",
    "selection",
    "verdict",
)
VERBS = ("label", "design", "train", "fit", "search", "select", "validate", "report")


def copy_without(run: Any, out: Path, *stages: str) -> None:
    """Copy a finished run without some of its stages."""
    shutil.copytree(run.out, out)
    for stage in stages:
        shutil.rmtree(out / stage)


def test_run_leaves_every_artefact(finished: Any) -> None:
    """Every stage is finished, and nothing half-written or locked remains."""
    assert [stage for stage in STAGES if not artifacts.is_done(finished.out / stage)] == []
    assert len(list((finished.out / "sweep").iterdir())) == 8
    assert len(list((finished.out / "validation").iterdir())) == 8
    assert (finished.out / "config.yaml").is_file()
    assert (finished.out / "report.html").is_file()
    left = [p.name for p in finished.out.rglob("*") if p.suffix == ".partial" or p.name == ".lock"]
    assert left == []


def test_run_prints_the_outcome(finished: Any) -> None:
    """Standard output holds the mixture, the losses, the verdict and the places of the results."""
    assert re.search(r"^domain +chosen +natural +ratio +epochs", finished.stdout, re.MULTILINE)
    for name in ("chosen", "natural", "uniform", "best-sampled", "animals", "letters"):
        assert re.search(rf"^{name} +\d", finished.stdout, re.MULTILINE)
    assert "The chosen mixture" in finished.stdout
    assert f"report      {finished.out / 'report.html'}" in finished.stdout
    assert f"selection   {finished.out / 'selection'}" in finished.stdout


def test_report_is_self_contained(finished: Any) -> None:
    """The page loads nothing and runs nothing."""
    page = (finished.out / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert "<script" not in page
    assert "<link" not in page
    assert re.findall(r"""(?:src|href)=["'](?!#|data:text/csv;)[^"']*""", page) == []
    assert re.findall(r"url\((?!#)", page) == []
    assert "@import" not in page


def test_selection_keeps_the_mixture(finished: Any) -> None:
    """Shares of tokens differ from the chosen ones by no more than a document."""
    optimum = json.loads((finished.out / "optimum" / "optimum.json").read_text(encoding="utf-8"))
    chosen = dict(zip(optimum["domains"], optimum["weights"], strict=True))
    about = json.loads((finished.out / "selection" / "mixture.json").read_text(encoding="utf-8"))
    n_tokens = about["n_tokens"]["realised"]
    longest = 400  # tokens of a document of at most 120 words
    for name, domain in about["domains"].items():
        assert domain["realised_share"] == pytest.approx(chosen[name], abs=2 * longest / n_tokens)
    tables = [pq.read_table(path) for path in sorted(finished.out.glob("selection/part-*.parquet"))]
    rows = sum(table.num_rows for table in tables)
    lineage = pq.read_table(finished.out / "selection" / "lineage.parquet")
    assert rows == int(np.sum(lineage["copies"].to_numpy())) > 0


def test_verbs_make_the_same_artefacts(
    finished: Any, tmp_path: Path, cuvee: Callable[..., Any], contents: Callable[[Path], Any]
) -> None:
    """One by one and in one process, the verbs leave what `run` leaves with two workers."""
    out = tmp_path / "out"
    for verb in VERBS:
        ended = cuvee(verb, finished.config, "--out", out, "--workers", 0, "-q")
        assert (ended.status, ended.stderr) == (0, "")
    assert contents(out) == finished.contents


def test_killed_run_resumes_to_the_same_artefacts(
    finished: Any, tmp_path: Path, start: Callable[..., Any], contents: Callable[[Path], Any]
) -> None:
    """After kill -9 of the process group at random moments the same command completes it."""
    out = tmp_path / "out"
    arguments = ("run", "regmix", finished.config, "--out", out, "--workers", 1, "-q")
    moments = np.random.default_rng().uniform(0.1, 0.8, size=3) * finished.seconds
    for seconds in moments:
        process = start(*arguments)
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    process = start(*arguments)
    _, stderr = process.communicate()
    assert process.returncode == 0, f"killed after {moments}: {stderr}"
    assert contents(out) == finished.contents, f"killed after {moments}"


def test_same_command_again_makes_nothing_anew(
    finished: Any, cuvee: Callable[..., Any], contents: Callable[[Path], Any]
) -> None:
    """A finished run is described again, here as JSON, and stays as it is."""
    ended = cuvee("run", "regmix", finished.config, "--out", finished.out, "--json")
    assert (ended.status, ended.stderr) == (0, "")
    optimum = json.loads((finished.out / "optimum" / "optimum.json").read_text(encoding="utf-8"))
    weights = dict(zip(optimum["domains"], optimum["weights"], strict=True))
    assert json.loads(ended.stdout)["mixture"] == weights
    assert contents(finished.out) == finished.contents


@pytest.mark.parametrize(
    ("verb", "missing", "folder", "command"),
    [
        ("design", ("tokens",), "tokens", "label"),
        ("train", ("design", "runs"), "design", "design"),
        ("fit", ("runs", "predictor"), "runs", "train"),
        ("search", ("predictor", "optimum"), "predictor", "fit"),
        ("select", ("optimum", "selection"), "optimum", "search"),
        ("validate", ("optimum", "verdict"), "optimum", "search"),
        ("report", ("verdict",), "verdict", "validate"),
    ],
)
def test_verb_names_the_missing_step(
    verb: str,
    missing: tuple[str, ...],
    folder: str,
    command: str,
    finished: Any,
    tmp_path: Path,
    cuvee: Callable[..., Any],
) -> None:
    """A verb whose input is not made says which command makes it."""
    out = tmp_path / "out"
    copy_without(finished, out, *missing)
    ended = cuvee(verb, finished.config, "--out", out, "-q")
    assert ended.stderr == (
        f"cuvee: {out / folder} is missing or unfinished; run `cuvee {command}` first.\n"
    )
    assert ended.status == 1


def test_keys_younger_than_the_folder_stand_at_their_defaults(
    tmp_path: Path, finished: Any, cuvee: Callable[..., Any]
) -> None:
    """A folder of an older version goes on, unless a key it did not know is set to something."""
    out = tmp_path / "older"
    shutil.copytree(finished.out, out)
    recorded = yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8"))
    del recorded["search"]["refine"], recorded["pool"]["domain"]
    (out / "config.yaml").write_text(yaml.safe_dump(recorded), encoding="utf-8")
    same = cuvee("report", finished.config, "--out", out, "-q")
    assert (same.status, same.stderr) == (0, "")
    other = cuvee("report", finished.config, "--out", out, "-q", "--set", "search.refine=false")
    assert other.status == 1
    assert "different keys: search.refine." in other.stderr


def test_other_config_is_refused(
    finished: Any, cuvee: Callable[..., Any], contents: Callable[[Path], Any]
) -> None:
    """A folder of another config is named with the keys that differ, and left as it is."""
    before = {path: path.stat().st_mtime_ns for path in finished.out.rglob("*") if path.is_file()}
    changes = ("--set", "seed=2", "--set", "design.n_runs=9", "--set", "validate.mixtures.m.code=1")
    for verb in (("run", "regmix"), ("label",), ("report",)):
        ended = cuvee(*verb, finished.config, "--out", finished.out, "-q", *changes)
        assert ended.stderr == (
            f"cuvee: {finished.out} was made with another config; different keys: design.n_runs, "
            "seed, validate.mixtures.m. Choose another --out, or restore these keys.\n"
        )
        assert ended.status == 1
    after = {path: path.stat().st_mtime_ns for path in finished.out.rglob("*") if path.is_file()}
    assert after == before
    assert contents(finished.out) == finished.contents


def test_second_process_is_refused(finished: Any, cuvee: Callable[..., Any]) -> None:
    """While one command works in a folder no other may."""
    with artifacts.locked(finished.out):
        for verb in (("run", "regmix"), ("train",)):
            ended = cuvee(*verb, finished.config, "--out", finished.out, "-q")
            assert ended.stderr == (
                f"cuvee: {finished.out} is in use by process {os.getpid()}; wait for it, stop it, "
                "or choose another --out.\n"
            )
            assert ended.status == 1


def test_without_targets_the_domains_are_the_objective(
    settings: dict[str, Any],
    write_config: Callable[[Path, Mapping[str, object]], Path],
    tmp_path: Path,
    cuvee: Callable[..., Any],
) -> None:
    """Without targets the mean over the domains' validation text is sought, and the run says so."""
    del settings["targets"]
    settings["design"]["n_runs"] = 6
    settings["validate"]["size"] = "0.1m"
    out = tmp_path / "out"
    config = write_config(tmp_path / "tiny.yaml", settings)
    ended = cuvee("run", "regmix", config, "--out", out, "--workers", 0, "-q")
    assert (ended.status, ended.stderr) == (0, "")
    words = "No targets were given: the objective is the mean over the domains' own validation"
    page = " ".join((out / "report.html").read_text(encoding="utf-8").split())
    assert words in " ".join(ended.stdout.split())
    assert words in page.replace("&#39;", "'")
    assert not (out / "targets").exists()
    verdict = json.loads((out / "verdict" / "verdict.json").read_text(encoding="utf-8"))
    assert verdict["targets"] == ["animals", "code", "letters", "numbers"]
    assert yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8"))["targets"] is None
