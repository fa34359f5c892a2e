"""Overlap of a pool with target sets: everything planted is found, and nothing else."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cuvee import artifacts
from cuvee.corpus import run_table
from cuvee.corpus.overlap import OverlapConfig, find_overlap
from cuvee.corpus.pool import PoolConfig
from cuvee.corpus.run_table import make_table
from cuvee.corpus.scan import scan_pool
from cuvee.errors import ArtifactError, ConfigError, DataError

_VOCABULARY = 3000


def _text(rng: np.random.Generator, n_words: int) -> str:
    return " ".join(f"w{word}" for word in rng.integers(_VOCABULARY, size=n_words))


def _write(path: Path, records: Sequence[Mapping[str, str]]) -> PoolConfig:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(one) + "\n" for one in records)
    path.write_text(lines, encoding="utf-8")
    return PoolConfig(shards=(str(path.parent),), max_reject_share=1.0)


def _planted(root: Path) -> tuple[PoolConfig, dict[str, PoolConfig], dict[tuple[str, str], int]]:
    """Write a pool in which texts of two targets stand, with other marks and case.

    Returns:
        The pool, the targets, and by document and target the runs of 13 words planted.
    """
    rng = np.random.default_rng(0)
    exam = [_text(rng, 60) for _ in range(30)]
    quiz = [_text(rng, int(n)) for n in rng.integers(14, 40, size=30)]
    records, planted = [], {}
    for place in range(600):
        words = _text(rng, int(rng.integers(5, 400))).split()
        name = f"doc-{place}"
        if place % 20 == 0:
            length = 13 + place // 20 % 30
            taken = exam[place // 20].split()[:length]
            marked = [f"({word.upper()})," for word in taken]
            middle = len(words) // 2
            words = [*words[:middle], *marked, *words[middle:]]
            planted[name, "exam"] = length - 12
        if place % 20 == 7:
            words += [*quiz[place // 20].split(), "\u2014\u00e9t\u00e9"]
            planted[name, "quiz"] = len(quiz[place // 20].split()) - 12
        if place % 20 == 9:  # twelve words are no run
            words += exam[place // 20].split()[20:32]
        records.append({"id": name, "text": " ".join(words), "domain": f"d{place % 3}"})
    pool = _write(root / "pool" / "a.jsonl", records[:250])
    _write(root / "pool" / "b.jsonl", records[250:])
    targets = {
        name: _write(root / name / "t.jsonl", [{"id": f"{k}", "text": t} for k, t in enumerate(ts)])
        for name, ts in (("exam", exam), ("quiz", quiz))
    }
    return pool, targets, planted


def test_everything_planted_is_found_and_nothing_else(tmp_path: Path) -> None:
    """Each document, target and number of runs; the list of ids leaves exactly these out."""
    pool, targets, planted = _planted(tmp_path)
    folder = find_overlap(pool, targets, tmp_path / "out", settings=OverlapConfig(), workers=0)
    rows = pq.read_table(folder / "documents.parquet").to_pylist()
    assert {(row["id"], row["target"]): row["n_matching"] for row in rows} == planted
    for row in rows:
        assert row["share"] == pytest.approx(row["n_matching"] / row["n_runs"])
        assert row["domain"] == f"d{int(row['id'].split('-')[1]) % 3}"
    listed = pq.read_table(folder / "exclude.parquet")["id"].to_pylist()
    assert listed == sorted({name for name, _ in planted})
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert summary["n_documents"] == 600
    assert summary["n_overlapping"] == summary["n_excluded"] == len(listed)
    assert sum(one["documents"] for one in summary["overlaps"]) == len(planted)
    assert summary["targets"]["exam"]["runs"] == 30 * 48
    n_exam = sum(n for (_, target), n in planted.items() if target == "exam")
    assert summary["targets"]["exam"]["runs_found"] == n_exam
    kept = PoolConfig(shards=pool.shards, exclude=(str(folder / "exclude.parquet"),))
    assert scan_pool(kept, tmp_path / "run", seed=1, workers=0).n_excluded == len(listed)


def test_only_documents_above_both_bounds_are_listed(tmp_path: Path) -> None:
    """The documents found are the same; the list is shorter."""
    pool, targets, planted = _planted(tmp_path)
    settings = OverlapConfig(min_runs=10, min_share=0.05)
    folder = find_overlap(pool, targets, tmp_path / "out", settings=settings, workers=0)
    rows = pq.read_table(folder / "documents.parquet").to_pylist()
    assert len(rows) == len(planted)
    expected = {row["id"] for row in rows if row["n_matching"] >= 10 and row["share"] >= 0.05}
    assert 0 < len(expected) < len(planted)
    assert set(pq.read_table(folder / "exclude.parquet")["id"].to_pylist()) == expected


def test_short_targets_match_as_a_whole(tmp_path: Path) -> None:
    """Of 8 to 12 words within a document, of fewer as a document of their own only."""
    texts = {
        "ten": "alpha beta gamma delta epsilon zeta eta theta iota kappa",
        "four": "red green blue yellow",
    }
    target = _write(tmp_path / "t" / "t.jsonl", [{"id": k, "text": v} for k, v in texts.items()])
    pool = _write(
        tmp_path / "pool" / "p.jsonl",
        [
            {"id": "holds-ten", "text": f"before {texts['ten']} after", "domain": "a"},
            {"id": "part-of-ten", "text": texts["ten"].rsplit(" ", 1)[0], "domain": "a"},
            {"id": "is-four", "text": "Red, green, blue: yellow!", "domain": "a"},
            {"id": "holds-four", "text": f"before {texts['four']}", "domain": "a"},
        ],
    )
    folder = find_overlap(
        pool, {"short": target}, tmp_path / "out", settings=OverlapConfig(), workers=0
    )
    rows = pq.read_table(folder / "documents.parquet").to_pylist()
    assert {row["id"]: (row["n_matching"], row["n_short"]) for row in rows} == {
        "holds-ten": (0, 1),
        "is-four": (0, 1),
    }


def test_rows_that_cannot_be_read_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of the pool in the summary; of a target by a warning, since it is not looked for."""
    rng = np.random.default_rng(1)
    sound = {"id": "a", "text": _text(rng, 20), "domain": "web"}
    pool = _write(tmp_path / "p" / "p.jsonl", [sound, {"id": "b"}])
    target = _write(tmp_path / "t" / "t.jsonl", [sound, {"id": "b", "text": " "}])
    folder = find_overlap(
        pool, {"exam": target}, tmp_path / "out", settings=OverlapConfig(), workers=0
    )
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert (summary["n_documents"], summary["n_rejects"], summary["n_overlapping"]) == (1, 1, 1)
    assert "target 'exam': 1 rows cannot be read and are not looked for" in caplog.text


def test_the_table_is_the_same_however_often_it_is_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs are gathered piece by piece; where pieces are sorted changes nothing."""
    _, targets, _ = _planted(tmp_path)
    one = make_table(targets, tmp_path / "1", n=13, shortest=8)
    monkeypatch.setattr(run_table, "_MERGED_AT", 1)
    two = make_table(targets, tmp_path / "2", n=13, shortest=8)
    assert artifacts.digest_of(one) == artifacts.digest_of(two)


def test_a_stopped_check_goes_on_and_workers_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts that are done are not made again; the result is the same byte for byte."""
    pool, targets, _ = _planted(tmp_path)
    one = find_overlap(pool, targets, tmp_path / "1", settings=OverlapConfig(), workers=0)
    two = find_overlap(pool, targets, tmp_path / "2", settings=OverlapConfig(), workers=2)
    assert artifacts.digest_of(one) == artifacts.digest_of(two)
    for path in sorted(one.rglob("*"), reverse=True):
        path.unlink()
    one.rmdir()
    monkeypatch.setattr("cuvee.corpus.overlap.overlap_shard", None)
    again = find_overlap(pool, targets, tmp_path / "1", settings=OverlapConfig(), workers=0)
    assert artifacts.digest_of(again) == artifacts.digest_of(two)


def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    """And what cannot be compared."""
    pool, targets, _ = _planted(tmp_path)
    out = tmp_path / "out"
    find_overlap(pool, targets, out, settings=OverlapConfig(), workers=0)
    with pytest.raises(ArtifactError, match=re.escape("overlap.min_runs changed since")):
        find_overlap(pool, targets, out, settings=OverlapConfig(min_runs=2), workers=0)
    with pytest.raises(ArtifactError, match="n changed since"):
        find_overlap(pool, targets, out, settings=OverlapConfig(n=10), workers=0)
    with pytest.raises(ConfigError, match="there are no target sets"):
        find_overlap(pool, {}, out, settings=OverlapConfig(), workers=0)
    empty = _write(tmp_path / "e" / "e.jsonl", [{"id": "a", "text": "-- !!"}])
    with pytest.raises(DataError, match="target 'none' has no words"):
        find_overlap(pool, {"none": empty}, tmp_path / "x", settings=OverlapConfig(), workers=0)
    with pytest.raises(ConfigError, match="1 <= shortest <= n"):
        OverlapConfig(n=5)
    with pytest.raises(ConfigError, match="min_share is 2"):
        OverlapConfig(min_share=2)
    with pytest.raises(ConfigError, match="min_runs is 0"):
        OverlapConfig(min_runs=0)
