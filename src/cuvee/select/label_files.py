"""Label columns of a pool in Parquet files: which columns they are, and reading them in parts."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cuvee.arrays import IntArray, KeyArray
from cuvee.artifacts import Json
from cuvee.errors import DataError
from cuvee.policy.streamed_ranks import ScoreArray
from cuvee.randomness import keys_of_bytes

_BATCH_ROWS = 1 << 20
_KEYS_ROWS = 1 << 15
"""Ids held as objects at once."""
_END_BYTES = 8
"""Length of the footer, 4 bytes, and the mark PAR1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelFiles:
    """Parquet files whose rows are documents: id, domain, length and scores."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    files: tuple[str, ...]
    """Paths; all have the columns."""
    criteria: tuple[str, ...]
    """Columns of scores, read as float32, in the order of the curve's criteria."""
    smaller_is_better: tuple[str, ...] = ()
    """Criteria whose smaller scores are better; larger ones are for the others."""
    id: str = "id"
    """Column of document ids: strings, or the 64-bit keys that cuvee makes of them."""
    domain: str = "domain"
    """Column of domain names."""
    tokens: str = "n_tokens"
    """Column of lengths in tokens, integers of at least 1."""

    def __post_init__(self) -> None:
        if not self.files:
            raise DataError("there is no label file; give at least one Parquet file.")
        for name in self.smaller_is_better:
            if name not in self.criteria:
                raise DataError(
                    f"{name!r} is said to be better when smaller, but the curve merges "
                    f"{', '.join(self.criteria)}. Name one of these."
                )

    @property
    def larger_is_better(self) -> tuple[bool, ...]:
        """(n_criteria,) directions."""
        return tuple(name not in self.smaller_is_better for name in self.criteria)


@dataclass(frozen=True, kw_only=True, slots=True)
class FilePart:
    """Some row groups of one file."""

    file: int
    """Position in `LabelFiles.files`."""
    row_groups: tuple[int, ...]
    n_rows: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelBatch:
    """Consecutive rows of a file."""

    ids: pa.Array | None
    """(n_documents,) strings or uint64 keys; None where they were not asked for."""
    domain: IntArray
    """(n_documents,) positions in the domains asked for."""
    n_tokens: IntArray
    """(n_documents,)"""
    scores: tuple[ScoreArray, ...]
    """(n_criteria) arrays of (n_documents,), none where they were not asked for."""


def describe(labels: LabelFiles) -> tuple[list[FilePart], list[Json]]:
    """Read what the files say of themselves.

    Args:
        labels: The files.

    Returns:
        All row groups, one a part, and of each file its path, rows and the digest of its footer,
        which holds the place and the range of every column chunk.

    Raises:
        DataError: A file is missing, is not Parquet, or lacks a column.
    """
    parts, files = [], []
    for number, path in enumerate(labels.files):
        try:
            footer = pq.read_metadata(path)
            _check_schema(labels, path, pq.read_schema(path))
            digest = _footer_digest(Path(path))
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{path} cannot be read as Parquet ({error}).") from error
        for group in range(footer.num_row_groups):
            n_rows = footer.row_group(group).num_rows
            parts.append(FilePart(file=number, row_groups=(group,), n_rows=n_rows))
        files.append({"path": path, "n_rows": footer.num_rows, "footer": digest})
    return parts, list(files)


def divide(parts: Sequence[FilePart], n: int) -> list[list[FilePart]]:
    """Divide row groups, in order, into at most ``n`` lists of about as many rows each."""
    lengths = np.array([one.n_rows for one in parts], dtype=np.int64)
    total = max(int(lengths.sum()), 1)
    middle = np.cumsum(lengths) - lengths / 2
    place = np.minimum(middle * n // total, n - 1).astype(np.int64)
    divided: list[list[FilePart]] = [[] for _ in range(n)]
    for one, number in zip(parts, place.tolist(), strict=True):
        divided[number].append(one)
    return [some for some in divided if some]


def read_labels(
    labels: LabelFiles,
    parts: Sequence[FilePart],
    *,
    domains: Sequence[str] = (),
    ids: bool = False,
    scores: bool = True,
) -> Iterator[LabelBatch]:
    """Read parts of the files, batch by batch.

    Args:
        labels: The files.
        parts: Which row groups.
        domains: Names of the domains; none: domains and lengths are not read.
        ids: Whether ids are read.
        scores: Whether scores are.

    Yields:
        At most about a million rows each.

    Raises:
        DataError: A value is missing, a score is not finite, a length is below 1, or a domain is
            not one of those asked for.
    """
    criteria = labels.criteria if scores else ()
    columns = [*criteria]
    if domains:
        columns += [labels.domain, labels.tokens]
    if ids:
        columns.append(labels.id)
    for part in parts:
        path = labels.files[part.file]
        with pq.ParquetFile(path, read_dictionary=[labels.domain]) as file:
            for batch in file.iter_batches(
                _BATCH_ROWS, row_groups=list(part.row_groups), columns=columns, use_threads=False
            ):
                yield _batch(labels, batch, path, domains, criteria=criteria, ids=ids)


def keys_of(ids: pa.Array) -> KeyArray:
    """Return the (n_documents,) keys of ids; uint64 are keys already."""
    if pa.types.is_uint64(ids.type):
        return np.asarray(ids.to_numpy(zero_copy_only=False), dtype=np.uint64)
    parts = [
        keys_of_bytes(ids.slice(first, _KEYS_ROWS).cast(pa.large_binary()).to_pylist())
        for first in range(0, len(ids), _KEYS_ROWS)
    ]
    return np.concatenate([np.empty(0, dtype=np.uint64), *parts])


def _batch(
    labels: LabelFiles,
    batch: pa.RecordBatch,
    path: str,
    domains: Sequence[str],
    *,
    criteria: Sequence[str],
    ids: bool,
) -> LabelBatch:
    for name in batch.schema.names:
        if batch.column(name).null_count:
            raise DataError(
                f"column {name!r} of {path} has empty values; every document needs one."
            )
    scores = tuple(
        batch.column(name).to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
        for name in criteria
    )
    for name, column in zip(criteria, scores, strict=True):
        if not np.isfinite(column.sum(dtype=np.float64)):
            raise DataError(
                f"column {name!r} of {path} holds a score that is not finite; every document needs "
                "a finite one."
            )
    domain, n_tokens = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    if domains:
        domain = _positions(batch.column(labels.domain), domains, path)
        n_tokens = batch.column(labels.tokens).to_numpy().astype(np.int64, copy=False)
        if n_tokens.min(initial=1) < 1:
            raise DataError(
                f"column {labels.tokens!r} of {path} holds {n_tokens.min()}; a document has at "
                "least 1 token."
            )
    return LabelBatch(
        ids=batch.column(labels.id) if ids else None,
        domain=domain,
        n_tokens=n_tokens,
        scores=scores,
    )


def _positions(column: pa.DictionaryArray, domains: Sequence[str], path: str) -> IntArray:
    known = {name: place for place, name in enumerate(domains)}
    names = column.dictionary.to_pylist()
    places = np.array([known.get(name, -1) for name in names], dtype=np.int64)
    found: IntArray = places[column.indices.to_numpy()]
    if found.min(initial=0) < 0:
        unknown = sorted({names[one] for one in column.indices.to_numpy()[found < 0]})
        raise DataError(
            f"{path} has documents of domain {unknown[0]!r}, which the curve does not know; its "
            f"domains are {', '.join(domains)}."
        )
    return found


def _check_schema(labels: LabelFiles, path: str, schema: pa.Schema) -> None:
    allowed = {
        labels.id: ("strings or uint64 keys", (_is_text, pa.types.is_uint64)),
        labels.domain: ("strings", (_is_text, pa.types.is_dictionary)),
        labels.tokens: ("integers", (pa.types.is_integer,)),
        **{
            name: ("numbers", (pa.types.is_floating, pa.types.is_integer))
            for name in labels.criteria
        },
    }
    for name, (words, kinds) in allowed.items():
        if name not in schema.names:
            raise DataError(
                f"{path} has no column {name!r}; its columns are {', '.join(schema.names)}."
            )
        kind = schema.field(name).type
        if not any(one(kind) for one in kinds):
            raise DataError(f"column {name!r} of {path} is {kind}; it must hold {words}.")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _footer_digest(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(-_END_BYTES, 2)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-_END_BYTES - length, 2)
        return hashlib.sha256(file.read(length)).hexdigest()
