"""Find the documents of a pool that share runs of words with target sets: leaked test text.

The runs of the targets are hashed once into a sorted table; the pool streams past it, a task a
shard. Membership is exact on 64-bit hashes: a bitmap turns most runs away, a search settles the
rest. Of a pool of 10^12 words and targets of 10^8 runs about 5 runs match by chance.

Source: overlap of runs of 13 words, at least 8, as in GPT-3 (arXiv:2005.14165, appendix C).
Deviation: a document is judged as a whole, by the number and share of its runs.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cuvee import artifacts
from cuvee.arrays import IntArray, KeyArray
from cuvee.artifacts import Json
from cuvee.config import dump, parse
from cuvee.corpus.pool import PoolConfig, Shard, list_shards
from cuvee.corpus.read import read_batches
from cuvee.corpus.rows import DocumentBatch
from cuvee.corpus.run_table import RunTable, make_table
from cuvee.corpus.scan import check_unchanged, reading_settings
from cuvee.corpus.word_runs import Words, hash_words
from cuvee.errors import ConfigError
from cuvee.executors import Task, run_tasks

logger = logging.getLogger(__name__)

DOCUMENTS, SUMMARY, EXCLUDE = "documents.parquet", "summary.json", "exclude.parquet"
_FOUND, _COUNTS = "found.npy", "counts.json"
_TASK = "cuvee.corpus.overlap:overlap_shard"
_PIECE_CHARACTERS = 2**18
_DOCUMENTS_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64()),
        pa.field("id", pa.string()),
        pa.field("domain", pa.string()),
        pa.field("target", pa.string()),
        pa.field("n_runs", pa.int64()),
        pa.field("n_matching", pa.int64()),
        pa.field("n_short", pa.int64()),
        pa.field("share", pa.float64()),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class OverlapConfig:
    """What counts as overlap."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    n: int = 13
    """Words of a run."""
    shortest: int = 8
    """A target of fewer than n words but at least this many is looked for whole, within documents;
    a shorter one only as a document of its own."""
    min_runs: int = 1
    """Runs shared with one target set from which a document is listed to be excluded."""
    min_share: float = 0.0
    """Share of the document's runs that must be shared besides, in [0, 1]."""

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.n:
            raise ConfigError(
                f"shortest is {self.shortest} and n is {self.n}; 1 <= shortest <= n must hold."
            )
        if self.min_runs < 1:
            raise ConfigError(f"min_runs is {self.min_runs}; it must be at least 1.")
        if not 0 <= self.min_share <= 1:
            raise ConfigError(f"min_share is {self.min_share}; it must lie in [0, 1].")


def find_overlap(
    pool: PoolConfig,
    targets: Mapping[str, PoolConfig],
    out: Path,
    *,
    settings: OverlapConfig,
    workers: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Find all documents of a pool that share runs of words with target sets.

    Writes ``targets``, ``parts/<shard>`` and ``found`` below ``out``, going on where an earlier
    call was stopped. ``found`` holds documents.parquet (a row for each document and target set that
    share a run), summary.json, and exclude.parquet: the ids for `PoolConfig.exclude`.

    Args:
        pool: The pool.
        targets: Target sets by name, read like pools.
        out: Folder of the three.
        settings: What counts.
        workers: Processes; 0 works in this one.
        on_progress: Called with the number of shards done and their total.

    Returns:
        The folder ``found``.

    Raises:
        ConfigError: There are no target sets.
        DataError: A shard is missing or damaged, or a target set has no words.
        ArtifactError: The folder was made of something else.
    """
    if not targets:
        raise ConfigError("there are no target sets to compare the pool with; name at least one.")
    shards = list_shards(pool)
    table = make_table(targets, out / "targets", n=settings.n, shortest=settings.shortest)
    digest = artifacts.digest_of(table)
    tasks = [
        Task(
            function=_TASK,
            spec={
                "shard": dump(shard),
                "config": dump(pool),
                "targets": str(table),
                "digest": digest,
            },
            folder=out / "parts" / shard.name,
            cost=shard.n_bytes,
        )
        for shard in shards
    ]
    for shard, task in zip(shards, tasks, strict=True):
        check_unchanged(task.folder, _part_settings(shard, pool, digest))
    for n_done, _ in enumerate(run_tasks(tasks, workers=workers), start=1):
        on_progress(n_done, len(tasks))
    return _gather(shards, out, settings)


def overlap_shard(spec: Mapping[str, Json], folder: Path) -> None:
    """Look for the targets' runs in one shard; a task of `executors`.

    Args:
        spec: ``shard`` and ``config`` as plain data, the folder of the ``targets``' table and its
            ``digest``.
        folder: The part's artefact folder.
    """
    shard = parse(Shard, cast(Mapping[str, Json], spec["shard"]))
    pool = parse(PoolConfig, cast(Mapping[str, Json], spec["config"]))
    targets, digest = Path(cast(str, spec["targets"])), cast(str, spec["digest"])
    table = RunTable.open(targets)
    with artifacts.writing(
        folder,
        stage="overlap",
        settings=_part_settings(shard, pool, digest),
        seed=0,
        inputs={"targets": digest},
    ) as aside:
        rows, entries = [_DOCUMENTS_SCHEMA.empty_table()], [np.zeros(0, dtype=np.int64)]
        counts: dict[str, tuple[int, int]] = {}
        n_rejects = 0
        for batch in read_batches(shard, pool):
            n_rejects += len(batch.rejects)
            found, entry, n_runs = _search(batch, table)
            rows.append(found)
            entries.append(entry)
            for name, own in zip(batch.domains, n_runs.tolist(), strict=True):
                before = counts.get(name, (0, 0))
                counts[name] = (before[0] + 1, before[1] + own)
        pq.write_table(pa.concat_tables(rows), aside / DOCUMENTS, compression="zstd")
        np.save(aside / _FOUND, np.unique(np.concatenate(entries)))
        domains = {name: {"documents": one[0], "runs": one[1]} for name, one in counts.items()}
        artifacts.write_json(aside / _COUNTS, {"domains": domains, "n_rejects": n_rejects})


def _search(batch: DocumentBatch, table: RunTable) -> tuple[pa.Table, IntArray, IntArray]:
    """Return rows of documents that match, the entries found, and the runs of every document."""
    n_sets = len(table.names)
    n_runs = np.zeros(len(batch.ids), dtype=np.int64)
    full, short = (np.zeros(len(batch.ids) * n_sets, dtype=np.int64) for _ in range(2))
    entries = [np.zeros(0, dtype=np.int64)]
    for first, last in _pieces(batch.texts):
        words = hash_words(batch.texts[first:last])
        n_runs[first:last] = np.maximum(words.n_words - table.n + 1, 0)
        for length, hashes, texts in _runs(words, table):
            runs, entry = table.find(hashes)
            cell = (texts[runs] + first) * n_sets + table.sets[entry]
            counted = full if length == table.n else short
            np.add.at(counted, cell, 1)
            entries.append(entry)
    cells = np.flatnonzero(full + short)
    documents = cells // n_sets
    share = np.where(n_runs[documents] > 0, full[cells] / np.maximum(n_runs[documents], 1), 1.0)
    columns = {
        "row": batch.rows[documents],
        "id": [batch.ids[place] for place in documents.tolist()],
        "domain": [batch.domains[place] for place in documents.tolist()],
        "target": [table.names[place] for place in (cells % n_sets).tolist()],
        "n_runs": n_runs[documents],
        "n_matching": full[cells],
        "n_short": short[cells],
        "share": share,
    }
    return pa.table(columns, schema=_DOCUMENTS_SCHEMA), np.concatenate(entries), n_runs


def _runs(words: Words, table: RunTable) -> Iterator[tuple[int, KeyArray, IntArray]]:
    """Yield runs of each length looked for, then short texts as a whole."""
    for length in table.lengths:
        yield (length, *words.runs(length))
    shortest = min(table.lengths)
    yield (0, *words.whole(shortest - 1))


def _pieces(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Part texts in pieces that stay in a core's cache."""
    first, n_characters = 0, 0
    for place, text in enumerate(texts):
        n_characters += len(text)
        if n_characters >= _PIECE_CHARACTERS:
            yield first, place + 1
            first, n_characters = place + 1, 0
    if first < len(texts):
        yield first, len(texts)


def _part_settings(shard: Shard, pool: PoolConfig, digest: str) -> dict[str, Json]:
    return {**reading_settings(shard, pool), "targets": digest}


def _gather(shards: Sequence[Shard], out: Path, settings: OverlapConfig) -> Path:
    """Write what was found in all shards."""
    folder = out / "found"
    parts = [out / "parts" / shard.name for shard in shards]
    about = cast(Json, {"shards": [shard.url for shard in shards], "overlap": dump(settings)})
    check_unchanged(folder, about)
    if artifacts.is_done(folder):
        return folder
    with artifacts.writing(
        folder,
        stage="overlap",
        settings=about,
        seed=0,
        inputs={part.name: artifacts.digest_of(part) for part in parts},
    ) as aside:
        tables = [
            pq.read_table(part / DOCUMENTS).add_column(
                0, "shard", pa.array([part.name], pa.string()).take(_zeros(part))
            )
            for part in parts
        ]
        found = pa.concat_tables(tables)
        pq.write_table(found, aside / DOCUMENTS, compression="zstd")
        wanted = pc.and_(
            pc.greater_equal(pc.add(found["n_matching"], found["n_short"]), settings.min_runs),
            pc.greater_equal(found["share"], settings.min_share),
        )
        ids = pc.unique(found.filter(wanted)["id"]).sort()
        pq.write_table(pa.table({"id": ids}), aside / EXCLUDE, compression="zstd")
        artifacts.write_json(
            aside / SUMMARY, {**_summary(found, parts, out / "targets"), "n_excluded": len(ids)}
        )
    return folder


def _zeros(part: Path) -> pa.Array:
    n_rows = int(pq.read_metadata(part / DOCUMENTS).num_rows)
    return pa.array(np.zeros(n_rows, dtype=np.int64))


def _summary(found: pa.Table, parts: Sequence[Path], targets: Path) -> dict[str, Json]:
    """Count documents and runs by domain and target, and each target's runs that were found."""
    table = RunTable.open(targets)
    places = [np.load(part / _FOUND, allow_pickle=False) for part in parts]
    seen = np.unique(np.concatenate(places))
    n_found = np.bincount(table.sets[seen], minlength=len(table.names))
    n_entries = np.bincount(table.sets, minlength=len(table.names))
    totals: dict[str, Counter[str]] = {}
    counts = [cast(dict[str, Any], artifacts.read_json(part / _COUNTS)) for part in parts]
    for count in counts:
        for name, one in count["domains"].items():
            totals.setdefault(name, Counter()).update(one)
    groups = found.group_by(["domain", "target"]).aggregate(
        [("row", "count"), ("n_matching", "sum"), ("n_short", "sum"), ("share", "mean")]
    )
    pairs = [
        {
            "domain": row["domain"],
            "target": row["target"],
            "documents": row["row_count"],
            "share_of_documents": row["row_count"] / totals[row["domain"]]["documents"],
            "matching_runs": row["n_matching_sum"],
            "short_texts": row["n_short_sum"],
            "mean_share": row["share_mean"],
        }
        for row in groups.sort_by([("domain", "ascending"), ("target", "ascending")]).to_pylist()
    ]
    return {
        "n_documents": sum(one["documents"] for one in totals.values()),
        "n_rejects": sum(count["n_rejects"] for count in counts),
        "n_overlapping": len(pc.unique(found["id"])),
        "domains": {name: dict(totals[name]) for name in sorted(totals)},
        "targets": {
            name: {"runs": int(n_entries[code]), "runs_found": int(n_found[code])}
            for code, name in enumerate(table.names)
        },
        "overlaps": pairs,
    }
