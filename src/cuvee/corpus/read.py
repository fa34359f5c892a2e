"""Read documents from Parquet, JSON lines, folders of text and token files, streamed."""

import json
from collections.abc import Iterator
from itertools import repeat

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cuvee.arrays import IntArray
from cuvee.corpus.pool import DEFAULT_ID, PoolConfig, Shard, list_shards
from cuvee.corpus.rows import (
    MISSING,
    DocumentBatch,
    Gatherer,
    Reason,
    Reject,
    RowError,
    Wanted,
    bad_byte,
)
from cuvee.corpus.side_cars import PREFIX, has_side_car, side_car
from cuvee.corpus.streams import REMEDY, Line, bounded_lines, decompressed, opened
from cuvee.corpus.tasks import read_examples
from cuvee.corpus.token_files import read_tokens
from cuvee.errors import DataError

__all__ = [
    "DocumentBatch",
    "PoolConfig",
    "Reason",
    "Reject",
    "Shard",
    "has_column",
    "list_shards",
    "read_batches",
]

_FIELDS = ("text", "id", "domain", "group", "number")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_READ_BYTES = 4 * 2**20
_MAX_ROWS = 256
_WITHOUT_COLUMNS = {
    "text": "text files, which have",
    "task": "a task, which has",
    "megatron": "token ids, which have",
    "npy": "token ids, which have",
}


def read_batches(
    shard: Shard,
    config: PoolConfig,
    *,
    number: str | None = None,
    rows: IntArray | None = None,
) -> Iterator[DocumentBatch]:
    """Read a shard's documents in order, in batches of about 8 MiB of text or one document.

    A batch may hold rejects only. What was yielded counts only once the iterator has ended without
    an error: damage is often found at a shard's end.

    Args:
        shard: From `list_shards`.
        config: Its pool.
        number: Column of numbers to be read too; ``a.b`` is field b of a group column a, unless a
            column has that very name, and so it is for the columns that the config names.
            ``attributes/<tagger>/<key>`` stands in a file of its own (`side_cars`). Which rows are
            documents does not depend on it.
        rows: (n_rows,) ascending numbers of the rows wanted; the others are passed over, neither
            documents nor rejects. None wants all.

    Yields:
        Batches; each row of the shard is in exactly one, as a document or as a reject. Blank lines
        of a JSONL file are no rows.

    Raises:
        DataError: The shard is missing, truncated, damaged, or lacks a column, or the column of
            numbers holds something else.
    """
    if number is not None and shard.format in _WITHOUT_COLUMNS:
        raise DataError(
            f"shard {shard.url} is of {_WITHOUT_COLUMNS[shard.format]} no column "
            f"{number!r}. Give the pool as Parquet or JSON lines."
        )
    readers = {
        "parquet": _read_parquet,
        "jsonl": _read_jsonl,
        "text": _read_text,
        "task": _read_task,
        "megatron": read_tokens,
        "npy": read_tokens,
    }
    return readers[shard.format](shard, config, number, rows)


def has_column(shard: Shard, name: str) -> bool:
    """Tell whether a shard may hold a column: JSON lines any of their own, text files none.

    Args:
        shard: From `list_shards`.
        name: The column; ``a.b`` as for `read_batches`.

    Raises:
        DataError: The shard is missing or damaged.
    """
    if shard.format == "jsonl":
        return not name.startswith(PREFIX) or has_side_car(shard.url, name)
    if shard.format != "parquet":
        return False
    with opened(shard.url) as source:
        return _find_type(pq.ParquetFile(source).schema_arrow, name) is not None


def _read_jsonl(
    shard: Shard, config: PoolConfig, number: str | None, rows: IntArray | None
) -> Iterator[DocumentBatch]:
    gatherer = Gatherer(shard, config, number)
    wanted = Wanted(rows)
    longest = config.max_document_bytes
    with (
        decompressed(shard.url) as stream,
        side_car(shard.url, number, max_bytes=longest) as beside,
    ):
        for line in bounded_lines(stream, max_bytes=longest):
            is_wanted = wanted.has(line.number)
            if line.ended and not is_wanted:
                continue
            try:
                record = _parse_line(line, shard, config)
            except RowError as error:
                gatherer.reject(line.number, error.reason, error.detail)
            else:
                if record is not None and is_wanted:
                    fields = _json_fields(record, config, None if beside else number)
                    if beside is not None:
                        fields["number"] = beside(line.number, fields["id"])
                    gatherer.add(line.number, **fields)
            yield from gatherer.full()
    yield from gatherer.rest()


def _parse_line(line: Line, shard: Shard, config: PoolConfig) -> dict[str, object] | None:
    """Return the object of a line; None for a blank line."""
    if line.content is None:
        raise RowError(
            "too_long",
            f"line of {line.n_bytes} bytes; at most {config.max_document_bytes} are allowed "
            "(max_document_bytes)",
        )
    content = line.content.removeprefix(_BYTE_ORDER_MARK) if line.number == 0 else line.content
    if not content.strip():
        return None
    if b"\0" in content:
        raise RowError("nul", f"line has a NUL at byte {content.index(0)}")
    try:
        text = content.decode("utf-8")
        record = json.loads(text)
    except UnicodeDecodeError as error:
        if not line.ended and error.reason == "unexpected end of data":
            raise _cut_off(shard, line) from error
        raise RowError("invalid_utf8", bad_byte(error, "line")) from None
    except json.JSONDecodeError as error:
        if not line.ended and _is_cut_off(error):
            raise _cut_off(shard, line) from error
        raise RowError("broken_json", f"{error.msg} at character {error.pos}") from None
    except (ValueError, RecursionError) as error:
        raise RowError("broken_json", str(error)) from None
    if not isinstance(record, dict):
        raise RowError("not_an_object", f"line holds {_json_kind(record)}, not an object")
    return record


def _json_fields(
    record: dict[str, object], config: PoolConfig, number: str | None
) -> dict[str, object]:
    wanted = {
        "text": config.text,
        "id": config.id,
        "domain": config.domain,
        "group": config.group,
    }
    fields = {
        field: MISSING if name is None else _nested(record, name) for field, name in wanted.items()
    }
    return fields if number is None else {**fields, "number": _nested(record, number)}


def _nested(record: dict[str, object], name: str) -> object:
    """Return the value under a name, or that of field b of the object under a for ``a.b``."""
    found: object = record
    for part in (name,) if name in record else name.split("."):
        found = found.get(part, MISSING) if isinstance(found, dict) else MISSING
    return found


def _is_cut_off(error: json.JSONDecodeError) -> bool:
    """Tell whether more text could have made the line valid: its end is where the fault lies."""
    n_left = len(error.doc.rstrip()) - error.pos
    in_escape = error.msg.startswith("Invalid \\") and n_left <= len(r"\uFFFF")
    return n_left <= 0 or in_escape or error.msg.startswith("Unterminated string")


def _cut_off(shard: Shard, line: Line) -> DataError:
    return DataError(
        f"shard {shard.url} is truncated: its last line ({line.number}) ends in the middle of a "
        f"record, without a newline. {REMEDY}"
    )


def _json_kind(value: object) -> str:
    names = {list: "an array", str: "a string", type(None): "null", bool: "a boolean"}
    return names.get(type(value), "a number")


def _read_text(
    shard: Shard, config: PoolConfig, _: str | None, rows: IntArray | None
) -> Iterator[DocumentBatch]:
    gatherer = Gatherer(shard, config)
    wanted = Wanted(rows)
    for row, url in enumerate(shard.files, start=shard.first_row):
        if not wanted.has(row):
            continue
        with decompressed(url) as stream:
            content = stream.read(config.max_document_bytes + 1)
        if len(content) > config.max_document_bytes:
            gatherer.reject(
                row,
                "too_long",
                f"{url} is longer than {config.max_document_bytes} bytes (max_document_bytes)",
            )
        else:
            text = content.removeprefix(_BYTE_ORDER_MARK)
            gatherer.add(row, text=text, id=MISSING, domain=MISSING, group=MISSING)
        yield from gatherer.full()
    yield from gatherer.rest()


def _read_task(
    shard: Shard, config: PoolConfig, _: str | None, rows: IntArray | None
) -> Iterator[DocumentBatch]:
    gatherer = Gatherer(shard, config)
    wanted = Wanted(rows)
    for row, example in read_examples(shard, config):
        if not wanted.has(row):
            continue
        gatherer.add(row, text=example.text, id=example.id, domain=MISSING, group=MISSING)
        yield from gatherer.full()
    yield from gatherer.rest()


def _read_parquet(
    shard: Shard, config: PoolConfig, number: str | None, rows: IntArray | None
) -> Iterator[DocumentBatch]:
    gatherer = Gatherer(shard, config, number)
    with opened(shard.url) as source:
        # Buffered and not pre-fetched: a row group's column is decoded page by page.
        file = pq.ParquetFile(
            source, buffer_size=2**20, pre_buffer=False, page_checksum_verification=True
        )
        columns = _parquet_columns(file, shard, config)
        if number is not None:
            columns["number"] = _number_column(file, shard, number)
        for numbers, given in _parquet_batches(file, columns, config, rows):
            fields = [given.get(name, repeat(MISSING)) for name in _FIELDS]
            for row, text, id, domain, group, found in zip(numbers, *fields, strict=False):
                gatherer.add(row, text=text, id=id, domain=domain, group=group, number=found)
                if gatherer.is_full:
                    yield from gatherer.rest()
    yield from gatherer.rest()


def _parquet_batches(
    file: pq.ParquetFile, columns: dict[str, str], config: PoolConfig, rows: IntArray | None
) -> Iterator[tuple[list[int], dict[str, list[object]]]]:
    """Read the numbers of the rows wanted and the values of fields by name, in small batches."""
    end = 0
    for group in range(file.num_row_groups):
        for batch in file.iter_batches(
            batch_size=_rows_at_once(file, group, config.text),
            row_groups=[group],
            columns=sorted(set(columns.values())),
            use_threads=False,
        ):
            first, end = end, end + batch.num_rows
            own = np.arange(first, end)
            if rows is not None:
                own = rows[np.searchsorted(rows, first) : np.searchsorted(rows, end)]
                if len(own) == 0:
                    continue
                if len(own) < batch.num_rows:
                    batch = batch.take(pa.array(own - first))
            values = {field: _column(batch, name) for field, name in columns.items()}
            yield own.tolist(), {f: _plain_column(one).to_pylist() for f, one in values.items()}


def _parquet_columns(file: pq.ParquetFile, shard: Shard, config: PoolConfig) -> dict[str, str]:
    """Map each field that is read to its column, after checking names and types."""
    wanted = {
        "text": config.text,
        "id": config.id,
        "domain": config.domain if shard.domain is None else None,
        "group": config.group,
    }
    schema = file.schema_arrow
    if config.id == DEFAULT_ID and DEFAULT_ID not in schema.names:
        del wanted["id"]
    if config.domain_missing is not None and _find_type(schema, config.domain or "") is None:
        del wanted["domain"]
    columns = {field: name for field, name in wanted.items() if name is not None}
    for field, name in columns.items():
        kind = _find_type(schema, name)
        if kind is None:
            raise DataError(
                f"shard {shard.url} has no column {name!r} ({field}); its columns are "
                f"{', '.join(schema.names)}. Set {field} to one of them"
                f"{', or to null to make ids from the text' if field == 'id' else ''}."
            )
        if not _is_readable(kind, numbers=field in ("id", "group")):
            allowed = "strings or numbers" if field in ("id", "group") else "strings"
            raise DataError(
                f"shard {shard.url}: column {name!r} ({field}) holds {kind}; it must hold "
                f"{allowed}. Set {field} to another column."
            )
    return columns


def _number_column(file: pq.ParquetFile, shard: Shard, name: str) -> str:
    """Return the name of a column of numbers after checking that it is one."""
    kind = _find_type(file.schema_arrow, name)
    if kind is None:
        raise DataError(
            f"shard {shard.url} has no column {name!r}; its columns are "
            f"{', '.join(file.schema_arrow.names)}. Name one of them."
        )
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        raise DataError(
            f"shard {shard.url}: column {name!r} holds {kind}; it must hold numbers. Name another "
            "column."
        )
    return name


def _find_type(schema: pa.Schema, name: str) -> pa.DataType | None:
    """Return the type of a column, or of a field of a group column; None where there is none."""
    if name in schema.names:
        return schema.field(name).type
    kind = pa.struct(list(schema))
    for part in name.split("."):
        if not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
            return None
        kind = kind.field(part).type
    return kind


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    if name in batch.schema.names:
        return batch.column(name)
    first, *rest = name.split(".")
    return pc.struct_field(batch.column(first), rest)


def _is_readable(kind: pa.DataType, *, numbers: bool) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_number = pa.types.is_integer(value) or pa.types.is_floating(value)
    return bool(_is_text(value) or pa.types.is_null(value) or (numbers and is_number))


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
    )


def _plain_column(column: pa.Array) -> pa.Array:
    """Give strings as bytes, so that invalid UTF-8 is met row by row."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.large_binary()) if _is_text(column.type) else column


def _rows_at_once(file: pq.ParquetFile, group: int, text: str) -> int:
    metadata = file.metadata.row_group(group)
    sizes = (metadata.column(index) for index in range(metadata.num_columns))
    n_bytes = sum(
        int(column.total_uncompressed_size) for column in sizes if column.path_in_schema == text
    )
    mean = max(1, n_bytes // max(1, int(metadata.num_rows)))
    return max(1, min(_MAX_ROWS, _READ_BYTES // mean))
