"""Ranks by tokens: ties, invariances, tables that stream, and scales of criteria."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuvee.arrays import FloatArray, IntArray
from cuvee.errors import DataError
from cuvee.policy.ranks import Normaliser, RankTables, merge_scores, token_ranks


def test_ties_share_one_rank() -> None:
    """Quality .2 .1 .1 .7 with 100 300 50 550 tokens."""
    merged, tokens = np.array([0.2, 0.1, 0.1, 0.7]), np.array([100, 300, 50, 550])
    ranks = token_ranks(merged, tokens, np.zeros(4, dtype=np.int64))
    np.testing.assert_allclose(ranks, [0.45, 0.35, 0.35, 1.0])


def _pool(seed: int) -> tuple[FloatArray, IntArray, IntArray]:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 60))
    merged = rng.integers(0, 8, size=n) / 8.0
    return merged, rng.integers(1, 50, size=n), rng.integers(0, 3, size=n)


@given(seed=st.integers(0, 10_000))
def test_ranks_do_not_depend_on_order_scale_or_other_domains(seed: int) -> None:
    """Permuted, transformed by domain, with documents of another domain added: the same."""
    merged, tokens, domain = _pool(seed)
    ranks = token_ranks(merged, tokens, domain)
    order = np.random.default_rng(seed + 1).permutation(len(merged))
    np.testing.assert_array_equal(
        token_ranks(merged[order], tokens[order], domain[order]), ranks[order]
    )
    np.testing.assert_array_equal(
        token_ranks(np.exp(merged) * (domain + 1.0), tokens, domain), ranks
    )
    more = token_ranks(np.append(merged, 0.5), np.append(tokens, 7), np.append(domain, 3))
    np.testing.assert_array_equal(more[:-1], ranks)
    for index in np.unique(domain):
        assert ranks[domain == index].max() == 1.0
    tables = RankTables.of_documents(merged, tokens, domain, n_domains=3)
    np.testing.assert_allclose(tables.ranks(merged, domain), ranks)


def test_histograms_rank_within_one_bin() -> None:
    """However the documents are divided, the same table; the error is a bin's tokens."""
    rng = np.random.default_rng(2)
    merged, tokens = rng.uniform(size=5000), rng.integers(1, 100, size=5000)
    domain = rng.integers(2, size=5000)
    n_bins = 2000

    def histogram(rows: IntArray) -> IntArray:
        flat = domain[rows] * n_bins + np.minimum((merged[rows] * n_bins).astype(int), n_bins - 1)
        return np.bincount(flat, weights=tokens[rows], minlength=2 * n_bins).astype(np.int64)

    parts = sum(histogram(part) for part in np.array_split(rng.permutation(5000), 7))
    tables = RankTables.of_histograms(np.reshape(parts, (2, n_bins)), low=0.0, high=1.0)
    exact = token_ranks(merged, tokens, domain)
    wrong = np.abs(tables.ranks(merged, domain) - exact)
    assert wrong.max() <= tables.error.max() + 1e-12
    assert tables.error.max() < 0.01


def test_a_sample_ranks_within_its_error() -> None:
    """Ten thousand documents of a domain: about a fifth of a point at the best twentieth."""
    rng = np.random.default_rng(3)
    merged, tokens = rng.uniform(size=50_000), rng.integers(50, 150, size=50_000)
    domain = np.zeros(50_000, dtype=np.int64)
    sample = rng.choice(50_000, size=10_000, replace=False)
    tables = RankTables.of_documents(merged[sample], tokens[sample], domain[sample], n_domains=1)
    exact = token_ranks(merged, tokens, domain)
    best = exact < 0.05
    assert np.abs(tables.ranks(merged, domain) - exact)[best].max() < 5 * np.sqrt(0.05 / 10_000)


def test_scales_of_criteria() -> None:
    """Direction is turned; ranks share ties; z-scores and ranges are what they say."""
    scores = np.array([5.0, 1.0, 1.0, 3.0])
    rank = Normaliser.fit(scores, larger_is_better=True)
    np.testing.assert_allclose(rank.transform(scores), [0.125, 0.75, 0.75, 0.375])
    np.testing.assert_allclose(
        Normaliser.fit(scores, larger_is_better=False).transform(scores),
        [0.875, 0.25, 0.25, 0.625],
    )
    z = Normaliser.fit(scores, larger_is_better=True, method="zscore").transform(scores)
    assert z.mean() == pytest.approx(0.0)
    assert z.std() == pytest.approx(1.0)
    assert z[0] == z.min()
    unit = Normaliser.fit(scores, larger_is_better=False, method="minmax").transform(scores)
    np.testing.assert_allclose(unit, [1.0, 0.0, 0.0, 0.5])


def test_a_mass_of_bad_scores_becomes_one_value() -> None:
    """Three quarters near zero share one rank; the rest keep their order."""
    scores = np.concatenate([np.full(75, 1e-9) * np.arange(75), np.linspace(0.5, 1.0, 25)])
    found = Normaliser.fit(
        scores, larger_is_better=True, method="floor-rank", floor_share=0.75
    ).transform(scores)
    assert len(np.unique(found[:75].round(12))) <= 2
    assert (np.diff(found[75:]) < 0).all()
    assert found[75:].max() < found[:75].min()


def test_missing_scores_are_refused() -> None:
    """NaN is no score."""
    with pytest.raises(DataError, match="score of document 1 is nan"):
        Normaliser.fit(np.array([1.0, np.nan]), larger_is_better=True)


def test_merge_uses_the_domains_own_weights() -> None:
    """Equation 1 for two domains."""
    found = merge_scores(
        np.array([[0.2, 0.8], [0.2, 0.8]]), np.array([0, 1]), np.array([[1.0, 0.0], [0.5, 0.5]])
    )
    np.testing.assert_allclose(found, [0.2, 0.5])
