"""A whole QuaDMix run, and what it shows when finished: report, summary, plan."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import cast

import numpy as np

from cuvee import artifacts
from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.corpus.encoder import decode
from cuvee.corpus.scan import read_index
from cuvee.methods import chain, findings, judging, planning, quadmix
from cuvee.methods.curve_study import describe_rounds, last_vectors
from cuvee.methods.job import Job
from cuvee.methods.planning import PlannedRuns
from cuvee.methods.pool import Prepared
from cuvee.methods.quadmix import QuaDMixConfig
from cuvee.methods.quality import Quality, read_quality
from cuvee.policy.mixture import Mixture
from cuvee.policy.quality_curve import QualityCurve
from cuvee.policy.ranks import merge_scores, token_ranks
from cuvee.proxy.machine import choose_device
from cuvee.report.content import ReportContent
from cuvee.report.pictures import CurvesSection, Margin
from cuvee.simplex import normalise
from cuvee.tables.design import Design
from cuvee.tables.optimum import Optimum
from cuvee.tables.runs import read_runs

_NORMAL_90 = 1.6448536269514722
_POINTS = 401
_MARGINS = 6
_EXAMPLE_TOKENS = 48


def run(settings: QuaDMixConfig, job: Job) -> None:
    """Run the whole chain; finished stages are not made again."""
    choose_device(settings.proxy.device)
    for step in STEPS.values():
        step(settings, job)


def report(settings: QuaDMixConfig, job: Job) -> None:
    """Write report.html from the finished artefacts."""
    chain.report(job, content(settings, job))


def content(settings: QuaDMixConfig, job: Job) -> ReportContent:
    """Gather the report of a finished run."""
    prepared = chain.open_stores(settings, job)
    quality = read_quality(job.folder("quality"))
    judged = quadmix.rival_curves(settings, job, prepared)
    rivals = {name: one.mixture for name, one in judged.items()}
    for name, weights in judging.named_mixtures(settings.validate, prepared.store.domains).items():
        rivals[name] = Mixture.flat(prepared.store.domains, weights)
    runs = read_runs(job.folder("runs") / "runs.parquet")
    vectors = last_vectors(job)
    found = quadmix.read_found(job)
    budget = chain.target_tokens(settings, prepared)
    measured = findings.gather_measured(
        job,
        findings.Finished(
            method="QuaDMix",
            command="quadmix",
            settings=settings,
            seed=settings.seed,
            prepared=prepared,
            index=read_index(job.out),
            design=Design(
                run_ids=vectors.run_ids,
                kinds=tuple("own" if kind == "top" else kind for kind in vectors.kinds),
                domains=prepared.store.domains,
                weights=normalise(runs.weights),
            ),
            runs=runs,
            proxy_size=settings.proxy.size,
            optimum=_optimum(found, prepared.objective_names, tuple(prepared.objective.tolist())),
            validate=settings.validate,
            rivals=rivals,
            caps=np.ones(len(prepared.store.domains)),
            budget=budget,
            max_epochs=settings.max_epochs,
        ),
    )
    return replace(
        measured,
        curves=_curves(job, prepared, quality, rivals["chosen"].overall),
        notes=(*measured.notes, *_notes(job, found, budget)),
    )


def describe(settings: QuaDMixConfig, job: Job) -> str:
    """Write the outcome of a finished run for people."""
    return chain.describe(content(settings, job), job)


def summary(_: QuaDMixConfig, job: Job) -> dict[str, Json]:
    """Return the outcome of a finished run as JSON."""
    worth = judging.read_equivalent(job)
    return {
        "curve": quadmix.read_curve(job).to_json(),
        "search": dict(quadmix.read_found(job)),
        **judging.verdict_json(job),
        "equivalent_tokens": worth.to_json() if worth else None,
    }


def dry_run(settings: QuaDMixConfig, job: Job) -> dict[str, Json]:
    """Plan and cost."""
    n_criteria = len(settings.criteria)
    n_others = len(settings.rivals) + len(settings.validate.mixtures)
    n_rivals = 2 + n_criteria + (n_criteria > 1) + n_others
    judged = PlannedRuns(
        name="validation",
        n_runs=n_rivals * settings.validate.n_seeds,
        proxy=judging.larger(settings.proxy, settings.validate),
        search=False,
    )
    curves = settings.curves
    sweep = PlannedRuns(
        name="sweep",
        n_runs=curves.n_runs,
        proxy=settings.proxy,
        start_runs=curves.start_runs,
        batch_size=curves.batch_size,
    )
    return planning.dry_run(settings, job, [sweep, judged])


def _optimum(
    found: Mapping[str, Json], targets: tuple[str, ...], objective: tuple[float, ...]
) -> Optimum:
    """Put the prediction in the words of an optimum; single targets are not predicted here."""
    shares = cast(Mapping[str, float], found["shares"])
    value, sd = cast(float, found["predicted"]), cast(float, found["predicted_sd"])
    return Optimum(
        domains=tuple(shares),
        weights=tuple(normalise(np.array(list(shares.values()))).tolist()),
        targets=targets,
        objective_weights=objective,
        predicted=value,
        predicted_sd=sd,
        interval=(value - _NORMAL_90 * sd, value + _NORMAL_90 * sd),
        target_means=(value,) * len(targets),
        target_sds=(sd,) * len(targets),
        n_simulated=cast(int, found["n_simulated"]),
        n_best=1,
    )


def _curves(job: Job, prepared: Prepared, quality: Quality, shares: FloatArray) -> CurvesSection:
    curve = quadmix.read_curve(job)
    ranks = np.linspace(0.0, 1.0, _POINTS)
    domain = np.arange(len(curve.domains))
    return CurvesSection(
        domains=curve.domains,
        criteria=curve.criteria,
        merge=curve.merge,
        threshold=curve.threshold,
        taken=curve.token_shares,
        shares=shares,
        ranks=ranks,
        copies=np.stack([curve.copies(ranks, np.full(_POINTS, index)) for index in domain]),
        reference=tuple(quality.checks[name]["reference"] for name in curve.criteria),
        auc=tuple(quality.checks[name]["auc"] for name in curve.criteria),
        margins=tuple(_margins(job, prepared, quality, curve, shares)),
    )


def _margins(
    job: Job, prepared: Prepared, quality: Quality, curve: QualityCurve, shares: FloatArray
) -> Iterator[Margin]:
    """Find the documents next to the thresholds of the largest domains."""
    store, tokenizer = prepared.store, job.folder("tokenizer") / "tokenizer.json"
    train = np.flatnonzero(store.side == 0)
    domain = store.domain[train].astype(np.int64)
    merged = merge_scores(
        np.asarray(quality.normalised[train], dtype=np.float64), domain, curve.merge
    )
    ranks = token_ranks(merged, store.n_tokens[train], domain)

    def beginning(document: int) -> str:
        n_tokens = min(int(store.n_tokens[document]), _EXAMPLE_TOKENS)
        return decode(tokenizer, store.read(document, 0, n_tokens).tolist())

    for column in np.argsort(-shares, kind="stable")[:_MARGINS].tolist():
        own = np.flatnonzero(domain == column)
        own = own[np.argsort(ranks[own], kind="stable")]
        n_kept = int((ranks[own] <= curve.threshold[column]).sum())
        if 0 < n_kept < len(own):
            kept, dropped = int(own[n_kept - 1]), int(own[n_kept])
            yield Margin(
                domain=curve.domains[column],
                kept_rank=float(ranks[kept]),
                kept=beginning(int(train[kept])),
                dropped_rank=float(ranks[dropped]),
                dropped=beginning(int(train[dropped])),
            )


def _notes(job: Job, found: Mapping[str, Json], budget: int) -> tuple[str, ...]:
    scores = cast(Mapping[str, Json], artifacts.read_json(job.folder("predictor") / quadmix.SCORES))
    ranks = cast(Mapping[str, float], scores["ranks"])
    told = ", ".join(f"{name} {rank:.2f}" for name, rank in ranks.items())
    tokens, unique = cast(float, found["tokens"]), cast(float, found["unique_tokens"])
    return (
        f"Chosen by {scores['chosen']}; rank correlation of held-out predictions of the objective: "
        f"{told}.",
        f"Predicted by the proxies' regression: the best of {found['n_simulated']} drawn and "
        f"recombined curves {found['predicted_best']:.4f}, the best averaged "
        f"{found['predicted_top_mean']:.4f}, their average "
        f"{found['predicted_average']:.4f}, the prior's mean "
        f"{found['predicted_prior_mean']:.4f} bits per byte. Chosen: the {found['taken']}.",
        f"The chosen curve samples {tokens:,.0f} tokens of the given text, {unique:,.0f} of them "
        f"unique, for a budget of {budget:,}.",
        *describe_rounds(job),
    )


STEPS: Mapping[str, Callable[[QuaDMixConfig, Job], None]] = {
    "label": quadmix.label,
    "design": quadmix.design,
    "train": quadmix.train,
    "fit": quadmix.fit,
    "search": quadmix.search,
    "select": quadmix.select,
    "validate": quadmix.validate,
    "report": report,
}
"""The arrows of the chain, in order; each is also a verb of the command line."""
