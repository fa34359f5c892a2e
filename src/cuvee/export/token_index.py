"""Where the tokens of the selected documents stand in the run's token store.

The index is made once, on disk, and mapped by every worker, so that no worker holds the store's
tables.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cuvee import artifacts
from cuvee.arrays import BoolArray, IntArray, KeyArray
from cuvee.corpus.encoder import Encoder
from cuvee.corpus.store import DOCUMENTS, IDS, SUMMARY
from cuvee.errors import ArtifactError
from cuvee.export.exporter import TokenArray
from cuvee.export.selection import LINEAGE, SelectionFiles
from cuvee.randomness import document_keys

INDEX_VERSION = 2
"""Of the files; told apart by the folder's name (`export.write`)."""
_ABOUT = "index.json"
_COLUMNS = ("key", "offset", "n_tokens", "n_bytes")


def write_index(folder: Path, selection: SelectionFiles, *, store: Path | None) -> Path:
    """Write the index of a selection, unless it is written.

    It costs some 40 bytes a selected document, and one pass over the store's tables.

    Args:
        folder: The index's artefact folder.
        selection: The selection.
        store: The token store of the export's tokenizer; without one no token stands anywhere, and
            all text is to be encoded.

    Returns:
        ``folder``.
    """
    if artifacts.is_done(folder):
        return folder
    keys = pq.read_table(selection.folder / LINEAGE, columns=["key"])["key"].to_numpy()
    keys = np.unique(np.asarray(keys, dtype=np.uint64))
    found = {name: np.zeros(len(keys), dtype=np.int64) for name in _COLUMNS[1:]}
    shard = np.full(len(keys), -1, dtype=np.int32)
    shards = [] if store is None else _shards(store)
    for number, name in enumerate(shards):
        assert store is not None
        table = pq.read_table(store / name / DOCUMENTS, columns=list(_COLUMNS))
        own = np.asarray(table["key"].to_numpy(), dtype=np.uint64)
        place, is_own = _search(keys, own)
        shard[place[is_own]] = number
        for column, values in found.items():
            values[place[is_own]] = table[column].to_numpy()[is_own]
    with artifacts.writing(folder, stage="export", settings={}, seed=0, inputs={}) as aside:
        np.save(aside / "key.npy", keys)
        np.save(aside / "shard.npy", shard)
        for column, values in found.items():
            np.save(aside / f"{column}.npy", values)
        about: dict[str, artifacts.Json] = {
            "shards": shards,
            "is_complete": bool(np.all(shard >= 0)),
        }
        artifacts.write_json(aside / _ABOUT, about)
    return folder


def _shards(store: Path) -> list[str]:
    summary = cast(dict[str, Any], artifacts.read_json(store / SUMMARY))
    return list(summary["shards"])


def _search(keys: KeyArray, wanted: KeyArray) -> tuple[IntArray, BoolArray]:
    """Find places of keys among sorted ones, and which are there at all."""
    if len(keys) == 0:
        return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=np.bool_)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return place.astype(np.int64), keys[place] == wanted


class TokenIndex:
    """The tokens of selected documents: from the store where they are there, else encoded anew."""

    def __init__(self, folder: Path, tokenizer: Path, store: Path | None) -> None:
        """Map an index.

        Args:
            folder: Written by `write_index`.
            tokenizer: The export's tokenizer.json.
            store: The token store it is of, if there is one.
        """
        about = cast(dict[str, Any], artifacts.read_json(folder / _ABOUT))
        self._key, self._shard, self._offset, self._n_tokens, self._n_bytes = (
            np.load(folder / f"{name}.npy", mmap_mode="r")
            for name in ("key", "shard", "offset", "n_tokens", "n_bytes")
        )
        self._store = store
        self._shards: list[str] = about["shards"]
        self.is_complete: bool = about["is_complete"]
        self._encoder = Encoder(tokenizer)

    def measure(self, rows: pa.Table) -> tuple[pa.Table, list[TokenArray | None]]:
        """Count tokens and bytes of documents.

        Args:
            rows: ``id`` and, unless the index is complete, ``text``.

        Returns:
            The rows with ``n_tokens`` and ``n_bytes``, and (n_documents,) ids of those documents
            that had to be encoded.
        """
        place, known = _search(self._key, document_keys(rows["id"].to_pylist()))
        known &= self._shard[place] >= 0
        n_tokens, n_bytes = self._n_tokens[place], self._n_bytes[place]
        if "text" in rows.column_names:
            sizes = pc.binary_length(rows["text"]).to_numpy().astype(np.int64)
            known &= sizes == n_bytes
            n_bytes = sizes
        encoded: list[TokenArray | None] = [None] * len(place)
        unknown = np.flatnonzero(~known)
        if len(unknown):
            texts = rows["text"].take(pa.array(unknown)).to_pylist()
            for position, ids in zip(unknown.tolist(), self._encode(texts), strict=True):
                encoded[position] = ids
                n_tokens[position] = len(ids)
        rows = rows.append_column("n_tokens", pa.array(n_tokens, pa.int64()))
        return rows.append_column("n_bytes", pa.array(n_bytes, pa.int64())), encoded

    def read(self, rows: pa.Table, encoded: Sequence[TokenArray | None]) -> list[TokenArray]:
        """Return (n_documents,) the ids of documents that were measured, end-of-text included.

        Raises:
            ArtifactError: A file of the token store is shorter than it was.
        """
        found = list(encoded)
        place, _ = _search(self._key, document_keys(rows["id"].to_pylist()))
        missing = np.flatnonzero([one is None for one in found])
        shard, offset, length = (
            array[place[missing]] for array in (self._shard, self._offset, self._n_tokens)
        )
        # Read, not mapped: pages of documents far apart would pile up in the worker's memory.
        for number in np.unique(shard).tolist():
            own = np.flatnonzero(shard == number)
            own = own[np.argsort(offset[own])]
            spans = zip(offset[own].tolist(), length[own].tolist(), strict=True)
            ids = self._of_shard(number, spans)
            for row, one in zip(missing[own].tolist(), ids, strict=True):
                found[row] = one
        return cast(list[TokenArray], found)

    def _encode(self, texts: Sequence[str]) -> list[TokenArray]:
        dtype = self._encoder.dtype
        end = np.asarray([self._encoder.end_of_text], dtype=dtype).tobytes()
        return [np.frombuffer(ids + end, dtype=dtype) for ids in self._encoder.encode(texts)]

    def _of_shard(self, shard: int, spans: Iterable[tuple[int, int]]) -> Iterator[TokenArray]:
        """Yield the ids at some offsets of a shard, by first id and number of ids."""
        assert self._store is not None, "an index without a store knows no document"
        path, dtype = self._store / self._shards[shard] / IDS, self._encoder.dtype
        with path.open("rb", buffering=0) as file:
            for first, length in spans:
                content = os.pread(file.fileno(), length * dtype.itemsize, first * dtype.itemsize)
                if len(content) < length * dtype.itemsize:
                    raise ArtifactError(
                        f"{path} is shorter than its documents; delete {path.parent} and run "
                        "`cuvee label` again."
                    )
                yield np.frombuffer(content, dtype=dtype)
