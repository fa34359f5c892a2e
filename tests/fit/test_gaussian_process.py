"""The Gaussian process: gradient, agreement with a reference library, intervals, broken runs."""

import logging

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel

from cuvee.arrays import FloatArray
from cuvee.errors import ConfigError
from cuvee.fit.gaussian_process import (
    CONSTANT_VARIANCE,
    JITTER,
    KernelPrior,
    LogGaussianProcess,
    kernel_prior,
    negative_log_posterior,
    standardise,
)

STEP = 1e-5
GRADIENT_ATOL = 1e-6
"""Central differences of a sum of about 20 terms of order 1."""
REFERENCE_RTOL = 1e-6


def _runs(n_runs: int, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(4, 0.6), size=n_runs)
    smooth = 3.0 - 0.2 * np.log(weights[:, 0] + 0.01) + 0.1 * np.sin(6.0 * weights[:, 1])
    return weights, (smooth + 0.03 * rng.normal(size=n_runs))[:, None]


@pytest.mark.parametrize("own", [None, 2])
def test_gradient_matches_differences(own: int | None) -> None:
    """The analytic gradient of the log posterior, away from the prior's centre."""
    weights, losses = _runs(12)
    weights[3] = [1.0, 0.0, 0.0, 0.0]
    prior = kernel_prior(4, own)
    target = standardise(losses[:, 0])[0]
    point = prior.mean + 0.5 * np.random.default_rng(1).normal(size=11)
    gradient = negative_log_posterior(point, weights, target, prior)[1]
    differences = [
        (
            negative_log_posterior(point + STEP * axis, weights, target, prior)[0]
            - negative_log_posterior(point - STEP * axis, weights, target, prior)[0]
        )
        / (2.0 * STEP)
        for axis in np.eye(11)
    ]
    np.testing.assert_allclose(gradient, differences, rtol=0.0, atol=GRADIENT_ATOL)


def _reference(hyper: FloatArray, n_domains: int) -> GaussianProcessRegressor:
    """Build the same process in scikit-learn, for equal slopes of all domains."""
    amplitude, noise = np.exp(hyper[1:3])
    slope = float(np.exp(hyper[3]))
    kernel = (
        ConstantKernel(CONSTANT_VARIANCE)
        + ConstantKernel(slope) * DotProduct(sigma_0=1e-9)
        + ConstantKernel(amplitude) * Matern(np.exp(hyper[3 + n_domains :]), nu=2.5)
        + WhiteKernel(noise**2 + JITTER)
    )
    return GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None)


def test_process_equals_scikit_learn() -> None:
    """Log marginal likelihood, mean and deviation at equal hyper-parameters."""
    weights, losses = _runs(15)
    target, mean, spread = standardise(losses[:, 0])
    hyper = np.concatenate([np.log([0.01, 0.7, 0.2]), np.full(4, -1.0), [0.1, -0.2, 0.4, 0.3]])
    features = np.log1p(weights / 0.01) / np.log1p(100.0)
    reference = _reference(hyper, 4).fit(features, target)
    flat = KernelPrior(mean=hyper, precision=np.zeros((11, 11)), reach=np.ones(11))
    value = negative_log_posterior(hyper, weights, target, flat)[0]
    expected = -reference.log_marginal_likelihood_value_ - 15 / 2.0 * np.log(2.0 * np.pi)
    np.testing.assert_allclose(value, expected, rtol=REFERENCE_RTOL)

    fitted = LogGaussianProcess().fit(weights, losses, rng=np.random.default_rng(0))
    model = LogGaussianProcess.from_json({**fitted.to_json(), "hyper": [hyper.tolist()]})
    new, _ = _runs(6, seed=9)
    expected_mean, expected_sd = reference.predict(
        np.log1p(new / 0.01) / np.log1p(100.0), return_std=True
    )
    predicted = model.predict(new)
    np.testing.assert_allclose(
        predicted[0][:, 0], mean + spread * expected_mean, rtol=REFERENCE_RTOL
    )
    np.testing.assert_allclose(predicted[1][:, 0], spread * expected_sd, rtol=1e-5)


def test_smooth_loss_is_learnt_with_honest_intervals() -> None:
    """40 runs: small held-out error, and about nine tenths inside the 90% interval."""
    weights, losses = _runs(240)
    model = LogGaussianProcess().fit(weights[:40], losses[:40], rng=np.random.default_rng(0))
    mean, sd = model.predict(weights[40:])
    errors = mean - losses[40:]
    assert np.sqrt(np.mean(errors**2)) < 0.25 * losses.std()
    # One set of hyper-parameters, the likeliest, is somewhat too sure at 40 runs.
    assert 0.75 < np.mean(np.abs(errors) < 1.645 * sd) < 0.97
    assert model.outliers_ == ()


def test_broken_run_is_left_out_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """One loss of 60 among losses near 4 is named; the rest is fitted as without it."""
    weights, losses = _runs(130)
    broken = losses[:30].copy()
    broken[7] = 60.0
    with caplog.at_level(logging.WARNING):
        model = LogGaussianProcess().fit(weights[:30], broken, rng=np.random.default_rng(0))
    assert model.outliers_ == ((7, 0),)
    assert "target 0: run 7 is far from what all other runs say" in caplog.text
    errors = model.predict(weights[30:])[0] - losses[30:]
    assert np.sqrt(np.mean(errors**2)) < 0.3 * losses.std()


def test_many_runs_are_learnt_on_a_part_and_conditioned_on_all() -> None:
    """Hyper-parameters of 20 runs; predictions use all 60."""
    weights, losses = _runs(60)
    model = LogGaussianProcess(max_learning_rows=20).fit(
        weights, losses, rng=np.random.default_rng(0)
    )
    assert model.weights_.shape == (60, 4)
    errors = model.predict(weights)[0] - losses
    assert np.sqrt(np.mean(errors**2)) < 0.2 * losses.std()


def test_unfinished_search_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The result is kept, marked and spoken of."""
    monkeypatch.setattr("cuvee.fit.gaussian_process.MAX_STEPS", 1)
    with caplog.at_level(logging.WARNING):
        model = LogGaussianProcess().fit(*_runs(20), rng=np.random.default_rng(0))
    assert not model.converged_
    assert "target 0: the Gaussian process stopped after 1 steps" in caplog.text


def test_long_tables_are_predicted_in_pieces() -> None:
    """Rows beyond one piece equal rows predicted alone."""
    weights, losses = _runs(10)
    model = LogGaussianProcess().fit(weights, losses, rng=np.random.default_rng(0))
    many = np.random.default_rng(1).dirichlet(np.ones(4), size=5000)
    np.testing.assert_allclose(model.predict(many)[0][4500:], model.predict(many[4500:])[0])


def test_too_few_learning_rows_are_refused() -> None:
    """A likelihood of one run says nothing."""
    with pytest.raises(ConfigError, match="max_learning_rows is 1; it must be at least 2"):
        LogGaussianProcess(max_learning_rows=1)
