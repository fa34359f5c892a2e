"""The order of a selection's rows and the cuts of its shards."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuvee.randomness import hash64, stream
from cuvee.select.shuffle import order_rows, shard_ends
from cuvee.select.take import TakenDocuments


def taken(n_documents: int = 200, n_phases: int = 1) -> TakenDocuments:
    """Make up taken documents with 1 to 3 copies each."""
    rng = stream(0, "rows")
    copies = rng.integers(1, 4, n_documents)
    return TakenDocuments(
        shard=np.sort(rng.integers(0, 5, n_documents)),
        row=np.arange(n_documents),
        key=rng.integers(2**63, size=n_documents, dtype=np.uint64),
        domain=rng.integers(0, 3, n_documents),
        n_tokens=rng.integers(1, 50, n_documents),
        n_bytes=rng.integers(1, 200, n_documents),
        copies=copies,
        phases=rng.integers(0, n_phases, copies.sum()),
        first=np.cumsum(copies) - copies,
    )


def test_rows_are_ordered_by_phase_and_hash() -> None:
    """Sorted by their places, copies have rising phases and, within one, rising hash values."""
    documents = taken(n_phases=3)
    order = order_rows(documents, n_phases=3, shard_bytes=1000, seed=4)
    each = np.repeat(np.arange(200), documents.copies)
    copy = np.concatenate([np.arange(n) for n in documents.copies])
    value = hash64(4, "order", documents.key[each], part=copy.astype(np.uint64))
    rows = np.argsort(order.place)
    assert np.array_equal(order.place[rows], np.arange(len(rows)))
    expected = sorted(zip(documents.phases.tolist(), value.tolist(), strict=True))
    found = zip(documents.phases[rows].tolist(), value[rows].tolist(), strict=True)
    assert list(found) == expected


def test_shards_are_of_one_phase_each() -> None:
    """A phase begins a shard of its own; a phase without rows has none."""
    documents = taken(n_phases=3)
    phases = np.where(documents.phases == 1, 2, documents.phases)
    order = order_rows(replace(documents, phases=phases), n_phases=3, shard_bytes=1000, seed=4)
    first, second, third, last = order.first_shards
    assert 0 == first < second == third < last == len(order.ends)
    assert order.ends[second - 1] == (phases == 0).sum()
    assert order.ends[-1] == len(phases)


def test_equal_hash_values_are_ordered_by_key_and_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ties have a fixed order, so that bytes do not depend on the pool's files."""
    monkeypatch.setattr(
        "cuvee.select.shuffle.hash64", lambda *_, part: np.zeros(len(part), dtype=np.uint64)
    )
    documents = taken(20)
    order = order_rows(documents, n_phases=1, shard_bytes=1000, seed=1)
    rows = np.argsort(order.place)
    each = np.repeat(np.arange(20), documents.copies)
    copy = np.arange(len(each)) - documents.first[each]
    pairs = list(zip(documents.key[each][rows].tolist(), copy[rows].tolist(), strict=True))
    assert pairs == sorted(pairs)


@given(st.lists(st.integers(0, 30)), st.integers(1, 50))
def test_a_shard_ends_with_the_row_that_fills_it(n_bytes: list[int], limit: int) -> None:
    """Every shard but the last reaches the limit, and none did so before its last row."""
    ends = [0, *shard_ends(np.array(n_bytes, dtype=np.int64), limit=limit).tolist()]
    assert ends[-1] == len(n_bytes)
    for number, (start, end) in enumerate(pairwise(ends), start=2):
        assert sum(n_bytes[start : end - 1]) < limit
        if number < len(ends):
            assert sum(n_bytes[start:end]) >= limit


def test_a_part_of_the_documents_keeps_their_copies() -> None:
    """Two parts together are the whole, with first copies counted anew."""
    documents = taken(n_phases=3)
    one, two = documents.part(0, 77), documents.part(77, 200)
    assert np.array_equal(np.concatenate([one.phases, two.phases]), documents.phases)
    assert np.array_equal(np.concatenate([one.key, two.key]), documents.key)
    assert two.first[0] == 0
    assert np.array_equal(two.first + documents.first[77], documents.first[77:])
