"""Attributes that taggers wrote beside documents, in Dolma's layout, as columns of numbers.

``<pool>/attributes/<tagger>/<file>`` stands beside ``<pool>/documents/<file>``: a line a document,
in the same order, ``{"id": ..., "attributes": {<key>: [[start, end, score], ...]}}``.

Source: Dolma toolkit, docs/data-format.md and docs/taggers.md.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import fsspec

from cuvee.corpus.rows import MISSING, Missing
from cuvee.corpus.streams import REMEDY, Line, bounded_lines, decompressed
from cuvee.errors import DataError

PREFIX = "attributes/"
"""A column ``attributes/<tagger>/<key>`` stands in a file beside the shard."""
_BESIDE = "/documents/"

ValueOf: TypeAlias = Callable[[int, object], object]
"""From a line's number and its document's id to the number, `MISSING` where there is none."""


@contextmanager
def side_car(url: str, column: str | None, *, max_bytes: int) -> Iterator[ValueOf | None]:
    """Open the file of an attribute beside a shard of JSON lines.

    A document's number is the mean of its spans' scores, weighted by their characters; of a
    document without spans there is none.

    Args:
        url: Of the shard.
        column: ``attributes/<tagger>/<key>``; any other name has no file of its own.
        max_bytes: Longest line.

    Yields:
        What looks up the number of each line, ascending; None where the column is the shard's own.

    Raises:
        DataError: There is no such file, it is damaged, or it is not of the shard's documents.
    """
    if column is None or not column.startswith(PREFIX):
        yield None
        return
    place, key = _place(url, column)
    if not place:
        raise DataError(
            f"column {column!r} of shard {url} is looked for in <pool>/attributes/<tagger>/<file>, "
            "beside <pool>/documents/<file>. Name it attributes/<tagger>/<key>, and give the pool "
            "as its folder documents."
        )
    with decompressed(place) as stream:
        lines = bounded_lines(stream, max_bytes=max_bytes)

        def value(number: int, id: object) -> object:
            line = next((one for one in lines if one.number == number), None)
            if line is None:
                raise DataError(f"{place} ends before line {number} of {url}. Tag the shard again.")
            return _score(_record(line, place), id, key, f"{place}, line {number}")

        yield value


def has_side_car(url: str, column: str) -> bool:
    """Tell whether the file of an attribute stands beside a shard.

    Args:
        url: Of the shard.
        column: ``attributes/<tagger>/<key>``.
    """
    place, _ = _place(url, column)
    filesystem, path = fsspec.core.url_to_fs(place)
    return bool(place and filesystem.exists(path))


def _place(url: str, column: str) -> tuple[str, str]:
    """Return the file of an attribute, empty where it cannot be told, and the key in it."""
    tagger, _, key = column.removeprefix(PREFIX).partition("/")
    folder, found, name = url.rpartition(_BESIDE)
    return (f"{folder}/{PREFIX}{tagger}/{name}" if found and tagger and key else ""), key


def _record(line: Line, place: str) -> dict[str, object]:
    try:
        record = json.loads(line.content or b"")
    except ValueError as error:
        raise DataError(f"{place}: line {line.number} is not JSON ({error}). {REMEDY}") from error
    if not isinstance(record, dict) or not isinstance(record.get("attributes"), dict):
        raise DataError(f"{place}: line {line.number} has no object 'attributes'. {REMEDY}")
    return record


def _score(record: dict[str, object], id: object, key: str, where: str) -> object:
    if not isinstance(id, Missing) and str(record.get("id")) != str(id):
        raise DataError(
            f"{where} is of document {record.get('id')!r}, but the shard has {id!r} there; both "
            "must hold the same documents in the same order. Tag the shard again."
        )
    attributes = record["attributes"]
    spans = attributes.get(key) if isinstance(attributes, dict) else None
    if isinstance(spans, (int, float)):
        return spans
    if spans in (None, []):
        return MISSING
    try:
        rows = spans if isinstance(spans, list) else [spans]
        parts = [(float(end) - float(start), float(score)) for start, end, score in rows]
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{where}: attribute {key!r} is {str(spans)!r:.60}; it must be spans [start, end, "
            "score]. Name another."
        ) from error
    total = sum(length for length, _ in parts)
    if not total > 0.0:
        return sum(score for _, score in parts) / len(parts)
    return sum(length * score for length, score in parts) / total
