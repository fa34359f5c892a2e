"""Put more rows than memory holds into the order of their hash values."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cuvee.arrays import IntArray, KeyArray

SORT_COLUMNS = ("order", "key", "copy")
"""uint64 uniform hash value, then what decides between equal ones."""


class Buckets:
    """Rows waiting on disk in buckets of consecutive hash values, to be sorted one at a time.

    Buckets follow each other in order, so sorting each inside sorts all. Memory holds a buffer
    while rows are added and one bucket while they are taken out; the disk holds every row once.
    """

    def __init__(self, folder: Path, *, n_buckets: int, buffer_bytes: int) -> None:
        """Start empty.

        Args:
            folder: Where the buckets' files go; made here, the caller removes it.
            n_buckets: Number of equal ranges of the hash.
            buffer_bytes: Rows are written to their buckets when this much is waiting.
        """
        folder.mkdir()
        self._folder = folder
        self._n_buckets = n_buckets
        self._buffer_bytes = buffer_bytes
        self._waiting: list[pa.Table] = []
        self._waiting_bytes = 0

    def add(self, table: pa.Table) -> None:
        """Add rows; the table has the columns of `SORT_COLUMNS` and any others."""
        self._waiting.append(table)
        self._waiting_bytes += table.nbytes
        if self._waiting_bytes >= self._buffer_bytes:
            self._flush()

    def tables(self) -> Iterator[pa.Table]:
        """Yield all rows in order, one table a bucket; nothing may be added afterwards."""
        self._flush()
        for number in range(self._n_buckets):
            path = self._path(number)
            if path.exists():
                yield _sorted(_read(path))
                path.unlink()

    def _flush(self) -> None:
        """Append the waiting rows to their buckets' files, each time as one more Arrow stream."""
        if not self._waiting:
            return
        table = pa.concat_tables(self._waiting)
        self._waiting, self._waiting_bytes = [], 0
        bucket = _bucket(table["order"].to_numpy(), self._n_buckets)
        rows = np.argsort(bucket, kind="stable")
        ends = np.cumsum(np.bincount(bucket, minlength=self._n_buckets))
        for number in np.unique(bucket):
            start = ends[number - 1] if number else 0
            part = table.take(pa.array(rows[start : ends[number]]))
            with (
                self._path(int(number)).open("ab") as file,
                pa.ipc.new_stream(file, table.schema) as writer,
            ):
                writer.write_table(part)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}.arrows"


def pieces(tables: Iterable[pa.Table], *, limit: int, first: int) -> Iterator[tuple[int, pa.Table]]:
    """Cut a run of rows into shards of about equal text.

    A shard ends after the row that brings it to the limit, so the cuts depend on the rows alone and
    not on the tables they arrive in.

    Args:
        tables: Rows with a ``text`` column of type large_string.
        limit: UTF-8 bytes of text that complete a shard.
        first: Number of the first shard.

    Yields:
        Number of the shard and some of its rows; the parts of a shard follow each other.
    """
    number, filled = first, 0
    for table in tables:
        reached = np.cumsum(pc.binary_length(table["text"]).to_numpy().astype(np.int64))
        start, passed = 0, -filled
        while (row := int(np.searchsorted(reached, passed + limit))) < len(reached):
            yield number, table.slice(start, row + 1 - start)
            number, start, passed = number + 1, row + 1, int(reached[row])
        if start < len(reached):
            yield number, table.slice(start)
        filled = int(reached[-1]) - passed if len(reached) else filled


def _bucket(order: KeyArray, n_buckets: int) -> IntArray:
    """Return floor(order * n / 2^64) by its upper half, which is exact for n < 2^32."""
    upper = order >> np.uint64(32)
    return ((upper * np.uint64(n_buckets)) >> np.uint64(32)).astype(np.int64)


def _read(path: Path) -> pa.Table:
    tables = []
    size = path.stat().st_size
    with pa.OSFile(str(path)) as file:
        while file.tell() < size:
            with pa.ipc.open_stream(file) as reader:
                tables.append(reader.read_all())
    return pa.concat_tables(tables)


def _sorted(table: pa.Table) -> pa.Table:
    order, key, copy = (table[name].to_numpy() for name in SORT_COLUMNS)
    return table.take(pa.array(np.lexsort((copy, key, order))))
