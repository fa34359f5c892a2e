"""Quad through the command line on the tiny pool: clusters to verdict, killed between rounds."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cuvee.methods.influence_criterion import scored_documents

from .conftest import tiny_quad

pytestmark = pytest.mark.timeout(900)


def test_the_chain_ends_in_a_verdict_and_a_report(
    settings: dict[str, object],
    tmp_path: Path,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    cuvee: Callable[..., Any],
) -> None:
    """All stages; the budget met within a document; from any round on it goes the same way."""
    config = write_config(tmp_path / "quad.yaml", tiny_quad(settings))
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
    config = write_config(tmp_path / "bad.yaml", {**tiny_quad(settings), **change})
    ended = cuvee("run", "quad", config, "--out", tmp_path / "out", "--workers", 0, "-q")
    assert ended.status == 1
    assert message in " ".join(ended.stderr.split())
    none = cuvee("design", config, "--method", "quad", "--out", tmp_path / "out", "-q")
    assert none.status == 1
    assert "has no stage 'design'" in none.stderr
