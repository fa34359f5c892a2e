"""Runs with a finished selection, made small and quickly, and what their text holds."""

import gzip
import json
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from cuvee import artifacts
from cuvee.corpus.encoder import Encoder
from cuvee.corpus.pool import PoolConfig
from cuvee.corpus.scan import scan_pool
from cuvee.corpus.store import TokenStore
from cuvee.corpus.tokens import TokensConfig, make_tokenizer, tokenise_pool
from cuvee.export.exporter import ExportConfig
from cuvee.export.write import export_selection
from cuvee.policy.mixture import Mixture, Phase
from cuvee.select.budget import SelectConfig, plan
from cuvee.select.write import SelectionSource, write_selection

Sets: TypeAlias = dict[str, list[Any]]
"""Documents of each set: token ids, or text."""

WORDS = ["the", "cat", "saw", "a", "dog", "ünd", "öne", "return", "if", "else", "alpha", "gamma"]
NAMES = ("code", "Law & Order/de", "../../etc", "web")
"""Domain names; two of them no folder may bear."""


@dataclass(frozen=True)
class Made:
    """A run with a selection."""

    out: Path
    store: TokenStore
    encoder: Encoder

    @property
    def mixture(self) -> dict[str, dict[str, dict[str, float]]]:
        """The content of mixture.json."""
        found = artifacts.read_json(self.out / "selection" / "mixture.json")
        return found  # type: ignore[return-value]

    @property
    def realised(self) -> dict[str, int]:
        """Tokens by domain, as mixture.json has them."""
        return {name: int(one["realised_tokens"]) for name, one in self.mixture["domains"].items()}

    @property
    def rows(self) -> list[dict[str, str | int]]:
        """The rows of all parts."""
        paths = sorted((self.out / "selection").glob("part-*.parquet"))
        return [row for path in paths for row in pq.read_table(path).to_pylist()]

    def ids(self, text: str) -> list[int]:
        """Encode a document, end-of-text included."""
        (encoded,) = self.encoder.encode([text])
        found = np.frombuffer(encoded, dtype=self.encoder.dtype).tolist()
        return [*found, self.encoder.end_of_text]


def make_pool(out: Path, sizes: Mapping[str, int]) -> None:
    """Write a pool of made-up documents: their number by domain."""
    out.mkdir(parents=True)
    rng = np.random.default_rng(3)
    rows = [
        {
            "id": f"{name}:{number}",
            "text": " ".join(rng.choice(WORDS, size=int(rng.integers(1, 60)))),
            "domain": name,
        }
        for name, n in sizes.items()
        for number in range(n)
    ]
    pq.write_table(pa.Table.from_pylist(rows), out / "pool.parquet", row_group_size=50)


@dataclass
class Maker:
    """Makes selections of one pool, each a run of its own that shares tokenizer and tokens."""

    root: Path
    pool: PoolConfig
    base: Path
    store: TokenStore
    made: dict[str, Made] = field(default_factory=dict)

    def __call__(
        self,
        *phases: Sequence[float],
        n_tokens: int = 12_000,
        shard_bytes: int = 8 << 10,
        with_store: bool = True,
    ) -> Made:
        """Select tokens by shares of the domains in the store's order."""
        key = repr((phases, n_tokens, shard_bytes, with_store))
        if key not in self.made:
            self.made[key] = self._make(phases, n_tokens, shard_bytes, with_store)
        return self.made[key]

    def _make(
        self, phases: Sequence[Sequence[float]], n_tokens: int, shard_bytes: int, with_store: bool
    ) -> Made:
        out = self.root / f"run-{len(self.made)}"
        out.mkdir()
        for name in ("tokenizer", "tokens")[: 2 if with_store else 1]:
            (out / name).symlink_to(self.base / name)
        mixture = Mixture(
            domains=self.store.domains,
            phases=tuple(Phase(share=1 / len(phases), weights=tuple(one)) for one in phases),
        )
        planned = plan(mixture, self.store.statistics(), n_tokens=n_tokens, max_epochs=1e9)
        write_selection(
            out / "selection",
            mixture,
            planned,
            source=SelectionSource(
                pool=self.pool,
                tokens=self.base / "tokens",
                tokenizer=artifacts.digest_of(self.base / "tokenizer"),
                fingerprint="f",
            ),
            settings=SelectConfig(shard_bytes=shard_bytes),
            seed=1,
        )
        return Made(out, self.store, Encoder(out / "tokenizer" / "tokenizer.json"))


def make_maker(root: Path, sizes: Mapping[str, int]) -> Maker:
    """Make a pool, its tokenizer and its tokens."""
    make_pool(root / "pool", sizes)
    pool = PoolConfig(shards=(str(root / "pool"),), validation_share=0.1)
    base = root / "base"
    index = scan_pool(pool, base, seed=1, workers=0)
    tokenizer = make_tokenizer(TokensConfig(vocabulary_size=300), index, base, seed=1)
    store = tokenise_pool(index, base, tokenizer=tokenizer, workers=0)
    return Maker(root, pool, base, store)


@pytest.fixture(scope="session")
def select(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Give what makes selections of a pool of four domains."""
    sizes = dict(zip(NAMES, (60, 40, 30, 90), strict=True))
    return make_maker(tmp_path_factory.mktemp("export"), sizes)


@pytest.fixture(scope="session")
def made(select: Maker) -> Made:
    """Give a run with a selection in several parts, with repeated documents."""
    return select((0.4, 0.3, 0.1, 0.2))


@pytest.fixture(scope="session")
def maker() -> Callable[[Path, Mapping[str, int]], Maker]:
    """Give the function that makes a pool of its own."""
    return make_maker


def read_megatron(folder: Path, end: int) -> Sets:
    """Read as IndexedDataset does; written from its layout (`test_own_readers` has the package)."""
    words = (folder / "blend.txt").read_text().split()
    sets: Sets = {}
    for prefix in words[1::2]:
        with open(f"{prefix}.idx", "rb") as file:
            assert file.read(9) == b"MMIDIDX\x00\x00"
            assert struct.unpack("<Q", file.read(8)) == (1,)
            (code,) = struct.unpack("<B", file.read(1))
            dtype = {4: np.int32, 8: np.uint16}[code]
            (n_sequences,) = struct.unpack("<Q", file.read(8))
            (n_documents,) = struct.unpack("<Q", file.read(8))
            lengths = np.frombuffer(file.read(4 * n_sequences), dtype=np.int32)
            pointers = np.frombuffer(file.read(8 * n_sequences), dtype=np.int64)
            documents = np.frombuffer(file.read(8 * n_documents), dtype=np.int64)
            assert file.read() == b""
        assert documents.tolist() == list(range(n_sequences + 1))
        content = Path(f"{prefix}.bin").read_bytes()
        sets[Path(prefix).name] = [
            np.frombuffer(content, dtype=dtype, count=length, offset=pointer).tolist()
            for length, pointer in zip(lengths.tolist(), pointers.tolist(), strict=True)
        ]
    return sets


def read_olmo(folder: Path, end: int) -> Sets:
    """Read the mixture's files as raw memory maps, and documents by the bounds beside them."""
    sources = yaml.safe_load((folder / "source_mixture.yaml").read_text())["sources"]
    dtype = json.loads((folder / "export.json").read_text())["facts"]["dtype"]
    sets: Sets = {}
    for source in sources:
        own = sets.setdefault(source["source_name"], [])
        for path in source["paths"]:
            ids = np.memmap(path, dtype=dtype, mode="r")
            with gzip.open(path.replace(".npy", ".csv.gz"), "rt") as file:
                for line in file:
                    first, last = (int(number) for number in line.split(",")[:2])
                    own.append(ids[first:last].tolist())
    return sets


def read_nanotron(folder: Path, end: int) -> Sets:
    """Read as datatrove's folder of tokens: every .ds, documents by the ends of its index."""
    (stage,) = yaml.safe_load((folder / "data_stages.yaml").read_text())["data_stages"]
    sets: Sets = {}
    for one in stage["data"]["dataset"]["dataset_folder"]:
        own = sets.setdefault(Path(one).name, [])
        for path in sorted(Path(one).glob("*.ds")):
            name, _, size = path.with_name(f"{path.name}.metadata").read_text().partition("|")
            assert name.endswith("/tokenizer")
            size, n_tokens = size.split("\n")[:2]
            ids = np.fromfile(path, dtype={"2": "<u2", "4": "<u4"}[size])
            assert len(ids) == int(n_tokens)
            ends = np.fromfile(f"{path}.index", dtype="<u8").astype(np.int64).tolist()
            own.extend(part.tolist() for part in np.split(ids, ends)[:-1])
            assert ends[-1] == len(ids)
    return sets


def split_documents(stream: Sequence[int], end: int, n_filled: int) -> list[list[int]]:
    """Divide a stream behind each end-of-text; the fill of the last sample is taken off."""
    assert all(token == end for token in stream[len(stream) - n_filled :])
    documents: list[list[int]] = [[]]
    for token in stream[: len(stream) - n_filled]:
        documents[-1].append(token)
        if token == end:
            documents.append([])
    assert documents.pop() == []
    return documents


def filled(folder: Path, name: str) -> int:
    """Return the end-of-text that fill the last sample of a set."""
    return int(json.loads((folder / "export.json").read_text())["facts"]["filled_tokens"][name])


def read_mds(folder: Path, end: int) -> Sets:
    """Read as MDSReader does: by offsets, sizes and encodings of index.json."""
    dataset = yaml.safe_load((folder / "streams.yaml").read_text())["train_loader"]["dataset"]
    sets: Sets = {}
    for name, one in dataset["streams"].items():
        own = Path(one["local"]) / one["split"]
        stream: list[int] = []
        samples = 0
        for shard in json.loads((own / "index.json").read_text())["shards"]:
            assert shard["version"] == 2
            assert shard["format"] == "mds"
            content = (own / shard["raw_data"]["basename"]).read_bytes()
            assert len(content) == shard["raw_data"]["bytes"]
            (size,) = shard["column_sizes"]
            assert shard["column_encodings"] == [f"ndarray:int32:{dataset['max_seq_len']}"]
            for sample in range(shard["samples"]):
                first, last = np.frombuffer(content, "<u4", count=2, offset=(1 + sample) * 4)
                assert last - first == size == 4 * dataset["max_seq_len"]
                stream += np.frombuffer(content[first:last], "<i4").tolist()
            samples += shard["samples"]
        assert samples == one["choose"]
        sets[name] = split_documents(stream, end, filled(folder, name))
    return sets


def read_litdata(folder: Path, end: int) -> Sets:
    """Read as TokensLoader does: blocks of a chunk behind its header."""
    block = json.loads((folder / "export.json").read_text())["facts"]["block"]
    sets: Sets = {}
    for own in sorted((folder / "data").iterdir()):
        index = json.loads((own / "index.json").read_text())
        assert index["config"]["data_format"] == ["no_header_tensor:16"]
        assert json.loads(index["config"]["data_spec"])[0] == 1
        stream: list[int] = []
        for chunk in index["chunks"]:
            offset = (1 + chunk["chunk_size"] + 1) * 4
            content = np.memmap(own / chunk["filename"], mode="r", offset=offset)
            for number in range(chunk["dim"] // block):
                start = 4 * number * block
                stream += np.frombuffer(content, "<i4", count=block, offset=start).tolist()
        sets[own.name] = split_documents(stream, end, filled(folder, own.name))
    return sets


def read_jsonl(folder: Path, end: int) -> Sets:
    """Read JSON lines, set by set."""
    return {
        own.name: [
            json.loads(line)["text"]
            for path in sorted(own.glob("*.jsonl"))
            for line in path.read_bytes().split(b"\n")[:-1]
        ]
        for own in sorted((folder / "data").iterdir())
    }


def read_hugging_face(folder: Path, end: int) -> Sets:
    """Read every configuration but that of everything with the datasets package itself."""
    head = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    names = [one["config_name"] for one in head["configs"]]
    sets: Sets = {}
    for name in names if len(names) == 1 else [name for name in names if name != "all"]:
        rows = datasets.load_dataset(str(folder), name, split="train", streaming=True)
        sets[name] = [row["text"] for row in rows]
    return sets


READERS: Mapping[str, Callable[[Path, int], Sets]] = {
    "megatron": read_megatron,
    "olmo": read_olmo,
    "mds": read_mds,
    "huggingface": read_hugging_face,
    "nanotron": read_nanotron,
    "litdata": read_litdata,
    "torchtitan": read_jsonl,
    "llama-factory": read_jsonl,
}
"""One reader a format, from its layout but for datasets; `test_own_readers` has the packages."""


def check_epoch(made: Made, folder: Path, to: str) -> None:
    """Hold one epoch of an export of one phase against the selection, document by document."""
    found = READERS[to](folder, made.encoder.end_of_text)
    about = json.loads((folder / "domains.json").read_text())["sets"]
    assert set(found) == set(about)
    set_of = {domain: name for name, one in about.items() for domain in one["domains"]}
    expected: dict[str, Counter[tuple[int, ...]]] = {name: Counter() for name in about}
    tokens: Counter[str] = Counter()
    for row in made.rows:
        domain, ids = str(row["domain"]), tuple(made.ids(str(row["text"])))
        expected[set_of[domain]][ids] += 1
        tokens[domain] += len(ids)
    for name, documents in found.items():
        ids_of = [made.ids(one) if isinstance(one, str) else one for one in documents]
        assert Counter(map(tuple, ids_of)) == expected[name]
        assert sum(map(len, ids_of)) == about[name]["tokens"]
        own = [domain for domain in about[name]["domains"]]
        assert sum(map(len, ids_of)) == sum(made.realised[domain] for domain in own)
    assert tokens == Counter({name: n for name, n in made.realised.items() if n})


@pytest.fixture(scope="session", name="check_epoch")
def epoch_checker() -> Callable[[Made, Path, str], None]:
    """Give the function that holds one epoch against the selection."""
    return check_epoch


@pytest.fixture(scope="session")
def readers() -> Mapping[str, Callable[[Path, int], Sets]]:
    """Give the readers by format."""
    return READERS


@pytest.fixture
def export(made: Made, tmp_path: Path) -> Callable[..., Path]:
    """Give the function that exports the run ``made``, or another, to a folder of its own."""

    def call(to: str, *, run: Made = made, name: str = "", **settings: Any) -> Path:
        config = ExportConfig(to=to, **{"context": 32, "file_bytes": 4 << 10, **settings})
        dest = tmp_path / (name or to)
        export_selection(run.out, dest, config, workers=0)
        return dest

    return call
