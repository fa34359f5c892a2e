"""What every predictor of the table promises."""

import json

import numpy as np
import pytest

from cuvee.arrays import FloatArray
from cuvee.artifacts import canonical_json
from cuvee.errors import ConfigError, DataError, NotFittedError
from cuvee.fit.models import MODELS, make_fold_model, make_model, model_class
from cuvee.tables.predictor import Predictor

N_RUNS, N_DOMAINS, N_TARGETS = 20, 4, 2
OWN = (2, None)
PERMUTATION_ATOL = 1e-4
"""Optimisers add up in another order and stop elsewhere within their tolerance."""
SAMPLED = ("shared-gaussian-process", "distilled-law", "ensemble")
SAMPLED_ATOL = 0.1
"""Their members draw a prior for each domain, in the order of the columns; losses span 1."""

pytestmark = pytest.mark.parametrize("name", sorted(MODELS))


def _runs(n_runs: int = N_RUNS) -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(5)
    weights = rng.dirichlet(np.full(N_DOMAINS, 0.7), size=n_runs)
    first = 2.0 + 0.5 * (0.02 + weights[:, 2] + 0.2 * weights[:, 0]) ** -0.3
    second = 3.0 - weights[:, 1] + 0.01 * rng.normal(size=n_runs)
    return weights, np.column_stack([first, second])


def _new_mixtures() -> FloatArray:
    draws = np.random.default_rng(6).dirichlet(np.ones(N_DOMAINS), size=7)
    return np.vstack([draws, np.eye(N_DOMAINS)])


def _fitted(name: str, own: tuple[int | None, ...] = OWN) -> Predictor:
    weights, losses = _runs()
    return make_model(name, own=own).fit(weights, losses, rng=np.random.default_rng(1))


def test_predictions_have_a_mean_and_error_for_each_target(name: str) -> None:
    """Shapes, finite values and errors above 0."""
    model = _fitted(name)
    mean, sd = model.predict(_new_mixtures())
    assert mean.shape == sd.shape == (len(_new_mixtures()), N_TARGETS)
    assert np.all(np.isfinite(mean))
    assert np.all(np.isfinite(sd) & (sd > 0.0))
    assert model.converged_ in (True, False)


def test_fit_is_deterministic_and_leaves_its_arguments(name: str) -> None:
    """Same runs and seed, same bits."""
    weights, losses = _runs()
    before = weights.copy(), losses.copy()
    one = make_model(name, own=OWN).fit(weights, losses, rng=np.random.default_rng(1))
    np.testing.assert_array_equal(weights, before[0])
    np.testing.assert_array_equal(losses, before[1])
    assert canonical_json(one.to_json()) == canonical_json(_fitted(name).to_json())


def test_order_of_domains_does_not_matter(name: str) -> None:
    """Columns permuted in fit and predict give the same predictions."""
    order = np.array([2, 0, 3, 1])
    weights, losses = _runs()
    moved = make_model(name, own=(int(np.flatnonzero(order == 2)[0]), None)).fit(
        weights[:, order], losses, rng=np.random.default_rng(1)
    )
    mean, sd = _fitted(name).predict(_new_mixtures())
    moved_mean, moved_sd = moved.predict(_new_mixtures()[:, order])
    atol = SAMPLED_ATOL if name in SAMPLED else PERMUTATION_ATOL
    np.testing.assert_allclose(moved_mean, mean, rtol=0.0, atol=atol)
    np.testing.assert_allclose(moved_sd, sd, rtol=0.0, atol=10 * atol)


def test_saved_model_predicts_the_same(name: str) -> None:
    """Through JSON text and back, bit for bit, and again."""
    model = _fitted(name)
    text = canonical_json(model.to_json())
    loaded = model_class(name).from_json(json.loads(text))
    for one, other in zip(
        model.predict(_new_mixtures()), loaded.predict(_new_mixtures()), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert canonical_json(loaded.to_json()) == text
    assert loaded.converged_ == model.converged_


def test_predictions_are_of_rows_alone(name: str) -> None:
    """A mixture's prediction does not depend on its company."""
    model, mixtures = _fitted(name), _new_mixtures()
    together = model.predict(mixtures)[0][3]
    alone = model.predict(mixtures[3:4])[0][0]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


def test_better_than_the_mean_on_new_mixtures(name: str) -> None:
    """Held-out mixtures of the same planted laws, beside predicting the mean loss."""
    weights, losses = _runs(60)
    model = make_model(name, own=OWN).fit(weights[:40], losses[:40], rng=np.random.default_rng(1))
    mean, _ = model.predict(weights[40:])
    error = np.sqrt(np.mean((mean - losses[40:]) ** 2, axis=0))
    baseline = np.sqrt(np.mean((losses[:40].mean(axis=0) - losses[40:]) ** 2, axis=0))
    # BiMix is steep where a share is near 0, whatever the target does there.
    assert np.all(error < (1.5 if name == "bivariate-power" else 0.8) * baseline)


def test_constant_target_is_predicted_constant(name: str) -> None:
    """A column without spread divides nothing by 0."""
    weights, losses = _runs()
    losses[:, 1] = 3.25
    model = make_model(name, own=OWN).fit(weights, losses, rng=np.random.default_rng(1))
    mean, sd = model.predict(_new_mixtures())
    np.testing.assert_allclose(mean[:, 1], 3.25, rtol=1e-9)
    np.testing.assert_allclose(sd[:, 1], 0.0, atol=1e-6)


def test_single_domain_is_predicted_by_its_mean(name: str) -> None:
    """One domain leaves nothing to choose: only noise."""
    losses = np.array([[2.0], [2.1], [1.9], [2.05], [1.95], [2.0]])
    model = make_model(name).fit(np.ones((6, 1)), losses, rng=np.random.default_rng(1))
    mean, sd = model.predict(np.ones((1, 1)))
    np.testing.assert_allclose(mean, 2.0, atol=0.05)
    assert np.all(np.isfinite(sd))


def test_fewer_runs_than_domains_can_be_fitted(name: str) -> None:
    """Two runs of four domains give finite predictions."""
    weights, losses = _runs()
    model = make_model(name, own=OWN).fit(weights[:2], losses[:2], rng=np.random.default_rng(1))
    mean, sd = model.predict(_new_mixtures())
    assert np.all(np.isfinite(mean) & np.isfinite(sd))


def test_fold_model_predicts_the_same_means(name: str) -> None:
    """Folds save only the errors."""
    weights, losses = _runs()
    quick = make_fold_model(name, own=OWN).fit(weights, losses, rng=np.random.default_rng(1))
    mean = _fitted(name).predict(_new_mixtures())[0]
    if name == "boosted-trees":
        assert quick.predict(_new_mixtures())[0].shape == mean.shape
    else:
        np.testing.assert_array_equal(quick.predict(_new_mixtures())[0], mean)


def test_unfitted_model_is_refused(name: str) -> None:
    """Both of its answers need a fit."""
    with pytest.raises(NotFittedError, match=r"is not fitted; call fit"):
        make_model(name).predict(_new_mixtures())
    with pytest.raises(NotFittedError, match=r"is not fitted; call fit"):
        make_model(name).to_json()


def test_bad_runs_are_refused(name: str) -> None:
    """Shapes, sums, NaN and too few runs, each by its message."""
    weights, losses = _runs()
    rng = np.random.default_rng(1)
    broken = losses.copy()
    broken[3, 1] = np.nan
    heavy = weights.copy()
    heavy[2] *= 1.01
    for bad_weights, bad_losses, message in (
        (weights[:-1], losses, "same runs in the same order"),
        (weights[0], losses, "same runs in the same order"),
        (weights[:1], losses[:1], "at least 2 runs"),
        (weights, losses[:, :0], "0 targets"),
        (heavy, losses, r"row 2 sums to 1\.01"),
        (weights, broken, "losses row 3 column 1 is nan"),
    ):
        with pytest.raises(DataError, match=message):
            make_model(name).fit(bad_weights, bad_losses, rng=rng)


def test_bad_mixtures_are_refused(name: str) -> None:
    """A prediction is of rows of the fitted domains."""
    model = _fitted(name)
    with pytest.raises(DataError, match="expected 4 columns"):
        model.predict(np.full((1, 3), 1 / 3))
    with pytest.raises(DataError, match=r"Pass one mixture as\s+weights\[None, :\]"):
        model.predict(np.full(4, 0.25))
    with pytest.raises(DataError, match="rows must sum to 1"):
        model.predict(np.full((1, 4), 0.3))


def test_own_domains_that_do_not_exist_are_refused(name: str) -> None:
    """Where a model takes own domains, it checks them."""
    weights, losses = _runs()
    model = make_model(name, own=(4, None))
    if not hasattr(model, "own"):
        model.fit(weights, losses, rng=np.random.default_rng(1))
        return
    with pytest.raises(ConfigError, match="own of target 0 is column 4; columns go from 0 to 3"):
        model.fit(weights, losses, rng=np.random.default_rng(1))
    with pytest.raises(ConfigError, match="own has 1 entries for 2 targets"):
        make_model(name, own=(1,)).fit(weights, losses, rng=np.random.default_rng(1))
