"""Quad through the command line on the tiny pool: clusters to verdict, killed between rounds."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from cuvee.methods.influence_criterion import scored_documents

pytestmark = pytest.mark.timeout(900)


def _tiny(settings: dict[str, object]) -> dict[str, object]:
    for name in ("design", "search", "max_epochs", "domain_epochs", "fit"):
        settings.pop(name, None)
    proxy = cast(dict[str, object], settings["proxy"])
    proxy.update({"size": "0.03m", "repetition_matched": False})
    proxy.pop("min_subset_tokens", None)
    cast(dict[str, object], settings["validate"]).update({"n_seeds": 1, "size": "0.03m"})
    settings["target_tokens"] = 6000
    settings["base"] = {"n_tokens": 4096}
    settings["clusters"] = {
        "n_clusters": 6,
        "min_documents": 4,
        "embedding": {"n_dimensions": 8, "n_features": 1024},
    }
    settings["influence"] = {
        "factor_tokens": 600,
        "refine_tokens": 200,
        "reference_tokens": 400,
        "document_tokens": 32,
        "steps": 1,
    }
    settings["bandit"] = {"n_probes": 3, "n_arms": 2}
    settings["rivals"] = ["random", "top-influence"]
    return settings


def test_the_chain_ends_in_a_verdict_and_a_report(
    settings: dict[str, object],
    tmp_path: Path,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    cuvee: Callable[..., Any],
) -> None:
    """All stages; the budget met within a document; from any round on it goes the same way."""
    config = write_config(tmp_path / "quad.yaml", _tiny(settings))
    out = tmp_path / "out"
    ended = cuvee("run", "quad", config, "--out", out, "--workers", 0, "-q")
    assert ended.status == 0, ended.stderr
    copies = np.load(out / "optimum" / "copies.npy")
    shards = sorted((out / "tokens").glob("0*/documents.parquet"))
    n_tokens = np.concatenate([pq.read_table(one)["n_tokens"].to_numpy() for one in shards])
    side = np.concatenate([pq.read_table(one)["side"].to_numpy() for one in shards])
    taken = int((copies * n_tokens).sum())
    assert 6000 <= taken < 6000 + n_tokens[copies > 0].max()
    assert not copies[side == 1].any()
    lineage = pq.read_table(out / "selection" / "lineage.parquet")
    assert lineage.num_rows == int((copies > 0).sum())
    rounds = sorted((out / "rounds").iterdir())
    last = json.loads((rounds[-1] / "round.json").read_text(encoding="utf-8"))
    assert last["total_tokens"] == taken
    verdict = (out / "verdict" / "verdict.json").read_text(encoding="utf-8")
    assert "top-influence" in verdict
    assert "random" in verdict
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<h2>Clusters</h2>" in page
    again = cuvee("run", "quad", config, "--out", out, "--workers", 0, "-q")
    assert again.stdout == ended.stdout
    scored = cuvee("influence", "score", config, "--out", out, "--workers", 0, "--json")
    told = json.loads(scored.stdout)
    assert told["n_documents"] == len(copies)
    assert told["quantiles"]["0.0"] < told["quantiles"]["1.0"]
    options = ("--clusters", 4, "--tokens", 512, "--seeds", 1, "--probes", 3)
    checked = cuvee("influence", "check", config, "--out", out, *options, "--workers", 0, "-q")
    assert checked.status == 0, checked.stderr
    assert "attention/refined 0.1" in checked.stdout
    assert "attention/diagonal 0.1" in checked.stdout
    cuvee("influence", "check", config, "--out", out, *options[:-1], 2, "--workers", 0, "-q")
    assert len(list((out / "influence-check").iterdir())) == 2
    shutil.rmtree(out / "optimum")
    for path in rounds[len(rounds) // 2 :]:
        shutil.rmtree(path)
    assert len(scored_documents(out)[0]) == len(copies)
    column = pa.concat_tables([pq.read_table(p) for p in (out / "labels/influence").glob("*.pa*")])
    truth = dict(zip(column["key"].to_pylist(), column["score"].to_pylist(), strict=True))
    shutil.rmtree(out / "labels" / "influence")
    keys, scores = scored_documents(out)
    assert 10 < len(keys) < len(truth)
    np.testing.assert_allclose(scores, [truth[key] for key in keys.tolist()], rtol=1e-5)
    resumed = cuvee("search", config, "--method", "quad", "--out", out, "--workers", 0, "-q")
    assert resumed.status == 0, resumed.stderr
    np.testing.assert_array_equal(np.load(out / "optimum" / "copies.npy"), copies)


def test_the_curvature_is_chosen_by_short_training(
    settings: dict[str, object],
    tmp_path: Path,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    cuvee: Callable[..., Any],
) -> None:
    """What was chosen is recorded with what it was compared with, and used; again, the same."""
    tiny = _tiny(settings)
    cast(dict[str, object], tiny["influence"])["curvature"] = "auto"
    tiny["check"] = {"n_clusters": 4, "n_tokens": 512, "n_seeds": 1, "n_probes": 3}
    config = write_config(tmp_path / "quad.yaml", tiny)
    out = tmp_path / "out"

    def fit() -> dict[str, Any]:
        for stage in ("label", "fit"):
            ended = cuvee(stage, config, "--method", "quad", "--out", out, "--workers", 0, "-q")
            assert ended.status == 0, ended.stderr
        about = json.loads((out / "influence" / "influence.json").read_text(encoding="utf-8"))
        return cast(dict[str, Any], about)

    about = fit()
    names = [one["name"] for one in about["choice"]["compared"]]
    assert about["choice"]["chosen"] in names
    assert {"attention/none", "attention/diagonal 0.1", "attention/refined 1"} <= set(names)
    assert not [name for name in names if not name.startswith("attention/")]
    (result,) = (out / "influence-check").iterdir()
    written = (result / "runs").stat().st_mtime_ns
    direction = load_file(out / "influence" / "direction.safetensors")
    kind = about["choice"]["chosen"].partition("/")[2].partition(" ")[0]
    assert (out / "influence" / "factors.safetensors").exists() == (kind != "none")
    shutil.rmtree(out / "influence")
    assert fit() == about
    again = load_file(out / "influence" / "direction.safetensors")
    assert all(np.array_equal(again[name], values) for name, values in direction.items())
    assert (result / "runs").stat().st_mtime_ns == written


def test_a_refreshed_search_goes_on_where_it_was_killed(
    settings: dict[str, object],
    tmp_path: Path,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    cuvee: Callable[..., Any],
) -> None:
    """A newer checkpoint halfway, its direction another; killed before and after it, the same."""
    tiny = _tiny(settings)
    tiny["bandit"] = {"n_probes": 3, "n_arms": 2, "n_refreshes": 1}
    config = write_config(tmp_path / "quad.yaml", tiny)
    out = tmp_path / "out"

    def search(*stages: str) -> list[dict[str, Any]]:
        for stage in (*stages, "search"):
            ended = cuvee(stage, config, "--method", "quad", "--out", out, "--workers", 0, "-q")
            assert ended.status == 0, ended.stderr
        files = [path / "round.json" for path in sorted((out / "rounds").iterdir())]
        return [json.loads(path.read_text(encoding="utf-8")) for path in files]

    rounds = search("label", "fit")
    copies = np.load(out / "optimum" / "copies.npy")
    estimates = [one["estimate"] for one in rounds]
    assert set(estimates) == {0, 1}
    folder = out / "estimates" / "001"
    first = load_file(out / "influence" / "direction.safetensors")
    anew = load_file(folder / "influence" / "direction.safetensors")
    assert not any(np.allclose(first[name], anew[name]) for name in first)
    taken = np.load(folder / "copies.npy")
    assert 0 < taken.sum() < copies.sum()
    assert not (taken > copies).any()
    played = sorted((out / "rounds").iterdir())
    for kept, lost in ((len(rounds) - 1, None), (estimates.index(1), "influence"), (1, ".")):
        shutil.rmtree(out / "optimum")
        for path in played[kept:]:
            shutil.rmtree(path)
        if lost is not None:
            shutil.rmtree(folder / lost)
        assert search() == rounds
        np.testing.assert_array_equal(np.load(out / "optimum" / "copies.npy"), copies)


def test_clusters_can_be_those_of_the_models_own_states(
    settings: dict[str, object],
    tmp_path: Path,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    cuvee: Callable[..., Any],
) -> None:
    """The base is trained first, every document has a cluster, and languages come apart."""
    tiny = _tiny(settings)
    cast(dict[str, object], tiny["clusters"])["embedding"] = {"kind": "proxy"}
    config = write_config(tmp_path / "quad.yaml", tiny)
    out = tmp_path / "out"
    for _ in range(2):
        ended = cuvee("label", config, "--method", "quad", "--out", out, "--workers", 0, "-q")
        assert ended.status == 0, ended.stderr
    assert (out / "base" / "base" / "model.safetensors").exists()
    shares = []
    for path in sorted((out / "labels" / "cluster").glob("*.parquet")):
        counts = np.bincount(pq.read_table(path)["cluster"].to_numpy(), minlength=6)
        shares.append(counts / counts.sum())
    overlap = np.minimum(shares[0], shares[-1]).sum()
    assert overlap < 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": None}, "targets"),
        ({"validate": {"size": "0.1m", "n_tokens": 4096}}, "so they must be equal"),
        ({"influence": {"curvature": "none"}}, "set steps to 0"),
        ({"rivals": ["best"]}, "rivals.0"),
        ({"bandit": {"take_share": 2.0}}, "must lie in (0, 1]"),
        ({"base": {"mixture": {"news": 1.0}}}, "'news', which is not a domain"),
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
    """One clear message; stages that a method does not have are named."""
    config = write_config(tmp_path / "bad.yaml", {**_tiny(settings), **change})
    ended = cuvee("run", "quad", config, "--out", tmp_path / "out", "--workers", 0, "-q")
    assert ended.status == 1
    assert message in " ".join(ended.stderr.split())
    none = cuvee("design", config, "--method", "quad", "--out", tmp_path / "out", "-q")
    assert none.status == 1
    assert "has no stage 'design'" in none.stderr
