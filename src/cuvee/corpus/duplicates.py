"""Find duplicates over a whole pool in bounded memory: one range of key values at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cuvee.arrays import BoolArray, KeyArray
from cuvee.corpus.fingerprint import ContentDigest, SideDigests

# What is known of a document, one byte each; the side with or without REPEAT.
FIRST_SIDE, HELD_OUT, DROPPED, DUPLICATE_ID, EXCLUDED = 0, 1, 2, 3, 4
REPEAT = 8
SIDE_BITS = 7

DOCUMENTS_AT_ONCE = 2**21
_ROWS_READ = 2**16

Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScannedShard:
    """The document table of one scanned shard and its place among all documents."""

    path: Path
    """documents.parquet."""
    offset: int
    """Documents in the shards before it."""
    n_documents: int
    """Its documents."""


def is_used(marks: npt.NDArray[np.uint8]) -> BoolArray:
    """Tell which documents are neither `DUPLICATE_ID` nor `EXCLUDED`.

    Args:
        marks: (n_documents,)
    """
    used: BoolArray = (marks & SIDE_BITS) < DUPLICATE_ID
    return used


def read_columns(path: Path, names: Sequence[str], codes: dict[str, int]) -> Iterator[Columns]:
    """Read columns of a document table in pieces.

    Args:
        path: Parquet file.
        names: Columns.
        codes: Position of each domain name.

    Yields:
        Arrays by name; domain as positions, ids as objects.
    """
    with pq.ParquetFile(path, read_dictionary=["domain"] if "domain" in names else None) as file:
        for batch in file.iter_batches(batch_size=_ROWS_READ, columns=list(names)):
            yield {name: _array(batch.column(name), codes) for name in names}


def mark_duplicate_ids(
    scans: Sequence[ScannedShard],
    marks: npt.NDArray[np.uint8],
    codes: dict[str, int],
    *,
    within_domain: bool,
) -> None:
    """Mark all but one document of each id.

    Which one is kept follows from the documents' content, never from their place in the pool; where
    the content is the same it does not matter.

    Args:
        scans: All shards.
        marks: (n_documents,) set to `DUPLICATE_ID` where a document is not to be used.
        codes: Position of each domain name.
        within_domain: The same id in two domains is no duplicate.
    """
    names = ("key", "domain", "text_key_high", "text_key_low", "group_key")
    for part in _ranges(scans, "key", names, codes):
        major = ("key", "domain") if within_domain else ("key",)
        minor = [name for name in names if name not in major]
        order = np.lexsort([part[name] for name in ["position", *reversed(minor), *major]])
        same = np.ones(max(0, len(order) - 1), dtype=np.bool_)
        for name in major:
            same &= part[name][order][1:] == part[name][order][:-1]
        marks[part["position"][order[1:][same]]] = DUPLICATE_ID


def mark_sides(
    scans: Sequence[ScannedShard],
    marks: npt.NDArray[np.uint8],
    codes: dict[str, int],
    *,
    held_out: Callable[[KeyArray], BoolArray],
    content: ContentDigest,
    sides: SideDigests,
) -> None:
    """Divide the documents, dropping held-out texts that also stand on the other side.

    Args:
        scans: All shards.
        marks: (n_documents,) `DUPLICATE_ID` and `EXCLUDED` stay; others become `FIRST_SIDE`,
            `HELD_OUT` or `DROPPED`, plus `REPEAT` where another document of the same side and
            domain has the same text.
        codes: Position of each domain name.
        held_out: From group keys to sides.
        content: Receives all documents that are used.
        sides: Receives them with their sides.
    """
    names = ("text_key_high", "text_key_low", "domain", "group_key", "key")
    for part in _ranges(scans, "text_key_high", names, codes):
        used = is_used(marks[part["position"]])
        part = {name: values[used] for name, values in part.items()}
        high, low, domain = part["text_key_high"], part["text_key_low"], part["domain"]
        content.add(high, low, domain)
        side = held_out(part["group_key"])
        order = np.lexsort((part["position"], part["key"], side, domain, low, high))
        new_text = _changes(high[order], low[order])
        text = np.cumsum(new_text) - 1
        on_first_side = np.zeros(int(new_text.sum()), dtype=np.bool_)
        on_first_side[text[~side[order]]] = True
        repeat = ~_changes(high[order], low[order], domain[order], side[order])
        mark = np.where(side[order], np.where(on_first_side[text], DROPPED, HELD_OUT), FIRST_SIDE)
        sides.add(high[order], low[order], domain[order], mark)
        marks[part["position"][order]] = mark + REPEAT * repeat


def _ranges(
    scans: Sequence[ScannedShard], by: str, names: Sequence[str], codes: dict[str, int]
) -> Iterator[Columns]:
    """Gather the documents of each range of a key, ascending, with their ``position``."""
    n_documents = sum(scan.n_documents for scan in scans)
    n_ranges = -(-n_documents // DOCUMENTS_AT_ONCE)
    for index in range(n_ranges):
        low = np.uint64((index * 2**64) // n_ranges)
        high = np.uint64(((index + 1) * 2**64) // n_ranges - 1)
        parts = [part for scan in scans for part in _within(scan, by, (low, high), names, codes)]
        yield {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _within(
    scan: ScannedShard,
    by: str,
    bounds: tuple[np.uint64, np.uint64],
    names: Sequence[str],
    codes: dict[str, int],
) -> Iterator[Columns]:
    position = scan.offset
    for columns in read_columns(scan.path, names, codes):
        wanted = np.flatnonzero((columns[by] >= bounds[0]) & (columns[by] <= bounds[1]))
        yield {
            **{name: values[wanted] for name, values in columns.items()},
            "position": wanted + position,
        }
        position += len(columns[by])


def _changes(*columns: npt.NDArray[Any]) -> BoolArray:
    """Tell where sorted rows differ from the row before; the first one does."""
    first = np.ones(len(columns[0]), dtype=np.bool_)
    first[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return first


def _array(column: pa.Array, codes: dict[str, int]) -> npt.NDArray[Any]:
    if pa.types.is_dictionary(column.type):
        positions = np.asarray(
            [codes[name] for name in column.dictionary.to_pylist()], dtype=np.int64
        )
        return np.asarray(positions[column.indices.to_numpy()])
    return np.asarray(column.to_numpy(zero_copy_only=False))
