"""Runs with a finished selection, made small and quickly, and what their text holds."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cuvee import artifacts
from cuvee.corpus.encoder import Encoder
from cuvee.corpus.pool import PoolConfig
from cuvee.corpus.scan import scan_pool
from cuvee.corpus.store import TokenStore
from cuvee.corpus.tokens import TokensConfig, make_tokenizer, tokenise_pool
from cuvee.policy.mixture import Mixture, Phase
from cuvee.select.budget import SelectConfig, plan
from cuvee.select.write import SelectionSource, write_selection

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

    def documents(self) -> Counter[tuple[int, ...]]:
        """Count the token sequences of all rows."""
        return Counter(tuple(self.ids(str(row["text"]))) for row in self.rows)


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
