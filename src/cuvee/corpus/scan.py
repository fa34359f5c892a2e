"""The label pass: read each shard once for ids, hashes, sizes and domains; then index the pool."""

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cuvee import artifacts
from cuvee.artifacts import Json
from cuvee.config import differing_keys, dump, parse
from cuvee.corpus import index_files
from cuvee.corpus.decoder import open_decoder
from cuvee.corpus.fingerprint import DomainSamples, text_keys
from cuvee.corpus.index import IndexJob, Kind, PoolIndex, index_pool, open_index
from cuvee.corpus.pool import TOKEN_FORMATS, PoolConfig, Shard, list_shards, numbered
from cuvee.corpus.read import read_batches
from cuvee.corpus.relabel import relabelled
from cuvee.corpus.rows import DocumentBatch
from cuvee.errors import ArtifactError
from cuvee.executors import Task, run_tasks
from cuvee.randomness import document_keys

logger = logging.getLogger(__name__)

__all__ = [
    "IndexJob",
    "PoolIndex",
    "check_unchanged",
    "index_pool",
    "read_index",
    "reading_settings",
    "scan_pool",
    "scan_shard",
    "scan_targets",
]

_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64()),
        pa.field("id", pa.string()),
        pa.field("key", pa.uint64()),
        pa.field("domain", pa.string()),
        pa.field("group_key", pa.uint64()),
        pa.field("text_key_high", pa.uint64()),
        pa.field("text_key_low", pa.uint64()),
        pa.field("n_bytes", pa.int64()),
    ]
)
_SAMPLES_SCHEMA = pa.schema(
    [
        pa.field("domain", pa.string()),
        pa.field("text_key_high", pa.uint64()),
        pa.field("text_key_low", pa.uint64()),
        pa.field("text", pa.string()),
    ]
)
_ROW_GROUP = 2**16
_NOT_READING = (
    "shards",
    "tokenizer",
    "max_reject_share",
    "validation_share",
    "available_tokens",
    "exclude",
)


def scan_pool(
    config: PoolConfig,
    out: Path,
    *,
    seed: int,
    workers: int,
    on_progress: Callable[[int, int], None] | None = None,
    labels: Path | None = None,
) -> PoolIndex:
    """Scan a pool and index it, going on where an earlier call was stopped.

    Writes ``corpus/scan/<shard>``, ``corpus/index`` and the label column ``labels/domain``.

    Args:
        config: The pool.
        out: The run's folder.
        seed: The run's seed; decides the split.
        workers: Processes; 0 reads in this one.
        on_progress: Called with the number of shards done and their total.
        labels: Artefact folder of a label column that gives the domains in place of those read:
            ``<shard>.parquet`` with key and domain, a row a document in the order of the shard.

    Returns:
        The index.

    Raises:
        DataError: A shard is missing or damaged, too many rows are bad, there are no documents, or
            the labels are of other ones.
        ConfigError: available_tokens names a domain that does not exist.
        ArtifactError: The folder was made from other shards.
    """
    shards = list_shards(config)
    job = IndexJob(
        kind="pool",
        shards=shards,
        configs=(config,),
        config_of_shard=(0,) * len(shards),
        scan_folder=out / "corpus" / "scan",
        seed=seed,
    )
    index = _run(job, workers, on_progress, labels)
    written = out / "labels" / "domain"
    if not artifacts.is_done(written):
        digests = {
            shard.name: index_files.read_counts(job.scan_folder / shard.name)["digest"]
            for shard in shards
        }
        index_files.write_domain_labels(index.folder, written, digests)
    return index


def scan_targets(
    targets: Mapping[str, PoolConfig],
    out: Path,
    *,
    seed: int,
    workers: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> PoolIndex:
    """Scan target sets and divide each in its search half and its verdict half.

    All documents of a target have its name as their domain. A text of any search half is dropped
    from all verdict halves. Writes ``targets/scan/<shard>`` and ``targets/index``.

    Args:
        targets: Target sets by name.
        out: The run's folder.
        seed: The run's seed; decides the halves.
        workers: Processes; 0 reads in this one.
        on_progress: Called with the number of shards done and their total.

    Returns:
        The index; its domains are the targets.

    Raises:
        DataError: A shard is missing or damaged, too many rows are bad, or a half has no documents.
        ArtifactError: The folder was made from other shards.
    """
    names = sorted(targets)
    shards = numbered(shard for name in names for shard in list_shards(targets[name], domain=name))
    job = IndexJob(
        kind="targets",
        shards=shards,
        configs=tuple(replace(targets[name], available_tokens={}) for name in names),
        config_of_shard=tuple(names.index(shard.domain or "") for shard in shards),
        scan_folder=out / "targets" / "scan",
        seed=seed,
    )
    return _run(job, workers, on_progress)


def read_index(out: Path, kind: Kind = "pool") -> PoolIndex:
    """Open the finished index of a run's pool or targets.

    Args:
        out: The run's folder.
        kind: Which.

    Raises:
        ArtifactError: It is missing or unfinished.
    """
    return open_index(out / ("corpus" if kind == "pool" else "targets") / "index")


def scan_shard(spec: Mapping[str, Json], folder: Path) -> None:
    """Read one shard and leave what later steps need of its documents; a task of `executors`.

    Writes documents.parquet (row, id, key, domain, group_key, text_key_high, text_key_low,
    n_bytes), rejects.jsonl, samples.parquet (some texts by domain) and counts.json.

    Args:
        spec: ``shard`` and ``config`` as plain data; where a label column gives the domains, its
            folder as ``labels`` and its ``digest``.
        folder: The scan's artefact folder.

    Raises:
        DataError: The shard is missing, damaged or lacks a column; the folder stays unfinished.
    """
    shard = parse(Shard, cast(Mapping[str, Json], spec["shard"]))
    settings = parse(PoolConfig, cast(Mapping[str, Json], spec["config"]))
    about = {**reading_settings(shard, settings), **_labels_settings(spec)}
    with artifacts.writing(folder, stage="scan", settings=about, seed=0, inputs={}) as aside:
        tally = _Tally()
        with (
            pq.ParquetWriter(aside / index_files.DOCUMENTS, _SCHEMA, compression="zstd") as writer,
            (aside / index_files.REJECTS).open("w", encoding="ascii", newline="\n") as rejects,
        ):
            waiting: list[pa.Table] = []
            batches = read_batches(shard, settings)
            if "labels" in spec:
                batches = relabelled(batches, Path(str(spec["labels"])) / f"{shard.name}.parquet")
            for batch in batches:
                rejects.writelines(index_files.reject_line(reject) for reject in batch.rejects)
                waiting.append(tally.add(batch))
                if sum(table.num_rows for table in waiting) >= _ROW_GROUP:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting = []
            writer.write_table(pa.concat_tables([*waiting, _SCHEMA.empty_table()]))
        samples = pa.Table.from_pylist(tally.samples.rows(), schema=_SAMPLES_SCHEMA)
        pq.write_table(samples, aside / index_files.SAMPLES, compression="zstd")
        artifacts.write_json(aside / index_files.COUNTS, tally.counts())


@dataclass(slots=True)
class _Tally:
    """Counts, content digest and samples of a shard, gathered batch by batch."""

    n_documents: int = 0
    n_rejects: int = 0
    n_made_ids: int = 0
    n_bytes: int = 0
    domains: set[str] = field(default_factory=set)
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    samples: DomainSamples = field(default_factory=DomainSamples)

    def add(self, batch: DocumentBatch) -> pa.Table:
        """Count a batch and return its rows of documents.parquet."""
        keys, (high, low) = document_keys(batch.ids), text_keys(batch.texts)
        sizes = np.asarray([len(text.encode("utf-8")) for text in batch.texts], dtype=np.int64)
        domains = document_keys(batch.domains)
        records = [batch.rows.astype(np.uint64), keys, high, low, domains]
        self.digest.update(np.column_stack(records).astype("<u8").tobytes())
        self.n_documents += len(batch.ids)
        self.n_rejects += len(batch.rejects)
        self.n_made_ids += batch.n_made_ids
        self.n_bytes += int(sizes.sum())
        self.domains.update(batch.domains)
        self.samples.add(batch.domains, high, low, batch.texts)
        groups = document_keys(batch.groups)
        columns = [batch.rows, batch.ids, keys, batch.domains, groups, high, low, sizes]
        arrays = [pa.array(one, kind) for one, kind in zip(columns, _SCHEMA.types, strict=True)]
        return pa.Table.from_arrays(arrays, schema=_SCHEMA)

    def counts(self) -> dict[str, Json]:
        """Return counts.json (`index_files.ShardCounts`)."""
        return {
            "n_rows": self.n_documents + self.n_rejects,
            "n_documents": self.n_documents,
            "n_rejects": self.n_rejects,
            "n_made_ids": self.n_made_ids,
            "n_bytes": self.n_bytes,
            "domains": sorted(self.domains),
            "digest": self.digest.hexdigest(),
        }


def _run(
    job: IndexJob,
    workers: int,
    on_progress: Callable[[int, int], None] | None,
    labels: Path | None = None,
) -> PoolIndex:
    given: dict[str, Json] = {}
    if labels is not None:
        given = {"labels": str(labels), "digest": artifacts.digest_of(labels)}
    tasks = [
        Task(
            function="cuvee.corpus.scan:scan_shard",
            spec={"shard": dump(shard), "config": dump(job.configs[number]), **given},
            folder=job.scan_folder / shard.name,
            cost=shard.n_bytes,
        )
        for shard, number in zip(job.shards, job.config_of_shard, strict=True)
    ]
    for shard, number in zip(job.shards, job.config_of_shard, strict=True):
        about = {**reading_settings(shard, job.configs[number]), **_labels_settings(given)}
        check_unchanged(job.scan_folder / shard.name, about)
    for n_done, _ in enumerate(run_tasks(tasks, workers=workers), start=1):
        if on_progress is not None:
            on_progress(n_done, len(tasks))
    folder = job.scan_folder.with_name("index")
    check_unchanged(folder, job.settings())
    index = open_index(folder) if artifacts.is_done(folder) else index_pool(job, folder)
    logger.info(
        "%s: %d documents in %d domains and %d shards, %d of %d rows rejected, %d left out",
        job.kind,
        sum(int(counts.sum()) for counts in index.n_documents.values()),
        len(index.domains),
        len(index.shards),
        sum(index.n_rejects.values()),
        index.n_rows,
        index.n_excluded,
    )
    return index


def _labels_settings(spec: Mapping[str, Json]) -> dict[str, Json]:
    return {"domains": spec["digest"]} if "labels" in spec else {}


def check_unchanged(folder: Path, settings: Json) -> None:
    """Refuse a finished folder that was made from something else.

    Args:
        folder: An artefact folder, finished or not.
        settings: What it is to depend on.

    Raises:
        ArtifactError: It is finished, and its settings are others.
    """
    if not artifacts.is_done(folder):
        return
    manifest = cast(dict[str, Json], artifacts.read_json(folder / artifacts.MANIFEST))
    keys = differing_keys(manifest["settings"], settings)
    if keys:
        raise ArtifactError(
            f"{folder} was made from other input; {', '.join(keys)} changed since. Choose another "
            "--out, or delete this one."
        )


def reading_settings(shard: Shard, settings: PoolConfig) -> dict[str, Json]:
    """Return what a shard's documents depend on: the shard and how it is read."""
    place = {name: value for name, value in dump(shard).items() if name not in ("index", "name")}
    reading = {name: value for name, value in dump(settings).items() if name not in _NOT_READING}
    if shard.format in TOKEN_FORMATS:
        reading["tokenizer"] = open_decoder(settings.tokenizer or "").digest
    return {"shard": place, "reading": reading}
