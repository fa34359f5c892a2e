"""Which predictor suits these runs: all of them cross-validated on the same folds, in one table."""

import logging
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TypeAlias, cast

import numpy as np

from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.errors import ConfigError, CuveeError, CuveeWarning
from cuvee.fit.crossval import (
    CrossValidation,
    Score,
    assign_folds,
    baseline_mixtures,
    cross_validate,
    jackknife_coverage,
    mean_score,
    n_repeats,
    score_objective,
    score_targets,
)
from cuvee.fit.models import CONSTANT_ERRORS, MODELS, make_fold_model
from cuvee.randomness import stream
from cuvee.tables.swarm import Swarm

logger = logging.getLogger(__name__)

OnProgress: TypeAlias = Callable[[int, int, str], None]
"""Called with cross-validations done, cross-validations in all and the model at work."""
Own: TypeAlias = tuple[int | None, ...] | None

N_FOLDS = 5
MINIMUM_RUNS = 4
"""Fewer runs, or fewer distinct mixtures, can be fitted but not cross-validated."""
TIE = 0.02
"""Share by which a model's error may exceed the least one and still count as equal."""
RULE = (
    f"least held-out error of the objective; models within {TIE:.0%} of it tie, and the simplest "
    "of them wins (the order of the models' list, piecewise constant ones last)"
)
MEAN_BASELINE = "mean of other folds"
NEAREST_BASELINE = "nearest measured mixture"


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """One model or baseline: its held-out figures, losses in the unit of the table."""

    name: str
    rank: float | None = None
    """Spearman correlation for the objective; None where it has none."""
    rmse: float | None = None
    """Root mean square error of the objective; None where the model could not be fitted."""
    regret: float | None = None
    """Objective of the run it would pick, minus the best measured."""
    coverage: float | None = None
    """Share of runs whose objective lies in the 90% interval, which is wide by intention."""
    targets_rank: float | None = None
    """Spearman correlation of single targets, mean over them."""
    targets_coverage: float | None = None
    """Share of single losses in their 90% intervals: about .9 where they are calibrated."""
    targets_jackknife: float | None = None
    """The same for intervals as wide as the errors in other folds were, whatever the model says."""
    n_warnings: int = 0
    """Warnings of the fits, such as one that did not converge."""
    failure: str | None = None
    """Why it could not be fitted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pick:
    """What a choice that needs no model would have cost: the measured run nearest to it."""

    name: str
    run: str
    distance: float
    """Share of tokens that differs between that run and the mixture it stands for."""
    regret: float
    """Its objective minus the best measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaderboard:
    """All models on the same held-out runs, best first, and what is known without a model."""

    objective: Mapping[str, float]
    """Weight of each target in the objective; they sum to 1."""
    n_runs: int
    n_folds: int
    n_repeats: int
    rule: str
    winner: str
    models: tuple[Standing, ...]
    baselines: tuple[Standing, ...]
    picks: tuple[Pick, ...]

    def to_json(self) -> dict[str, Json]:
        """Return the leaderboard as plain JSON."""
        return cast(dict[str, Json], asdict(self))


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """A model's predictions of runs it has not seen, once for each repeat."""

    validations: tuple[CrossValidation, ...]
    n_warnings: int = 0

    def scores(
        self, swarm: Swarm, objective: FloatArray, *, objective_name: str
    ) -> tuple[Score, ...]:
        """Score each target, then the objective, averaged over the repeats.

        Args:
            swarm: The runs.
            objective: (n_targets,) weights of the targets.
            objective_name: What to call their sum.
        """
        repeats = [
            (
                *score_targets(one, swarm.losses, swarm.targets),
                score_objective(one, swarm.losses, objective, name=objective_name),
            )
            for one in self.validations
        ]
        return tuple(mean_score(scores) for scores in zip(*repeats, strict=True))


def can_validate(swarm: Swarm) -> bool:
    """Tell whether there are runs and distinct mixtures enough to leave some out."""
    n_mixtures = len(np.unique(swarm.weights.round(9), axis=0))
    return min(len(swarm.ids), n_mixtures) >= MINIMUM_RUNS


def hold_out(
    model: str, swarm: Swarm, *, own: Own, seed: int, on_repeat: Callable[[], None] = lambda: None
) -> HeldOut:
    """Cross-validate one model, repeatedly where runs are few.

    The folds depend on the seed alone, so that all models are asked about the same runs.

    Args:
        model: A key of `fit.models.MODELS`.
        swarm: The runs.
        own: (n_targets,) column of each target's own domain, or None.
        seed: Of folds and fits.
        on_repeat: Called after each repeat.
    """
    validations = []
    for repeat in range(n_repeats(len(swarm.ids))):
        folds = assign_folds(swarm.weights, n_folds=N_FOLDS, rng=stream(seed, "folds", repeat))
        validations.append(
            cross_validate(
                lambda: make_fold_model(model, own=own),
                swarm.weights,
                swarm.losses,
                constant_errors=model in CONSTANT_ERRORS,
                folds=folds,
                rng=stream(seed, "cross-validation", model, repeat),
            )
        )
        on_repeat()
    return HeldOut(validations=tuple(validations))


def compare_models(
    swarm: Swarm,
    *,
    own: Own,
    objective: FloatArray,
    seed: int,
    models: tuple[str, ...] | None = None,
    on_progress: OnProgress = lambda done, total, note: None,
) -> tuple[Leaderboard, HeldOut, dict[str, float]]:
    """Cross-validate models on the same folds and rank them.

    A model that cannot be fitted to these runs is listed with the reason and cannot win.

    Args:
        swarm: The runs.
        own: (n_targets,) column of each target's own domain, or None.
        objective: (n_targets,) weights of the targets, summing to 1; every target is predicted
            separately and the predictions are added up.
        seed: Of folds and fits.
        models: Keys of `fit.models.MODELS`; None: all.
        on_progress: Told how far it is.

    Returns:
        The leaderboard, the winner's predictions, and the seconds each model took.

    Raises:
        ConfigError: There are too few runs, or no model can be fitted to them.
    """
    if not can_validate(swarm):
        raise ConfigError(
            f"model 'auto' compares models on held-out runs, but there are {len(swarm.ids)} runs; "
            f"it takes {MINIMUM_RUNS} distinct mixtures. Measure more, or name a model."
        )
    models = tuple(MODELS) if models is None else models
    repeats = n_repeats(len(swarm.ids))
    found: dict[str, HeldOut] = {}
    standings, seconds = [], {}
    for place, model in enumerate(models):
        on_progress(place * repeats, len(models) * repeats, model)
        started = time.perf_counter()
        try:
            found[model] = _hold_out_quietly(model, swarm, own=own, seed=seed)
            standings.append(_standing(model, found[model], swarm, objective))
        except CuveeError as error:
            standings.append(Standing(name=model, failure=str(error)))
        seconds[model] = round(time.perf_counter() - started, 3)
        logger.info("%s: %s in %.1f s", model, standings[-1], seconds[model])
    on_progress(len(models) * repeats, len(models) * repeats, "")
    winner = choose(standings)
    board = Leaderboard(
        objective=dict(zip(swarm.targets, objective.tolist(), strict=True)),
        n_runs=len(swarm.ids),
        n_folds=int(found[winner].validations[0].folds.max()) + 1,
        n_repeats=repeats,
        rule=RULE,
        winner=winner,
        models=tuple(sorted(standings, key=_error)),
        baselines=_baselines(found[winner], swarm, objective),
        picks=_picks(swarm, own, objective),
    )
    return board, found[winner], seconds


def choose(standings: list[Standing]) -> str:
    """Choose a model by `RULE`.

    Args:
        standings: In any order; those without an error could not be fitted.

    Raises:
        ConfigError: No model could be fitted.
    """
    fitted = [one for one in standings if one.rmse is not None]
    if not fitted:
        reasons = "; ".join(f"{one.name}: {one.failure}" for one in standings)
        raise ConfigError(f"no model can be fitted to these runs ({reasons}). Correct the tables.")
    order = {name: (name in CONSTANT_ERRORS, place) for place, name in enumerate(MODELS)}
    limit = min(map(_error, fitted)) * (1.0 + TIE)
    return min(
        (one for one in fitted if _error(one) <= limit), key=lambda one: order[one.name]
    ).name


def _hold_out_quietly(model: str, swarm: Swarm, *, own: Own, seed: int) -> HeldOut:
    """Cross-validate, counting our own warnings instead of showing each; hand on all others."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CuveeWarning)
        held_out = hold_out(model, swarm, own=own, seed=seed)
    ours = [one for one in caught if issubclass(one.category, CuveeWarning)]
    for one in caught:
        if one not in ours:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return HeldOut(validations=held_out.validations, n_warnings=len(ours))


def _standing(model: str, held_out: HeldOut, swarm: Swarm, objective: FloatArray) -> Standing:
    *targets, composed = held_out.scores(swarm, objective, objective_name=model)
    return Standing(
        name=model,
        rank=composed.rank,
        rmse=composed.rmse,
        regret=composed.regret,
        coverage=composed.coverage,
        targets_rank=_mean([one.rank for one in targets]),
        targets_coverage=_mean([one.coverage for one in targets]),
        targets_jackknife=_mean(
            [jackknife_coverage(one, swarm.losses) for one in held_out.validations]
        ),
        n_warnings=held_out.n_warnings,
    )


def _baselines(held_out: HeldOut, swarm: Swarm, objective: FloatArray) -> tuple[Standing, ...]:
    """Score what needs no model: the mean of the other folds, and the nearest mixture in them."""
    by_nearest = HeldOut(
        validations=tuple(replace(one, mean=one.nearest) for one in held_out.validations)
    )
    composed = by_nearest.scores(swarm, objective, objective_name=MEAN_BASELINE)[-1]
    nearest = _standing(NEAREST_BASELINE, by_nearest, swarm, objective)
    return (
        Standing(name=MEAN_BASELINE, rmse=composed.baseline_rmse, regret=composed.baseline_regret),
        replace(nearest, coverage=None, targets_coverage=None),
    )


def _picks(swarm: Swarm, own: Own, objective: FloatArray) -> tuple[Pick, ...]:
    """Set the measured runs nearest to the fixed mixtures beside the best measured one."""
    measured = swarm.losses @ objective
    fixed = baseline_mixtures(
        swarm.weights.mean(axis=0), swarm.weights, swarm.losses, own=own, objective=objective
    )
    fixed = {"mean of the measured": fixed.pop("natural"), **fixed}
    del fixed["best-measured"]
    picks = []
    for name, mixture in fixed.items():
        distance = np.abs(swarm.weights - mixture).sum(axis=1) / 2.0
        row = int(np.argmin(distance))
        picks.append(
            Pick(
                name=name,
                run=swarm.ids[row],
                distance=float(distance[row]),
                regret=float(measured[row] - measured.min()),
            )
        )
    return tuple(picks)


def _error(standing: Standing) -> float:
    return np.inf if standing.rmse is None else standing.rmse


def _mean(values: list[float] | list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
