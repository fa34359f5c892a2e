"""How good a predictor is on runs it has not seen, beside what is known without one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import rankdata

from cuvee.arrays import FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.errors import ConfigError
from cuvee.fit.error_correlation import error_correlation
from cuvee.fit.training_rows import check_training_rows
from cuvee.tables.predictor import Predictor

INTERVAL = 0.9
"""Share of runs that an interval of 1.645 standard deviations should hold."""
_INTERVAL_WIDTH = 1.6448536269514722
_REPEATED_ROWS = 64
"""Predictions of held-out runs that a score should rest on; fewer runs are left out repeatedly."""
_MAXIMUM_REPEATS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossValidation:
    """Predictions of every run by a model that has not seen it."""

    mean: FloatArray
    """(n_runs, n_targets) predicted losses."""
    sd: FloatArray
    """(n_runs, n_targets) their standard deviations."""
    fold_mean: FloatArray
    """(n_runs, n_targets) mean loss of the runs the model was fitted on: the baseline."""
    nearest: FloatArray
    """(n_runs, n_targets) loss of that run the model was fitted on whose mixture is nearest."""
    folds: IntArray
    """(n_runs,) number of the fold each run was left out in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One target's cross-validated figures; losses in the unit they were measured in."""

    target: str
    n_runs: int
    rank: float | None
    """Spearman correlation of predicted and measured; None where either is constant."""
    rmse: float
    """Root mean square error."""
    mae: float
    """Mean absolute error."""
    coverage: float
    """Share of runs inside the 90% interval."""
    regret: float
    """Loss of the run with the lowest prediction, minus the best measured."""
    baseline_rmse: float
    """Root mean square error of predicting the mean of the other folds."""
    baseline_regret: float
    """Mean loss of all runs minus the best measured: the regret of a run taken by chance."""


def cross_validate(
    make_model: Callable[[], Predictor],
    weights: FloatArray,
    losses: FloatArray,
    *,
    n_folds: int = 5,
    constant_errors: bool = False,
    folds: IntArray | None = None,
    rng: np.random.Generator,
) -> CrossValidation:
    """Predict every run by a model fitted on the other folds.

    Runs of one mixture fall into one fold, so that no model has seen the mixture it is asked about.

    Args:
        make_model: Makes an unfitted predictor.
        weights: (n_runs, n_domains) token shares; rows sum to 1.
        losses: (n_runs, n_targets) finite.
        n_folds: At least 2; fewer are used where there are fewer distinct mixtures.
        constant_errors: Take a fold's standard deviation from the errors in the other folds, not
            from the model.
        folds: (n_runs,) fold numbers, from `assign_folds`; None assigns them here.
        rng: Assigns mixtures to folds; handed to the fits.

    Returns:
        The held-out predictions.

    Raises:
        ConfigError: Fewer than 2 folds are asked for, or there are fewer than 4 runs.
        DataError: The runs are not what they must be.
    """
    shares, measured = check_training_rows(weights, losses)
    if folds is None:
        folds = assign_folds(shares, n_folds=n_folds, rng=rng)
    mean, sd, fold_mean, nearest = (np.empty_like(measured) for _ in range(4))
    for fold in np.unique(folds):
        out = folds == fold
        model = make_model().fit(shares[~out], measured[~out], rng=rng)
        mean[out], sd[out] = model.predict(shares[out])
        fold_mean[out] = measured[~out].mean(axis=0)
        distance = cdist(shares[out], shares[~out], metric="cityblock")
        nearest[out] = measured[~out][np.argmin(distance, axis=1)]
    if constant_errors:
        for fold in np.unique(folds):
            out = folds == fold
            sd[out] = np.sqrt(np.mean((measured - mean)[~out] ** 2, axis=0))
    return CrossValidation(mean=mean, sd=sd, fold_mean=fold_mean, nearest=nearest, folds=folds)


def n_repeats(n_runs: int) -> int:
    """Return how often to repeat a cross-validation with other folds: 5 times at 8 runs, 1 at 64.

    Args:
        n_runs: Number of runs.
    """
    return max(1, min(_MAXIMUM_REPEATS, round(_REPEATED_ROWS / n_runs)))


def assign_folds(weights: FloatArray, *, n_folds: int, rng: np.random.Generator) -> IntArray:
    """Assign runs to folds of nearly equal size, equal mixtures to one fold.

    Args:
        weights: (n_runs, n_domains) token shares; rows sum to 1.
        n_folds: At least 2.
        rng: Shuffles the mixtures.

    Returns:
        (n_runs,) fold numbers from 0.

    Raises:
        ConfigError: There are fewer than 2 folds, 4 runs or 2 distinct mixtures.
    """
    mixture = np.unique(weights.round(9), axis=0, return_inverse=True)[1].reshape(-1)
    n_mixtures = int(mixture.max()) + 1
    if n_folds < 2 or len(weights) < 4 or n_mixtures < 2:
        raise ConfigError(
            f"{len(weights)} runs of {n_mixtures} mixtures in {n_folds} folds cannot be "
            "cross-validated; it takes at least 4 runs, 2 distinct mixtures and 2 folds."
        )
    fold_of_mixture = rng.permutation(np.arange(n_mixtures) % min(n_folds, n_mixtures))
    return cast(IntArray, fold_of_mixture[mixture].astype(np.int64))


def score_targets(
    validation: CrossValidation, losses: FloatArray, targets: tuple[str, ...]
) -> tuple[Score, ...]:
    """Sum cross-validation up, one row a target.

    Args:
        validation: Held-out predictions.
        losses: (n_runs, n_targets) measured.
        targets: (n_targets,) names.
    """
    return tuple(
        score_predictions(
            target,
            measured=losses[:, column],
            mean=validation.mean[:, column],
            sd=validation.sd[:, column],
            baseline=validation.fold_mean[:, column],
        )
        for column, target in enumerate(targets)
    )


def score_objective(
    validation: CrossValidation, losses: FloatArray, objective: FloatArray, *, name: str
) -> Score:
    """Sum cross-validation up for a weighted sum of the targets.

    Every target is predicted separately and the predictions are added up; the interval takes the
    correlation of the targets' errors from the same held-out runs.

    Args:
        validation: Held-out predictions.
        losses: (n_runs, n_targets) measured.
        objective: (n_targets,) weights, at least 0.
        name: What to call it.
    """
    correlation = held_out_correlation([validation], losses)
    parts = validation.sd * objective
    return score_predictions(
        name,
        measured=losses @ objective,
        mean=validation.mean @ objective,
        sd=np.sqrt(np.einsum("nt,tu,nu->n", parts, correlation, parts)),
        baseline=validation.fold_mean @ objective,
    )


def jackknife_coverage(validation: CrossValidation, losses: FloatArray) -> float | None:
    """Check intervals that trust held-out errors, not the model's own deviation.

    A fold's intervals reach as far as 90% of the errors in the other folds do, the quantile taken
    at ``ceil(.9 (n + 1))`` of n.

    Args:
        validation: Held-out predictions.
        losses: (n_runs, n_targets) measured.

    Returns:
        Share of single losses in their intervals; None where the other folds hold too few runs for
        a 90% quantile, fewer than 9.

    Source: Barber, Candes, Ramdas, Tibshirani (2021), Predictive inference with the jackknife+: the
        jackknife's intervals, by folds.
    """
    reach = np.abs(losses - validation.mean)
    inside = np.zeros(losses.shape, dtype=np.bool_)
    for fold in np.unique(validation.folds):
        out = validation.folds == fold
        others = np.sort(reach[~out], axis=0)
        place = int(np.ceil(INTERVAL * (len(others) + 1))) - 1
        if place >= len(others):
            return None
        inside[out] = reach[out] <= others[place]
    return float(inside.mean())


def held_out_correlation(validations: Sequence[CrossValidation], losses: FloatArray) -> FloatArray:
    """Estimate how the targets' held-out errors move together.

    Args:
        validations: Held-out predictions of the same runs, once or more.
        losses: (n_runs, n_targets) measured.

    Returns:
        (n_targets, n_targets) correlation, see `fit.error_correlation`.
    """
    return error_correlation(
        [(losses - one.mean) / np.maximum(one.sd, 1e-300) for one in validations]
    )


def score_predictions(
    target: str,
    *,
    measured: FloatArray,
    mean: FloatArray,
    sd: FloatArray,
    baseline: FloatArray,
) -> Score:
    """Compare predictions of one target with measurements.

    Args:
        target: Its name.
        measured: (n_runs,) losses.
        mean: (n_runs,) predictions.
        sd: (n_runs,) their standard deviations.
        baseline: (n_runs,) predictions of the baseline.
    """
    errors = measured - mean
    best = float(measured.min())
    return Score(
        target=target,
        n_runs=len(measured),
        rank=rank_correlation(mean, measured),
        rmse=float(np.sqrt(np.mean(errors**2))),
        mae=float(np.mean(np.abs(errors))),
        coverage=float(np.mean(np.abs(errors) <= _INTERVAL_WIDTH * sd)),
        regret=float(measured[int(np.argmin(mean))]) - best,
        baseline_rmse=float(np.sqrt(np.mean((measured - baseline) ** 2))),
        baseline_regret=float(measured.mean()) - best,
    )


def mean_score(scores: Sequence[Score]) -> Score:
    """Average the scores of one target over repeated cross-validations.

    Args:
        scores: At least one, of one target. The rank is averaged over those that have one.
    """
    ranks = [score.rank for score in scores if score.rank is not None]
    return replace(
        scores[0],
        rank=float(np.mean(ranks)) if ranks else None,
        rmse=float(np.mean([score.rmse for score in scores])),
        mae=float(np.mean([score.mae for score in scores])),
        coverage=float(np.mean([score.coverage for score in scores])),
        regret=float(np.mean([score.regret for score in scores])),
        baseline_rmse=float(np.mean([score.baseline_rmse for score in scores])),
        baseline_regret=float(np.mean([score.baseline_regret for score in scores])),
    )


def rank_correlation(one: FloatArray, other: FloatArray) -> float | None:
    """Compute Spearman's rank correlation; None where a side is constant.

    Args:
        one: (n,) values.
        other: (n,) values.
    """
    first, second = rankdata(one), rankdata(other)
    first, second = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((first @ first) * (second @ second)))
    return None if scale == 0.0 else float(first @ second) / scale


def baseline_mixtures(
    natural: FloatArray,
    weights: FloatArray,
    losses: FloatArray,
    *,
    own: tuple[int | None, ...] | None,
    objective: FloatArray,
) -> dict[str, FloatArray]:
    """Name the mixtures that every table of results stands beside.

    Args:
        natural: (n_domains,) shares of the pool's tokens.
        weights: (n_runs, n_domains) measured mixtures.
        losses: (n_runs, n_targets) their losses.
        own: (n_targets,) column of each target's own domain, None where it has none.
        objective: (n_targets,) weights of the targets.

    Returns:
        (n_domains,) weights of ``natural``, ``uniform``, ``uniform-own`` (over the own domains of
        the targets, where there are any) and ``best-measured``.
    """
    n_domains = len(natural)
    baselines = {"natural": natural, "uniform": np.full(n_domains, 1.0 / n_domains)}
    columns = sorted({column for column in own or () if column is not None})
    if columns:
        uniform_own = np.zeros(n_domains)
        uniform_own[columns] = 1.0 / len(columns)
        baselines["uniform-own"] = uniform_own
    baselines["best-measured"] = weights[int(np.argmin(losses @ objective))]
    return baselines


def scores_to_json(scores: tuple[Score, ...]) -> list[Json]:
    """Return scores as plain JSON, one mapping a target."""
    return [
        {
            "target": score.target,
            "n_runs": score.n_runs,
            "rank": score.rank,
            "rmse": score.rmse,
            "mae": score.mae,
            "coverage": score.coverage,
            "regret": score.regret,
            "baseline_rmse": score.baseline_rmse,
            "baseline_regret": score.baseline_regret,
        }
        for score in scores
    ]
