"""Count exact and near-duplicates of every document of a pool by MinHash, and group them.

A document is the set of its runs of `NearDuplicatesConfig.n` words. Signatures are made a shard at
a time, a task a shard; then one band of signatures after the other is sorted over the whole pool,
and documents that agree in a band are compared with the first of them. Pairs whose signatures agree
in at least a share of `threshold` are linked, and linked documents are a group. What is first
follows from texts and ids, never from files or their order. Grouping takes some 100 bytes of memory
a document; the signatures stay on disk.

Source: Broder, On the resemblance and containment of documents (1997); banding and groups as in
deduplication of pre-training text (Lee et al., arXiv:2107.06499, appendix A).
Deviation: pairs are kept by their signatures' agreement, not by an edit distance.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cuvee import artifacts
from cuvee.arrays import BoolArray, FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.config import dump, parse
from cuvee.corpus.fingerprint import text_keys
from cuvee.corpus.minhash import (
    DOCUMENTS,
    SIGNATURES,
    NearDuplicatesConfig,
    SignedPool,
    datasketch,
    group_of,
    near_links,
    signatures,
)
from cuvee.corpus.pool import PoolConfig, Shard, list_shards
from cuvee.corpus.read import read_batches
from cuvee.corpus.scan import check_unchanged, reading_settings
from cuvee.executors import Task, run_tasks
from cuvee.randomness import document_keys

SUMMARY, EXCLUDE, LABELS = "summary.json", "exclude.parquet", "labels"
_TASK = "cuvee.corpus.near_duplicates:sign_shard"
_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64()),
        pa.field("id", pa.string()),
        pa.field("domain", pa.string()),
        pa.field("n_bytes", pa.int64()),
        pa.field("key", pa.uint64()),
        pa.field("text_key_high", pa.uint64()),
        pa.field("text_key_low", pa.uint64()),
    ]
)


def find_near_duplicates(
    pool: PoolConfig,
    out: Path,
    *,
    settings: NearDuplicatesConfig,
    workers: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Group the near-duplicates of a pool, going on where an earlier call was stopped.

    Writes ``parts/<shard>`` and ``found`` below ``out``. ``found`` holds a label file a shard
    (``labels/<shard>.parquet``: row, id, domain, n_exact, n_near, is_first), summary.json, and
    exclude.parquet: the ids of all but the first of each group, for `PoolConfig.exclude`.

    Args:
        pool: The pool.
        out: Folder of both.
        settings: What counts.
        workers: Processes; 0 works in this one.
        on_progress: Called with the number of shards done and their total.

    Returns:
        The folder ``found``.

    Raises:
        MissingDependencyError: datasketch is not installed.
        DataError: A shard is missing or damaged, or the pool has no documents.
        ArtifactError: The folder was made of something else.
    """
    datasketch()
    shards = list_shards(pool)
    tasks = [
        Task(
            function=_TASK,
            spec={"shard": dump(shard), "config": dump(pool), "settings": dump(settings)},
            folder=out / "parts" / shard.name,
            cost=shard.n_bytes,
        )
        for shard in shards
    ]
    for shard, task in zip(shards, tasks, strict=True):
        check_unchanged(task.folder, _part_settings(shard, pool, settings))
    for n_done, _ in enumerate(run_tasks(tasks, workers=workers), start=1):
        on_progress(n_done, len(tasks))
    return _gather(shards, out, settings)


def unique_shares(folder: Path) -> dict[str, float]:
    """Return each domain's share of unique text, a document of a group of k counting 1/k.

    Args:
        folder: Made by `find_near_duplicates`, or its ``found``.

    Raises:
        ArtifactError: It is not finished.
    """
    found = folder if artifacts.is_done(folder) else folder / "found"
    artifacts.require(found, made_by="cuvee duplicates")
    summary = cast(dict[str, dict[str, dict[str, float]]], artifacts.read_json(found / SUMMARY))
    return {name: one["unique_share"] for name, one in summary["domains"].items()}


def sign_shard(spec: Mapping[str, Json], folder: Path) -> None:
    """Make the signatures of one shard's documents; a task of `executors`.

    Args:
        spec: ``shard``, ``config`` and ``settings`` as plain data.
        folder: The part's artefact folder.
    """
    shard = parse(Shard, cast(Mapping[str, Json], spec["shard"]))
    pool = parse(PoolConfig, cast(Mapping[str, Json], spec["config"]))
    settings = parse(NearDuplicatesConfig, cast(Mapping[str, Json], spec["settings"]))
    with (
        artifacts.writing(
            folder,
            stage="duplicates",
            settings=_part_settings(shard, pool, settings),
            seed=0,
            inputs={},
        ) as aside,
        pq.ParquetWriter(aside / DOCUMENTS, _SCHEMA, compression="zstd") as writer,
        (aside / SIGNATURES).open("wb") as file,
    ):
        for batch in read_batches(shard, pool):
            if not batch.ids:
                continue
            high, low = text_keys(batch.texts)
            columns = {
                "row": batch.rows,
                "id": batch.ids,
                "domain": batch.domains,
                "n_bytes": [len(text.encode("utf-8")) for text in batch.texts],
                "key": document_keys(batch.ids),
                "text_key_high": high,
                "text_key_low": low,
            }
            writer.write_table(pa.table(columns, schema=_SCHEMA))
            for signature in signatures(batch.texts, low, settings):
                file.write(signature.astype("<u4").tobytes())


def _part_settings(
    shard: Shard, pool: PoolConfig, settings: NearDuplicatesConfig
) -> dict[str, Json]:
    return {**reading_settings(shard, pool), "n": settings.n, "n_hashes": settings.n_hashes}


def _gather(shards: Sequence[Shard], out: Path, settings: NearDuplicatesConfig) -> Path:
    """Group the documents of all shards."""
    folder = out / "found"
    parts = [out / "parts" / shard.name for shard in shards]
    about = cast(Json, {"shards": [shard.url for shard in shards], "duplicates": dump(settings)})
    check_unchanged(folder, about)
    if artifacts.is_done(folder):
        return folder
    with artifacts.writing(
        folder,
        stage="duplicates",
        settings=about,
        seed=0,
        inputs={part.name: artifacts.digest_of(part) for part in parts},
    ) as aside:
        pool = SignedPool.open(parts, settings.n_hashes)
        exact = group_of(pool.exact_links(), pool.rank)
        near = group_of(
            np.concatenate([pool.exact_links(), *near_links(pool, settings)]), pool.rank
        )
        counts = [np.bincount(group)[group] for group in (exact, near)]
        _write_found(aside, parts, counts, near == pool.rank)
    return folder


def _write_found(
    folder: Path, parts: Sequence[Path], counts: Sequence[IntArray], is_first: BoolArray
) -> None:
    (folder / LABELS).mkdir()
    sums: dict[str, FloatArray] = {}
    n_exact, n_near = counts
    start = 0
    with pq.ParquetWriter(
        folder / EXCLUDE, pa.schema([pa.field("id", pa.string())]), compression="zstd"
    ) as excluded:
        for part in parts:
            table = pq.read_table(part / DOCUMENTS, columns=["row", "id", "domain", "n_bytes"])
            own = slice(start, start + table.num_rows)
            start += table.num_rows
            first = pa.array(is_first[own])
            labels = table.select(["row", "id", "domain"])
            for name, values in (("n_exact", n_exact[own]), ("n_near", n_near[own])):
                labels = labels.append_column(name, pa.array(values, pa.int64()))
            labels = labels.append_column("is_first", first)
            pq.write_table(labels, folder / LABELS / f"{part.name}.parquet", compression="zstd")
            excluded.write_table(table.select(["id"]).filter(pa.array(~is_first[own])))
            _add(sums, table, n_exact[own], n_near[own], is_first[own])
    artifacts.write_json(folder / SUMMARY, _summary(sums, n_near, is_first))


def _add(
    sums: dict[str, FloatArray],
    table: pa.Table,
    n_exact: IntArray,
    n_near: IntArray,
    is_first: BoolArray,
) -> None:
    names, code = np.unique(np.array(table["domain"].to_pylist(), dtype=str), return_inverse=True)
    n_bytes = table["n_bytes"].to_numpy()
    rows = (np.ones(len(code)), n_bytes, n_bytes / n_near, n_exact > 1, n_near > 1, is_first)
    totals = np.array([np.bincount(code, row, minlength=len(names)) for row in rows])
    for place, name in enumerate(names.tolist()):
        sums[name] = sums.get(name, np.zeros(len(rows))) + totals[:, place]


def _summary(
    sums: Mapping[str, FloatArray],
    n_near: IntArray,
    is_first: BoolArray,
) -> dict[str, Json]:
    domains: dict[str, Json] = {}
    for name in sorted(sums):
        n_documents, n_bytes, unique, exact, near, first = sums[name].tolist()
        domains[name] = {
            "documents": int(n_documents),
            "bytes": int(n_bytes),
            "exact_duplicates": int(exact),
            "near_duplicates": int(near),
            "first": int(first),
            "unique_share": round(unique / n_bytes, 9),
        }
    return {
        "n_documents": len(n_near),
        "n_groups": int(np.count_nonzero(is_first & (n_near > 1))),
        "largest_group": int(n_near.max()),
        "n_excluded": int(np.count_nonzero(~is_first)),
        "domains": domains,
    }
