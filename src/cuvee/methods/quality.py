"""Quality criteria of a pool: learnt from the targets, computed, checked, put on one scale.

Writes ``labels/<criterion>`` and the artefact ``quality``: every document's criteria on one scale,
in the order of the token store, with what the check of each criterion's direction found.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cuvee import artifacts, config
from cuvee.arrays import FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.corpus.read import PoolConfig, has_column, read_batches
from cuvee.corpus.sample import sample_texts
from cuvee.corpus.scan import read_index
from cuvee.corpus.store import TokenStore
from cuvee.errors import ConfigError, DataError
from cuvee.labels.local_models import LocalKind, check_local_model
from cuvee.labels.ngrams import ImportanceRatio, ReferenceClassifier
from cuvee.labels.passes import SCORE, LabelPass, align, read_column, run_pass
from cuvee.labels.perplexity import BigramModel
from cuvee.labels.scorers import text_scorer
from cuvee.methods.criterion import LEARNT, LOCAL, CriterionConfig
from cuvee.methods.influence_criterion import distil_influence
from cuvee.methods.job import Job
from cuvee.methods.pool import Prepared
from cuvee.policy.ranks import Normalisation, Normaliser
from cuvee.randomness import stream

__all__ = ["CHECKS", "NORMALISED", "CriterionConfig", "Quality", "label_quality", "read_quality"]

logger = logging.getLogger(__name__)

NORMALISED = "normalised.npy"
CHECKS = "checks.json"
_SAMPLE_BYTES = 8 * 2**20
_REFERENCE_TEXTS = 512
"""About so many texts of the reference are scored where a score is dear."""
_WRONG_WAY = 0.5
"""Mean rank of the reference above which a criterion is likely the wrong way round."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """All criteria of a pool on one scale."""

    criteria: tuple[str, ...]
    normalised: FloatArray
    """(n_documents, n_criteria) float32 in the order of the token store; smaller is better."""
    checks: Mapping[str, Mapping[str, float | None]]
    """By criterion: ``reference``, mean rank of the reference's documents among the pool's (below
    .5 is better than the pool; None: not checked), ``auc`` of a learnt one on texts not fitted, of
    influence ``spearman`` on documents not fitted, of a column the share of documents that are
    ``missing``."""


def label_quality(
    job: Job,
    criteria: Mapping[str, CriterionConfig],
    *,
    pool: PoolConfig,
    prepared: Prepared,
    normalisation: Normalisation,
    seed: int,
    name: str = "quality",
) -> Quality:
    """Compute all criteria; finished columns are not made again.

    Args:
        job: Where and with how many workers.
        criteria: By name.
        pool: The pool's config; its text is read once a criterion.
        prepared: The token stores.
        normalisation: How criteria are put on one scale.
        seed: The run's seed.
        name: Of the artefact's folder.

    Returns:
        The criteria, on one scale.

    Raises:
        ConfigError: A criterion needs targets, and there are none of that name.
        DataError: A column is missing, or has no numbers, or a model's files are missing.
        MissingDependencyError: A model's package is not installed.
    """
    folder = job.folder(name)
    if artifacts.is_done(folder):
        return read_quality(folder)
    for criterion in criteria.values():
        if criterion.kind in LOCAL:
            check_local_model(cast(LocalKind, criterion.kind), Path(criterion.model or ""))
    columns: list[FloatArray] = []
    checks: dict[str, dict[str, float | None]] = {}
    for column, criterion in criteria.items():
        _check_targets(column, criterion, prepared)
        scores, reference, about = _score(job, column, criterion, pool, prepared, seed)
        train = prepared.store.side == 0
        scale = Normaliser.fit(
            scores[train], larger_is_better=criterion.turned, method=normalisation
        )
        columns.append(scale.transform(scores).astype(np.float32))
        rank = _mean_rank(reference, scores[train], criterion)
        checks[column] = {"reference": rank, "auc": None, **about}
        _warn(column, rank)
    plain = {column: config.dump(one) for column, one in criteria.items()}
    with artifacts.writing(
        folder,
        stage="label",
        settings={"criteria": cast(Json, plain), "normalisation": normalisation},
        seed=seed,
        inputs={
            "tokens": artifacts.digest_of(job.folder("tokens")),
            **{one: artifacts.digest_of(job.folder("labels", one)) for one in criteria},
        },
    ) as aside:
        np.save(aside / NORMALISED, np.stack(columns, axis=1))
        artifacts.write_json(aside / CHECKS, cast(Json, checks))
    return read_quality(folder)


def read_quality(folder: Path) -> Quality:
    """Read the criteria of a finished label stage."""
    artifacts.require(folder, made_by="cuvee label")
    checks = cast(dict[str, dict[str, float | None]], artifacts.read_json(folder / CHECKS))
    normalised = np.load(folder / NORMALISED, mmap_mode="r", allow_pickle=False)
    return Quality(criteria=tuple(checks), normalised=normalised, checks=checks)


def _score(
    job: Job,
    name: str,
    criterion: CriterionConfig,
    pool: PoolConfig,
    prepared: Prepared,
    seed: int,
) -> tuple[FloatArray, FloatArray, dict[str, float | None]]:
    """Return scores of all documents, scores of the reference, and what else is to be told."""
    if criterion.kind == "perplexity":
        return (*_perplexity(job, name, criterion, prepared, seed), {"auc": None})
    if criterion.kind == "labels":
        return _labelled(job, name, criterion, prepared), np.empty(0), {}
    index = read_index(job.out)
    texts = _reference_texts(job, criterion, seed) if prepared.targets is not None else []
    path = Path(criterion.model) if criterion.model else None
    about: dict[str, float | None] = {"auc": None}
    if criterion.kind in LOCAL:
        texts = texts[:: max(1, len(texts) // _REFERENCE_TEXTS)]
    elif criterion.kind in LEARNT:
        path, about["auc"] = _learn(job, name, criterion, texts, seed)
    elif criterion.kind == "influence":
        origin = Path(criterion.folder or "")
        path, about["spearman"] = distil_influence(job, name, origin, seed)
    options = criterion.options(seed)
    folder = run_pass(
        LabelPass(
            column=name,
            scorer=criterion.kind,
            model=path,
            shards=index.shards,
            pool=pool,
            options=options,
        ),
        job.out,
        workers=job.workers,
        on_progress=lambda done, total: job.progress(f"label {name}", done, total, ""),
    )
    store = prepared.store
    tables = read_column(folder, store.shards)
    scores = np.empty(len(store.keys))
    for place, shard in enumerate(store.shards):
        own = store.shard == place
        scores[own] = align(tables[shard], store.keys[own])
    if criterion.kind == "column":
        scores, missing = _fill(name, criterion, scores)
        return scores, _reference_numbers(job, name, criterion, prepared), {"missing": missing}
    if criterion.kind == "dsir":  # its sums go with length: the reference's say nothing
        return scores, np.empty(0), about
    score = text_scorer(criterion.kind, path, options)
    return scores, score(texts) if texts else np.empty(0), about


def _learn(
    job: Job, name: str, criterion: CriterionConfig, texts: list[str], seed: int
) -> tuple[Path, float]:
    """Fit a criterion that is learnt, or find it fitted; return its file and its held-out AUC."""
    path = job.folder("quality-models", f"{name}.npz")
    kind = ReferenceClassifier if criterion.kind == "classifier" else ImportanceRatio
    if not path.exists():
        sample = sample_texts(read_index(job.out), n_bytes=_SAMPLE_BYTES, seed=seed)
        fitted = kind.fit(texts, sample, rng=stream(seed, "quality", name))
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".partial.npz")
        fitted.save(aside)
        aside.replace(path)
    return path, kind.load(path).auc


def _fill(name: str, criterion: CriterionConfig, scores: FloatArray) -> tuple[FloatArray, float]:
    """Give documents without a number the worst there is; return the share of them too."""
    missing = np.isnan(scores)
    if missing.all():
        raise DataError(
            f"criterion {name!r}: no document of the pool has a number in column "
            f"{criterion.column!r}. Correct the column's name, or leave the criterion out."
        )
    if missing.any():
        logger.warning(
            "criterion %r: %d of %d documents have no number in column %r; they stand with the "
            "worst that have one",
            name,
            int(missing.sum()),
            len(scores),
            criterion.column,
        )
    known = scores[~missing]
    worst = known.min() if criterion.turned else known.max()
    return np.where(missing, worst, scores), float(missing.mean())


def _reference_numbers(
    job: Job, name: str, criterion: CriterionConfig, prepared: Prepared
) -> FloatArray:
    """Read the reference's numbers where the target sets have that column too."""
    numbers = [np.empty(0)]
    if prepared.targets is not None:
        index = read_index(job.out, "targets")
        for shard, settings in zip(index.shards, index.configs, strict=True):
            is_wanted = not criterion.targets or shard.domain in criterion.targets
            if not is_wanted or not has_column(shard, criterion.column or ""):
                continue
            table = index.documents(shard)
            rows = table["row"].to_numpy()[np.asarray(table["side"]) == index.sides[0]]
            for batch in read_batches(shard, settings, number=criterion.column):
                assert batch.numbers is not None, "asked for"
                numbers.append(batch.numbers[np.isin(batch.rows, rows)])
    found = np.concatenate(numbers)
    found = found[~np.isnan(found)]
    if not len(found):
        logger.warning(
            "criterion %r: the target sets have no numbers in column %r, so its direction cannot "
            "be checked",
            name,
            criterion.column,
        )
    return found


def _reference_texts(job: Job, criterion: CriterionConfig, seed: int) -> list[str]:
    index = read_index(job.out, "targets")
    return sample_texts(
        index, n_bytes=_SAMPLE_BYTES, seed=seed, domains=criterion.targets or index.domains
    )


def _perplexity(
    job: Job, name: str, criterion: CriterionConfig, prepared: Prepared, seed: int
) -> tuple[FloatArray, FloatArray]:
    """Score token ids; the reference's own score is that of documents not counted."""
    targets = prepared.targets
    assert targets is not None, "checked before"
    wanted = [
        place
        for place, one in enumerate(targets.domains)
        if one in (criterion.targets or targets.domains)
    ]
    own = np.flatnonzero(np.isin(targets.domain, wanted) & (targets.side == 0))
    held = stream(seed, "quality", name).random(len(own)) < 0.2
    store = prepared.store
    model = BigramModel.fit(_ids(targets, own[~held]), vocabulary_size=store.vocabulary_size)
    reference = _token_scores(model, targets, own[held])
    final = BigramModel.fit(_ids(targets, own), vocabulary_size=store.vocabulary_size)
    scores = _token_scores(final, store, np.arange(len(store.keys)))
    _write_column(job, name, "perplexity", store, scores, job.folder("targets", "tokens"))
    return scores, reference


def _labelled(job: Job, name: str, criterion: CriterionConfig, prepared: Prepared) -> FloatArray:
    """Take a label column of another run over, document by document."""
    origin, store = Path(criterion.folder or ""), prepared.store
    artifacts.require(origin, made_by="cuvee influence score, or another label stage")
    files = sorted(origin.glob("*.parquet"))
    try:
        tables = [pq.read_table(path, columns=["key", SCORE]) for path in files]
        known = pa.concat_tables(tables)
    except (pa.ArrowInvalid, KeyError) as error:
        raise DataError(
            f"criterion {name!r}: {origin} is no column of scores ({error}). Give the folder of a "
            "label column with key and score."
        ) from error
    scores = align(known, store.keys)
    _write_column(job, name, "labels", store, scores, origin)
    return scores


def _write_column(
    job: Job, name: str, scorer: str, store: TokenStore, scores: FloatArray, origin: Path
) -> None:
    """Write scores that no pass over the text made as a label column, unless it is there."""
    folder = job.folder("labels", name)
    if artifacts.is_done(folder):
        return
    with artifacts.writing(
        folder,
        stage="label",
        settings={"column": name, "scorer": scorer},
        seed=0,
        inputs={"origin": artifacts.digest_of(origin)},
    ) as aside:
        for place, shard in enumerate(store.shards):
            part = store.shard == place
            table = pa.table({"key": store.keys[part], SCORE: scores[part].astype(np.float32)})
            pq.write_table(table, aside / f"{shard}.parquet", compression="zstd")


def _ids(store: TokenStore, documents: IntArray) -> IntArray:
    parts = [store.read(int(one), 0, int(store.n_tokens[one])) for one in documents]
    return np.concatenate([*parts, np.zeros(0, dtype=np.uint16)]).astype(np.int64)


def _token_scores(model: BigramModel, store: TokenStore, documents: IntArray) -> FloatArray:
    scores = [np.zeros(0)]
    for part in np.array_split(documents, max(1, len(documents) // 4096)):
        if len(part):
            scores.append(model.score(_ids(store, part), store.n_tokens[part]))
    return np.concatenate(scores)


def _check_targets(name: str, criterion: CriterionConfig, prepared: Prepared) -> None:
    known = prepared.targets.domains if prepared.targets else ()
    if criterion.kind in LEARNT and not known:
        raise ConfigError(
            f"criterion {name!r} is learnt from the targets, and there are none. Give targets, or "
            "leave the criterion out."
        )
    unknown = sorted(set(criterion.targets) - set(known))
    if unknown:
        raise ConfigError(
            f"criterion {name!r} names target {unknown[0]!r}, which does not exist; targets are "
            f"{', '.join(known) or 'none'}."
        )


def _mean_rank(
    reference: FloatArray, scores: FloatArray, criterion: CriterionConfig
) -> float | None:
    """Return the mean share of the pool's documents that are better than the reference's."""
    if not len(reference):
        return None
    ranks = Normaliser.fit(scores, larger_is_better=criterion.turned).transform(reference)
    return float(ranks.mean())


def _warn(name: str, rank: float | None) -> None:
    if rank is not None and rank > _WRONG_WAY:
        logger.warning(
            "criterion %r ranks the reference below the pool's average (mean rank %.2f; 0 is "
            "best): is larger_is_better the right way round?",
            name,
            rank,
        )
