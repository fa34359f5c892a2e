"""Continual pre-training: how much of a new domain can a trained model take without losing the old.

    1  theta_0       a base model: a checkpoint, or trained here on the original domains
    2  x_1 ... x_n   shares of the new domains, a doubling ladder from all of it down to none
    3  L(x, D)       loss on the original domains' validation text after D further tokens
    4  L(x) = c + exp(t x + b), one fit a horizon D
    5  x*(D)         where L(x) is the base model's own loss L_0: x* = (ln(L_0 - c) - b) / t

Source: Data Mixing Laws (arXiv:2403.16952), continual pre-training and the critical proportion.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from cuvee import artifacts, config
from cuvee.artifacts import Json
from cuvee.corpus.scan import read_index
from cuvee.fit.critical_share import CriticalShare, critical_share, share_law_that_holds
from cuvee.methods import chain, chain_files, findings, law_pictures, measure, planning
from cuvee.methods.continued import (
    ContinualConfig,
    Curves,
    base_checkpoint,
    blend,
    continued,
    new_mixture,
    original_mixture,
    read_curves,
    share_name,
)
from cuvee.methods.job import Job, claimed
from cuvee.methods.planning import PlannedRuns
from cuvee.methods.pool import Prepared, open_prepared, prepare
from cuvee.methods.presets import CONTINUAL_DEFAULT
from cuvee.proxy.machine import choose_device
from cuvee.proxy.spec import TrainingSpec
from cuvee.report.content import MixtureSection, ReportContent
from cuvee.tables.design import Design

_CRITICAL = "critical.json"
_CHECKS = "checks.json"


def load_config(path: Path, overrides: tuple[str, ...] = ()) -> ContinualConfig:
    """Read a config file."""
    return config.load(ContinualConfig, path, overrides, presets={"default": CONTINUAL_DEFAULT})


def run(settings: ContinualConfig, job: Job) -> None:
    """Run the whole chain; finished stages are not made again."""
    for step in STEPS.values():
        step(settings, job)


def label(settings: ContinualConfig, job: Job) -> None:
    """Read, split and tokenise the pool."""
    choose_device(settings.proxy.device)
    with claimed(job.out, settings):
        prepared = prepare(job, settings.pool, None, settings.tokens, seed=settings.seed)
        original_mixture(settings, prepared)
        new_mixture(settings, prepared)


def design(settings: ContinualConfig, job: Job) -> None:
    """Lay out the ladder of shares."""
    prepared = open_stores(settings, job)
    if artifacts.is_done(job.folder("design")):
        return
    rows = np.stack([blend(settings, prepared, share) for share in settings.shares])
    made = Design(
        run_ids=tuple(share_name(share) for share in settings.shares),
        kinds=("ladder",) * len(rows),
        domains=prepared.statistics.domains,
        weights=rows,
    )
    chain_files.write_made_design(
        job, made, settings={"shares": list(settings.shares)}, seed=settings.seed
    )


def train(settings: ContinualConfig, job: Job) -> None:
    """Train the base model, where none is given, and continue it on every share."""
    prepared = open_stores(settings, job)
    with job.stage("train"):
        specs = planned(settings, job)
        runs = measure.measure(job, "continue", specs, job.folder("sweep"), prepared)
        measure.write_measured(job, runs, seed=settings.seed, sweep=job.folder("sweep"))


def planned(settings: ContinualConfig, job: Job) -> dict[str, TrainingSpec]:
    """Describe the continued runs; the base model is trained, where none is given."""
    prepared = open_stores(settings, job)
    base = base_checkpoint(settings, job, prepared)
    return {
        f"{share_name(share)}-seed{number}": continued(
            settings, job, prepared, base, share=share, name=f"{share}-seed{number}"
        )
        for number in range(settings.n_seeds)
        for share in settings.shares
    }


def open_stores(settings: ContinualConfig, job: Job) -> Prepared:
    """Open what `label` has made."""
    with claimed(job.out, settings):
        return open_prepared(job, settings.pool, None)


def fit(settings: ContinualConfig, job: Job) -> None:
    """Fit the law of the new domains' share at every horizon, and where it meets the base."""
    prepared = open_stores(settings, job)
    folder = job.folder("critical")
    if artifacts.is_done(folder):
        return
    artifacts.require(job.folder("runs"), made_by="cuvee train")
    curves = read_curves(settings, job, prepared)
    with job.stage("fit"):
        found = [
            critical_share(
                curves.shares, curves.old[:, place], base_loss=curves.base_old, n_tokens=int(n)
            )
            for place, n in enumerate(curves.n_tokens)
        ]
    with artifacts.writing(
        folder,
        stage="fit",
        settings={},
        seed=settings.seed,
        inputs={"runs": artifacts.digest_of(job.folder("runs"))},
    ) as aside:
        rows = [_plain(one, curves, place) for place, one in enumerate(found)]
        artifacts.write_json(aside / _CRITICAL, cast(Json, rows))


def validate(settings: ContinualConfig, job: Job) -> None:
    """Train at both ends of the longest horizon's interval: on either side of the base model?"""
    prepared = open_stores(settings, job)
    if artifacts.is_done(job.folder("verdict")) or settings.n_checks == 0:
        return
    last = read_critical(job)[-1]
    ends = {end: float(cast(float, last[end])) for end in ("low", "high")}
    with job.stage("validate"):
        base = base_checkpoint(settings, job, prepared)
        specs = {
            f"{end}-check{number}": continued(
                settings, job, prepared, base, share=share, name=f"check{number}"
            )
            for number in range(settings.n_checks)
            for end, share in ends.items()
        }
        measure.measure(job, "check", specs, job.folder("validation"), prepared)
        rows = [
            {
                "end": end,
                "share": share,
                "old": float(curve.old[0, -1]),
                "new": float(curve.new[0, -1]),
                "minus_base": float(curve.old[0, -1] - curve.base_old),
            }
            for name in specs
            for end, share in ends.items()
            if name.startswith(end)
            for curve in [read_curves(settings, job, prepared, folder="validation", only=name)]
        ]
    with artifacts.writing(
        job.folder("verdict"),
        stage="validate",
        settings={"n_checks": settings.n_checks},
        seed=settings.seed,
        inputs={name: artifacts.digest_of(job.folder("validation", name)) for name in specs},
    ) as aside:
        artifacts.write_json(aside / _CHECKS, cast(Json, rows))


def report(settings: ContinualConfig, job: Job) -> None:
    """Write report.html from the finished artefacts."""
    chain.report(job, content(settings, job))


STEPS: Mapping[str, Callable[[ContinualConfig, Job], None]] = {
    "label": label,
    "design": design,
    "train": train,
    "fit": fit,
    "validate": validate,
    "report": report,
}
"""The arrows of the chain, in order; each is also a verb of the command line."""


def best_share(settings: ContinualConfig, job: Job) -> float:
    """Return the share that gains most on the new domains without losing the old ones.

    The new domains' loss falls with their share, so it is the largest share at which a new run is
    still better than the base with the interval's confidence: the lower end at the last horizon.
    """
    artifacts.require(job.folder("critical"), made_by="cuvee fit")
    return float(cast(float, read_critical(job)[-1]["low"]))


def content(settings: ContinualConfig, job: Job) -> ReportContent:
    """Gather the report of a finished run."""
    prepared = open_stores(settings, job)
    statistics = prepared.statistics
    return ReportContent(
        title=", ".join(settings.new_domains),
        method="Continual pre-training",
        objective="bits per byte of the original domains, held at the base model's",
        mixture=MixtureSection(
            domains=statistics.domains,
            natural=statistics.natural,
            chosen=blend(settings, prepared, best_share(settings, job)),
        ),
        provenance=findings.provenance(
            job,
            command="cuvee run continual CONFIG",
            seed=settings.seed,
            settings=settings,
            stages=("corpus/index", "tokenizer", "tokens", "design", "runs", "critical"),
            facts=(("corpus fingerprint", read_index(job.out).fingerprint),),
        ),
        notes=_sentences(settings, job),
        shares=law_pictures.shares(
            read_curves(settings, job, prepared),
            new_domains=settings.new_domains,
            checks=_checks(job),
        ),
        headline=_headline(settings, job),
    )


def describe(settings: ContinualConfig, job: Job) -> str:
    """Write the outcome of a finished run for people."""
    lines = [
        f"{'tokens':>12} {'critical share':>15} {'low':>7} {'high':>7} {'new domains':>12}  status"
    ]
    lines += [
        f"{cast(int, one['n_tokens']):>12,} {cast(float, one['share']):>15.3f} "
        f"{cast(float, one['low']):>7.3f} {cast(float, one['high']):>7.3f} "
        f"{cast(float, one['gain_at_low']):>+12.3f}  {one['status']}"
        for one in read_critical(job)
    ]
    lines.append("shares of the new domains; new domains: change of their loss at low, bits a byte")
    return "\n".join([*lines, *_sentences(settings, job), f"report      {job.out / chain.REPORT}"])


def summary(_: ContinualConfig, job: Job) -> dict[str, Json]:
    """Return the outcome of a finished run as JSON."""
    return {"critical": cast(Json, read_critical(job)), "checks": cast(Json, _checks(job))}


def dry_run(settings: ContinualConfig, job: Job) -> dict[str, Json]:
    """Plan and cost."""
    proxy = settings.proxy
    parts = []
    if settings.base.checkpoint is None:
        parts.append(
            PlannedRuns(
                name="base", n_runs=1, proxy=replace(proxy, n_tokens=settings.base.n_tokens)
            )
        )
    n_runs = len(settings.shares) * settings.n_seeds + 2 * settings.n_checks
    parts.append(PlannedRuns(name=f"continue {proxy.size}", n_runs=n_runs, proxy=proxy))
    return planning.dry_run(settings, job, parts)


def read_critical(job: Job) -> list[dict[str, Json]]:
    """Read the critical shares, one a horizon."""
    folder = artifacts.require(job.folder("critical"), made_by="cuvee fit")
    return cast(list[dict[str, Json]], artifacts.read_json(folder / _CRITICAL))


def _plain(found: CriticalShare, curves: Curves, place: int) -> dict[str, Json]:
    """Return one horizon's answer, with what the new domains gain at its lower end."""
    new, _ = share_law_that_holds(1.0 - curves.shares, curves.new[:, place])
    gained, doubt = new.predict(np.array([1.0 - found.low]))
    law = found.law
    return {
        "n_tokens": found.n_tokens,
        "base_loss": found.base_loss,
        "status": found.status,
        "share": found.share,
        "low": found.low,
        "high": found.high,
        "law": {"floor": law.floor, "amplitude": law.amplitude, "rate": law.rate},
        "residual_sd": law.residual_sd,
        "left_out": list(found.left_out),
        "gain_at_low": float(gained[0]) - curves.base_new,
        "gain_sd": float(doubt[0]),
    }


def _headline(settings: ContinualConfig, job: Job) -> str:
    last = read_critical(job)[-1]
    new, low = ", ".join(settings.new_domains), cast(float, last["low"])
    if low <= 0.0:
        return f"No share of {new} is sure to leave the original domains as they were."
    return f"Up to {low:.0%} of {new} leaves the original domains no worse than the base."


def _sentences(settings: ContinualConfig, job: Job) -> tuple[str, ...]:
    last = read_critical(job)[-1]
    share, low, high = (cast(float, last[name]) for name in ("share", "low", "high"))
    sentences = [
        f"After {last['n_tokens']:,} further tokens the original domains are as well predicted as "
        f"by the base model at a share of {share:.3f} of {', '.join(settings.new_domains)}; single "
        f"runs are safely better below {low:.3f} and worse above {high:.3f} (95% each)."
    ]
    if last["left_out"]:
        shares_left = ", ".join(f"{one:g}" for one in cast(list[float], last["left_out"]))
        sentences.append(f"The law does not follow runs of share {shares_left}: they are left out.")
    for one in _checks(job):
        sentences.append(
            f"A run trained afterwards at {one['share']:.3f}: {one['minus_base']:+.4f} bits "
            f"per byte against the base."
        )
    return tuple(sentences)


def _checks(job: Job) -> list[dict[str, float]]:
    """Read the runs trained at the ends of the interval; none where none were."""
    path = job.folder("verdict") / _CHECKS
    return cast(list[dict[str, float]], artifacts.read_json(path)) if path.exists() else []
