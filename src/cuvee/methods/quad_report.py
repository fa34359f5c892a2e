"""A whole Quad run, and what it shows when finished: report, summary, plan."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import cast

import numpy as np

from cuvee import artifacts
from cuvee.arrays import FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.corpus.encoder import decode
from cuvee.corpus.scan import read_index
from cuvee.labels.cluster_map import map_clusters
from cuvee.labels.clusters import ClusterModel
from cuvee.methods import chain, findings, judging, planning, quad
from cuvee.methods.job import Job
from cuvee.methods.planning import PlannedRuns
from cuvee.methods.pool import Prepared
from cuvee.methods.quad_engine import ABOUT, CHOICE
from cuvee.methods.quad_study import (
    INFLUENCE,
    QuadConfig,
    clustered_pool,
    mixture_of,
    open_stores,
    read_copies,
    read_rounds,
    rival_files,
)
from cuvee.policy.mixture import Mixture
from cuvee.policy.sampling import document_order
from cuvee.proxy.machine import choose_device
from cuvee.randomness import stream
from cuvee.report.cluster_sections import (
    ArmsSection,
    ClusterMapSection,
    ClusterRow,
    ClustersSection,
    RewardsSection,
)
from cuvee.report.content import ReportContent
from cuvee.search.arms import ClusteredPool, ProbeRecord, effective_clusters
from cuvee.search.bandit_log import Round

_STAGES = ("corpus/index", "tokenizer", "tokens", "clusters", "influence", "optimum")
_SHOWN = 40
_EXAMPLE_TOKENS = 48


def run(settings: QuadConfig, job: Job) -> None:
    """Run the whole chain; finished stages are not made again."""
    choose_device(settings.proxy.device)
    for step in STEPS.values():
        step(settings, job)


def report(settings: QuadConfig, job: Job) -> None:
    """Write report.html from the finished artefacts."""
    chain.report(job, content(settings, job))


STEPS: Mapping[str, Callable[[QuadConfig, Job], None]] = {**quad.STEPS, "report": report}
"""The arrows of the chain, in order; each is also a verb of the command line."""


def content(settings: QuadConfig, job: Job) -> ReportContent:
    """Gather the report of a finished run."""
    prepared = open_stores(settings, job)
    domains, copies = prepared.store.domains, read_copies(job)
    rivals = {
        quad.CHOSEN: mixture_of(prepared, copies),
        quad.NATURAL: Mixture.flat(domains, prepared.statistics.natural),
    }
    for name, path in rival_files(settings, job, prepared).items():
        rivals[name] = mixture_of(prepared, np.load(path, allow_pickle=False))
    for name, weights in judging.named_mixtures(settings.validate, domains).items():
        rivals[name] = Mixture.flat(domains, weights)
    judged = findings.gather_judged(
        job,
        findings.Judged(
            method="Quad",
            command="quad",
            settings=settings,
            seed=settings.seed,
            prepared=prepared,
            index=read_index(job.out),
            validate=settings.validate,
            rivals=rivals,
            caps=np.ones(len(domains)),
            budget=settings.target_tokens,
            max_epochs=None,
            stages=_STAGES,
        ),
    )
    rounds = read_rounds(job)
    notes = (*judged.notes, *_notes(rounds), *_choice(job))
    return replace(judged, clusters=_clusters(settings, job, prepared, rounds), notes=notes)


def describe(settings: QuadConfig, job: Job) -> str:
    """Write the outcome of a finished run for people."""
    return chain.describe(content(settings, job), job)


def summary(settings: QuadConfig, job: Job) -> dict[str, Json]:
    """Return the outcome of a finished run as JSON."""
    prepared, last = open_stores(settings, job), read_rounds(job)[-1]
    mixture = mixture_of(prepared, read_copies(job))
    worth = judging.read_equivalent(job)
    return {
        "mixture": dict(zip(mixture.domains, mixture.overall.tolist(), strict=True)),
        "search": {
            "rounds": last.number,
            "probes": last.total_probes,
            "tokens": last.total_tokens,
            "flops": last.total_flops,
            "regret": last.regret,
        },
        **judging.verdict_json(job),
        "equivalent_tokens": worth.to_json() if worth else None,
    }


def dry_run(settings: QuadConfig, job: Job) -> dict[str, Json]:
    """Plan and cost what is trained; probes are not in it."""
    parts = []
    if settings.base.checkpoint is None:
        base = replace(settings.proxy, n_tokens=settings.base.n_tokens)
        parts.append(PlannedRuns(name="base", n_runs=1, proxy=base))
    n_rivals = 2 + len(settings.rivals) + len(settings.validate.mixtures)
    if settings.influence.curvature == "auto":
        check = settings.check
        short = replace(settings.proxy, n_tokens=check.n_tokens)
        n_runs = check.n_clusters * check.n_seeds
        parts.append(PlannedRuns(name="influence check", n_runs=n_runs, proxy=short))
    if settings.bandit.n_refreshes:
        share = settings.validate.n_tokens // (settings.bandit.n_refreshes + 1)
        parts.append(
            PlannedRuns(
                name="refresh",
                n_runs=settings.bandit.n_refreshes,
                proxy=replace(settings.proxy, n_tokens=max(share, settings.proxy.batch_tokens)),
            )
        )
    judged = PlannedRuns(
        name="validation",
        n_runs=n_rivals * settings.validate.n_seeds,
        proxy=judging.larger(settings.proxy, settings.validate),
        search=False,
    )
    return planning.dry_run(settings, job, [*parts, judged])


def _notes(rounds: list[Round]) -> tuple[str, ...]:
    last = rounds[-1]
    surveys = sum(one.survey for one in rounds)
    anew = (
        f"Times influence was estimated anew, each at the model trained on what had been taken by "
        f"then: {last.estimate}. What earlier probes had said was forgotten.",
    )
    return (
        *(anew if last.estimate else ()),
        f"{last.total_probes:,} documents were scored in {last.number} rounds, {surveys} of them "
        f"of first pulls, for {last.total_flops:.2g} FLOPs; the clusters taken are estimated to be "
        f"{last.regret:.3g} a token below the best that the budget could have had.",
    )


def _choice(job: Job) -> tuple[str, ...]:
    """Say how the curvature was chosen, where it was."""
    about = cast(Mapping[str, Json], artifacts.read_json(job.folder(INFLUENCE) / ABOUT))
    choice = cast("Mapping[str, str] | None", about.get(CHOICE))
    return () if choice is None else (choice["said"],)


def _clusters(
    settings: QuadConfig, job: Job, prepared: Prepared, rounds: list[Round]
) -> ClustersSection:
    model = ClusterModel.load(job.folder("clusters"))
    pool, place = clustered_pool(job, prepared)
    copies = read_copies(job)[place]
    record, n_probes = _record(rounds, pool.n_clusters)
    mean = np.where(n_probes > 0, record.mean, np.nan)
    rewards = RewardsSection.of_rounds(rounds)
    taken, supply = pool.tokens(copies), pool.tokens()
    plane = map_clusters(
        model.centres,
        supply,
        points=model.centres[:0],
        point_cluster=np.zeros(0, dtype=np.int64),
        rng=stream(settings.seed, "cluster map"),
        projection="pca",
    )
    return ClustersSection(
        map=ClusterMapSection(
            names=model.names,
            centres=plane.centres,
            points=plane.points,
            n_tokens=supply,
            taken_tokens=taken,
            mean_reward=mean,
            threshold=rewards.threshold,
        ),
        arms=ArmsSection.of_rounds(rounds, model.names),
        rewards=rewards,
        rows=_rows(job, prepared, pool, place, model.names, (mean, n_probes), taken),
        n_left_out=max(0, pool.n_clusters - _SHOWN),
        scored_share=min(1.0, int(n_probes.sum()) / len(pool.keys)),
        effective=effective_clusters(taken),
    )


def _record(rounds: list[Round], n_clusters: int) -> tuple[ProbeRecord, IntArray]:
    """Return what is known of clusters by their latest estimates, and probes of all estimates."""
    record, estimate = ProbeRecord.empty(n_clusters), 0
    n_probes = np.zeros(n_clusters, dtype=np.int64)
    for one in rounds:
        if one.estimate != estimate:
            record, estimate = record.forgotten(), one.estimate
        for pull in one.pulls:
            record.add(pull.cluster, np.array(pull.rewards))
            n_probes[pull.cluster] += len(pull.rewards)
    return record, n_probes


def _rows(
    job: Job,
    prepared: Prepared,
    pool: ClusteredPool,
    place: IntArray,
    names: tuple[str, ...],
    probed: tuple[FloatArray, IntArray],
    taken: IntArray,
) -> tuple[ClusterRow, ...]:
    count, supply = pool.count(), pool.tokens()
    mean, n_probes = probed
    tokenizer = job.folder("tokenizer") / "tokenizer.json"
    by_hash = document_order(pool.keys, seed=0, purpose="sample")
    first = dict(zip(pool.cluster[by_hash][::-1].tolist(), by_hash[::-1].tolist(), strict=True))
    rows = []
    for cluster in np.lexsort((-np.nan_to_num(mean), -taken))[:_SHOWN].tolist():
        example = ""
        if cluster in first:
            document = int(place[first[cluster]])
            n_tokens = min(int(prepared.store.n_tokens[document]), _EXAMPLE_TOKENS)
            example = decode(tokenizer, prepared.store.read(document, 0, n_tokens).tolist())
        rows.append(
            ClusterRow(
                name=names[cluster],
                n_documents=int(count[cluster]),
                n_tokens=int(supply[cluster]),
                taken_tokens=int(taken[cluster]),
                n_probes=int(n_probes[cluster]),
                mean_reward=float(mean[cluster]) if n_probes[cluster] else None,
                example=example,
            )
        )
    return tuple(rows)
