"""Pools as other tools lay them out: datatrove, Dolma, NeMo Curator, FineWeb, dataset repositories.

Each is written here as its tool's documentation says, and read without being converted.
"""

import gzip
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from cuvee.corpus.pool import PoolConfig, list_shards
from cuvee.corpus.read import has_column, read_batches
from cuvee.corpus.rows import DocumentBatch
from cuvee.errors import DataError

Records = Sequence[Mapping[str, object]]


def _write(path: Path, records: Records) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(one) + "\n" for one in records).encode("utf-8")
    path.write_bytes(gzip.compress(content, mtime=0))


def _read(config: PoolConfig, number: str | None = None) -> DocumentBatch:
    found = [
        batch
        for shard in list_shards(config)
        for batch in read_batches(shard, config, number=number)
    ]
    numbers = [batch.numbers for batch in found if batch.numbers is not None]
    return DocumentBatch(
        rows=np.concatenate([batch.rows for batch in found]),
        ids=[one for batch in found for one in batch.ids],
        texts=[one for batch in found for one in batch.texts],
        domains=[one for batch in found for one in batch.domains],
        groups=[one for batch in found for one in batch.groups],
        rejects=[one for batch in found for one in batch.rejects],
        numbers=np.concatenate(numbers) if numbers else None,
    )


def test_datatrove_jsonl(tmp_path: Path) -> None:
    """JsonlWriter: text, id and a metadata object, ``00000.jsonl.gz`` a rank."""
    for rank in range(2):
        records = [
            {
                "text": f"text {rank} {n}",
                "id": f"<urn:uuid:{rank}-{n}>",
                "metadata": {"dump": f"CC-{n}", "language_score": 0.5 + n, "url": f"u{n}"},
            }
            for n in range(3)
        ]
        _write(tmp_path / f"{rank:05d}.jsonl.gz", records)
    config = PoolConfig(shards=(str(tmp_path),), domain="metadata.dump", group="metadata.url")
    found = _read(config, "metadata.language_score")
    assert found.ids[0] == "<urn:uuid:0-0>"
    assert found.domains == ["CC-0", "CC-1", "CC-2"] * 2
    assert found.groups == ["u0", "u1", "u2"] * 2
    assert found.numbers is not None
    assert found.numbers.tolist() == [0.5, 1.5, 2.5] * 2
    assert not found.rejects


def test_datatrove_parquet(tmp_path: Path) -> None:
    """ParquetWriter: metadata is a group column; a null one has no domain."""
    records = [
        {"text": "one", "id": "a", "metadata": {"dump": "x", "file_path": "p"}},
        {"text": "two", "id": "b", "metadata": None},
    ]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "000.parquet")
    config = PoolConfig(shards=(str(tmp_path),), domain="metadata.dump", domain_missing="other")
    assert _read(config).domains == ["x", "other"]
    missing = PoolConfig(shards=(str(tmp_path),), domain="metadata.language")
    with pytest.raises(DataError, match=r"no column 'metadata\.language' \(domain\)"):
        _read(missing)


def _write_dolma(root: Path, values: Sequence[object]) -> PoolConfig:
    documents = [
        {"id": f"d{n}", "text": "a" * 10, "source": "wiki" if n % 2 else "cc", "added": "2024"}
        for n in range(len(values))
    ]
    attributes = [
        {"id": f"d{n}", "source": "cc", "attributes": {} if one is None else {"q__q__score": one}}
        for n, one in enumerate(values)
    ]
    _write(root / "documents" / "en" / "0000.json.gz", documents)
    _write(root / "attributes" / "quality" / "en" / "0000.json.gz", attributes)
    return PoolConfig(shards=(str(root / "documents"),), domain="source")


REGISTRY = sys.modules["fsspec.registry"].__dict__["_registry"]
"""File systems by protocol; the package hides the module behind a view of it."""
COLUMN = "attributes/quality/q__q__score"


def test_dolma_documents_and_attributes(tmp_path: Path) -> None:
    """Attributes are columns of numbers: of a whole document, of spans, or missing."""
    spans = [[[0, 10, 0.75]], [[0, 2, 1.0], [2, 10, 0.0]], [], None, [[0, 0, 0.5]]]
    config = _write_dolma(tmp_path, spans)
    found = _read(config, COLUMN)
    assert found.domains == ["cc", "wiki", "cc", "wiki", "cc"]
    np.testing.assert_allclose(found.numbers, [0.75, 0.2, np.nan, np.nan, 0.5])
    (shard,) = list_shards(config)
    assert has_column(shard, COLUMN)
    assert not has_column(shard, "attributes/language/score")
    only = list(read_batches(shard, config, number=COLUMN, rows=np.array([1, 4])))
    np.testing.assert_allclose(only[0].numbers, [0.2, 0.5])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"id": "d1", "attributes": {}}], "is of document 'd1', but the shard has 'd0'"),
        ([{"id": "d0", "attributes": {}}], "ends before line 1"),
        ([{"id": "d0"}], "line 0 has no object 'attributes'"),
        ([{"id": "d0", "attributes": {"q__q__score": "x"}}], "must be spans"),
    ],
)
def test_attributes_of_other_documents_are_refused(
    lines: list[dict[str, Any]], message: str, tmp_path: Path
) -> None:
    """A side-car must hold the same documents in the same order."""
    config = _write_dolma(tmp_path, [None, None])
    _write(tmp_path / "attributes" / "quality" / "en" / "0000.json.gz", lines)
    with pytest.raises(DataError, match=message):
        _read(config, COLUMN)


def test_a_side_car_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The message names the file, or the layout that the pool does not have."""
    config = _write_dolma(tmp_path, [None])
    with pytest.raises(DataError, match=r"attributes/other/en/0000\.json\.gz does not exist"):
        _read(config, "attributes/other/score")
    with pytest.raises(DataError, match=r"is looked for in <pool>/attributes"):
        _read(config, "attributes/score")


def test_curator_and_fineweb_columns(tmp_path: Path) -> None:
    """NeMo Curator's JSON lines and FineWeb's Parquet, one pool: domains by their own columns."""
    records = [{"id": f"doc_id-{n:04d}", "text": "t", "quality_pred": "High"} for n in range(2)]
    lines = "".join(json.dumps(one) + "\n" for one in records)
    (tmp_path / "curated").mkdir()
    (tmp_path / "curated" / "part.jsonl").write_text(lines, encoding="utf-8")
    config = PoolConfig(shards=(str(tmp_path / "curated"),), domain="quality_pred")
    assert _read(config).domains == ["High", "High"]
    fineweb = {
        "text": ["t"],
        "id": ["<urn:uuid:1>"],
        "dump": ["CC-MAIN-2013-20"],
        "url": ["http://a"],
        "date": ["2013-05-18T05:48:54Z"],
        "file_path": ["s3://x"],
        "language": ["en"],
        "language_score": [0.94],
        "token_count": [7],
    }
    pq.write_table(pa.table(fineweb), tmp_path / "000_00000.parquet")
    config = PoolConfig(shards=(str(tmp_path / "*.parquet"),), domain="dump", group="url")
    found = _read(config, "token_count")
    assert (found.domains, found.groups) == (["CC-MAIN-2013-20"], ["http://a"])
    assert found.numbers is not None
    assert found.numbers.tolist() == [7.0]


def _write_repository(folder: Path) -> None:
    """Write a dataset repository: configurations as folders, splits by name."""
    for name in ("web", "code"):
        for split, n_parts in (("train", 2), ("test", 1)):
            for part in range(n_parts):
                path = folder / name / f"{split}-{part:05d}-of-{n_parts:05d}.parquet"
                path.parent.mkdir(parents=True, exist_ok=True)
                pq.write_table(pa.table({"text": [f"{name} {split} {part}"]}), path)
    (folder / "README.md").write_text("---\nconfigs: []\n---\n", encoding="utf-8")


def test_dataset_repository_by_split(tmp_path: Path) -> None:
    """A pattern takes one split of every configuration, whose folder is the domain."""
    _write_repository(tmp_path / "data")
    pattern = str(tmp_path / "data" / "*" / "train-*.parquet")
    found = _read(PoolConfig(shards=(pattern,), domain_from="folder"))
    assert sorted(found.texts) == sorted(
        f"{name} train {part}" for name in ("web", "code") for part in range(2)
    )
    assert set(found.domains) == {"web", "code"}


class _Hub(MemoryFileSystem):
    """Stands for the hub's file system: the same paths, no network."""

    protocol = "hf"
    store: dict[str, Any] = {}  # noqa: RUF012  # MemoryFileSystem's own way
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("hf://").strip("/")


def test_repository_by_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """hf:// goes through fsspec: listed, read and named by its URL."""
    monkeypatch.setitem(REGISTRY, "hf", _Hub)
    hub = fsspec.filesystem("hf", skip_instance_cache=True)
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "x.parquet")
    hub.pipe("/datasets/me/mine/data/train-0.parquet", (tmp_path / "x.parquet").read_bytes())
    hub.pipe("/datasets/me/mine/data/test-0.parquet", b"")
    url = "hf://datasets/me/mine/data/train-*.parquet"
    config = PoolConfig(shards=(url,), domain_from="pattern", domain_pattern="datasets/me/([^/]+)")
    assert [shard.url.startswith("hf://") for shard in list_shards(config)] == [True]
    found = _read(config)
    assert (found.texts, found.domains) == (["a", "b"], ["mine", "mine"])


def test_repository_by_url_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """One message that names the URL and what could not be loaded."""
    monkeypatch.delitem(REGISTRY, "hf", raising=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    config = PoolConfig(shards=("hf://datasets/me/mine",), domain_from="folder")
    with pytest.raises(
        DataError, match=r"hf://datasets/me/mine' cannot be listed: .*[hH]uggingface_?[hH]ub"
    ):
        list_shards(config)
