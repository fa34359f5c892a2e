"""Domains of a pool by other means than reading them: a classifier, clusters, quality cells.

The pool is scanned as it is read (``domains/corpus``) and labelled (``domains/labels``); the column
``domains/labels/cells`` is then what the run's own scan takes for the domain of each document. From
there on nothing differs: index, split, tokens, mixtures, curves and selection know those domains.
"""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal, cast

from cuvee import artifacts, config
from cuvee.corpus.index import PoolIndex
from cuvee.corpus.pool import PoolConfig
from cuvee.corpus.scan import check_unchanged, scan_pool
from cuvee.errors import ConfigError
from cuvee.executors import one_thread
from cuvee.labels.cluster_pass import ClusterPass, run_cluster_pass, sample_documents
from cuvee.labels.clusters import ClusterConfig, ClusterModel, fit_clusters
from cuvee.labels.domain_cells import DomainColumns, write_domain_column
from cuvee.labels.domains import REPORT, DomainsConfig, label_domains
from cuvee.labels.passes import LabelPass, Scorer, run_pass
from cuvee.methods.criterion import LEARNT, CriterionConfig
from cuvee.methods.job import Job
from cuvee.randomness import stream

logger = logging.getLogger(__name__)

FOLDER = "domains"
_SCORES = "quality"


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolDomainsConfig:
    """What the domains of the pool are."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    by: Literal["read", "classifier", "clusters"] = "read"
    """read: as `pool.domain_from` says. classifier: documents of `pool.domain_missing` get the
    likeliest of the others' domains, learnt from those. clusters: documents alike by their words,
    named by their top terms, whatever was read."""
    threshold: float = 0.0
    """Of a classifier: least probability of the likeliest domain; below it a document is of domain
    other, which then needs validation text of its own. 0: always the likeliest."""
    sample_bytes: int = 16 * 2**20
    """Of a classifier: bytes of text learnt from, the same of every domain where it has them."""
    clusters: ClusterConfig = field(default_factory=ClusterConfig)
    """How documents are divided into clusters. Every cluster is a domain that proxies must see, so
    set n_clusters to a few dozen."""
    cells: int = 1
    """Quality cells that each domain is divided in, ``news:1`` its best; about the same bytes each.
    1: domains are not divided."""
    cells_by: CriterionConfig = field(default_factory=lambda: CriterionConfig(kind="heuristics"))
    """The criterion that divides; not one learnt from the targets."""

    def __post_init__(self) -> None:
        if self.cells < 1:
            raise ConfigError(f"cells is {self.cells}; it must be at least 1.")
        if self.cells_by.kind in (*LEARNT, "labels"):
            raise ConfigError(
                f"cells_by is of kind {self.cells_by.kind!r}, which needs the pool's domains "
                "first; use heuristics, a column, or a model on this machine."
            )
        DomainsConfig(threshold=self.threshold, sample_bytes=self.sample_bytes)


def label_pool_domains(
    job: Job, pool: PoolConfig, settings: PoolDomainsConfig, *, seed: int
) -> Path | None:
    """Make the label column that the pool's domains are taken from.

    Args:
        job: Where and with how many workers; what is finished is not made again.
        pool: The pool's config.
        settings: What the domains are.
        seed: The run's seed.

    Returns:
        The column's folder; None where domains are as read.

    Raises:
        ConfigError: A classifier, and the pool names no domain for documents without one.
        DataError: There is too little text to learn from.
    """
    if settings.by == "read" and settings.cells == 1:
        return None
    as_read = replace(pool, available_tokens={})
    index = scan_pool(
        as_read,
        job.folder(FOLDER),
        seed=seed,
        workers=job.workers,
        on_progress=lambda done, total: job.progress("read domains", done, total, ""),
    )
    columns = DomainColumns(scan=job.folder(FOLDER, "corpus", "scan"), shards=index.shards)
    if settings.by == "classifier":
        columns = replace(columns, named=_classified(job, as_read, settings, seed))
    elif settings.by == "clusters":
        folder, names = _clustered(job, as_read, index, settings, seed)
        columns = replace(columns, named=folder, names=names)
    if settings.cells > 1:
        columns = replace(
            columns,
            scores=_scored(job, as_read, index, settings, seed),
            larger_is_better=settings.cells_by.turned,
            n_cells=settings.cells,
        )
    return write_domain_column(
        columns,
        job.folder(FOLDER),
        workers=job.workers,
        on_progress=lambda done, total: job.progress("name domains", done, total, ""),
    )


def describe_domains(job: Job) -> tuple[str, ...]:
    """Say how a finished run's domains were made; nothing where they are as read."""
    told = []
    report = job.folder(FOLDER, FOLDER, DomainsConfig().column, REPORT)
    if report.exists():
        found = cast(dict[str, float], artifacts.read_json(report))
        told.append(
            f"Domains of documents without one are predicted: accuracy {found['accuracy']:.3f}, "
            f"macro-F1 {found['macro_f1']:.3f} on {found['n_documents']} documents held out."
        )
    if artifacts.is_done(job.folder(FOLDER, "clusters")):
        n_clusters = len(ClusterModel.load(job.folder(FOLDER, "clusters")).names)
        told.append(f"Domains are {n_clusters} clusters of documents, named by their top terms.")
    if artifacts.is_done(job.folder(FOLDER, "labels", _SCORES)):
        told.append("Each domain is divided in quality cells, 1 the best.")
    return tuple(told)


def _classified(job: Job, pool: PoolConfig, settings: PoolDomainsConfig, seed: int) -> Path:
    with one_thread():
        return label_domains(
            pool,
            job.folder(FOLDER),
            settings=DomainsConfig(
                threshold=settings.threshold, sample_bytes=settings.sample_bytes
            ),
            seed=seed,
            workers=job.workers,
            on_progress=lambda done, total: job.progress("classify domains", done, total, ""),
        )


def _clustered(
    job: Job, pool: PoolConfig, index: PoolIndex, settings: PoolDomainsConfig, seed: int
) -> tuple[Path, tuple[str, ...]]:
    chosen, folder = settings.clusters, job.folder(FOLDER, "clusters")
    check_unchanged(folder, config.dump(chosen))
    if not artifacts.is_done(folder):
        sample = sample_documents(index, chosen.embedding, n_documents=chosen.n_sample, seed=seed)
        with one_thread():
            model = fit_clusters(
                sample.texts, chosen, rng=stream(seed, "domains"), vectors=sample.vectors
            )
        with artifacts.writing(
            folder,
            stage="label",
            settings=config.dump(chosen),
            seed=seed,
            inputs={"index": artifacts.digest_of(index.folder)},
        ) as aside:
            model.save(aside)
    column = run_cluster_pass(
        ClusterPass(model=folder, embedding=chosen.embedding, shards=index.shards, pool=pool),
        job.folder(FOLDER),
        workers=job.workers,
        on_progress=lambda done, total: job.progress("cluster documents", done, total, ""),
    )
    names = ClusterModel.load(folder).names
    logger.info("domains: %d clusters: %s", len(names), "; ".join(names))
    return column, names


def _scored(
    job: Job, pool: PoolConfig, index: PoolIndex, settings: PoolDomainsConfig, seed: int
) -> Path:
    criterion = settings.cells_by
    return run_pass(
        LabelPass(
            column=_SCORES,
            scorer=cast(Scorer, criterion.kind),
            model=Path(criterion.model) if criterion.model else None,
            shards=index.shards,
            pool=pool,
            options=criterion.options(seed),
        ),
        job.folder(FOLDER),
        workers=job.workers,
        on_progress=lambda done, total: job.progress("score documents", done, total, ""),
    )
