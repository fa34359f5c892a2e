"""The files of an index: rejects, documents by side, descriptors, domain labels, list of shards."""

import heapq
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cuvee import artifacts, config
from cuvee.arrays import IntArray
from cuvee.artifacts import Json
from cuvee.corpus.duplicates import (
    DUPLICATE_ID,
    FIRST_SIDE,
    REPEAT,
    SIDE_BITS,
    ScannedShard,
    is_used,
    read_columns,
)
from cuvee.corpus.fingerprint import DomainSamples, mean_ngrams
from cuvee.corpus.pool import PoolConfig, Shard
from cuvee.corpus.rows import Reject

DOCUMENTS = "documents.parquet"
REJECTS = "rejects.jsonl"
COUNTS = "counts.json"
SAMPLES = "samples.parquet"

_DOCUMENTS_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64()),
        pa.field("key", pa.uint64()),
        pa.field("domain", pa.string()),
        pa.field("side", pa.string()),
        pa.field("n_bytes", pa.int64()),
        pa.field("distinct", pa.bool_()),
    ]
)
_LABELS_SCHEMA = pa.schema([pa.field("key", pa.uint64()), pa.field("domain", pa.string())])


class ShardCounts(TypedDict):
    """counts.json of a scanned shard."""

    n_rows: int
    n_documents: int
    n_rejects: int
    n_made_ids: int
    n_bytes: int
    domains: list[str]
    digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """Counts by side and domain."""

    sides: tuple[str, ...]
    """(n_sides,) names."""
    n_documents: IntArray
    """(n_sides, n_domains) documents."""
    n_bytes: IntArray
    """(n_sides, n_domains) UTF-8 bytes of text."""
    n_distinct_documents: IntArray
    """(n_sides, n_domains) documents, those of equal text counted once."""

    def to_json(self) -> dict[str, Json]:
        """Return the counts by name and side."""
        return {
            name: dict(zip(self.sides, getattr(self, name).tolist(), strict=True))
            for name in ("n_documents", "n_bytes", "n_distinct_documents")
        }


def read_counts(folder: Path) -> ShardCounts:
    """Read the counts of a finished scan."""
    return cast(ShardCounts, artifacts.read_json(folder / COUNTS))


def reject_line(reject: Reject) -> str:
    """Write a reject as one line of JSON, in ASCII."""
    record = {
        "shard": reject.shard,
        "row": reject.row,
        "reason": reject.reason,
        "detail": reject.detail,
    }
    return json.dumps(record) + "\n"


def write_rejects(
    path: Path,
    shards: Sequence[Shard],
    scans: Sequence[ScannedShard],
    marks: npt.NDArray[np.uint8],
) -> dict[str, int]:
    """Write all rejected rows, ordered by shard and row.

    Args:
        path: File to write.
        shards: All shards.
        scans: (n_shards,) their scans.
        marks: (n_documents,) `DUPLICATE_ID` where a row is rejected by its id.

    Returns:
        Rejected rows by reason.
    """
    n_rejects: Counter[str] = Counter()
    with path.open("w", encoding="ascii", newline="\n") as file:
        for shard, scan in zip(shards, scans, strict=True):
            for _, reason, line in heapq.merge(
                _found_in_scan(scan), _found_later(shard, scan, marks), key=lambda found: found[0]
            ):
                n_rejects[reason] += 1
                file.write(line)
    return dict(sorted(n_rejects.items()))


def write_documents(
    folder: Path,
    scans: Sequence[ScannedShard],
    marks: npt.NDArray[np.uint8],
    domains: Sequence[str],
    sides: tuple[str, ...],
) -> Totals:
    """Write each shard's documents with their sides.

    Args:
        folder: New folder; receives a Parquet file for each shard.
        scans: All scans.
        marks: (n_documents,) from `duplicates.mark_sides`.
        domains: (n_domains,) sorted names.
        sides: Names of the sides, by mark.

    Returns:
        The counts.
    """
    folder.mkdir()
    codes = {name: code for code, name in enumerate(domains)}
    shape = (3, len(sides) * len(domains))
    sums = np.zeros(shape, dtype=np.int64)
    for scan in scans:
        path = folder / f"{scan.path.parent.name}.parquet"
        position = scan.offset
        with pq.ParquetWriter(path, _DOCUMENTS_SCHEMA, compression="zstd") as writer:
            for part in read_columns(scan.path, ("row", "key", "domain", "n_bytes"), codes):
                n_rows = len(part["row"])
                mark = np.asarray(marks[position : position + n_rows])
                position += n_rows
                used = is_used(mark)
                part = {name: values[used] for name, values in part.items()}
                side, distinct = mark[used] & np.uint8(SIDE_BITS), (mark[used] & REPEAT) == 0
                writer.write_table(_document_table(part, side, distinct, domains, sides))
                cell = side.astype(np.int64) * len(domains) + part["domain"]
                for total, weights in zip(sums, (None, part["n_bytes"], distinct), strict=True):
                    total += _sum_by(cell, weights, shape[1])
    documents, n_bytes, distinct_documents = sums.reshape(3, len(sides), len(domains))
    return Totals(
        sides=sides,
        n_documents=documents,
        n_bytes=n_bytes,
        n_distinct_documents=distinct_documents,
    )


def write_descriptors(
    path: Path,
    scans: Sequence[ScannedShard],
    marks: npt.NDArray[np.uint8],
    totals: Totals,
    domains: Sequence[str],
) -> None:
    """Write documents, bytes and the mean hashed-n-gram vector of each domain.

    Vectors are of the first side only: nothing that is decided by them has seen validation text or
    a target's verdict half.

    Args:
        path: JSON file to write.
        scans: All scans, with their samples of text beside them.
        marks: (n_documents,) from `duplicates.mark_sides`.
        totals: Counts by side; both sides are counted here, dropped documents are not.
        domains: (n_domains,) sorted names.
    """
    samples = DomainSamples()
    for scan in scans:
        with pq.ParquetFile(scan.path.parent / SAMPLES) as file:
            for batch in file.iter_batches():
                used = batch.filter(_on_first_side(batch, scan, marks))
                samples.add(
                    used.column("domain").to_pylist(),
                    used.column("text_key_high").to_numpy(),
                    used.column("text_key_low").to_numpy(),
                    used.column("text").to_pylist(),
                )
    vectors = mean_ngrams(samples, domains)
    artifacts.write_json(
        path,
        {
            name: {
                "n_documents": int(totals.n_documents[:-1, code].sum()),
                "n_distinct_documents": int(totals.n_distinct_documents[:-1, code].sum()),
                "n_bytes": int(totals.n_bytes[:-1, code].sum()),
                "mean_ngrams": vectors[code].round(9).tolist(),
            }
            for code, name in enumerate(domains)
        },
    )


def _on_first_side(
    sample: pa.RecordBatch, scan: ScannedShard, marks: npt.NDArray[np.uint8]
) -> pa.BooleanArray:
    """Tell which sampled texts stand on the first side, by their keys."""
    sampled = sample.column("text_key_high").to_numpy()
    known: set[tuple[int, int]] = set()
    position = scan.offset
    for part in read_columns(scan.path, ("text_key_high", "text_key_low"), {}):
        high, low = part["text_key_high"], part["text_key_low"]
        mark = np.asarray(marks[position : position + len(high)])
        position += len(high)
        hit = np.isin(high, sampled) & (mark & SIDE_BITS == FIRST_SIDE)
        known.update(zip(high[hit].tolist(), low[hit].tolist(), strict=True))
    pairs = zip(sampled.tolist(), sample.column("text_key_low").to_pylist(), strict=True)
    return pa.array([pair in known for pair in pairs], pa.bool_())


def write_listing(
    path: Path,
    shards: Sequence[Shard],
    configs: Sequence[PoolConfig],
    config_of_shard: Sequence[int],
) -> None:
    """Write which shards there are and how each is read, for `read_listing`."""
    artifacts.write_json(
        path,
        {
            "shards": [config.dump(shard) for shard in shards],
            "configs": [config.dump(each) for each in configs],
            "config_of_shard": list(config_of_shard),
        },
    )


def read_listing(path: Path) -> tuple[tuple[Shard, ...], tuple[PoolConfig, ...]]:
    """Read the shards and, for each, its config."""
    listing = cast(dict[str, Any], artifacts.read_json(path))
    configs = [config.parse(PoolConfig, each) for each in listing["configs"]]
    return (
        tuple(config.parse(Shard, each) for each in listing["shards"]),
        tuple(configs[number] for number in listing["config_of_shard"]),
    )


def write_domain_labels(index: Path, folder: Path, digests: Mapping[str, str]) -> None:
    """Write the label column ``domain``: one file for each shard, key and domain of its documents.

    Args:
        index: Folder of a finished index.
        folder: The column's artefact folder, not yet finished.
        digests: Digest of each shard's content, by the shard's name.
    """
    with artifacts.writing(
        folder,
        stage="label",
        settings={"column": "domain"},
        seed=0,
        inputs={"index": artifacts.digest_of(index)},
    ) as aside:
        for name, digest in digests.items():
            with pq.ParquetFile(index / "documents" / f"{name}.parquet") as file:
                about = {"shard_digest": digest, "n_rows": str(file.metadata.num_rows)}
                schema = _LABELS_SCHEMA.with_metadata(about)
                path = aside / f"{name}.parquet"
                with pq.ParquetWriter(path, schema, compression="zstd") as writer:
                    for batch in file.iter_batches(columns=schema.names):
                        writer.write_table(pa.Table.from_batches([batch]).cast(schema))


def _found_in_scan(scan: ScannedShard) -> Iterator[tuple[int, str, str]]:
    with (scan.path.parent / REJECTS).open(encoding="ascii") as file:
        for line in file:
            record = json.loads(line)
            yield record["row"], record["reason"], line


def _found_later(
    shard: Shard, scan: ScannedShard, marks: npt.NDArray[np.uint8]
) -> Iterator[tuple[int, str, str]]:
    if not n_duplicates(scan, marks):
        return
    position = scan.offset
    for part in read_columns(scan.path, ("row", "id"), {}):
        n_rows = len(part["row"])
        twice = np.flatnonzero(marks[position : position + n_rows] == DUPLICATE_ID)
        position += n_rows
        for row, name in zip(part["row"][twice].tolist(), part["id"][twice], strict=True):
            detail = f"id {name!r:.60} occurs more than once; another row is kept"
            yield row, "duplicate_id", reject_line(Reject(shard.url, row, "duplicate_id", detail))


def n_duplicates(scan: ScannedShard, marks: npt.NDArray[np.uint8]) -> int:
    """Count a shard's rows that are rejected by their id."""
    mine = marks[scan.offset : scan.offset + scan.n_documents]
    return int(np.count_nonzero(mine == DUPLICATE_ID))


def _document_table(
    part: Mapping[str, npt.NDArray[Any]],
    side: npt.NDArray[np.uint8],
    distinct: npt.NDArray[np.bool_],
    domains: Sequence[str],
    sides: Sequence[str],
) -> pa.Table:
    columns = [
        pa.array(part["row"]),
        pa.array(part["key"]),
        pa.array(list(domains), pa.string()).take(pa.array(part["domain"])),
        pa.array(list(sides), pa.string()).take(pa.array(side)),
        pa.array(part["n_bytes"]),
        pa.array(distinct),
    ]
    return pa.Table.from_arrays(columns, schema=_DOCUMENTS_SCHEMA)


def _sum_by(cell: IntArray, weights: npt.NDArray[Any] | None, n_cells: int) -> IntArray:
    """Sum integers by cell; exact, which `np.bincount` with weights is only below 2**53."""
    sums = np.zeros(n_cells, dtype=np.int64)
    np.add.at(sums, cell, 1 if weights is None else weights.astype(np.int64))
    return sums
