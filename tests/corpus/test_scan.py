"""The label pass over whole pools: sides, duplicates, rejects, fingerprints, resumption."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cuvee import artifacts
from cuvee.corpus import duplicates
from cuvee.corpus.index import PoolIndex
from cuvee.corpus.read import PoolConfig
from cuvee.corpus.scan import read_index, scan_pool, scan_targets
from cuvee.corpus.splits import assign_side
from cuvee.errors import ArtifactError, ConfigError, DataError
from cuvee.randomness import document_keys

Record = Mapping[str, object]
SEED = 3


def _records(n: int, domains: Sequence[str] = ("books", "web")) -> list[Record]:
    return [
        {
            "id": f"i{k}",
            "text": f"text number {k}",
            "domain": domains[k % len(domains)],
            "source": f"book{k // 4}#part{k % 4}",
        }
        for k in range(n)
    ]


def _write(path: Path, records: Sequence[Record | str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [one if isinstance(one, str) else json.dumps(one) for one in records]
    path.write_text("".join(line + "\n" for line in lines))


def _scan(pool: Path, out: Path, **settings: object) -> PoolIndex:
    return scan_pool(PoolConfig(shards=(str(pool),), **settings), out, seed=SEED, workers=0)


def _sides(index: PoolIndex) -> dict[int, str]:
    """Sides by document key."""
    rows = [row for shard in index.shards for row in index.documents(shard).to_pylist()]
    return {row["key"]: row["side"] for row in rows}


def _key(name: str) -> int:
    return int(document_keys([name])[0])


@pytest.fixture
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the passes over key ranges many and small."""
    monkeypatch.setattr(duplicates, "DOCUMENTS_AT_ONCE", 50)
    monkeypatch.setattr(duplicates, "_ROWS_READ", 16)


def test_layout_changes_neither_fingerprint_nor_sides(tmp_path: Path, small_ranges: None) -> None:
    """The same documents in other shards and orders, doubled ids and texts among them."""
    records = _records(400)
    records += [{**records[k], "id": f"copy{k}", "source": f"c{k}"} for k in range(0, 400, 5)]
    records += [{**records[k], "text": f"other {k}", "domain": "web"} for k in range(0, 400, 9)]
    _write(tmp_path / "one" / "a.jsonl", records)
    order = np.random.default_rng(0).permutation(len(records))
    for number, part in enumerate(np.array_split(order, 7)):
        _write(tmp_path / "two" / f"{number}.jsonl", [records[k] for k in part])
    settings = {"group": "source", "validation_share": 0.3, "max_reject_share": 0.2}
    one = _scan(tmp_path / "one", tmp_path / "out1", **settings)
    two = _scan(tmp_path / "two", tmp_path / "out2", **settings)
    assert one.fingerprint == two.fingerprint
    assert one.domain_fingerprints == two.domain_fingerprints
    assert _sides(one) == _sides(two)
    assert set(_sides(one).values()) == {"train", "validation", "dropped"}
    assert one.n_rejects == two.n_rejects == {"duplicate_id": 45}
    for counts in ("n_documents", "n_bytes", "n_distinct_documents"):
        for side, values in getattr(one, counts).items():
            np.testing.assert_array_equal(values, getattr(two, counts)[side])
    same = [
        (out / "corpus" / "index" / "descriptors.json").read_bytes()
        for out in (tmp_path / "out1", tmp_path / "out2")
    ]
    assert same[0] == same[1]


def test_domain_is_known_by_its_own_texts_on_their_sides(tmp_path: Path) -> None:
    """Other domains do not matter, except where they train on a domain's validation text."""
    records = _records(120)
    domains = {str(record["domain"]) for record in records}
    _write(tmp_path / "one" / "a.jsonl", records)
    before = _scan(tmp_path / "one", tmp_path / "out1", validation_share=0.3)
    added = [{**one, "id": f"new-{one['id']}", "text": f"new {one['id']}"} for one in records[:60]]
    _write(tmp_path / "two" / "a.jsonl", [*records, *({**one, "domain": "new"} for one in added)])
    after = _scan(tmp_path / "two", tmp_path / "out2", validation_share=0.3)
    assert {name: after.domain_fingerprints[name] for name in domains} == before.domain_fingerprints
    assert "new" in after.domain_fingerprints
    copies = [{**one, "id": f"copy-{one['id']}", "domain": "copies"} for one in records]
    _write(tmp_path / "three" / "a.jsonl", [*records, *copies])
    leaked = _scan(tmp_path / "three", tmp_path / "out3", validation_share=0.3)
    for name in domains:
        one, other = before.domain_fingerprints[name], leaked.domain_fingerprints[name]
        assert one["train"] == other["train"]
        assert one["validation"] != other["validation"]
    _write(tmp_path / "four" / "a.jsonl", records[:-1])
    shorter = _scan(tmp_path / "four", tmp_path / "out4", validation_share=0.3)
    last = str(records[-1]["domain"])
    for name in domains:
        same = shorter.domain_fingerprints[name] == before.domain_fingerprints[name]
        assert same == (name != last)


def test_number_of_passes_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One range of keys or many: the same files."""
    _write(tmp_path / "pool" / "a.jsonl", [*_records(300), *_records(3)])
    _scan(tmp_path / "pool", tmp_path / "out1", validation_share=0.2)
    monkeypatch.setattr(duplicates, "DOCUMENTS_AT_ONCE", 10)
    _scan(tmp_path / "pool", tmp_path / "out2", validation_share=0.2)
    digests = [artifacts.digest_of(tmp_path / out / "corpus" / "index") for out in ("out1", "out2")]
    assert digests[0] == digests[1]


def test_worker_processes_change_nothing(tmp_path: Path) -> None:
    """The same artefacts, byte for byte, from one spawned worker."""
    for number in range(2):
        _write(tmp_path / "pool" / f"{number}.jsonl", _records(50)[number::2])
    config = PoolConfig(shards=(str(tmp_path / "pool"),))
    progress: list[tuple[int, int]] = []
    for workers in (0, 1):
        scan_pool(
            config,
            tmp_path / f"out{workers}",
            seed=SEED,
            workers=workers,
            on_progress=lambda done, total: progress.append((done, total)),
        )
    assert progress == [(1, 2), (2, 2)] * 2
    for folder in ("corpus/index", "labels/domain", "corpus/scan/00001-1"):
        digests = [artifacts.digest_of(tmp_path / out / folder) for out in ("out0", "out1")]
        assert digests[0] == digests[1]


def test_groups_stay_on_one_side(tmp_path: Path) -> None:
    """Parts of one book agree, and survive new shards."""
    _write(tmp_path / "pool" / "a.jsonl", _records(200))
    settings = {"group": "source", "validation_share": 0.3}
    before = _sides(_scan(tmp_path / "pool", tmp_path / "out1", **settings))
    for book in range(50):
        assert len({before[_key(f"i{4 * book + part}")] for part in range(4)}) == 1
    more = [{**one, "id": f"n{k}", "text": f"new {k}"} for k, one in enumerate(_records(80))]
    _write(tmp_path / "pool" / "0.jsonl", more)
    after = _sides(_scan(tmp_path / "pool", tmp_path / "out2", **settings))
    assert {key: after[key] for key in before} == before


def test_every_domain_of_two_groups_has_validation_text(tmp_path: Path) -> None:
    """Also where the hash holds none of its groups out; a domain of one group is warned of."""
    rare = [{"id": f"r{k}", "text": f"rare {k}", "domain": "rare"} for k in range(3)]
    _write(tmp_path / "pool" / "a.jsonl", [*_records(200), *rare])
    index = _scan(tmp_path / "pool", tmp_path / "out", validation_share=1e-6)
    assert index.domains == ("books", "rare", "web")
    assert index.n_documents["validation"].tolist() == [1, 1, 1]
    assert index.n_documents["train"].tolist() == [99, 2, 99]


def test_domain_without_validation_text_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One group cannot stand on two sides."""
    _write(tmp_path / "pool" / "a.jsonl", _records(1))
    with caplog.at_level(logging.WARNING):
        _scan(tmp_path / "pool", tmp_path / "out")
    assert caplog.messages == ["domain 'books' has no validation documents; give it more groups"]


def test_text_on_both_sides_is_dropped_from_validation(tmp_path: Path) -> None:
    """Copies within one side stay; one of them counts as distinct."""
    ids = [f"i{k}" for k in range(400)]
    held = assign_side(document_keys(ids), seed=SEED, validation_share=0.3)
    train, validation = np.array(ids)[~held], np.array(ids)[held]
    texts = {
        train[0]: "shared", validation[0]: "shared",
        train[1]: "twice", train[2]: "twice",
        validation[1]: "held", validation[2]: "held",
    }  # fmt: skip
    records = [{"id": one, "text": texts.get(one, f"own {one}"), "domain": "web"} for one in ids]
    _write(tmp_path / "pool" / "a.jsonl", records)
    index = _scan(tmp_path / "pool", tmp_path / "out", validation_share=0.3)
    sides = _sides(index)
    assert sides[_key(validation[0])] == "dropped"
    assert {sides[_key(one)] for one in train} == {"train"}
    assert {sides[_key(one)] for one in validation[1:]} == {"validation"}
    assert index.n_documents["dropped"].tolist() == [1]
    assert index.n_distinct_documents["train"].tolist() == [len(train) - 1]
    assert index.n_distinct_documents["validation"].tolist() == [len(validation) - 2]


def test_rejects_are_listed_in_order_with_duplicates(tmp_path: Path) -> None:
    """One file, by shard and row, duplicates in their place."""
    _write(tmp_path / "pool" / "a.jsonl", ["broken", *_records(4), _records(1)[0], "[]"])
    _write(tmp_path / "pool" / "b.jsonl", ["null", *_records(5)[4:]])
    index = _scan(tmp_path / "pool", tmp_path / "out", max_reject_share=0.5)
    lines = (index.folder / "rejects.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    a, b = str(tmp_path / "pool" / "a.jsonl"), str(tmp_path / "pool" / "b.jsonl")
    reasons = [(one["shard"], one["row"], one["reason"]) for one in found]
    assert reasons == [
        (a, 0, "broken_json"),
        (a, 5, "duplicate_id"),
        (a, 6, "not_an_object"),
        (b, 0, "not_an_object"),
    ]
    assert found[1]["detail"] == "id 'i0' occurs more than once; another row is kept"
    assert index.n_rejects == {"broken_json": 1, "duplicate_id": 1, "not_an_object": 2}
    assert index.n_rows == 9
    assert index.documents(index.shards[0]).column("row").to_pylist() == [1, 2, 3, 4]


def test_too_many_rejects_stop_the_run(tmp_path: Path) -> None:
    """Share, limit and the list are named; the index is not written."""
    _write(tmp_path / "pool" / "a.jsonl", ["broken", "[]", *_records(97), _records(1)[0]])
    out = tmp_path / "out"
    with pytest.raises(DataError) as caught:
        _scan(tmp_path / "pool", out)
    listed = out / "corpus" / "rejects.jsonl"
    assert str(caught.value) == (
        "pool: 3 of 100 rows were rejected (3.00%); at most 1.00% are allowed (max_reject_share). "
        f"Each is listed in {listed} with its reason. Repair the rows, or raise max_reject_share."
    )
    assert len(listed.read_text().splitlines()) == 3
    assert not (out / "corpus" / "index").exists()
    _scan(tmp_path / "pool", out, max_reject_share=0.03)
    assert not listed.exists()


def test_repeated_content_is_no_fault_where_ids_are_made(tmp_path: Path) -> None:
    """It is listed, but not held against the pool."""
    records = [{"text": f"t{k % 10}", "domain": "web"} for k in range(100)]
    _write(tmp_path / "pool" / "a.jsonl", records)
    for column in (None, "id"):
        index = _scan(tmp_path / "pool", tmp_path / f"out-{column}", id=column)
        assert index.n_rejects == {"duplicate_id": 90}
        assert sum(int(counts.sum()) for counts in index.n_documents.values()) == 10


def test_truncated_shard_leaves_nothing(tmp_path: Path) -> None:
    """Its scan folder never appears; once repaired, the same command goes on."""
    _write(tmp_path / "pool" / "a.jsonl", _records(10))
    _write(tmp_path / "pool" / "b.jsonl", _records(40))
    whole = (tmp_path / "pool" / "b.jsonl").read_bytes()
    (tmp_path / "pool" / "b.jsonl").write_bytes(whole[:-9])
    out = tmp_path / "out"
    settings = {"max_reject_share": 0.5}
    with pytest.raises(DataError, match=r"shard .*b\.jsonl is truncated"):
        _scan(tmp_path / "pool", out, **settings)
    assert not artifacts.is_done(out / "corpus" / "scan" / "00001-b")
    assert not (out / "corpus" / "index").exists()
    assert not (out / "labels").exists()
    (tmp_path / "pool" / "b.jsonl").write_bytes(whole)
    index = _scan(tmp_path / "pool", out, **settings)
    assert index.n_rejects == {"duplicate_id": 10}


def test_pool_without_documents_is_refused(tmp_path: Path) -> None:
    """An empty file is a shard of no rows."""
    _write(tmp_path / "pool" / "a.jsonl", [])
    with pytest.raises(DataError) as caught:
        _scan(tmp_path / "pool", tmp_path / "out")
    assert str(caught.value) == "the pool has no documents: none in 1 shards. Give it documents."


def test_unknown_domain_of_available_tokens_is_refused(tmp_path: Path) -> None:
    """The pool's domains are listed."""
    _write(tmp_path / "pool" / "a.jsonl", _records(10))
    with pytest.raises(ConfigError) as caught:
        _scan(tmp_path / "pool", tmp_path / "out", available_tokens={"wed": 5})
    assert str(caught.value) == (
        "available_tokens names the domain 'wed', which the pool does not have; its domains are "
        "books, web. Correct the name."
    )


def test_folder_of_another_pool_is_refused(tmp_path: Path) -> None:
    """A finished scan is used again only for the same file, read the same way."""
    _write(tmp_path / "pool" / "a.jsonl", _records(10))
    _scan(tmp_path / "pool", tmp_path / "out")
    with pytest.raises(ArtifactError) as caught:
        _scan(tmp_path / "pool", tmp_path / "out", group="source")
    assert str(caught.value) == (
        f"{tmp_path}/out/corpus/scan/00000-a was made from other input; reading.group changed "
        "since. Choose another --out, or delete this one."
    )
    _write(tmp_path / "pool" / "a.jsonl", _records(11))
    with pytest.raises(ArtifactError, match=r"shard\.n_bytes changed since"):
        _scan(tmp_path / "pool", tmp_path / "out")


@pytest.mark.parametrize("kind", ["parquet", "text"])
def test_listed_documents_are_left_out(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The index is that of a pool without them, and no reject is counted, duplicate ids too."""
    records = [*_records(200), {**_records(8)[7], "text": "another text under the id i7"}]
    gone = ["i7", "i50", "i51", "nowhere"]
    _write(tmp_path / "all" / "a.jsonl", records)
    _write(tmp_path / "few" / "a.jsonl", [one for one in records if one["id"] not in gone])
    listing = tmp_path / f"gone.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"id": gone}), listing)
    else:
        listing.write_text("\r\n".join(gone), encoding="utf-8")
    with caplog.at_level(logging.WARNING, logger="cuvee"):
        index = _scan(tmp_path / "all", tmp_path / "1", exclude=(str(listing),))
    assert "pool: 1 of the 4 ids to be left out are of no document" in caplog.text
    other = _scan(tmp_path / "few", tmp_path / "2")
    assert index.n_excluded == 3
    assert index.n_rejects == {}
    assert index.fingerprint == other.fingerprint
    assert _sides(index) == _sides(other)
    assert not {_key(name) for name in gone} & set(_sides(index))
    for side, counts in other.n_documents.items():
        np.testing.assert_array_equal(index.n_documents[side], counts)


def test_a_list_that_changed_is_refused_and_a_broken_one_named(tmp_path: Path) -> None:
    """Its ids are part of what the index is made from."""
    _write(tmp_path / "pool" / "a.jsonl", _records(100))
    listing = tmp_path / "gone.txt"
    listing.write_text("i1\n", encoding="utf-8")
    _scan(tmp_path / "pool", tmp_path / "out", exclude=(str(listing),))
    listing.write_text("i1\ni2\n", encoding="utf-8")
    with pytest.raises(ArtifactError, match="exclude changed since"):
        _scan(tmp_path / "pool", tmp_path / "out", exclude=(str(listing),))
    pq.write_table(pa.table({"key": [1]}), tmp_path / "keys.parquet")
    with pytest.raises(DataError, match="has no column 'id'; its columns are key"):
        _scan(tmp_path / "pool", tmp_path / "new", exclude=(str(tmp_path / "keys.parquet"),))
    with pytest.raises(DataError, match=r"exclude .*none\.txt does not exist .*correct exclude"):
        _scan(tmp_path / "pool", tmp_path / "new", exclude=(str(tmp_path / "none.txt"),))
    listing.write_bytes(b"\xff\n")
    with pytest.raises(DataError, match="is not UTF-8"):
        _scan(tmp_path / "pool", tmp_path / "new", exclude=(str(listing),))


def test_index_and_labels_are_read_back(tmp_path: Path) -> None:
    """What is opened later equals what was returned; labels carry the shard's digest."""
    _write(tmp_path / "pool" / "a.jsonl", _records(20))
    made, read = _scan(tmp_path / "pool", tmp_path / "out"), read_index(tmp_path / "out")
    assert (read.shards, read.configs, read.domains) == (made.shards, made.configs, made.domains)
    assert (read.fingerprint, read.sides) == (made.fingerprint, ("train", "validation"))
    labels = pq.read_table(tmp_path / "out" / "labels" / "domain" / "00000-a.parquet")
    assert labels.column("domain").to_pylist() == ["books", "web"] * 10
    counts = artifacts.read_json(tmp_path / "out" / "corpus" / "scan" / "00000-a" / "counts.json")
    assert labels.schema.metadata[b"n_rows"] == b"20"
    assert labels.schema.metadata[b"shard_digest"].decode() == counts["digest"]


def test_missing_index_is_named(tmp_path: Path) -> None:
    """With the command that makes it."""
    with pytest.raises(ArtifactError) as caught:
        read_index(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/corpus/index is missing or unfinished; run `cuvee label` first."
    )


def _target(path: Path, records: Sequence[Record | str], **settings: object) -> PoolConfig:
    _write(path, records)
    return PoolConfig(shards=(str(path),), **settings)


def test_targets_are_halved_and_named(tmp_path: Path) -> None:
    """Ids may meet between targets; a text of a search half stands in no verdict half."""
    first = _records(60)
    second = [{**one, "text": f"b {one['text']}"} for one in first[:40]]
    copies = [{**one, "id": f"copy{k}"} for k, one in enumerate(first)]
    targets = {
        "qa/../x": _target(tmp_path / "a.jsonl", [*first, *copies]),
        "b": _target(tmp_path / "b.jsonl", second),
    }
    index = scan_targets(targets, tmp_path / "out", seed=SEED, workers=0)
    assert index.domains == ("b", "qa/../x")
    assert index.sides == ("search", "verdict")
    assert sum(counts.sum() for counts in index.n_documents.values()) == 160
    assert index.n_rejects == {}
    assert index.n_documents["dropped"][1] > 0
    assert index.configs[0].shards == targets["qa/../x"].shards
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["targets"]
    assert read_index(tmp_path / "out", "targets").fingerprint == index.fingerprint


def test_target_without_text_in_a_half_is_refused(tmp_path: Path) -> None:
    """One document cannot be in both."""
    targets = {"qa": _target(tmp_path / "a.jsonl", [{"id": "a", "text": "only", "domain": "x"}])}
    with pytest.raises(DataError) as caught:
        scan_targets(targets, tmp_path / "out", seed=SEED, workers=0)
    n_search = int("has 1 documents in its search" in str(caught.value))
    assert str(caught.value) == (
        f"target 'qa' has {n_search} documents in its search half and {1 - n_search} in its "
        "verdict half; each half needs some. Give it more documents."
    )


def test_rejects_of_a_target_are_held_against_it_alone(tmp_path: Path) -> None:
    """The target is named."""
    targets = {
        "big": _target(tmp_path / "a.jsonl", _records(500)),
        "small": _target(tmp_path / "b.jsonl", ["broken", *_records(9)]),
    }
    with pytest.raises(DataError, match=r"^target 'small': 1 of 10 rows were rejected \(10.00%\)"):
        scan_targets(targets, tmp_path / "out", seed=SEED, workers=0)


def test_descriptors_have_seen_the_first_side_only(tmp_path: Path) -> None:
    """What stands in validation text or a verdict half moves no descriptor."""
    records = _records(60, domains=("books",))
    _write(tmp_path / "pool" / "a.jsonl", records)
    index = _scan(tmp_path / "pool", tmp_path / "out", validation_share=0.3)
    sides = _sides(index)
    kept = [one for one in records if sides[_key(str(one["id"]))] == "train"]
    assert 10 < len(kept) < 60
    _write(tmp_path / "kept" / "a.jsonl", kept)
    alone = _scan(tmp_path / "kept", tmp_path / "alone", validation_share=0.0)
    vectors = [
        json.loads((one.folder / "descriptors.json").read_text())["books"]["mean_ngrams"]
        for one in (index, alone)
    ]
    assert vectors[0] == vectors[1]
