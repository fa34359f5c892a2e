"""Megatron-LM, Megatron-Bridge and NeMo: ``.bin``, ``.idx`` and the blend's arguments.

Source: Megatron-LM, megatron/core/datasets/indexed_dataset.py and blended_dataset.py.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from cuvee import artifacts
from cuvee.arrays import IntArray
from cuvee.artifacts import Json
from cuvee.errors import ConfigError, DataError
from cuvee.export.exporter import (
    Chunk,
    Content,
    ExportConfig,
    FileSet,
    Layout,
    Place,
    Written,
    by_phase,
    phase_suffix,
    token_shares,
)
from cuvee.export.tokens_file import document_lengths, read_ids

_MAGIC = b"MMIDIDX\x00\x00"
_CODES = {"<i4": 4, "<u2": 8}
_SMALL_VOCABULARY = 65_500
"""Below it Megatron keeps ids as uint16, from it on as int32."""
_LENGTHS_AT_A_TIME = 1 << 20


@dataclass(frozen=True, slots=True)
class Megatron:
    """Indexed data sets, a prefix a set, and the list of weights and prefixes."""

    name: str = "megatron"
    title: str = "Megatron-LM, Megatron-Bridge, NeMo"
    content: Content = "tokens"
    layouts: tuple[Layout, ...] = ("domains", "mixed")
    max_sets: int | None = 32_766

    def smallest(self, config: ExportConfig) -> int:
        """A sample is one sequence and the token after it."""
        return config.context + 1

    def check(self, place: Place) -> None:
        """Refuse white space, at which the list of prefixes is split."""
        if any(char.isspace() for char in place.root):
            raise ConfigError(
                f"{place.root!r} holds white space, at which Megatron splits its list of data "
                "sets. Choose another --dest, or give --root."
            )

    @contextmanager
    def writer(self, folder: Path, files: FileSet, place: Place) -> Iterator["_Writer"]:
        """Write ``data/<set>.bin``, then ``data/<set>.idx``."""
        (folder / "data").mkdir(exist_ok=True)
        waiting = folder / "data" / f"{files.name}.lengths"
        with (folder / "data" / f"{files.name}.bin").open("wb") as ids, waiting.open("wb") as own:
            yield _Writer(f"data/{files.name}.bin", ids, own, _dtype(place))
        _write_index(folder / "data" / f"{files.name}.idx", waiting, _dtype(place))
        waiting.unlink()

    def describe(self, folder: Path, sets: Sequence[FileSet], place: Place) -> Mapping[str, Json]:
        """Write ``blend.txt`` for --data-args-path, and ``blend.json`` for the per-split one."""
        for phase, own in enumerate(by_phase(sets, place)):
            pairs = blend(token_shares(own), [f"{place.root}/data/{one.name}" for one in own])
            suffix = phase_suffix(phase, place)
            artifacts.write_text(folder / f"blend{suffix}.txt", " ".join(pairs) + "\n")
            splits: Json = {"train": pairs, "valid": None, "test": None}
            artifacts.write_json(folder / f"blend{suffix}.json", splits)
        usage = f"--data-args-path {place.root}/blend{phase_suffix(0, place)}.txt"
        return {"dtype": _dtype(place).name, "usage": usage}

    def lengths(self, folder: Path, files: FileSet, place: Place) -> Iterator[IntArray]:
        """Read the index and the tokens again; both must tell the same documents."""
        dtype = _dtype(place)
        path = folder / "data" / f"{files.name}.bin"
        listed = _read_lengths(folder / "data" / f"{files.name}.idx", dtype)
        done = 0
        for found in document_lengths(read_ids(path, dtype), files, place):
            if not np.array_equal(listed[done : done + len(found)], found):
                raise DataError(f"{path} and its index differ. Export again.")
            done += len(found)
            yield found
        if done != len(listed):
            raise DataError(f"{path} and its index differ. Export again.")


@dataclass(slots=True)
class _Writer:
    file: str
    ids: IO[bytes]
    lengths: IO[bytes]
    dtype: np.dtype[Any]
    done: int = 0

    def add(self, chunk: Chunk) -> Written:
        """Append documents, a sequence each."""
        self.ids.write(chunk.ids.astype(self.dtype, copy=False).tobytes())
        self.lengths.write(chunk.n_tokens.astype("<i4").tobytes())
        row = np.arange(self.done, self.done + chunk.rows.num_rows)
        self.done += len(row)
        return Written(files=(self.file,), file=np.zeros_like(row), row=row)


def blend(shares: Sequence[float], prefixes: Sequence[str]) -> list[str]:
    """Return the blend's arguments: the weight and the prefix of each data set.

    Args:
        shares: (n_sets,) token shares, all above 0.
        prefixes: (n_sets,) paths without ``.bin`` and ``.idx``.
    """
    pairs = zip(shares, prefixes, strict=True)
    return [text for share, prefix in pairs for text in (f"{share:.17g}", prefix)]


def _dtype(place: Place) -> np.dtype[Any]:
    return np.dtype("<u2" if place.vocabulary_size < _SMALL_VOCABULARY else "<i4")


def _write_index(path: Path, waiting: Path, dtype: np.dtype[Any]) -> None:
    """Write lengths, byte offsets, and documents, which are the sequences themselves."""
    lengths = np.memmap(waiting, dtype="<i4", mode="r")
    with path.open("wb") as file:
        file.write(_MAGIC)
        file.write(struct.pack("<QBQQ", 1, _CODES[dtype.str], len(lengths), len(lengths) + 1))
        file.write(lengths.tobytes())
        before = 0
        for start in range(0, len(lengths), _LENGTHS_AT_A_TIME):
            sizes = lengths[start : start + _LENGTHS_AT_A_TIME].astype(np.int64) * dtype.itemsize
            ends = before + np.cumsum(sizes)
            file.write((ends - sizes).astype("<i8").tobytes())
            before = int(ends[-1])
        file.write(np.arange(len(lengths) + 1, dtype="<i8").tobytes())


def _read_lengths(path: Path, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    with path.open("rb") as file:
        head = file.read(len(_MAGIC) + struct.calcsize("<QBQQ"))
    version, code, n_sequences, n_documents = struct.unpack("<QBQQ", head[len(_MAGIC) :])
    expected = (1, _CODES[dtype.str], n_sequences + 1)
    if not head.startswith(_MAGIC) or (version, code, n_documents) != expected:
        raise DataError(f"{path} is not an index of {dtype.name} sequences. Export again.")
    return np.memmap(path, dtype="<i4", mode="r", offset=len(head), shape=(n_sequences,))
