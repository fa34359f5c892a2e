"""Check one row at a time and gather the good ones in batches of bounded size."""

import hashlib
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import numpy as np

from cuvee.arrays import FloatArray, IntArray
from cuvee.corpus.pool import DEFAULT_ID, TOKEN_FORMATS, PoolConfig, Shard
from cuvee.errors import DataError

Reason: TypeAlias = Literal[
    "broken_json",
    "not_an_object",
    "missing_field",
    "text_not_string",
    "invalid_utf8",
    "empty",
    "lone_surrogate",
    "nul",
    "too_long",
    "bad_id",
    "bad_domain",
    "bad_group",
    "duplicate_id",
]

BATCH_BYTES = 8 * 2**20
_BATCH_ROWS = 4096
_NAME_CHARACTERS = 1024


@dataclass(frozen=True, slots=True)
class Reject:
    """One row that is not used, and why."""

    shard: str
    """URL of its shard."""
    row: int
    """Row, line or file of the shard, counted from 0."""
    reason: Reason
    """Why, in one word."""
    detail: str
    """Why, in full."""


@dataclass(frozen=True, slots=True)
class DocumentBatch:
    """Some consecutive rows of a shard: the good ones as columns, the bad ones as rejects."""

    rows: IntArray
    """(n_documents,) rows, lines or files of the shard, counted from 0; ascending."""
    ids: list[str]
    """(n_documents,) ids; not yet known to be unique."""
    texts: list[str]
    """(n_documents,) valid Unicode, not blank."""
    domains: list[str]
    """(n_documents,) domain names."""
    groups: list[str]
    """(n_documents,) what stays on one side of a split; the id where there is no group."""
    rejects: list[Reject]
    """Rejected rows."""
    n_made_ids: int = 0
    """Documents whose ids were made from domain and text."""
    numbers: FloatArray | None = None
    """(n_documents,) of the column of numbers, NaN where missing; None where none was asked for."""
    tokens: list[bytes] | None = None
    """(n_documents,) ids of token files, as bytes of `Encoder.dtype` without end-of-text; None: of
    files of text, which are still to be encoded."""


class Missing:
    """The value of a field that a row does not have."""


MISSING: Final = Missing()


class RowError(Exception):
    """A row cannot be used; becomes a `Reject`."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason: Reason = reason
        self.detail = detail


@dataclass(slots=True)
class Gatherer:
    """Turn rows of one shard into batches."""

    shard: Shard
    config: PoolConfig
    number: str | None = None
    """Column of numbers read too."""
    _rows: list[int] = field(default_factory=list)
    _documents: list[tuple[str, str, str, str]] = field(default_factory=list)
    _numbers: list[float] = field(default_factory=list)
    _tokens: list[bytes] = field(default_factory=list)
    _rejects: list[Reject] = field(default_factory=list)
    _n_bytes: int = 0
    _n_made_ids: int = 0

    def add(
        self,
        row: int,
        *,
        text: object,
        id: object,
        domain: object,
        group: object,
        number: object = MISSING,
    ) -> None:
        """Check one row's values and keep it, or reject it with its first fault.

        Args:
            row: Its number.
            text: str, or UTF-8 bytes.
            id: str, UTF-8 bytes, or a number; `MISSING` has it made where the config allows that.
            domain: str or UTF-8 bytes; not looked at where the shard has one domain.
            group: str, UTF-8 bytes, a number, None or `MISSING`.
            number: A finite number; None, NaN or `MISSING` where there is none.

        Raises:
            DataError: The number is none; no reason to reject a document, so the shard is refused.
        """
        try:
            good_text, size = _check_text(text, self.config)
            name = self.shard.domain or _check_domain(domain, self.config)
            made = _content_id(name, good_text) if self._makes_id(id) else None
            good_id = made or _check_id(id, self.config)
            good_group = _check_group(group, self.config) or good_id
        except RowError as error:
            self.reject(row, error.reason, error.detail)
            return
        if self.number is not None:
            self._numbers.append(_check_number(number, self.number, self.shard, row))
        self._rows.append(row)
        self._documents.append((good_id, good_text, name, good_group))
        self._n_bytes += size
        self._n_made_ids += made is not None

    def add_tokens(self, row: int, tokens: bytes, text: str) -> None:
        """Check the text of a document of ids and keep both, or reject it.

        Args:
            row: Its number.
            tokens: Its ids, as in `DocumentBatch`.
            text: What they decode to.
        """
        n_before = len(self._rows)
        self.add(row, text=text, id=MISSING, domain=MISSING, group=MISSING)
        if len(self._rows) > n_before:
            self._tokens.append(tokens)

    def reject(self, row: int, reason: Reason, detail: str) -> None:
        """Count a row that cannot be used."""
        self._rejects.append(Reject(self.shard.url, row, reason, detail))

    @property
    def is_full(self) -> bool:
        """Whether the batch has reached its size."""
        return self._n_bytes >= BATCH_BYTES or len(self._rows) + len(self._rejects) >= _BATCH_ROWS

    def full(self) -> Iterator[DocumentBatch]:
        """Yield the batch if it has reached its size."""
        if self.is_full:
            yield from self.rest()

    def rest(self) -> Iterator[DocumentBatch]:
        """Yield what there is, if anything."""
        if not self._rows and not self._rejects:
            return
        documents, rows, rejects = self._documents, self._rows, self._rejects
        n_made_ids, self._n_made_ids = self._n_made_ids, 0
        self._documents, self._rows, self._rejects, self._n_bytes = [], [], [], 0
        numbers, self._numbers = self._numbers, []
        tokens, self._tokens = self._tokens, []
        yield DocumentBatch(
            rows=np.asarray(rows, dtype=np.int64),
            ids=[document[0] for document in documents],
            texts=[document[1] for document in documents],
            domains=[document[2] for document in documents],
            groups=[document[3] for document in documents],
            rejects=rejects,
            n_made_ids=n_made_ids,
            numbers=None if self.number is None else np.asarray(numbers, dtype=np.float64),
            tokens=tokens if self.shard.format in TOKEN_FORMATS else None,
        )

    def _makes_id(self, id: object) -> bool:
        has_none = self.shard.format == "text" or self.shard.format in TOKEN_FORMATS
        allowed = has_none or self.config.id in (None, DEFAULT_ID)
        return allowed and isinstance(id, Missing)


class Wanted:
    """Which of ascending row numbers are among the wanted ones."""

    def __init__(self, rows: IntArray | None) -> None:
        """Begin before the first row.

        Args:
            rows: (n_rows,) ascending numbers of the rows wanted; None wants all.
        """
        self._rows = None if rows is None else iter(rows.tolist())
        self._next = -1

    def has(self, row: int) -> bool:
        """Tell whether a row is wanted; rows must be asked for in ascending order."""
        if self._rows is None:
            return True
        while self._next < row:
            self._next = next(self._rows, sys.maxsize)
        return self._next == row


def _check_text(value: object, config: PoolConfig) -> tuple[str, int]:
    """Return a text and its size in UTF-8 bytes."""
    text = _decoded(value, config.text)
    if not isinstance(text, str):
        raise RowError("text_not_string", f"{config.text!r} is {_shown(text)}, not a string")
    size = len(value) if isinstance(value, bytes) else _n_utf8(text, config.text)
    if size > config.max_document_bytes:
        raise RowError(
            "too_long",
            f"{size} bytes; at most {config.max_document_bytes} are allowed (max_document_bytes)",
        )
    if "\0" in text:
        raise RowError("nul", f"{config.text!r} has a NUL at character {text.index(chr(0))}")
    if not text or text.isspace():
        raise RowError("empty", f"{config.text!r} is empty or blank")
    return text, size


def _check_id(value: object, config: PoolConfig) -> str:
    column = config.id or "id"
    text = _decoded(value, column)
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        if isinstance(text, float) and not math.isfinite(text):
            raise RowError("bad_id", f"{column!r} is {text}, not a string or finite number")
        text = str(text)
    if not isinstance(text, str):
        raise RowError("bad_id", f"{column!r} is {_shown(text)}, not a string or number")
    _check_name(text, column, "bad_id")
    return text


def _check_domain(value: object, config: PoolConfig) -> str:
    column = config.domain or "domain"
    if config.domain_missing is not None and (value is None or isinstance(value, Missing)):
        return config.domain_missing
    name = _decoded(value, column)
    if config.domain_missing is not None and isinstance(name, str) and not name.strip():
        return config.domain_missing
    if not isinstance(name, str):
        raise RowError("bad_domain", f"{column!r} is {_shown(name)}, not a string")
    _check_name(name, column, "bad_domain")
    if not name.isprintable():
        raise RowError("bad_domain", f"{column!r} is {_shown(name)}, which is not printable")
    return name


def _check_group(value: object, config: PoolConfig) -> str | None:
    """Return the group, or None where the row has none."""
    if value is None or isinstance(value, Missing):
        return None
    column = config.group or "group"
    name = _decoded(value, column)
    if isinstance(name, bool) or not isinstance(name, (str, int, float)):
        raise RowError("bad_group", f"{column!r} is {_shown(name)}, not a string or number")
    group = str(name)
    if config.group_strip is not None:
        group = re.sub(config.group_strip, "", group)
    if not group.strip():
        return None
    _n_utf8(group, column, "bad_group")
    return group


def _check_number(value: object, column: str, shard: Shard, row: int) -> float:
    if value is None or isinstance(value, Missing):
        return math.nan
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            found = float(value)
        except OverflowError:
            found = math.inf
        if not math.isinf(found):
            return found
    raise DataError(
        f"shard {shard.url}, row {row}: {column!r} is {_shown(value)}; it must be a finite "
        "number, or missing. Repair the column."
    )


def _check_name(text: str, column: str, reason: Literal["bad_id", "bad_domain"]) -> None:
    if not text.strip():
        raise RowError(reason, f"{column!r} is empty or blank")
    if len(text) > _NAME_CHARACTERS:
        raise RowError(
            reason, f"{column!r} has {len(text)} characters; at most {_NAME_CHARACTERS} are allowed"
        )
    if "\0" in text:
        raise RowError(reason, f"{column!r} has a NUL at character {text.index(chr(0))}")
    _n_utf8(text, column, reason)


def _decoded(value: object, column: str) -> object:
    if isinstance(value, Missing):
        raise RowError("missing_field", f"{column!r} is missing")
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RowError("invalid_utf8", bad_byte(error, repr(column))) from None


def bad_byte(error: UnicodeDecodeError, where: str) -> str:
    """Describe the first byte that is not UTF-8."""
    return f"{where} is not UTF-8: byte 0x{error.object[error.start]:02x} at position {error.start}"


def _n_utf8(text: str, column: str, reason: Reason = "lone_surrogate") -> int:
    if text.isascii():
        return len(text)
    try:
        return len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise RowError(
            reason,
            f"{column!r} has the lone surrogate U+{ord(text[error.start]):04X} at character "
            f"{error.start}",
        ) from None


def _content_id(domain: str, text: str) -> str:
    content = hashlib.blake2b(domain.encode("utf-8") + b"\0", digest_size=16)
    content.update(text.encode("utf-8"))
    return content.hexdigest()


def _shown(value: object) -> str:
    if value is None:
        return "null"
    kind = {bool: "boolean", dict: "object", list: "array", int: "number", float: "number"}
    if isinstance(value, (dict, list)):
        return f"an {kind[type(value)]}"
    return f"the {kind.get(type(value), 'string')} {value!r:.60}"
