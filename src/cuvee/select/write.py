"""Write a selection: shuffled shards of text, where each document came from, and what was met.

Which copies there are, their order and their shards are decided here, by lengths and hashes alone,
which takes some hundred bytes of memory a document. The text is read again from the pool's own
shards, checked against what was tokenised, and written by tasks (`shard_tasks`).
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, cast

import numpy as np

from cuvee import artifacts, config
from cuvee.arrays import FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.corpus.pool import PoolConfig, list_shards
from cuvee.policy.mixture import Mixture
from cuvee.select.budget import SelectConfig, SelectionPlan
from cuvee.select.lineage import LINEAGE, read_lineages, write_lineage
from cuvee.select.shard_tasks import SHARD, MadeShards, Progress, ShardRequest, make_shards
from cuvee.select.shuffle import order_rows
from cuvee.select.take import TakenDocuments, take, take_copies

MIXTURE = "mixture.json"
UNITS = "share of tokens"


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


def silent(step: str, done: int, total: int) -> None:
    """Show no progress."""


def write_selection(
    folder: Path,
    mixture: Mixture,
    plan: SelectionPlan,
    *,
    source: SelectionSource,
    settings: SelectConfig,
    seed: int,
    workers: int = 0,
    on_progress: Progress = silent,
) -> Selection:
    """Write the documents of a mixture as shuffled Parquet shards.

    ``part-*.parquet`` hold ``id, text, domain, copy``, ordered by the hash of document and copy, so
    that neither the files of the pool nor their order matter; ``lineage.parquet`` says where each
    document came from; ``mixture.json`` what was planned and what was met. Shards of several phases
    follow each other. Only documents on the training side are taken. Bytes are the same when made
    again, with any number of workers.

    Args:
        folder: Appears complete or not at all; until then what tasks have made stands in
            ``<folder>.pieces``, from where a stopped call goes on.
        mixture: What the plan was made of.
        plan: Tokens per domain; its domains are those of the token store, in the same order.
        source: The pool and its token store.
        settings: Shard size and compression.
        seed: The run's seed.
        workers: Processes that read the pool and write shards; 0 works in this one.
        on_progress: Told of every task done.

    Returns:
        What was met.

    Raises:
        ArtifactError: The folder is finished already, or the token store is of another pool.
        DataError: A shard changed since it was tokenised.
    """
    request = _request(plan, source, settings, seed)
    described: Json = {
        "select": config.dump(settings),
        "mixture": mixture.to_json(),
        "n_tokens": plan.n_tokens,
    }
    waiting, known = folder.with_name(folder.name + ".pieces"), dict[str, str]()
    with artifacts.writing(
        folder, stage="select", settings=described, seed=seed, inputs=source.inputs, known=known
    ) as aside:
        pieces = waiting / request.digest()[:16]
        made = make_shards(request, pieces, workers=workers, on_progress=on_progress)
        known |= _place(made, aside)
        write_lineage(aside / LINEAGE, read_lineages(made.lineages))
        selection = _summarise(request.documents, mixture, plan, n_shards=len(made.shards))
        about = _describe(selection, mixture, source, request.order.first_shards, seed)
        artifacts.write_json(aside / MIXTURE, about)
        shutil.rmtree(waiting)  # before the selection is done: nobody would look for it after
    return selection


def _request(
    plan: SelectionPlan, source: SelectionSource, settings: SelectConfig, seed: int
) -> ShardRequest:
    """Decide what is written, and where."""
    shards = list_shards(source.pool)
    if plan.copies is None:
        documents = take(shards, source.tokens, plan, seed=seed)
    else:
        documents = take_copies(shards, source.tokens, plan.copies)
    order = order_rows(
        documents,
        n_phases=len(plan.phase_tokens),
        shard_bytes=settings.shard_bytes,
        seed=seed,
    )
    return ShardRequest(
        documents=documents,
        order=order,
        shards=shards,
        pool=source.pool,
        domains=plan.domains,
        settings=settings,
    )


def _place(made: MadeShards, folder: Path) -> dict[str, str]:
    """Give the shards their names in the selection; return their digests by name."""
    digests = {}
    for number, one in enumerate(made.shards):
        name = f"part-{number:05d}.parquet"
        try:
            os.link(one / SHARD, folder / name)
        except OSError:  # a file system without hard links
            shutil.copyfile(one / SHARD, folder / name)
        manifest = cast(dict[str, dict[str, str]], artifacts.read_json(one / artifacts.MANIFEST))
        digests[name] = manifest["files"][SHARD]
    return digests


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
    selection: Selection, mixture: Mixture, source: SelectionSource, ends: Sequence[int], seed: int
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
