"""lineage.parquet of an export: the file and row of every copy of every document."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from cuvee.export.exporter import Chunk, Written

SCHEMA = pa.schema(
    {
        "id": pa.large_string(),
        "domain": pa.string(),
        "copy": pa.int32(),
        "file": pa.string(),
        "row": pa.int64(),
        "n_tokens": pa.int64(),
    }
)
_ROWS = 1 << 16


class LineageFile:
    """Appends what writers say; the pool's shard and row stand by id in pool_lineage.parquet."""

    def __init__(self, path: Path, domains: Sequence[str]) -> None:
        """Open the file.

        Args:
            path: Where.
            domains: Names by position.
        """
        self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")
        self._domains = pa.array(domains, pa.string())
        self._waiting: list[pa.Table] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._flush()
        self._writer.close()

    def add(self, chunk: Chunk, written: Written) -> None:
        """Say where the documents of a chunk went."""
        rows = chunk.rows
        columns = {
            "id": rows["id"],
            "domain": self._domains.take(rows["domain"].combine_chunks()),
            "copy": rows["copy"],
            "file": pa.array(written.files, pa.string()).take(pa.array(written.file)),
            "row": pa.array(written.row, pa.int64()),
            "n_tokens": rows["n_tokens"],
        }
        self._waiting.append(pa.table(columns, schema=SCHEMA))
        if sum(part.num_rows for part in self._waiting) >= _ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting).combine_chunks())
            self._waiting = []
