"""Downstream tasks as targets through the real command line: losses, halves, accuracy, verdict."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cuvee.tables.runs import read_runs

pytestmark = pytest.mark.timeout(900)

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]


def write_tasks(root: Path) -> dict[str, dict[str, str]]:
    """Write a task of choices and one of short answers; return them as settings."""
    rng = np.random.default_rng(9)
    choices, short = [], []
    for number in range(40):
        question = " ".join(rng.choice(WORDS, 5))
        answers = [" ".join(rng.choice(WORDS, 2)) for _ in range(3)]
        choices.append({"context": question, "choices": answers, "gold": number % 3})
        short.append({"context": f"{question} and", "answer": "beta", "aliases": ["eta", "beta"]})
    tasks = {}
    for name, rows in (("pick", choices), ("say", short)):
        path = root / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        tasks[name] = {"path": str(path)}
    return tasks


def small(settings: dict[str, Any]) -> dict[str, Any]:
    """Make the tiny settings still smaller, without other targets."""
    settings["targets"] = {"own_domains": {"pick": ["letters"], "say": ["letters"]}}
    settings["design"]["n_runs"] = 6
    settings["proxy"]["size"] = "0.05m"
    settings["proxy"]["n_tokens"] = 4096
    settings["validate"] |= {"size": "0.05m", "n_tokens": 4096}
    return settings


def test_tasks_are_targets_and_stand_in_the_verdict(
    settings: dict[str, Any],
    write_config: Callable[[Path, Mapping[str, object]], Path],
    tmp_path: Path,
    cuvee: Callable[..., Any],
) -> None:
    """Losses are fitted, weighed by groups and judged as of any target; accuracy is shown."""
    settings = small(settings)
    settings["targets"]["tasks"] = write_tasks(tmp_path)
    settings["target_groups"] = {"choices": ["pick"], "answers": ["say"]}
    out = tmp_path / "out"
    config = write_config(tmp_path / "tiny.yaml", settings)
    ended = cuvee("run", "regmix", config, "--out", out, "--workers", 0, "-q")
    assert (ended.stderr, ended.status) == ("", 0)

    runs = read_runs(out / "runs" / "runs.parquet")
    assert runs.targets[:2] == ("target/pick", "target/say")
    assert np.isfinite(runs.losses_bpb).all()
    verdict = json.loads((out / "verdict" / "verdict.json").read_text(encoding="utf-8"))
    assert verdict["targets"] == ["pick", "say"]

    for folder, measured in (("sweep", None), ("validation", {"target/pick", "target/say"})):
        for path in sorted((out / folder).glob("*/result.json")):
            accuracy = json.loads(path.read_text(encoding="utf-8")).get("accuracy")
            assert (accuracy and set(accuracy)) == measured

    rows = json.loads((out / "verdict" / "accuracy.json").read_text(encoding="utf-8"))
    asked = [(row["target"], row["measure"]) for row in rows]
    measures = [("pick", "accuracy"), ("pick", "accuracy_norm"), ("say", "accuracy")]
    assert list(dict.fromkeys(asked)) == measures
    for row in rows:
        assert 0 <= row["low"] <= row["mean"] <= row["high"] <= 1
        assert (row["difference"] is None) == (row["mixture"] == "chosen")
    assert "accuracy on tasks, verdict half" in ended.stdout

    fitted = json.loads((out / "predictor" / "objective.json").read_text(encoding="utf-8"))
    assert [group["name"] for group in fitted["groups"]] == ["choices", "answers"]
    assert list(fitted["weights"].values()) == verdict["weights"]
    assert "Targets are combined by groups" in " ".join(ended.stdout.split())
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Accuracy on downstream tasks" in page

    shown = cuvee("run", "regmix", config, "--out", out, "--json")
    assert json.loads(shown.stdout)["accuracy"] == rows


def test_a_malformed_task_is_refused_before_the_pool_is_read(
    settings: dict[str, Any],
    write_config: Callable[[Path, Mapping[str, object]], Path],
    tmp_path: Path,
    cuvee: Callable[..., Any],
) -> None:
    """The row is named and nothing is left."""
    settings = small(settings)
    settings["targets"]["tasks"] = write_tasks(tmp_path)
    path = tmp_path / "pick.jsonl"
    path.write_text('{"context": "a", "choices": ["b", "c"], "gold": 5}\n', encoding="utf-8")
    config = write_config(tmp_path / "tiny.yaml", settings)
    out = tmp_path / "out"
    ended = cuvee("run", "regmix", config, "--out", out, "--workers", 0, "-q")
    assert ended.stderr == (
        f"cuvee: task 'pick': row 0 of {path}: 'gold' is 5; it must be a position in 'choices', "
        "0 to 1. Repair the row, or leave it out.\n"
    )
    assert ended.status == 1
    assert not out.exists() or list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "tasks",
            {"code": {"path": "x.jsonl"}},
            "config key targets: target 'code' is both in sets and in tasks; choose another name.",
        ),
        (
            "tasks",
            {"arc": {"path": "x.jsonl", "loss": "both"}},
            "config key targets.tasks.arc.loss: Input should be 'answer' or 'full' (found 'both').",
        ),
        (
            "target_groups",
            {"all": ["code"]},
            "config: target_groups: 'letters' stands in no group; put each of code, letters in "
            "exactly one group.",
        ),
    ],
)
def test_bad_settings_are_refused(
    key: str,
    value: dict[str, object],
    message: str,
    settings: dict[str, Any],
    write_config: Callable[[Path, Mapping[str, object]], Path],
    tmp_path: Path,
    cuvee: Callable[..., Any],
) -> None:
    """Names and choices are checked at the door."""
    (settings if key == "target_groups" else settings["targets"])[key] = value
    config = write_config(tmp_path / "tiny.yaml", settings)
    ended = cuvee("run", "regmix", config, "--out", tmp_path / "out", "-q")
    assert ended.stderr == f"cuvee: {message}\n"
    assert ended.status == 1
