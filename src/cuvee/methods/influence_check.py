"""Which curvature ranks clusters as training does: short probes beside influence, with intervals.

The model's training is continued for a little on each of some clusters; the fall of the targets'
loss is what an arm of the bandit really pays. Mean influence of a few documents of each cluster,
under every curvature and damping, is set beside it.
"""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from cuvee import artifacts
from cuvee.arrays import FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.errors import DataError
from cuvee.influence import CausalModel, LayerVector, influences
from cuvee.influence.model import Where
from cuvee.methods import measure
from cuvee.methods.curvature_choice import (
    CheckConfig,
    WayRank,
    choose_way,
    compare_ways,
    describe_choice,
    settings_of,
)
from cuvee.methods.job import Job
from cuvee.methods.pool import Prepared
from cuvee.methods.quad_engine import (
    InfluenceConfig,
    curvature_sample,
    fit_curvature,
    one_torch_thread,
    read_start,
    reference_gradient,
    tokens_read,
)
from cuvee.methods.quad_study import (
    COPIES,
    QuadConfig,
    base_checkpoint,
    checkpoint,
    clustered_pool,
    mixture_of,
)
from cuvee.proxy.spec import TrainingSpec
from cuvee.proxy.sweep import training_spec
from cuvee.randomness import integer_seed, stream
from cuvee.search.arms import ClusteredPool, DocumentQueues
from cuvee.tables.runs import read_trajectory

CHECK = "check.json"
_KINDS: tuple[Literal["diagonal", "kfac", "ekfac"], ...] = ("diagonal", "kfac", "ekfac")
_FORMAT = 3
"""Of the answer's file."""


def check_influence(
    settings: QuadConfig, check: CheckConfig, job: Job, prepared: Prepared
) -> list[WayRank]:
    """Train on clusters, score their documents in every way, and compare.

    Args:
        settings: The config of `cuvee run quad`.
        check: What is compared.
        job: A folder that is labelled.
        prepared: Its pool and targets.

    Returns:
        The ways, best first.

    Raises:
        DataError: Too few clusters have documents enough.
    """
    # Other settings are another check: neither its runs nor its answer may be taken for this one's.
    name = artifacts.digest_json({**asdict(check), "format": _FORMAT})[:12]
    folder = job.folder("influence-check", name, "result")
    if artifacts.is_done(folder):
        known = cast(dict[str, Any], artifacts.read_json(folder / CHECK))
        return [WayRank(**one) for one in known["ways"]]
    pool, place = clustered_pool(job, prepared)
    clusters = _choose(pool, check, settings.seed)
    falls = _train(settings, check, job, prepared, pool, place, clusters, folder.parent)
    scores, scored = _score(settings, check, job, prepared, pool, place, clusters)
    found = compare_ways(scores, falls.mean(axis=1), rng=stream(settings.seed, "check", "draws"))
    with artifacts.writing(
        folder,
        stage="fit",
        settings=asdict(check),
        seed=settings.seed,
        inputs={"clusters": artifacts.digest_of(job.folder("clusters"))},
    ) as aside:
        ways: Json = [cast(Json, asdict(one)) for one in found]
        artifacts.write_json(aside / CHECK, {"ways": ways, **scored})
    return found


def chosen_curvature(
    settings: QuadConfig, job: Job, prepared: Prepared
) -> tuple[InfluenceConfig, Json]:
    """Return how influence is computed; where that is left open, as the check of a run has it.

    Args:
        settings: The config of `cuvee run quad`.
        job: A folder that is labelled.
        prepared: Its pool and targets.

    Returns:
        Settings of a curvature that is not auto; and ``chosen``, ``said`` and all that were
        compared, None where nothing was left open.
    """
    if settings.influence.curvature != "auto":
        return settings.influence, None
    check = replace(settings.check, where=(settings.influence.where,))
    found = check_influence(settings, check, job, prepared)
    name = choose_way(found).name
    told: dict[str, Json] = {
        "chosen": name,
        "said": describe_choice(found),
        "compared": [cast(Json, asdict(one)) for one in found],
    }
    return settings_of(name, settings.influence), told


def _choose(pool: ClusteredPool, check: CheckConfig, seed: int) -> IntArray:
    """Choose clusters by chance among those with probes and text enough."""
    enough = np.flatnonzero(
        (pool.count() >= 2 * check.n_probes) & (pool.tokens() >= check.n_tokens // 4)
    )
    if len(enough) < 4:
        raise DataError(
            f"{len(enough)} clusters have {2 * check.n_probes} documents and "
            f"{check.n_tokens // 4:,} tokens; a check needs 4. Lower n_probes or n_tokens, or make "
            "fewer clusters."
        )
    n = min(check.n_clusters, len(enough))
    chosen = stream(seed, "check", "clusters").choice(enough, size=n, replace=False)
    return np.sort(chosen)


def _train(
    settings: QuadConfig,
    check: CheckConfig,
    job: Job,
    prepared: Prepared,
    pool: ClusteredPool,
    place: IntArray,
    clusters: IntArray,
    out: Path,
) -> FloatArray:
    """Return the (n_clusters, n_seeds) falls of the objective on the search half."""
    base = base_checkpoint(settings, job, prepared)
    inputs = measure.sweep_inputs(job, prepared, settings.proxy, target_tokens=0)
    proxy = replace(settings.proxy, n_tokens=check.n_tokens, points=(1.0,), checkpoints="none")
    rate = measure.learning_rate(job, prepared, settings.proxy, inputs, seed=settings.seed)
    folder = out / "copies"
    folder.mkdir(parents=True, exist_ok=True)
    specs: dict[str, TrainingSpec] = {}
    for cluster in clusters.tolist():
        copies = np.zeros(len(prepared.store.keys), dtype=np.int64)
        copies[place[pool.cluster == cluster]] = 1
        path = folder / f"{cluster:05d}-{COPIES}"
        np.save(path, copies.astype(np.uint8))
        for number in range(check.n_seeds):
            spec = training_spec(
                proxy,
                inputs,
                mixture_of(prepared, copies),
                seed=settings.seed,
                run_seed=integer_seed(stream(settings.seed, "check", "run", number)),
                learning_rate=rate,
            )
            name = f"cluster-{cluster:05d}-seed{number}"
            specs[name] = replace(spec, base=str(base), copies=str(path), points=(0.0, 1.0))
    sweep = out / "runs"
    measure.measure(job, "train on clusters", specs, sweep, prepared)
    falls = []
    for name in specs:
        curve = read_trajectory(sweep / name / "trajectory.parquet")
        columns = [curve.targets.index(one) for one in prepared.objective_names]
        losses = curve.losses_bpb[:, columns] @ prepared.objective
        falls.append(float(losses[0] - losses[-1]))
    return np.array(falls).reshape(len(clusters), check.n_seeds)


def _score(
    settings: QuadConfig,
    check: CheckConfig,
    job: Job,
    prepared: Prepared,
    pool: ClusteredPool,
    place: IntArray,
    clusters: IntArray,
) -> tuple[dict[str, FloatArray], dict[str, Json]]:
    """Score probed documents in every way.

    Returns:
        (n_clusters,) mean influence by way; and what it took: ``n_documents`` whose gradient was
        computed, ``n_tokens`` of all gradients, those of targets and curvature too.
    """
    model = checkpoint(settings, job, prepared).open(prepared.store)
    queues = DocumentQueues(pool, seed=settings.seed, purpose="probe")
    probes = [queues.take(int(cluster), check.n_probes) for cluster in clusters]
    store = prepared.store
    texts = [
        read_start(store, int(one), settings.influence) for one in place[np.concatenate(probes)]
    ]
    total = len(check.where)
    of_cluster = np.repeat(np.arange(len(clusters)), [len(one) for one in probes])
    found: dict[str, FloatArray] = {}
    n_tokens = total * sum(map(len, texts))
    with one_torch_thread():
        for number, where in enumerate(check.where):
            job.progress("compare curvatures", number, total, where)
            chosen = replace(settings.influence, where=where)  # type: ignore[arg-type]
            read: list[int] = []
            named = dict(_directions(model, chosen, check, prepared, settings.seed, read))
            n_tokens += sum(read)
            rows = np.array(
                list(
                    influences(
                        model, list(named.values()), texts, normalise=settings.influence.normalise
                    )
                )
            )
            sums = np.array([np.bincount(of_cluster, weights=column) for column in rows.T])
            means = sums / np.bincount(of_cluster)
            found |= dict(zip(named, means, strict=True))
        job.progress("compare curvatures", total, total, "")
    return found, {"n_documents": total * len(texts), "n_tokens": n_tokens}


def _directions(
    model: CausalModel,
    settings: InfluenceConfig,
    check: CheckConfig,
    prepared: Prepared,
    seed: int,
    read: list[int],
) -> Iterator[tuple[str, LayerVector]]:
    """Give the directions of every curvature and damping for one choice of matrices.

    What is read for them, in tokens, is added to `read`.
    """
    where: Where = settings.where
    about: dict[str, Json] = {}
    gradient = reference_gradient(model, settings, prepared, seed=seed, about=about)
    read.extend(tokens_read(about))
    yield f"{where}/none", gradient
    sample, few = curvature_sample(settings, prepared, seed=seed)
    read.append(len(_KINDS) * sum(map(len, sample)))
    read.append(len(check.dampings) * settings.steps * sum(map(len, few)))
    for kind in _KINDS:
        factors = fit_curvature(model, where, kind, sample, seed=seed)
        for damping in check.dampings:
            yield f"{where}/{kind} {damping:g}", factors.solve(gradient, damping=damping)
    if settings.steps:
        for damping in check.dampings:
            refined = factors.solve(gradient, damping=damping, steps=settings.steps, sample=few)
            yield f"{where}/refined {damping:g}", refined
