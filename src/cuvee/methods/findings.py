"""Gather what a run found as the content of its report."""

import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np

from cuvee import artifacts, config
from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.corpus.index import PoolIndex
from cuvee.methods import fitting, judging, measure, response, shipping
from cuvee.methods.job import Job
from cuvee.methods.pool import Prepared
from cuvee.policy.mixture import Mixture
from cuvee.report import content as parts
from cuvee.report.content import ReportContent, Role
from cuvee.report.pictures import ResponseSection
from cuvee.report.verdict import verdict_section
from cuvee.simplex import cap, normalise
from cuvee.tables.design import Design
from cuvee.tables.optimum import Optimum
from cuvee.tables.predictor import objective_sd
from cuvee.tables.runs import Runs
from cuvee.validate.compare import ValidateConfig

_PACKAGES = (
    "cuvee",
    "numpy",
    "scipy",
    "scikit-learn",
    "lightgbm",
    "torch",
    "tokenizers",
    "pyarrow",
)
_STAGES = ("corpus/index", "tokenizer", "tokens", "design", "runs", "predictor", "optimum")
_ROLES: dict[str, Role] = {
    "chosen": "chosen",
    "natural": "natural",
    "uniform": "uniform",
    "best-sampled": "best-sampled",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """What the finished stages of any method with a verdict left."""

    method: str
    command: str
    """Its name on the command line."""
    settings: object
    """The resolved config."""
    seed: int
    prepared: Prepared
    index: PoolIndex
    validate: ValidateConfig
    rivals: dict[str, Mixture]
    caps: FloatArray
    """(n_domains,)"""
    budget: int
    """Target token budget."""
    max_epochs: float | None
    stages: tuple[str, ...] = _STAGES
    """Artefacts whose digests are shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished(Judged):
    """What the finished stages of a method that measures a design left."""

    design: Design
    runs: Runs
    proxy_size: str
    optimum: Optimum


def gather(job: Job, done: Finished) -> ReportContent:
    """Make the report's content from finished artefacts."""
    return replace(
        gather_measured(job, done),
        losses=_losses(job, done),
        held_out=fitting.held_out(job, done.design, done.runs, done.prepared),
        response=_response(job, done),
    )


def gather_measured(job: Job, done: Finished) -> ReportContent:
    """Make what needs no predictor of mixtures."""
    found = gather_judged(job, done)
    notes = found.notes
    untrained = done.runs.untrained
    if diverged := int(done.runs.diverged.sum()) - len(untrained):
        notes = (*notes, f"{diverged} runs diverged and are left out of every fit.")
    if untrained:
        told = "; ".join(f"{name}: {why}" for name, why in untrained.items())
        notes = (*notes, f"{len(untrained)} runs took too little text to be trained on ({told}).")
    return replace(found, runs=_runs(done), notes=notes)


def gather_judged(job: Job, done: Judged) -> ReportContent:
    """Make what needs no measured design."""
    objective = _objective_words(done)
    rows = tuple(
        parts.MixtureLoss(
            name=name, role=_ROLES.get(name, "other"), seeds_bpb=_seed_losses(job, done, name)
        )
        for name in done.rivals
    )
    return ReportContent(
        title=f"{done.method}: {len(done.prepared.statistics.domains)} domains, {objective}",
        method=done.method,
        objective=objective,
        mixture=_mixture(done),
        provenance=provenance(
            job,
            command=f"cuvee run {done.command} CONFIG",
            seed=done.seed,
            settings=done.settings,
            stages=done.stages,
            facts=(("corpus fingerprint", done.index.fingerprint),),
        ),
        verdict=_verdict(job, done),
        losses=parts.LossSection(
            targets=_targets(done), objective_weights=done.prepared.objective, rows=rows
        ),
        trajectories=_trajectories(job, done),
        pool=_pool(done),
        selection=_selection(job),
        notes=_notes(done),
    )


def _objective_words(done: Judged) -> str:
    n = len(done.prepared.objective_names)
    if done.prepared.targets is None:
        return f"mean over the {n} domains' own validation text"
    weights = done.prepared.objective
    equal = np.allclose(weights, weights[0])
    return f"{'mean' if equal else 'weighted mean'} of {n} targets, bits per byte"


def _notes(done: Judged) -> tuple[str, ...]:
    notes = []
    if done.prepared.targets is None:
        notes.append(
            "No targets were given: the objective is the mean over the domains' own validation "
            "text, half of which the search has seen and half of which only the verdict."
        )
    if done.index.n_excluded:
        notes.append(
            f"{done.index.n_excluded} documents are left out of the pool by the lists of "
            "pool.exclude."
        )
    return tuple(notes)


def _mixture(done: Judged) -> parts.MixtureSection:
    statistics = done.prepared.statistics
    chosen = done.rivals["chosen"].overall
    return parts.MixtureSection(
        domains=statistics.domains,
        natural=statistics.natural,
        chosen=chosen,
        best_sampled=best.overall if (best := done.rivals.get("best-sampled")) else None,
        caps=done.caps,
        epochs=chosen * done.budget / statistics.available_tokens,
        budget=done.budget,
        max_epochs=done.max_epochs,
    )


def _targets(done: Judged) -> tuple[str, ...]:
    return tuple(name.split("/", 1)[1] for name in done.prepared.objective_names)


def _verdict(job: Job, done: Judged) -> parts.VerdictSection:
    return verdict_section(
        judging.read_verdict(job),
        judging.read_equivalent(job),
        size=done.validate.size,
        n_tokens=done.validate.n_tokens,
        accuracies=judging.read_accuracies(job),
    )


def _losses(job: Job, done: Finished) -> parts.LossSection:
    mixtures = {name: mixture.columns for name, mixture in done.rivals.items()}
    mixtures.update(_uniform_over_own_domains(done))
    weights = np.stack(list(mixtures.values()))
    predictor = fitting.load(job)
    mean, sd = predictor.predict(weights)
    objective = mean @ done.prepared.objective
    spread = objective_sd(predictor, sd, done.prepared.objective)
    measured = measure.objective_losses(done.runs, done.prepared) @ done.prepared.objective
    rows = []
    for number, name in enumerate(mixtures):
        rows.append(
            parts.MixtureLoss(
                name=name,
                role=_ROLES.get(name, "other"),
                predicted=float(objective[number]),
                predicted_low=float(objective[number] - fitting.NORMAL_90 * spread[number]),
                predicted_high=float(objective[number] + fitting.NORMAL_90 * spread[number]),
                proxy=_measured_by_proxy(done, weights[number], measured),
                seeds_bpb=_seed_losses(job, done, name) if name in done.rivals else None,
            )
        )
    return parts.LossSection(
        targets=_targets(done),
        objective_weights=done.prepared.objective,
        rows=tuple(rows),
        proxy_size=done.proxy_size,
    )


def _uniform_over_own_domains(done: Finished) -> dict[str, FloatArray]:
    """Return the mixture that is uniform over all targets' own domains, where there are any.

    Often a strong baseline; it is predicted, and measured where the config names it.
    """
    own = {domain for domains in done.prepared.own_domains.values() for domain in domains}
    domains = done.prepared.statistics.domains
    member = np.array([float(name in own) for name in domains])
    if done.prepared.targets is None or not member.any():
        return {}
    # A trace of the natural mixture takes what the own domains' caps do not allow.
    wanted = normalise(member + 1e-9 * done.prepared.statistics.natural)
    shares = [phase.share for phase in done.rivals["chosen"].phases]
    uniform = Mixture.flat(domains, cap(wanted, upper=done.caps), shares=shares)
    return {"uniform over own domains": uniform.columns}


def _measured_by_proxy(done: Finished, weights: FloatArray, losses: FloatArray) -> float | None:
    """Return a mixture's loss in the sweep, if it was in the design."""
    n_gone = done.design.weights.shape[1] - len(weights)  # columns of reused runs alone
    row = np.pad(weights, (0, n_gone))
    same = np.flatnonzero(np.abs(done.design.weights - row).max(axis=1) < 1e-12)
    loss = float(losses[same[0]]) if len(same) else float("nan")
    return loss if np.isfinite(loss) else None


def _seed_losses(job: Job, done: Judged, name: str) -> FloatArray:
    """Return (n_seeds, n_targets) final bits per byte; NaN for a diverged seed."""
    runs = judging.read_judged(job)
    losses = measure.objective_losses(runs, done.prepared)
    rows = [
        runs.run_ids.index(judging.run_name(name, number))
        for number in range(done.validate.n_seeds)
    ]
    return losses[rows]


def _runs(done: Finished) -> parts.RunsSection:
    losses = measure.objective_losses(done.runs, done.prepared) @ done.prepared.objective
    return parts.RunsSection(
        run_ids=done.runs.run_ids,
        kinds=done.design.kinds,
        losses=losses,
        diverged=done.runs.diverged,
        size=done.proxy_size,
        n_tokens=int(done.runs.n_tokens[0]),
        predicted=done.optimum.predicted,
        predicted_low=done.optimum.interval[0],
        predicted_high=done.optimum.interval[1],
    )


def _trajectories(job: Job, done: Judged) -> parts.TrajectorySection:
    series = []
    for name in done.rivals:
        for number in range(done.validate.n_seeds):
            curve = judging.trajectory(job, name, number)
            columns = [curve.targets.index(one) for one in done.prepared.objective_names]
            losses = curve.losses_bpb[:, columns]
            series.append(
                parts.TrajectorySeries(
                    mixture=name,
                    role=_ROLES.get(name, "other"),
                    seed=number,
                    n_tokens=curve.n_tokens,
                    losses_bpb=np.column_stack([losses @ done.prepared.objective, losses]),
                )
            )
    return parts.TrajectorySection(columns=("objective", *_targets(done)), series=tuple(series))


def _pool(done: Judged) -> parts.PoolSection:
    statistics, index = done.prepared.statistics, done.index
    return parts.PoolSection(
        domains=statistics.domains,
        n_documents=statistics.n_documents,
        n_bytes=statistics.n_bytes,
        n_tokens=statistics.n_tokens,
        unique_tokens=done.prepared.store.unique_tokens,
        available_tokens=statistics.available_tokens,
        validation_documents=index.n_documents["validation"],
        n_shards=len(index.shards),
        rejects=tuple(sorted(index.n_rejects.items())),
        n_dropped=int(index.n_documents["dropped"].sum()),
    )


def _selection(job: Job) -> parts.SelectionSection | None:
    if not artifacts.is_done(job.folder("selection")):
        return None
    found = shipping.read_selection(job)
    return parts.SelectionSection(
        folder="selection",
        n_shards=found.n_shards,
        n_documents=int(found.n_documents.sum()),
        n_copies=int(found.n_copies.sum()),
        domains=found.domains,
        planned_tokens=found.planned_tokens,
        realised_tokens=found.realised_tokens,
        epochs=found.epochs,
    )


def provenance(
    job: Job,
    *,
    command: str,
    seed: int,
    settings: object,
    stages: Sequence[str],
    facts: tuple[tuple[str, str], ...],
) -> parts.Provenance:
    """Say where every number comes from.

    Args:
        job: The finished run.
        command: What made it.
        seed: The command's.
        settings: The resolved config.
        stages: Artefacts whose digests are shown.
        facts: What else to show.
    """
    machine = cast(dict[str, str], artifacts.read_json(job.out / "machine.json"))
    return parts.Provenance(
        command=command,
        seed=seed,
        config_yaml=config.dump_yaml(settings),
        versions=(
            ("python", platform.python_version()),
            *((name, importlib.metadata.version(name)) for name in _PACKAGES),
        ),
        digests=tuple(
            (stage, artifacts.digest_of(job.folder(*Path(stage).parts))) for stage in stages
        ),
        facts=(*facts, ("device", machine["device"]), ("precision", machine["precision"])),
    )


def _response(job: Job, done: Finished) -> ResponseSection:
    """Ask the predictor about the chosen mixture, and the runs about each domain."""
    kept, names = ~done.runs.diverged, done.prepared.statistics.domains
    chosen, natural = done.rivals["chosen"], done.rivals["natural"]
    n_phases = len(chosen.phases)
    # Reused runs may have columns of text that is gone; they come last.
    weights = done.runs.weights[kept, : n_phases * len(names)]
    losses = measure.objective_losses(done.runs, done.prepared)[kept]
    columns = np.column_stack([losses @ done.prepared.objective, losses])
    targets = _targets(done)
    overall = weights.reshape(len(weights), n_phases, len(names)).sum(axis=1)
    own = [name for name in names if f"domain/{name}" in done.runs.targets]
    loss_ranks = None
    if own:
        own_losses = np.column_stack([done.runs.column(f"domain/{name}")[kept] for name in own])
        loss_ranks = response.rank_matrix(own, own_losses, ("objective", *targets), columns)
    return response.section(
        response.Asked(
            predictor=fitting.load(job),
            objective=done.prepared.objective,
            chosen=chosen.columns,
            natural=natural.columns,
            phases=np.repeat(np.arange(n_phases), len(names)),
            measured=weights,
        ),
        targets=targets,
        share_ranks=response.rank_matrix(names, overall, ("objective", *targets), columns),
        loss_ranks=loss_ranks,
    )


def as_json(job: Job, optimum: Optimum) -> dict[str, Json]:
    """Return the outcome as JSON: mixture, prediction, verdict."""
    worth = judging.read_equivalent(job)
    return {
        "mixture": dict(zip(optimum.domains, optimum.weights, strict=True)),
        "predicted_bpb": optimum.predicted,
        "predicted_interval_bpb": list(optimum.interval),
        **judging.verdict_json(job),
        "equivalent_tokens": worth.to_json() if worth else None,
    }
