"""Read the taken documents again from the pool's own shards, and check that they are the same."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cuvee.arrays import IntArray
from cuvee.corpus.pool import PoolConfig, Shard
from cuvee.corpus.read import read_batches
from cuvee.corpus.rows import DocumentBatch
from cuvee.errors import DataError
from cuvee.randomness import document_keys
from cuvee.select.take import TakenDocuments


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundDocuments:
    """Some taken documents of one shard, with their text."""

    shard: Shard
    place: IntArray
    """(n_documents,) positions in the taken documents."""
    row: IntArray
    """(n_documents,) rows of the shard; ascending."""
    ids: list[str]
    """(n_documents,)"""
    text: pa.Array
    """(n_documents,) large_string."""
    n_bytes: IntArray
    """(n_documents,) UTF-8 bytes of text."""


def reread(
    shards: tuple[Shard, ...], documents: TakenDocuments, pool: PoolConfig
) -> Iterator[FoundDocuments]:
    """Read the pool again and yield the documents that are taken, checked against their keys.

    Args:
        shards: The pool's shards; those without a taken document are not opened.
        documents: The documents taken.
        pool: The pool as it was scanned.

    Yields:
        Taken documents, batch by batch, every one once.

    Raises:
        DataError: A shard changed since it was tokenised.
    """
    for shard in shards:
        low, high = np.searchsorted(documents.shard, (shard.index, shard.index + 1))
        if low == high:
            continue
        n_found = 0
        for batch in read_batches(shard, pool, rows=documents.row[low:high]):
            found = _match(shard, batch, documents, slice(low, high))
            if found is not None:
                n_found += len(found.row)
                yield found
        if n_found < high - low:
            raise _changed(shard, f"{high - low - n_found} of {high - low} selected rows are gone")


def _match(
    shard: Shard, batch: DocumentBatch, documents: TakenDocuments, own: slice
) -> FoundDocuments | None:
    """Pick the taken documents out of a batch; ``own`` is where the shard's stand among them."""
    rows = documents.row[own]
    nearest = np.minimum(np.searchsorted(rows, batch.rows), len(rows) - 1)
    here = np.flatnonzero(rows[nearest] == batch.rows)
    if len(here) == 0:
        return None
    place = own.start + nearest[here]
    text = pa.array([batch.texts[i] for i in here], pa.large_string())
    found = FoundDocuments(
        shard=shard,
        place=place,
        row=batch.rows[here],
        ids=[batch.ids[i] for i in here],
        text=text,
        n_bytes=pc.binary_length(text).to_numpy().astype(np.int64),
    )
    same = document_keys(found.ids) == documents.key[place]
    same &= found.n_bytes == documents.n_bytes[place]
    if not same.all():
        raise _changed(shard, f"row {found.row[np.argmin(same)]} holds another document")
    return found


def _changed(shard: Shard, what: str) -> DataError:
    return DataError(
        f"shard {shard.url} changed since it was tokenised: {what}. Put the old file back, or run "
        "everything again with another --out."
    )
