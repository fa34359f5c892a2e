"""Files of text: JSON lines or Parquet, begun anew when they are full, read again by bytes."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cuvee.arrays import IntArray
from cuvee.errors import DataError
from cuvee.export.cutting import files_of, stretches
from cuvee.export.exporter import Chunk, FileSet, Place, Written

JSONL, PARQUET = ".jsonl", ".parquet"
PARQUET_SCHEMA = pa.schema(
    {
        "id": pa.large_string(),
        "text": pa.large_string(),
        "domain": pa.string(),
        "n_tokens": pa.int64(),
    }
)
_ROW_GROUP_BYTES = 32 << 20
_LINES_AT_A_TIME = 1024
_quoted = json.JSONEncoder(ensure_ascii=False).encode
"""Of a string alone; an object would be encoded in pure Python's steps, four times as slowly."""


class TextFiles(ABC):
    """Files of whole documents, cut by bytes of text."""

    suffix: str

    def __init__(self, folder: Path, files: FileSet, place: Place) -> None:
        """Start empty.

        Args:
            folder: The export.
            files: The set; its files stand in ``data/<set>``, made here.
            place: Domain names and the size that completes a file.
        """
        self._name = f"data/{files.name}"
        (folder / self._name).mkdir(parents=True)
        self._folder = folder
        self._limit = place.config.file_bytes
        self._domains = pa.array(place.domains, pa.string())
        self._files: list[str] = []
        self._filled, self._n_rows = 0, 0
        self._is_open = False

    def add(self, chunk: Chunk) -> Written:
        """Append documents."""
        sizes = np.asarray(chunk.rows["n_bytes"].to_numpy(), dtype=np.int64)
        number, row = np.zeros_like(sizes), np.zeros_like(sizes)
        for start, stop, is_full in stretches(sizes, filled=self._filled, limit=self._limit):
            if not self._is_open:
                self._begin()
            self._append(chunk.rows.slice(start, stop - start))
            number[start:stop] = len(self._files) - 1
            row[start:stop] = np.arange(stop - start) + self._n_rows
            self._filled += int(sizes[start:stop].sum())
            self._n_rows += stop - start
            if is_full:
                self.close()
        return Written(files=self._files, file=number, row=row)

    def close(self) -> None:
        """End the open file, if there is one."""
        if self._is_open:
            self._end()
        self._filled, self._n_rows, self._is_open = 0, 0, False

    def _begin(self) -> None:
        self._files.append(f"{self._name}/part-{len(self._files):05d}{self.suffix}")
        self._start(self._folder / self._files[-1])
        self._is_open = True

    @abstractmethod
    def _start(self, path: Path) -> None:
        """Open a file."""

    @abstractmethod
    def _append(self, rows: pa.Table) -> None:
        """Write documents to the open file."""

    @abstractmethod
    def _end(self) -> None:
        """Close the file."""


class JsonLines(TextFiles):
    """One object a line: text and id."""

    suffix = JSONL
    _file: IO[str]

    def _start(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", newline="\n")

    def _append(self, rows: pa.Table) -> None:
        texts, ids = rows["text"], rows["id"]
        for start in range(0, rows.num_rows, _LINES_AT_A_TIME):
            own = zip(
                texts.slice(start, _LINES_AT_A_TIME).to_pylist(),
                ids.slice(start, _LINES_AT_A_TIME).to_pylist(),
                strict=True,
            )
            self._file.writelines(
                f'{{"text": {_quoted(text)}, "id": {_quoted(name)}}}\n' for text, name in own
            )

    def _end(self) -> None:
        self._file.close()


class ParquetFiles(TextFiles):
    """Columns id, text, domain and n_tokens."""

    suffix = PARQUET
    _writer: pq.ParquetWriter

    def _start(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, PARQUET_SCHEMA, compression="zstd")
        self._waiting: list[pa.Table] = []

    def _append(self, rows: pa.Table) -> None:
        domain = self._domains.take(rows["domain"].combine_chunks())
        columns = {"id": rows["id"], "text": rows["text"], "domain": domain}
        table = pa.table({**columns, "n_tokens": rows["n_tokens"]}, schema=PARQUET_SCHEMA)
        self._waiting.append(table)
        if sum(one.nbytes for one in self._waiting) >= _ROW_GROUP_BYTES:
            self._flush()

    def _end(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting).combine_chunks())
            self._waiting = []


def text_lengths(folder: Path, files: FileSet, suffix: str) -> Iterator[IntArray]:
    """Read a set's files again and yield the bytes of their documents' text.

    Args:
        folder: The export.
        files: The set.
        suffix: Which files.

    Raises:
        DataError: A line is not one of those that were written.
    """
    for path in files_of(folder, f"data/{files.name}", suffix):
        if suffix == PARQUET:
            yield from _parquet_lengths(path)
        else:
            with path.open("rb") as lines:
                for line in lines:
                    yield np.array([_text_bytes(line, path)], dtype=np.int64)


def _parquet_lengths(path: Path) -> Iterator[IntArray]:
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["text"]):
                yield pc.binary_length(batch["text"]).to_numpy().astype(np.int64)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} is not the Parquet that was written. Export again.") from error


def _text_bytes(line: bytes, path: Path) -> int:
    try:
        return len(json.loads(line)["text"].encode("utf-8"))
    except (ValueError, KeyError) as error:
        raise DataError(f"{path} holds a line that is no document. Export again.") from error
