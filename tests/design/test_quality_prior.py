"""Algorithm 1: ranges, moments, and criteria that can be unimportant everywhere."""

from dataclasses import replace

import numpy as np
import pytest

from cuvee.design.quality_prior import QualityPriorConfig, draw_vectors, mean_vector
from cuvee.policy.quality_curve import QualityCurve
from cuvee.randomness import stream

PAPER = QualityPriorConfig(steepness="linear", largest_threshold=0.1)
N_DOMAINS, N_CRITERIA = 26, 3


def _draw(config: QualityPriorConfig, n: int, seed: int = 1) -> np.ndarray:
    return draw_vectors(
        config, n=n, n_domains=N_DOMAINS, n_criteria=N_CRITERIA, rng=stream(seed, "prior")
    )


def _curves(vectors: np.ndarray) -> list[QualityCurve]:
    domains = [f"d{place}" for place in range(N_DOMAINS)]
    criteria = [f"c{place}" for place in range(N_CRITERIA)]
    return [QualityCurve.of_vector(domains, criteria, row) for row in vectors]


@pytest.mark.parametrize(
    ("config", "mean"), [(PAPER, 0.070), (replace(PAPER, steepness="log"), 0.061)]
)
def test_draws_have_the_papers_ranges_and_moments(config: QualityPriorConfig, mean: float) -> None:
    """182 parameters; 5.0% of tokens unique, 7.0% or 6.1% with repeats."""
    vectors = _draw(config, 400)
    assert vectors.shape == (400, 182)
    curves = _curves(vectors)
    threshold = np.array([one.threshold for one in curves])
    assert threshold.min() >= 0.0
    assert threshold.max() <= 0.1
    assert np.mean(threshold) == pytest.approx(0.05, abs=0.001)
    assert np.mean([one.token_shares for one in curves]) == pytest.approx(mean, abs=0.0015)
    assert np.min([one.steepness for one in curves]) > 0.0
    assert np.max([one.base for one in curves]) <= 0.001


def test_a_criterion_can_be_unimportant_everywhere() -> None:
    """Mean weights over domains differ between vectors more than domains alone would make them."""
    weights = np.array([one.merge.mean(axis=0) for one in _curves(_draw(PAPER, 300))])
    assert weights.std(axis=0).min() > 0.1
    np.testing.assert_allclose(weights.mean(axis=0), 1.0 / 3.0, atol=0.03)


def test_draws_depend_on_the_seed_alone() -> None:
    """Equal seeds, equal vectors."""
    np.testing.assert_array_equal(_draw(PAPER, 3), _draw(PAPER, 3))
    assert not np.array_equal(_draw(PAPER, 3), _draw(PAPER, 3, seed=2))


def test_means_keep_the_simplex_and_the_space_of_the_prior() -> None:
    """Merge weights still sum to 1; a log prior's lambdas are averaged geometrically."""
    log = replace(PAPER, steepness="log")
    vectors = _draw(log, 10)
    mean = _curves(mean_vector(log, vectors, n_domains=N_DOMAINS, n_criteria=N_CRITERIA)[None])[0]
    single = np.array([one.steepness for one in _curves(vectors)])
    np.testing.assert_allclose(mean.steepness, np.exp(np.log(single).mean(axis=0)))
    plain = _curves(mean_vector(PAPER, vectors, n_domains=N_DOMAINS, n_criteria=N_CRITERIA)[None])
    np.testing.assert_allclose(plain[0].steepness, single.mean(axis=0))


def test_the_mean_draw_meets_the_budget() -> None:
    """Without a largest threshold it is twice the budget's share of the pool, at most 1."""
    assert QualityPriorConfig().for_budget(0.2).largest_threshold == pytest.approx(0.4)
    assert QualityPriorConfig().for_budget(0.9).largest_threshold == 1.0
    assert PAPER.for_budget(0.9) == PAPER
