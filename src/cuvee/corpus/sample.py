"""Choose and read a sample of a pool: for a tokenizer, or a criterion learnt from text."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from cuvee.arrays import FloatArray, IntArray, KeyArray
from cuvee.corpus.index import PoolIndex
from cuvee.corpus.read import read_batches
from cuvee.randomness import hash64

_TEMPERATURE = 0.5
_DOCUMENT_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Documents of one domain, lowest hash first."""

    rank: KeyArray
    key: KeyArray
    shard: IntArray
    row: IntArray
    n_bytes: IntArray

    def lowest(self, quota: float) -> "_Candidates":
        """Keep the documents with the lowest hashes until their bytes reach the quota."""
        order = np.lexsort((self.key, self.rank))
        before = np.cumsum(self.n_bytes[order]) - self.n_bytes[order]
        return self.take(order[before < quota])

    def take(self, places: IntArray) -> "_Candidates":
        """Pick documents by position."""
        return _Candidates(*(getattr(self, name)[places] for name in self.__slots__))

    def join(self, other: "_Candidates") -> "_Candidates":
        """Add documents."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in self.__slots__)
        return _Candidates(*(np.concatenate(pair) for pair in pairs))


def sample_texts(
    index: PoolIndex,
    *,
    n_bytes: int,
    seed: int,
    domains: tuple[str, ...] | None = None,
    side: int = 0,
) -> list[str]:
    """Read a sample of one side, small domains over-represented.

    Domains share the bytes in proportion to the square root of their own; within a domain documents
    are taken in hash order, 64 KiB at most of each. Memory grows with the sample, not the pool.

    Args:
        index: The pool.
        n_bytes: Size of the sample in bytes of text; it holds the whole pool if that is smaller.
        seed: The run's seed.
        domains: Names of those to sample; None: all.
        side: Position in ``index.sides``: 0 is training or search.

    Returns:
        Texts, in an order that does not depend on the pool's layout.
    """
    sizes = index.n_bytes[index.sides[side]]
    if domains is not None:
        sizes = np.where([name in domains for name in index.domains], sizes, 0)
    chosen = _choose(index, _quotas(sizes, n_bytes), seed, index.sides[side])
    wanted: dict[int, dict[int, tuple[int, int, int]]] = {}
    for code, found in enumerate(chosen):
        columns = (found.shard, found.row, found.rank, found.key)
        for shard, row, rank, key in zip(*(column.tolist() for column in columns), strict=True):
            wanted.setdefault(shard, {})[row] = (code, rank, key)
    texts: dict[tuple[int, int, int], str] = {}
    for shard, places in wanted.items():
        for row, text in _read_rows(index, shard, np.array(sorted(places), dtype=np.int64)):
            texts[places[row]] = text
    return [texts[place] for place in sorted(texts)]


def texts_of(index: PoolIndex, keys: KeyArray, *, n_documents: int) -> dict[int, str]:
    """Read training documents by their keys, 64 KiB at most of each.

    Args:
        index: The pool.
        keys: (n_keys,) of documents wanted, the most wanted first.
        n_documents: Documents read at most.

    Returns:
        Texts by key, in the order of ``keys``; those the pool does not hold are left out.
    """
    places: dict[int, tuple[int, int]] = {}
    for place, shard in enumerate(index.shards):
        table = index.documents(shard)
        table = table.filter(pc.equal(table["side"], index.sides[0]))
        known = table["key"].to_numpy()
        wanted = np.flatnonzero(np.isin(known, keys))
        rows = table["row"].to_numpy()[wanted].tolist()
        for key, row in zip(known[wanted].tolist(), rows, strict=True):
            places[key] = (place, row)
    chosen = [key for key in keys.tolist() if key in places][:n_documents]
    key_at = {places[key]: key for key in chosen}
    texts: dict[int, str] = {}
    for place in sorted({place for place, _ in key_at}):
        rows = np.array(sorted(row for shard, row in key_at if shard == place), dtype=np.int64)
        for row, text in _read_rows(index, place, rows):
            texts[key_at[place, row]] = text
    return {key: texts[key] for key in chosen}


def _quotas(sizes: IntArray, n_bytes: int) -> FloatArray:
    """Share bytes by tempered size; what a domain cannot fill goes to the others."""
    quotas = np.zeros(len(sizes))
    is_open = sizes > 0
    while is_open.any():
        shares = np.where(is_open, sizes.astype(np.float64) ** _TEMPERATURE, 0.0)
        quotas[is_open] = ((n_bytes - quotas[~is_open].sum()) * shares / shares.sum())[is_open]
        full = is_open & (quotas >= sizes)
        if not full.any():
            break
        quotas[full] = sizes[full]
        is_open &= ~full
    return quotas


def _choose(index: PoolIndex, quotas: FloatArray, seed: int, side: str) -> list[_Candidates]:
    empty = _Candidates(*(np.zeros(0, dtype) for dtype in ("u8", "u8", "i8", "i8", "i8")))
    chosen = [empty for _ in quotas]
    codes = {name: code for code, name in enumerate(index.domains)}
    for place, shard in enumerate(index.shards):
        table = index.documents(shard)
        table = table.filter(pc.equal(table["side"], side))
        domains = table["domain"].combine_chunks().dictionary_encode()
        key = table["key"].to_numpy()
        found = _Candidates(
            rank=hash64(seed, "sample", key),
            key=key,
            shard=np.full(len(key), place, dtype=np.int64),
            row=table["row"].to_numpy(),
            n_bytes=np.minimum(table["n_bytes"].to_numpy(), _DOCUMENT_BYTES),
        )
        numbers: npt.NDArray[np.int32] = domains.indices.to_numpy()
        for number, name in enumerate(domains.dictionary.to_pylist()):
            code = codes[name]
            own = found.take(np.flatnonzero(numbers == number))
            chosen[code] = chosen[code].join(own.lowest(quotas[code])).lowest(quotas[code])
    return chosen


def _read_rows(index: PoolIndex, shard: int, rows: IntArray) -> Iterator[tuple[int, str]]:
    """Read some rows of a shard, and no further than the last of them."""
    for batch in read_batches(index.shards[shard], index.configs[shard]):
        for place in np.flatnonzero(np.isin(batch.rows, rows)).tolist():
            text = batch.texts[place].encode("utf-8")[:_DOCUMENT_BYTES]
            yield int(batch.rows[place]), text.decode("utf-8", errors="ignore")
        if len(batch.rows) and batch.rows[-1] >= rows[-1]:
            return
