"""Decide which documents a selection holds, how often, and in which phase."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cuvee.arrays import IntArray, KeyArray
from cuvee.corpus.pool import Shard
from cuvee.errors import ArtifactError
from cuvee.policy.sampling import document_order, take_quota
from cuvee.select.budget import SelectionPlan

TRAIN_SIDE = 0
"""Value of ``side`` in the token store's document tables."""
_COLUMNS = ("key", "domain", "side", "row", "n_tokens", "n_bytes")


@dataclass(frozen=True, kw_only=True, slots=True)
class TakenDocuments:
    """The documents of the pool that are taken, in the order of shards and rows."""

    shard: IntArray
    """(n_documents,) index of the shard; ascending."""
    row: IntArray
    """(n_documents,) row of the shard; ascending within it."""
    key: KeyArray
    """(n_documents,)"""
    domain: IntArray
    """(n_documents,) index of the domain."""
    n_tokens: IntArray
    """(n_documents,) one end-of-text token included."""
    n_bytes: IntArray
    """(n_documents,) UTF-8 bytes of text."""
    copies: IntArray
    """(n_documents,) at least 1."""
    phases: IntArray
    """(sum of copies,) phase of each copy, documents in order and copies counted up."""
    first: IntArray
    """(n_documents,) position of each document's first copy in ``phases``."""

    def part(self, low: int, high: int) -> Self:
        """Return the documents from ``low`` to before ``high``."""
        own = slice(low, high)
        copies = self.copies[own]
        first = np.cumsum(copies) - copies
        start = int(self.first[low]) if high > low else 0
        return replace(
            self,
            shard=self.shard[own],
            row=self.row[own],
            key=self.key[own],
            domain=self.domain[own],
            n_tokens=self.n_tokens[own],
            n_bytes=self.n_bytes[own],
            copies=copies,
            phases=self.phases[start : start + int(copies.sum())],
            first=first,
        )


def take(
    shards: tuple[Shard, ...], tokens: Path, plan: SelectionPlan, *, seed: int
) -> TakenDocuments:
    """Decide the copies of every document from lengths and keys alone.

    Args:
        shards: The pool's shards.
        tokens: Token store: below it ``<shard name>/documents.parquet``.
        plan: Tokens per domain; its domains are the token store's, in the same order.
        seed: The run's seed.

    Returns:
        The documents with at least one copy; only those on the training side.

    Raises:
        ArtifactError: The token store is of another pool, or the plan of another store.
    """
    tables = [_read_documents(tokens / shard.name / "documents.parquet") for shard in shards]
    table = pa.concat_tables(tables)
    key = table["key"].to_numpy()
    domain = table["domain"].to_numpy().astype(np.int64)
    n_tokens = table["n_tokens"].to_numpy()
    train = table["side"].to_numpy() == TRAIN_SIDE
    copies = np.zeros(len(key), dtype=np.int64)
    for index, name in enumerate(plan.domains):
        own = np.flatnonzero(train & (domain == index))
        if int(n_tokens[own].sum()) != int(plan.pool_tokens[index]):
            raise ArtifactError(
                f"the token store holds {n_tokens[own].sum():,} training tokens of domain "
                f"{name!r}, but the plan was made for {plan.pool_tokens[index]:,}. Plan again with "
                "this store's statistics."
            )
        quota = int(plan.planned_tokens[index])
        copies[own] = take_quota(key[own], n_tokens[own], quota=quota, seed=seed)
    taken = _taken(tables, copies)
    if len(plan.phase_tokens) > 1:
        _assign_phases(taken, plan.phase_tokens, seed)
    return taken


def take_copies(shards: tuple[Shard, ...], tokens: Path, copies: IntArray) -> TakenDocuments:
    """Take documents as often as a policy has drawn them.

    Args:
        shards: The pool's shards.
        tokens: Token store: below it ``<shard name>/documents.parquet``.
        copies: (n_documents,) of all documents, in the order of the token store.

    Returns:
        The documents with at least one copy, all in one phase.

    Raises:
        ArtifactError: The token store is of another pool.
    """
    tables = [_read_documents(tokens / shard.name / "documents.parquet") for shard in shards]
    n_documents = sum(part.num_rows for part in tables)
    if n_documents != len(copies):
        raise ArtifactError(
            f"the token store holds {n_documents} documents, but copies were drawn for "
            f"{len(copies)}. Run the label stage again."
        )
    return _taken(tables, copies)


def _taken(tables: Sequence[pa.Table], copies: IntArray) -> TakenDocuments:
    table = pa.concat_tables(tables)
    key, n_tokens = table["key"].to_numpy(), table["n_tokens"].to_numpy()
    domain = table["domain"].to_numpy().astype(np.int64)
    kept = np.flatnonzero(copies)
    lengths = [len(part) for part in tables]
    return TakenDocuments(
        shard=np.repeat(np.arange(len(tables), dtype=np.int64), lengths)[kept],
        row=table["row"].to_numpy()[kept],
        key=key[kept],
        domain=domain[kept],
        n_tokens=n_tokens[kept],
        n_bytes=table["n_bytes"].to_numpy()[kept],
        copies=copies[kept],
        phases=np.zeros(int(copies.sum()), dtype=np.int64),
        first=np.cumsum(copies[kept]) - copies[kept],
    )


def _read_documents(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, columns=list(_COLUMNS))
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{path} does not exist: the token store is not of this pool. Run the label stage."
        ) from error


def _assign_phases(documents: TakenDocuments, phase_tokens: IntArray, seed: int) -> None:
    """Deal each domain's copies to the phases, first copies first, in hash order.

    The order is one of purpose ``copies``: that of purpose ``order`` would put a domain that spans
    two phases at the end of one and the start of the next.
    """
    for index in range(phase_tokens.shape[1]):
        own = np.flatnonzero(documents.domain == index)
        ends = np.cumsum(phase_tokens[:, index])
        # Documents are whole, so the last may start beyond the last phase that has the domain.
        last = np.flatnonzero(phase_tokens[:, index]).max(initial=0)
        before = 0
        for copy in range(int(documents.copies[own].max(initial=0))):
            have = own[documents.copies[own] > copy]
            drawn = document_order(documents.key[have], seed=seed, purpose="copies", epoch=copy)
            ordered = have[drawn]
            reached = before + np.cumsum(documents.n_tokens[ordered])
            starts = reached - documents.n_tokens[ordered]
            phase = np.searchsorted(ends, starts, side="right")
            documents.phases[documents.first[ordered] + copy] = np.minimum(phase, last)
            before = int(reached[-1])
