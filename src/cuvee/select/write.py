"""Write a selection: shuffled shards of text, where each document came from, and what was met.

The text is read again from the pool's own shards, checked against what was tokenised, and passes
through buckets on disk, so memory grows with the shard size and with some tens of bytes a document
of the pool, not with its text.
"""

import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Self, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cuvee import artifacts, config
from cuvee.arrays import FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.corpus.pool import PoolConfig, list_shards
from cuvee.policy.mixture import Mixture
from cuvee.randomness import hash64
from cuvee.select.budget import SelectConfig, SelectionPlan
from cuvee.select.reread import FoundDocuments, reread
from cuvee.select.shuffle import Buckets, pieces
from cuvee.select.take import TakenDocuments, take, take_copies

MIXTURE = "mixture.json"
LINEAGE = "lineage.parquet"
UNITS = "share of tokens"
SHARD_SCHEMA = pa.schema(
    {"id": pa.string(), "text": pa.string(), "domain": pa.string(), "copy": pa.int32()}
)
LINEAGE_SCHEMA = pa.schema(
    {
        "key": pa.uint64(),
        "id": pa.string(),
        "shard": pa.string(),
        "row": pa.int64(),
        "copies": pa.int32(),
    }
)
_LINEAGE_ROWS = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectionSource:
    """Where the documents and their lengths are read."""

    pool: PoolConfig
    """The pool as it was scanned."""
    tokens: Path
    """Token store: below it ``<shard name>/documents.parquet``."""
    tokenizer: str
    """Digest of the tokenizer that token counts are of."""
    fingerprint: str
    """Fingerprint of the pool."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Digests of the artefacts read, for the manifest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What a written selection holds, per domain in the pool's order."""

    domains: tuple[str, ...]
    n_tokens: int
    """The token budget."""
    planned_shares: FloatArray
    """(n_domains,) the mixture: shares of tokens; sum to 1."""
    planned_tokens: IntArray
    """(n_domains,)"""
    realised_tokens: IntArray
    """(n_domains,) one end-of-text token a copy included; documents are kept whole."""
    pool_tokens: IntArray
    """(n_domains,) tokens of the given pool's training side."""
    n_documents: IntArray
    """(n_domains,) different documents."""
    n_copies: IntArray
    """(n_domains,) rows written."""
    n_bytes: IntArray
    """(n_domains,) UTF-8 bytes of text written."""
    n_shards: int

    @property
    def realised_shares(self) -> FloatArray:
        """(n_domains,) shares of the tokens written; sum to 1."""
        return np.asarray(self.realised_tokens / self.realised_tokens.sum(), dtype=np.float64)

    @property
    def differences(self) -> FloatArray:
        """(n_domains,) realised minus planned share."""
        return self.realised_shares - self.planned_shares

    @property
    def epochs(self) -> FloatArray:
        """(n_domains,) realised passes over the given pool's text."""
        return np.asarray(self.realised_tokens / self.pool_tokens, dtype=np.float64)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what a finished selection holds.

        Raises:
            ArtifactError: The folder is not a finished selection.
        """
        artifacts.require(folder, made_by="cuvee select")
        data = cast(dict[str, dict[str, dict[str, float]]], artifacts.read_json(folder / MIXTURE))
        per_domain = data["domains"]

        def counts(name: str) -> IntArray:
            return np.array([values[name] for values in per_domain.values()], dtype=np.int64)

        return cls(
            domains=tuple(per_domain),
            n_tokens=cast(int, data["n_tokens"]["planned"]),
            planned_shares=np.array([values["planned_share"] for values in per_domain.values()]),
            planned_tokens=counts("planned_tokens"),
            realised_tokens=counts("realised_tokens"),
            pool_tokens=counts("pool_tokens"),
            n_documents=counts("documents"),
            n_copies=counts("copies"),
            n_bytes=counts("bytes"),
            n_shards=cast(int, data["n_shards"]),
        )


def write_selection(
    folder: Path,
    mixture: Mixture,
    plan: SelectionPlan,
    *,
    source: SelectionSource,
    settings: SelectConfig,
    seed: int,
    copies: IntArray | None = None,
) -> Selection:
    """Write the documents of a mixture as shuffled Parquet shards.

    ``part-*.parquet`` hold ``id, text, domain, copy``, ordered by the hash of document and copy, so
    that neither the files of the pool nor their order matter; ``lineage.parquet`` says where each
    document came from; ``mixture.json`` what was planned and what was met. Shards of several phases
    follow each other. Only documents on the training side are taken. Bytes are the same when made
    again.

    Args:
        folder: Appears complete or not at all.
        mixture: What the plan was made of.
        plan: Tokens per domain; its domains are those of the token store, in the same order.
        source: The pool and its token store.
        settings: Shard size and compression.
        seed: The run's seed.
        copies: (n_documents,) of all documents, in the order of the token store, where a policy has
            drawn them; None takes whole documents in hash order up to the plan's tokens.

    Returns:
        What was met.

    Raises:
        ArtifactError: The folder is finished already, or the token store is of another pool.
        DataError: A shard changed since it was tokenised.
    """
    shards = list_shards(source.pool)
    if copies is None:
        documents = take(shards, source.tokens, plan, seed=seed)
    else:
        documents = take_copies(shards, source.tokens, copies)
    described: Json = {
        "select": config.dump(settings),
        "mixture": mixture.to_json(),
        "n_tokens": plan.n_tokens,
    }
    with artifacts.writing(
        folder, stage="select", settings=described, seed=seed, inputs=source.inputs
    ) as aside:
        waiting = aside / "waiting"
        waiting.mkdir()
        phases = _buckets(documents, plan, waiting, settings)
        found = reread(shards, documents, source.pool)
        lineage = _distribute(found, documents, phases, plan, settings, seed)
        _write_lineage(aside / LINEAGE, lineage)
        ends = [0]
        for buckets in phases:
            ends.append(_write_shards(buckets.tables(), aside, settings, first=ends[-1]))
        shutil.rmtree(waiting)
        selection = _summarise(documents, mixture, plan, n_shards=ends[-1])
        artifacts.write_json(aside / MIXTURE, _describe(selection, mixture, source, ends, seed))
    return selection


def _buckets(
    documents: TakenDocuments, plan: SelectionPlan, folder: Path, settings: SelectConfig
) -> list[Buckets]:
    n_phases = len(plan.phase_tokens)
    n_bytes = np.bincount(
        documents.phases,
        weights=np.repeat(documents.n_bytes, documents.copies),
        minlength=n_phases,
    )
    return [
        Buckets(
            folder / f"phase-{phase}",
            n_buckets=max(1, math.ceil(n_bytes[phase] / settings.shard_bytes)),
            buffer_bytes=settings.shard_bytes,
        )
        for phase in range(n_phases)
    ]


def _copies(
    found: FoundDocuments,
    documents: TakenDocuments,
    domains: tuple[str, ...],
    *,
    seed: int,
    limit: int,
) -> Iterator[tuple[IntArray, pa.Table]]:
    """Yield rows to be written, one a copy, with their phases, in tables of bounded text."""
    times = documents.copies[found.place]
    each = np.repeat(np.arange(len(times)), times)
    copy = np.arange(len(each)) - np.repeat(np.cumsum(times) - times, times)
    full = np.flatnonzero(np.diff(np.cumsum(found.n_bytes[each]) // limit)) + 1
    ids = pa.array(found.ids, pa.large_string())
    for part, number in zip(np.split(each, full), np.split(copy, full), strict=True):
        place = found.place[part]
        keys = documents.key[place]
        table = pa.table(
            {
                "order": hash64(seed, "order", keys, part=number.astype(np.uint64)),
                "key": keys,
                "copy": number.astype(np.int32),
                "id": ids.take(pa.array(part)),
                "text": found.text.take(pa.array(part)),
                "domain": pa.array([domains[index] for index in documents.domain[place]]),
            }
        )
        yield documents.phases[documents.first[place] + number], table


def _lineage(found: FoundDocuments, documents: TakenDocuments) -> pa.Table:
    """Say where documents came from; of text files, the file itself and row 0."""
    urls, rows = [found.shard.url] * len(found.row), found.row
    if found.shard.files:
        urls = [found.shard.files[row - found.shard.first_row] for row in found.row]
        rows = np.zeros_like(found.row)
    return pa.table(
        {
            "key": documents.key[found.place],
            "id": found.ids,
            "shard": urls,
            "row": rows,
            "copies": documents.copies[found.place].astype(np.int32),
        },
        schema=LINEAGE_SCHEMA,
    )


def _distribute(
    found: Iterable[FoundDocuments],
    documents: TakenDocuments,
    phases: list[Buckets],
    plan: SelectionPlan,
    settings: SelectConfig,
    seed: int,
) -> Iterator[pa.Table]:
    """Put the copies into the buckets of their phases and yield the lineage."""
    limit = settings.shard_bytes
    for batch in found:
        for phase, table in _copies(batch, documents, plan.domains, seed=seed, limit=limit):
            for number, buckets in enumerate(phases):
                buckets.add(table.filter(pa.array(phase == number)))
        yield _lineage(batch, documents)


def _write_lineage(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write tables as few row groups, whatever their sizes."""
    waiting: list[pa.Table] = []
    with pq.ParquetWriter(path, LINEAGE_SCHEMA, compression="zstd") as writer:
        for table in tables:
            waiting.append(table)
            if sum(part.num_rows for part in waiting) >= _LINEAGE_ROWS:
                writer.write_table(pa.concat_tables(waiting))
                waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting))


def _write_shards(
    tables: Iterable[pa.Table], folder: Path, settings: SelectConfig, *, first: int
) -> int:
    """Write ordered rows as shards numbered from ``first``; return the number after the last."""
    end = first
    shards = pieces(tables, limit=settings.shard_bytes, first=first)
    for number, parts in groupby(shards, key=itemgetter(0)):
        path = folder / f"part-{number:05d}.parquet"
        with pq.ParquetWriter(path, SHARD_SCHEMA, compression=settings.compression) as writer:
            for _, part in parts:
                writer.write_table(part.select(SHARD_SCHEMA.names).cast(SHARD_SCHEMA))
        end = number + 1
    return end


def _summarise(
    documents: TakenDocuments, mixture: Mixture, plan: SelectionPlan, *, n_shards: int
) -> Selection:
    def total(values: IntArray) -> IntArray:
        sums = np.zeros(len(plan.domains), dtype=np.int64)
        np.add.at(sums, documents.domain, values)
        return sums

    shares = dict(zip(mixture.domains, mixture.overall.tolist(), strict=True))
    return Selection(
        domains=plan.domains,
        n_tokens=plan.n_tokens,
        planned_shares=np.array([shares.get(name, 0.0) for name in plan.domains]),
        planned_tokens=plan.planned_tokens,
        realised_tokens=total(documents.copies * documents.n_tokens),
        pool_tokens=plan.pool_tokens,
        n_documents=total(np.ones_like(documents.copies)),
        n_copies=total(documents.copies),
        n_bytes=total(documents.copies * documents.n_bytes),
        n_shards=n_shards,
    )


def _describe(
    selection: Selection, mixture: Mixture, source: SelectionSource, ends: list[int], seed: int
) -> dict[str, Json]:
    per_domain = zip(
        selection.domains,
        selection.planned_shares.tolist(),
        selection.realised_shares.tolist(),
        selection.differences.tolist(),
        selection.epochs.tolist(),
        strict=True,
    )
    counts = {
        "planned_tokens": selection.planned_tokens,
        "realised_tokens": selection.realised_tokens,
        "pool_tokens": selection.pool_tokens,
        "documents": selection.n_documents,
        "copies": selection.n_copies,
        "bytes": selection.n_bytes,
    }
    phases = cast(list[dict[str, Json]], mixture.to_json()["phases"])
    return {
        "units": UNITS,
        "seed": seed,
        "tokenizer": source.tokenizer,
        "corpus_fingerprint": source.fingerprint,
        "n_tokens": {
            "planned": selection.n_tokens,
            "realised": int(selection.realised_tokens.sum()),
        },
        "n_shards": selection.n_shards,
        "phases": [
            {**phase, "first_shard": start, "n_shards": end - start}
            for phase, start, end in zip(phases, ends[:-1], ends[1:], strict=True)
        ],
        "domains": {
            name: {
                "planned_share": planned,
                "realised_share": realised,
                "realised_minus_planned": difference,
                "epochs": epochs,
                **{key: int(values[position]) for key, values in counts.items()},
            }
            for position, (name, planned, realised, difference, epochs) in enumerate(per_domain)
        },
    }
