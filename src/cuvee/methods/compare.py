"""Several methods and baselines on one pool, judged together at equal seen tokens.

1  the pool      read, split and tokenised once; every method works on links to it
2  the answers   each method's own steps up to its mixture, curve or documents
3  the judges    models trained on every answer from the same initial weights, seed by seed
4  the tables    paired differences by target, and what finding each answer cost
"""

from typing import cast

from cuvee import artifacts, config
from cuvee.artifacts import Json
from cuvee.methods import chain, judging, planning
from cuvee.methods.compare_study import (
    NATURAL,
    CompareStudy,
    Contender,
    Entrant,
    answer_digests,
    contenders,
    search_steps,
    share_preparation,
)
from cuvee.methods.job import Job, claim
from cuvee.methods.pool import Prepared
from cuvee.methods.search_cost import run_flops
from cuvee.proxy.machine import choose_device
from cuvee.proxy.spec import TrainingSpec
from cuvee.report.comparison import ComparisonContent, ContenderRow, markdown
from cuvee.report.comparison_page import build_comparison_page
from cuvee.tables.runs import write_runs
from cuvee.validate.ranking import rank

COMPARISON, TABLES, PAGE = "comparison.json", "comparison.md", "report.html"


def run(study: CompareStudy, job: Job) -> None:
    """Search by every method, judge all answers together; finished stages are not made again.

    Args:
        study: The settings.
        job: Where and with how many workers.
    """
    choose_device(study.settings.proxy.device)
    chain.label(study.settings, job)
    prepared = chain.open_stores(study.settings, job)
    for one in study.entrants:  # all of them first: what a method refuses, it refuses here
        _prepare(one, job)
    for one in study.entrants:
        for verb in search_steps(one):
            one.method.steps[verb](one.settings, one.job(job))
    judge(study, job, prepared)


def dry_run(study: CompareStudy, job: Job) -> dict[str, Json]:
    """Plan and cost every method's search and the judging, as `planning.dry_run` does one's.

    What a method would train to judge its own answer is left out; documents scored are not in it.

    Args:
        study: The settings.
        job: Its folder is read where it is labelled already, and never written to.
    """
    settings = study.settings
    n_contenders = len(study.entrants) + len(settings.baselines) + len(settings.validate.mixtures)
    judged = planning.PlannedRuns(
        name=f"validate {settings.validate.size}",
        n_runs=n_contenders * settings.validate.n_seeds,
        proxy=judging.larger(settings.proxy, settings.validate),
        search=False,
    )
    with planning.timed_once():
        last = planning.dry_run(settings, job, [judged])
        plans = [
            (one.name, one.method.dry_run(one.settings, one.job(job))) for one in study.entrants
        ]
    parts = [
        {**part, "name": f"{name}: {part['name']}"}
        for name, plan in plans
        for part in cast(list[dict[str, Json]], plan["parts"])
        if part["search"]
    ]
    parts += cast(list[dict[str, Json]], last["parts"])
    total = {
        key: sum(cast(float, part[key]) for part in parts)
        for key in cast(dict[str, Json], last["total"])
    }
    return {**last, "parts": parts, "total": total}


def judge(study: CompareStudy, job: Job, prepared: Prepared) -> None:
    """Train models on all answers and write the comparison, unless it is there.

    Args:
        study: The settings.
        job: Where; every method is searched.
        prepared: The pool.
    """
    folder, settings = job.folder("comparison"), study.settings
    if artifacts.is_done(folder):
        return
    some = {one.name: one for one in contenders(study, job, prepared)}

    def amend(name: str, spec: TrainingSpec) -> TrainingSpec:
        return some[name].amend(spec)

    with job.stage("validate"):
        runs = judging.train_judged(
            job,
            settings.validate,
            proxy=settings.proxy,
            mixtures={name: one.mixture for name, one in some.items()},
            prepared=prepared,
            target_tokens=chain.target_tokens(settings, prepared),
            seed=settings.seed,
            amend=amend,
        )
    ranking = rank(
        judging.losses_by_mixture(runs, settings.validate, tuple(some), prepared),
        judging.target_names(prepared),
        prepared.objective,
        confidence=settings.validate.confidence,
        reference=NATURAL if NATURAL in some else None,
    )
    content = ComparisonContent(
        size=settings.validate.size,
        n_tokens=int(runs.n_tokens[0]),
        n_seeds=settings.validate.n_seeds,
        model_flops=run_flops(
            settings.validate.size,
            n_tokens=int(runs.n_tokens[0]),
            vocabulary_size=prepared.store.vocabulary_size,
            context=settings.proxy.context,
        ),
        contenders=tuple(_row(study, one) for one in some.values()),
        ranking=ranking,
        accuracies=judging.compare_accuracies(
            job,
            settings.validate,
            tuple(some),
            prepared,
            chosen=ranking.table().rows[0].name,
            seed=settings.seed,
        ),
    )
    judged = {one: artifacts.digest_of(job.folder("validation", one)) for one in runs.run_ids}
    with artifacts.writing(
        folder,
        stage="compare",
        settings=config.dump(settings),
        seed=settings.seed,
        inputs={**answer_digests(study, job), **judged},
    ) as aside:
        artifacts.write_json(aside / COMPARISON, content.to_json())
        artifacts.write_text(aside / TABLES, markdown(content))
        artifacts.write_text(aside / PAGE, build_comparison_page(content))
        write_runs(aside / "runs.parquet", runs)


def read_comparison(job: Job) -> ComparisonContent:
    """Read the finished comparison."""
    return ComparisonContent.from_json(as_json(job))


def as_json(job: Job) -> dict[str, Json]:
    """Return the finished comparison as JSON."""
    folder = artifacts.require(job.folder("comparison"), made_by="cuvee compare")
    return cast(dict[str, Json], artifacts.read_json(folder / COMPARISON))


def describe(job: Job) -> str:
    """Write the finished comparison for people."""
    page = job.folder("comparison") / PAGE
    return f"{markdown(read_comparison(job))}\nreport      {page}"


def _prepare(one: Entrant, job: Job) -> None:
    """Tie the method's folder to its config, link the pool into it, and let it label the rest."""
    own = one.job(job)
    claim(own.out, one.settings)
    share_preparation(job, own)
    one.method.steps["label"](one.settings, own)


def _row(study: CompareStudy, one: Contender) -> ContenderRow:
    kinds = {entrant.name: entrant.kind for entrant in study.entrants}
    shares = one.mixture.overall
    return ContenderRow(
        name=one.name,
        kind=one.kind,
        method=kinds.get(one.name.partition(".")[0], ""),
        shares=dict(zip(one.mixture.domains, shares.tolist(), strict=True)),
        n_runs=one.cost.n_runs,
        trained_tokens=one.cost.trained_tokens,
        n_scored=one.cost.n_scored,
        n_labels=one.cost.n_labels,
        flops=one.cost.flops,
    )
