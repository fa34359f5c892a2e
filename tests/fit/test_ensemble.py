"""The mean of process and law, and what happens where they part."""

import numpy as np
import pytest

from cuvee.arrays import FloatArray
from cuvee.fit.ensemble import TRUSTED, Ensemble


@pytest.fixture(scope="module")
def model() -> Ensemble:
    """An ensemble of few runs."""
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(3), size=12)
    losses = 2.0 + 0.3 * (0.02 + weights[:, :1] + 0.1 * weights[:, 1:2]) ** -0.4
    losses += 0.02 * rng.standard_normal(losses.shape)
    return Ensemble(own=(0,)).fit(weights, losses, rng=np.random.default_rng(1))


@pytest.fixture
def new() -> FloatArray:
    """Mixtures nobody measured."""
    return np.vstack([np.random.default_rng(2).dirichlet(np.ones(3), size=5), np.eye(3)])


def test_disagreement_widens_the_interval(model: Ensemble, new: FloatArray) -> None:
    """Mean of both means; variance of the process plus the square of half their difference."""
    mean, sd = model.predict(new)
    (process, process_sd), law = model.process_.predict(new), model.law_.mean(new)
    near = np.abs(law - process) <= TRUSTED * process_sd
    assert near.any()
    np.testing.assert_allclose(mean[near], ((process + law) / 2.0)[near], rtol=1e-12)
    wide = process_sd**2 + ((process - law) / 2.0) ** 2
    np.testing.assert_allclose((sd**2)[near], wide[near], rtol=1e-12)


def test_a_law_that_runs_away_is_heard_less(
    model: Ensemble, new: FloatArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However far off it is, it moves the mean by no more than the process's own doubt."""
    process, sd = model.process_.predict(new)
    for far in (10.0, 1e6):
        monkeypatch.setattr(model.law_, "mean", lambda _, far=far: process + far * sd)
        mean, wider = model.predict(new)
        np.testing.assert_allclose(mean - process, 0.5 * TRUSTED**2 / far * sd, rtol=1e-6)
        assert (np.abs(mean - process) <= sd).all()
        assert (wider >= sd).all()


def test_vertices_nobody_owns_stay_in_reach() -> None:
    """Far from all runs the prediction stays within a few ranges of what was measured."""
    rng = np.random.default_rng(5)
    weights = np.zeros((16, 5))
    weights[:, :4] = rng.dirichlet(np.full(4, 0.5), size=16)
    losses = 2.0 + 0.3 * (0.001 + weights[:, :2]) ** -0.3
    fitted = Ensemble(own=(0, 1)).fit(weights, losses, rng=rng)
    mean, sd = fitted.predict(np.eye(5))
    assert (mean < losses.max(axis=0) + 2.0 * np.ptp(losses, axis=0)).all()
    assert (sd[4] > sd[:2].min(axis=0)).all()


def test_change_is_the_difference_of_two_predictions(model: Ensemble, new: FloatArray) -> None:
    """In the mean; the law's part widens the process's doubt."""
    mean, sd = model.change(new, new[0])
    both, _ = model.predict(new)
    np.testing.assert_allclose(mean, both - both[0], atol=1e-9)
    assert (sd >= model.process_.change(new, new[0])[1]).all()
