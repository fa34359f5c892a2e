"""Curves are compared, predicted and averaged: planted pools where the best merge is known."""

import numpy as np
import pytest

from cuvee.arrays import FloatArray
from cuvee.design.quality_prior import QualityPriorConfig, draw_vectors
from cuvee.errors import ConfigError, InfeasibleError
from cuvee.methods.curve_search import (
    CurvesConfig,
    MeasuredCurves,
    compare_regressions,
    find_curve,
)
from cuvee.policy.induced import Induced, PoolSample
from cuvee.policy.quality_curve import QualityCurve
from cuvee.randomness import document_keys, stream

PRIOR = QualityPriorConfig(largest_threshold=0.5)
QUICK = CurvesConfig(n_runs=48, n_simulated=600, n_best=8, sample_documents=60)


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


def test_the_search_finds_which_criterion_helps_where() -> None:
    """Merge weights have the planted order, and the answer is truly better than the draws."""
    measured = _measured(64)
    curve, found = find_curve(
        measured, QUICK, chosen="domain-contents/process", prior=PRIOR, least_share=0.0, seed=1
    )
    assert curve.merge[0, 0] > 0.6
    assert curve.merge[1, 1] > 0.6
    true = np.mean(_loss(measured.sample.induce(curve)))
    drawn = measured.losses @ measured.objective
    assert true < np.quantile(drawn, 0.02)
    assert found["predicted"] == pytest.approx(true, abs=3 * float(str(found["predicted_sd"])))
    assert float(str(found["predicted_best"])) <= float(str(found["predicted_top_mean"]))
    assert float(str(found["predicted"])) < float(str(found["predicted_prior_mean"]))
    again, _ = find_curve(
        measured, QUICK, chosen="domain-contents/process", prior=PRIOR, least_share=0.0, seed=1
    )
    np.testing.assert_array_equal(again.vector, curve.vector)


def test_draws_that_sample_too_little_are_left_out() -> None:
    """Every draw that counts samples the share; a share beyond the prior is refused."""
    measured = _measured(48)
    _, found = find_curve(
        measured, QUICK, chosen="domain-contents/linear", prior=PRIOR, least_share=0.3, seed=1
    )
    assert 8 <= int(str(found["n_simulated"])) < QUICK.n_simulated
    with pytest.raises(InfeasibleError, match=r"Raise prior\.largest_threshold"):
        find_curve(
            measured, QUICK, chosen="domain-contents/linear", prior=PRIOR, least_share=0.9, seed=1
        )


def test_settings_that_cannot_be_are_refused() -> None:
    """Too few runs, nothing to compare."""
    with pytest.raises(ConfigError, match="at least 12 runs"):
        CurvesConfig(n_runs=5)
    with pytest.raises(ConfigError, match="at least one of regressions"):
        CurvesConfig(regressions=())
