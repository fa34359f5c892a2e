"""Make a large pool out of a small one: its documents again and again, with fresh ids.

``python -m benchmarks.make_pool DIR --gigabytes 10 --corpus ../shared/data/corpus``

Text is streamed, so memory stays small whatever the size. Every copy of a text is equal to the
first, so validation keeps only what never occurs in training: label such a pool for its speed and
memory, not for its split.
"""

import argparse
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

CORPUS = Path(__file__).resolve().parents[2] / "shared" / "data" / "corpus"
_COLUMNS = ("id", "text", "domain")
_ROWS = 1024


def make_pool(folder: Path, *, corpus: Path, n_bytes: int, shard_bytes: int) -> int:
    """Write Parquet shards of the corpus' documents, repeated.

    Args:
        folder: Where the shards are written; must not hold any.
        corpus: Folder of Parquet files with columns id, text and domain.
        n_bytes: UTF-8 bytes of text to write, reached within one batch of rows.
        shard_bytes: Bytes of text in a shard.

    Returns:
        Bytes of text written.

    Raises:
        SystemExit: The corpus has no Parquet files, or the folder already has some.
    """
    files = sorted(corpus.glob("*.parquet"))
    if not files:
        raise SystemExit(f"{corpus} holds no .parquet files; give a folder of them by --corpus.")
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("*.parquet")):
        raise SystemExit(f"{folder} already holds .parquet files; give an empty folder.")
    schema = pa.schema([(name, pa.string()) for name in _COLUMNS])
    batches = _copies(files, schema)
    n_written = 0
    for number in count():
        if n_written >= n_bytes:
            return n_written
        in_shard = 0
        with pq.ParquetWriter(
            folder / f"pool-{number:05d}.parquet", schema, compression="zstd"
        ) as writer:
            while in_shard < min(shard_bytes, n_bytes - n_written):
                table = next(batches)
                writer.write_table(table)
                in_shard += pc.sum(pc.binary_length(table["text"])).as_py()
        n_written += in_shard
    raise AssertionError  # count() does not end


def _copies(files: list[Path], schema: pa.Schema) -> Iterator[pa.Table]:
    for copy in count():
        for path in files:
            for batch in pq.ParquetFile(path).iter_batches(_ROWS, columns=list(_COLUMNS)):
                table = pa.Table.from_batches([batch]).cast(schema)
                fresh = pc.binary_join_element_wise(table["id"], f"copy{copy}", "~")
                yield table.set_column(0, "id", fresh)


def main() -> None:
    """Read the command line and make the pool."""
    parser = argparse.ArgumentParser(description=make_pool.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=10.0, help="10^9 bytes of text")
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--shard-megabytes", type=float, default=256.0)
    options = parser.parse_args()
    n_bytes = make_pool(
        options.folder,
        corpus=options.corpus,
        n_bytes=int(options.gigabytes * 1e9),
        shard_bytes=int(options.shard_megabytes * 1e6),
    )
    n_shards = len(list(options.folder.glob("*.parquet")))
    print(f"{n_bytes / 1e9:.2f} GB of text in {n_shards} shards below {options.folder}")


if __name__ == "__main__":
    main()
