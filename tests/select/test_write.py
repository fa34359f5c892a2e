"""The written selection: its shares, copies, order, lineage, bytes and refusals."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cuvee import artifacts
from cuvee.corpus.pool import PoolConfig, list_shards
from cuvee.corpus.read import read_batches
from cuvee.corpus.scan import scan_pool
from cuvee.corpus.tokens import TokensConfig, make_tokenizer, tokenise_pool
from cuvee.errors import ArtifactError, DataError
from cuvee.policy.mixture import Mixture, Phase
from cuvee.randomness import document_keys, stream
from cuvee.select.budget import SelectConfig, SelectionPlan, plan
from cuvee.select.shard_tasks import Progress, write_shard
from cuvee.select.write import Selection, SelectionSource, silent, write_selection
from cuvee.tables.statistics import PoolStatistics

DOMAINS = ("books", "code", "web")
MEAN_WORDS = {"books": 200, "code": 40, "web": 20}
N_DOCUMENTS = {"books": 12, "code": 100, "web": 300}
SETTINGS = SelectConfig(shard_bytes=16 << 10)


@dataclass(frozen=True)
class Document:
    """One made-up document."""

    id: str
    text: str
    domain: str
    validation: bool

    @property
    def n_tokens(self) -> int:
        """Words and one end-of-text token."""
        return len(self.text.split()) + 1


def _documents() -> list[Document]:
    rng = stream(5, "documents")
    documents = []
    for domain in DOMAINS:
        for number in range(N_DOCUMENTS[domain]):
            n_words = int(rng.integers(1, 2 * MEAN_WORDS[domain]))
            words = " ".join(f"wört{word}" for word in rng.integers(1000, size=n_words))
            name = f"{domain}/{number}"
            documents.append(Document(name, words, domain, validation=number % 10 == 3))
    return documents


def _write_parquet(path: Path, documents: Iterable[Document], row_group_size: int) -> None:
    rows = [{"id": d.id, "text": d.text, "domain": d.domain} for d in documents]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=row_group_size)


def _write_jsonl(path: Path, documents: Iterable[Document]) -> None:
    lines = (json.dumps({"id": d.id, "text": d.text, "domain": d.domain}) for d in documents)
    path.write_text("not json\n" + "".join(line + "\n" for line in lines), encoding="utf-8")


@dataclass(frozen=True)
class Pool:
    """A pool on disk with its token store."""

    config: PoolConfig
    source: SelectionSource
    statistics: PoolStatistics
    documents: dict[str, Document]

    def plan(
        self, shares: Sequence[float], n_tokens: int, max_epochs: float = 50
    ) -> tuple[Mixture, SelectionPlan]:
        """Make a flat mixture and its plan."""
        mixture = Mixture.flat(DOMAINS, shares)
        return mixture, plan(mixture, self.statistics, n_tokens=n_tokens, max_epochs=max_epochs)


def _pool(folder: Path, documents: list[Document], *, layout: str = "mixed") -> Pool:
    shards = folder / "pool"
    shards.mkdir(parents=True)
    if layout == "mixed":
        _write_parquet(shards / "a.parquet", documents[:150], 40)
        _write_jsonl(shards / "b.jsonl", documents[150:])
    else:
        shuffled = stream(9, "layout").permutation(len(documents))
        for number, part in enumerate(np.array_split(shuffled, 5)):
            _write_parquet(shards / f"{number}.parquet", [documents[i] for i in part], 1000)
    by_id = {document.id: document for document in documents}
    config = PoolConfig(shards=(str(shards),))
    tokens = folder / "tokens"
    for shard in list_shards(config):
        (tokens / shard.name).mkdir(parents=True)
        rows = [
            _row(row, by_id[name])
            for batch in read_batches(shard, config)
            for row, name in zip(batch.rows.tolist(), batch.ids, strict=True)
        ]
        pq.write_table(_store_table(rows), tokens / shard.name / "documents.parquet")
    source = SelectionSource(
        pool=config, tokens=tokens, tokenizer="t" * 8, fingerprint="f" * 8, inputs={"index": "i"}
    )
    return Pool(config, source, _statistics(documents), by_id)


def _row(row: int, document: Document) -> dict[str, int]:
    return {
        "key": int(document_keys([document.id])[0]),
        "domain": DOMAINS.index(document.domain),
        "side": int(document.validation),
        "row": row,
        "offset": 0,
        "n_tokens": document.n_tokens,
        "n_bytes": len(document.text.encode()),
    }


def _store_table(rows: list[dict[str, int]]) -> pa.Table:
    schema = {name: pa.int64() for name in ("row", "offset", "n_tokens", "n_bytes")}
    kinds = {"key": pa.uint64(), "domain": pa.int32(), "side": pa.uint8(), **schema}
    return pa.Table.from_pylist(rows, schema=pa.schema(kinds))


def _statistics(documents: list[Document]) -> PoolStatistics:
    train = [document for document in documents if not document.validation]

    def total(of: str) -> np.ndarray:
        values = {name: 0 for name in DOMAINS}
        for document in train:
            one = {"documents": 1, "tokens": document.n_tokens, "bytes": len(document.text)}
            values[document.domain] += one[of]
        return np.array(list(values.values()))

    return PoolStatistics(
        domains=DOMAINS,
        n_documents=total("documents"),
        n_bytes=total("bytes"),
        n_tokens=total("tokens"),
        available_tokens=total("tokens"),
    )


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    """Give three domains in a Parquet and a JSONL shard, the latter with one broken line."""
    return _pool(tmp_path, _documents())


def _written(folder: Path) -> list[dict[str, str | int]]:
    rows: list[dict[str, str | int]] = []
    for path in sorted(folder.glob("part-*.parquet")):
        rows.extend(pq.read_table(path).to_pylist())
    return rows


def _select(
    pool: Pool, folder: Path, shares: Sequence[float], n_tokens: int, *, seed: int = 1
) -> Selection:
    mixture, planned = pool.plan(shares, n_tokens)
    return write_selection(
        folder, mixture, planned, source=pool.source, settings=SETTINGS, seed=seed
    )


def test_realised_tokens_are_those_of_the_rows_written(pool: Pool, tmp_path: Path) -> None:
    """What mixture.json says of each domain is what the shards hold, counted again."""
    selection = _select(pool, tmp_path / "s", (0.2, 0.5, 0.3), 4000)
    rows = _written(tmp_path / "s")
    for position, name in enumerate(DOMAINS):
        own = [pool.documents[str(row["id"])] for row in rows if row["domain"] == name]
        assert selection.realised_tokens[position] == sum(d.n_tokens for d in own)
        assert selection.n_copies[position] == len(own)
        assert selection.n_documents[position] == len({d.id for d in own})
        assert selection.n_bytes[position] == sum(len(d.text.encode()) for d in own)
    assert len(list((tmp_path / "s").glob("part-*"))) == selection.n_shards > 1


def test_shares_are_met_within_one_document(pool: Pool, tmp_path: Path) -> None:
    """Each domain reaches its quota and exceeds it by less than its longest document."""
    selection = _select(pool, tmp_path / "s", (0.2, 0.5, 0.3), 4000)
    assert selection.planned_tokens.tolist() == [800, 2000, 1200]
    excess = selection.realised_tokens - selection.planned_tokens
    longest = [
        max(d.n_tokens for d in pool.documents.values() if d.domain == name) for name in DOMAINS
    ]
    assert np.all(excess >= 0)
    assert np.all(excess < longest)
    assert selection.realised_shares.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(
        selection.differences,
        selection.realised_tokens / selection.realised_tokens.sum() - np.array([0.2, 0.5, 0.3]),
    )


def test_small_domains_come_through_repetition(pool: Pool, tmp_path: Path) -> None:
    """Three and a half epochs are three or four copies of every document, numbered from 0."""
    n_books = int(pool.statistics.n_tokens[0])
    selection = _select(pool, tmp_path / "s", (1.0, 0.0, 0.0), int(3.5 * n_books))
    copies: dict[str, list[int]] = {}
    for row in _written(tmp_path / "s"):
        copies.setdefault(str(row["id"]), []).append(int(row["copy"]))
    train = {d.id for d in pool.documents.values() if d.domain == "books" and not d.validation}
    assert set(copies) == train
    assert {len(numbers) for numbers in copies.values()} == {3, 4}
    assert all(sorted(numbers) == list(range(len(numbers))) for numbers in copies.values())
    assert 3.5 <= selection.epochs[0] < 4.0
    assert selection.n_documents.tolist() == [len(train), 0, 0]


def test_validation_documents_are_never_selected(pool: Pool, tmp_path: Path) -> None:
    """Even when every training document is repeated, none of the other side is taken."""
    total = int(pool.statistics.n_tokens.sum())
    _select(pool, tmp_path / "s", tuple(pool.statistics.natural), 2 * total)
    ids = {str(row["id"]) for row in _written(tmp_path / "s")}
    assert ids == {d.id for d in pool.documents.values() if not d.validation}


def test_lineage_leads_back_to_the_text(pool: Pool, tmp_path: Path) -> None:
    """Reading the named row of the named shard gives the text that was written, so many times."""
    _select(pool, tmp_path / "s", (0.2, 0.5, 0.3), 6000)
    lineage = pq.read_table(tmp_path / "s" / "lineage.parquet")
    written: dict[str, list[str]] = {}
    for row in _written(tmp_path / "s"):
        written.setdefault(str(row["id"]), []).append(str(row["text"]))
    assert len(lineage) == len(written)
    np.testing.assert_array_equal(
        lineage["key"].to_numpy(), document_keys(lineage["id"].to_pylist())
    )
    for entry in lineage.to_pylist():
        shard = Path(entry["shard"].removeprefix("file://"))
        if shard.suffix == ".parquet":
            original = pq.read_table(shard)["text"][entry["row"]].as_py()
        else:
            original = json.loads(shard.read_text(encoding="utf-8").splitlines()[entry["row"]])[
                "text"
            ]
        assert written[entry["id"]] == [original] * entry["copies"]


def test_lineage_of_text_files_names_the_file(tmp_path: Path) -> None:
    """A document that is a file is found by the file's own path."""
    for name in DOMAINS:
        (tmp_path / "text" / name).mkdir(parents=True)
        (tmp_path / "text" / name / "x.txt").write_text(f"all of {name}", encoding="utf-8")
    config = PoolConfig(shards=(str(tmp_path / "text"),), format="text", domain_from="folder")
    documents = []
    for shard in list_shards(config):
        folder = tmp_path / "tokens" / shard.name
        folder.mkdir(parents=True)
        (batch,) = read_batches(shard, config)
        document = Document(batch.ids[0], batch.texts[0], batch.domains[0], validation=False)
        documents.append(document)
        row = _row(int(batch.rows[0]), document)
        pq.write_table(_store_table([row]), folder / "documents.parquet")
    source = SelectionSource(
        pool=config, tokens=tmp_path / "tokens", tokenizer="t", fingerprint="f"
    )
    pool = Pool(config, source, _statistics(documents), {d.id: d for d in documents})
    _select(pool, tmp_path / "s", (1 / 3, 1 / 3, 1 / 3), 12)
    texts = {str(row["id"]): row["text"] for row in _written(tmp_path / "s")}
    for entry in pq.read_table(tmp_path / "s" / "lineage.parquet").to_pylist():
        path = Path(entry["shard"].removeprefix("file://"))
        assert (path.read_text(encoding="utf-8"), entry["row"]) == (texts[entry["id"]], 0)


def test_order_does_not_depend_on_shards(pool: Pool, tmp_path: Path) -> None:
    """The same documents in other files, rows and row groups give the same bytes."""
    other = _pool(tmp_path / "other", _documents(), layout="scattered")
    _select(pool, tmp_path / "s", (0.2, 0.5, 0.3), 6000)
    _select(other, tmp_path / "t", (0.2, 0.5, 0.3), 6000)
    parts = sorted((tmp_path / "s").glob("part-*"))
    assert len(parts) > 2
    for part in [*parts, tmp_path / "s" / "mixture.json"]:
        assert part.read_bytes() == (tmp_path / "t" / part.name).read_bytes()


def test_made_again_the_bytes_are_the_same(pool: Pool, tmp_path: Path) -> None:
    """Every file, lineage and manifest included, is the same; another seed gives another order."""
    for name in ("s", "t"):
        _select(pool, tmp_path / name, (0.2, 0.5, 0.3), 3000)
    names = sorted(path.name for path in (tmp_path / "s").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "t").iterdir())
    for name in names:
        assert (tmp_path / "s" / name).read_bytes() == (tmp_path / "t" / name).read_bytes()
    _select(pool, tmp_path / "u", (0.2, 0.5, 0.3), 3000, seed=2)
    assert _written(tmp_path / "u") != _written(tmp_path / "s")


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_workers_write_the_same_bytes(pool: Pool, tmp_path: Path) -> None:
    """Two processes leave what one leaves, lineage and manifest included, and nothing else."""
    for name, workers in (("s", 0), ("t", 2)):
        mixture, planned = pool.plan((0.2, 0.5, 0.3), 6000)
        folder, source = tmp_path / name, pool.source
        write_selection(
            folder, mixture, planned, source=source, settings=SETTINGS, seed=1, workers=workers
        )
    assert _contents(tmp_path / "s") == _contents(tmp_path / "t")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pool", "s", "t", "tokens"]


def test_a_stopped_selection_goes_on(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read is not read again, the bytes are the same; other seeds share nothing."""

    def stop(step: str, done: int, total: int) -> None:
        if (step, done) == ("write", 2):
            raise KeyboardInterrupt

    mixture, planned = pool.plan((0.2, 0.5, 0.3), 6000)

    def write(name: str, seed: int, progress: Progress) -> None:
        write_selection(
            tmp_path / name,
            mixture,
            planned,
            source=pool.source,
            settings=SETTINGS,
            seed=seed,
            on_progress=progress,
        )

    for seed in (1, 2):
        write(f"whole-{seed}", seed, silent)
        with pytest.raises(KeyboardInterrupt):
            write("s", seed, stop)
        assert not (tmp_path / "s").exists()
    for path in (tmp_path / "pool").iterdir():
        path.write_bytes(b"x" * path.stat().st_size)  # whoever read it now would find out
    monkeypatch.setattr("os.link", _refuse)
    write("s", 1, silent)
    assert _contents(tmp_path / "s") == _contents(tmp_path / "whole-1")
    assert not (tmp_path / "s.pieces").exists()


def _refuse(*_: object) -> None:
    """Act as a file system without hard links."""
    raise OSError("no links here")


def test_missing_rows_are_found_by_who_writes(pool: Pool, tmp_path: Path) -> None:
    """A shard's task counts its rows: here one of the two files it gathers from is left out."""
    mixture, planned = pool.plan((0.2, 0.5, 0.3), 6000)

    def stop(step: str, done: int, total: int) -> None:
        if step == "write":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_selection(
            tmp_path / "s",
            mixture,
            planned,
            source=pool.source,
            settings=SETTINGS,
            seed=1,
            on_progress=stop,
        )
    (folder,) = (tmp_path / "s.pieces").iterdir()
    spec = {
        "taken": str(folder / "taken"),
        "scattered": str(folder / "scatter"),
        "n_scattered": 1,
        "domains": DOMAINS,
        "settings": {},
    }
    with pytest.raises(ArtifactError, match=r"rows of shard 1\. Delete it and run the same"):
        write_shard(spec, folder / "shards" / "00001")


def test_domains_are_spread_over_the_whole_selection(pool: Pool, tmp_path: Path) -> None:
    """A domain taken in part does not gather at the front."""
    _select(pool, tmp_path / "s", (0.1, 0.2, 0.7), 3000)
    domains = [row["domain"] for row in _written(tmp_path / "s")]
    ranks = np.flatnonzero([domain == "web" for domain in domains]) / len(domains)
    # The mean of n uniform ranks has standard deviation 1 / sqrt(12 n); 4 of them are allowed.
    assert abs(ranks.mean() - 0.5) < 4 / np.sqrt(12 * len(ranks))


def test_phases_follow_each_other_with_their_own_shares(pool: Pool, tmp_path: Path) -> None:
    """Shards of the first phase hold its mixture, those of the second the other's."""
    mixture = Mixture(
        domains=DOMAINS,
        phases=(
            Phase(share=0.5, weights=(0.0, 0.5, 0.5)),
            Phase(share=0.5, weights=(0.6, 0.0, 0.4)),
        ),
    )
    planned = plan(mixture, pool.statistics, n_tokens=8000, max_epochs=9)
    selection = write_selection(
        tmp_path / "s", mixture, planned, source=pool.source, settings=SETTINGS, seed=1
    )
    described = json.loads((tmp_path / "s" / "mixture.json").read_text())
    first, second = described["phases"]
    assert (first["first_shard"], second["first_shard"]) == (0, first["n_shards"])
    assert first["n_shards"] + second["n_shards"] == selection.n_shards
    assert first["weights"] == {"books": 0.0, "code": 0.5, "web": 0.5}
    for phase, wanted in ((first, (0, 2000, 2000)), (second, (2400, 0, 1600))):
        tokens = dict.fromkeys(DOMAINS, 0)
        for number in range(phase["first_shard"], phase["first_shard"] + phase["n_shards"]):
            for row in pq.read_table(tmp_path / "s" / f"part-{number:05d}.parquet").to_pylist():
                tokens[row["domain"]] += pool.documents[row["id"]].n_tokens
        np.testing.assert_allclose(list(tokens.values()), wanted, atol=2 * max(MEAN_WORDS.values()))
    assert len(_written(tmp_path / "s")) == selection.n_copies.sum()


def test_a_domain_without_weight_in_the_last_phase_stays_out_of_it(
    pool: Pool, tmp_path: Path
) -> None:
    """Whole documents run over a quota; the rest stays in the last phase with that domain."""
    phases = (Phase(share=0.9, weights=(1.0, 0.0, 0.0)), Phase(share=0.1, weights=(0.0, 1.0, 0.0)))
    mixture = Mixture(domains=DOMAINS, phases=phases)
    for seed in range(8):
        planned = plan(mixture, pool.statistics, n_tokens=1500 + 400 * seed, max_epochs=9)
        folder = tmp_path / str(seed)
        write_selection(folder, mixture, planned, source=pool.source, settings=SETTINGS, seed=seed)
        second = json.loads((folder / "mixture.json").read_text())["phases"][1]
        last = pq.read_table(folder / f"part-{second['first_shard']:05d}.parquet")
        assert set(last["domain"].to_pylist()) == {"code"}


def test_selection_from_a_scanned_and_tokenised_pool(tmp_path: Path) -> None:
    """The chain's own index and token store: train side only, tokens counted by the store."""
    pool = _pool(tmp_path, _documents())
    out = tmp_path / "out"
    config = PoolConfig(shards=pool.config.shards, validation_share=0.2)
    index = scan_pool(config, out, seed=3, workers=0)
    tokenizer = make_tokenizer(TokensConfig(vocabulary_size=300), index, out, seed=3)
    store = tokenise_pool(index, out, tokenizer=tokenizer, workers=0)
    mixture = Mixture.flat(DOMAINS, (0.3, 0.4, 0.3))
    planned = plan(mixture, store.statistics(), n_tokens=40_000, max_epochs=9)
    source = SelectionSource(
        pool=config, tokens=store.folder, tokenizer=store.tokenizer, fingerprint=index.fingerprint
    )
    selection = write_selection(
        tmp_path / "s", mixture, planned, source=source, settings=SETTINGS, seed=3
    )
    rows = _written(tmp_path / "s")
    place = {key: position for position, key in enumerate(store.keys.tolist())}
    taken = np.array([place[key] for key in document_keys(str(row["id"]) for row in rows).tolist()])
    assert set(store.side.tolist()) == {0, 1}
    assert set(store.side[taken].tolist()) == {0}
    tokens = np.bincount(store.domain[taken], weights=store.n_tokens[taken])
    np.testing.assert_array_equal(tokens, selection.realised_tokens)
    assert all(row["text"] == pool.documents[str(row["id"])].text for row in rows)


def test_mixture_json_describes_the_selection(pool: Pool, tmp_path: Path) -> None:
    """Units, tokenizer, fingerprint and per-domain figures stand in mixture.json and read back."""
    selection = _select(pool, tmp_path / "s", (0.2, 0.5, 0.3), 4000)
    described = json.loads((tmp_path / "s" / "mixture.json").read_text())
    assert described["units"] == "share of tokens"
    assert (described["tokenizer"], described["corpus_fingerprint"]) == ("t" * 8, "f" * 8)
    assert described["n_tokens"]["planned"] == 4000
    assert described["domains"]["code"]["planned_tokens"] == 2000
    again = Selection.read(tmp_path / "s")
    for name in ("domains", "n_tokens", "n_shards"):
        assert getattr(again, name) == getattr(selection, name)
    for name in ("planned_shares", "realised_tokens", "n_copies", "epochs", "differences"):
        np.testing.assert_array_equal(getattr(again, name), getattr(selection, name))


def test_manifest_names_the_inputs_and_leaves_no_remains(pool: Pool, tmp_path: Path) -> None:
    """The folder holds shards, lineage, mixture and manifest, and none of the buckets."""
    _select(pool, tmp_path / "s", (0.2, 0.5, 0.3), 4000)
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    assert manifest["inputs"] == {"index": "i"}
    assert manifest["settings"]["select"]["shard_bytes"] == SETTINGS.shard_bytes
    others = {p.name for p in (tmp_path / "s").iterdir() if not p.name.startswith("part-")}
    assert others == {"manifest.json", "done", "mixture.json", "lineage.parquet"}
    assert not (tmp_path / "s.partial").exists()


@pytest.mark.parametrize("compression", ["zstd", "snappy", "gzip", "none"])
def test_compression_is_that_asked_for(pool: Pool, tmp_path: Path, compression: str) -> None:
    """The shards' columns say how they are compressed."""
    mixture, planned = pool.plan((0.2, 0.5, 0.3), 500)
    settings = SelectConfig(compression=compression)  # type: ignore[arg-type]
    write_selection(tmp_path / "s", mixture, planned, source=pool.source, settings=settings, seed=1)
    column = pq.ParquetFile(tmp_path / "s/part-00000.parquet").metadata.row_group(0).column(1)
    assert column.compression == {"none": "UNCOMPRESSED"}.get(compression, compression.upper())


def test_changed_text_is_refused_and_nothing_stands(pool: Pool, tmp_path: Path) -> None:
    """A row whose text has another length than the one tokenised stops the selection."""
    documents = list(pool.documents.values())
    shard = tmp_path / "pool" / "a.parquet"
    longer = Document(documents[7].id, documents[7].text + " more", "books", validation=False)
    _write_parquet(shard, [*documents[:7], longer, *documents[8:150]], 40)
    with pytest.raises(DataError, match=r"a\.parquet changed since it was tokenised: row 7 holds"):
        _select(pool, tmp_path / "s", tuple(pool.statistics.natural), 20_000)
    assert not artifacts.is_done(tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_missing_rows_are_refused(pool: Pool, tmp_path: Path) -> None:
    """A shard cut short since names how many of its selected rows are gone."""
    documents = list(pool.documents.values())
    _write_parquet(tmp_path / "pool" / "a.parquet", documents[:140], 40)
    with pytest.raises(DataError, match=r"changed since it was tokenised: \d+ of \d+ selected row"):
        _select(pool, tmp_path / "s", tuple(pool.statistics.natural), 40_000)


def test_a_plan_for_another_store_is_refused(pool: Pool, tmp_path: Path) -> None:
    """Token counts of plan and store must agree, else shares would silently differ."""
    mixture, _ = pool.plan((0.2, 0.5, 0.3), 100)
    other = PoolStatistics(
        domains=DOMAINS,
        n_documents=pool.statistics.n_documents,
        n_bytes=pool.statistics.n_bytes,
        n_tokens=pool.statistics.n_tokens + 1,
        available_tokens=pool.statistics.n_tokens + 1,
    )
    planned = plan(mixture, other, n_tokens=100, max_epochs=1)
    with pytest.raises(ArtifactError, match=r"training tokens of domain 'books', but the plan was"):
        write_selection(
            tmp_path / "s", mixture, planned, source=pool.source, settings=SETTINGS, seed=1
        )


def test_a_store_of_another_pool_is_refused(pool: Pool, tmp_path: Path) -> None:
    """A shard without token table is named, with the stage to run."""
    _write_parquet(tmp_path / "pool" / "c.parquet", [Document("n", "new", "web", False)], 1)
    with pytest.raises(
        ArtifactError, match=r"00002-c/documents\.parquet does not exist: the token"
    ):
        _select(pool, tmp_path / "s", (0.2, 0.5, 0.3), 100)
