"""Bad rows: each kind is rejected with its reason, everything else is kept."""

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cuvee.corpus.read import DocumentBatch, PoolConfig, list_shards, read_batches

LIMIT = 2000
CONFIG = {"max_document_bytes": LIMIT, "group": "group"}


def _read(
    path: Path, **settings: object
) -> tuple[list[dict[str, str]], list[tuple[int, str, str]]]:
    """Read all documents and rejects of a file."""
    config = PoolConfig(shards=(str(path),), **{**CONFIG, **settings})
    batches = [one for shard in list_shards(config) for one in read_batches(shard, config)]
    return (
        [document for batch in batches for document in _documents(batch)],
        [(bad.row, bad.reason, bad.detail) for batch in batches for bad in batch.rejects],
    )


def _documents(batch: DocumentBatch) -> list[dict[str, str]]:
    columns = zip(batch.ids, batch.texts, batch.domains, batch.groups, strict=True)
    names = ("id", "text", "domain", "group")
    return [dict(zip(names, values, strict=True)) for values in columns]


def _record(**changes: object) -> bytes:
    return json.dumps({"id": "x", "text": "hello", "domain": "web", **changes}).encode()


TOO_DEEP = (
    "maximum recursion depth exceeded"
    if sys.version_info < (3, 13)
    else "Expecting value at character 1500"
)
"""Later versions of Python go deeper before they refuse."""
BAD_LINES = [
    (b'{"id": "x", "text": ', "broken_json", "Expecting value at character 20"),
    (b"not json", "broken_json", "Expecting value at character 0"),
    (b"[" * 100_000, "too_long", f"line of 100000 bytes; at most {LIMIT} are allowed"),
    (b"[" * 1500, "broken_json", TOO_DEEP),
    (b'{"id": ' + b"9" * 1990 + b"}", "missing_field", "'text' is missing"),
    (b"[1, 2]", "not_an_object", "line holds an array, not an object"),
    (b'"text"', "not_an_object", "line holds a string, not an object"),
    (b"null", "not_an_object", "line holds null, not an object"),
    (b'{"id": "x", "domain": "web"}', "missing_field", "'text' is missing"),
    (b'{"id": "x", "text": "hello"}', "missing_field", "'domain' is missing"),
    (_record(text=None), "text_not_string", "'text' is null, not a string"),
    (_record(text=5), "text_not_string", "'text' is the number 5, not a string"),
    (_record(text=True), "text_not_string", "'text' is the boolean True, not a string"),
    (_record(text=["a"]), "text_not_string", "'text' is an array, not a string"),
    (_record(text={"a": 1}), "text_not_string", "'text' is an object, not a string"),
    (_record(text=float("nan")), "text_not_string", "'text' is the number nan, not a string"),
    (
        b'{"id": "x", "text": "caf\xe9", "domain": "web"}',
        "invalid_utf8",
        "line is not UTF-8: byte 0xe9 at position 24",
    ),
    (
        b'{"id": "x", "text": "\xed\xa0\x80", "domain": "web"}',
        "invalid_utf8",
        "line is not UTF-8: byte 0xed at position 21",
    ),
    (_record(text=""), "empty", "'text' is empty or blank"),
    (_record(text=" \n\t\u3000"), "empty", "'text' is empty or blank"),
    (
        b'{"id": "x", "text": "ab\\ud83d", "domain": "web"}',
        "lone_surrogate",
        "'text' has the lone surrogate U+D83D at character 2",
    ),
    (_record(text="a\0b"), "nul", "'text' has a NUL at character 1"),
    (b'{"id": "x", "text": "a\0b"}', "nul", "line has a NUL at byte 22"),
    (
        _record(text="é" * 800),
        "too_long",
        f"line of 4840 bytes; at most {LIMIT} are allowed (max_document_bytes)",
    ),
    (_record(id=None), "bad_id", "'id' is null, not a string or number"),
    (_record(id=True), "bad_id", "'id' is the boolean True, not a string or number"),
    (_record(id=float("inf")), "bad_id", "'id' is inf, not a string or finite number"),
    (_record(id=" "), "bad_id", "'id' is empty or blank"),
    (_record(id="a\0"), "bad_id", "'id' has a NUL at character 1"),
    (_record(id="\udc00"), "bad_id", "'id' has the lone surrogate U+DC00 at character 0"),
    (_record(id="i" * 1025), "bad_id", "'id' has 1025 characters; at most 1024 are allowed"),
    (_record(domain=3), "bad_domain", "'domain' is the number 3, not a string"),
    (_record(domain=""), "bad_domain", "'domain' is empty or blank"),
    (
        _record(domain="a\nb"),
        "bad_domain",
        "'domain' is the string 'a\\nb', which is not printable",
    ),
    (_record(group=[1]), "bad_group", "'group' is an array, not a string or number"),
    (
        _record(group="\ud800"),
        "bad_group",
        "'group' has the lone surrogate U+D800 at character 0",
    ),
]


@pytest.mark.parametrize(("line", "reason", "detail"), BAD_LINES)
def test_bad_line_is_rejected_with_its_reason(
    tmp_path: Path, line: bytes, reason: str, detail: str
) -> None:
    """The row is named, the rows around it are kept."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(_record(id="before") + b"\n" + line + b"\n" + _record(id="after") + b"\n")
    documents, rejects = _read(path)
    assert [document["id"] for document in documents] == ["before", "after"]
    assert len(rejects) == 1
    assert rejects[0][:2] == (1, reason)
    assert rejects[0][2].startswith(detail)


def test_bad_parquet_values_are_rejected_with_their_reasons(tmp_path: Path) -> None:
    """Invalid UTF-8 inside a string column costs its row only."""
    texts = [b"good", b"caf\xe9", None, b"", b"a\0b", b"\xed\xa0\x80", b"x" * (LIMIT + 1), b"last"]
    table = pa.table(
        {
            "id": pa.array([0, 1, 2, 3, 4, 5, 6, None]),
            "text": pa.array(texts, pa.binary()).view(pa.string()),
            "domain": pa.array(["web"] * 8).dictionary_encode(),
            "group": pa.array([None] * 8, pa.string()),
        }
    )
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    documents, rejects = _read(path)
    assert documents == [{"id": "0", "text": "good", "domain": "web", "group": "0"}]
    assert rejects == [
        (1, "invalid_utf8", "'text' is not UTF-8: byte 0xe9 at position 3"),
        (2, "text_not_string", "'text' is null, not a string"),
        (3, "empty", "'text' is empty or blank"),
        (4, "nul", "'text' has a NUL at character 1"),
        (5, "invalid_utf8", "'text' is not UTF-8: byte 0xed at position 0"),
        (6, "too_long", f"{LIMIT + 1} bytes; at most {LIMIT} are allowed (max_document_bytes)"),
        (7, "bad_id", "'id' is null, not a string or number"),
    ]


def test_numeric_ids_become_strings(tmp_path: Path) -> None:
    """Integers and floats are ids."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([_record(id=7), _record(id=2.5), _record(id="7a")]))
    documents, _ = _read(path)
    assert [document["id"] for document in documents] == ["7", "2.5", "7a"]


def test_group_is_the_stripped_value_or_the_id(tmp_path: Path) -> None:
    """Parts of one book are one group; a document without group is its own."""
    path = tmp_path / "a.jsonl"
    groups = ["book#part1", "book#part12", "book#part1x", None, "#part3", 4]
    lines = [_record(id=f"i{n}", group=group) for n, group in enumerate(groups)]
    path.write_bytes(b"\n".join([*lines, _record(id="i6")]))
    documents, _ = _read(path)
    found = [document["group"] for document in documents]
    assert found == ["book", "book", "book#part1x", "i3", "i4", "4", "i6"]


def test_missing_id_is_made_unless_its_column_was_named(tmp_path: Path) -> None:
    """A misspelt column does not pass for documents without ids."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "hello", "domain": "web", "doc_id": "d"}')
    (made,), _ = _read(path)
    assert len(made["id"]) == 32
    assert _read(path, id="doc_id")[0][0]["id"] == "d"
    assert _read(path, id="doc")[1] == [(0, "missing_field", "'doc' is missing")]


def test_made_ids_depend_on_domain_and_text_only(tmp_path: Path) -> None:
    """Without an id column equal documents get equal ids."""
    path = tmp_path / "a.jsonl"
    lines = [_record(id=1), _record(id=2), _record(text="other"), _record(domain="books")]
    path.write_bytes(b"\n".join(lines))
    documents, _ = _read(path, id=None)
    ids = [document["id"] for document in documents]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
    assert all(len(one) == 32 for one in ids)
