"""The predictor: one model of the loss for each target, cross-validated beside its baselines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cuvee import artifacts, config
from cuvee.arrays import BoolArray, FloatArray
from cuvee.errors import ConfigError
from cuvee.executors import one_thread
from cuvee.fit.crossval import (
    CrossValidation,
    cross_validate,
    held_out_correlation,
    rank_correlation,
    score_objective,
    score_targets,
    scores_to_json,
)
from cuvee.fit.models import (
    CONSTANT_ERRORS,
    DEFAULT_MODEL,
    make_fold_model,
    make_model,
    model_class,
)
from cuvee.fit.predictor_files import NamedPredictor, load_predictor, write_predictor
from cuvee.fit.target_groups import GroupedObjective, group_targets
from cuvee.methods import measure
from cuvee.methods.job import Job
from cuvee.methods.pool import FITTED_OBJECTIVE, Prepared
from cuvee.randomness import stream
from cuvee.report.content import HeldOutSection, Pick
from cuvee.tables.design import Design
from cuvee.tables.predictor import objective_sd
from cuvee.tables.runs import Runs

NORMAL_90 = 1.6448536269514722
"""Half-width of a 90% interval in standard deviations."""
OBJECTIVE = "objective"
_HELD_OUT = "held_out.parquet"
_SCORES = "scores.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class FitConfig:
    """The regression from mixture to loss."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    model: str = DEFAULT_MODEL
    """linear, boosted-trees (RegMix), exponential (Data Mixing Laws), bivariate-power,
    effective-data-power, implicit-law, log-gaussian-process, shared-gaussian-process, distilled-law
    or ensemble, the mean of the last two."""
    n_folds: int = 5
    """Folds of the cross-validation."""

    def __post_init__(self) -> None:
        model_class(self.model)
        if self.n_folds < 2:
            raise ConfigError(f"n_folds is {self.n_folds}; it must be at least 2.")


def fit(
    job: Job,
    settings: FitConfig,
    *,
    runs: Runs,
    prepared: Prepared,
    seed: int,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Fit, cross-validate and write the predictor unless it is there.

    Args:
        job: Where.
        settings: Model and folds.
        runs: Measured; diverged ones are left out.
        prepared: The objective and the own domains.
        seed: The command's seed.
        groups: Targets by group, to find the objective's weights by; none keeps the config's.
    """
    folder = job.folder("predictor")
    if artifacts.is_done(folder):
        return
    kept = ~runs.diverged
    weights, losses = runs.weights[kept], measure.objective_losses(runs, prepared)[kept]
    own = own_columns(prepared)
    name = settings.model
    job.progress("fit", 0, 2, name)
    with one_thread():
        model = make_model(name, own=own).fit(weights, losses, rng=stream(seed, "fit", name))
        job.progress("fit", 1, 2, "cross-validation")
        validation = cross_validate(
            lambda: make_fold_model(name, own=own),
            weights,
            losses,
            n_folds=settings.n_folds,
            constant_errors=name in CONSTANT_ERRORS,
            rng=stream(seed, "cross-validation", name),
        )
    targets = prepared.objective_names
    grouped = _grouped(losses, validation, targets, groups) if groups else None
    objective = grouped.weights if grouped else prepared.objective
    scores = (
        score_objective(validation, losses, objective, name=OBJECTIVE),
        *score_targets(validation, losses, targets),
    )
    n_gone = _n_gone(runs, prepared)
    n_live = len(runs.domains) - n_gone
    named = NamedPredictor(
        model=model,
        name=name,
        domains=runs.domains[:n_live],
        targets=targets,
        gone=runs.domains[n_live:],
        error_correlation=held_out_correlation([validation], losses),
    )
    with artifacts.writing(
        folder,
        stage="fit",
        settings=config.dump(settings),
        seed=seed,
        inputs={"runs": artifacts.digest_of(job.folder("runs"))},
    ) as aside:
        write_predictor(aside, named)
        if grouped is not None:
            artifacts.write_json(aside / FITTED_OBJECTIVE, grouped.to_json(targets))
        artifacts.write_json(aside / _SCORES, scores_to_json(scores))
        run_ids = [run_id for run_id, one in zip(runs.run_ids, kept, strict=True) if one]
        pq.write_table(_held_out_table(run_ids, validation, targets), aside / _HELD_OUT)
    job.progress("fit", 2, 2, name)


def _held_out_table(
    run_ids: Sequence[str], validation: CrossValidation, targets: Sequence[str]
) -> pa.Table:
    table: dict[str, object] = {"run_id": run_ids, "fold": validation.folds}
    for column, target in enumerate(targets):
        table[f"mean:{target}"] = validation.mean[:, column]
        table[f"sd:{target}"] = validation.sd[:, column]
    return pa.table(table)


def _grouped(
    losses: FloatArray,
    validation: CrossValidation,
    targets: Sequence[str],
    groups: Mapping[str, Sequence[str]],
) -> GroupedObjective:
    names = [name.split("/", 1)[1] for name in targets]
    return group_targets(losses, validation.mean, targets=names, groups=groups)


def describe_groups(job: Job) -> tuple[str, ...]:
    """Say how groups of targets weigh and why."""
    folder = artifacts.require(job.folder("predictor"), made_by="cuvee fit")
    found = cast(dict[str, Any], artifacts.read_json(folder / FITTED_OBJECTIVE))
    parts = [
        f"{group['name']} ({', '.join(group['targets'])}) {group['weight']:.2f}, held-out rank "
        f"correlation {group['rank']:.2f}"
        for group in found["groups"]
    ]
    return (f"Targets are combined by groups, in standard deviations: {'; '.join(parts)}.",)


def _n_gone(runs: Runs, prepared: Prepared) -> int:
    """Count the last columns of reused runs, of domains that the pool no longer has."""
    domains = prepared.statistics.domains
    return len(runs.domains) - len(domains) if runs.domains[: len(domains)] == domains else 0


def load(job: Job) -> NamedPredictor:
    """Read the finished predictor."""
    return load_predictor(job.folder("predictor"))


def held_out(job: Job, design: Design, runs: Runs, prepared: Prepared) -> HeldOutSection:
    """Read the held-out predictions and set them beside measurements and baselines."""
    table = pq.read_table(
        artifacts.require(job.folder("predictor"), made_by="cuvee fit") / _HELD_OUT
    )
    kept = ~runs.diverged
    measured = measure.objective_losses(runs, prepared)[kept]
    mean, sd = (
        np.column_stack([table[f"{kind}:{name}"].to_numpy() for name in prepared.objective_names])
        for kind in ("mean", "sd")
    )
    objective = prepared.objective
    sums = (measured @ objective, mean @ objective, objective_sd(load(job), sd, objective))
    columns = [
        np.column_stack([together, one])
        for together, one in zip(sums, (measured, mean, sd), strict=True)
    ]
    ranks = [
        rank_correlation(columns[1][:, place], columns[0][:, place])
        for place in range(columns[0].shape[1])
    ]
    errors = columns[0] - columns[1]
    return HeldOutSection(
        model=load(job).name,
        n_folds=int(table["fold"].to_numpy().max()) + 1,
        columns=(OBJECTIVE, *(name.split("/", 1)[1] for name in prepared.objective_names)),
        run_ids=tuple(table["run_id"].to_pylist()),
        kinds=tuple(kind for kind, one in zip(design.kinds, kept, strict=True) if one),
        measured=columns[0],
        predicted=columns[1],
        predicted_sd=columns[2],
        rank_correlation=np.array([np.nan if rank is None else rank for rank in ranks]),
        rmse=np.sqrt(np.mean(errors**2, axis=0)),
        picks=_picks(design, kept, columns[0][:, 0], columns[1][:, 0]),
    )


def _picks(
    design: Design, kept: BoolArray, measured: FloatArray, predicted: FloatArray
) -> tuple[Pick, ...]:
    """Set what a predictor picks among the runs it had not seen beside fixed choices."""
    run_ids = [run_id for run_id, one in zip(design.run_ids, kept, strict=True) if one]
    kinds = [kind for kind, one in zip(design.kinds, kept, strict=True) if one]
    best = float(measured.min())
    losses = {"predictor (held out)": float(measured[int(np.argmin(predicted))])}
    for name in ("natural", "uniform"):
        if name in run_ids:
            losses[name] = float(measured[run_ids.index(name)])
    own = [loss for loss, kind in zip(measured, kinds, strict=True) if kind == "own"]
    if own:
        losses["best near own domains"] = float(min(own))
    losses["best measured"] = best
    losses["by chance"] = float(measured.mean())
    return tuple(Pick(name=name, loss=loss, regret=loss - best) for name, loss in losses.items())


def own_columns(prepared: Prepared) -> tuple[int | None, ...]:
    """Return the (n_targets,) column of each target's first own domain; None where it has none."""
    domains = prepared.statistics.domains
    return tuple(
        domains.index(own[0]) if own else None
        for own in (prepared.own_domains.get(name, ()) for name in prepared.objective_names)
    )
