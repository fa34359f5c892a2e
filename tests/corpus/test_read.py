"""Reading shards: formats, damage, bounded memory."""

import gzip
import json
import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from cuvee.corpus.read import DocumentBatch, PoolConfig, has_column, list_shards, read_batches
from cuvee.corpus.streams import bounded_lines
from cuvee.errors import ConfigError, DataError

MIB = 2**20
REMEDY = "Copy it again, or leave it out of shards; nothing of it is used."


def _lines(n: int = 3) -> bytes:
    records = [{"id": f"i{k}", "text": f"text {k} é", "domain": "web"} for k in range(n)]
    return b"".join(json.dumps(one).encode() + b"\n" for one in records)


def _table(n: int = 3) -> pa.Table:
    return pa.table(
        {
            "id": [f"i{k}" for k in range(n)],
            "text": [f"text {k} é" for k in range(n)],
            "domain": ["web"] * n,
        }
    )


def _batches(path: Path | str, **settings: object) -> list[DocumentBatch]:
    config = PoolConfig(shards=(str(path),), **settings)
    return [batch for shard in list_shards(config) for batch in read_batches(shard, config)]


def _texts(path: Path | str, **settings: object) -> list[str]:
    return [text for batch in _batches(path, **settings) for text in batch.texts]


def _write_parquet(path: Path) -> None:
    pq.write_table(_table(), path)


def _write_large_string(path: Path) -> None:
    schema = pa.schema([(name, pa.large_string()) for name in ("id", "text", "domain")])
    pq.write_table(_table().cast(schema), path)


def _write_dictionary(path: Path) -> None:
    table = _table()
    columns = [table.column(name).dictionary_encode() for name in table.column_names]
    pq.write_table(pa.table(columns, names=table.column_names), path)


def _write_without_id(path: Path) -> None:
    pq.write_table(_table().drop_columns("id"), path)


def _write_bytes(path: Path) -> None:
    columns = [column.cast(pa.binary()) for column in _table().columns]
    pq.write_table(pa.table(columns, names=_table().column_names), path)


WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "parquet": ("a.parquet", _write_parquet),
    "parquet, large strings": ("a.parquet", _write_large_string),
    "parquet, dictionaries": ("a.parquet", _write_dictionary),
    "parquet, binary": ("a.parquet", _write_bytes),
    "jsonl": ("a.jsonl", lambda path: path.write_bytes(_lines())),
    "jsonl with byte order mark": (
        "a.jsonl",
        lambda path: path.write_bytes(b"\xef\xbb\xbf" + _lines()),
    ),
    "jsonl with CRLF": (
        "a.jsonl",
        lambda path: path.write_bytes(_lines().replace(b"\n", b"\r\n")),
    ),
    "jsonl with blank lines": (
        "a.jsonl",
        lambda path: path.write_bytes(_lines().replace(b"\n", b"\n\n")),
    ),
    "jsonl without last newline": ("a.jsonl", lambda path: path.write_bytes(_lines()[:-1])),
    "gzip": ("a.jsonl.gz", lambda path: path.write_bytes(gzip.compress(_lines()))),
    "gzip of two members": (
        "a.jsonl.gz",
        lambda path: path.write_bytes(gzip.compress(_lines()[:50]) + gzip.compress(_lines()[50:])),
    ),
    "zstd": (
        "a.jsonl.zst",
        lambda path: path.write_bytes(zstandard.ZstdCompressor().compress(_lines())),
    ),
    "zstd of two frames": (
        "a.jsonl.zst",
        lambda path: path.write_bytes(
            b"".join(
                zstandard.ZstdCompressor().compress(part) for part in (_lines()[:50], _lines()[50:])
            )
        ),
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_documents(tmp_path: Path, name: str) -> None:
    """Ids, texts and domains do not depend on the format."""
    filename, write = WRITERS[name]
    write(tmp_path / filename)
    (batch,) = _batches(tmp_path)
    assert batch.ids == ["i0", "i1", "i2"]
    assert batch.texts == ["text 0 é", "text 1 é", "text 2 é"]
    assert batch.domains == ["web"] * 3
    assert batch.rejects == []


def test_parquet_without_id_column_gets_ids(tmp_path: Path) -> None:
    """They are made from domain and text."""
    _write_without_id(tmp_path / "a.parquet")
    (batch,) = _batches(tmp_path)
    assert batch.n_made_ids == len(set(batch.ids)) == 3


def test_text_folder_is_one_document_a_file(tmp_path: Path) -> None:
    """Files of one folder share a shard; rows number them; ids come from content."""
    for name, content in {"x/a.txt": b"one", "x/b.md": b"\xef\xbb\xbftwo", "y/c": b"three"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "x" / ".hidden").write_text("no")
    (tmp_path / "y" / "d").write_bytes(b"\xff\xfe")
    batches = _batches(tmp_path, format="text", domain_from="folder")
    assert [(one.texts, one.domains, one.rows.tolist()) for one in batches] == [
        (["one", "two"], ["x", "x"], [0, 1]),
        (["three"], ["y"], [0]),
    ]
    assert [(one.row, one.reason) for one in batches[1].rejects] == [(1, "invalid_utf8")]


def test_text_file_over_the_limit_is_rejected(tmp_path: Path) -> None:
    """It is not read whole."""
    path = tmp_path / "a.txt"
    path.write_text("x" * 11)
    (batch,) = _batches(path, format="text", domain_from="file", max_document_bytes=10)
    assert [one.reason for one in batch.rejects] == ["too_long"]
    assert batch.rejects[0].detail == f"{path} is longer than 10 bytes (max_document_bytes)"


def test_urls_of_any_filesystem_are_read() -> None:
    """Shards may stand in memory, and keep their URL."""
    with fsspec.open("memory://pool/deep/a.jsonl.gz", "wb") as file:
        file.write(gzip.compress(_lines()))
    config = PoolConfig(shards=("memory://pool",))
    (shard,) = list_shards(config)
    assert shard.url == "memory:///pool/deep/a.jsonl.gz"
    assert sum(len(batch.ids) for batch in read_batches(shard, config)) == 3


COMPRESSED = {
    "a.jsonl.gz": gzip.compress(_lines(2000)),
    "a.jsonl.zst": zstandard.ZstdCompressor().compress(_lines(2000)),
}


def _damaged(tmp_path: Path) -> dict[str, tuple[bytes, str]]:
    """Contents of damaged shards by file name, and what is said of them."""
    gz, zst = COMPRESSED["a.jsonl.gz"], COMPRESSED["a.jsonl.zst"]
    pq.write_table(_table(2000), tmp_path / "whole")
    parquet = (tmp_path / "whole").read_bytes()
    general = "is truncated, damaged or unreadable: "
    cut = "is truncated: its last line (2) ends in the middle of a record, without a newline. "
    return {
        "cut.jsonl.gz": (gz[:-5], general + "Truncated compressed stream. "),
        "half.jsonl.gz": (gz[: len(gz) // 2], general + "Truncated compressed stream. "),
        "cut.jsonl.zst": (zst[:-1], general + "Truncated compressed stream. "),
        "half.jsonl.zst": (zst[: len(zst) // 2], general + "Truncated compressed stream. "),
        "two.jsonl.zst": (zst + zst[:20], general + "Truncated compressed stream. "),
        "tail.jsonl.gz": (gz + b"rubbish", general + "zlib inflate failed: "),
        "none.jsonl.gz": (b"", "is truncated: it has 0 bytes, which is not gzip data. "),
        "none.jsonl.zst": (b"", "is truncated: it has 0 bytes, which is not zstd data. "),
        "not.jsonl.gz": (b"plain text", general + "zlib inflate failed: "),
        "not.jsonl.zst": (b"plain text", general + "ZSTD decompress failed: "),
        "line.jsonl": (_lines()[:-6], cut),
        "value.jsonl": (_lines()[:-35], cut),
        "character.jsonl": ('{"id": 1}\n{}\n{"text": "é'.encode()[:-1], cut),
        "escape.jsonl": (b'{"id": 1}\n{}\n{"text": "a\\u00', cut),
        "cut.parquet": (parquet[:-9], general + "Parquet magic bytes not found in footer"),
        "half.parquet": (parquet[: len(parquet) // 2], general + "Parquet magic bytes not found"),
        "none.parquet": (b"", general + "Parquet file size is 0 bytes. "),
        "hole.parquet": (parquet[:50] + bytes(5000) + parquet[5050:], general),
    }


@pytest.mark.parametrize(
    "name",
    [
        *("cut.jsonl.gz", "half.jsonl.gz", "cut.jsonl.zst", "half.jsonl.zst", "two.jsonl.zst"),
        *("tail.jsonl.gz", "none.jsonl.gz", "none.jsonl.zst", "not.jsonl.gz", "not.jsonl.zst"),
        *("line.jsonl", "value.jsonl", "character.jsonl", "escape.jsonl"),
        *("cut.parquet", "half.parquet", "none.parquet", "hole.parquet"),
    ],
)
def test_damaged_shard_is_named(tmp_path: Path, name: str) -> None:
    """Reading ends with an error that names the shard, what was found and the remedy."""
    content, found = _damaged(tmp_path)[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        _batches(path)
    message = str(caught.value)
    assert message.startswith(f"shard {path} {found}")
    assert message.endswith(REMEDY)


def test_broken_last_line_with_newline_is_a_bad_row(tmp_path: Path) -> None:
    """Only a missing newline tells a cut file from a bad row."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(_lines() + b'{"id": "x", "text": "abc\n')
    (batch,) = _batches(path)
    assert [one.reason for one in batch.rejects] == ["broken_json"]


def test_vanished_shard_is_named(tmp_path: Path) -> None:
    """A shard deleted after listing."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(_lines())
    config = PoolConfig(shards=(str(path),))
    (shard,) = list_shards(config)
    path.unlink()
    with pytest.raises(DataError) as caught:
        list(read_batches(shard, config))
    assert str(caught.value) == (
        f"shard {path} does not exist (any more). Put it back, or correct shards."
    )


def test_missing_column_is_named(tmp_path: Path) -> None:
    """The columns that exist are listed."""
    path = tmp_path / "a.parquet"
    _write_parquet(path)
    with pytest.raises(DataError) as caught:
        _batches(path, text="content")
    assert str(caught.value) == (
        f"shard {path} has no column 'content' (text); its columns are id, text, domain. "
        "Set text to one of them."
    )
    with pytest.raises(DataError) as caught:
        _batches(path, id="doc_id")
    assert str(caught.value) == (
        f"shard {path} has no column 'doc_id' (id); its columns are id, text, domain. "
        "Set id to one of them, or to null to make ids from the text."
    )


@pytest.mark.parametrize(
    ("column", "values", "found", "allowed"),
    [
        ("text", pa.array([1.5]), "double", "strings"),
        ("domain", pa.array([1]), "int64", "strings"),
        ("id", pa.array([True]), "bool", "strings or numbers"),
        ("id", pa.array([["a"]]), "list<element: string>", "strings or numbers"),
    ],
)
def test_column_of_wrong_type_is_named(
    tmp_path: Path, column: str, values: pa.Array, found: str, allowed: str
) -> None:
    """A whole column cannot be text, id or domain."""
    path = tmp_path / "a.parquet"
    columns = {"id": pa.array(["a"]), "text": pa.array(["b"]), "domain": pa.array(["c"])}
    pq.write_table(pa.table({**columns, column: values}), path)
    with pytest.raises(DataError) as caught:
        _batches(path)
    assert str(caught.value) == (
        f"shard {path}: column {column!r} ({column}) holds {found}; it must hold {allowed}. "
        f"Set {column} to another column."
    )


def test_column_of_nulls_is_rejected_row_by_row(tmp_path: Path) -> None:
    """Its type tells nothing, so it is not refused."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": ["a"], "text": pa.nulls(1), "domain": ["c"]}), path)
    (batch,) = _batches(path)
    assert [one.reason for one in batch.rejects] == ["text_not_string"]


def _write_long_line(file: object, n_mib: int) -> None:
    file.write(b'{"id": "long", "domain": "web", "text": "')
    for _ in range(n_mib):
        file.write(b"x" * MIB)
    file.write(b'"}\n')


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_200_mb_line_is_skipped_in_bounded_memory(tmp_path: Path, suffix: str) -> None:
    """The line is passed over piece by piece, also where it is tiny on disk."""
    path = tmp_path / f"a.jsonl{suffix}"
    openers = {"": open, ".gz": gzip.open, ".zst": zstandard.open}
    with openers[suffix](path, "wb") as file:
        file.write(_lines(1))
        _write_long_line(file, 200)
        file.write(_lines(2))
    tracemalloc.start()
    allocated = pa.total_allocated_bytes()
    documents, reasons = 0, []
    config = PoolConfig(shards=(str(path),), max_document_bytes=8 * MIB)
    for batch in read_batches(list_shards(config)[0], config):
        documents += len(batch.ids)
        reasons += [(one.row, one.reason) for one in batch.rejects]
    peak = tracemalloc.get_traced_memory()[1] + pa.total_allocated_bytes() - allocated
    tracemalloc.stop()
    assert (documents, reasons) == (3, [(1, "too_long")])
    assert peak < 32 * MIB


def test_batches_are_bounded(tmp_path: Path) -> None:
    """About 8 MiB of text or 4096 rows, whatever the row groups are."""
    pq.write_table(
        pa.table(
            {
                "id": [f"i{k}" for k in range(60)],
                "text": ["x" * MIB] * 60,
                "domain": ["web"] * 60,
            }
        ),
        tmp_path / "long.parquet",
    )
    (tmp_path / "short.jsonl").write_bytes(_lines(9000))
    long, short = (
        [len(batch.ids) for batch in _batches(tmp_path / name)]
        for name in ("long.parquet", "short.jsonl")
    )
    assert sum(long) == 60
    assert max(long) == 8
    assert short == [4096, 4096, 808]


def test_rows_are_numbered_through_row_groups(tmp_path: Path) -> None:
    """A row's number does not start again."""
    pq.write_table(_table(7), tmp_path / "a.parquet", row_group_size=2)
    rows = [row for batch in _batches(tmp_path) for row in batch.rows.tolist()]
    assert rows == list(range(7))


def test_lines_join_over_chunks() -> None:
    """A line may begin in one chunk and end in another; empty lines count."""

    class Trickle:
        """A stream of three bytes at a time."""

        def __init__(self, content: bytes) -> None:
            self.content = content

        def read(self, size: int, /) -> bytes:
            """Return the next bytes."""
            piece, self.content = self.content[:3], self.content[3:]
            return piece

    lines = list(bounded_lines(Trickle(b"abcdef\n\nghijklmnopq\nrs"), max_bytes=6))
    assert [(one.number, one.content, one.n_bytes, one.ended) for one in lines] == [
        (0, b"abcdef", 6, True),
        (1, b"", 0, True),
        (2, None, 11, True),
        (3, b"rs", 2, False),
    ]


def _numbers(path: Path, content: pa.Table | bytes, name: str) -> list[float]:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        pq.write_table(content, path)
    config = PoolConfig(shards=(str(path),))
    (shard,) = list_shards(config)
    assert has_column(shard, name)
    found = [batch.numbers for batch in read_batches(shard, config, number=name)]
    return [value for one in found if one is not None for value in one.tolist()]


def test_a_column_of_numbers_is_read_beside_the_text(tmp_path: Path) -> None:
    """Plain, in a group or under a name with a dot; missing and null are NaN, rejects are not."""
    table = pa.table(
        {
            "id": ["a", "b", "c", "d"],
            "text": ["one", "two", " ", "four"],
            "domain": ["web"] * 4,
            "meta": [{"edu": 1}, {"edu": None}, {"edu": 3}, None],
            "meta.toxic": [0.25, math.nan, 0.5, 0.75],
        }
    )
    lines = b"".join(
        json.dumps({key: value for key, value in row.items() if value is not None}).encode() + b"\n"
        for row in table.to_pylist()
    )
    for name, content in (("a.parquet", table), ("a.jsonl", lines)):
        np.testing.assert_equal(
            _numbers(tmp_path / name, content, "meta.edu"), [1.0, math.nan, math.nan]
        )
        np.testing.assert_equal(
            _numbers(tmp_path / name, content, "meta.toxic"), [0.25, math.nan, 0.75]
        )


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ('"high"', "the string 'high'"),
        ("true", "the boolean True"),
        ("1e999", "the number inf"),
        ("[1]", "an array"),
        ("1" + "0" * 400, "the number 1000"),
    ],
)
def test_other_things_are_no_numbers(tmp_path: Path, value: str, found: str) -> None:
    """The shard is refused, naming the row: the document itself is sound."""
    line = f'{{"id": "a", "text": "b", "domain": "c", "edu": {value}}}\n'.encode()
    with pytest.raises(DataError) as caught:
        _numbers(tmp_path / "a.jsonl", line, "edu")
    assert str(caught.value).startswith(f"shard {tmp_path / 'a.jsonl'}, row 0: 'edu' is {found}")
    assert str(caught.value).endswith(
        "; it must be a finite number, or missing. Repair the column."
    )


def test_a_missing_column_of_numbers_is_named(tmp_path: Path) -> None:
    """In Parquet by its schema, by type too; text files have none."""
    _write_parquet(tmp_path / "a.parquet")
    (tmp_path / "b.txt").write_text("text", encoding="utf-8")
    config = PoolConfig(shards=(str(tmp_path / "a.parquet"),))
    (shard,) = list_shards(config)
    assert not has_column(shard, "edu")
    assert not has_column(shard, "text.edu")
    with pytest.raises(DataError, match=r"has no column 'edu'; its columns are id, text, domain\."):
        list(read_batches(shard, config, number="edu"))
    with pytest.raises(DataError, match="column 'text' holds string; it must hold numbers"):
        list(read_batches(shard, config, number="text"))
    config = PoolConfig(shards=(str(tmp_path / "b.txt"),), format="text", domain_from="file")
    (shard,) = list_shards(config)
    assert not has_column(shard, "edu")
    with pytest.raises(DataError, match="is of text files, which have no column 'edu'"):
        read_batches(shard, config, number="edu")


def test_documents_without_a_domain_are_kept_where_one_is_named_for_them(tmp_path: Path) -> None:
    """Null, blank or no column at all; without a name they are rejected, or the shard refused."""
    table = pa.table({"id": ["a", "b", "c"], "text": ["x"] * 3, "domain": ["web", None, " "]})
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(table.drop_columns("domain"), tmp_path / "b.parquet")
    (tmp_path / "c.jsonl").write_text('{"id": "d", "text": "x"}\n', encoding="utf-8")
    found = [
        _batches(tmp_path / name, domain_missing="unknown")
        for name in ("a.parquet", "b.parquet", "c.jsonl")
    ]
    assert [batch.domains for (batch,) in found] == [
        ["web", "unknown", "unknown"],
        ["unknown"] * 3,
        ["unknown"],
    ]
    (batch,) = _batches(tmp_path / "a.parquet")
    assert [one.reason for one in batch.rejects] == ["bad_domain", "bad_domain"]
    with pytest.raises(DataError, match="has no column 'domain'"):
        _batches(tmp_path / "b.parquet")
    for name in ("", " ", "a\nb"):
        with pytest.raises(ConfigError, match="domain_missing is"):
            PoolConfig(shards=("a",), domain_missing=name)


def _write_rows(path: Path, layout: str) -> PoolConfig:
    """Write 700 documents, more than a batch of rows, some of them broken."""
    texts = [f"text {k}" if k % 7 else " " for k in range(700)]
    if layout == "text":
        (path / "web").mkdir(parents=True)
        for number, text in enumerate(texts[:60]):
            (path / "web" / f"{number:03d}.txt").write_text(text)
        return PoolConfig(shards=(str(path),), format="text", domain_from="folder")
    rows = {"id": [f"i{k}" for k in range(700)], "text": texts, "domain": ["web"] * 700}
    table = pa.table({**rows, "edu": [float(k) for k in range(700)]})
    if layout == "parquet":
        pq.write_table(table, path.with_suffix(".parquet"), row_group_size=300)
        return PoolConfig(shards=(str(path.with_suffix(".parquet")),))
    lines = [json.dumps(row) + "\n" for row in table.to_pylist()]
    path.with_suffix(".jsonl").write_text("".join([*lines[:5], "\n", "no json\n", *lines[5:]]))
    return PoolConfig(shards=(str(path.with_suffix(".jsonl")),))


@pytest.mark.parametrize("layout", ["parquet", "jsonl", "text"])
@pytest.mark.parametrize(
    "wanted", [[], [0], [3, 4, 5, 6, 8], list(range(0, 700, 11)), [299, 300, 699], [10_000]]
)
def test_only_wanted_rows_are_read(tmp_path: Path, layout: str, wanted: list[int]) -> None:
    """What is asked for is what reading all gives of it, rejects and numbers included."""
    config = _write_rows(tmp_path / "pool", layout)
    (shard, *_) = list_shards(config)
    number = None if layout == "text" else "edu"
    rows = np.array(wanted, dtype=np.int64)
    full = list(read_batches(shard, config, number=number))
    some = list(read_batches(shard, config, number=number, rows=rows))

    def found(batches: list[DocumentBatch]) -> dict[int, tuple[object, ...]]:
        return {
            row: (*values, None if batch.numbers is None else batch.numbers[place])
            for batch in batches
            for place, (row, *values) in enumerate(
                zip(batch.rows.tolist(), batch.ids, batch.texts, batch.domains, strict=True)
            )
        }

    assert found(some) == {row: one for row, one in found(full).items() if row in wanted}
    rejects = [one for batch in some for one in batch.rejects]
    assert rejects == [one for batch in full for one in batch.rejects if one.row in wanted]


def test_a_truncated_shard_is_refused_whatever_rows_are_wanted(tmp_path: Path) -> None:
    """A last line that was cut off is found though nobody asked for it."""
    path = tmp_path / "pool.jsonl"
    path.write_bytes(_lines()[:-9])
    config = PoolConfig(shards=(str(path),))
    (shard,) = list_shards(config)
    with pytest.raises(DataError, match="is truncated"):
        list(read_batches(shard, config, rows=np.array([0])))
