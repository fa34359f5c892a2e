"""Read documents that are token ids already: Megatron's ``.bin`` and ``.idx``, OLMo's ``.npy``.

Source: Megatron-LM, megatron/core/datasets/indexed_dataset.py; OLMo-core,
src/olmo_core/data/utils.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, Protocol

import numpy as np

from cuvee.arrays import IntArray
from cuvee.corpus.decoder import Decoder, TokenIds, open_decoder
from cuvee.corpus.pool import PoolConfig, Shard
from cuvee.corpus.rows import DocumentBatch, Gatherer, Wanted
from cuvee.corpus.streams import REMEDY, opened
from cuvee.corpus.token_bounds import MegatronIndex, has_bounds, read_bounds
from cuvee.errors import DataError

_WINDOW = 2**20  # ids read at a time
_DECODED = 2**18  # ids decoded at a time, or one document
_FEW = 16  # numbers that tell nothing of how wide they are
_NUMPY_MAGIC = b"\x93NUMPY"


def read_tokens(
    shard: Shard, config: PoolConfig, _: str | None, rows: IntArray | None
) -> Iterator[DocumentBatch]:
    """Read a shard of token ids as documents: their ids, and the text these decode to.

    Args:
        shard: Of a format of `TOKEN_FORMATS`.
        config: Its pool; ``tokenizer`` made the ids.
        rows: As of `read.read_batches`; documents are counted from 0.

    Yields:
        Batches with ``tokens``. Memory grows with a batch and its longest document, of which no
        more than ``max_document_bytes`` ids are kept.

    Raises:
        ConfigError: The tokenizer is missing or is none.
        DataError: A file is missing, truncated or damaged, or holds what its tokenizer or index
            cannot have made.
    """
    decoder = open_decoder(config.tokenizer or "")
    gatherer = Gatherer(shard, config)
    wanted = Wanted(rows)
    layouts = {"megatron": _open_megatron, "npy": _open_flat}
    with opened(shard.url) as file:
        windows, ends = layouts[shard.format](shard, file, decoder)
        found = _cut(windows, ends, longest=config.max_document_bytes)
        checked = (_check(one, shard, decoder) for one in found if wanted.has(one.row))
        for group in _groups(checked):
            _add(group, gatherer, decoder, config)
            yield from gatherer.full()
    yield from gatherer.rest()


@dataclass(frozen=True, slots=True)
class _Document:
    """One document of a file."""

    row: int
    n_tokens: int
    ids: TokenIds | None
    """None: longer than the limit, and not kept."""


class _Ends(Protocol):
    """Where documents end."""

    def within(self, window: TokenIds) -> list[int]:
        """Return the ends in the next window of ids, each one past a document's last id."""

    def finish(self, n_left: int) -> None:
        """Check, behind the last window, that there is no document without its end."""


def _open_megatron(
    shard: Shard, file: IO[bytes], decoder: Decoder
) -> tuple[Iterator[TokenIds], _Ends]:
    index = MegatronIndex(shard.url)
    n_bytes = file.seek(0, 2)
    file.seek(0)
    if n_bytes != index.n_tokens * index.dtype.itemsize:
        raise DataError(
            f"shard {shard.url} has {n_bytes} bytes, but its index {index.url} lists "
            f"{index.n_tokens} ids of {index.dtype.name}, {index.n_tokens * index.dtype.itemsize} "
            f"bytes: one of the two is truncated, or of another data set. {REMEDY}"
        )
    return _windows(file, index.dtype, shard), _Listed(index.ends(), shard, index.url)


def _open_flat(shard: Shard, file: IO[bytes], decoder: Decoder) -> tuple[Iterator[TokenIds], _Ends]:
    _check_head(file.read(_WINDOW), shard, decoder)
    file.seek(0)
    windows = _windows(file, decoder.dtype, shard)
    bounds = has_bounds(shard.url)
    if bounds is None:
        return windows, _Marked(shard, decoder)
    return windows, _Listed(read_bounds(bounds), shard, bounds)


def _check_head(head: bytes, shard: Shard, decoder: Decoder) -> None:
    """Refuse NumPy's own format, and ids of 4 bytes where the tokenizer's have 2."""
    if head.startswith(_NUMPY_MAGIC):
        raise DataError(
            f"shard {shard.url} has NumPy's header; allowed are raw ids, as OLMo's .npy files are. "
            "Write it again with numpy.load(...).tofile(...)."
        )
    low, high = np.frombuffer(head[: len(head) // 4 * 4], dtype="<u2").reshape(-1, 2).T
    may_be_ends = decoder.end_of_text == 0 and bool(low.all())  # documents of one id each
    is_wider = len(low) >= _FEW and low.any() and not high.any() and not may_be_ends
    if decoder.dtype.itemsize == 2 and is_wider:
        raise DataError(
            f"shard {shard.url} holds ids of 4 bytes, for every second number of 2 bytes is 0; "
            f"those of tokenizer {decoder.path}, which has {decoder.vocabulary_size} ids, must be "
            "of 2. Write the file again as uint16."
        )


def _windows(file: IO[bytes], dtype: "np.dtype[Any]", shard: Shard) -> Iterator[TokenIds]:
    """Read all ids, window by window, and an empty window at the end."""
    n_read = 0
    while content := file.read(_WINDOW * dtype.itemsize):
        n_read += len(content)
        if len(content) % dtype.itemsize:
            raise DataError(
                f"shard {shard.url} has {n_read} bytes, which are no whole number of "
                f"{dtype.name}: it is truncated, or holds other integers. {REMEDY}"
            )
        yield np.frombuffer(content, dtype=dtype)
    yield np.zeros(0, dtype=dtype)


class _Marked:
    """Ends told by the end-of-text id."""

    def __init__(self, shard: Shard, decoder: Decoder) -> None:
        self._shard = shard
        self._decoder = decoder

    def within(self, window: TokenIds) -> list[int]:
        ends: list[int] = (np.flatnonzero(window == self._decoder.end_of_text) + 1).tolist()
        return ends

    def finish(self, n_left: int) -> None:
        if n_left:
            raise DataError(
                f"shard {self._shard.url} does not end with end-of-text, which is the id "
                f"{self._decoder.end_of_text} of tokenizer {self._decoder.path}, and has no "
                f".csv.gz of document bounds beside it: the {n_left} ids at its end are of no "
                "whole document. Give the tokenizer that made it, put the bounds beside it, or "
                "copy it again if it is truncated."
            )


class _Listed:
    """Ends read from a list beside the ids."""

    def __init__(self, ends: Iterator[IntArray], shard: Shard, place: str) -> None:
        self._ends = ends
        self._shard = shard
        self._place = place
        self._waiting = np.zeros(0, dtype=np.int64)
        self._n_read = 0

    def within(self, window: TokenIds) -> list[int]:
        first, self._n_read = self._n_read, self._n_read + len(window)
        found: list[int] = []
        while True:
            n = int(np.searchsorted(self._waiting, self._n_read, side="right"))
            found += (self._waiting[:n] - first).tolist()
            self._waiting = self._waiting[n:]
            if len(self._waiting):
                return found
            chunk = next(self._ends, None)
            if chunk is None:
                return found
            self._waiting = chunk

    def finish(self, n_left: int) -> None:
        if n_left or len(self._waiting):
            how = "end before that" if n_left else "go on behind it"
            raise DataError(
                f"shard {self._shard.url} has {self._n_read} ids, but the documents that "
                f"{self._place} lists {how}: one of the two is truncated, or of another data set. "
                f"{REMEDY}"
            )


def _cut(windows: Iterator[TokenIds], ends: _Ends, *, longest: int) -> Iterator[_Document]:
    """Cut windows of ids in documents, of which at most ``longest`` ids are kept."""
    row, size = 0, 0
    parts: list[TokenIds] = []
    for window in windows:
        start = 0
        for stop in ends.within(window):
            size += stop - start
            parts.append(window[start:stop])
            yield _Document(row, size, np.concatenate(parts) if size <= longest else None)
            row, size, start, parts = row + 1, 0, stop, []
        size += len(window) - start
        parts = [*parts, window[start:]] if size <= longest else []
    ends.finish(size)


def _check(document: _Document, shard: Shard, decoder: Decoder) -> _Document:
    """Take the end-of-text off, and refuse ids that the tokenizer cannot have made."""
    ids = document.ids
    if ids is None or len(ids) == 0:
        return document
    size, end = decoder.vocabulary_size, decoder.end_of_text
    if ids.min() < 0 or ids.max() >= size:
        bad = int(ids[np.argmax((ids < 0) | (ids >= size))])
        raise DataError(
            f"shard {shard.url}: document {document.row} holds the id {bad}, but those of "
            f"tokenizer {decoder.path} lie in 0 to {size - 1}. Give the tokenizer that made the "
            f"file; {ids.dtype.name} is what it was read as."
        )
    body = ids[:-1] if ids[-1] == end else ids
    inside = np.flatnonzero(body == end)
    if len(inside):
        raise DataError(
            f"shard {shard.url}: document {document.row} holds end-of-text, the id {end} of "
            f"tokenizer {decoder.path}, at its id {inside[0]}, before its end: it is several "
            "documents. Write it again with the end of every document in its index."
        )
    return _Document(document.row, len(body), body)


def _groups(documents: Iterator[_Document]) -> Iterator[list[_Document]]:
    """Gather documents to be decoded together."""
    group: list[_Document] = []
    size = 0
    for document in documents:
        group.append(document)
        size += 0 if document.ids is None else max(1, len(document.ids))
        if size >= _DECODED:
            yield group
            group, size = [], 0
    if group:
        yield group


def _add(group: list[_Document], gatherer: Gatherer, decoder: Decoder, config: PoolConfig) -> None:
    """Decode documents and hand them on, those that were not kept as rejects."""
    texts = iter(decoder.decode([one.ids for one in group if one.ids is not None]))
    for one in group:
        if one.ids is None:
            gatherer.reject(
                one.row,
                "too_long",
                f"{one.n_tokens} ids; at most {config.max_document_bytes} are allowed "
                "(max_document_bytes)",
            )
            continue
        tokens = one.ids.astype(decoder.dtype, copy=False).tobytes()
        gatherer.add_tokens(one.row, tokens, next(texts))
