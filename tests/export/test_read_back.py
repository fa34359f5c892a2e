"""An export of tokens is a pool: its documents come back, id by id."""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from cuvee.corpus.encoder import train_tokenizer
from cuvee.corpus.pool import DomainFrom, PoolConfig
from cuvee.corpus.scan import scan_pool
from cuvee.corpus.store import TokenStore
from cuvee.corpus.tokens import TokensConfig, make_tokenizer, tokenise_pool


def _pool(export: Path, domain_from: DomainFrom) -> PoolConfig:
    """Describe the files of an export as a pool."""
    return PoolConfig(
        shards=(str(export / "data"),),
        domain_from=domain_from,
        tokenizer=str(export / "tokenizer" / "tokenizer.json"),
        validation_share=0.1,
    )


def _tokenised(pool: PoolConfig, out: Path) -> TokenStore:
    """Read a pool of token files."""
    index = scan_pool(pool, out, seed=1, workers=0)
    made = make_tokenizer(TokensConfig(tokenizer=pool.tokenizer), index, out, seed=1)
    return tokenise_pool(index, out, tokenizer=made, workers=0)


def _documents(store: TokenStore) -> dict[str, list[tuple[int, ...]]]:
    """Return the ids of each domain's documents, end-of-text included, sorted."""
    found = defaultdict(list)
    for document, (code, n_tokens) in enumerate(zip(store.domain, store.n_tokens, strict=True)):
        ids = store.read(document, 0, int(n_tokens)).tolist()
        found[store.domains[code]].append(tuple(ids))
    return {name: sorted(documents) for name, documents in found.items()}


@pytest.mark.parametrize(
    ("to", "domain_from", "has_bounds"),
    [("megatron", "file", False), ("olmo", "folder", True), ("olmo", "folder", False)],
)
def test_tokens_come_back_as_a_pool(
    to: str,
    domain_from: DomainFrom,
    has_bounds: bool,
    made: Any,
    export: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """Each domain's ids and token count are those that were selected, copies counted once."""
    dest = export(to)
    bounds = sorted(dest.glob("data/*/*.csv.gz"))
    assert bool(bounds) == (to == "olmo")
    for path in () if has_bounds else bounds:
        path.unlink()
    sets = json.loads((dest / "domains.json").read_text(encoding="utf-8"))["sets"]
    set_of = {domain: name for name, one in sets.items() for domain in one["domains"]}
    expected = defaultdict(set)
    for row in made.rows:
        expected[set_of[row["domain"]]].add(tuple(made.ids(row["text"])))
    store = _tokenised(_pool(dest, domain_from), tmp_path / "out")
    assert _documents(store) == {name: sorted(ids) for name, ids in expected.items()}
    n_tokens = np.zeros(len(store.domains), dtype=np.int64)
    np.add.at(n_tokens, store.domain, store.n_tokens)
    assert n_tokens.tolist() == [sum(map(len, expected[name])) for name in store.domains]


@pytest.mark.parametrize("to", ["megatron", "huggingface"])
def test_such_a_pool_is_selected_from_and_exported(
    to: str, select: Any, export: Callable[..., Path], check_epoch: Any, tmp_path: Path
) -> None:
    """As ids the documents go through untouched, as text they are what the ids decode to."""
    pool = _pool(export("olmo"), "folder")
    store = _tokenised(pool, tmp_path / "base")
    maker = type(select)(tmp_path, pool, tmp_path / "base", store)
    run = maker((0.1, 0.2, 0.3, 0.4), n_tokens=3_000)
    check_epoch(run, export(to, run=run), to)


def test_such_a_pool_is_exported_in_another_tokenizers_tokens(
    select: Any, export: Callable[..., Path], tmp_path: Path
) -> None:
    """The documents are what the pool's ids decode to, encoded anew."""
    pool = _pool(export("olmo"), "folder")
    store = _tokenised(pool, tmp_path / "base")
    run = type(select)(tmp_path, pool, tmp_path / "base", store)((0.1, 0.2, 0.3, 0.4))
    texts = [row["text"] for row in run.rows]
    other = tmp_path / "other.json"
    other.write_text(train_tokenizer(texts, vocabulary_size=500), encoding="utf-8")
    dest = export("megatron", run=run, name="again", layout="mixed", tokenizer=str(other))
    ids = np.fromfile(dest / "data" / "all.bin", dtype="<u2")
    end = json.loads((dest / "export.json").read_text(encoding="utf-8"))["end_of_text"]
    documents = np.split(ids, np.flatnonzero(ids == end) + 1)[:-1]
    found = Tokenizer.from_file(str(other)).decode_batch([one[:-1].tolist() for one in documents])
    assert found == texts
