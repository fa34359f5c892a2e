"""Sides follow the hash of the group and nothing else."""

import numpy as np
import pytest

from cuvee.corpus.splits import LastResort, assign_half, assign_side
from cuvee.randomness import document_keys, hash64

N = 50_000
SHARE_TOLERANCE = 0.004  # 4 standard errors of a share of 0.05 over N
HALF_TOLERANCE = 0.01  # 4 standard errors of a half over N


def test_share_of_groups_is_held_out() -> None:
    """Expected share, and none at a share of 0."""
    keys = document_keys(f"i{k}" for k in range(N))
    held = assign_side(keys, seed=1, validation_share=0.05)
    assert held.mean() == pytest.approx(0.05, abs=SHARE_TOLERANCE)
    assert not assign_side(keys, seed=1, validation_share=0.0).any()


def test_side_is_kept_when_documents_come_and_go() -> None:
    """A document's side depends on its own key; a larger share only adds."""
    keys = document_keys(f"i{k}" for k in range(N))
    held = assign_side(keys, seed=1, validation_share=0.05)
    np.testing.assert_array_equal(
        assign_side(keys[::-7], seed=1, validation_share=0.05), held[::-7]
    )
    assert (assign_side(keys, seed=1, validation_share=0.1) >= held).all()
    assert (assign_side(keys, seed=2, validation_share=0.05) != held).any()


def test_halves_are_even_and_independent_of_the_split() -> None:
    """Verdict halves hold as many held-out documents as others."""
    keys = document_keys(f"i{k}" for k in range(N))
    half, held = assign_half(keys, seed=1), assign_side(keys, seed=1, validation_share=0.5)
    assert half.mean() == pytest.approx(0.5, abs=HALF_TOLERANCE)
    assert half[held].mean() == pytest.approx(half[~held].mean(), abs=2 * HALF_TOLERANCE)


def test_last_resort_is_the_lowest_group_of_a_domain_without_one() -> None:
    """Only where the hash holds none out and there is a second group; in any order of documents."""
    keys = document_keys(f"g{k}" for k in range(9))
    keys = keys[np.argsort(hash64(5, "split", keys))]
    # By hash value: domain 0 has the lowest group, domain 1 the next two, domain 2 one group only.
    domain = np.array([0, 1, 1, 2, 2, 1, 0, 0, 1])
    keys[4] = keys[3]
    share = (float(hash64(5, "split", keys[:1])[0]) + 2.0**40) / 2.0**64
    assert assign_side(keys, seed=5, validation_share=share).tolist() == [True] + [False] * 8
    for order in (np.arange(9), np.arange(9)[::-1]):
        last_resort = LastResort(3, seed=5, validation_share=share)
        for part in np.array_split(order, 4):
            last_resort.add(domain[part], keys[part])
        assert last_resort.groups().tolist() == [keys[1]]


def test_last_resort_holds_nothing_out_at_a_share_of_zero() -> None:
    """A share of 0 means none."""
    last_resort = LastResort(1, seed=5, validation_share=0.0)
    last_resort.add(np.zeros(3, dtype=np.int64), document_keys("abc"))
    assert last_resort.groups().size == 0
