"""Reading a token store that the token stage has made."""

import json
from pathlib import Path

import numpy as np
import pytest

from cuvee.corpus.encoder import Encoder
from cuvee.corpus.pool import PoolConfig
from cuvee.corpus.scan import scan_pool
from cuvee.corpus.store import TokenStore
from cuvee.corpus.tokens import TokensConfig, make_tokenizer, tokenise_pool
from cuvee.errors import ArtifactError, ConfigError, DataError
from cuvee.randomness import document_keys

TEXTS = {f"{domain}/{number}": f"{domain} text number {number}. " * (1 + number % 4)
         for number in range(24) for domain in ("a", "b")}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    """Make a store of two shards."""
    folder = tmp_path_factory.mktemp("store")
    lines = [
        json.dumps({"id": name, "text": text, "domain": name[0]}) + "\n"
        for name, text in TEXTS.items()
    ]
    (folder / "one.jsonl").write_text("".join(lines[:20]), encoding="utf-8")
    (folder / "two.jsonl").write_text("".join(lines[20:]), encoding="utf-8")
    config = PoolConfig(shards=(str(folder / "*.jsonl"),), validation_share=0.3)
    index = scan_pool(config, folder / "out", seed=1, workers=0)
    settings = TokensConfig(vocabulary_size=280)
    tokenizer = make_tokenizer(settings, index, folder / "out", seed=1)
    return tokenise_pool(index, folder / "out", tokenizer=tokenizer, workers=0)


def test_documents_stand_in_order_of_shards_and_rows(store: TokenStore) -> None:
    """Arrays of all shards are joined in the order of their names."""
    np.testing.assert_array_equal(store.keys, document_keys(TEXTS))
    assert store.shard.tolist() == [0] * 20 + [1] * (len(TEXTS) - 20)
    assert [store.domains[code] for code in store.domain] == [name[0] for name in TEXTS]
    assert store.n_bytes.tolist() == [len(text) for text in TEXTS.values()]
    dtypes = (store.keys.dtype, store.domain.dtype, store.side.dtype, store.n_tokens.dtype)
    assert dtypes == (np.uint64, np.int32, np.uint8, np.int64)


def test_read_gives_the_ids_of_any_part(store: TokenStore) -> None:
    """Parts, the end-of-text before and the one behind."""
    encoder = Encoder(store.folder.parent / "tokenizer" / "tokenizer.json")
    end = store.end_of_text
    for place, ids in enumerate(encoder.encode(list(TEXTS.values()))):
        expected = [end, *np.frombuffer(ids, encoder.dtype).tolist(), end]
        n_tokens = int(store.n_tokens[place])
        assert n_tokens == len(expected) - 1
        assert store.read(place, -1, n_tokens).tolist() == expected
        assert store.read(place, 2, 4).tolist() == expected[3:5]
        assert store.read(place, n_tokens, n_tokens).tolist() == []


def test_read_gives_a_view_that_cannot_be_changed(store: TokenStore) -> None:
    """The file is mapped, not copied."""
    ids = store.read(0, 0, 1)
    assert ids.dtype == np.dtype("<u2")
    with pytest.raises(ValueError, match="read-only"):
        ids[0] = 0


@pytest.mark.parametrize(("start", "stop"), [(-2, 1), (0, 10_000), (3, 2)])
def test_read_refuses_a_range_outside_the_document(
    store: TokenStore, start: int, stop: int
) -> None:
    """Neighbours are never read by mistake."""
    with pytest.raises(DataError, match=rf"tokens {start} to {stop} of document 0 do not exist"):
        store.read(0, start, stop)


def test_statistics_count_the_training_side(store: TokenStore) -> None:
    """Sums over side 0 by domain; declared tokens replace what is here."""
    statistics = store.statistics({"b": 10**12})
    for code in range(2):
        own = (store.side == 0) & (store.domain == code)
        assert statistics.n_documents[code] == own.sum()
        assert statistics.n_bytes[code] == store.n_bytes[own].sum()
        assert statistics.n_tokens[code] == store.n_tokens[own].sum()
    assert statistics.available_tokens.tolist() == [statistics.n_tokens[0], 10**12]
    natural = store.statistics().natural
    np.testing.assert_allclose(natural, statistics.n_tokens / statistics.n_tokens.sum())


def test_statistics_refuse_a_domain_that_does_not_exist(store: TokenStore) -> None:
    """The message names the domains there are."""
    with pytest.raises(ConfigError, match=r"names the domain 'c', .* its domains are a, b\."):
        store.statistics({"c": 1})


def test_unfinished_store_is_not_opened(tmp_path: Path) -> None:
    """The command that makes it is named."""
    with pytest.raises(ArtifactError, match=r"missing or unfinished; run `cuvee label` first\."):
        TokenStore.open(tmp_path / "tokens")
