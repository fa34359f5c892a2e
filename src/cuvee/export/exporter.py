"""The seam between a selection and a trainer's format: sets of files, their writers and readers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cuvee.arrays import IntArray
from cuvee.artifacts import Json
from cuvee.errors import ConfigError

Content: TypeAlias = Literal["tokens", "text"]
Layout: TypeAlias = Literal["domains", "mixed"]
TokenArray: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]

LAYOUTS: tuple[Layout, ...] = ("domains", "mixed")
_LARGEST_FILE = 1 << 31


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """What an export is made for."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    to: str
    """The format's name."""
    layout: Layout | None = None
    """One set of files a domain, to be blended by weights, or one mixed set; None is the format's
    own choice."""
    context: int = 2048
    """Tokens of a training sequence of the trainer."""
    root: str | None = None
    """Path under which the trainer will find the folder; None is where it is written."""
    file_bytes: int = 256 << 20
    """Bytes from which a new file is begun, where a format has several."""
    batch_tokens: int | None = None
    """Tokens of a training step, for a trainer that begins phases at steps."""
    tokenizer: str | None = None
    """Path of the tokenizer.json of the model the selection is for; None is the run's own."""

    def __post_init__(self) -> None:
        if self.layout is not None and self.layout not in LAYOUTS:
            raise ConfigError(f"layout is {self.layout!r}; it is one of {', '.join(LAYOUTS)}.")
        if self.context < 1:
            raise ConfigError(f"context is {self.context} tokens; it must be at least 1.")
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise ConfigError(f"batch_tokens is {self.batch_tokens}; it must be at least 1.")
        if not 1 <= self.file_bytes <= _LARGEST_FILE:
            raise ConfigError(
                f"file_bytes is {self.file_bytes}; it must be from 1 to {_LARGEST_FILE} (2 GiB)."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class FileSet:
    """Documents that a trainer draws from together."""

    name: str
    """Of its folder or file; letters, digits, ``_`` and ``-``."""
    phase: int
    """Position of its phase."""
    domains: tuple[int, ...]
    """Positions of the domains in it."""
    n_documents: int = 0
    """Rows: every copy counts."""
    n_tokens: int = 0
    """One end-of-text a row included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """What an exporter needs to know beside the documents."""

    config: ExportConfig
    layout: Layout
    root: str
    """Path of the export as the trainer sees it, without a slash at its end."""
    domains: tuple[str, ...]
    """(n_domains,) names as the user gave them."""
    vocabulary_size: int
    """One more than the highest id."""
    end_of_text: int
    """Id that ends every document and stands nowhere else."""
    n_phases: int
    phase_shares: tuple[float, ...]
    """(n_phases,) shares of the run's tokens."""

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """Type of the ids that are handed to writers."""
        return np.dtype("<u2" if self.vocabulary_size <= 1 << 16 else "<u4")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Chunk:
    """Some documents of a set, in order."""

    rows: pa.Table
    """id, domain (position), copy, n_tokens, n_bytes, and text where the format holds text."""
    ids: TokenArray
    """(sum of n_tokens,) ids of the documents, each ended by end-of-text; empty for text."""

    @property
    def n_tokens(self) -> IntArray:
        """(n_documents,) one end-of-text included."""
        return np.asarray(self.rows["n_tokens"].to_numpy(), dtype=np.int64)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Written:
    """Where the documents of a chunk went."""

    files: Sequence[str]
    """Paths relative to the export."""
    file: IntArray
    """(n_documents,) positions in ``files``."""
    row: IntArray
    """(n_documents,) row in the file; of packed samples the one with the document's first token."""


class SetWriter(Protocol):
    """Writes one set; its context ends the files."""

    def add(self, chunk: Chunk) -> Written:
        """Write documents behind those before."""


class Exporter(Protocol):
    """One trainer's format."""

    @property
    def name(self) -> str:
        """As it is asked for."""

    @property
    def title(self) -> str:
        """What reads it, in a few words."""

    @property
    def content(self) -> Content:
        """Whether writers get token ids or text."""

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """Those it has; the first is its own choice."""

    @property
    def max_sets(self) -> int | None:
        """Most sets that a trainer blends; None has no limit."""

    def smallest(self, config: ExportConfig) -> int:
        """Return the tokens below which a trainer would never draw from a set."""

    def check(self, place: Place) -> None:
        """Refuse what the trainer could not read, before anything is written.

        Raises:
            ConfigError: Say what to change.
        """

    def writer(
        self, folder: Path, files: FileSet, place: Place
    ) -> AbstractContextManager[SetWriter]:
        """Open the files of a set below ``folder``."""

    def describe(self, folder: Path, sets: Sequence[FileSet], place: Place) -> Mapping[str, Json]:
        """Write what the trainer is configured with.

        Args:
            folder: The export.
            sets: All sets that hold documents.
            place: What else is to be known.

        Returns:
            Facts for export.json; ``usage`` says in a line how the trainer is pointed to it, and
            ``notes`` in sentences what it will not read as it stands.
        """

    def lengths(self, folder: Path, files: FileSet, place: Place) -> Iterator[IntArray]:
        """Read a written set again and yield its documents' lengths, in order.

        They are tokens, end-of-text included, of formats that hold tokens, and bytes of text of
        the others.

        Raises:
            DataError: The files are not what was written.
        """


def token_shares(sets: Sequence[FileSet]) -> list[float]:
    """Return each set's share of the tokens of all; sum to 1."""
    total = sum(one.n_tokens for one in sets)
    return [one.n_tokens / total for one in sets]


def by_phase(sets: Sequence[FileSet], place: Place) -> list[list[FileSet]]:
    """Return the sets of each phase."""
    return [[one for one in sets if one.phase == number] for number in range(place.n_phases)]


def refuse_pattern(place: Place, trainer: str) -> None:
    """Refuse a root that a trainer would read as a pattern.

    Args:
        place: Where the files are to be read from.
        trainer: Its name.

    Raises:
        ConfigError: The root holds ``*``, ``?`` or ``[``.
    """
    if any(char in "*?[" for char in place.root):
        raise ConfigError(
            f"{place.root!r} holds *, ? or [, which {trainer} takes for a pattern. Choose another "
            "--dest, or give --root."
        )


def phase_suffix(phase: int, place: Place) -> str:
    """Return what ends the name of a phase's file: nothing where there is one phase."""
    return f"-phase-{phase + 1}" if place.n_phases > 1 else ""


def document_shares(sets: Sequence[FileSet]) -> list[float]:
    """Return each set's share of the rows of all; sum to 1.

    That is its share of tokens divided by its mean tokens of a row, rescaled: what a trainer draws
    by that draws rows.
    """
    total = sum(one.n_documents for one in sets)
    return [one.n_documents / total for one in sets]
