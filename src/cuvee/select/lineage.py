"""Where each document of a selection came from."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cuvee.select.reread import FoundDocuments
from cuvee.select.take import TakenDocuments

LINEAGE = "lineage.parquet"
LINEAGE_SCHEMA = pa.schema(
    {
        "key": pa.uint64(),
        "id": pa.string(),
        "shard": pa.string(),
        "row": pa.int64(),
        "copies": pa.int32(),
    }
)
_GROUP_ROWS = 1 << 16


def lineage_of(found: FoundDocuments, documents: TakenDocuments) -> pa.Table:
    """Say where documents came from; of text files, the file itself and row 0."""
    urls, rows = [found.shard.url] * len(found.row), found.row
    if found.shard.files:
        urls = [found.shard.files[row - found.shard.first_row] for row in found.row]
        rows = np.zeros_like(found.row)
    return pa.table(
        {
            "key": documents.key[found.place],
            "id": found.ids,
            "shard": urls,
            "row": rows,
            "copies": documents.copies[found.place].astype(np.int32),
        },
        schema=LINEAGE_SCHEMA,
    )


def write_lineage(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write tables as row groups of one size: bytes depend on the rows alone."""
    waiting = LINEAGE_SCHEMA.empty_table()
    with pq.ParquetWriter(path, LINEAGE_SCHEMA, compression="zstd") as writer:
        for table in tables:
            waiting = pa.concat_tables([waiting, table])
            while waiting.num_rows >= _GROUP_ROWS:
                writer.write_table(waiting.slice(0, _GROUP_ROWS).combine_chunks())
                waiting = waiting.slice(_GROUP_ROWS)
        if waiting.num_rows:
            writer.write_table(waiting.combine_chunks())


def read_lineages(paths: Sequence[Path]) -> Iterator[pa.Table]:
    """Read lineage files one after the other, streamed."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_GROUP_ROWS):
                yield pa.Table.from_batches([batch], schema=LINEAGE_SCHEMA)
