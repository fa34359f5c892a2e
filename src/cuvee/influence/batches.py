"""Documents laid out in sequences, so that scores do not depend on how.

A document is cut into windows of at most the context's length, each predicting every token after
its first (or every token, where the model has a start token). Windows are packed several to a
sequence, apart by segments, or one to a sequence with others of like length.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cuvee.arrays import IntArray
from cuvee.errors import DataError
from cuvee.influence.model import CausalModel

Document: TypeAlias = Sequence[int] | npt.NDArray[np.integer]
"""Token ids."""
_CHUNK_BATCHES = 8
"""Batches' worth of tokens that are read before they are laid out."""


@dataclass(frozen=True, slots=True)
class Span:
    """Where a window stands: tokens start to stop of a row."""

    row: int
    start: int
    stop: int
    document: int
    """Position in the chunk."""
    offset: int
    """Of the window in the document's predicted tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Sequences side by side. N = B * T tokens, padding included."""

    tokens: Tensor
    """(B, T) input ids; 0 in padding."""
    segments: Tensor
    """(B, T) number of the window in its row; padding has its own."""
    targets: Tensor
    """(N,) ids to be predicted; 0 in padding."""
    document: Tensor
    """(N,) position of the document in the chunk; n_documents in padding."""
    is_text: Tensor
    """(N,) False in padding."""
    spans: tuple[Span, ...]
    """Of all windows."""
    n_documents: int
    """Of the chunk."""


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Consecutive documents, and batches that hold all of their windows."""

    documents: list[IntArray]
    n_predicted: IntArray
    """(n_documents,) tokens whose loss counts."""
    layouts: list[list[Span]]
    model: CausalModel

    def batches(self) -> Iterator[Batch]:
        """Yield the batches on the model's device."""
        for spans in self.layouts:
            yield _batch(self, spans)

    def uniforms(self, batch: Batch, seed: int) -> Tensor:
        """Return (N,) uniform numbers that depend on seed, text and place in it only."""
        values = np.zeros(batch.tokens.shape, dtype=np.float64)
        for span in batch.spans:
            text = self.documents[span.document]
            key = hashlib.blake2b(text.tobytes(), digest_size=8, key=seed.to_bytes(8, "little"))
            words = [int.from_bytes(key.digest(), "little"), span.offset]
            rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))
            values[span.row, span.start : span.stop] = rng.random(span.stop - span.start)
        return torch.from_numpy(values).flatten().to(batch.tokens.device)


def chunks(model: CausalModel, documents: Iterable[Document]) -> Iterator[Chunk]:
    """Read documents a few batches' worth at a time and lay them out.

    Args:
        model: Says context, start token, layout and batch size.
        documents: Token ids of each.

    Raises:
        DataError: A document is not a row of token ids.
    """
    held: list[IntArray] = []
    n_tokens = 0
    for number, document in enumerate(documents):
        held.append(_as_ids(document, number))
        n_tokens += len(held[-1])
        if n_tokens >= _CHUNK_BATCHES * model.batch_tokens:
            yield _chunk(model, held)
            held, n_tokens = [], 0
    if held:
        yield _chunk(model, held)


def _as_ids(document: Document, number: int) -> IntArray:
    ids = np.asarray(document)
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        raise DataError(
            f"document {number} is an array of {ids.dtype} with shape {ids.shape}; a row of token "
            "ids is needed. Tokenise the text first."
        )
    return ids.astype(np.int64)


def _chunk(model: CausalModel, documents: list[IntArray]) -> Chunk:
    skipped = 0 if model.start is not None else 1
    n_predicted = np.array([max(len(ids) - skipped, 0) for ids in documents], dtype=np.int64)
    windows = [
        (document, offset, min(model.context, n_tokens - offset))
        for document, n_tokens in enumerate(n_predicted.tolist())
        for offset in range(0, n_tokens, model.context)
    ]
    windows.sort(key=lambda window: -window[2])  # stable: windows of a document stay in order
    rows = _packed(windows, model.context) if model.layout == "packed" else [[w] for w in windows]
    return Chunk(documents, n_predicted, _in_batches(rows, model.batch_tokens), model)


_Window: TypeAlias = tuple[int, int, int]


def _packed(windows: list[_Window], context: int) -> list[list[_Window]]:
    """Put windows, longest first, each into the fullest row that has room for it."""
    rows: list[list[_Window]] = []
    by_room: list[list[int]] = [[] for _ in range(context + 1)]
    for window in windows:
        length = window[2]
        room = next((room for room in range(length, context) if by_room[room]), context)
        if room < context:
            row = by_room[room].pop()
        else:
            row = len(rows)
            rows.append([])
        rows[row].append(window)
        by_room[room - length].append(row)
    return rows


def _in_batches(rows: list[list[_Window]], batch_tokens: int) -> list[list[Span]]:
    """Group rows so that no batch exceeds its tokens, padding included."""
    rows = sorted(rows, key=lambda row: -sum(window[2] for window in row))
    layouts: list[list[Span]] = []
    start = 0
    while start < len(rows):
        width = sum(window[2] for window in rows[start])
        stop = start + max(1, batch_tokens // max(width, 1))
        spans = []
        for row, windows in enumerate(rows[start:stop]):
            place = 0
            for document, offset, length in windows:
                spans.append(Span(row, place, place + length, document, offset))
                place += length
        layouts.append(spans)
        start = stop
    return layouts


def _batch(chunk: Chunk, spans: list[Span]) -> Batch:
    n_rows = max(span.row for span in spans) + 1
    width = max(span.stop for span in spans)
    n_documents = len(chunk.documents)
    tokens = np.zeros((n_rows, width), dtype=np.int64)
    targets = np.zeros_like(tokens)
    segments = np.full_like(tokens, len(spans))
    document = np.full_like(tokens, n_documents)
    first = 1 if chunk.model.start is not None else 0
    for number, span in enumerate(spans):
        ids = chunk.documents[span.document]
        begin, end = span.offset - first, span.offset - first + span.stop - span.start
        place = (span.row, slice(span.start, span.stop))
        tokens[place] = ids[begin:end] if begin >= 0 else [chunk.model.start, *ids[:end]]
        targets[place] = ids[begin + 1 : end + 1]
        segments[place] = number
        document[place] = span.document
    device = chunk.model.device
    parts = [torch.from_numpy(part).to(device) for part in (tokens, segments, targets, document)]
    return Batch(
        parts[0],
        parts[1],
        parts[2].flatten(),
        parts[3].flatten(),
        parts[3].flatten() < n_documents,
        tuple(spans),
        n_documents,
    )
