"""Intervals by refits: the definition, coverage on planted data, refusals."""

import numpy as np
import pytest

from cuvee.arrays import FloatArray
from cuvee.errors import ConfigError, DataError
from cuvee.fit.convex_laws import ExponentialMixingLaw
from cuvee.fit.crossval import assign_folds
from cuvee.fit.linear import LinearMixture
from cuvee.fit.resampling import BootstrapKind, bootstrap, jackknife_plus

N_DOMAINS, N_REPLICATES, NOISE = 3, 40, 0.05
EFFECTS = np.array([2.0, -1.5, 0.3, -0.2])


def _planted(
    n_runs: int, rng: np.random.Generator, *, curved: bool = False, n_replicates: int = N_REPLICATES
) -> tuple[FloatArray, FloatArray]:
    """Draw runs; targets are replicates of one truth with noise of their own."""
    weights = rng.dirichlet(np.ones(N_DOMAINS), size=n_runs)
    truth = ExponentialMixingLaw.law(EFFECTS, weights)[0] if curved else weights @ EFFECTS[1:]
    return weights, truth[:, None] + NOISE * rng.standard_normal((n_runs, n_replicates))


def _coverage(interval: tuple[FloatArray, FloatArray], losses: FloatArray) -> float:
    return float(np.mean((losses >= interval[0]) & (losses <= interval[1])))


def test_jackknife_plus_is_its_definition() -> None:
    """With one domain the model is the mean, and the ends can be counted by hand."""
    rng = np.random.default_rng(0)
    losses = rng.normal(size=(19, 1))
    left_out = (losses.sum() - losses[:, 0]) / 18.0
    reach = np.abs(losses[:, 0] - left_out)
    lower, upper = jackknife_plus(
        LinearMixture, np.ones((19, 1)), losses, np.ones((1, 1)), coverage=0.9, rng=rng
    )
    # .1 x 20 = 2: the second least and the second greatest.
    np.testing.assert_allclose(lower, np.sort(left_out - reach)[1], rtol=1e-12)
    np.testing.assert_allclose(upper, np.sort(left_out + reach)[-2], rtol=1e-12)


@pytest.mark.parametrize("curved", [False, True])
def test_jackknife_plus_covers_new_runs(curved: bool) -> None:
    """Nine of ten new runs lie inside, also where the model is wrong (straight on curved)."""
    found = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        weights, losses = _planted(20, rng, curved=curved)
        new_weights, new_losses = _planted(50, rng, curved=curved)
        found.append(
            _coverage(
                jackknife_plus(LinearMixture, weights, losses, new_weights, rng=rng), new_losses
            )
        )
    assert 0.87 <= np.mean(found) <= 0.96


def test_folds_cover_and_cost_a_fit_each() -> None:
    """CV+ of 5 folds fits five times and covers as well."""
    found, fits = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        weights, losses = _planted(25, rng)
        new_weights, new_losses = _planted(50, rng)
        folds = assign_folds(weights, n_folds=5, rng=rng)

        def counted() -> LinearMixture:
            fits.append(1)
            return LinearMixture()

        interval = jackknife_plus(counted, weights, losses, new_weights, folds=folds, rng=rng)
        found.append(_coverage(interval, new_losses))
    assert len(fits) == 60
    assert 0.87 <= np.mean(found) <= 0.97


@pytest.mark.parametrize("kind", ["residual", "pairs"])
def test_bootstrap_covers_new_runs(kind: BootstrapKind) -> None:
    """Nine of ten new runs lie inside, though errors of fitted runs alone are too small."""
    found = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        weights, losses = _planted(20, rng)
        new_weights, new_losses = _planted(50, rng)
        interval = bootstrap(
            LinearMixture, weights, losses, new_weights, kind=kind, n_samples=30, rng=rng
        )
        found.append(_coverage(interval, new_losses))
    assert 0.85 <= np.mean(found) <= 0.95


def test_a_curved_law_is_covered_too() -> None:
    """Both methods serve a law fitted by least squares."""
    rng = np.random.default_rng(1)
    weights, losses = _planted(20, rng, curved=True, n_replicates=6)
    new_weights, new_losses = _planted(60, rng, curved=True, n_replicates=6)
    arguments = (ExponentialMixingLaw, weights, losses, new_weights)
    jackknife = _coverage(jackknife_plus(*arguments, rng=rng), new_losses)
    resampled = _coverage(bootstrap(*arguments, n_samples=20, rng=rng), new_losses)
    assert 0.8 <= jackknife <= 0.99
    assert 0.8 <= resampled <= 0.99


def test_wider_where_more_is_asked() -> None:
    """An interval of less coverage lies inside one of more."""
    rng = np.random.default_rng(2)
    weights, losses = _planted(20, rng)
    for method in (jackknife_plus, bootstrap):
        narrow, wide = (
            method(
                LinearMixture,
                weights,
                losses,
                weights[:3],
                coverage=coverage,
                rng=np.random.default_rng(3),
            )
            for coverage in (0.5, 0.9)
        )
        assert np.all((wide[0] <= narrow[0]) & (narrow[1] <= wide[1]))
        assert np.all(wide[1] - wide[0] > narrow[1] - narrow[0])


def test_settings_out_of_range_are_refused() -> None:
    """Each message says what was found and what is allowed."""
    rng = np.random.default_rng(4)
    weights, losses = _planted(8, rng)
    arguments = (LinearMixture, weights, losses, weights)
    with pytest.raises(ConfigError, match=r"coverage 0\.9 takes at least 9 runs, but there are 8"):
        jackknife_plus(*arguments, rng=rng)
    with pytest.raises(ConfigError, match="coverage is 1; it must lie between 0 and 1"):
        jackknife_plus(*arguments, coverage=1.0, rng=rng)
    folds = np.zeros(8, dtype=np.int64)
    with pytest.raises(ConfigError, match=r"folds have shape \(8,\) and 1 numbers"):
        jackknife_plus(*arguments, coverage=0.5, folds=folds, rng=rng)
    with pytest.raises(ConfigError, match="coverage is 0; it must lie between 0 and 1"):
        bootstrap(*arguments, coverage=0.0, rng=rng)
    with pytest.raises(ConfigError, match="n_samples is 1; it must be at least 2"):
        bootstrap(*arguments, n_samples=1, rng=rng)
    with pytest.raises(ConfigError, match="kind is 'wild'; choose one of residual, pairs"):
        bootstrap(*arguments, kind="wild", rng=rng)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="rows must sum to 1"):
        bootstrap(LinearMixture, weights, losses, 2.0 * weights, rng=rng)
