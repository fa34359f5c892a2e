"""Clusters of a pool: a sample chosen by hash, then every document's cluster as a label column."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cuvee import artifacts
from cuvee.arrays import IntArray, KeyArray
from cuvee.artifacts import Json
from cuvee.config import dump, parse
from cuvee.corpus.index import PoolIndex
from cuvee.corpus.pool import PoolConfig, Shard
from cuvee.corpus.read import read_batches
from cuvee.corpus.rows import DocumentBatch
from cuvee.errors import ConfigError, DataError
from cuvee.executors import Task, one_thread, run_tasks
from cuvee.labels.clusters import ClusterModel
from cuvee.labels.embeddings import (
    HANDED,
    Embedder,
    EmbeddingConfig,
    Vectors,
    load_local_model,
    read_vectors,
)
from cuvee.labels.passes import SCORES, ColumnTasks, run_column
from cuvee.policy.cluster_rates import COLUMN
from cuvee.randomness import document_keys, hash64

_TASK = "cuvee.labels.cluster_pass:assign_shard"
_TEXTS_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ClusterSample:
    """The documents that clusters are learnt from, in hash order."""

    keys: KeyArray
    """(n_documents,)"""
    texts: list[str]
    """(n_documents,) their starts."""
    vectors: Vectors | None
    """(n_documents, n_dimensions); None where the clusters make their own from the texts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterPass:
    """Clusters and the pool that is to be divided."""

    model: Path
    """Folder of a saved `ClusterModel`."""
    embedding: EmbeddingConfig
    """As the clusters were learnt with."""
    shards: tuple[Shard, ...]
    pool: PoolConfig


def sample_documents(
    index: PoolIndex,
    embedding: EmbeddingConfig,
    *,
    n_documents: int,
    seed: int,
    embedder: Embedder | None = None,
) -> ClusterSample:
    """Read the training documents of the lowest hashes.

    The pool's text is read through once; memory grows with the sample.

    Args:
        index: The pool.
        embedding: How documents become vectors.
        n_documents: At most.
        seed: The run's seed.
        embedder: Of kinds proxy and given.

    Returns:
        The same documents in the same order for any layout of the pool.
    """
    source = _embedder(embedding, embedder)
    keys, chosen = _choose(index, n_documents, seed)
    texts: dict[int, str] = {}
    vectors: dict[int, Vectors] = {}
    for shard, config, rows in zip(index.shards, index.configs, chosen, strict=True):
        found = (_only(batch, rows) for batch in read_batches(shard, config))
        for batch, own in _with_vectors(shard, found, embedding, source):
            for place, key in enumerate(document_keys(batch.ids).tolist()):
                texts[key] = batch.texts[place][: embedding.n_characters]
                if own is not None:
                    vectors[key] = own[place]
    for key in keys.tolist():
        if key not in texts:
            raise DataError(
                "documents of the pool are not where the index says; it was made of other files. "
                "Run the label stage again in a new folder."
            )
    ordered = keys.tolist()
    stacked = np.stack([vectors[key] for key in ordered]) if vectors else None
    return ClusterSample(keys=keys, texts=[texts[key] for key in ordered], vectors=stacked)


def run_cluster_pass(
    job: ClusterPass,
    out: Path,
    *,
    workers: int,
    embedder: Embedder | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Give every document its cluster, going on where an earlier call was stopped.

    Writes ``labels/cluster/<shard>.parquet``: key, cluster, and the cosine to its centre.

    Args:
        job: Clusters and pool.
        out: The run's folder.
        workers: Processes; 0 assigns in this one, and so does a given embedder, which cannot be
            handed to others.
        embedder: Of kinds proxy and given.
        on_progress: Called with the number of shards done and their total.

    Returns:
        The column's artefact folder.

    Raises:
        DataError: A shard is missing or damaged, or its vectors have other dimensions.
        ConfigError: The kind is proxy or given and there is no embedder, or the other way round.
    """
    source = _embedder(job.embedding, embedder) if job.embedding.kind in HANDED else None
    digests = {
        path.name: artifacts.digest_file(path)
        for path in sorted(job.model.iterdir())
        if path.suffix == ".npz"
    }
    spec: Mapping[str, Json] = {
        "config": dump(job.pool),
        "embedding": dump(job.embedding),
        "model": str(job.model),
        "digest": artifacts.digest_json(cast(Json, digests)),
    }

    def run(tasks: Sequence[Task]) -> Iterator[Task]:
        if source is None:
            yield from run_tasks(tasks, workers=workers)
            return
        for task in tasks:
            if not artifacts.is_done(task.folder):
                _assign(task.spec, task.folder, source)
            yield task

    return run_column(
        ColumnTasks(
            column=COLUMN,
            function=_TASK,
            spec=spec,
            shards=job.shards,
            settings={"column": COLUMN, "embedding": spec["embedding"]},
        ),
        out,
        run=run,
        on_progress=on_progress,
    )


def assign_shard(spec: Mapping[str, Json], folder: Path) -> None:
    """Assign one shard; a task of `executors`.

    Args:
        spec: ``shard``, ``config`` and ``embedding`` as plain data, the model's folder and digest.
        folder: The part's artefact folder.
    """
    embedding = parse(EmbeddingConfig, cast(Mapping[str, Json], spec["embedding"]))
    _assign(spec, folder, _embedder(embedding, None))


def _assign(spec: Mapping[str, Json], folder: Path, source: Embedder | None) -> None:
    shard = parse(Shard, cast(Mapping[str, Json], spec["shard"]))
    config = parse(PoolConfig, cast(Mapping[str, Json], spec["config"]))
    embedding = parse(EmbeddingConfig, cast(Mapping[str, Json], spec["embedding"]))
    model = ClusterModel.load(Path(str(spec["model"])))
    settings: Json = {"shard": shard.url, "embedding": spec["embedding"]}
    with (
        artifacts.writing(
            folder, stage="label", settings=settings, seed=0, inputs={"model": str(spec["digest"])}
        ) as aside,
        one_thread(),
    ):
        batches = (_only(batch, None) for batch in read_batches(shard, config))
        tables = [_EMPTY]
        for batch, own in _with_vectors(shard, batches, embedding, source or model.embedder):
            assert own is not None, "clusters without an embedder of their own need another"
            cluster, cosine = model.assign(own)
            tables.append(
                pa.table({"key": document_keys(batch.ids), COLUMN: cluster, "cosine": cosine})
            )
        pq.write_table(pa.concat_tables(tables), aside / SCORES, compression="zstd")


_EMPTY = pa.table(
    {
        "key": np.zeros(0, dtype=np.uint64),
        COLUMN: np.zeros(0, dtype=np.int32),
        "cosine": np.zeros(0, dtype=np.float32),
    }
)


@dataclass(frozen=True, slots=True)
class _Documents:
    rows: IntArray
    ids: list[str]
    texts: list[str]


def _only(batch: DocumentBatch, rows: IntArray | None) -> _Documents:
    """Keep the documents of some rows; None keeps all."""
    if rows is None:
        return _Documents(batch.rows, batch.ids, batch.texts)
    kept = np.flatnonzero(np.isin(batch.rows, rows)).tolist()
    return _Documents(
        batch.rows[kept], [batch.ids[place] for place in kept], [batch.texts[p] for p in kept]
    )


def _with_vectors(
    shard: Shard,
    batches: Iterator[_Documents],
    embedding: EmbeddingConfig,
    source: Embedder | None,
) -> Iterator[tuple[_Documents, Vectors | None]]:
    """Add vectors to documents: from the column, or from a model, or none where there is none."""
    filled = (batch for batch in batches if batch.ids)
    if embedding.column is not None:
        one, other = tee(filled)
        yield from zip(
            one, read_vectors(shard, embedding.column, (each.rows for each in other)), strict=True
        )
        return
    for batch in filled:
        if source is None:
            yield batch, None
            continue
        parts = [
            source(batch.texts[start : start + _TEXTS_AT_ONCE])
            for start in range(0, len(batch.texts), _TEXTS_AT_ONCE)
        ]
        for part in parts:
            if part.ndim != 2:
                raise DataError(
                    f"the embedder returned shape {part.shape}; it must return (n_documents, "
                    "n_dimensions)."
                )
        yield batch, np.concatenate(parts)


def _embedder(embedding: EmbeddingConfig, given: Embedder | None) -> Embedder | None:
    if (embedding.kind in HANDED) != (given is not None):
        raise ConfigError(
            f"embedding kind is {embedding.kind!r} and an embedder is "
            f"{'not ' if given is None else ''}given; give one exactly when the kind is "
            f"{' or '.join(map(repr, HANDED))}."
        )
    return given if embedding.path is None else load_local_model(embedding)


def _choose(index: PoolIndex, n_documents: int, seed: int) -> tuple[KeyArray, list[IntArray]]:
    """Return the keys of the lowest hashes, in their order, and the rows of each shard."""
    hashes = np.zeros(0, dtype=np.uint64)
    keys, places, rows = hashes, np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    for place, shard in enumerate(index.shards):
        table = index.documents(shard)
        table = table.filter(pc.equal(table["side"], index.sides[0]))
        own = table["key"].to_numpy()
        hashes = np.concatenate([hashes, hash64(seed, "sample", own)])
        keys = np.concatenate([keys, own])
        places = np.concatenate([places, np.full(len(own), place, dtype=np.int64)])
        rows = np.concatenate([rows, table["row"].to_numpy()])
        lowest = np.argsort(hashes, kind="stable")[:n_documents]
        hashes, keys, places, rows = hashes[lowest], keys[lowest], places[lowest], rows[lowest]
    return keys, [np.sort(rows[places == place]) for place in range(len(index.shards))]
