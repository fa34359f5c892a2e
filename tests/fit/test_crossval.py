"""Cross-validation and what stands beside it."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from cuvee.arrays import FloatArray
from cuvee.errors import ConfigError
from cuvee.fit.boosting import BoostedTrees
from cuvee.fit.crossval import (
    assign_folds,
    baseline_mixtures,
    cross_validate,
    jackknife_coverage,
    mean_score,
    n_repeats,
    rank_correlation,
    score_objective,
    score_predictions,
    score_targets,
    scores_to_json,
)
from cuvee.fit.linear import LinearMixture


def _runs(n_runs: int = 20) -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(3), size=n_runs)
    slopes = np.array([[2.0, 1.0], [3.0, 4.0], [2.5, 2.0]])
    return weights, weights @ slopes + 0.02 * rng.normal(size=(n_runs, 2))


def test_no_fit_sees_the_run_it_predicts() -> None:
    """Each prediction equals that of a model fitted by hand on the other folds."""
    weights, losses = _runs()
    validation = cross_validate(
        LinearMixture, weights, losses, n_folds=4, rng=np.random.default_rng(1)
    )
    assert np.bincount(validation.folds).tolist() == [5, 5, 5, 5]
    for fold in range(4):
        out = validation.folds == fold
        model = LinearMixture().fit(weights[~out], losses[~out], rng=np.random.default_rng(0))
        np.testing.assert_allclose(validation.mean[out], model.predict(weights[out])[0])
        np.testing.assert_allclose(validation.fold_mean[out][0], losses[~out].mean(axis=0))


def test_repeated_mixtures_share_a_fold() -> None:
    """A run must not be predicted from its twin."""
    weights = np.repeat(np.random.default_rng(0).dirichlet(np.ones(3), size=6), 3, axis=0)
    folds = assign_folds(weights, n_folds=3, rng=np.random.default_rng(0))
    assert all(len(set(folds[start : start + 3])) == 1 for start in range(0, 18, 3))
    assert set(folds) == {0, 1, 2}


def test_nearest_mixture_is_one_the_model_was_fitted_on() -> None:
    """The baseline reads the loss of the nearest run of the other folds."""
    weights, losses = _runs()
    validation = cross_validate(LinearMixture, weights, losses, rng=np.random.default_rng(1))
    for row in range(len(weights)):
        others = np.flatnonzero(validation.folds != validation.folds[row])
        distance = np.abs(weights[others] - weights[row]).sum(axis=1)
        np.testing.assert_array_equal(validation.nearest[row], losses[others[distance.argmin()]])


def test_folds_may_be_given() -> None:
    """So that several models are asked about the same runs."""
    weights, losses = _runs(6)
    folds = np.array([0, 0, 1, 1, 2, 2])
    validation = cross_validate(
        LinearMixture, weights, losses, folds=folds, rng=np.random.default_rng(1)
    )
    np.testing.assert_array_equal(validation.folds, folds)
    np.testing.assert_allclose(validation.fold_mean[0], losses[2:].mean(axis=0))


@pytest.mark.parametrize(
    ("n_runs", "repeats"), [(4, 5), (8, 5), (16, 4), (32, 2), (64, 1), (512, 1)]
)
def test_few_runs_are_left_out_more_often(n_runs: int, repeats: int) -> None:
    """About 64 held-out predictions, at most five times."""
    assert n_repeats(n_runs) == repeats


def test_scores_are_averaged_over_repeats() -> None:
    """A rank that is missing in one repeat does not count."""
    measured, baseline = np.array([1.0, 2.0, 3.0]), np.full(3, 2.0)
    one, other = (
        score_predictions("x", measured=measured, mean=mean, sd=np.ones(3), baseline=baseline)
        for mean in (measured, np.full(3, 5.0))
    )
    mean = mean_score([one, other])
    assert (mean.rank, mean.rmse) == (1.0, pytest.approx(other.rmse / 2.0))
    assert (mean.coverage, mean.regret) == (0.5, other.regret / 2.0)
    assert mean_score([other]) == other


def test_constant_errors_come_from_the_other_folds() -> None:
    """The deviation of a fold is the error of the runs outside it."""
    weights, losses = _runs()
    validation = cross_validate(
        lambda: BoostedTrees(n_folds=0),
        weights,
        losses,
        n_folds=4,
        constant_errors=True,
        rng=np.random.default_rng(1),
    )
    out = validation.folds == 2
    expected = np.sqrt(np.mean((losses - validation.mean)[~out] ** 2, axis=0))
    np.testing.assert_allclose(validation.sd[out], np.tile(expected, (5, 1)))


def test_scores_by_hand() -> None:
    """Four runs whose figures can be told by eye."""
    score = score_predictions(
        "x",
        measured=np.array([1.0, 2.0, 3.0, 4.0]),
        mean=np.array([1.5, 1.0, 3.0, 4.0]),
        sd=np.array([0.4, 0.4, 0.4, 0.4]),
        baseline=np.full(4, 2.5),
    )
    assert score.rank == pytest.approx(0.8)
    assert score.rmse == pytest.approx(np.sqrt(1.25 / 4))
    assert score.mae == pytest.approx(1.5 / 4)
    assert score.coverage == 0.75
    assert (score.regret, score.baseline_regret) == (1.0, 1.5)
    assert score.baseline_rmse == pytest.approx(np.sqrt(5.0 / 4))
    assert scores_to_json((score,))[0] == {
        "target": "x",
        "n_runs": 4,
        "rank": score.rank,
        "rmse": score.rmse,
        "mae": score.mae,
        "coverage": 0.75,
        "regret": 1.0,
        "baseline_rmse": score.baseline_rmse,
        "baseline_regret": 1.5,
    }


def test_objective_adds_predictions_up() -> None:
    """One score a target, and one of their weighted sum."""
    weights, losses = _runs()
    validation = cross_validate(LinearMixture, weights, losses, rng=np.random.default_rng(1))
    scores = score_targets(validation, losses, ("x", "y"))
    assert [score.target for score in scores] == ["x", "y"]
    single = score_objective(validation, losses, np.array([0.0, 1.0]), name="y")
    assert single == scores[1]
    both = score_objective(validation, losses, np.array([0.5, 0.5]), name="mean")
    expected = (losses - validation.mean).mean(axis=1)
    assert both.rmse == pytest.approx(np.sqrt(np.mean(expected**2)))


def test_rank_correlation_equals_scipy() -> None:
    """Ties included; constants have no rank."""
    rng = np.random.default_rng(0)
    one, other = rng.integers(5, size=30).astype(float), rng.integers(5, size=30).astype(float)
    assert rank_correlation(one, other) == pytest.approx(float(spearmanr(one, other)[0]))
    assert rank_correlation(np.ones(4), np.arange(4.0)) is None


def test_baselines_are_named_mixtures() -> None:
    """Natural, uniform, uniform over own domains, best measured."""
    weights = np.eye(4)
    losses = np.array([[3.0, 1.0], [1.0, 1.5], [2.0, 2.0], [4.0, 4.0]])
    natural = np.array([0.4, 0.3, 0.2, 0.1])
    named = baseline_mixtures(
        natural, weights, losses, own=(2, None), objective=np.array([0.5, 0.5])
    )
    assert {name: mixture.tolist() for name, mixture in named.items()} == {
        "natural": natural.tolist(),
        "uniform": [0.25] * 4,
        "uniform-own": [0.0, 0.0, 1.0, 0.0],
        "best-measured": [0.0, 1.0, 0.0, 0.0],
    }
    assert "uniform-own" not in baseline_mixtures(
        natural, weights, losses, own=None, objective=np.array([1.0, 0.0])
    )


def test_too_few_runs_or_mixtures_are_refused() -> None:
    """Folds need something on both sides."""
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="3 runs of 3 mixtures in 5 folds cannot"):
        assign_folds(np.eye(3), n_folds=5, rng=rng)
    with pytest.raises(ConfigError, match="8 runs of 1 mixtures"):
        assign_folds(np.full((8, 2), 0.5), n_folds=5, rng=rng)


def test_jackknife_intervals_cover_whatever_the_model_claims() -> None:
    """About nine in ten, though the deviation claimed is far too small; few runs: none."""
    rng = np.random.default_rng(3)
    weights = rng.dirichlet(np.ones(4), size=200)
    losses = weights @ rng.uniform(1, 3, size=(4, 3)) + 0.1 * rng.standard_normal((200, 3))
    validation = replace(
        cross_validate(LinearMixture, weights, losses, rng=np.random.default_rng(1)),
        sd=np.full((200, 3), 1e-6),
    )
    assert jackknife_coverage(validation, losses) == pytest.approx(0.9, abs=0.03)
    few = cross_validate(LinearMixture, weights[:8], losses[:8], rng=np.random.default_rng(1))
    assert jackknife_coverage(few, losses[:8]) is None
