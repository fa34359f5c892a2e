"""Quad's other ways through the command line: chosen curvature, newer checkpoints, own clusters."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from .conftest import tiny_quad

pytestmark = pytest.mark.timeout(900)


def test_the_curvature_is_chosen_by_short_training(
    settings: dict[str, object],
    tmp_path: Path,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    cuvee: Callable[..., Any],
) -> None:
    """What was chosen is recorded with what it was compared with, and used; again, the same."""
    tiny = tiny_quad(settings)
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
    assert {"all/none", "all/diagonal 0.1", "all/refined 1"} <= set(names)
    assert not [name for name in names if not name.startswith("all/")]
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
    tiny = tiny_quad(settings)
    tiny["bandit"] = {"n_probes": 3, "n_arms": 2, "n_refreshes": 1}
    tiny["rivals"] = ["random"]
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
    ended = cuvee("run", "quad", config, "--out", out, "--workers", 0, "-q")
    assert ended.status == 0, ended.stderr
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Times influence was estimated anew" in page


def test_clusters_can_be_those_of_the_models_own_states(
    settings: dict[str, object],
    tmp_path: Path,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    cuvee: Callable[..., Any],
) -> None:
    """The base is trained first, every document has a cluster, and languages come apart."""
    tiny = tiny_quad(settings)
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
