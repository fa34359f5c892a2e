"""The selection's parts, each divided by set of files: the resumable half of an export.

A part becomes a folder of its own: ``rows.arrow`` with a record batch for each set and each stretch
of rows, ``ids.bin`` with the tokens in the same order, and ``piece.json`` saying which batch is
whose. Writers then go through the pieces set by set, so neither open files nor memory grow with the
number of domains.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cuvee import artifacts
from cuvee.arrays import IntArray
from cuvee.artifacts import Json
from cuvee.errors import DataError
from cuvee.export.exporter import Chunk, TokenArray
from cuvee.export.token_index import TokenIndex

ROWS, IDS, PIECE = "rows.arrow", "ids.bin", "piece.json"
_ROWS_AT_A_TIME = 4096
_BYTES_AT_A_TIME = 64 << 20
"""Text, or eight times as many rows where only ids are read."""
_COUNTS = ("domain", "copy", "n_tokens", "n_bytes")


def make_piece(spec: Mapping[str, Json], folder: Path) -> None:
    """Divide one part of the selection by set; a task of `executors`.

    Args:
        spec: ``part`` (its path), ``index`` (of its tokens), ``store`` they stand in (None where
            there is none), ``tokenizer`` (the export's), ``domains`` (names), ``sets`` (number of
            the set of each domain in this part's phase), ``content``.
        folder: The piece's artefact folder.

    Raises:
        DataError: The part names a domain that mixture.json does not have.
    """
    store = cast("str | None", spec["store"])
    index = TokenIndex(
        Path(cast(str, spec["index"])),
        Path(cast(str, spec["tokenizer"])),
        Path(store) if store is not None else None,
    )
    set_of = np.asarray(spec["sets"], dtype=np.int64)
    has_text = spec["content"] == "text"
    path = Path(cast(str, spec["part"]))
    inputs = {"index": artifacts.digest_of(Path(cast(str, spec["index"])))}
    with (
        artifacts.writing(folder, stage="export", settings={}, seed=0, inputs=inputs) as aside,
        (aside / IDS).open("wb") as ids_file,
    ):
        batches: list[Json] = []
        writer: pa.RecordBatchFileWriter | None = None
        for table in _tables(path, with_text=has_text or not index.is_complete):
            rows, encoded = index.measure(_coded(table, cast(Sequence[str], spec["domains"]), path))
            ids = [] if has_text else index.read(rows, encoded)
            rows = rows if has_text or "text" not in rows.column_names else rows.drop(["text"])
            if writer is None:
                options = pa.ipc.IpcWriteOptions(compression="lz4")
                writer = pa.ipc.new_file(str(aside / ROWS), rows.schema, options=options)
            wanted = set_of[rows["domain"].to_numpy()]
            for number in np.unique(wanted).tolist():
                own = np.flatnonzero(wanted == number)
                part = rows.take(pa.array(own)).combine_chunks()
                (batch,) = part.to_batches()
                writer.write_batch(batch)
                if ids:
                    ids_file.write(np.concatenate([ids[row] for row in own.tolist()]).tobytes())
                n_tokens = int(pc.sum(part["n_tokens"]).as_py())
                batches.append([number, part.num_rows, n_tokens])
        if writer is not None:
            writer.close()
        artifacts.write_json(aside / PIECE, {"batches": batches})


def _tables(path: Path, *, with_text: bool) -> Iterator[pa.Table]:
    """Read a part in tables of bounded size."""
    columns = ["id", "domain", "copy", *(["text"] if with_text else [])]
    waiting: list[pa.RecordBatch] = []
    size = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS_AT_A_TIME, columns=columns):
            waiting.append(batch)
            size += batch.nbytes * (1 if with_text else 8)
            if size >= _BYTES_AT_A_TIME:
                yield pa.Table.from_batches(waiting)
                waiting, size = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting)


def _coded(table: pa.Table, domains: Sequence[str], path: Path) -> pa.Table:
    """Put positions in place of domain names, and long offsets in place of short ones."""
    code = pc.index_in(table["domain"], value_set=pa.array(domains))
    if code.null_count:
        name = table["domain"].filter(pc.is_null(code))[0].as_py()
        raise DataError(
            f"{path} holds documents of domain {name!r}, which the selection's mixture.json does "
            "not name. Delete the selection and run `cuvee select` again."
        )
    columns: dict[str, Any] = {
        "id": table["id"].cast(pa.large_string()),
        "domain": code.cast(pa.int32()),
        "copy": table["copy"],
    }
    if "text" in table.column_names:
        columns["text"] = table["text"].cast(pa.large_string())
    return pa.table(columns)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DomainCounts:
    """What was encoded, by domain."""

    n_copies: IntArray
    """(n_domains,) documents, every copy counted."""
    n_tokens: IntArray
    """(n_domains,) one end-of-text a copy included."""
    n_bytes: IntArray
    """(n_domains,) UTF-8 bytes of text."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pieces:
    """Finished pieces, in the order of the selection's parts."""

    folders: tuple[Path, ...]
    batches: tuple[IntArray, ...]
    """(n_pieces,) of (n_batches, 3): set, rows and tokens of each batch."""
    dtype: np.dtype[np.unsignedinteger[Any]]
    content: str

    @classmethod
    def open(
        cls, folders: Sequence[Path], *, dtype: np.dtype[np.unsignedinteger[Any]], content: str
    ) -> Self:
        """Open pieces that are all done."""
        found = [cast(dict[str, Any], artifacts.read_json(one / PIECE)) for one in folders]
        batches = [np.asarray(one["batches"], dtype=np.int64).reshape(-1, 3) for one in found]
        return cls(folders=tuple(folders), batches=tuple(batches), dtype=dtype, content=content)

    def totals(self, n_sets: int) -> tuple[IntArray, IntArray]:
        """Return (n_sets,) rows and (n_sets,) tokens."""
        n_rows, n_tokens = np.zeros(n_sets, dtype=np.int64), np.zeros(n_sets, dtype=np.int64)
        for batches in self.batches:
            np.add.at(n_rows, batches[:, 0], batches[:, 1])
            np.add.at(n_tokens, batches[:, 0], batches[:, 2])
        return n_rows, n_tokens

    def chunks(self, number: int) -> Iterator[Chunk]:
        """Yield the documents of a set, in the selection's order."""
        for folder, batches in zip(self.folders, self.batches, strict=True):
            wanted = np.flatnonzero(batches[:, 0] == number)
            if len(wanted) == 0:
                continue
            ends = np.cumsum(batches[:, 2])
            with pa.memory_map(str(folder / ROWS)) as source, pa.ipc.open_file(source) as reader:
                for place in wanted.tolist():
                    rows = pa.Table.from_batches([reader.get_batch(place)])
                    stop = int(ends[place])
                    yield Chunk(
                        rows=rows, ids=self._ids(folder, stop - int(batches[place, 2]), stop)
                    )

    def counts(self, number: int) -> Iterator[pa.Table]:
        """Yield domain, copy, n_tokens and n_bytes of the documents of a set, in order."""
        for folder, batches in zip(self.folders, self.batches, strict=True):
            yield from _read_counts(folder, np.flatnonzero(batches[:, 0] == number).tolist())

    def counted(self, n_domains: int) -> DomainCounts:
        """Count documents, tokens and bytes by domain."""
        found = np.zeros((3, n_domains), dtype=np.int64)
        for folder, batches in zip(self.folders, self.batches, strict=True):
            for table in _read_counts(folder, range(len(batches))):
                domain = table["domain"].to_numpy()
                np.add.at(found[0], domain, 1)
                np.add.at(found[1], domain, table["n_tokens"].to_numpy())
                np.add.at(found[2], domain, table["n_bytes"].to_numpy())
        return DomainCounts(n_copies=found[0], n_tokens=found[1], n_bytes=found[2])

    def _ids(self, folder: Path, start: int, stop: int) -> TokenArray:
        if self.content == "text":
            return np.empty(0, dtype=self.dtype)
        return np.fromfile(
            folder / IDS, dtype=self.dtype, count=stop - start, offset=start * self.dtype.itemsize
        )


def _read_counts(folder: Path, wanted: Sequence[int]) -> Iterator[pa.Table]:
    """Yield the columns of counts of some batches of a piece."""
    if not wanted:
        return
    with pa.memory_map(str(folder / ROWS)) as source:
        with pa.ipc.open_file(source) as whole:
            fields = [whole.schema.get_field_index(name) for name in _COUNTS]
        options = pa.ipc.IpcReadOptions(included_fields=fields)
        with pa.ipc.open_file(source, options=options) as reader:
            for place in wanted:
                yield pa.Table.from_batches([reader.get_batch(place)])
