"""The power law in effective data: derivative, recovery, robustness."""

import logging

import numpy as np
import pytest

from cuvee.arrays import FloatArray
from cuvee.fit.effective_data import DATA_FLOOR, EffectiveDataPower, law, law_prior, robust_range

STEP = 1e-6
JACOBIAN_RTOL = 1e-6


def _planted(n_runs: int, seed: int = 4) -> tuple[FloatArray, FloatArray]:
    weights = np.random.default_rng(seed).dirichlet(np.full(4, 0.6), size=n_runs)
    data = 0.01 + weights @ np.array([1.0, 0.3, 0.05, 0.01])
    return weights, (1.5 + 0.6 * data**-0.4)[:, None]


def test_law_by_hand() -> None:
    """``c + k (a0 + a . r)^(-beta)`` at one point; a0 stands .001 above its parameter."""
    parameters = np.array([1.0, np.log(2.0), np.log(0.5), np.log(0.039), np.log(0.5), np.log(1.5)])
    value, _ = law(parameters, np.array([[0.78, 0.22]]))
    assert DATA_FLOOR == 0.001
    np.testing.assert_allclose(value, 1.0 + 2.0 * (0.04 + 0.39 + 0.33) ** -0.5, rtol=1e-12)


def test_jacobian_matches_differences() -> None:
    """Central differences along each parameter, vertices and shares of 0 included."""
    rng = np.random.default_rng(0)
    weights = np.vstack([rng.dirichlet(np.ones(3), size=5), np.eye(3)])
    prior = law_prior(3, own=1)
    point = prior.mean + prior.sd * rng.normal(size=7)
    differences = np.column_stack(
        [
            (law(point + STEP * axis, weights)[0] - law(point - STEP * axis, weights)[0])
            / (2.0 * STEP)
            for axis in np.eye(7)
        ]
    )
    np.testing.assert_allclose(law(point, weights)[1], differences, rtol=JACOBIAN_RTOL, atol=1e-7)


def test_law_stays_finite_far_out() -> None:
    """A wild trial step of the solver must not overflow."""
    value, jacobian = law(np.full(7, 500.0), np.eye(3))
    assert np.all(np.isfinite(value))
    assert np.all(np.isfinite(jacobian))
    assert np.all(np.isfinite(law(np.full(7, -500.0), np.eye(3))[1]))


def test_planted_law_is_recovered_from_few_runs() -> None:
    """24 exact runs of 4 domains: held-out error below a tenth of the losses' spread."""
    weights, losses = _planted(224)
    model = EffectiveDataPower(own=(0,)).fit(
        weights[:24], losses[:24], rng=np.random.default_rng(0)
    )
    error = model.predict(weights[24:])[0] - losses[24:]
    assert np.sqrt(np.mean(error**2)) < 0.1 * losses.std()
    counts = np.exp(model.parameters_[0, 4:])
    assert list(np.argsort(-counts)) == [0, 1, 2, 3]
    assert model.converged_


def test_prior_favours_the_own_domain() -> None:
    """A token of the own domain counts as one, of others as a twentieth, without one all alike."""
    named, unnamed = law_prior(3, own=1), law_prior(3, own=None)
    assert named.mean[4:].tolist() == [-3.0, 0.0, -3.0]
    assert named.sd[4:].tolist() == [1.5, 0.7, 1.5]
    assert unnamed.mean[4:].tolist() == [-1.5] * 3


def test_broken_run_hardly_moves_the_law() -> None:
    """One loss of 60 among losses near 2: the others are predicted as without it."""
    weights, losses = _planted(132)
    losses[:32] += 0.005 * np.random.default_rng(1).normal(size=(32, 1))
    broken = losses[:32].copy()
    broken[7] = 60.0
    model = EffectiveDataPower(own=(0,)).fit(weights[:32], broken, rng=np.random.default_rng(0))
    error = model.predict(weights[32:])[0] - losses[32:]
    assert np.sqrt(np.mean(error**2)) < 0.1 * losses.std()


def test_slopes_are_the_derivatives_of_the_mean() -> None:
    """Along every weight, by steps within the simplex; none is positive."""
    weights, losses = _planted(20)
    model = EffectiveDataPower(own=(0,)).fit(weights, losses, rng=np.random.default_rng(0))
    slopes = model.slopes(weights[:2])
    assert slopes.shape == (2, 1, weights.shape[1])
    assert (slopes <= 0.0).all()
    step = 1e-5 * (weights[1] - weights[0])
    numeric = model.predict((weights[0] + step)[None])[0] - model.predict(weights[:1])[0]
    np.testing.assert_allclose(slopes[0] @ step, numeric[0], rtol=1e-3)


def test_errors_grow_away_from_the_runs() -> None:
    """A domain never sampled is less sure than the middle of the runs."""
    rng = np.random.default_rng(0)
    weights = np.column_stack([rng.dirichlet(np.ones(3), size=20), np.zeros(20)])
    losses = 2.0 + 0.3 * (0.05 + weights[:, :1]) ** -0.4
    model = EffectiveDataPower().fit(weights, losses, rng=rng)
    _, sd = model.predict(np.vstack([weights.mean(axis=0), [0.0, 0.0, 0.0, 1.0]]))
    assert sd[1, 0] > 3.0 * sd[0, 0]


def test_robust_range_leaves_broken_runs_aside() -> None:
    """The scale is that of the runs that worked; constant losses have none."""
    losses = np.concatenate([np.linspace(2.0, 3.0, 20), [90.0]])
    assert robust_range(losses) == (2.0, 1.0)
    assert robust_range(np.full(5, 2.5)) == (2.5, 0.0)


def test_unfinished_fit_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The result is kept, marked and spoken of."""
    monkeypatch.setattr("cuvee.fit.effective_data._MAX_EVALUATIONS", 2)
    with caplog.at_level(logging.WARNING):
        model = EffectiveDataPower().fit(*_planted(20), rng=np.random.default_rng(0))
    assert not model.converged_
    assert "target 0: the power law's fit stopped early" in caplog.text
