"""Where the documents of a token file end, by the file beside it."""

import struct
from collections.abc import Iterator, Mapping
from typing import IO, Any

import fsspec
import numpy as np

from cuvee.arrays import IntArray
from cuvee.corpus.streams import REMEDY, Line, bounded_lines, decompressed, opened
from cuvee.errors import DataError

_MAGIC = b"MMIDIDX\x00\x00"
_HEAD = "<QBQQ"  # version, code of the integers, sequences, documents and one
_DTYPES: Mapping[int, str] = {1: "|u1", 2: "|i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
_AT_A_TIME = 2**16
_LONGEST_LINE = 2**20


class MegatronIndex:
    """A ``.idx``: lengths and places of sequences, and which of them make a document.

    Attributes:
        url: The file.
        dtype: Integers of the ``.bin`` beside it.
        n_tokens: Ids of all its sequences.
    """

    def __init__(self, url: str) -> None:
        """Read the head.

        Args:
            url: Of the ``.bin``.

        Raises:
            DataError: It has no index beside it, or one that is truncated or of another kind.
        """
        self.url = f"{url.removesuffix('.bin')}.idx"
        if not _exists(self.url):
            raise DataError(
                f"shard {url} has no {self.url} beside it, which says where its documents end; "
                "the .bin and the .idx are read together. Put it there, or leave the .bin out of "
                "shards."
            )
        with opened(self.url) as file:
            self.dtype, self._n_sequences, self._n_ends = self._read_head(file)
            last = self._n_sequences - 1
            self.n_tokens = 0
            if last >= 0:
                n_bytes = int(self._offsets(file, last, last + 1)[0])
                self.n_tokens = n_bytes // self.dtype.itemsize
                self.n_tokens += int(self._lengths(file, last, last + 1)[0])

    def ends(self) -> Iterator[IntArray]:
        """Yield where documents end, in ids from the start of the ``.bin``; chunks, ascending.

        Raises:
            DataError: The index contradicts itself.
        """
        with opened(self.url) as file:
            n_before = 0
            last = self._documents(file, 0, 1)[0]
            self._require(last == 0, "its first document does not begin with its first sequence")
            for start in range(1, self._n_ends + 1, _AT_A_TIME):
                places = self._documents(file, start, min(start + _AT_A_TIME, self._n_ends + 1))
                is_ordered = places[0] >= last and bool(np.all(np.diff(places) >= 0))
                self._require(
                    is_ordered and places[-1] <= self._n_sequences,
                    "its documents are not in order of its sequences",
                )
                lengths = self._lengths(file, int(last), int(places[-1]))
                bounds = n_before + np.concatenate([[0], np.cumsum(lengths)])
                offsets = self._offsets(file, int(last), int(places[-1]))
                self._require(
                    bool(np.all(lengths >= 0))
                    and np.array_equal(offsets, bounds[:-1] * self.dtype.itemsize),
                    "its sequences do not follow each other",
                )
                yield bounds[places - last]
                n_before, last = int(bounds[-1]), places[-1]
            self._require(last == self._n_sequences, "its last sequences are of no document")

    def _read_head(self, file: IO[bytes]) -> tuple["np.dtype[Any]", int, int]:
        """Return the dtype, the number of sequences and that of documents."""
        head = file.read(len(_MAGIC) + struct.calcsize(_HEAD))
        if not head.startswith(_MAGIC) or len(head) < len(_MAGIC) + struct.calcsize(_HEAD):
            raise DataError(
                f"index {self.url} begins with {head[:9]!r}; one of Megatron's indexed data sets "
                f"begins with {_MAGIC!r}, version and counts. {REMEDY}"
            )
        version, code, n_sequences, n_documents = struct.unpack(_HEAD, head[len(_MAGIC) :])
        self._require(version == 1, f"its version is {version}; 1 is the one that is known")
        self._require(
            code in _DTYPES,
            f"its ids are of type {code}; allowed are the integers, "
            f"{', '.join(f'{known} ({np.dtype(name)})' for known, name in _DTYPES.items())}",
        )
        self._require(n_documents >= 1, "it has no list of documents")
        needed = len(head) + 12 * n_sequences + 8 * n_documents
        n_bytes = file.seek(0, 2)
        self._require(
            n_bytes in (needed, needed + n_sequences),  # a byte more of each: its mode
            f"it has {n_bytes} bytes, but {n_sequences} sequences and {n_documents - 1} documents "
            f"take {needed}: it is truncated or damaged",
        )
        return np.dtype(_DTYPES[code]), n_sequences, n_documents - 1

    def _lengths(self, file: IO[bytes], start: int, stop: int) -> IntArray:
        return self._array(file, 0, "<i4", start, stop)

    def _offsets(self, file: IO[bytes], start: int, stop: int) -> IntArray:
        return self._array(file, 4 * self._n_sequences, "<i8", start, stop)

    def _documents(self, file: IO[bytes], start: int, stop: int) -> IntArray:
        return self._array(file, 12 * self._n_sequences, "<i8", start, stop)

    @staticmethod
    def _array(file: IO[bytes], place: int, dtype: str, start: int, stop: int) -> IntArray:
        """Read a part of one of the lists, which begins at a place behind the head."""
        size = np.dtype(dtype).itemsize
        file.seek(len(_MAGIC) + struct.calcsize(_HEAD) + place + start * size)
        return np.frombuffer(file.read((stop - start) * size), dtype=dtype).astype(np.int64)

    def _require(self, is_so: object, fault: str) -> None:
        if not is_so:
            raise DataError(f"index {self.url}: {fault}. {REMEDY}")


def has_bounds(url: str) -> str | None:
    """Return the ``.csv.gz`` of document bounds beside a token file, if there is one.

    Args:
        url: Of the token file.
    """
    place = f"{url.removesuffix('.npy')}.csv.gz"
    return place if _exists(place) else None


def read_bounds(url: str) -> Iterator[IntArray]:
    """Yield where documents end, in ids from the start of the file; chunks, ascending.

    Args:
        url: A ``.csv.gz`` of lines ``start,end``; further columns are passed over.

    Raises:
        DataError: It is damaged, or the documents do not follow each other.
    """
    ends: list[int] = []
    before = 0
    with decompressed(url) as stream:
        for line in bounded_lines(stream, max_bytes=_LONGEST_LINE):
            before = _end_of(line, before, url)
            ends.append(before)
            if len(ends) == _AT_A_TIME:
                yield np.asarray(ends, dtype=np.int64)
                ends = []
    yield np.asarray(ends, dtype=np.int64)


def _end_of(line: Line, before: int, url: str) -> int:
    """Return a line's end; it must start where the line before ends."""
    fields = (line.content or b"").split(b",", 2)
    is_sound = len(fields) >= 2 and all(field.strip().isdigit() for field in fields[:2])
    if not is_sound or not int(fields[0]) == before <= int(fields[1]):
        raise DataError(
            f"bounds {url}: line {line.number} is {line.content or b''!r:.60}; it must be "
            f"start,end of a document, beginning at {before}. {REMEDY}"
        )
    return int(fields[1])


def _exists(url: str) -> bool:
    filesystem, path = fsspec.core.url_to_fs(url)
    return bool(filesystem.exists(path))
