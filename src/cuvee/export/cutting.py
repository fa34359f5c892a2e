"""Cut a run of documents into files of about equal size, at documents' ends."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from cuvee.arrays import IntArray
from cuvee.export.exporter import Chunk, FileSet, Written
from cuvee.export.tokens_file import read_ids


def stretches(sizes: IntArray, *, filled: int, limit: int) -> Iterator[tuple[int, int, bool]]:
    """Cut documents where a file is full: behind the one that brings it to the limit.

    So cuts depend on the documents alone, and not on the chunks they arrive in.

    Args:
        sizes: (n_documents,) in the limit's unit.
        filled: What the open file holds already.
        limit: Size that completes a file.

    Yields:
        First document, one past the last, and whether the file is complete with them.
    """
    reached = np.cumsum(sizes)
    start, passed = 0, -filled
    while (last := int(np.searchsorted(reached, passed + limit))) < len(sizes):
        yield start, last + 1, True
        start, passed = last + 1, int(reached[last])
    if start < len(sizes):
        yield start, len(sizes), False


class TokenFiles:
    """Files of bare token ids, each ending with a document; a side-car is written at its end."""

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        suffix: str,
        dtype: npt.DTypeLike,
        file_bytes: int,
        on_close: Callable[[Path, IntArray], None],
    ) -> None:
        """Start empty.

        Args:
            folder: The export.
            name: Folder of the files, relative to the export; made here.
            suffix: What file names end in.
            dtype: Type of the ids in the files.
            file_bytes: Size that completes a file.
            on_close: Called with each complete file and its documents' lengths in tokens.
        """
        (folder / name).mkdir(parents=True)
        self._folder, self._name, self._suffix = folder, name, suffix
        self._dtype = np.dtype(dtype)
        self._limit = max(1, file_bytes // self._dtype.itemsize)
        self._on_close = on_close
        self._files: list[str] = []
        self._file: IO[bytes] | None = None
        self._lengths: list[IntArray] = []

    def add(self, chunk: Chunk) -> Written:
        """Append documents."""
        lengths = chunk.n_tokens
        ends = np.concatenate([[0], np.cumsum(lengths)])
        ids = chunk.ids.astype(self._dtype, copy=False)
        number, row = np.zeros_like(lengths), np.zeros_like(lengths)
        for start, stop, is_full in stretches(lengths, filled=self._n_tokens(), limit=self._limit):
            file = self._open()
            file.write(ids[ends[start] : ends[stop]].tobytes())
            number[start:stop] = len(self._files) - 1
            row[start:stop] = np.arange(stop - start) + sum(map(len, self._lengths))
            self._lengths.append(lengths[start:stop])
            if is_full:
                self.close()
        return Written(files=self._files, file=number, row=row)

    def close(self) -> None:
        """End the open file, if there is one."""
        if self._file is not None:
            self._file.close()
            self._on_close(self._folder / self._files[-1], np.concatenate(self._lengths))
        self._file, self._lengths = None, []

    def _open(self) -> IO[bytes]:
        if self._file is None:
            self._files.append(f"{self._name}/part-{len(self._files):05d}{self._suffix}")
            self._file = (self._folder / self._files[-1]).open("wb")
        return self._file

    def _n_tokens(self) -> int:
        return sum(int(part.sum()) for part in self._lengths)


def files_of(folder: Path, name: str, suffix: str) -> list[Path]:
    """Return a set's files in order; numbers may have outgrown their zeros."""
    found = (folder / name).glob(f"part-*{suffix}")
    return sorted(found, key=lambda path: (len(path.name), path.name))


def read_files(paths: list[Path], dtype: npt.DTypeLike) -> Iterator[npt.NDArray[np.integer[Any]]]:
    """Yield the ids of files of bare tokens, one after another."""
    for path in paths:
        yield from read_ids(path, dtype)


def unread_note(folder: Path, sets: Sequence[FileSet], suffix: str, sample_bytes: int) -> list[str]:
    """Say how much stands behind the last whole sample of each file, which no trainer reads.

    Args:
        folder: The export.
        sets: Those whose files are bare tokens.
        suffix: What their names end in.
        sample_bytes: Size of a sample.
    """
    paths = [path for one in sets for path in files_of(folder, f"data/{one.name}", suffix)]
    n_bytes = sum(path.stat().st_size % sample_bytes for path in paths)
    if n_bytes == 0:
        return []
    total = sum(path.stat().st_size for path in paths)
    return [
        f"behind the last whole sequence of a file, and not read: {n_bytes / total:.4%} of tokens"
    ]
