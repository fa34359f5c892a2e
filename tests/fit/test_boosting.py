"""Boosted trees and their settings."""

import numpy as np
import pytest

from cuvee.arrays import FloatArray
from cuvee.errors import ConfigError
from cuvee.fit.boosting import FEW_RUNS, PAPER, BoostedTrees, TreeSettings


def _runs(n_runs: int) -> tuple[FloatArray, FloatArray]:
    weights = np.random.default_rng(2).dirichlet(np.ones(3), size=n_runs)
    return weights, (3.0 - weights[:, :1] + weights[:, 1:2] ** 2)


def test_paper_settings_return_a_constant_for_few_runs() -> None:
    """Leaves of 20 runs cannot split 32; this is why the settings adapt."""
    weights, losses = _runs(32)
    paper = BoostedTrees(settings=PAPER).fit(weights, losses, rng=np.random.default_rng(0))
    assert np.ptp(paper.predict(weights)[0]) < 1e-12
    adapted = BoostedTrees().fit(weights, losses, rng=np.random.default_rng(0))
    assert np.corrcoef(adapted.predict(weights)[0][:, 0], losses[:, 0])[0, 1] > 0.95


def test_settings_follow_the_number_of_runs() -> None:
    """The same text of trees as with the settings given."""
    weights, losses = _runs(256)
    for n_runs, settings in ((255, FEW_RUNS), (256, PAPER)):
        runs = weights[:n_runs], losses[:n_runs]
        adapted = BoostedTrees(n_folds=0).fit(*runs, rng=np.random.default_rng(0))
        given = BoostedTrees(settings=settings, n_folds=0).fit(*runs, rng=np.random.default_rng(0))
        assert adapted.boosters_ == given.boosters_


def test_error_is_that_of_folds_left_out() -> None:
    """Above the error on the fitted runs; without folds, the losses' own spread."""
    weights, losses = _runs(40)
    settings = TreeSettings(n_rounds=200, learning_rate=0.1, n_leaves=8, min_rows=1)
    model = BoostedTrees(settings=settings).fit(weights, losses, rng=np.random.default_rng(0))
    mean, sd = model.predict(weights)
    assert sd[0, 0] > 2.0 * np.sqrt(np.mean((mean - losses) ** 2))
    assert np.ptp(sd) == 0.0
    quick = BoostedTrees(n_folds=0).fit(weights, losses, rng=np.random.default_rng(0))
    assert quick.residual_sd_[0] == losses.std()


def test_settings_survive_saving() -> None:
    """Constructor arguments come back with the trees."""
    weights, losses = _runs(20)
    settings = TreeSettings(n_rounds=20, learning_rate=0.1, n_leaves=4, min_rows=2)
    model = BoostedTrees(settings=settings, n_folds=2).fit(
        weights, losses, rng=np.random.default_rng(0)
    )
    loaded = BoostedTrees.from_json(model.to_json())
    assert (loaded.settings, loaded.n_folds) == (settings, 2)


def test_impossible_settings_are_refused() -> None:
    """Found, allowed, remedy."""
    with pytest.raises(ConfigError, match="n_leaves from 2"):
        TreeSettings(n_rounds=10, learning_rate=0.1, n_leaves=1, min_rows=1)
    with pytest.raises(ConfigError, match="n_folds is 1; give at least 2"):
        BoostedTrees(n_folds=1)
