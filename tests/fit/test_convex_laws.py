"""Published laws: slopes, planted laws, intervals that cover, broken runs named."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from cuvee.arrays import FloatArray
from cuvee.fit.convex_laws import BivariatePower, ConvexLaw, ExponentialMixingLaw

KINDS = (ExponentialMixingLaw, BivariatePower)
N_DOMAINS = 3
NOISE = 0.01
TRUE = {
    ExponentialMixingLaw: np.array([2.0, -1.5, 0.3, -0.2]),
    BivariatePower: np.array([2.0, *np.log([0.2, 0.05, 0.1]), *np.log([0.3, 0.4, 0.2])]),
}


def _true(kind: type[ConvexLaw], weights: FloatArray) -> FloatArray:
    return kind.law(TRUE[kind], weights)[0]


def _runs(kind: type[ConvexLaw], n: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    weights = rng.dirichlet(np.full(N_DOMAINS, 0.8), size=n)
    return weights, (_true(kind, weights) + NOISE * rng.standard_normal(n))[:, None]


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives(kind: type[ConvexLaw]) -> None:
    """Along parameters and along weights they are those of finite differences."""
    rng = np.random.default_rng(0)
    prior = kind.prior(N_DOMAINS)
    parameters = prior.mean + 0.3 * prior.sd * rng.standard_normal(len(prior.mean))
    point = np.array([0.5, 0.3, 0.2])
    _, slopes = kind.law(parameters, point[None, :])
    numeric = approx_fprime(parameters, lambda p: kind.law(p, point[None, :])[0][0], 1e-7)
    np.testing.assert_allclose(slopes[0], numeric, rtol=1e-4, atol=1e-6)
    along = kind.along_weights(parameters, point[None, :])[0]
    numeric = approx_fprime(point, lambda w: kind.law(parameters, w[None, :])[0][0], 1e-8)
    np.testing.assert_allclose(along, numeric, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_planted_losses_come_back_and_new_runs_are_covered(kind: type[ConvexLaw]) -> None:
    """The mean is near the truth, and 90% intervals hold nine of ten new runs, give or take."""
    inside, errors = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        model = kind().fit(*_runs(kind, 30, rng), rng=rng)
        weights, losses = _runs(kind, 50, rng)
        mean, sd = model.predict(weights)
        inside.append(np.abs(mean - losses) <= 1.645 * sd)
        errors.append(mean[:, 0] - _true(kind, weights))
    assert 0.85 <= np.mean(inside) <= 0.96
    assert np.sqrt(np.mean(np.square(errors))) < NOISE


def test_identified_parameters_are_covered() -> None:
    """The exponential law's effects, identified here (condition below 1e4), lie in nine of ten."""
    inside = []
    for seed in range(60):
        rng = np.random.default_rng(1000 + seed)
        weights, losses = _runs(ExponentialMixingLaw, 40, rng)
        model = ExponentialMixingLaw().fit(weights, losses, rng=rng)
        slopes = ExponentialMixingLaw.law(TRUE[ExponentialMixingLaw], weights)[1]
        assert np.linalg.cond(slopes.T @ slopes) < 1e4
        lowest, spread = model.scale_[0]
        # In the losses' unit: c times the range plus the least loss; t plus the range's logarithm.
        found = np.concatenate(
            [[lowest + spread * model.parameters_[0][0]], model.parameters_[0][1:] + np.log(spread)]
        )
        sd = np.sqrt(np.diag(model.covariance_[0])) * np.array([spread, 1.0, 1.0, 1.0])
        inside.append(np.abs(found - TRUE[ExponentialMixingLaw]) <= 1.645 * sd)
    assert 0.82 <= np.mean(inside) <= 0.97


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_run_is_named_and_moves_little(kind: type[ConvexLaw]) -> None:
    """One diverged run does not carry the law away."""
    rng = np.random.default_rng(3)
    weights, losses = _runs(kind, 30, rng)
    losses[11, 0] += 3.0
    model = kind().fit(weights, losses, rng=rng)
    assert model.outliers_ == ((11, 0),)
    kept = np.arange(30) != 11
    assert np.abs(model.predict(weights[kept])[0] - losses[kept]).mean() < 3 * NOISE
