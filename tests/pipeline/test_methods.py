"""The other methods through the command line on the tiny pool: laws, continual, phases, rounds."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from cuvee import artifacts
from cuvee.tables.runs import read_runs
from cuvee.tables.study import read_study

pytestmark = pytest.mark.timeout(900)


def _section(settings: Mapping[str, object], name: str) -> dict[str, object]:
    return cast(dict[str, object], settings[name])


def test_mixing_laws_end_in_a_checked_prediction(
    settings: dict[str, object],
    tmp_path: Path,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    cuvee: Callable[..., Any],
) -> None:
    """Three sizes, laws, the answer, checks at the validated size, and the same again on resume."""
    settings["sizes"] = ["0.03m", "0.05m", "0.1m"]
    settings["design"] = {"n_runs": 5}
    settings["laws"] = {"n_checks": 2}
    settings["fit"] = {"n_folds": 2}
    _section(settings, "validate")["n_seeds"] = 1
    _section(settings, "proxy")["points"] = [0.4, 0.6, 0.8, 1.0]
    config = write_config(tmp_path / "laws.yaml", settings)
    out = tmp_path / "out"
    ended = cuvee("run", "mixing-laws", config, "--out", out, "--workers", 0, "-q")
    assert (ended.status, ended.stderr) == (0, "")
    assert "Fitted without its largest size (100,352 parameters)" in ended.stdout
    assert "2 mixtures trained afterwards at that size" in ended.stdout
    study = read_study(out / "scaling" / "study.parquet")
    assert study.losses.shape == (5, 3, 4, 2)
    assert read_runs(out / "runs" / "runs.parquet").run_ids[:2] == ("natural", "uniform")
    checks = json.loads((out / "checks" / "checks.json").read_text(encoding="utf-8"))
    assert len(checks["measured"]) == 2
    again = cuvee("run", "mixing-laws", config, "--out", out, "--workers", 0, "-q")
    assert again.stdout == ended.stdout


def test_continual_finds_the_critical_share(
    settings: dict[str, object],
    tmp_path: Path,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    cuvee: Callable[..., Any],
) -> None:
    """A base is trained, continued on shares of a new domain, and the ends are checked."""
    for name in ("targets", "validate", "search", "target_tokens", "design"):
        del settings[name]
    settings["new_domains"] = ["code"]
    settings["base"] = {"n_tokens": 8_192}
    settings["shares"] = [0.0, 0.25, 0.5, 1.0]
    proxy = _section(settings, "proxy")
    del proxy["min_subset_tokens"]
    settings["proxy"] = {**proxy, "size": "0.03m", "repetition_matched": False, "n_tokens": 4096}
    config = write_config(tmp_path / "continual.yaml", settings)
    out = tmp_path / "out"
    ended = cuvee("run", "continual", config, "--out", out, "--workers", 0, "-q")
    assert (ended.status, ended.stderr) == (0, "")
    assert "critical share" in ended.stdout
    found = json.loads((out / "critical" / "critical.json").read_text(encoding="utf-8"))
    assert [one["n_tokens"] for one in found] == [2048, 4096]
    for one in found:
        assert 0.0 <= one["low"] <= one["share"] <= one["high"] <= 1.0
    assert len(json.loads((out / "verdict" / "checks.json").read_text(encoding="utf-8"))) == 2
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "No verdict yet" not in page
    assert "the original domains" in page
    assert artifacts.is_done(out / "base" / "base")


def test_two_phases_stand_beside_one(
    settings: dict[str, object],
    tmp_path: Path,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    cuvee: Callable[..., Any],
) -> None:
    """The answer has two phases that keep their shares; the best of one phase is judged too."""
    settings["phases"] = [0.75, 0.25]
    settings["design"] = {"n_runs": 10, "oversample": 20}
    settings["fit"] = {"n_folds": 2}
    _section(settings, "validate")["n_seeds"] = 1
    config = write_config(tmp_path / "phases.yaml", settings)
    out = tmp_path / "out"
    ended = cuvee("run", "regmix", config, "--out", out, "--workers", 0, "-q")
    assert (ended.status, ended.stderr) == (0, "")
    found = json.loads((out / "optimum" / "optimum.json").read_text(encoding="utf-8"))
    halves = np.array(found["weights"]).reshape(2, -1)
    np.testing.assert_allclose(halves.sum(axis=1), [0.75, 0.25], atol=1e-9)
    assert "one-phase" in ended.stdout
    about = json.loads((out / "selection" / "mixture.json").read_text(encoding="utf-8"))
    assert len(about["policy"]["phases"] if "policy" in about else about["phases"]) == 2


def test_runs_are_chosen_in_rounds(
    settings: dict[str, object],
    tmp_path: Path,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    cuvee: Callable[..., Any],
) -> None:
    """Batches are added until little more is expected or the most runs are reached."""
    settings["runs"] = "auto"
    settings["start_runs"] = 6
    settings["sequential"] = {"batch_size": 2, "n_candidates": 200, "stop_share": 0.0}
    settings["design"] = {"n_runs": 9, "oversample": 20}
    settings["fit"] = {"n_folds": 2}
    _section(settings, "validate")["n_seeds"] = 1
    config = write_config(tmp_path / "rounds.yaml", settings)
    out = tmp_path / "out"
    for verb in ("label", "design", "train"):
        ended = cuvee(verb, config, "--out", out, "--workers", 0, "-q")
        assert (ended.status, ended.stderr) == (0, "")
    runs = read_runs(out / "runs" / "runs.parquet")
    assert runs.run_ids[:2] == ("natural", "uniform")
    assert runs.run_ids[6:] == ("next-000", "next-001")
    assert len(list((out / "rounds").iterdir())) == 2
    ended = cuvee("run", "regmix", config, "--out", out, "--workers", 0, "-q")
    assert (ended.status, ended.stderr) == (0, "")
    assert "8 runs in 2 rounds" in ended.stdout


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("phases", [0.5, 0.4], "phases are [0.5, 0.4], together 0.9; give each phase's share"),
        ("phases", [0.4, 0.3, 0.3], "runs of one or two phases can be laid out"),
        ("start_runs", 3, "start_runs is 3; it must lie in 6 to design.n_runs (8)"),
    ],
)
def test_settings_that_cannot_be(
    key: str,
    value: object,
    message: str,
    settings: dict[str, object],
    tmp_path: Path,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    cuvee: Callable[..., Any],
) -> None:
    """One clear message, nothing written."""
    settings[key] = value
    if key == "start_runs":
        settings["runs"] = "auto"
    config = write_config(tmp_path / "wrong.yaml", settings)
    ended = cuvee("run", "regmix", config, "--out", tmp_path / "out", "--workers", 0, "-q")
    assert ended.status == 1
    assert message in ended.stderr.replace("\n", " ")
    assert not (tmp_path / "out").exists()
