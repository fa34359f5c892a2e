"""Curves are compared, predicted and averaged: planted pools where the best merge is known."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.design.quality_prior import QualityPriorConfig, draw_vectors
from cuvee.errors import ConfigError, InfeasibleError
from cuvee.methods.curve_fit import (
    CurvePredictor,
    CurvesConfig,
    MeasuredCurves,
    compare_regressions,
)
from cuvee.methods.curve_search import (
    CurveLimits,
    draw_candidates,
    find_curve,
    propose_vectors,
)
from cuvee.policy.induced import Induced, PoolSample
from cuvee.policy.quality_curve import QualityCurve
from cuvee.randomness import document_keys, stream
from cuvee.search.constraints import Constraints

PRIOR = QualityPriorConfig(threshold="linear", largest_threshold=0.5).for_budget(0.25)
QUICK = CurvesConfig(n_simulated=600, n_generations=3, n_best=8, sample_documents=60)
CHOSEN = "domain-contents/process"


def _sample() -> PoolSample:
    rng = np.random.default_rng(0)
    domain = np.repeat(np.arange(3), 60)
    return PoolSample.choose(
        ("code", "essays", "web"),
        keys=document_keys(map(str, range(180))),
        domain=domain,
        n_tokens=rng.integers(50, 150, size=180),
        normalised=rng.uniform(size=(180, 2)),
        most=60,
        seed=1,
    )


def _loss(found: Induced) -> list[float]:
    """The first criterion helps in code and misleads in essays, where the second helps."""
    shares, quality = found.shares, found.quality
    mass = shares[0] * (0.5 - quality[0, 0]) + shares[1] * (0.5 - quality[1, 1])
    mass -= 0.5 * shares[1] * (0.5 - quality[1, 0])
    return [3.0 - 2.0 * mass + (shares[0] - 0.4) ** 2, 3.5 - mass + 0.5 * shares[2]]


def _measured(n: int) -> MeasuredCurves:
    sample = _sample()
    vectors = draw_vectors(PRIOR, n=n, n_domains=3, n_criteria=2, rng=stream(3, "design"))
    losses = np.array([_loss(sample.induce(_curve(sample, row))) for row in vectors])
    noise = 0.003 * np.random.default_rng(1).standard_normal(losses.shape)
    return MeasuredCurves(
        vectors=vectors,
        losses=losses + noise,
        objective=np.array([0.5, 0.5]),
        sample=sample,
        criteria=("one", "two"),
    )


def _curve(sample: PoolSample, vector: FloatArray) -> QualityCurve:
    return QualityCurve.of_vector(sample.domains, ("one", "two"), vector)


def test_contents_predict_better_than_parameters() -> None:
    """All are compared; what a vector makes of the pool says more than the vector."""
    ranks = compare_regressions(_measured(48), QUICK, seed=1)
    assert len(ranks) == 9
    assert max(ranks["domain-contents/process"], ranks["domain-contents/linear"]) > 0.9
    assert max(ranks, key=lambda name: ranks[name]).startswith("domain-contents/")


def _limits(
    *,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    least_tokens: float = 0.0,
    least_unique: float = 0.0,
    largest_loss: float = np.inf,
) -> CurveLimits:
    return CurveLimits(
        shares=Constraints.from_bounds(
            ("code", "essays", "web"), caps=np.ones(3), bounds=bounds or {}
        ),
        budget=4000.0,
        least_tokens=least_tokens,
        least_unique=least_unique,
        largest_losses=np.array([largest_loss, np.inf]),
    )


def _find(measured: MeasuredCurves, limits: CurveLimits) -> tuple[QualityCurve, dict[str, Json]]:
    predictor = CurvePredictor.fit(measured, CHOSEN, seed=1)
    return find_curve(predictor, QUICK, prior=PRIOR, limits=limits, seed=1)


def test_the_search_finds_which_criterion_helps_where() -> None:
    """Merge weights have the planted order, and the answer is truly better than the draws."""
    measured = _measured(64)
    curve, found = _find(measured, _limits())
    assert curve.merge[0, 0] > 0.6
    assert curve.merge[1, 1] > 0.6
    true = np.mean(_loss(measured.sample.induce(curve)))
    drawn = measured.losses @ measured.objective
    assert true < np.quantile(drawn, 0.02)
    assert found["predicted"] == pytest.approx(true, abs=3 * float(str(found["predicted_sd"])))
    assert float(str(found["predicted_best"])) <= float(str(found["predicted_top_mean"]))
    assert float(str(found["predicted"])) < float(str(found["predicted_prior_mean"]))
    again, _ = _find(measured, _limits())
    np.testing.assert_array_equal(again.vector, curve.vector)


def test_generations_find_better_curves_than_draws_alone() -> None:
    """By the true loss too, not only by the predicted one."""
    measured = _measured(64)
    predictor = CurvePredictor.fit(measured, CHOSEN, seed=1)
    true = []
    for n_generations in (0, 4):
        settings = replace(QUICK, n_generations=n_generations)
        curve, _ = find_curve(predictor, settings, prior=PRIOR, limits=_limits(), seed=1)
        true.append(np.mean(_loss(measured.sample.induce(curve))))
    assert true[1] < true[0]


def test_the_answer_keeps_shares_tokens_and_floors() -> None:
    """Limits that hardly any draw keeps are met by recombining; the natural best breaks them."""
    measured = _measured(64)
    free, _ = _find(measured, _limits())
    shares = measured.sample.induce(free).shares
    assert not 0.55 <= shares[2] <= 0.6
    kept, found = _find(measured, _limits(bounds={"web": (0.55, 0.6)}, least_tokens=5000.0))
    induced = measured.sample.induce(kept)
    assert 0.55 <= induced.shares[2] <= 0.6
    assert induced.tokens.sum() >= 5000.0
    assert int(str(found["n_kept"])) < 300
    unique, _ = _find(measured, _limits(least_unique=0.95))
    induced = measured.sample.induce(unique)
    assert induced.unique_tokens.sum() / max(induced.tokens.sum(), 4000.0) >= 0.95


def test_limits_that_cannot_be_are_refused() -> None:
    """The message names the domain that is furthest off, or what to loosen."""
    measured = _measured(48)
    with pytest.raises(InfeasibleError, match=r"The nearest has .* of web"):
        _find(measured, _limits(bounds={"web": (0.9999, 1.0)}))
    with pytest.raises(InfeasibleError, match=r"raise prior\.largest_threshold"):
        _find(measured, _limits(least_tokens=1e6))
    with pytest.raises(InfeasibleError, match="0 of"):
        _find(measured, _limits(largest_loss=0.5))


def test_a_batch_goes_where_the_best_is_and_where_little_is_known() -> None:
    """Half best, a quarter by the bound, a quarter fresh; none near another or a measured one."""
    measured = _measured(48)
    candidates = draw_candidates(
        CurvePredictor.fit(measured, CHOSEN, seed=1),
        QUICK,
        n=600,
        prior=PRIOR,
        limits=_limits(bounds={"web": (0.0, 0.5)}),
        rng=stream(1, "rounds", 0),
    )
    shares = np.stack([one.shares for one in measured.induce(measured.vectors)])
    vectors, kinds = propose_vectors(candidates, QUICK, n=8, measured=shares)
    assert kinds == ("best",) * 4 + ("bound",) * 2 + ("draw",) * 2
    taken = np.stack([one.shares for one in measured.induce(vectors)])
    assert np.all(taken[:, 2] <= 0.5)
    for place, one in enumerate(taken):
        others = np.vstack([shares, np.delete(taken, place, axis=0)])
        assert np.abs(others - one).sum(axis=1).min() > 0.05
    true = [np.mean(_loss(one)) for one in measured.induce(vectors)]
    assert np.mean(true[:4]) < np.mean(true[6:])


def test_settings_that_cannot_be_are_refused() -> None:
    """Too few runs, nothing to compare."""
    with pytest.raises(ConfigError, match="at least 12 runs"):
        CurvesConfig(n_runs=5)
    with pytest.raises(ConfigError, match="at least one of regressions"):
        CurvesConfig(regressions=())
