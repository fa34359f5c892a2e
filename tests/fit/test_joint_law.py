"""One law in size, tokens and mixture: its Jacobian, its coverage, and what a mixture keeps."""

import json
from collections.abc import Iterator

import numpy as np
import pytest

from cuvee.arrays import FloatArray
from cuvee.errors import DataError, NotFittedError
from cuvee.fit.joint_law import JointLaw, joint_law
from cuvee.fit.run_misfits import Groups, factorise, split_misfit, whiten

N_DOMAINS, N_FITTED, N_NEW = 4, 20, 40
SIZES = np.array([1e5, 2e5, 4e5])
TOKENS = np.linspace(0.2, 1.0, 6) * 1e6
MIXTURE, RUN, POINT = 0.01, 0.008, 0.003
"""Misfits planted, in the losses' unit."""


class Planted:
    """Mixtures that follow an exponential mixing law with slopes in size and tokens."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        n = N_FITTED + N_NEW
        self.weights = self.rng.dirichlet(np.ones(N_DOMAINS), n)
        self.mixing, self.by_size, self.by_tokens = (
            self.rng.normal(centre, width, N_DOMAINS)
            for centre, width in ((-0.5, 0.8), (np.log(0.4), 0.2), (np.log(0.3), 0.2))
        )
        self.exponents = np.exp(self.rng.normal(np.log([0.3, 0.5]), 0.3))
        self.own = MIXTURE * self.rng.standard_normal(n)

    def true(self, size: float, tokens: float) -> FloatArray:
        """Return the (n_mixtures,) losses of the mixtures, without noise of runs or points."""
        slopes = np.exp(self.weights @ self.by_size), np.exp(self.weights @ self.by_tokens)
        return np.asarray(
            2.0
            + np.exp(self.weights @ self.mixing)
            + slopes[0] * (size / SIZES[-1]) ** -self.exponents[0]
            + slopes[1] * (tokens / TOKENS[-1]) ** -self.exponents[1]
            + self.own
        )

    def rows(self) -> Iterator[tuple[FloatArray, float, float, float]]:
        """Yield weights, size, tokens and loss of every point of the fitted mixtures."""
        for size in SIZES:
            run = RUN * self.rng.standard_normal(N_FITTED)
            for tokens in TOKENS:
                losses = self.true(size, tokens)[:N_FITTED] + run
                losses = losses + POINT * self.rng.standard_normal(N_FITTED)
                for place, loss in enumerate(losses):
                    yield self.weights[place], size, tokens, float(loss)

    def fit(self) -> JointLaw:
        """Fit the law to all rows, in shuffled order."""
        rows = list(self.rows())
        order = self.rng.permutation(len(rows))
        weights, sizes, tokens, losses = zip(*(rows[one] for one in order), strict=True)
        return JointLaw().fit(weights, sizes, tokens, np.array(losses)[:, None])


@pytest.fixture(scope="module")
def planted() -> Planted:
    """Return one planted law."""
    return Planted(0)


@pytest.fixture(scope="module")
def fitted(planted: Planted) -> JointLaw:
    """Return its fit."""
    return planted.fit()


def test_jacobian_is_the_derivative() -> None:
    """Central differences agree in every parameter."""
    rng = np.random.default_rng(1)
    weights = rng.dirichlet(np.ones(3), 5)
    log_size, log_tokens = -rng.uniform(0.0, 2.0, (2, 5))
    parameters = rng.normal(-0.7, 0.3, 8 + 3 * 3)
    _, jacobian = joint_law(parameters, weights, log_size, log_tokens)
    step = 1e-6 * np.eye(len(parameters))
    for place in range(len(parameters)):
        ahead, back = (
            joint_law(parameters + sign * step[place], weights, log_size, log_tokens)[0]
            for sign in (1.0, -1.0)
        )
        np.testing.assert_allclose((ahead - back) / 2e-6, jacobian[:, place], rtol=1e-5, atol=1e-8)


def test_new_runs_four_times_larger_are_covered() -> None:
    """Fitted mixtures and new ones lie in nine of ten intervals, give or take studies."""
    known, new = [], []
    for seed in range(5):
        planted = Planted(10 + seed)
        mean, sd = planted.fit().predict(planted.weights, 1.6e6, 2e6)
        noise = np.hypot(RUN, POINT) * planted.rng.standard_normal(N_FITTED + N_NEW)
        inside = np.abs(mean[:, 0] - planted.true(1.6e6, 2e6) - noise) <= 1.645 * sd[:, 0]
        known.append(inside[:N_FITTED])
        new.append(inside[N_FITTED:])
    assert 0.78 <= np.mean(known) <= 1.0
    assert 0.8 <= np.mean(new) <= 1.0


def test_a_fitted_mixture_keeps_its_misfit(planted: Planted, fitted: JointLaw) -> None:
    """Its interval is narrower than a new mixture's, and its error smaller."""
    mean, sd = fitted.predict(planted.weights, SIZES[-1], TOKENS[-1])
    error = np.abs(mean[:, 0] - planted.true(SIZES[-1], TOKENS[-1]))
    assert sd[:N_FITTED].mean() < sd[N_FITTED:].mean()
    assert error[:N_FITTED].mean() < error[N_FITTED:].mean()


def test_misfits_are_told_apart() -> None:
    """Planted spreads of mixtures, runs and points come back within a third."""
    rng = np.random.default_rng(2)
    mixture, size = (axis.ravel() for axis in np.indices((60, 4, 8))[:2])
    groups = Groups.of(mixture, size.astype(np.float64))
    planted = np.array([0.05, 0.02, 0.005])
    misfit = planted[0] * rng.standard_normal(60)[mixture]
    misfit += planted[1] * rng.standard_normal((60, 4))[mixture, size]
    misfit += planted[2] * rng.standard_normal(len(mixture))
    bases, trust = np.ones((len(mixture), 1)), np.ones(len(mixture))
    weak = np.full(3, 0.01)
    found = split_misfit(groups, bases, misfit, trust, start=weak, expected=weak, learnt=0.0)
    np.testing.assert_allclose(found, planted, rtol=0.33)
    whitened = whiten(factorise(groups, bases, found, trust), misfit)
    assert abs(float(whitened.std()) - 1.0) < 0.05


def test_an_outlier_is_named(planted: Planted) -> None:
    """One broken point is listed and does not move the rest."""
    weights, sizes, tokens, losses = (list(each) for each in zip(*planted.rows(), strict=True))
    losses[33] += 0.5
    law = JointLaw().fit(weights, sizes, tokens, np.array(losses)[:, None])
    assert (33, 0) in law.outliers_
    mean, _ = law.predict(planted.weights[:N_FITTED], SIZES[-1], TOKENS[-1])
    assert np.abs(mean[:, 0] - planted.true(SIZES[-1], TOKENS[-1])[:N_FITTED]).max() < 0.06


def test_saved_and_loaded_predict_alike(planted: Planted, fitted: JointLaw) -> None:
    """JSON keeps everything."""
    again = JointLaw.from_json(json.loads(json.dumps(fitted.to_json())))
    for one, other in zip(
        fitted.predict(planted.weights, 1e6, 1e6),
        again.predict(planted.weights, 1e6, 1e6),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    assert again.converged_ == fitted.converged_
    np.testing.assert_array_equal(again.noise_, fitted.noise_)


def test_an_unfitted_law_is_refused() -> None:
    """Fit comes first."""
    with pytest.raises(NotFittedError, match="JointLaw is not fitted"):
        JointLaw().predict([[1.0]], 1.0, 1.0)


@pytest.mark.parametrize(
    ("sizes", "tokens", "message"),
    [
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], "all rows have one size"),
        ([1.0, 2.0, 1.0], [1.0, 1.0, 1.0], "all rows have one token count"),
        ([1.0, 0.0, 1.0], [1.0, 2.0, 3.0], "sizes go down to 0"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], r"sizes have shape \(2,\)"),
    ],
)
def test_tables_without_variety_are_refused(
    sizes: list[float], tokens: list[float], message: str
) -> None:
    """One message, naming what was found."""
    weights = [[0.5, 0.5], [0.2, 0.8], [0.9, 0.1]]
    with pytest.raises(DataError, match=message):
        JointLaw().fit(weights, sizes, tokens, [[1.0], [2.0], [3.0]])
