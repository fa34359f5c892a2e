"""Influence as a quality criterion: distilled from a quad run's probes, or a file of scores."""

import logging
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cuvee import artifacts
from cuvee.arrays import FloatArray, IntArray, KeyArray
from cuvee.corpus.sample import texts_of
from cuvee.corpus.scan import read_index
from cuvee.corpus.store import TokenStore
from cuvee.errors import DataError
from cuvee.labels.distilled import DistilledInfluence
from cuvee.labels.passes import SCORE, align, read_column
from cuvee.methods.job import Job
from cuvee.policy.cluster_rates import COLUMN
from cuvee.randomness import hash64, stream
from cuvee.search.arms import ClusteredPool, DocumentQueues
from cuvee.search.bandit_log import Round

logger = logging.getLogger(__name__)

_MOST = 20_000
"""Scored documents that are learnt from, at most."""
_DOUBT = 0.1
"""Held-out rank correlation below which a criterion hardly says anything."""


def distil_influence(job: Job, name: str, origin: Path, seed: int) -> tuple[Path, float]:
    """Learn influence from scored documents' text, or find it learnt.

    Args:
        job: Where; its pool holds the documents.
        name: Of the criterion.
        origin: See `scored_documents`.
        seed: The run's seed.

    Returns:
        The model's file and its held-out rank correlation.

    Raises:
        DataError: The origin holds no scores, or too few of its documents are in the pool.
    """
    path = job.folder("quality-models", f"{name}.npz")
    if not path.exists():
        keys, scores = scored_documents(origin)
        chosen = np.argsort(hash64(seed, "sample", keys), kind="stable")
        texts = texts_of(read_index(job.out), keys[chosen], n_documents=_MOST)
        score_of = dict(zip(keys.tolist(), scores.tolist(), strict=True))
        known = np.array([score_of[key] for key in texts], dtype=np.float64)
        if not texts:
            raise DataError(
                f"criterion {name!r}: none of the {len(keys):,} documents that {origin} has scores "
                "of is a training document of this pool. Score documents of this pool."
            )
        rng = stream(seed, "quality", name)
        fitted = DistilledInfluence.fit(list(texts.values()), known, rng=rng)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".partial.npz")
        fitted.save(aside)
        aside.replace(path)
    model = DistilledInfluence.load(path)
    log = logger.warning if model.spearman < _DOUBT else logger.info
    log(
        "criterion %r: influence of documents not fitted is predicted with a rank correlation of "
        "%.2f (%d documents)",
        name,
        model.spearman,
        model.n_texts,
    )
    return path, model.spearman


def scored_documents(origin: Path) -> tuple[KeyArray, FloatArray]:
    """Read documents' influence.

    Args:
        origin: The folder of a quad run, whose column ``labels/influence`` is taken where it is
            there, the bandit's probes otherwise, those of its last estimate; a label column's
            folder; or a Parquet file with ``key`` and ``score``.

    Returns:
        (n_documents,) keys, each once, and (n_documents,) scores.

    Raises:
        DataError: It is none of these.
    """
    column = origin / "labels" / "influence"
    if artifacts.is_done(column):
        return _read(sorted(column.glob("*.parquet")), column)
    if (origin / "rounds").is_dir():
        return _probes(origin)
    files = [origin] if origin.is_file() else sorted(origin.glob("*.parquet"))
    return _read(files, origin)


def _read(files: list[Path], origin: Path) -> tuple[KeyArray, FloatArray]:
    try:
        table = pa.concat_tables([pq.read_table(path, columns=["key", SCORE]) for path in files])
        keys = table["key"].to_numpy().astype(np.uint64)
        scores = table[SCORE].to_numpy().astype(np.float64)
    except (pa.ArrowInvalid, KeyError, ValueError) as error:
        raise DataError(
            f"{origin} holds no scores ({error}). Give the folder of a quad run or of a label "
            "column, or a Parquet file with key and score."
        ) from error
    keys, first = np.unique(keys, return_index=True)
    return keys, scores[first]


def _probes(run: Path) -> tuple[KeyArray, FloatArray]:
    """Say which documents the bandit's rewards are of: each pull's come next in its cluster."""
    done = sorted(path for path in (run / "rounds").iterdir() if artifacts.is_done(path))
    if not done:
        raise DataError(f"{run} has no finished rounds. Finish `cuvee run quad` there.")
    rounds = [
        Round.from_json(cast("dict[str, artifacts.Json]", artifacts.read_json(one / "round.json")))
        for one in done
    ]
    manifest = cast("dict[str, int]", artifacts.read_json(done[0] / artifacts.MANIFEST))
    pool = _clustered(run)
    queues = DocumentQueues(pool, seed=manifest["seed"], purpose="probe")
    documents: list[IntArray] = []
    rewards: list[float] = []
    for one in rounds:
        if one.estimate != rounds[-1].estimate:
            continue
        for pull in one.pulls:
            documents.append(queues.take(pull.cluster, len(pull.rewards)))
            rewards.extend(pull.rewards)
    return pool.keys[np.concatenate(documents)], np.array(rewards)


def _clustered(run: Path) -> ClusteredPool:
    store = TokenStore.open(run / "tokens")
    tables = read_column(run / "labels" / COLUMN, store.shards, COLUMN)
    cluster = np.empty(len(store.keys), dtype=np.int64)
    for number, shard in enumerate(store.shards):
        own = store.shard == number
        cluster[own] = align(tables[shard], store.keys[own], column=COLUMN)
    train = store.side == 0
    return ClusteredPool(
        keys=store.keys[train],
        cluster=cluster[train],
        n_tokens=store.n_tokens[train].astype(np.int64),
        n_clusters=int(cluster.max()) + 1,
    )
