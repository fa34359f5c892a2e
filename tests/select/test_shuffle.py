"""Sorting on disk: the order is that of a sort in memory, and memory stays bounded."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cuvee.randomness import stream
from cuvee.select.shuffle import SORT_COLUMNS, Buckets, pieces


def _rows(n_rows: int, *, n_bytes: int = 20) -> pa.Table:
    rng = stream(0, "rows")
    return pa.table(
        {
            "order": rng.integers(2**64, size=n_rows, dtype=np.uint64),
            "key": np.arange(n_rows, dtype=np.uint64),
            "copy": rng.integers(3, size=n_rows, dtype=np.int32),
            "text": pa.array([f"{row:0{n_bytes}d}" for row in range(n_rows)], pa.large_string()),
        }
    )


@pytest.mark.parametrize(("n_buckets", "buffer_bytes"), [(1, 10**9), (7, 500), (300, 5000)])
def test_buckets_sort_like_memory(tmp_path: Path, n_buckets: int, buffer_bytes: int) -> None:
    """Whatever the buckets and the buffer, all rows come back sorted."""
    rows = _rows(1000)
    buckets = Buckets(tmp_path / "b", n_buckets=n_buckets, buffer_bytes=buffer_bytes)
    for start in range(0, 1000, 90):
        buckets.add(rows.slice(start, 90))
    found = pa.concat_tables(buckets.tables())
    columns = [rows[name].to_numpy() for name in reversed(SORT_COLUMNS)]
    assert found.equals(rows.take(pa.array(np.lexsort(columns))))
    assert list((tmp_path / "b").iterdir()) == []


def test_equal_hash_values_are_ordered_by_key_and_copy(tmp_path: Path) -> None:
    """Ties have a fixed order, so that bytes do not depend on how rows arrive."""
    same = _rows(6).set_column(0, "order", pa.array(np.full(6, 2**63, dtype=np.uint64)))
    buckets = Buckets(tmp_path / "b", n_buckets=3, buffer_bytes=1)
    for row in (4, 2, 0, 5, 1, 3):
        buckets.add(same.slice(row, 1))
    assert pa.concat_tables(buckets.tables())["key"].to_pylist() == [0, 1, 2, 3, 4, 5]


def test_memory_holds_the_buffer_or_one_bucket(tmp_path: Path) -> None:
    """Arrow's allocations stay a small multiple of a bucket while 8 MB pass through."""
    rows = _rows(8000, n_bytes=1000)
    before = pa.default_memory_pool()
    watched = pa.proxy_memory_pool(before)
    pa.set_memory_pool(watched)
    try:
        buckets = Buckets(tmp_path / "b", n_buckets=64, buffer_bytes=128 << 10)
        for start in range(0, 8000, 50):
            buckets.add(rows.slice(start, 50).take(pa.array(np.arange(50))))
        n_rows = sum(table.num_rows for table in buckets.tables())
    finally:
        pa.set_memory_pool(before)
    assert n_rows == 8000
    assert watched.max_memory() < 1 << 20


@pytest.mark.parametrize("step", [1, 3, 50])
def test_shards_are_cut_by_rows_not_by_arrival(step: int) -> None:
    """A shard ends after the row that brings it to the limit."""
    rows = _rows(50)
    parts = pieces((rows.slice(i, step) for i in range(0, 50, step)), limit=190, first=4)
    sizes: dict[int, int] = {}
    for number, part in parts:
        sizes[number] = sizes.get(number, 0) + part.num_rows
    assert sizes == {4: 10, 5: 10, 6: 10, 7: 10, 8: 10}


def test_a_long_row_fills_a_shard_alone() -> None:
    """Rows longer than the limit are written whole."""
    table = pa.table({"text": pa.array(["x" * 5, "y" * 100, "z", "z"], pa.large_string())})
    found = [(number, part.num_rows) for number, part in pieces([table], limit=10, first=0)]
    assert found == [(0, 2), (1, 2)]


def test_empty_tables_leave_the_count_alone() -> None:
    """An empty bucket between two others does not start a shard."""
    table = pa.table({"text": pa.array(["abc"], pa.large_string())})
    found = list(pieces([table, table.slice(1), table, table], limit=6, first=0))
    assert [number for number, _ in found] == [0, 0, 1]
