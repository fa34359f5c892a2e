"""Baselines of quality curves: what they take, with and without ties."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cuvee.arrays import FloatArray
from cuvee.corpus.store import TokenStore
from cuvee.methods import curves
from cuvee.policy.quality_curve import pool_copies
from cuvee.randomness import document_keys

CRITERIA = ("one", "two")


@pytest.fixture
def store() -> TokenStore:
    """Four thousand documents of three domains, a tenth held out; no tokens behind them."""
    rng = np.random.default_rng(0)
    n = 4000
    return TokenStore(
        folder=Path(),
        domains=("code", "essays", "web"),
        sides=("train", "validation"),
        vocabulary_size=100,
        end_of_text=0,
        tokenizer="",
        unique_tokens=np.zeros(3, dtype=np.int64),
        distinct_ids=np.zeros(3, dtype=np.int64),
        keys=document_keys(map(str, range(n))),
        domain=rng.integers(3, size=n).astype(np.int32),
        side=(rng.random(n) < 0.1).astype(np.uint8),
        offset=np.zeros(n, dtype=np.int64),
        n_tokens=rng.integers(20, 200, size=n),
        n_bytes=np.ones(n, dtype=np.int64),
        shard=np.zeros(n, dtype=np.int32),
        shards=("one",),
    )


def _taken(store: TokenStore, normalised: FloatArray, *some: curves.QualityCurve) -> FloatArray:
    train = store.side == 0
    copies = np.zeros(len(store.keys))
    copies[train] = pool_copies(
        some,
        normalised=normalised[train],
        n_tokens=store.n_tokens[train],
        domain=store.domain[train].astype(np.int64),
    )
    return copies


def test_the_best_of_the_whole_pool_are_taken_once(store: TokenStore) -> None:
    """Whatever their domain, up to the tokens; nothing that is held out."""
    normalised = np.random.default_rng(1).uniform(size=(4000, 2))
    normalised[store.domain == 0, 1] *= 0.3
    budget = 60_000
    copies = _taken(store, normalised, curves.top_curve(store, normalised, CRITERIA, 1, budget))
    assert set(copies.tolist()) == {0.0, 1.0}
    assert not copies[store.side == 1].any()
    assert abs((copies * store.n_tokens).sum() - budget) < 200
    train = store.side == 0
    assert normalised[copies > 0, 1].max() <= normalised[train & (copies == 0), 1].min()
    mixture = curves.expected_mixture(
        store, normalised, (curves.top_curve(store, normalised, CRITERIA, 1, budget),)
    )
    assert mixture.overall[0] > 0.5


def test_ties_are_taken_together(store: TokenStore) -> None:
    """Half of the pool has the best score: all of it, where a tenth was asked for."""
    normalised = np.random.default_rng(1).uniform(size=(4000, 2))
    normalised[::2, 0] = 0.0
    curve = curves.top_curve(store, normalised, CRITERIA, 0, 30_000)
    copies = _taken(store, normalised, curve)
    np.testing.assert_array_equal(copies > 0, (normalised[:, 0] == 0.0) & (store.side == 0))


def test_baselines_have_equal_tokens_and_names(store: TokenStore) -> None:
    """Each criterion's best and their union hold the budget; natural takes everything once."""
    normalised = np.random.default_rng(2).uniform(size=(4000, 2))
    named = curves.baselines(store, normalised, CRITERIA, 50_000)
    assert list(named) == ["natural", "top-one", "top-two", "union-of-tops"]
    for name, some in named.items():
        tokens = (_taken(store, normalised, *some) * store.n_tokens).sum()
        wanted = store.n_tokens[store.side == 0].sum() if name == "natural" else 50_000
        assert tokens == pytest.approx(wanted, rel=0.02)
    single = curves.baselines(store, normalised[:, :1], ("one",), 50_000)
    assert list(single) == ["natural", "top-one"]
    assert replace(single["natural"][0]).merge.tolist() == [[1.0]] * 3


def test_a_union_with_more_ties_than_the_budget_still_takes_something(store: TokenStore) -> None:
    """Half of the pool ties at the top of one criterion, five times the budget."""
    normalised = np.random.default_rng(1).uniform(size=(4000, 2))
    normalised[::2, 0] = 0.0
    union = curves.union_of_tops(store, normalised, CRITERIA, 40_000)
    copies = _taken(store, normalised, *union)
    assert (copies[(normalised[:, 0] == 0.0) & (store.side == 0)] == 1.0).all()
    assert curves.expected_mixture(store, normalised, union).overall.sum() == pytest.approx(1.0)
