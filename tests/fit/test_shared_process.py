"""Pooled hyper-parameters: gradient, intervals, broken runs, odd shapes."""

import logging

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from cuvee.arrays import FloatArray
from cuvee.errors import ConfigError
from cuvee.fit.crossval import rank_correlation
from cuvee.fit.shared_prior import Layout, SharedKernel, invert
from cuvee.fit.shared_process import SharedGaussianProcess


def planted(
    n_runs: int, *, n_domains: int = 6, n_targets: int = 4, seed: int = 0, noise: float = 0.01
) -> tuple[FloatArray, FloatArray]:
    """Make runs whose targets each learn most from one domain and a little from all."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(n_domains, 0.5), size=n_runs)
    counts = np.exp(np.random.default_rng(99).normal(-3.0, 1.0, size=(n_targets, n_domains)))
    counts[np.arange(n_targets), np.arange(n_targets)] = 1.0
    losses = 2.0 + 0.5 * (0.01 + weights @ counts.T) ** -0.35
    return weights, losses + noise * rng.standard_normal(losses.shape)


def test_gradient_of_the_marginal_likelihood() -> None:
    """The analytic gradient is that of finite differences, at a point away from the centre."""
    weights, losses = planted(9, n_domains=3, n_targets=2)
    own = np.array([[True, False, False], [False, True, False]])
    layout = Layout.of(own)
    standard = ((losses - losses.mean(axis=0)) / losses.std(axis=0)).T
    distrust = np.zeros((2, 9))
    distrust[1, 4] = 3.0
    hyper = layout.mean + 0.3 * np.random.default_rng(1).standard_normal(len(layout.mean))

    def value(point: FloatArray) -> float:
        return SharedKernel(layout, point).marginal(weights, standard, distrust)[0]

    _, gradient = SharedKernel(layout, hyper).marginal(weights, standard, distrust)
    numeric = approx_fprime(hyper, value, 1e-6)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-4, atol=1e-4)


def test_parts_of_the_layout_join_to_the_same_vector() -> None:
    """Splitting and joining are inverse."""
    layout = Layout.of(np.eye(3, 5, dtype=np.bool_))
    hyper = np.random.default_rng(0).standard_normal(len(layout.mean))
    np.testing.assert_array_equal(layout.join(layout.split(hyper)), hyper)


def test_inverse_and_determinant() -> None:
    """Cholesky's inverse is the inverse; the logarithms are those of the determinants."""
    roots = np.random.default_rng(0).standard_normal((3, 7, 7))
    matrices = roots @ roots.transpose(0, 2, 1) + np.eye(7)
    inverse, logs = invert(matrices.copy())
    np.testing.assert_allclose(inverse, np.linalg.inv(matrices), atol=1e-10)
    np.testing.assert_allclose(logs, np.linalg.slogdet(matrices)[1].sum())


def test_intervals_cover_new_runs() -> None:
    """About nine in ten new measurements lie inside 1.645 standard deviations, and ranks hold."""
    inside, ranks = [], []
    for seed in range(4):
        weights, losses = planted(24, seed=seed)
        new, truth = planted(60, seed=1000 + seed)
        model = SharedGaussianProcess(own=(0, 1, 2, 3), n_members=3)
        mean, sd = model.fit(weights, losses, rng=np.random.default_rng(seed)).predict(new)
        inside.append(np.abs(mean - truth) <= 1.645 * sd)
        ranks += [rank_correlation(mean[:, j], truth[:, j]) for j in range(4)]
    assert 0.82 <= np.mean(inside) <= 0.99
    assert np.median(np.array(ranks, dtype=np.float64)) > 0.9


def test_a_broken_run_is_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    """It does not move the predictions of others."""
    weights, losses = planted(24)
    broken = losses.copy()
    broken[7, 2] += 50.0
    with caplog.at_level(logging.WARNING):
        model = SharedGaussianProcess(own=(0, 1, 2, 3), n_members=1).fit(
            weights, broken, rng=np.random.default_rng(0)
        )
    assert model.outliers_ == ((7, 2),)
    assert "target 2: run 7 is far from what all other runs say" in caplog.text
    new, truth = planted(60, seed=5, noise=0.0)
    assert np.abs(model.predict(new)[0] - truth).mean() < 0.2


def test_own_domains_are_detected() -> None:
    """Without names the losses tell which domain is a target's own."""
    weights, losses = planted(30)
    model = SharedGaussianProcess(n_members=1).fit(weights, losses, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(model.own_.argmax(axis=1), [0, 1, 2, 3])


def test_many_runs_are_learnt_from_in_part() -> None:
    """Hyper-parameters come from some of the runs, the prediction from all."""
    weights, losses = planted(80)
    model = SharedGaussianProcess(own=(0, 1, 2, 3), n_members=2, max_learning_runs=16)
    model.fit(weights, losses, rng=np.random.default_rng(0))
    mean, _ = model.predict(weights)
    assert np.abs(mean - losses).mean() < 0.03


@pytest.mark.parametrize(
    ("n_runs", "n_domains", "n_targets"), [(2, 2, 1), (3, 1, 1), (5, 12, 2), (13, 3, 5)]
)
def test_odd_shapes(n_runs: int, n_domains: int, n_targets: int) -> None:
    """Few runs, one domain, more targets than domains: finite predictions."""
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(n_domains), size=n_runs)
    losses = rng.normal(3.0, 0.1, size=(n_runs, n_targets))
    model = SharedGaussianProcess(n_members=2).fit(weights, losses, rng=rng)
    mean, sd = model.predict(rng.dirichlet(np.ones(n_domains), size=4))
    assert np.isfinite(mean).all()
    assert (sd > 0.0).all()


def test_settings_out_of_range_are_refused() -> None:
    """There must be a member and two runs to learn on."""
    with pytest.raises(ConfigError, match="n_members is 0"):
        SharedGaussianProcess(n_members=0)
