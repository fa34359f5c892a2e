"""The sampler meets its quotas, and nothing but keys and seed decides what it takes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cuvee.arrays import IntArray, KeyArray
from cuvee.errors import DataError
from cuvee.policy.sampling import document_order, draw_copies, interleave, subset, take_quota
from cuvee.randomness import document_keys, stream

N = 20_000


@pytest.fixture(scope="module")
def keys() -> KeyArray:
    """Keys of many documents."""
    return document_keys(f"doc-{number}" for number in range(N))


@pytest.fixture(scope="module")
def lengths() -> IntArray:
    """Uneven document lengths."""
    return stream(0, "lengths").integers(1, 500, size=N)


def test_order_does_not_depend_on_layout(keys: KeyArray) -> None:
    """Documents come in the same order however they are stored."""
    shuffled = keys[stream(1, "layout").permutation(N)]
    here = keys[document_order(keys, seed=7)]
    there = shuffled[document_order(shuffled, seed=7)]
    np.testing.assert_array_equal(here, there)


def test_epochs_have_orders_of_their_own(keys: KeyArray) -> None:
    """The second pass does not repeat the first."""
    first, second = (np.argsort(document_order(keys, seed=7, epoch=epoch)) for epoch in (0, 1))
    assert stats.spearmanr(first, second).pvalue > 1e-3


@pytest.mark.parametrize("share", [0.0, 0.001, 0.37, 1.0, 2.0, 3.7])
def test_quota_is_met_within_one_document(keys: KeyArray, lengths: IntArray, share: float) -> None:
    """Tokens taken reach the quota and exceed it by less than the longest document."""
    quota = int(share * lengths.sum())
    taken = int(take_quota(keys, lengths, quota=quota, seed=1) @ lengths)
    assert quota <= taken < quota + lengths.max()


def test_whole_epochs_come_first(keys: KeyArray, lengths: IntArray) -> None:
    """No document has two copies more than another."""
    copies = take_quota(keys, lengths, quota=int(2.5 * lengths.sum()), seed=1)
    assert set(copies.tolist()) == {2, 3}


def test_quota_does_not_depend_on_layout(keys: KeyArray, lengths: IntArray) -> None:
    """The same documents are taken from any arrangement of them."""
    order = stream(1, "layout").permutation(N)
    here = take_quota(keys, lengths, quota=10**6, seed=1)
    there = take_quota(keys[order], lengths[order], quota=10**6, seed=1)
    np.testing.assert_array_equal(here[order], there)


def test_larger_quotas_contain_smaller_ones(keys: KeyArray, lengths: IntArray) -> None:
    """More budget never loses a document."""
    quotas = [0, 1, 10**5, 10**6, 10**7]
    copies = [take_quota(keys, lengths, quota=quota, seed=1) for quota in quotas]
    chosen = [subset(keys, lengths, quota=quota, seed=1) for quota in quotas]
    for number in range(len(quotas) - 1):
        assert np.all(copies[number] <= copies[number + 1])
        assert np.all(chosen[number] <= chosen[number + 1])


def test_taking_is_independent_of_order(keys: KeyArray, lengths: IntArray) -> None:
    """Documents taken for a small quota do not stand at the front of the order."""
    taken = take_quota(keys, lengths, quota=int(0.1 * lengths.sum()), seed=1) > 0
    place = np.argsort(document_order(keys, seed=1))
    assert stats.kstest(place[taken] / N, "uniform").pvalue > 1e-3


def test_subset_is_whole_where_the_quota_is(keys: KeyArray, lengths: IntArray) -> None:
    """A quota beyond the domain takes all of it; none takes nothing."""
    assert subset(keys, lengths, quota=10**12, seed=1).all()
    assert not subset(keys, lengths, quota=0, seed=1).any()


def test_subset_reaches_its_quota(keys: KeyArray, lengths: IntArray) -> None:
    """The last document is kept whole."""
    chosen = subset(keys, lengths, quota=12_345, seed=1)
    assert 12_345 <= lengths[chosen].sum() < 12_345 + lengths.max()


def test_quotas_without_tokens_are_refused() -> None:
    """An empty domain can meet no quota but 0."""
    nothing, no_keys = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint64)
    assert take_quota(no_keys, nothing, quota=0, seed=1).tolist() == []
    with pytest.raises(DataError, match="quota is 5 tokens, but the domain has none"):
        take_quota(no_keys, nothing, quota=5, seed=1)
    for sampler in (take_quota, subset):
        with pytest.raises(DataError, match="quota is -1 tokens"):
            sampler(no_keys, nothing, quota=-1, seed=1)


@pytest.mark.parametrize("expected", [0.0, 0.02, 0.5, 1.0, 2.7, 15.0])
def test_copies_are_expected_ones_on_average(keys: KeyArray, expected: float) -> None:
    """Copies are the two whole numbers about the expected one, in the right share."""
    copies = draw_copies(np.full(N, expected), keys, seed=3)
    whole = int(np.floor(expected))
    assert set(copies.tolist()) <= {whole, whole + 1}
    extra = int(np.sum(copies > whole))
    assert stats.binomtest(extra, N, expected - whole).pvalue > 1e-3


def test_whole_copies_are_not_left_to_chance(keys: KeyArray) -> None:
    """Expected copies without a fraction are met exactly, also just below the next number."""
    assert np.all(draw_copies(np.full(N, 2.0), keys, seed=3) == 2)
    assert np.all(draw_copies(np.full(N, np.nextafter(1.0, 0.0)), keys, seed=3) == 1)


@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf])
def test_copies_refuse_what_is_no_expectation(value: float) -> None:
    """The document is named."""
    with pytest.raises(DataError, match="expected copies of document 1"):
        draw_copies(np.array([0.5, value]), np.zeros(2, dtype=np.uint64), seed=1)


@settings(deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=8), st.integers(0, 1000))
def test_interleave_keeps_shares_in_every_prefix(counts: list[int], seed: int) -> None:
    """Between any two moments each domain has its share, within one sequence a domain."""
    order = interleave(np.array(counts), stream(seed, "interleave"))
    np.testing.assert_array_equal(np.bincount(order, minlength=len(counts)), counts)
    total = sum(counts)
    length = np.arange(1, total + 1)
    for domain, count in enumerate(counts):
        seen = np.cumsum(order == domain)
        share = count / total if total else 0.0
        assert np.all(np.abs(seen - share * length) <= 1.0 + share * len(counts) + 1e-9)


def test_interleave_separates_sequences_of_a_small_domain() -> None:
    """Four sequences among a hundred stand a quarter of the run apart."""
    order = interleave(np.array([96, 4]), stream(0, "interleave"))
    gaps = np.diff(np.flatnonzero(order == 1))
    assert np.all(np.abs(gaps - 25) <= 1)
