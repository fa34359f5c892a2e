"""Label columns: a file a shard, resumed, aligned by key whatever the order."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cuvee import artifacts
from cuvee.corpus.pool import PoolConfig, list_shards
from cuvee.errors import ArtifactError, DataError
from cuvee.labels.heuristics import COLUMNS, measure_texts, score_columns
from cuvee.labels.ngrams import ReferenceClassifier
from cuvee.labels.passes import LabelPass, align, read_column, run_pass
from cuvee.randomness import document_keys, stream


def _pool(folder: Path) -> PoolConfig:
    rng = np.random.default_rng(0)
    words = [f"word{place}" for place in range(40)]
    for shard in range(3):
        texts = [" ".join(rng.choice(words, size=30)) for _ in range(20)]
        ids = [f"{shard}-{place}" for place in range(20)]
        table = pa.table({"id": ids, "text": texts, "domain": ["web"] * 20})
        pq.write_table(table, folder / f"shard{shard}.parquet")
    return PoolConfig(shards=(str(folder),))


def test_every_document_has_its_score(tmp_path: Path) -> None:
    """Scores equal those of the texts, whatever order the documents are asked for in."""
    (tmp_path / "pool").mkdir()
    pool = _pool(tmp_path / "pool")
    shards = list_shards(pool)
    job = LabelPass(column="clean", scorer="heuristics", model=None, shards=shards, pool=pool)
    done: list[int] = []
    folder = run_pass(job, tmp_path, workers=0, on_progress=lambda n, total: done.append(n))
    assert done == [1, 2, 3]
    names = [shard.name for shard in shards]
    found = read_column(folder, names)
    for shard in shards:
        table = pq.read_table(shard.url)
        columns = measure_texts(table["text"].to_pylist())
        keys = document_keys(table["id"].to_pylist())
        order = np.random.default_rng(1).permutation(len(keys))
        scores = align(found[shard.name], keys[order])
        np.testing.assert_allclose(scores, score_columns(columns)[order], atol=1e-6)
        digits = read_column(folder, names, "digits")[shard.name]
        np.testing.assert_allclose(
            align(digits, keys, column="digits"), columns[:, COLUMNS.index("digits")], atol=1e-6
        )
    before = artifacts.digest_of(folder)
    assert run_pass(job, tmp_path, workers=0) == folder
    assert artifacts.digest_of(folder) == before


def test_learnt_scorers_are_passed_as_files(tmp_path: Path) -> None:
    """The same scores as in this process; no scratch is left."""
    (tmp_path / "pool").mkdir()
    pool = _pool(tmp_path / "pool")
    shards = list_shards(pool)
    texts = [text for one in shards for text in pq.read_table(one.url)["text"].to_pylist()]
    model = ReferenceClassifier.fit(texts[:30], texts[30:], rng=stream(1, "x"))
    model.save(tmp_path / "model.npz")
    job = LabelPass(
        column="like-ref",
        scorer="classifier",
        model=tmp_path / "model.npz",
        shards=shards,
        pool=pool,
    )
    folder = run_pass(job, tmp_path, workers=0)
    first = pq.read_table(shards[0].url)
    scores = align(
        read_column(folder, [shards[0].name])[shards[0].name],
        document_keys(first["id"].to_pylist()),
    )
    np.testing.assert_allclose(scores, model.score(first["text"].to_pylist()), atol=1e-4)
    assert not (tmp_path / "labels" / ".passes" / "like-ref").exists()


def test_parts_of_another_model_are_made_again(tmp_path: Path) -> None:
    """A pass that was stopped, and goes on with a new model under the same path."""
    (tmp_path / "pool").mkdir()
    pool = _pool(tmp_path / "pool")
    shards = list_shards(pool)
    texts = [text for one in shards for text in pq.read_table(one.url)["text"].to_pylist()]
    path = tmp_path / "model.npz"
    job = LabelPass(column="like", scorer="classifier", model=path, shards=shards, pool=pool)
    first = ReferenceClassifier.fit(texts[:30], texts[30:], rng=stream(1, "x"))
    first.save(path)
    run_pass(job, tmp_path / "done", workers=0)

    def stop(n_done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_pass(job, tmp_path / "out", workers=0, on_progress=stop)
    ReferenceClassifier.fit(texts[30:], texts[:30], rng=stream(1, "x")).save(path)
    folder = run_pass(job, tmp_path / "out", workers=0)
    fresh = run_pass(job, tmp_path / "fresh", workers=0)
    assert artifacts.digest_of(folder) == artifacts.digest_of(fresh)
    assert artifacts.digest_of(folder) != artifacts.digest_of(tmp_path / "done" / "labels" / "like")


def test_a_column_of_numbers_is_a_label(tmp_path: Path) -> None:
    """As it stands, in full precision, NaN where there is none; a shard of rejects has no rows."""
    table = pa.table(
        {"id": ["a", "b"], "text": ["x", "y"], "domain": ["d"] * 2, "edu": [1e9 + 0.5, None]}
    )
    (tmp_path / "pool").mkdir()
    pq.write_table(table, tmp_path / "pool" / "a.parquet")
    pq.write_table(table.set_column(1, "text", [[" "] * 2]), tmp_path / "pool" / "b.parquet")
    pool = PoolConfig(shards=(str(tmp_path / "pool"),))
    shards = list_shards(pool)
    job = LabelPass(
        column="edu",
        scorer="column",
        model=None,
        shards=shards,
        pool=pool,
        options={"number": "edu"},
    )
    found = read_column(run_pass(job, tmp_path, workers=0), [shard.name for shard in shards])
    full, empty = (found[shard.name] for shard in shards)
    np.testing.assert_equal(align(full, document_keys(["b", "a"])), [np.nan, 1e9 + 0.5])
    assert empty.num_rows == 0


def test_labels_of_another_pool_are_refused(tmp_path: Path) -> None:
    """A document without a label, and a column without a shard."""
    table = pa.table({"key": document_keys(["a", "b"]), "score": [1.0, 2.0]})
    with pytest.raises(DataError, match="has no label"):
        align(table, document_keys(["a", "c"]))
    (tmp_path / "pool").mkdir()
    pool = _pool(tmp_path / "pool")
    job = LabelPass(
        column="clean", scorer="heuristics", model=None, shards=list_shards(pool), pool=pool
    )
    folder = run_pass(job, tmp_path, workers=0)
    with pytest.raises(ArtifactError, match="no label for every shard"):
        read_column(folder, ["elsewhere"])
