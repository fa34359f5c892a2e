"""Open shards anywhere, decompress them, and read lines in bounded memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Protocol, cast

import fsspec
import pyarrow as pa

from cuvee.errors import DataError

REMEDY = "Copy it again, or leave it out of shards; nothing of it is used."
_CHUNK = 2**20
_CODECS = {".gz": "gzip", ".zst": "zstd"}


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes; none at the end."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file."""

    number: int
    """Counted from 0."""
    content: bytes | None
    """Without its newline; None: longer than the limit, and not kept."""
    n_bytes: int
    """Length without the newline."""
    ended: bool
    """A newline followed."""


@contextmanager
def opened(url: str, *, key: str = "shards") -> Iterator[IO[bytes]]:
    """Open a file or URL for reading bytes, and name it when reading fails.

    Args:
        url: Path or URL.
        key: The setting that named it.

    Raises:
        DataError: It cannot be opened, or reading failed or found damaged data.
    """
    what = f"{key.removesuffix('s')} {url}"
    try:
        with fsspec.open(url, "rb") as file:
            yield file
    except FileNotFoundError as error:
        raise DataError(
            f"{what} does not exist (any more). Put it back, or correct {key}."
        ) from error
    except (pa.ArrowException, OSError, EOFError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(
            f"{what} is truncated, damaged or unreadable: {reason}. {REMEDY}"
        ) from error


@contextmanager
def decompressed(url: str) -> Iterator[Readable]:
    """Open a file or URL, decompressing it by its suffix (.gz, .zst).

    Raises:
        DataError: It cannot be opened, is cut off, or is damaged.
    """
    with opened(url) as file:
        codec = next((name for end, name in _CODECS.items() if url.lower().endswith(end)), None)
        if codec is None:
            yield file
            return
        # Zero bytes are no gzip or Zstandard stream at all, but decompress to nothing silently.
        if not file.read(1):
            raise DataError(
                f"shard {url} is truncated: it has 0 bytes, which is not {codec} data. {REMEDY}"
            )
        file.seek(0)
        with pa.CompressedInputStream(pa.PythonFile(file, mode="r"), codec) as stream:
            yield cast(Readable, stream)


def bounded_lines(stream: Readable, *, max_bytes: int) -> Iterator[Line]:
    """Read lines without ever holding more than the limit and one chunk.

    Args:
        stream: Where from.
        max_bytes: Longest line that is kept.

    Yields:
        Every line, those too long without their content.
    """
    number, size = 0, 0
    parts: list[bytes] = []
    while chunk := stream.read(_CHUNK):
        *ends, rest = chunk.split(b"\n")
        for piece in ends:
            size += len(piece)
            parts.append(piece)
            yield _line(number, parts, size, max_bytes, ended=True)
            number, size, parts = number + 1, 0, []
        size += len(rest)
        parts = [*parts, rest] if size <= max_bytes else []
    if size:
        yield _line(number, parts, size, max_bytes, ended=False)


def _line(number: int, parts: list[bytes], size: int, max_bytes: int, *, ended: bool) -> Line:
    return Line(number, b"".join(parts) if size <= max_bytes else None, size, ended)
