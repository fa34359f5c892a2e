"""Pooled hyper-parameters: gradient, intervals, broken runs, odd shapes."""

import logging

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from sklearn.gaussian_process.kernels import Matern

from cuvee.arrays import FloatArray
from cuvee.errors import ConfigError
from cuvee.fit.crossval import rank_correlation
from cuvee.fit.shared_kernel import CONSTANT_VARIANCE, JITTER, Covariances, invert
from cuvee.fit.shared_prior import Layout, log_posterior_slopes
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


def _log_posterior(
    layout: Layout, hyper: FloatArray, weights: FloatArray, losses: FloatArray, distrust: FloatArray
) -> float:
    """Compute one member's log posterior from its definition, centred at the layout's means."""
    functions = layout.covariances(hyper[None])
    matrices = functions.of_runs(functions.features(weights), weights, distrust)
    value = -0.5 * float((((hyper - layout.mean) / layout.sd) ** 2).sum())
    for matrix, target in zip(matrices, losses, strict=True):
        value -= 0.5 * float(
            np.linalg.slogdet(matrix)[1] + target @ np.linalg.solve(matrix, target)
        )
    return value


@pytest.mark.parametrize("n_runs", [9, 45])
def test_gradient_of_the_posterior(n_runs: int) -> None:
    """The analytic gradient is that of finite differences, for two members at once.

    9 and 45 runs are inverted in different ways.
    """
    weights, losses = planted(n_runs, n_domains=3, n_targets=2)
    weights[3] = [0.0, 1.0, 0.0]
    layout = Layout.of(np.array([[True, False, False], [False, True, False]]))
    standard = ((losses - losses.mean(axis=0)) / losses.std(axis=0)).T
    distrust = np.zeros((2, n_runs))
    distrust[1, 4] = 3.0
    shape = (2, len(layout.mean))
    hyper = layout.mean + 0.3 * np.random.default_rng(1).standard_normal(shape)
    gradient = log_posterior_slopes(
        layout, hyper, weights, standard, centre=np.tile(layout.mean, (2, 1)), distrust=distrust
    )
    for point, slope in zip(hyper, gradient, strict=True):
        numeric = approx_fprime(
            point, lambda at: _log_posterior(layout, at, weights, standard, distrust), 1e-6
        )
        np.testing.assert_allclose(slope, numeric, rtol=1e-4, atol=1e-4 * np.abs(slope).max())


def test_members_are_independent() -> None:
    """Functions of several members at once are those of each alone."""
    layout = Layout.of(np.eye(3, 5, dtype=np.bool_))
    hyper = layout.mean + np.random.default_rng(0).standard_normal((2, len(layout.mean)))
    both, alone = layout.covariances(hyper), layout.covariances(hyper[1:])
    for name in ("eps", "length", "slope", "plain", "amplitude", "noise_variance"):
        np.testing.assert_array_equal(getattr(both, name)[3:], getattr(alone, name))


def test_covariance_equals_scikit_learn() -> None:
    """The covariance of one function, built from a reference library's kernels."""
    rng = np.random.default_rng(0)
    functions = Covariances(
        eps=np.array([[0.01, 0.05, 0.3]]),
        length=np.array([[0.4, 1.0, 2.0]]),
        slope=np.array([[1.0, 0.2, 0.5]]),
        plain=np.array([[0.3, 0.1, 0.7]]),
        amplitude=np.array([0.8]),
        noise_variance=np.array([0.01]),
    )
    weights, new = rng.dirichlet(np.ones(3), size=6), rng.dirichlet(np.ones(3), size=4)
    one, other = functions.features(new), functions.features(weights)
    expected = (
        0.8 * Matern([0.4, 1.0, 2.0], nu=2.5)(one[0], other[0])
        + (one[0] * functions.slope) @ other[0].T
        + (new * functions.plain) @ weights.T
        + CONSTANT_VARIANCE
    )
    np.testing.assert_allclose(functions.between(one, new, other, weights)[0], expected)
    np.testing.assert_allclose(one[0], np.log1p(new / functions.eps) / np.log1p(1 / functions.eps))
    own = np.diagonal(functions.between(one, new, one, new)[0])
    np.testing.assert_allclose(functions.variance(one, new)[0], own + 0.01 + JITTER)


@pytest.mark.parametrize("size", [7, 50])
def test_inverse(size: int) -> None:
    """Small and large matrices."""
    roots = np.random.default_rng(0).standard_normal((3, size, size))
    matrices = roots @ roots.transpose(0, 2, 1) + np.eye(size)
    np.testing.assert_allclose(invert(matrices.copy()), np.linalg.inv(matrices), atol=1e-10)


def test_matrix_that_is_not_positive_definite_is_refused() -> None:
    """No silent nonsense."""
    with pytest.raises(np.linalg.LinAlgError, match="not positive definite"):
        invert(-np.eye(50)[None])


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


def test_one_broken_run_of_eight_is_left_out() -> None:
    """Few runs are no reason to believe a diverged one."""
    weights, losses = planted(8)
    losses[3] += 40.0
    model = SharedGaussianProcess(own=(0, 1, 2, 3), n_members=1)
    model.fit(weights, losses, rng=np.random.default_rng(0))
    assert model.outliers_ == ((3, 0), (3, 1), (3, 2), (3, 3))


def test_sound_runs_are_kept() -> None:
    """Skewed losses, as near a vertex, are no broken runs."""
    for seed in range(6):
        weights, losses = planted(10, seed=seed)
        model = SharedGaussianProcess(own=(0, 1, 2, 3), n_members=1)
        assert model.fit(weights, losses, rng=np.random.default_rng(0)).outliers_ == ()


def test_own_domains_are_detected() -> None:
    """Without names the losses tell which domain is a target's own."""
    weights, losses = planted(30)
    model = SharedGaussianProcess(n_members=1).fit(weights, losses, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(model.own_.argmax(axis=1), [0, 1, 2, 3])


def test_many_runs_are_learnt_from_in_part() -> None:
    """Hyper-parameters come from some of the runs, the prediction from all."""
    weights, losses = planted(80)
    model = SharedGaussianProcess(own=(0, 1, 2, 3), max_learning_runs=16)
    model.fit(weights, losses, rng=np.random.default_rng(0))
    mean, _ = model.predict(weights)
    assert len(model.hyper_) == 3
    assert np.abs(mean - losses).mean() < 0.03


@pytest.mark.parametrize(
    ("n_runs", "n_domains", "n_targets"), [(2, 2, 1), (3, 1, 1), (5, 40, 2), (13, 3, 5)]
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


def test_change_is_the_difference_of_two_predictions() -> None:
    """In the mean; nothing changes from a mixture to itself, and nothing is in doubt there."""
    weights, losses = planted(20)
    model = SharedGaussianProcess(n_members=2).fit(weights, losses, rng=np.random.default_rng(1))
    new = np.random.default_rng(2).dirichlet(np.ones(6), size=5)
    mean, sd = model.change(new, new[0])
    both, _ = model.predict(new)
    np.testing.assert_allclose(mean, both - both[0], atol=1e-9)
    np.testing.assert_allclose(sd[0], 0.0, atol=1e-6)
    assert (sd[1:] > 0.0).all()


def test_neighbours_differ_more_surely_than_singly() -> None:
    """The doubt of a small change is a small part of the doubt of either end."""
    weights, losses = planted(20)
    model = SharedGaussianProcess(n_members=2).fit(weights, losses, rng=np.random.default_rng(1))
    base = np.full(6, 1.0 / 6.0)
    near = base + np.array([[0.01, -0.01, 0.0, 0.0, 0.0, 0.0]])
    _, doubt = model.change(near, base)
    _, singly = model.predict(near)
    assert (doubt < 0.3 * singly).all()


def test_intervals_of_changes_cover() -> None:
    """Nine in ten changes of two points, over ten sweeps, lie within 90% intervals or nearly so."""
    inside = []
    for seed in range(10):
        weights, losses = planted(24, seed=seed)
        model = SharedGaussianProcess(n_members=2).fit(
            weights, losses, rng=np.random.default_rng(seed)
        )
        base = np.random.default_rng(seed + 50).dirichlet(np.full(6, 2.0))
        moved = 0.98 * base + 0.02 * np.eye(6)
        counts = np.exp(np.random.default_rng(99).normal(-3.0, 1.0, size=(4, 6)))
        counts[np.arange(4), np.arange(4)] = 1.0
        true = 0.5 * (0.01 + moved @ counts.T) ** -0.35 - 0.5 * (0.01 + base @ counts.T) ** -0.35
        mean, sd = model.change(moved, base)
        inside.append(np.abs(true - mean) <= 1.645 * sd)
    assert np.mean(inside) > 0.8
