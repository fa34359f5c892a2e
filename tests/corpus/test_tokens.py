"""The token stage on small pools: what stands on disk, resumption, and what is refused."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from cuvee import artifacts
from cuvee.config import parse
from cuvee.corpus import sample
from cuvee.corpus.encoder import END_OF_TEXT
from cuvee.corpus.index import PoolIndex
from cuvee.corpus.pool import PoolConfig
from cuvee.corpus.scan import scan_pool, scan_targets
from cuvee.corpus.store import TokenStore
from cuvee.corpus.tokens import TokensConfig, make_tokenizer, tokenise_pool
from cuvee.errors import ArtifactError, ConfigError, DataError

SEED = 7
SMALL = TokensConfig(vocabulary_size=300, sample_bytes=4000)


def record(number: int, domain: str) -> dict[str, str]:
    """Make a document; every one is different."""
    words = " ".join(f"{domain}{(number * step) % 17}" for step in range(1, 12))
    return {"id": f"{domain}-{number}", "text": f"{words} é{number}\n", "domain": domain}


RECORDS = [record(number, domain) for number in range(40) for domain in ("red", "white")]


def write(path: Path, records: Sequence[Mapping[str, object]]) -> None:
    """Write a JSONL shard."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")


def scanned(folder: Path, shards: Sequence[Sequence[Mapping[str, object]]]) -> PoolIndex:
    """Write and label a pool of some shards."""
    for number, records in enumerate(shards):
        write(folder / "pool" / f"s{number}.jsonl", records)
    config = PoolConfig(shards=(str(folder / "pool"),), validation_share=0.2, max_reject_share=0.5)
    return scan_pool(config, folder / "out", seed=SEED, workers=0)


def tokenised(folder: Path, index: PoolIndex, *, workers: int = 0) -> TokenStore:
    """Run the token stage below ``folder/out``."""
    tokenizer = make_tokenizer(SMALL, index, folder / "out", seed=SEED)
    return tokenise_pool(index, folder / "out", tokenizer=tokenizer, workers=workers)


def texts_by_key(folder: Path) -> dict[str, str]:
    """Decode all documents of the store by their ids' keys."""
    store = TokenStore.open(folder / "out" / "tokens")
    tokenizer = Tokenizer.from_file(str(folder / "out" / "tokenizer" / "tokenizer.json"))
    return {
        str(key): tokenizer.decode(
            store.read(place, 0, int(store.n_tokens[place]) - 1).tolist(),
            skip_special_tokens=False,
        )
        for place, key in enumerate(store.keys.tolist())
    }


def contents(folder: Path) -> dict[str, bytes]:
    """Read every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_tokens_decode_to_the_documents(tmp_path: Path) -> None:
    """Every document of every shard comes back, and nothing else."""
    tokenised(tmp_path, scanned(tmp_path, [RECORDS[:30], RECORDS[30:]]))
    assert sorted(texts_by_key(tmp_path).values()) == sorted(one["text"] for one in RECORDS)


def test_ids_begin_with_and_are_divided_by_end_of_text(tmp_path: Path) -> None:
    """One end-of-text before all documents and one behind each."""
    store = tokenised(tmp_path, scanned(tmp_path, [RECORDS]))
    ids = np.fromfile(store.folder / store.shards[0] / "ids.bin", dtype="<u2")
    ends = np.flatnonzero(ids == store.end_of_text)
    assert ends.tolist() == [0, *(store.offset + store.n_tokens - 1).tolist()]
    assert len(ids) == 1 + store.n_tokens.sum()


def test_document_table_has_the_agreed_columns(tmp_path: Path) -> None:
    """Names and types that select and proxies read."""
    store = tokenised(tmp_path, scanned(tmp_path, [RECORDS]))
    schema = pq.read_schema(store.folder / store.shards[0] / "documents.parquet")
    assert {field.name: str(field.type) for field in schema} == {
        "key": "uint64",
        "domain": "int32",
        "side": "uint8",
        "row": "int64",
        "offset": "int64",
        "n_tokens": "int64",
        "n_bytes": "int64",
        "distinct": "bool",
    }


def test_end_of_text_in_a_document_stays_text(tmp_path: Path) -> None:
    """A document cannot forge a document's end."""
    forged = {"id": "x", "text": f"one{END_OF_TEXT}two", "domain": "red"}
    tokenised(tmp_path, scanned(tmp_path, [[*RECORDS, forged]]))
    assert f"one{END_OF_TEXT}two" in texts_by_key(tmp_path).values()


def test_rejected_and_dropped_documents_have_no_tokens(tmp_path: Path) -> None:
    """Bad rows are passed over, and so are validation copies of training documents."""
    copies = [{**one, "id": f"copy-{one['id']}"} for one in RECORDS]
    index = scanned(tmp_path, [[*RECORDS, {"id": "bad", "text": 1, "domain": "red"}, *copies]])
    store = tokenised(tmp_path, index)
    n_dropped = int(index.n_documents["dropped"].sum())
    assert n_dropped > 0
    assert len(store.keys) == 2 * len(RECORDS) - n_dropped


def test_summary_counts_tokens_by_side_and_domain(tmp_path: Path) -> None:
    """Totals agree with the documents; copies count once in unique tokens."""
    copies = [{**one, "id": f"copy-{one['id']}"} for one in RECORDS]
    store = tokenised(tmp_path, scanned(tmp_path, [RECORDS, copies]))
    summary = json.loads((store.folder / "summary.json").read_text())
    for number, side in enumerate(("train", "validation")):
        for code in range(2):
            own = (store.side == number) & (store.domain == code)
            assert summary["n_documents"][side][code] == own.sum()
            assert summary["n_tokens"][side][code] == store.n_tokens[own].sum()
            assert summary["n_bytes"][side][code] == store.n_bytes[own].sum()
    texts = texts_by_key(tmp_path)
    for code in range(2):
        own = np.flatnonzero((store.side == 0) & (store.domain == code))
        lengths = {texts[str(store.keys[place])]: int(store.n_tokens[place]) for place in own}
        assert summary["unique_tokens"][code] == sum(lengths.values())
        assert summary["unique_tokens"][code] < store.n_tokens[own].sum()


def test_vocabulary_counts_every_token(tmp_path: Path) -> None:
    """Counts by domain and id are those of the ids, but for the first end-of-text."""
    store = tokenised(tmp_path, scanned(tmp_path, [RECORDS]))
    table = pq.read_table(store.folder / store.shards[0] / "vocabulary.parquet")
    found = np.zeros((2, store.vocabulary_size), dtype=np.int64)
    found[table["domain"].to_numpy(), table["id"].to_numpy()] = table["count"].to_numpy()
    expected = np.zeros_like(found)
    for place, code in enumerate(store.domain):
        ids = store.read(place, 0, int(store.n_tokens[place]))
        np.add.at(expected[code], ids.astype(np.int64), 1)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(store.distinct_ids, (expected > 0).sum(axis=1))


def test_workers_and_resumption_change_nothing(tmp_path: Path) -> None:
    """A run that lost a shard, finished by two workers, equals one made at once."""
    index = scanned(tmp_path, [RECORDS[:20], RECORDS[20:40], RECORDS[40:]])
    folder = tokenised(tmp_path, index).folder
    whole = contents(folder)
    (folder / "done").unlink()
    for name in (index.shards[0].name, index.shards[2].name):
        (folder / name / "done").unlink()
        (folder / name).rename(folder / f"{name}.partial")
    tokenised(tmp_path, index, workers=2)
    assert contents(folder) == whole


def test_progress_counts_shards(tmp_path: Path) -> None:
    """Finished shards count too."""
    index = scanned(tmp_path, [RECORDS[:40], RECORDS[40:]])
    tokenizer = make_tokenizer(SMALL, index, tmp_path / "out", seed=SEED)
    for _ in range(2):
        seen: list[tuple[int, int]] = []
        tokenise_pool(
            index,
            tmp_path / "out",
            tokenizer=tokenizer,
            workers=0,
            on_progress=lambda done, total, seen=seen: seen.append((done, total)),
        )
        assert seen == [(1, 2), (2, 2)]


def test_targets_are_tokenised_with_the_pools_tokenizer(tmp_path: Path) -> None:
    """Search half is side 0, verdict half side 1; domains are the targets."""
    tokenizer = make_tokenizer(SMALL, scanned(tmp_path, [RECORDS]), tmp_path / "out", seed=SEED)
    targets = {}
    for name in ("qa", "maths"):
        write(tmp_path / f"{name}.jsonl", [record(number, name) for number in range(30)])
        targets[name] = PoolConfig(shards=(str(tmp_path / f"{name}.jsonl"),))
    index = scan_targets(targets, tmp_path / "out", seed=SEED, workers=0)
    store = tokenise_pool(index, tmp_path / "out" / "targets", tokenizer=tokenizer, workers=0)
    assert store.domains == ("maths", "qa")
    assert store.sides == ("search", "verdict")
    n_search, n_verdict = (int((store.side == side).sum()) for side in (0, 1))
    assert n_search + n_verdict == 60
    assert n_search == index.n_documents["search"].sum()


def test_tokenizer_does_not_depend_on_the_layout(tmp_path: Path) -> None:
    """The same documents in other shards, in other order, train the same tokenizer."""
    one = scanned(tmp_path / "one", [RECORDS])
    other = scanned(tmp_path / "other", [RECORDS[50:][::-1], RECORDS[:50][::-1]])
    made = [
        make_tokenizer(SMALL, index, tmp_path / name / "out", seed=SEED) / "tokenizer.json"
        for name, index in (("one", one), ("other", other))
    ]
    assert made[0].read_bytes() == made[1].read_bytes()


def test_finished_tokenizer_is_not_made_again(tmp_path: Path) -> None:
    """The second call returns the folder as it is."""
    index = scanned(tmp_path, [RECORDS])
    before = artifacts.digest_of(make_tokenizer(SMALL, index, tmp_path / "out", seed=SEED))
    again = make_tokenizer(TokensConfig(vocabulary_size=999), index, tmp_path / "out", seed=SEED)
    assert artifacts.digest_of(again) == before


def test_given_tokenizer_is_taken_over(tmp_path: Path) -> None:
    """A tokenizer.json named in the config is copied, not trained again."""
    index = scanned(tmp_path, [RECORDS])
    first = make_tokenizer(SMALL, index, tmp_path / "out", seed=SEED) / "tokenizer.json"
    config = TokensConfig(tokenizer=str(first))
    second = make_tokenizer(config, index, tmp_path / "other", seed=SEED) / "tokenizer.json"
    assert second.read_bytes() == first.read_bytes()


def test_sample_is_training_text_shared_by_domain_size(tmp_path: Path) -> None:
    """A domain of a ninth of the bytes gets about a quarter of the sample; validation none."""
    records = [*(record(number, "big") for number in range(900))]
    records += [record(number, "wee") for number in range(100)]
    index = scanned(tmp_path, [records])
    size = 12_000
    texts = sample.sample_texts(index, n_bytes=size, seed=SEED)
    held_out = {
        text
        for text, side in zip(
            (one["text"] for one in records),
            index.documents(index.shards[0])["side"].to_pylist(),
            strict=True,
        )
        if side == "validation"
    }
    assert not held_out & set(texts)
    shares = {
        name: sum(len(text.encode()) for text in texts if text.startswith(name)) / size
        for name in ("big", "wee")
    }
    longest = max(len(text.encode()) for text in texts) / size
    assert shares["wee"] == pytest.approx(0.25, abs=0.02 + longest)
    assert shares["big"] == pytest.approx(0.75, abs=0.02 + longest)


def test_sample_of_a_small_pool_is_all_of_its_training_text(tmp_path: Path) -> None:
    """Asking for more than there is takes everything once."""
    index = scanned(tmp_path, [RECORDS[:33], RECORDS[33:]])
    texts = sample.sample_texts(index, n_bytes=10**9, seed=SEED)
    assert len(texts) == len(set(texts)) == index.n_documents["train"].sum()


def test_sample_takes_64_kib_of_a_long_document(tmp_path: Path) -> None:
    """One long book does not fill the sample; its cut falls between characters."""
    book = {"id": "book", "text": "é" * 50_000 + "n", "domain": "red"}
    texts = sample.sample_texts(scanned(tmp_path, [[*RECORDS, book]]), n_bytes=10**6, seed=SEED)
    assert max(len(text.encode()) for text in texts) == 2**16


def test_changed_shard_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    """Another text under the same id and row stops the stage."""
    index = scanned(tmp_path, [RECORDS])
    tokenizer = make_tokenizer(SMALL, index, tmp_path / "out", seed=SEED)
    changed = [*RECORDS[:5], {**RECORDS[5], "text": "longer than before " * 9}, *RECORDS[6:]]
    write(tmp_path / "pool" / "s0.jsonl", changed)
    with pytest.raises(
        DataError,
        match=r"s0\.jsonl changed since it was labelled: row 5 holds another document\. Put",
    ):
        tokenise_pool(index, tmp_path / "out", tokenizer=tokenizer, workers=0)
    assert not artifacts.is_done(tmp_path / "out" / "tokens")
    assert not (tmp_path / "out" / "tokens" / index.shards[0].name).exists()


def test_shortened_shard_is_refused(tmp_path: Path) -> None:
    """Documents that are gone are counted in the message."""
    index = scanned(tmp_path, [RECORDS])
    tokenizer = make_tokenizer(SMALL, index, tmp_path / "out", seed=SEED)
    write(tmp_path / "pool" / "s0.jsonl", RECORDS[:-3])
    with pytest.raises(DataError, match=r"s0\.jsonl changed .*: 3 of 80 documents are gone\."):
        tokenise_pool(index, tmp_path / "out", tokenizer=tokenizer, workers=0)


def test_tokens_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    """Finished tokens are never mixed with new ones."""
    index = scanned(tmp_path, [RECORDS])
    tokenised(tmp_path, index)
    other = make_tokenizer(TokensConfig(vocabulary_size=280), index, tmp_path / "other", seed=SEED)
    with pytest.raises(ArtifactError, match=r"tokens was made from another tokenizer\. Delete"):
        tokenise_pool(index, tmp_path / "out", tokenizer=other, workers=0)
    (tmp_path / "out" / "tokens" / "done").unlink()
    with pytest.raises(ArtifactError, match=r"00000-s0 was made from another tokenizer\. Delete"):
        tokenise_pool(index, tmp_path / "out", tokenizer=other, workers=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocabulary_size": 256}, r"vocabulary_size is 256; it must be at least 257"),
        ({"sample_bytes": 0}, r"sample_bytes is 0; it must be at least 1\."),
        ({"vocab": 1}, r"config key vocab is unknown; allowed here: sample_bytes, tokenizer"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, int], message: str) -> None:
    """Found, allowed and remedy stand in the message."""
    with pytest.raises(ConfigError, match=message):
        parse(TokensConfig, settings)
