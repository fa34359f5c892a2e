"""MinHash signatures of documents, and the groups that they make over a whole pool."""

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cuvee.arrays import FloatArray, IntArray, KeyArray
from cuvee.corpus.word_runs import hash_words
from cuvee.errors import ConfigError, DataError, MissingDependencyError
from cuvee.randomness import hash64

DOCUMENTS, SIGNATURES = "documents.parquet", "signatures.bin"
_RECALL_WEIGHTS = (0.2, 0.8)
"""Price of a pair compared in vain and of one missed, by which bands are chosen."""
_COMPARED_AT_ONCE = _HASHED_AT_ONCE = 2**16

SignatureArray = npt.NDArray[np.uint32]


@dataclass(frozen=True, kw_only=True, slots=True)
class NearDuplicatesConfig:
    """What counts as a near-duplicate."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    n: int = 5
    """Words of a run; a text of fewer words is one run."""
    threshold: float = 0.8
    """Share of two documents' runs, of those that either has, from which they are near-duplicates,
    in (0, 1)."""
    n_hashes: int = 128
    """Numbers of a signature; the share is told to about 0.5 / sqrt(n_hashes)."""

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ConfigError(f"n is {self.n} words; it must be at least 1.")
        if not 0.0 < self.threshold < 1.0:
            raise ConfigError(f"threshold is {self.threshold}; it must lie in (0, 1).")
        if self.n_hashes < 16:
            raise ConfigError(f"n_hashes is {self.n_hashes}; it must be at least 16.")


def datasketch() -> Any:
    """Import the library of signatures.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        return importlib.import_module("datasketch")
    except ImportError as error:
        raise MissingDependencyError(
            "near-duplicates are found by datasketch, which is not installed; "
            "pip install 'cuvee[duplicates]'."
        ) from error


def signatures(
    texts: Sequence[str], own: KeyArray, settings: NearDuplicatesConfig
) -> Iterator[SignatureArray]:
    """Make signatures: of the runs of ``settings.n`` words, the lowest of many hashes each.

    Args:
        texts: (n_texts,) valid Unicode without NUL.
        own: (n_texts,) hashes that stand for texts without words.
        settings: Words of a run and length of a signature.

    Yields:
        (n_hashes,) for each text.
    """
    blank = datasketch().MinHash(
        num_perm=settings.n_hashes, seed=1, hashfunc=int, scheme="affine32"
    )
    words = hash_words(texts)
    runs, text = words.runs(settings.n)
    short, which = words.whole(settings.n - 1)
    bounds = np.searchsorted(text, np.arange(len(texts) + 1))
    alone = {place: int(one) for place, one in zip(which.tolist(), short.tolist(), strict=True)}
    for place in range(len(texts)):
        hashes = runs[bounds[place] : bounds[place + 1]]
        if not len(hashes):
            hashes = np.array([alone.get(place, int(own[place]))], dtype=np.uint64)
        made = blank.copy()
        values = np.unique(hashes >> np.uint64(32))
        for start in range(0, len(values), _HASHED_AT_ONCE):
            made.update_batch(values[start : start + _HASHED_AT_ONCE].tolist())
        yield np.asarray(made.hashvalues, dtype=np.uint32)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SignedPool:
    """All documents, by their position behind one another."""

    high: KeyArray
    """(n_documents,) high words of the text keys."""
    low: KeyArray
    """(n_documents,) low words."""
    order: IntArray
    """(n_documents,) documents by a hash of their texts, then by id."""
    rank: IntArray
    """(n_documents,) places in ``order``."""
    ends: IntArray
    """(n_parts,) documents of a part and of those before it."""
    signatures: tuple[SignatureArray, ...]
    """By part, (n_documents, n_hashes), on disk."""

    @classmethod
    def open(cls, parts: Sequence[Path], n_hashes: int) -> Self:
        """Open signed shards.

        Args:
            parts: Their folders.
            n_hashes: Numbers of a signature.

        Raises:
            DataError: There are no documents.
        """
        names = ["key", "text_key_high", "text_key_low"]
        tables = [pq.read_table(part / DOCUMENTS, columns=names) for part in parts]
        lengths = [table.num_rows for table in tables]
        if not sum(lengths):
            raise DataError("the pool has no documents; give it documents.")
        key, high, low = (
            np.concatenate([table[name].to_numpy() for table in tables]) for name in names
        )
        order = np.lexsort((key, low, high, hash64(0, "duplicates", low, part=high)))
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        return cls(
            high=high,
            low=low,
            order=np.asarray(order, dtype=np.int64),
            rank=rank,
            ends=np.cumsum(lengths),
            signatures=tuple(
                _mapped(part / SIGNATURES, (length, n_hashes))
                for part, length in zip(parts, lengths, strict=True)
            ),
        )

    def exact_links(self) -> IntArray:
        """Return (n_links, 2) ranks of documents of equal text, neighbours in order."""
        high, low = self.high[self.order], self.low[self.order]
        same = np.flatnonzero((high[1:] == high[:-1]) & (low[1:] == low[:-1]))
        return np.column_stack([same, same + 1])

    def band(self, first: int, n_rows: int) -> KeyArray:
        """Hash n_rows numbers of all signatures, the documents in their order."""
        keys = [_hash_rows(np.asarray(one[:, first : first + n_rows])) for one in self.signatures]
        return np.concatenate(keys)[self.order]

    def agreement(self, left: IntArray, right: IntArray) -> FloatArray:
        """Return the (n_pairs,) shares of equal numbers of the signatures of two ranks each."""
        shares = [np.zeros(0)]
        for start in range(0, len(left), _COMPARED_AT_ONCE):
            pair = slice(start, start + _COMPARED_AT_ONCE)
            equal = self._read(left[pair]) == self._read(right[pair])
            shares.append(np.mean(equal, axis=1))
        return np.concatenate(shares)

    def _read(self, ranks: IntArray) -> SignatureArray:
        documents = self.order[ranks]
        part = np.searchsorted(self.ends, documents, side="right")
        found = np.empty((len(ranks), self.signatures[0].shape[1]), dtype=np.uint32)
        for number in np.unique(part).tolist():
            mine = part == number
            before = int(self.ends[number - 1]) if number else 0
            found[mine] = self.signatures[number][documents[mine] - before]
        return found


def _hash_rows(rows: npt.NDArray[np.uint32]) -> KeyArray:
    """Hash each row of numbers to 64 bits.

    Args:
        rows: (n_rows, n_numbers)

    Returns:
        (n_rows,) equal where the rows are.
    """
    hashes = np.zeros(len(rows), dtype=np.uint64)
    for column in rows.T:
        hashes = hash64(0, "duplicates", column.astype(np.uint64), part=hashes)
    return hashes


def _mapped(path: Path, shape: tuple[int, int]) -> SignatureArray:
    if not shape[0]:
        return np.zeros(shape, dtype=np.uint32)
    return np.memmap(path, dtype="<u4", mode="r", shape=shape)


def near_links(pool: SignedPool, settings: NearDuplicatesConfig) -> Iterator[IntArray]:
    """Link documents that agree in a band to the first of them, where they agree enough as a whole.

    Args:
        pool: All documents.
        settings: What is enough; bands and their rows follow from it.

    Yields:
        (n_links, 2) ranks, band by band.
    """
    bands = datasketch().MinHashLSH(
        threshold=settings.threshold, num_perm=settings.n_hashes, weights=_RECALL_WEIGHTS
    )
    for number in range(bands.b):
        keys = pool.band(number * bands.r, bands.r)
        order = np.argsort(keys, kind="stable")  # of equal keys the lowest rank comes first
        starts = np.flatnonzero(np.concatenate([[True], keys[order][1:] != keys[order][:-1]]))
        lengths = np.diff(np.append(starts, len(order)))
        first = np.repeat(order[starts], lengths)
        other = np.flatnonzero(first != order)
        left, right = first[other], order[other]
        alike = pool.agreement(left, right) >= settings.threshold
        yield np.column_stack([left[alike], right[alike]])


def group_of(links: IntArray, rank: IntArray) -> IntArray:
    """Gather linked documents in groups.

    Args:
        links: (n_links, 2) ranks.
        rank: (n_documents,) rank of each document.

    Returns:
        (n_documents,) lowest rank of each document's group.
    """
    n_documents = len(rank)
    ones = np.ones(len(links), dtype=np.int8)
    graph = coo_array((ones, (links[:, 0], links[:, 1])), shape=(n_documents, n_documents))
    _, label = connected_components(graph, directed=False)
    lowest = np.full(int(label.max()) + 1, n_documents, dtype=np.int64)
    np.minimum.at(lowest, label, np.arange(n_documents))
    return np.asarray(lowest[label][rank], dtype=np.int64)
