"""Pools that are token ids already: what is read of them, and what is refused."""

import gzip
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from cuvee.corpus import token_bounds, token_files
from cuvee.corpus.encoder import Encoder, train_tokenizer
from cuvee.corpus.pool import PoolConfig, list_shards
from cuvee.corpus.read import has_column, read_batches
from cuvee.corpus.rows import DocumentBatch
from cuvee.corpus.scan import scan_pool
from cuvee.corpus.tokens import TokensConfig, make_tokenizer, tokenise_pool
from cuvee.errors import ArtifactError, ConfigError, CuveeError, DataError

SEED = 3
AGAIN = "Copy it again, or leave it out of shards; nothing of it is used."
TEXTS = [f"the cat number {n} saw\nthe dög {n * n}" for n in range(30)]
CODES = {"uint8": 1, "int16": 3, "int32": 4, "int64": 5, "float32": 7, "uint16": 8}
"""Megatron's codes of integers, from its DType."""
Documents = Sequence[Sequence[int]]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE of 280 ids; end-of-text is 0."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(train_tokenizer(TEXTS, vocabulary_size=280), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def late(tokenizer: Path) -> Path:
    """The same with an end-of-text of another name and the last id, and nothing behind it."""
    own = Tokenizer.from_file(str(tokenizer))
    found = own.to_str().replace('"<|endoftext|>"', '"!!"').replace('"special":true', '"special":0')
    changed = Tokenizer.from_str(found.replace('"special":0', '"special":false'))
    changed.add_special_tokens(["</s>"])
    path = tokenizer.with_name("late.json")
    path.write_text(changed.to_str(), encoding="utf-8")
    return path


def encoded(tokenizer: Path, texts: Sequence[str] = TEXTS) -> list[list[int]]:
    """Return the ids of texts, without end-of-text."""
    encoder = Encoder(tokenizer)
    return [np.frombuffer(one, dtype=encoder.dtype).tolist() for one in encoder.encode(texts)]


def ended(documents: Documents, end: int = 0) -> list[list[int]]:
    """Put end-of-text behind each document."""
    return [[*one, end] for one in documents]


def write_flat(path: Path, documents: Documents, dtype: str = "<u2") -> Path:
    """Write raw ids as OLMo's trainer reads them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = [token for document in documents for token in document]
    np.array(flat, dtype=dtype).tofile(path)
    return path


def write_bounds(path: Path, documents: Documents) -> None:
    """Write dolma's ``.csv.gz``: start, end, id, source and its row."""
    ends = np.cumsum([len(one) for one in documents]).tolist()
    rows = zip([0, *ends], ends, strict=False)
    lines = [f"{start},{end},doc-{end},a.jsonl,{row}\n" for row, (start, end) in enumerate(rows)]
    path.with_suffix(".csv.gz").write_bytes(gzip.compress("".join(lines).encode()))


def write_megatron(
    path: Path, documents: Documents, dtype: str = "uint16", *, longest: int = 10**6
) -> Path:
    """Write as IndexedDatasetBuilder does, documents in sequences of at most ``longest`` ids."""
    sequences = [
        [one[start : start + longest] for start in range(0, len(one), longest)] for one in documents
    ]
    flat = [one for own in sequences for one in own]
    write_flat(path, flat, np.dtype(dtype).str)
    lengths = np.array([len(one) for one in flat], dtype="<i4")
    offsets = (np.cumsum(lengths, dtype="<i8") - lengths) * np.dtype(dtype).itemsize
    ends = np.cumsum([0, *map(len, sequences)], dtype="<i8")
    head = struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, CODES[dtype], len(flat), len(ends))
    lists = (lengths.tobytes(), offsets.astype("<i8").tobytes(), ends.tobytes())
    path.with_suffix(".idx").write_bytes(head + b"".join(lists))
    return path


def pool(path: Path, tokenizer: Path, **others: object) -> PoolConfig:
    """Make the config of a pool of one place, the domains named by its files."""
    about = {"domain_from": "file", "tokenizer": str(tokenizer), **others}
    return PoolConfig(shards=(str(path),), **about)  # type: ignore[arg-type]


def read(config: PoolConfig, rows: Sequence[int] | None = None) -> list[DocumentBatch]:
    """Read all shards of a pool."""
    wanted = None if rows is None else np.array(rows, dtype=np.int64)
    return [
        batch for shard in list_shards(config) for batch in read_batches(shard, config, rows=wanted)
    ]


def ids_by_row(batches: Sequence[DocumentBatch]) -> dict[int, list[int]]:
    """Return the ids that documents of two-byte ids carry, by their number in the file."""
    return {
        row: np.frombuffer(ids, dtype="<u2").tolist()
        for batch in batches
        for row, ids in zip(batch.rows.tolist(), batch.tokens or [], strict=True)
    }


WRITERS: dict[str, Callable[[Path, Documents], Path]] = {
    "npy": lambda folder, ids: write_flat(folder / "web.npy", ended(ids)),
    "megatron": lambda folder, ids: write_megatron(folder / "web.bin", ids),
    "megatron with ends": lambda folder, ids: write_megatron(folder / "web.bin", ended(ids)),
    "megatron of int32": lambda folder, ids: write_megatron(folder / "web.bin", ids, "int32"),
}


@pytest.mark.parametrize("kind", list(WRITERS))
def test_documents_are_those_of_a_text_pool(tmp_path: Path, tokenizer: Path, kind: str) -> None:
    """Ids, texts and domains are what the same texts have as files of text."""
    WRITERS[kind](tmp_path / "tokens", encoded(tokenizer))
    (tmp_path / "web").mkdir()
    for number, text in enumerate(TEXTS):
        (tmp_path / "web" / f"{number:02d}.txt").write_text(text, encoding="utf-8")
    texts = PoolConfig(shards=(str(tmp_path / "web"),), format="text", domain_from="folder")
    (expected,), (found,) = read(texts), read(pool(tmp_path / "tokens", tokenizer))
    assert (found.ids, found.texts, found.groups) == (expected.ids, TEXTS, expected.ids)
    assert found.domains == ["web"] * len(TEXTS)
    assert found.rows.tolist() == list(range(len(TEXTS)))
    assert found.n_made_ids == len(TEXTS)
    assert list(ids_by_row([found]).values()) == encoded(tokenizer)
    assert expected.tokens is None


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    documents=st.lists(st.lists(st.integers(1, 279), max_size=9), max_size=12),
    layout=st.sampled_from(["npy", "npy with bounds", "megatron"]),
    has_ends=st.booleans(),
    longest=st.integers(1, 4),
    window=st.integers(1, 6),
    wanted=st.none() | st.sets(st.integers(0, 12)),
)
def test_any_documents_are_read_as_they_were_written(
    documents: list[list[int]],
    layout: str,
    has_ends: bool,
    longest: int,
    window: int,
    wanted: set[int] | None,
    tmp_path: Path,
    tokenizer: Path,
) -> None:
    """Each has its ids and their decoded text, wherever windows, chunks and sequences end."""
    written = ended(documents) if has_ends or layout == "npy" else documents
    path = tmp_path / ("web.bin" if layout == "megatron" else "web.npy")
    path.with_suffix(".csv.gz").unlink(missing_ok=True)
    if layout == "megatron":
        write_megatron(path, written, longest=longest)
    else:
        write_flat(path, written)
    if layout == "npy with bounds":
        write_bounds(path, written)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(token_files, "_WINDOW", window)
        patched.setattr(token_files, "_DECODED", window)
        patched.setattr(token_bounds, "_AT_A_TIME", window)
        patched.setattr(token_files, "_FEW", 10**6)  # few and short documents look like any width
        found = read(pool(path, tokenizer), None if wanted is None else sorted(wanted))
    library = Tokenizer.from_file(str(tokenizer))
    asked = range(len(documents)) if wanted is None else sorted(wanted & {*range(len(documents))})
    texts = {row: library.decode(documents[row]) for row in asked}
    kept = [row for row in asked if texts[row].strip() and "\0" not in texts[row]]
    assert ids_by_row(found) == {row: documents[row] for row in kept}
    assert [text for batch in found for text in batch.texts] == [texts[row] for row in kept]
    assert {one.row for batch in found for one in batch.rejects} == {*asked} - {*kept}


def test_the_last_id_may_end_documents(tmp_path: Path, late: Path) -> None:
    """End-of-text is the tokenizer's, whatever its id."""
    documents = [[5, 0, 7], [0], [279, 0]]
    path = write_flat(tmp_path / "web.npy", ended(documents, 280))
    assert ids_by_row(read(pool(path, late))) == dict(enumerate(documents))


def test_wide_ids_are_read(tmp_path: Path, tokenizer: Path) -> None:
    """Above 65,536 ids a tokenizer's take 4 bytes, in the file and in the store."""
    wide = json.loads(tokenizer.read_text(encoding="utf-8"))
    wide["model"]["vocab"] |= {f"[{number}]": number for number in range(280, 66_280)}
    path = tmp_path / "wide.json"
    path.write_text(json.dumps(wide), encoding="utf-8")
    documents = [[66_279, 5], [7, 65_600]]
    (found,) = read(pool(write_flat(tmp_path / "web.npy", ended(documents), "<u4"), path))
    assert [np.frombuffer(one, "<u4").tolist() for one in found.tokens or []] == documents
    assert found.texts[0].startswith("[66279]")


@pytest.mark.parametrize("name", ["web.npy", "web.bin"])
def test_token_files_of_any_filesystem_are_read(tmp_path: Path, tokenizer: Path, name: str) -> None:
    """What stands beside them is found there too."""
    documents = encoded(tokenizer)
    write_flat(tmp_path / "web.npy", documents)
    write_bounds(tmp_path / "web.npy", documents)
    write_megatron(tmp_path / "web.bin", documents)
    memory = MemoryFileSystem()
    for path in tmp_path.iterdir():
        memory.pipe(f"/tokens/{path.name}", path.read_bytes())
    config = replace(pool(path, tokenizer), shards=(f"memory://tokens/{name}",))
    assert list(ids_by_row(read(config)).values()) == documents
    memory.rm("/tokens", recursive=True)


def test_an_overlong_document_is_a_reject(tmp_path: Path, tokenizer: Path) -> None:
    """More ids than bytes are allowed are not even kept; the others are read."""
    path = write_flat(tmp_path / "web.npy", ended([[5, 6], [7] * 40, [8]]))
    (batch,) = read(pool(path, tokenizer, max_document_bytes=20))
    assert batch.rows.tolist() == [0, 2]
    ((row, reason, detail),) = [(one.row, one.reason, one.detail) for one in batch.rejects]
    assert (row, reason) == (1, "too_long")
    assert detail == "41 ids; at most 20 are allowed (max_document_bytes)"


def test_token_files_have_no_columns(tmp_path: Path, tokenizer: Path) -> None:
    """Neither of numbers, which is refused, nor of anything else."""
    config = pool(write_flat(tmp_path / "web.npy", [[5, 0]]), tokenizer)
    (shard,) = list_shards(config)
    assert not has_column(shard, "text")
    with pytest.raises(DataError, match=r"is of token ids, which have no column 'score'"):
        list(read_batches(shard, config, number="score"))


def _numpy(path: Path) -> None:
    np.save(path, np.arange(9, dtype="<u2"))


def _cut_off(path: Path, n_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:-n_bytes])


def _head(path: Path, head: bytes) -> None:
    path.write_bytes(head + path.read_bytes()[len(head) :])


def _bounds(path: Path, lines: str) -> None:
    path.with_suffix(".csv.gz").write_bytes(gzip.compress(lines.encode()))


LONG = [[5, 6, 7]] * 20
FLAT_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "NumPy's header": (
        _numpy,
        "shard PATH has NumPy's header; allowed are raw ids, as OLMo's .npy files are. Write it "
        "again with numpy.load(...).tofile(...).",
    ),
    "ids of 4 bytes": (
        lambda path: write_flat(path, ended(LONG), "<u4"),
        "shard PATH holds ids of 4 bytes, for every second number of 2 bytes is 0; those of "
        "tokenizer TOKENIZER, which has 280 ids, must be of 2. Write the file again as uint16.",
    ),
    "half an id": (
        lambda path: _cut_off(path, 1),
        "shard PATH has 159 bytes, which are no whole number of uint16: it is truncated, or holds "
        f"other integers. {AGAIN}",
    ),
    "no end": (
        lambda path: write_flat(path, LONG),
        "shard PATH does not end with end-of-text, which is the id 0 of tokenizer TOKENIZER, and "
        "has no .csv.gz of document bounds beside it: the 60 ids at its end are of no whole "
        "document. Give the tokenizer that made it, put the bounds beside it, or copy it again if "
        "it is truncated.",
    ),
    "an id too high": (
        lambda path: write_flat(path, ended([*LONG, [6, 280, 281]])),
        "shard PATH: document 20 holds the id 280, but those of tokenizer TOKENIZER lie in 0 to "
        "279. Give the tokenizer that made the file; uint16 is what it was read as.",
    ),
    "bounds before the end": (
        lambda path: _bounds(path, "0,4\n4,8\n"),
        "shard PATH has 80 ids, but the documents that BOUNDS lists end before that: one of the "
        f"two is truncated, or of another data set. {AGAIN}",
    ),
    "bounds behind the end": (
        lambda path: write_bounds(path, [*ended(LONG), [5]]),
        "shard PATH has 80 ids, but the documents that BOUNDS lists go on behind it: one of the "
        f"two is truncated, or of another data set. {AGAIN}",
    ),
    "a gap in the bounds": (
        lambda path: _bounds(path, "0,4\n5,80\n"),
        "bounds BOUNDS: line 1 is b'5,80'; it must be start,end of a document, beginning at 4. "
        f"{AGAIN}",
    ),
    "bounds that are words": (
        lambda path: _bounds(path, "start,end\n0,80\n"),
        "bounds BOUNDS: line 0 is b'start,end'; it must be start,end of a document, beginning at "
        f"0. {AGAIN}",
    ),
    "end-of-text within bounds": (
        lambda path: _bounds(path, "0,4\n4,80\n"),
        "shard PATH: document 1 holds end-of-text, the id 0 of tokenizer TOKENIZER, at its id 3, "
        "before its end: it is several documents. Write it again with the end of every document "
        "in its index.",
    ),
}


def _message(message: str, path: Path, tokenizer: Path) -> str:
    bounds, index = path.with_suffix(".csv.gz"), path.with_suffix(".idx")
    for name, place in (("PATH", path), ("TOKENIZER", tokenizer), ("BOUNDS", bounds)):
        message = message.replace(name, str(place))
    return message.replace("INDEX", str(index))


@pytest.mark.parametrize("name", list(FLAT_FAULTS))
def test_damaged_flat_files_are_named(tmp_path: Path, tokenizer: Path, name: str) -> None:
    """One message says what was found, and what to do."""
    change, message = FLAT_FAULTS[name]
    path = write_flat(tmp_path / "web.npy", ended(LONG))
    change(path)
    with pytest.raises(DataError) as caught:
        read(pool(path, tokenizer))
    assert str(caught.value) == _message(message, path, tokenizer)


INDEX_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no index": (
        lambda path: path.with_suffix(".idx").unlink(),
        "shard PATH has no INDEX beside it, which says where its documents end; the .bin and the "
        ".idx are read together. Put it there, or leave the .bin out of shards.",
    ),
    "truncated ids": (
        lambda path: _cut_off(path, 8),
        "shard PATH has 112 bytes, but its index INDEX lists 60 ids of uint16, 120 bytes: one of "
        f"the two is truncated, or of another data set. {AGAIN}",
    ),
    "ids of another width": (
        lambda path: write_flat(path, LONG, "<i4"),
        "shard PATH has 240 bytes, but its index INDEX lists 60 ids of uint16, 120 bytes: one of "
        f"the two is truncated, or of another data set. {AGAIN}",
    ),
    "truncated index": (
        lambda path: _cut_off(path.with_suffix(".idx"), 8),
        "index INDEX: it has 434 bytes, but 20 sequences and 20 documents take 442: it is "
        f"truncated or damaged. {AGAIN}",
    ),
    "an index of some bytes": (
        lambda path: path.with_suffix(".idx").write_bytes(b"MMIDIDX\0\0\1"),
        r"index INDEX begins with b'MMIDIDX\x00\x00'; one of Megatron's indexed data sets begins "
        rf"with b'MMIDIDX\x00\x00', version and counts. {AGAIN}",
    ),
    "another magic": (
        lambda path: _head(path.with_suffix(".idx"), b"TNTIDX\0\0\0"),
        r"index INDEX begins with b'TNTIDX\x00\x00\x00'; one of Megatron's indexed data sets "
        rf"begins with b'MMIDIDX\x00\x00', version and counts. {AGAIN}",
    ),
    "another version": (
        lambda path: _head(path.with_suffix(".idx"), b"MMIDIDX\0\0\2"),
        f"index INDEX: its version is 2; 1 is the one that is known. {AGAIN}",
    ),
    "numbers that are no ids": (
        lambda path: write_megatron(path, LONG, "float32"),
        "index INDEX: its ids are of type 7; allowed are the integers, 1 (uint8), 2 (int8), 3 "
        f"(int16), 4 (int32), 5 (int64), 8 (uint16). {AGAIN}",
    ),
    "a negative id": (
        lambda path: write_megatron(path, [[5], [6, -1]], "int32"),
        "shard PATH: document 1 holds the id -1, but those of tokenizer TOKENIZER lie in 0 to "
        "279. Give the tokenizer that made the file; int32 is what it was read as.",
    ),
    "documents packed as one": (
        lambda path: write_megatron(path, [[5], [6, 0, 7, 0]]),
        "shard PATH: document 1 holds end-of-text, the id 0 of tokenizer TOKENIZER, at its id 1, "
        "before its end: it is several documents. Write it again with the end of every document "
        "in its index.",
    ),
}


@pytest.mark.parametrize("name", list(INDEX_FAULTS))
def test_damaged_indexed_files_are_named(tmp_path: Path, tokenizer: Path, name: str) -> None:
    """One message says which of the two files is at fault, and what to do."""
    change, message = INDEX_FAULTS[name]
    path = write_megatron(tmp_path / "web.bin", LONG)
    change(path)
    with pytest.raises(DataError) as caught:
        read(pool(path, tokenizer))
    assert str(caught.value) == _message(message, path, tokenizer)


HEAD = 34
LIST_FAULTS = [
    (HEAD, "<i4", 4, "its sequences do not follow each other"),
    (HEAD + 4 * 20 + 8, "<i8", 8, "its sequences do not follow each other"),
    (HEAD + 12 * 20, "<i8", 1, "its first document does not begin with its first sequence"),
    (HEAD + 12 * 20 + 8 * 5, "<i8", 9, "its documents are not in order of its sequences"),
    (HEAD + 12 * 20 + 8 * 20, "<i8", 99, "its documents are not in order of its sequences"),
    (HEAD + 12 * 20 + 8 * 20, "<i8", 19, "its last sequences are of no document"),
]


@pytest.mark.parametrize(("place", "dtype", "value", "fault"), LIST_FAULTS)
def test_an_index_that_contradicts_itself_is_named(
    tmp_path: Path, tokenizer: Path, place: int, dtype: str, value: int, fault: str
) -> None:
    """One number of its lists is another: the documents are not guessed."""
    path = write_megatron(tmp_path / "web.bin", LONG)
    index = path.with_suffix(".idx")
    content = bytearray(index.read_bytes())
    content[place : place + np.dtype(dtype).itemsize] = np.array([value], dtype).tobytes()
    index.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(pool(path, tokenizer))
    assert str(caught.value) == f"index {index}: {fault}. {AGAIN}"


CONFIG_FAULTS: list[tuple[dict[str, object], str]] = [
    (
        {"tokenizer": None},
        "shard PATH holds token ids (format 'npy'), but tokenizer is null; ids are used as they "
        "are, so the tokenizer.json that made them is needed. Give its path as tokenizer, beside "
        "shards, or leave the file out of shards.",
    ),
    (
        {"domain_from": "column"},
        "format is 'npy' and domain_from is 'column', but token files have no columns; take the "
        "domain from 'folder', 'file' or 'pattern'.",
    ),
    (
        {"tokenizer": "/nowhere/tokenizer.json"},
        "tokenizer /nowhere/tokenizer.json does not exist. Give the path of a tokenizer.json file.",
    ),
]


@pytest.mark.parametrize(("others", "message"), CONFIG_FAULTS)
def test_a_config_that_says_too_little_is_refused(
    tmp_path: Path, tokenizer: Path, others: dict[str, object], message: str
) -> None:
    """Token files need a tokenizer, and a domain from their paths."""
    path = write_flat(tmp_path / "web.npy", ended(LONG))
    with pytest.raises(CuveeError) as caught:
        read(replace(pool(path, tokenizer), **others))  # type: ignore[arg-type]
    assert isinstance(caught.value, ConfigError)
    assert str(caught.value) == _message(message, path, tokenizer)


def test_ids_are_stored_as_they_are(tmp_path: Path, tokenizer: Path) -> None:
    """Not as their text would be encoded: here words are spelt letter by letter."""
    letters = [[id for one in encoded(tokenizer, list(text)) for id in one] for text in TEXTS]
    assert letters != encoded(tokenizer)
    write_megatron(tmp_path / "pool" / "web.bin", letters)
    config, out = pool(tmp_path / "pool", tokenizer), tmp_path / "out"
    index = scan_pool(config, out, seed=SEED, workers=0)
    made = make_tokenizer(TokensConfig(tokenizer=str(tokenizer)), index, out, seed=SEED)
    store = tokenise_pool(index, out, tokenizer=made, workers=0)
    found = [store.read(one, 0, int(n)).tolist() for one, n in enumerate(store.n_tokens)]
    assert found == ended(letters)
    assert store.n_bytes.tolist() == [len(text.encode("utf-8")) for text in TEXTS]


def test_another_tokenizer_is_refused(tmp_path: Path, tokenizer: Path, late: Path) -> None:
    """Ids cannot be used as they are where the run reads with another tokenizer."""
    path = write_flat(tmp_path / "pool" / "web.npy", ended(encoded(tokenizer)))
    config, out = pool(path, tokenizer), tmp_path / "out"
    index = scan_pool(config, out, seed=SEED, workers=0)
    made = make_tokenizer(TokensConfig(tokenizer=str(late)), index, out, seed=SEED)
    with pytest.raises(ConfigError, match=rf"^tokenizers {tokenizer} and .* differ, but the ids"):
        tokenise_pool(index, out, tokenizer=made, workers=0)


def test_a_tokenizer_that_changed_is_noticed(tmp_path: Path, tokenizer: Path) -> None:
    """What was scanned with another one is not taken for this one's."""
    write_flat(tmp_path / "pool" / "web.npy", ended(encoded(tokenizer)))
    own = tmp_path / "tokenizer.json"
    own.write_bytes(tokenizer.read_bytes())
    config, out = pool(tmp_path / "pool", own), tmp_path / "out"
    scan_pool(config, out, seed=SEED, workers=0)
    changed = Tokenizer.from_file(str(own))
    changed.add_tokens(["cat"])
    own.write_text(changed.to_str() + " ", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"made from other input; reading\.tokenizer changed"):
        scan_pool(config, out, seed=SEED, workers=0)


def test_arrays_beside_tables_are_no_token_files(tmp_path: Path) -> None:
    """Without a tokenizer a folder's tables are the pool; with one all of it is."""
    (tmp_path / "a.jsonl").write_text('{"id": "1", "text": "one", "domain": "d"}\n', "utf-8")
    np.save(tmp_path / "embeddings.npy", np.zeros(3))
    (shard,) = list_shards(PoolConfig(shards=(str(tmp_path),)))
    assert shard.format == "jsonl"
    both = PoolConfig(shards=(str(tmp_path),), tokenizer="t.json", domain_from="file")
    assert [one.format for one in list_shards(both)] == ["jsonl", "npy"]
    with pytest.raises(ConfigError, match="holds token ids"):
        list_shards(PoolConfig(shards=(str(tmp_path / "embeddings.npy"),), domain_from="file"))
