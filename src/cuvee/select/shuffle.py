"""The order of a selection's rows, and where its shards are cut: known before any text is read."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cuvee.arrays import IntArray
from cuvee.randomness import hash64
from cuvee.select.take import TakenDocuments


@dataclass(frozen=True, kw_only=True, slots=True)
class RowOrder:
    """Which row of which shard every copy becomes."""

    place: IntArray
    """(n_copies,) row of the selection, documents in order and copies counted up."""
    ends: IntArray
    """(n_shards,) row after the last one of each shard."""
    first_shards: tuple[int, ...]
    """(n_phases + 1,) first shard of each phase; last, the number of shards."""


def order_rows(
    documents: TakenDocuments, *, n_phases: int, shard_bytes: int, seed: int
) -> RowOrder:
    """Put the copies of each phase in the order of their hash values, and cut them into shards.

    Equal hash values are ordered by key and copy, so that neither the files of the pool nor their
    order matter. A shard holds rows of one phase.

    Args:
        documents: The documents taken.
        n_phases: Phases of the mixture; they follow each other.
        shard_bytes: UTF-8 bytes of text that complete a shard.
        seed: The run's seed.
    """
    each = np.repeat(np.arange(len(documents.copies)), documents.copies)
    copy = np.arange(len(each)) - documents.first[each]
    key = documents.key[each]
    order = hash64(seed, "order", key, part=copy.astype(np.uint64))
    rows = np.lexsort((copy, key, order, documents.phases))
    place = np.empty(len(rows), dtype=np.int64)
    place[rows] = np.arange(len(rows))
    n_bytes = documents.n_bytes[each[rows]]
    bounds = np.searchsorted(documents.phases[rows], np.arange(n_phases + 1))
    ends: list[int] = []
    first_shards = [0]
    for start, end in pairwise(bounds.tolist()):
        ends += (start + shard_ends(n_bytes[start:end], limit=shard_bytes)).tolist()
        first_shards.append(len(ends))
    return RowOrder(
        place=place, ends=np.array(ends, dtype=np.int64), first_shards=tuple(first_shards)
    )


def shard_ends(n_bytes: IntArray, *, limit: int) -> IntArray:
    """Cut rows into shards of about equal text: one ends after the row that brings it to the limit.

    Args:
        n_bytes: (n_rows,) UTF-8 bytes of text.
        limit: Bytes that complete a shard.

    Returns:
        (n_shards,) row after the last one of each shard.

    Example:
        >>> shard_ends(np.array([3, 4, 5, 20, 1, 1]), limit=7).tolist()
        [2, 4, 6]
    """
    reached = np.cumsum(n_bytes)
    ends: list[int] = []
    passed = 0
    while (row := int(np.searchsorted(reached, passed + limit))) < len(reached):
        ends.append(row + 1)
        passed = int(reached[row])
    if len(reached) > (ends[-1] if ends else 0):
        ends.append(len(reached))
    return np.array(ends, dtype=np.int64)
