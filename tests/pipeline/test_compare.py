"""`cuvee compare` on the tiny pool: one preparation, two methods, one judging, resumed."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from cuvee.proxy.sizes import model_size

pytestmark = pytest.mark.timeout(900)

QUAD: Mapping[str, object] = {
    "method": "quad",
    "proxy": {"repetition_matched": False},
    "base": {"n_tokens": 2048},
    "clusters": {
        "n_clusters": 6,
        "min_documents": 4,
        "embedding": {"n_dimensions": 8, "n_features": 1024},
    },
    "influence": {
        "factor_tokens": 600,
        "refine_tokens": 200,
        "reference_tokens": 400,
        "document_tokens": 32,
        "steps": 1,
        "curvature": "auto",
    },
    "check": {"n_clusters": 4, "n_tokens": 512, "n_seeds": 1, "n_probes": 3},
    "bandit": {"n_probes": 3, "n_arms": 2, "n_refreshes": 1},
}


def _comparison(settings: dict[str, object]) -> dict[str, object]:
    for name in ("design", "search"):
        del settings[name]
    short = {"n_tokens": 4096, "points": [1.0]}
    cast(dict[str, object], settings["proxy"]).update({"size": "0.03m", **short})
    cast(dict[str, object], settings["validate"]).update(
        {"size": "0.05m", "mixtures": {"by-hand": {"code": 0.5, "letters": 0.5}}, **short}
    )
    settings["methods"] = {
        "regmix": {
            "method": "regmix",
            "design": {"n_runs": 8, "oversample": 20},
            "fit": {"model": "linear"},
            "search": {"solver": "simulate", "n_simulated": 500, "n_best": 8},
        },
        "quad": dict(QUAD),
    }
    settings["baselines"] = ["natural", "uniform", "regmix.best-sampled", "quad.random"]
    return settings


def test_all_answers_are_judged_together(
    settings: dict[str, object],
    tmp_path: Path,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    contents: Callable[[Path], dict[str, str]],
    cuvee: Callable[..., Any],
) -> None:
    """One pool, paired runs of equal length, stated costs; resumed it ends in the same bytes."""
    config = write_config(tmp_path / "compare.yaml", _comparison(settings))
    out = tmp_path / "out"
    command = ("compare", config, "--out", out, "--workers", 0)
    ended = cuvee(*command, "-q")
    assert ended.status == 0, ended.stderr
    told = json.loads((out / "comparison" / "comparison.json").read_text(encoding="utf-8"))
    names = [one["name"] for one in told["contenders"]]
    assert names == [
        *("regmix", "quad"),
        *("natural", "uniform", "regmix.best-sampled", "quad.random", "by-hand"),
    ]
    _check_runs(out, names)
    _check_costs(out, {one["name"]: one for one in told["contenders"]})
    assert told["sentence"] in ended.stdout.replace("\\", "")
    tables = told["ranking"]["tables"]
    assert [table["target"] for table in tables] == ["total", "code", "letters"]
    for table in tables:
        means = [row["mean_bpb"] for row in table["rows"]]
        assert means == sorted(means)
        assert sorted(row["name"] for row in table["rows"]) == sorted(names)
    total = {row["name"]: row["mean_bpb"] for row in tables[0]["rows"]}
    parts = [{row["name"]: row["mean_bpb"] for row in table["rows"]} for table in tables[1:]]
    for name in names:
        assert total[name] == pytest.approx(np.mean([one[name] for one in parts]))
    shared, own = out / "tokens" / "summary.json", out / "methods" / "quad" / "tokens"
    assert (own / "summary.json").samefile(shared)
    before = contents(out)
    shutil.rmtree(out / "comparison")
    shutil.rmtree(out / "validation" / "quad-seed1")
    shutil.rmtree(out / "methods" / "regmix" / "optimum")
    shutil.rmtree(out / "methods" / "quad" / "tokens")
    again = cuvee(*command, "--json")
    assert again.status == 0, again.stderr
    assert json.loads(again.stdout) == told
    assert contents(out) == before
    other = cuvee(*command, "-q", "--set", "methods.regmix.design.n_runs=9")
    assert other.status == 1
    assert "different keys: methods.regmix.design.n_runs" in other.stderr


def test_the_plan_counts_searches_once_and_the_judging_once(
    settings: dict[str, object],
    tmp_path: Path,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    cuvee: Callable[..., Any],
) -> None:
    """No method's own verdict is planned; seven contenders of two seeds are; nothing is written."""
    config = write_config(tmp_path / "compare.yaml", _comparison(settings))
    command = ("compare", config, "--out", tmp_path / "out", "--workers", 0, "--dry-run")
    plan = json.loads(cuvee(*command, "--json").stdout)
    assert {part["name"]: part["n_runs"] for part in plan["parts"]} == {
        "regmix: sweep 0.03m": 8,
        "quad: base": 1,
        "quad: influence check": 4,
        "quad: refresh": 1,
        "validate 0.05m": 14,
    }
    assert plan["total"]["n_runs"] == 28
    assert plan["total"]["flops"] == sum(part["flops"] for part in plan["parts"])
    assert not (tmp_path / "out").exists()


def _check_runs(out: Path, names: list[str]) -> None:
    """Every contender has a run of each seed: same size, tokens, rate and initial weights."""
    specs = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((out / "validation").glob("*/spec.json"))
    }
    assert sorted(specs) == sorted(f"{name}-seed{k}" for name in names for k in range(2))
    for number in range(2):
        same = [specs[f"{name}-seed{number}"] for name in names]
        for key in ("seed", "size", "n_sequences", "learning_rate", "half", "subset_tokens"):
            assert len({json.dumps(spec[key]) for spec in same}) == 1, key
        assert same[0]["half"] == "verdict"
    assert specs["natural-seed0"]["seed"] != specs["natural-seed1"]["seed"]
    weights = json.loads((out / "validation" / "by-hand-seed0" / "result.json").read_text())
    assert weights["weights"]["animals"] == 0.0


def _check_costs(out: Path, found: Mapping[str, Mapping[str, Any]]) -> None:
    """FLOPs are those of the runs in a method's folder; baselines cost none."""
    summary = json.loads((out / "tokens" / "summary.json").read_text(encoding="utf-8"))
    per_token = model_size("0.03m").flops_per_token(summary["vocabulary_size"], 32)
    assert found["regmix"]["n_runs"] == 8
    assert found["regmix"]["trained_tokens"] == 8 * 4096
    assert found["regmix"]["flops"] == 8 * 4096 * per_token
    assert found["regmix.best-sampled"]["flops"] == found["regmix"]["flops"]
    quad = out / "methods" / "quad"
    assert found["quad"]["n_runs"] == 1 + 4 + 1
    assert found["quad"]["trained_tokens"] > 2048 + 4 * 512
    (check,) = [json.loads(path.read_text()) for path in quad.glob("*/*/result/check.json")]
    assert found["quad"]["n_scored"] > check["n_documents"] == 4 * 3
    directions = 0
    for folder in (quad / "influence", quad / "estimates" / "001" / "influence"):
        about = json.loads((folder / "influence.json").read_text())
        directions += sum(part["tokens"] for name, part in about.items() if name != "choice")
    read = found["quad"]["flops"] / per_token - found["quad"]["trained_tokens"]
    assert read > check["n_tokens"] + directions > 2 * 400
    for name in ("natural", "uniform", "quad.random", "by-hand"):
        assert found[name]["flops"] == 0
        assert found[name]["n_runs"] == 0
    assert found["natural"]["shares"].keys() == found["quad"]["shares"].keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": {}}, "methods is empty"),
        ({"methods": {"a": {"design": {}}}}, "methods.a.method is 'none'; allowed: regmix"),
        ({"methods": {"a": {"method": "continual"}}}, "methods.a.method is 'continual'"),
        ({"methods": {"a/b": {"method": "regmix"}}}, "method name 'a/b' cannot be"),
        (
            {"methods": {"a": {"method": "regmix", "pool": {"shards": ["x"]}}}},
            "methods.a.pool is set, but all methods share it",
        ),
        (
            {"methods": {"a": {"method": "regmix", "clusters": {}}}, "baselines": ["natural"]},
            "methods.a: config key clusters is unknown",
        ),
        ({"baselines": ["natural", "human"]}, "baseline 'human' is unknown"),
        ({"baselines": ["quad.best-sampled"]}, "has no rival 'best-sampled'; it has random, unif"),
        ({"baselines": ["natural", "natural"]}, "'natural' is the name of two contenders"),
        ({"search": {"bounds": {"code": [0, 0.5]}}}, "methods.quad: quad does not heed search"),
        ({"targets": None}, "methods.quad: config key targets"),
    ],
)
def test_bad_settings_are_refused(
    change: dict[str, object],
    message: str,
    settings: dict[str, object],
    tmp_path: Path,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    cuvee: Callable[..., Any],
) -> None:
    """One clear message that names the method, before anything is made."""
    config = write_config(tmp_path / "bad.yaml", {**_comparison(settings), **change})
    ended = cuvee("compare", config, "--out", tmp_path / "out", "--workers", 0, "-q")
    assert ended.status == 1
    assert message in " ".join(ended.stderr.split())
    assert not (tmp_path / "out").exists()
