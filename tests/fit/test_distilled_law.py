"""The law that a process has taught: convex, tame far from the runs."""

import logging

import numpy as np
import pytest
from scipy.optimize import least_squares

from cuvee.arrays import FloatArray
from cuvee.errors import ConfigError
from cuvee.fit.distilled_law import NOISE, DistilledLaw, distilled_prior
from cuvee.fit.effective_data import law


def _runs(n_runs: int = 16) -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(3)
    weights = rng.dirichlet(np.full(4, 0.6), size=n_runs)
    counts = np.array([[1.0, 0.2, 0.05, 0.0], [0.1, 1.0, 0.02, 0.0]])
    losses = 2.0 + 0.4 * (0.02 + weights @ counts.T) ** -0.3
    return weights, losses + 0.005 * rng.standard_normal(losses.shape)


def test_slopes_are_the_derivatives_of_the_mean() -> None:
    """Along every weight, for every target, by steps within the simplex."""
    weights, losses = _runs()
    model = DistilledLaw(own=(0, 1)).fit(weights, losses, rng=np.random.default_rng(0))
    point, other = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.1, 0.2, 0.3, 0.4])
    slopes = model.slopes(np.vstack([point, other]))
    assert slopes.shape == (2, 2, 4)

    def along(share: float) -> FloatArray:
        return model.mean((point + share * (other - point))[None])[0]

    numeric = (along(1e-5) - along(0.0)) / 1e-5
    np.testing.assert_allclose(slopes[0] @ (other - point), numeric, rtol=1e-3)


def test_mean_is_convex() -> None:
    """Between any two mixtures the law lies below the straight line."""
    weights, losses = _runs()
    model = DistilledLaw(own=(0, 1)).fit(weights, losses, rng=np.random.default_rng(0))
    ends = np.random.default_rng(1).dirichlet(np.ones(4), size=(2, 200))
    middle = model.mean(ends.mean(axis=0))
    assert (middle <= (model.mean(ends[0]) + model.mean(ends[1])) / 2.0 + 1e-12).all()


def test_fit_is_the_minimum_that_scipy_finds() -> None:
    """All targets at once reach what one target alone reaches."""
    weights, losses = _runs()
    model = DistilledLaw(own=(0, 1), n_distilled=0).fit(
        weights, losses, rng=np.random.default_rng(0)
    )
    prior = distilled_prior(model.process_.own_)
    for target in range(2):
        lowest, spread = model.scale_[target]
        aims = (losses[:, target] - lowest) / spread

        def residuals(at: FloatArray, target: int = target, aims: FloatArray = aims) -> FloatArray:
            offset = (at - prior.mean[target]) / prior.sd[target]
            return np.concatenate([(law(at, weights)[0] - aims) / NOISE, offset])

        best = 2.0 * least_squares(residuals, prior.mean[target]).cost
        assert (residuals(model.parameters_[target]) ** 2).sum() <= 1.02 * best


def test_unfinished_fit_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The result is kept, marked and spoken of."""
    monkeypatch.setattr("cuvee.fit.distilled_law.MAX_STEPS", 1)
    weights, losses = _runs()
    with caplog.at_level(logging.WARNING):
        model = DistilledLaw(own=(0, 1)).fit(weights, losses, rng=np.random.default_rng(0))
    assert not model.converged_
    assert "target 0: the distilled law's fit stopped early" in caplog.text


def test_broken_run_does_not_move_the_law() -> None:
    """What the process leaves out the law leaves out."""
    weights, losses = _runs()
    losses[5, 0] += 30.0
    model = DistilledLaw(own=(0, 1)).fit(weights, losses, rng=np.random.default_rng(0))
    assert model.outliers_ == ((5, 0),)
    kept = np.delete(np.arange(len(weights)), 5)
    assert np.abs(model.mean(weights[kept]) - losses[kept])[:, 0].max() < 0.1


def test_negative_number_of_mixtures_is_refused() -> None:
    """None is allowed, less is not."""
    with pytest.raises(ConfigError, match="n_distilled is -1; it must be at least 0"):
        DistilledLaw(n_distilled=-1)


def test_constant_losses_stay_constant() -> None:
    """A target that no mixture moves is predicted as it is."""
    weights, losses = _runs()
    losses[:, 1] = 3.0
    model = DistilledLaw(own=(0, 1)).fit(weights, losses, rng=np.random.default_rng(0))
    np.testing.assert_allclose(model.mean(weights)[:, 1], 3.0)
    assert (model.slopes(weights)[:, 1] == 0.0).all()
