"""`cuvee overlap` from a config file, and `pool.exclude` with what it has written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cuvee.corpus.pool import PoolConfig
from cuvee.corpus.scan import scan_pool


def _records(n: int, seed: int) -> list[dict[str, str]]:
    rng = np.random.default_rng(seed)
    return [
        {
            "id": f"{seed}-{place}",
            "text": " ".join(f"w{word}" for word in rng.integers(2000, size=40)),
            "domain": "web",
        }
        for place in range(n)
    ]


def _write(path: Path, records: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return str(path)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Write a config whose pool holds one document of each of two target sets."""
    pool, exam, quiz = _records(50, 1), _records(20, 2), _records(20, 3)
    pool[4]["text"] = f"{pool[4]['text']} {exam[3]['text'].upper()}"
    pool[9]["text"] = quiz[5]["text"]
    quiz = [{"id": one["id"], "question": one["text"]} for one in quiz]
    settings = {
        "pool": {"shards": [_write(tmp_path / "pool.jsonl", pool)]},
        "targets": {"sets": {"exam": {"shards": [_write(tmp_path / "exam.jsonl", exam)]}}},
        "proxy": {"size": "1m"},
    }
    _write(tmp_path / "quiz.jsonl", quiz)
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def test_overlap_is_found_told_and_left_out(
    config: Path, tmp_path: Path, cuvee: Callable[..., Any]
) -> None:
    """Targets of the config and of the command line; the list it names is one for the pool."""
    quiz = f"quiz={tmp_path / 'quiz.jsonl'}"
    arguments = ("overlap", config, "--target", quiz, "--text", "question", "--workers", 0)
    ended = cuvee(*arguments, "--out", tmp_path / "out", "-q")
    assert ended.status == 0, ended.stderr
    assert "2 of 50 documents share a run of words with a target set (4.000%)" in ended.stdout
    assert "exam: 28 of its 560 runs stand in the pool (5.000%)." in ended.stdout
    listing = tmp_path / "out" / "found" / "exclude.parquet"
    assert f"pool.exclude: [{listing}]" in ended.stdout
    kept = PoolConfig(shards=(str(tmp_path / "pool.jsonl"),), exclude=(str(listing),))
    assert scan_pool(kept, tmp_path / "run", seed=1, workers=0).n_excluded == 2
    again = cuvee(*arguments, "--out", tmp_path / "out", "--json")
    assert json.loads(again.stdout)["targets"]["quiz"] == {"runs": 560, "runs_found": 28}


def test_wrong_use_is_told(config: Path, tmp_path: Path, cuvee: Callable[..., Any]) -> None:
    """A name given twice, a misspelt section, nothing to compare with."""
    out = ("--out", tmp_path / "out", "--workers", 0, "-q")
    ended = cuvee("overlap", config, "--target", f"exam={tmp_path}", *out)
    assert (ended.status, ended.stderr) == (
        1,
        "cuvee: target 'exam' is in the config too; give another name.\n",
    )
    ended = cuvee("overlap", config, "--set", "pool.shard=x", *out)
    assert ended.status == 1
    assert "config key pool.shard is unknown" in ended.stderr
    ended = cuvee("overlap", config, "--set", "targets=null", *out)
    assert ended.status == 1
    assert "there are no target sets to compare the pool with" in ended.stderr
    assert not (tmp_path / "out").exists()
