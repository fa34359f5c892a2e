"""Near-duplicates: planted ones are found, others are not, and files decide nothing."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from cuvee import artifacts
from cuvee.corpus.minhash import NearDuplicatesConfig
from cuvee.corpus.near_duplicates import (
    EXCLUDE,
    LABELS,
    SUMMARY,
    find_near_duplicates,
    unique_shares,
)
from cuvee.corpus.pool import PoolConfig
from cuvee.errors import ArtifactError, ConfigError, DataError, MissingDependencyError

N_WORDS, N_GROUPS = 200, 20
Record = dict[str, str]


def _text(rng: np.random.Generator) -> list[str]:
    return [f"w{number}" for number in rng.integers(0, 5000, N_WORDS).tolist()]


def _with_changes(words: Sequence[str], n_changes: int, rng: np.random.Generator) -> list[str]:
    """Replace words spread out: each spoils five runs, so the shares fall in a known way."""
    changed = list(words)
    for place in (np.arange(n_changes) * (N_WORDS // max(n_changes, 1)) + 7).tolist():
        changed[place] = f"x{rng.integers(10**6)}"
    return changed


def _planted() -> tuple[list[Record], set[frozenset[str]]]:
    """Make documents, some with two near copies (share 0.9) and an exact one, some far (0.4)."""
    rng = np.random.default_rng(0)
    records, groups = [], set()
    for group in range(N_GROUPS):
        words = _text(rng)
        near = [words, _with_changes(words, 2, rng), _with_changes(words, 2, rng), words]
        names = [f"g{group}-{number}" for number in range(4)]
        domain = "a" if group % 2 else "b"
        for name, own in zip(names, near, strict=True):
            records.append({"id": name, "domain": domain, "text": " ".join(own)})
        far = " ".join(_with_changes(words, 17, rng))
        records.append({"id": f"far{group}", "domain": domain, "text": far})
        groups.add(frozenset(names))
    records += [{"id": f"s{n}", "domain": "a", "text": f"short text {n}"} for n in range(10)]
    return records, groups


def _write(folder: Path, records: Sequence[Record], n_shards: int) -> PoolConfig:
    folder.mkdir()
    for number in range(n_shards):
        lines = [json.dumps(one) + "\n" for one in records[number::n_shards]]
        (folder / f"{number}.jsonl").write_text("".join(lines), encoding="utf-8")
    return PoolConfig(shards=(str(folder),))


def _labels(found: Path) -> dict[str, tuple[int, int, bool]]:
    rows = [row for path in (found / LABELS).iterdir() for row in pq.read_table(path).to_pylist()]
    return {row["id"]: (row["n_exact"], row["n_near"], row["is_first"]) for row in rows}


def _find(pool: PoolConfig, out: Path, **settings: Any) -> Path:
    pytest.importorskip("datasketch")
    return find_near_duplicates(pool, out, settings=NearDuplicatesConfig(**settings), workers=0)


def test_planted_groups_are_found_and_nothing_else(tmp_path: Path) -> None:
    """Copies of share 0.9 are grouped, texts of share 0.4 and unlike ones are not."""
    records, groups = _planted()
    labels = _labels(_find(_write(tmp_path / "pool", records, 3), tmp_path / "out"))
    assert len(labels) == len(records)
    for group in groups:
        assert {labels[name][1] for name in group} == {4}
        assert sorted(labels[name][0] for name in group) == [1, 1, 2, 2]
        assert sum(labels[name][2] for name in group) == 1
    alone = {name for name in labels if not any(name in group for group in groups)}
    assert {labels[name] for name in alone} == {(1, 1, True)}


def test_files_and_their_order_decide_nothing(tmp_path: Path) -> None:
    """Another layout of the same documents gives the same counts, firsts and summary."""
    records, _ = _planted()
    one = _find(_write(tmp_path / "one", records, 1), tmp_path / "out-1")
    many = _find(_write(tmp_path / "many", records[::-1], 7), tmp_path / "out-7")
    assert _labels(one) == _labels(many)
    assert artifacts.read_json(one / SUMMARY) == artifacts.read_json(many / SUMMARY)


def test_unique_shares_count_each_group_once(tmp_path: Path) -> None:
    """A domain's share is the sum of bytes over group sizes; exclude names all but the first."""
    records, _ = _planted()
    found = _find(_write(tmp_path / "pool", records, 2), tmp_path / "out")
    labels = _labels(found)
    shares = unique_shares(tmp_path / "out")
    for domain in ("a", "b"):
        own = [one for one in records if one["domain"] == domain]
        unique = sum(len(one["text"]) / labels[one["id"]][1] for one in own)
        expected = unique / sum(len(one["text"]) for one in own)
        assert shares[domain] == pytest.approx(expected, abs=1e-8)
    ids = pq.read_table(found / EXCLUDE)["id"].to_pylist()
    assert sorted(ids) == sorted(name for name, one in labels.items() if not one[2])


def test_a_stopped_count_goes_on(tmp_path: Path) -> None:
    """Finished shards are not signed again; what follows is the same."""
    records, _ = _planted()
    pool = _write(tmp_path / "pool", records, 3)
    found = _find(pool, tmp_path / "out")
    before = artifacts.digest_of(found)
    parts = sorted((tmp_path / "out" / "parts").iterdir())
    kept = parts[0] / artifacts.DONE
    age = kept.stat().st_mtime_ns
    for one in (found, parts[1]):
        for path in sorted(one.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        one.rmdir()
    assert artifacts.digest_of(_find(pool, tmp_path / "out")) == before
    assert kept.stat().st_mtime_ns == age
    with pytest.raises(ArtifactError, match="threshold changed since"):
        _find(pool, tmp_path / "out", threshold=0.5)


def test_what_cannot_be_counted_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings out of range, a pool without documents, and a missing library."""
    for settings, message in (
        ({"threshold": 1.0}, "threshold is 1"),
        ({"n": 0}, "n is 0 words"),
        ({"n_hashes": 8}, "n_hashes is 8"),
    ):
        with pytest.raises(ConfigError, match=message):
            NearDuplicatesConfig(**settings)  # type: ignore[arg-type]
    empty = _write(tmp_path / "empty", [], 1)
    with pytest.raises(DataError, match="no documents"):
        _find(empty, tmp_path / "out")
    monkeypatch.setitem(__import__("sys").modules, "datasketch", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'cuvee\[duplicates\]'"):
        find_near_duplicates(empty, tmp_path / "other", settings=NearDuplicatesConfig(), workers=0)


def test_epoch_limits_count_unique_tokens(tmp_path: Path, cuvee: Callable[..., Any]) -> None:
    """The verb's folder in a config lowers the epochs of domains full of copies."""
    pytest.importorskip("datasketch")
    from cuvee.methods import chain
    from cuvee.methods.job import Job
    from cuvee.methods.regmix import load_config

    records, _ = _planted()
    _write(tmp_path / "pool", records, 2)
    out = tmp_path / "duplicates"
    settings = {
        "pool": {"shards": [str(tmp_path / "pool")], "validation_share": 0.2},
        "tokens": {"vocabulary_size": 300, "sample_bytes": 10_000},
        "proxy": {"context": 32, "batch_tokens": 256, "n_tokens": 4096, "learning_rate": 1e-3},
        "validate": {"size": "0.2m", "n_tokens": 4096, "learning_rate": 1e-3},
        "target_tokens": 8192,
        "max_epochs": 4.0,
        "duplicates": str(out),
    }
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    ended = cuvee("duplicates", config, "--out", out, "--workers", 0, "-q")
    assert ended.status == 0, ended.stderr
    assert "20 groups of near-duplicates among 110 documents, the largest of 4." in ended.stdout
    run = tmp_path / "run"
    assert cuvee("label", config, "--out", run, "--workers", 0, "-q").status == 0
    loaded = load_config(config)
    prepared = chain.open_stores(loaded, Job(out=run, workers=0))
    shares = unique_shares(out)
    limits = chain.epoch_limits(loaded, prepared)
    assert limits.tolist() == pytest.approx([4.0 * shares["a"], 4.0 * shares["b"]])
    assert limits[1] < limits[0] < 2.5
