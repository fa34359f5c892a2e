"""Divide documents in two sides by the hash of their group: the sides survive new shards."""

from typing import Literal

import numpy as np

from cuvee.arrays import BoolArray, IntArray, KeyArray
from cuvee.randomness import hash64, share_threshold


def assign_side(group_keys: KeyArray, *, seed: int, validation_share: float) -> BoolArray:
    """Hold a share of the groups out for validation.

    Args:
        group_keys: (n_documents,) `randomness.document_keys` of each document's group, which is its
            id where it has no group.
        seed: The run's seed.
        validation_share: Expected share of groups held out, in [0, 1).

    Returns:
        (n_documents,) True: validation. Documents of one group always agree.
    """
    return _below(group_keys, seed, "split", validation_share)


def assign_half(group_keys: KeyArray, *, seed: int) -> BoolArray:
    """Divide a target set in the half that searches see and the half that verdicts are made on.

    Args:
        group_keys: (n_documents,) `randomness.document_keys` of each document's group, which is its
            id where it has no group.
        seed: The run's seed.

    Returns:
        (n_documents,) True: verdict half. Documents of one group always agree.
    """
    return _below(group_keys, seed, "half", 0.5)


class LastResort:
    """Find a group to hold out for each domain of whose groups the hash holds none out.

    It is the group of the domain's lowest hash value, so the choice does not depend on layout. A
    domain of one group keeps it on the training side.
    """

    def __init__(self, n_domains: int, *, seed: int, validation_share: float) -> None:
        """Begin with no documents.

        Args:
            n_domains: Domains of the pool.
            seed: The run's seed.
            validation_share: As given to `assign_side`.
        """
        self._seed = seed
        self._threshold = np.uint64(share_threshold(validation_share))
        self._lowest = np.full(n_domains, np.iinfo(np.uint64).max, dtype=np.uint64)
        self._highest = np.zeros(n_domains, dtype=np.uint64)
        self._groups = np.zeros(n_domains, dtype=np.uint64)

    def add(self, domain: IntArray, group_keys: KeyArray) -> None:
        """Look at some documents.

        Args:
            domain: (n_documents,) positions of their domains.
            group_keys: (n_documents,) keys of their groups.
        """
        values = hash64(self._seed, "split", group_keys)
        np.maximum.at(self._highest, domain, values)
        order = np.lexsort((values, domain))
        domains, first = np.unique(domain[order], return_index=True)
        lowest = order[first]
        lower = values[lowest] < self._lowest[domains]
        self._lowest[domains[lower]] = values[lowest[lower]]
        self._groups[domains[lower]] = group_keys[lowest[lower]]

    def groups(self) -> KeyArray:
        """Return the keys of the groups to hold out besides those of `assign_side`."""
        needed = (self._lowest >= self._threshold) & (self._lowest < self._highest)
        return np.unique(self._groups[needed & (self._threshold > 0)])


def _below(keys: KeyArray, seed: int, purpose: Literal["split", "half"], share: float) -> BoolArray:
    return hash64(seed, purpose, keys) < np.uint64(share_threshold(share))
