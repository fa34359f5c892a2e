"""What a curve takes of a pool: tokens, unique tokens, quality; of all documents or a sample."""

import numpy as np
import pytest

from cuvee.arrays import FloatArray, IntArray
from cuvee.policy.induced import PoolSample
from cuvee.policy.quality_curve import QualityCurve
from cuvee.randomness import document_keys


def _pool() -> tuple[IntArray, IntArray, FloatArray]:
    rng = np.random.default_rng(0)
    domain = rng.integers(2, size=20_000)
    return domain, rng.integers(20, 200, size=20_000), rng.uniform(size=(20_000, 2))


def _sample(most: int) -> PoolSample:
    domain, n_tokens, normalised = _pool()
    return PoolSample.choose(
        ("code", "web"),
        keys=document_keys(map(str, range(len(domain)))),
        domain=domain,
        n_tokens=n_tokens,
        normalised=normalised,
        most=most,
        seed=1,
    )


def _curve() -> QualityCurve:
    return QualityCurve(
        domains=("code", "web"),
        criteria=("one", "two"),
        merge=np.array([[1.0, 0.0], [0.0, 1.0]]),
        steepness=np.array([100.0, 10.0]),
        threshold=np.array([0.2, 0.5]),
        exponent=np.array([1.0, 0.0]),
        base=np.array([0.0, 0.0]),
    )


def test_tokens_are_the_curves_shares_of_each_domain() -> None:
    """Against the integral; unique tokens are those within the threshold."""
    sample, curve = _sample(10**9), _curve()
    found = sample.induce(curve)
    np.testing.assert_allclose(found.tokens / sample.pool_tokens, curve.token_shares, rtol=0.01)
    np.testing.assert_allclose(found.unique_tokens / sample.pool_tokens, [0.2, 0.5], atol=0.002)
    assert found.shares.sum() == pytest.approx(1.0)


def test_quality_is_that_of_what_is_taken() -> None:
    """The criterion that decides is low, the other at the pool's middle."""
    quality = _sample(10**9).induce(_curve()).quality
    assert quality[0, 0] == pytest.approx(0.09, abs=0.03)
    assert quality[0, 1] == pytest.approx(0.5, abs=0.02)
    assert quality[1, 1] == pytest.approx(0.25, abs=0.02)
    assert quality[1, 0] == pytest.approx(0.5, abs=0.02)


def test_a_sample_stands_for_the_pool() -> None:
    """A thousand documents of each domain give tokens, shares and features within a few percent."""
    whole, part = _sample(10**9).induce(_curve()), _sample(1000).induce(_curve())
    np.testing.assert_allclose(part.tokens, whole.tokens, rtol=0.05)
    for by_domain, n_features in ((False, 2 + 2 + 1), (True, 2 + 4 + 1)):
        told = whole.features(by_domain=by_domain)
        np.testing.assert_allclose(part.features(by_domain=by_domain), told, atol=0.06)
        assert len(told) == n_features
