"""Seeds and hashes: stable for ever, independent between purposes, uniform within one."""

from itertools import combinations
from typing import get_args

import numpy as np
import pytest
from scipy import stats

from cuvee.arrays import KeyArray
from cuvee.randomness import (
    Purpose,
    document_keys,
    hash64,
    integer_seed,
    share_threshold,
    stream,
)

N = 20_000
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
PAIRS = list(combinations(PURPOSES, 2))
LEVEL = 1e-4
"""Level of each test of independence: about 20 pairs are tested, the seeds are fixed."""
PINNED_KEYS = [3405396810240292928, 8453121595177857668]
PINNED_SPLIT = [12484502064546075563, 2857209425551992997]
PINNED_ORDER = [14564319182250528079, 9544579693448752047]
PINNED_STREAM = [2655539176, 557768894]


@pytest.fixture(scope="module")
def keys() -> KeyArray:
    """Keys of documents with consecutive ids."""
    return document_keys(f"doc-{number}" for number in range(N))


def _unit(values: KeyArray) -> np.ndarray:
    return values.astype(np.float64) / 2.0**64


def test_hash_values_are_pinned() -> None:
    """A change here would change every split, subset and order ever made."""
    keys = document_keys(["a", "b"])
    assert keys.tolist() == PINNED_KEYS
    assert hash64(0, "split", keys).tolist() == PINNED_SPLIT
    assert hash64(0, "order", keys, part=1).tolist() == PINNED_ORDER


def test_stream_is_pinned() -> None:
    """A change here would change every design and search ever made."""
    assert stream(0, "design").integers(2**32, size=2).tolist() == PINNED_STREAM


@pytest.mark.parametrize("purpose", PURPOSES)
def test_hash_is_uniform(keys: KeyArray, purpose: Purpose) -> None:
    """Values of one purpose fill [0, 2**64) evenly."""
    assert stats.kstest(_unit(hash64(3, purpose, keys)), "uniform").pvalue > LEVEL


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_purposes_are_independent(keys: KeyArray, one: Purpose, other: Purpose) -> None:
    """Ranks are uncorrelated, and being low in one says nothing of being low in the other."""
    first, second = _unit(hash64(3, one, keys)), _unit(hash64(3, other, keys))
    assert stats.spearmanr(first, second).pvalue > LEVEL
    for share in (0.5, 0.02):
        table = [
            [
                np.sum((first < share) & (second < share)),
                np.sum((first < share) & (second >= share)),
            ],
            [
                np.sum((first >= share) & (second < share)),
                np.sum((first >= share) & (second >= share)),
            ],
        ]
        assert stats.chi2_contingency(table).pvalue > LEVEL


def test_seeds_are_independent(keys: KeyArray) -> None:
    """Another seed is another order."""
    assert stats.spearmanr(hash64(1, "order", keys), hash64(2, "order", keys)).pvalue > LEVEL


def test_parts_are_independent(keys: KeyArray) -> None:
    """Another epoch is another order."""
    parts = [hash64(1, "order", keys, part=part) for part in (0, 1, 2)]
    for one, other in combinations(parts, 2):
        assert stats.spearmanr(one, other).pvalue > LEVEL


def test_parts_broadcast_over_documents(keys: KeyArray) -> None:
    """An array of parts gives what each part gives alone."""
    parts = np.arange(5, dtype=np.uint64)
    together = hash64(1, "sample", keys[:5], part=parts)
    alone = [int(hash64(1, "sample", keys[n : n + 1], part=n)[0]) for n in range(5)]
    assert together.tolist() == alone


def test_hash_is_one_to_one(keys: KeyArray) -> None:
    """Different keys never share a value, so orders have no ties."""
    assert len(np.unique(hash64(1, "order", keys))) == len(np.unique(keys)) == N


@pytest.mark.parametrize(("share", "threshold"), [(0.0, 0), (0.5, 2**63), (1.0, 2**64 - 1)])
def test_share_threshold_spans_the_range(share: float, threshold: int) -> None:
    """Thresholds are integers that fit 64 bits."""
    assert share_threshold(share) == threshold


def test_share_threshold_takes_its_share(keys: KeyArray) -> None:
    """About 2% of the documents fall below the threshold of 0.02."""
    taken = int(np.sum(hash64(5, "split", keys) < np.uint64(share_threshold(0.02))))
    assert stats.binomtest(taken, N, 0.02).pvalue > LEVEL


def test_streams_do_not_depend_on_each_other() -> None:
    """A stream repeats exactly; other seeds and keys give unrelated ones."""
    base = stream(1, "proxy", 3).random(N)
    np.testing.assert_array_equal(stream(1, "proxy", 3).random(N), base)
    for other in (stream(2, "proxy", 3), stream(1, "proxy", 4), stream(1, "design", 3)):
        assert stats.pearsonr(base, other.random(N)).pvalue > LEVEL


def test_stream_keys_are_not_joined_text() -> None:
    """Words are kept apart, and the number 3 is not the word 3."""
    draws = {
        stream(1, *key).integers(2**62)
        for key in (("ab", "c"), ("a", "bc"), ("abc",), ("abc", 3), ("abc", "3"), ("abc3",))
    }
    assert len(draws) == 6


def test_integer_seed_fits_31_bits() -> None:
    """Libraries take such seeds."""
    rng = stream(0, "seeds")
    seeds = [integer_seed(rng) for _ in range(100)]
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert len(set(seeds)) == 100
