"""Ordinary least squares on shares."""

import logging

import numpy as np
import pytest

from cuvee.fit.linear import LinearMixture

RNG_SEED = 3


def test_planted_slopes_are_recovered() -> None:
    """Exact losses give exact slopes and no error."""
    rng = np.random.default_rng(RNG_SEED)
    slopes = np.array([[2.0, 5.0], [3.0, 4.0], [2.5, 1.0]])
    weights = rng.dirichlet(np.ones(3), size=12)
    model = LinearMixture().fit(weights, weights @ slopes, rng=rng)
    np.testing.assert_allclose(model.slopes_, slopes, rtol=1e-10)
    np.testing.assert_allclose(model.residual_sd_, 0.0, atol=1e-12)


def test_slopes_are_those_of_every_mixture() -> None:
    """The mean is linear: its derivative along each weight is that weight's slope."""
    rng = np.random.default_rng(RNG_SEED)
    slopes = np.array([[2.0, 5.0], [3.0, 4.0], [2.5, 1.0]])
    weights = rng.dirichlet(np.ones(3), size=12)
    model = LinearMixture().fit(weights, weights @ slopes, rng=rng)
    np.testing.assert_allclose(model.slopes(weights[:2]), [slopes.T, slopes.T], rtol=1e-10)


def test_interval_holds_new_runs_at_its_rate() -> None:
    """Planted noise: nine tenths of new runs within 1.645 standard deviations."""
    rng = np.random.default_rng(RNG_SEED)
    slopes = np.arange(1.0, 6.0)[:, None] * np.ones((1, 400))
    weights = rng.dirichlet(np.ones(5), size=15)
    model = LinearMixture().fit(
        weights, weights @ slopes + 0.1 * rng.normal(size=(15, 400)), rng=rng
    )
    new = rng.dirichlet(np.ones(5), size=1)
    mean, sd = model.predict(new)
    held = np.abs(new @ slopes + 0.1 * rng.normal(size=(1, 400)) - mean) < 1.645 * sd
    # t with 10 degrees of freedom holds 87% there; 3 standard errors of 400 draws are 5%.
    assert 0.82 < held.mean() < 0.95


def test_underdetermined_fit_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """No degrees of freedom are left to tell the error."""
    rng = np.random.default_rng(RNG_SEED)
    weights = rng.dirichlet(np.ones(6), size=4)
    losses = rng.normal(size=(4, 1))
    with caplog.at_level(logging.WARNING):
        model = LinearMixture().fit(weights, losses, rng=rng)
    assert "4 runs fix all 6 slopes" in caplog.text
    np.testing.assert_allclose(model.predict(weights)[0], losses, atol=1e-10)
    np.testing.assert_allclose(model.residual_sd_, losses.std(axis=0, ddof=1))
