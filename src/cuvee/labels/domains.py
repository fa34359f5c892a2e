"""Domains of documents that have none, predicted by a classifier of those that do."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

from cuvee import artifacts
from cuvee.artifacts import Json
from cuvee.corpus.pool import PoolConfig
from cuvee.corpus.sample import sample_texts
from cuvee.corpus.scan import check_unchanged, read_index
from cuvee.errors import ConfigError
from cuvee.labels.domain_model import DomainClassifier, judge_domains
from cuvee.labels.passes import LabelPass, run_pass

logger = logging.getLogger(__name__)

REPORT = "report.json"
"""Of how often the classifier is right, beside its model."""
_MODEL = "model.npz"


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainsConfig:
    """How domains are learnt and given."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    column: str = "predicted-domain"
    """Name of the label column."""
    threshold: float = 0.5
    """Least probability of the likeliest domain; below it a document is of domain other."""
    sample_bytes: int = 16 * 2**20
    """Bytes of text learnt from, the same of every domain where it has them."""

    def __post_init__(self) -> None:
        if self.column == "domain":
            raise ConfigError("column 'domain' holds the domains as read; give another name.")
        if not 0 <= self.threshold < 1:
            raise ConfigError(f"threshold is {self.threshold}; it must lie in [0, 1).")
        if self.sample_bytes < 1:
            raise ConfigError(f"sample_bytes is {self.sample_bytes}; it must be at least 1.")


def label_domains(
    pool: PoolConfig,
    out: Path,
    *,
    settings: DomainsConfig,
    seed: int,
    workers: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Give every document a domain: its own, or where it has none the likeliest.

    Learns from the training side of a scanned pool and judges on its validation side, so whole
    groups are held out. Documents without a domain are those of ``pool.domain_missing``. Writes
    ``domains/<column>`` (model.npz, report.json) and ``labels/<column>/<shard>.parquet``: key,
    domain, probability (1 where the document has a domain), predicted.

    Args:
        pool: The pool, as it was scanned.
        out: The run's folder, the pool scanned.
        settings: How.
        seed: The run's seed.
        workers: Processes; 0 works in this one.
        on_progress: Called with the number of shards done and their total.

    Returns:
        The column's artefact folder.

    Raises:
        ConfigError: The pool names no domain for documents without one.
        DataError: Too little text has a domain.
        ArtifactError: The pool is not scanned, or the column was made with other settings.
    """
    if pool.domain_missing is None:
        raise ConfigError(
            "pool.domain_missing is null, so every document has a domain. Name the domain of those "
            "without one."
        )
    index = read_index(out)
    folder = out / "domains" / settings.column
    about: Json = {"threshold": settings.threshold, "sample_bytes": settings.sample_bytes}
    check_unchanged(folder, about)
    if not artifacts.is_done(folder):
        names = tuple(name for name in index.domains if name != pool.domain_missing)
        sides = [
            {
                name: sample_texts(
                    index,
                    n_bytes=max(settings.sample_bytes // max(len(names), 1), 1),
                    seed=seed,
                    domains=(name,),
                    side=side,
                )
                for name in names
            }
            for side in (0, 1)
        ]
        model = DomainClassifier.fit(sides[0])
        report = judge_domains(model, sides[1], threshold=settings.threshold)
        with artifacts.writing(
            folder,
            stage="label",
            settings=about,
            seed=seed,
            inputs={"index": artifacts.digest_of(index.folder)},
        ) as aside:
            model.save(aside / _MODEL)
            artifacts.write_json(aside / REPORT, report)
    report = cast(dict[str, Json], artifacts.read_json(folder / REPORT))
    logger.info(
        "domains: accuracy %.3f, macro-F1 %.3f on %d documents held out",
        *(report[name] for name in ("accuracy", "macro_f1", "n_documents")),
    )
    return run_pass(
        LabelPass(
            column=settings.column,
            scorer="domain",
            model=folder / _MODEL,
            shards=index.shards,
            pool=pool,
            options={"threshold": settings.threshold, "missing": pool.domain_missing},
        ),
        out,
        workers=workers,
        on_progress=on_progress,
    )
