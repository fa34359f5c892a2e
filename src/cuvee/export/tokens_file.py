"""Reading written tokens again: documents end where end-of-text stands, which no text contains."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cuvee.arrays import IntArray
from cuvee.errors import DataError
from cuvee.export.exporter import FileSet, Place

CHUNK_TOKENS = 1 << 22


def document_lengths(
    ids: Iterable[npt.NDArray[np.integer[Any]]], files: FileSet, place: Place
) -> Iterator[IntArray]:
    """Yield the lengths of a set's documents, found by their end-of-text.

    Args:
        ids: The set's tokens in order, in arrays of any length.
        files: The set; what follows its tokens must be end-of-text, which fills the last sample.
        place: Says which id is end-of-text.

    Raises:
        DataError: There are fewer tokens than were written, or more than end-of-text behind them.
    """
    left, started = files.n_tokens, 0
    for part in ids:
        own, rest = part[:left], part[left:]
        if np.any(rest != place.end_of_text):
            raise DataError(
                f"set {files.name!r} holds more tokens than its documents. Export again."
            )
        left -= len(own)
        ends = np.flatnonzero(own == place.end_of_text) + 1
        if len(ends):
            yield np.diff(ends, prepend=-started).astype(np.int64)
            started = len(own) - int(ends[-1])
        else:
            started += len(own)
    if left or started:
        raise DataError(
            f"set {files.name!r} lacks {left + started:,} of {files.n_tokens:,} tokens. Export "
            "again."
        )


def read_ids(path: Path, dtype: npt.DTypeLike) -> Iterator[npt.NDArray[np.integer[Any]]]:
    """Yield the ids of a file of bare tokens, in arrays of bounded length.

    Raises:
        DataError: The file holds no whole number of tokens.
    """
    if path.stat().st_size % np.dtype(dtype).itemsize:
        raise DataError(f"{path} ends within a token. Export again.")
    ids = np.memmap(path, dtype=dtype, mode="r")
    for start in range(0, len(ids), CHUNK_TOKENS):
        yield ids[start : start + CHUNK_TOKENS]
