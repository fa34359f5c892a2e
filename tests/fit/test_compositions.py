"""Targets that are mixtures of domains: slopes, planted laws, what the data identify, bounds."""

import json

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from cuvee.arrays import FloatArray
from cuvee.errors import ConfigError, DataError
from cuvee.fit.compositions import ComposedSmoothPredictions, CompositionLaw, compose
from cuvee.fit.convex_laws import ExponentialMixingLaw
from cuvee.fit.crossval import cross_validate
from cuvee.fit.predictor_files import ConvexPredictor, NamedPredictor

N_DOMAINS = 3
NOISE = 0.01
TRUE = np.concatenate([[1.5], np.log([0.5, 0.5]), [0.0, -1.0, -8.0], [-8.0, -1.0, 0.5]])
"""A target of two domains with floor 1.5, each hurt by leaving another domain out."""
DOMAINS = ("web", "code", "books")


def _runs(n: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    weights = rng.dirichlet(np.full(N_DOMAINS, 0.8), size=n)
    value = CompositionLaw.law(TRUE, weights)[0]
    return weights, (value + NOISE * rng.standard_normal(n))[:, None]


def test_derivatives() -> None:
    """Along parameters and along weights they are those of finite differences."""
    rng = np.random.default_rng(0)
    parameters = rng.normal(size=len(TRUE))
    point = np.array([0.5, 0.3, 0.2])
    slopes = CompositionLaw.law(parameters, point[None, :])[1][0]
    numeric = approx_fprime(parameters, lambda p: CompositionLaw.law(p, point[None, :])[0][0], 1e-7)
    np.testing.assert_allclose(slopes, numeric, rtol=1e-4, atol=1e-6)
    along = CompositionLaw.along_weights(parameters, point[None, :])[0]
    numeric = approx_fprime(point, lambda w: CompositionLaw.law(parameters, w[None, :])[0][0], 1e-8)
    np.testing.assert_allclose(along, numeric, rtol=1e-4, atol=1e-6)


def test_one_component_is_the_exponential_law() -> None:
    """Same means and, but for the share that nothing depends on, the same errors."""
    rng = np.random.default_rng(1)
    weights, losses = _runs(30, rng)
    one = CompositionLaw(max_components=1).fit(weights, losses, rng=rng)
    other = ExponentialMixingLaw().fit(weights, losses, rng=rng)
    np.testing.assert_allclose(one.compositions_[0], [1.0])
    for mine, its in zip(one.predict(weights), other.predict(weights), strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-5)


def test_planted_losses_come_back_and_new_runs_are_covered() -> None:
    """Far nearer the truth than one exponential, and 90% intervals hold nine of ten new runs."""
    inside, errors, plain = [], [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        weights, losses = _runs(30, rng)
        new_weights, new_losses = _runs(50, rng)
        model = CompositionLaw(max_components=2).fit(weights, losses, rng=rng)
        mean, sd = model.predict(new_weights)
        one = ExponentialMixingLaw().fit(weights, losses, rng=rng).predict(new_weights)[0]
        truth = CompositionLaw.law(TRUE, new_weights)[0]
        inside.append(np.abs(mean - new_losses) <= 1.645 * sd)
        errors.append(mean[:, 0] - truth)
        plain.append(one[:, 0] - truth)
    assert 0.85 <= np.mean(inside) <= 0.96
    assert np.sqrt(np.mean(np.square(errors))) < 2 * NOISE
    assert np.sqrt(np.mean(np.square(errors))) < 0.25 * np.sqrt(np.mean(np.square(plain)))


def test_what_the_data_identify_comes_back() -> None:
    """Floor and ``log s_k + t_k`` of each component; the order of components means nothing."""
    found = []
    for seed in range(12):
        rng = np.random.default_rng(500 + seed)
        model = CompositionLaw(max_components=2).fit(*_runs(60, rng), rng=rng)
        lowest, spread = model.scale_[0]
        effects = model.parameters_[0][3:].reshape(2, N_DOMAINS)
        logs = effects + np.log(model.compositions_[0])[:, None] + np.log(spread)
        order = np.argsort(logs[:, 0])[::-1]
        found.append(np.append(logs[order], lowest + spread * model.parameters_[0][0]))
    truth = np.append(TRUE[3:] + np.log(0.5), TRUE[0])
    mean = np.mean(found, axis=0)
    steep = truth < -5.0
    np.testing.assert_allclose(mean[~steep], truth[~steep], atol=0.1)
    # exp(-8) is hardly to be seen: the prior draws it in.
    np.testing.assert_allclose(mean[steep], truth[steep], atol=1.0)


def test_no_component_without_need() -> None:
    """Runs of one exponential rarely get a second one."""
    numbers = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        weights = rng.dirichlet(np.ones(N_DOMAINS), size=30)
        truth = ExponentialMixingLaw.law(np.array([2.0, -1.5, 0.3, -0.2]), weights)[0]
        losses = (truth + NOISE * rng.standard_normal(30))[:, None]
        model = CompositionLaw().fit(weights, losses, rng=rng)
        numbers.append(len(model.compositions_[0]))
    assert np.mean(np.array(numbers) == 1) >= 0.75


def test_a_broken_run_is_named_and_moves_little() -> None:
    """One diverged run neither carries the law away nor earns a component."""
    rng = np.random.default_rng(3)
    weights, losses = _runs(40, rng)
    losses[11, 0] += 3.0
    model = CompositionLaw().fit(weights, losses, rng=rng)
    assert (11, 0) in model.outliers_
    kept = np.arange(40) != 11
    assert np.abs(model.predict(weights[kept])[0] - losses[kept]).mean() < 3 * NOISE


def test_targets_may_have_different_numbers_of_components() -> None:
    """They are kept through JSON, settings too."""
    rng = np.random.default_rng(4)
    weights, losses = _runs(40, rng)
    both = np.column_stack([losses[:, 0], 2.0 + weights[:, 1]])
    model = CompositionLaw(max_components=2).fit(weights, both, rng=rng)
    assert len(model.compositions_[0]) == 2
    loaded = CompositionLaw.from_json(json.loads(json.dumps(model.to_json())))
    assert loaded.max_components == 2
    np.testing.assert_array_equal(loaded.slopes(weights), model.slopes(weights))


def test_no_components_are_refused() -> None:
    """A law has at least one."""
    with pytest.raises(ConfigError, match="max_components is 0; it must be at least 1"):
        CompositionLaw(max_components=0)


def _components(
    n: int, rng: np.random.Generator, *, together: float
) -> tuple[FloatArray, FloatArray]:
    """Draw runs of two domains' losses whose noises share a part of their variance."""
    weights = rng.dirichlet(np.ones(N_DOMAINS), size=n)
    truth = np.column_stack(
        [
            ExponentialMixingLaw.law(np.array([2.0, -1.5, 0.3, -0.2]), weights)[0],
            ExponentialMixingLaw.law(np.array([1.0, 0.2, -2.0, 0.1]), weights)[0],
        ]
    )
    common, own = rng.standard_normal((n, 1)), rng.standard_normal((n, 2))
    return weights, truth + 0.02 * (np.sqrt(together) * common + np.sqrt(1.0 - together) * own)


def _named(model: ExponentialMixingLaw) -> NamedPredictor:
    return NamedPredictor(
        model=model, name="exponential", domains=DOMAINS, targets=("maths", "prose")
    )


def _composed_runs(
    seed: int, *, together: float
) -> tuple[NamedPredictor, FloatArray, FloatArray, FloatArray]:
    """Return a fitted predictor, its held-out errors in sds, and new runs."""
    rng = np.random.default_rng(seed)
    weights, losses = _components(30, rng, together=together)
    model = ExponentialMixingLaw().fit(weights, losses, rng=rng)
    held_out = cross_validate(ExponentialMixingLaw, weights, losses, rng=rng)
    errors = (losses - held_out.mean) / held_out.sd
    return _named(model), errors, *_components(60, rng, together=together)


@pytest.mark.parametrize("together", [0.0, 0.9])
def test_a_known_composition_is_covered(together: float) -> None:
    """The bound covers at any correlation; held-out errors narrow it where noises are apart."""
    bounded, informed, narrower = [], [], []
    for seed in range(12):
        named, errors, weights, losses = _composed_runs(seed, together=together)
        share = {"mix": {"maths": 0.3, "prose": 0.7}}
        measured = losses @ np.array([[0.3], [0.7]])
        mean, bound = compose(named, share).predict(weights)
        same, sd = compose(named, share, errors=errors).predict(weights)
        np.testing.assert_array_equal(mean, same)
        bounded.append(np.abs(measured - mean) <= 1.645 * bound)
        informed.append(np.abs(measured - mean) <= 1.645 * sd)
        narrower.append(sd.mean() / bound.mean())
    assert np.mean(bounded) >= 0.87
    assert 0.87 <= np.mean(informed) <= 0.99
    if together == 0.0:
        assert np.mean(narrower) < 0.97
        assert np.mean(bounded) > np.mean(informed)


def test_composed_mean_and_bound_are_sums() -> None:
    """Means and standard deviations add up with the shares; a pure composition changes nothing."""
    named, _, weights, _ = _composed_runs(0, together=0.0)
    composed = compose(named, {"mix": {"maths": 0.3, "prose": 0.7}, "pure": {"prose": 1.0}})
    assert (composed.domains, composed.targets) == (DOMAINS, ("mix", "pure"))
    for found, parts in zip(composed.predict(weights), named.predict(weights), strict=True):
        np.testing.assert_allclose(found[:, 0], parts @ [0.3, 0.7])
        np.testing.assert_allclose(found[:, 1], parts[:, 1])


def test_composed_slopes_are_finite_differences() -> None:
    """Convex components hand their slopes on; others have none."""
    named, _, _, _ = _composed_runs(0, together=0.0)
    part = named.convex_part()
    assert isinstance(part, ConvexPredictor)
    composed = compose(part, {"mix": {"maths": 0.3, "prose": 0.7}})
    assert isinstance(composed, ComposedSmoothPredictions)
    point, step = np.array([0.5, 0.3, 0.2]), np.array([1e-6, -1e-6, 0.0])
    ends = composed.predict(np.stack([point + step, point - step]))[0][:, 0]
    slope = composed.slopes(point[None, :])[0, 0] @ step / 1e-6
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)
    assert not hasattr(compose(named, {"pure": {"maths": 1.0}}), "slopes")


def test_bad_compositions_are_refused() -> None:
    """Unknown names, shares off the simplex and errors of another shape, each by its message."""
    named, errors, _, _ = _composed_runs(0, together=0.0)
    with pytest.raises(ConfigError, match="compositions is empty"):
        compose(named, {})
    with pytest.raises(ConfigError, match="names 'code', which was not measured; the targets are"):
        compose(named, {"mix": {"code": 1.0}})
    for shares in ({"maths": 0.5}, {"maths": 1.5, "prose": -0.5}, {"maths": float("nan")}):
        with pytest.raises(ConfigError, match="must be at least 0 and sum to 1"):
            compose(named, {"mix": shares})
    with pytest.raises(DataError, match=r"errors have shape \(30, 1\); expected \(n_runs, 2\)"):
        compose(named, {"mix": {"maths": 1.0}}, errors=errors[:, :1])
    errors[2, 1] = np.inf
    with pytest.raises(DataError, match="errors row 2 column 1 is inf"):
        compose(named, {"mix": {"maths": 1.0}}, errors=errors)
