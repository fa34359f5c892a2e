"""A finished run used again: its runs beside new ones for the domains that changed since.

    1  each domain is unchanged, revised, added or removed, by the fingerprints of its text
    2  earlier runs stay as they are where tokenizer, targets and training are the same
    3  new mixtures are laid out in the ratios of the earlier optimum, where a domain changed
    4  text that is gone keeps a column in the fit, at zero in every mixture still to come

Source: Olmix (arXiv:2602.12237), mixture reuse; `cuvee.design.reuse` says where this differs.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np

from cuvee import artifacts, config
from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.design.dirichlet import DesignConfig
from cuvee.design.reuse import (
    Collapse,
    DomainChanges,
    classify_domains,
    design_changed,
)
from cuvee.errors import ConfigError
from cuvee.methods import chain, chain_files
from cuvee.methods.chain import ChainConfig
from cuvee.methods.earlier_run import ABOUT, EarlierRun, Fingerprints
from cuvee.methods.job import Job
from cuvee.methods.pool import Prepared
from cuvee.proxy.spec import TrainingSpec, portable_spec
from cuvee.randomness import stream
from cuvee.tables.design import REUSED, Design, write_design
from cuvee.tables.runs import Runs, read_runs, write_runs

_RUNS = "reused.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reused:
    """What the design stage took over from the earlier run."""

    runs: Runs
    """The earlier runs that are used; the pool's domains first, then those that are gone."""
    changes: DomainChanges
    inner: FloatArray | None
    """(n_domains,) frozen ratios of the unchanged domains; None where no domain changed."""
    refused: Mapping[str, str]
    """By id of an earlier run, why it is not used."""
    learning_rate: float


def design(
    job: Job,
    settings: ChainConfig,
    *,
    earlier: EarlierRun,
    prepared: Prepared,
    made_with: DesignConfig,
    spec: TrainingSpec,
) -> None:
    """Take over what runs can be used and lay out those that are needed besides.

    Args:
        job: Where.
        settings: The config.
        earlier: The run used again.
        prepared: The pool and the targets as they are now.
        made_with: Settings of the design.
        spec: Any run of the sweep; what decides its result, the mixture apart, is shared by all.

    Raises:
        ConfigError: No earlier run can be used.
        DataError: No domain is unchanged.
        InfeasibleError: The caps cannot be met with the earlier optimum's ratios.
    """
    now, domains = Fingerprints.read(job.out), prepared.statistics.domains
    changes = classify_domains(earlier.fingerprints.train, now.train)
    wanted = portable_spec(spec)
    refused = earlier.refusals(job.out, prepared, wanted, changes)
    kept = [name for name in earlier.runs.run_ids if name not in refused]
    if not kept:
        hint = "Set it as it was there, or leave reuse out."
        budget = earlier.target_tokens()
        if chain.target_tokens(settings, prepared) != budget:
            hint = f"Set target_tokens: {budget} as there, or leave reuse out."
        raise ConfigError(
            f"reuse: none of the {len(refused)} runs of {earlier.folder} can be used again: "
            f"{_counted(refused)}. {hint}"
        )
    sets = {name: now.sets[name] for name in _sets(prepared)}
    made, measured = earlier.take(kept, changes, domains=domains, sets=sets)
    collapse = _collapse(earlier, changes, prepared) if changes.changed else None
    if collapse is not None:
        made = _with_changed(made, collapse, settings, prepared, made_with)
    about: dict[str, Json] = {
        "changes": cast(Json, asdict(changes)),
        "inner": None if collapse is None else collapse.inner.tolist(),
        "refused": refused,
        "learning_rate": spec.learning_rate,
        "spec": {key: value for key, value in wanted.items() if key != "mixture"},
    }
    with artifacts.writing(
        job.folder("design"),
        stage="design",
        settings=config.dump(made_with),
        seed=settings.seed,
        inputs={
            "tokens": artifacts.digest_of(job.folder("tokens")),
            "earlier": artifacts.digest_of(earlier.folder / "runs"),
        },
    ) as aside:
        write_design(aside / "design.parquet", made)
        write_runs(aside / _RUNS, measured)
        artifacts.write_json(aside / ABOUT, about)


def read_reused(job: Job) -> Reused:
    """Read what the design stage took over."""
    folder = artifacts.require(job.folder("design"), made_by="cuvee design")
    about = cast(dict[str, Any], artifacts.read_json(folder / ABOUT))
    inner = about["inner"]
    return Reused(
        runs=read_runs(folder / _RUNS),
        changes=DomainChanges(**{name: tuple(some) for name, some in about["changes"].items()}),
        inner=None if inner is None else np.asarray(inner, dtype=np.float64),
        refused=about["refused"],
        learning_rate=float(about["learning_rate"]),
    )


def frozen_ratios(job: Job) -> dict[str, float] | None:
    """Return the ratios that the unchanged domains keep; None where no domain changed."""
    reused = read_reused(job)
    if not reused.changes.changed or reused.inner is None:
        return None
    domains = chain_files.read_made_design(job).domains
    shares = dict(zip(domains, reused.inner.tolist(), strict=False))
    return {name: shares[name] for name in reused.changes.unchanged}


def to_train(made: Design, prepared: Prepared) -> Design | None:
    """Return the rows of a design that are not measured yet; None where all are."""
    rows = [number for number, kind in enumerate(made.kinds) if kind != REUSED]
    if not rows:
        return None
    domains = prepared.statistics.domains
    return Design(
        run_ids=tuple(made.run_ids[row] for row in rows),
        kinds=tuple(made.kinds[row] for row in rows),
        domains=domains,
        weights=made.weights[rows, : len(domains)],
    )


def join(reused: Runs, measured: Runs | None) -> Runs:
    """Set new runs behind the earlier ones; they have no share of the domains that are gone."""
    if measured is None:
        return reused
    n_gone = len(reused.domains) - len(measured.domains)
    return Runs(
        run_ids=(*reused.run_ids, *measured.run_ids),
        domains=reused.domains,
        weights=np.concatenate([reused.weights, np.pad(measured.weights, ((0, 0), (0, n_gone)))]),
        targets=reused.targets,
        losses=np.concatenate([reused.losses, measured.losses]),
        losses_bpb=np.concatenate([reused.losses_bpb, measured.losses_bpb]),
        diverged=np.concatenate([reused.diverged, measured.diverged]),
        n_tokens=np.concatenate([reused.n_tokens, measured.n_tokens]),
    )


def describe(job: Job) -> str:
    """Say in one sentence what was used again, what was trained, and why the rest was not used."""
    reused, made = read_reused(job), chain_files.read_made_design(job)
    n_used, n_refused = len(reused.runs.run_ids), len(reused.refused)
    parts = [
        f"{n_used} of the earlier run's {n_used + n_refused} runs were used again, and "
        f"{len(made.run_ids) - n_used} were trained"
    ]
    found = asdict(reused.changes)
    kinds = [
        f"{kind}: {', '.join(found[kind])}"
        for kind in ("added", "revised", "removed")
        if found[kind]
    ]
    parts.append(" and ".join(kinds) if kinds else "no domain changed")
    if reused.inner is not None:
        parts.append("the unchanged domains keep the ratios of the earlier optimum")
    if reused.refused:
        parts.append(f"not used: {_counted(reused.refused)}")
    return "; ".join(parts) + "."


def as_json(job: Job) -> dict[str, Json]:
    """Return what `describe` says as JSON."""
    reused, made = read_reused(job), chain_files.read_made_design(job)
    return {
        "n_reused": len(reused.runs.run_ids),
        "n_trained": len(made.run_ids) - len(reused.runs.run_ids),
        "refused": dict(reused.refused),
        "domains": cast(Json, asdict(reused.changes)),
    }


def _with_changed(
    made: Design,
    collapse: Collapse,
    settings: ChainConfig,
    prepared: Prepared,
    made_with: DesignConfig,
) -> Design:
    """Set the runs that the changed domains need behind the earlier ones."""
    own = {name.split("/", 1)[1]: one for name, one in prepared.own_domains.items()}
    added = design_changed(
        collapse,
        prepared.statistics.natural,
        caps=chain.caps(settings, prepared),
        own_domains=own if prepared.targets else {},
        config=made_with,
        rng=stream(settings.seed, "design"),
    )
    n_gone = len(made.domains) - len(added.domains)
    return Design(
        run_ids=(*made.run_ids, *added.run_ids),
        kinds=(*made.kinds, *added.kinds),
        domains=made.domains,
        weights=np.concatenate([made.weights, np.pad(added.weights, ((0, 0), (0, n_gone)))]),
    )


def _sets(prepared: Prepared) -> tuple[str, ...]:
    """Return the evaluation sets in the order in which runs measure them."""
    targets = prepared.targets.domains if prepared.targets else ()
    own = prepared.statistics.domains
    return (*(f"target/{name}" for name in targets), *(f"domain/{name}" for name in own))


def _collapse(earlier: EarlierRun, changes: DomainChanges, prepared: Prepared) -> Collapse:
    """Freeze the earlier optimum's ratios; the natural ones where it left those domains out."""
    domains = prepared.statistics.domains
    weights = np.array(
        [earlier.optimum[name] if name in changes.unchanged else 0.0 for name in domains]
    )
    if not weights.sum() > 0.0:
        weights = prepared.statistics.natural
    return Collapse.about(domains, weights, changed=changes.changed)


def _counted(refused: Mapping[str, str]) -> str:
    """Say each reason once, with the number of its runs."""
    counts = Counter(refused.values())
    return ", ".join(
        f"{reason} ({n} {'run' if n == 1 else 'runs'})" for reason, n in sorted(counts.items())
    )
