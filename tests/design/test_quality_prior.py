"""Algorithm 1: ranges, moments, and criteria that can be unimportant everywhere."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from cuvee.design.quality_prior import (
    QualityPriorConfig,
    draw_vectors,
    mean_vector,
    recombine_vectors,
)
from cuvee.errors import ConfigError
from cuvee.policy.quality_curve import QualityCurve
from cuvee.randomness import stream

PAPER = QualityPriorConfig(steepness="linear", threshold="linear", largest_threshold=0.1)
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


@pytest.mark.parametrize(("threshold", "times"), [("linear", 2.0), ("log", 7.0)])
def test_the_mean_draw_meets_the_budget(threshold: Literal["linear", "log"], times: float) -> None:
    """Without a largest threshold it follows the budget's share of the pool, at most 1."""
    config = QualityPriorConfig(threshold=threshold)
    filled = config.for_budget(0.05)
    assert filled.largest_threshold == pytest.approx(0.05 * times)
    taken = [one.token_shares for one in _curves(_draw(filled, 300))]
    assert 0.05 < np.mean(taken) < 0.15
    assert config.for_budget(0.9).largest_threshold == 1.0
    assert PAPER.for_budget(0.9).largest_threshold == 0.1


def test_copies_stay_within_the_epoch_limit() -> None:
    """Eta and epsilon give way to it; below one copy there is no curve."""
    filled = QualityPriorConfig().for_budget(0.2, max_epochs=1.5)
    assert filled.most_copies == pytest.approx(1.5)
    ranks = np.linspace(0.0, 1.0, 101)
    for curve in _curves(_draw(filled, 30)):
        copies = [curve.copies(ranks, np.full(101, place)).max() for place in range(N_DOMAINS)]
        assert max(copies) <= 1.5 + 1e-12
    assert QualityPriorConfig().for_budget(0.2).most_copies == pytest.approx(2.001)
    with pytest.raises(ConfigError, match="at least once"):
        QualityPriorConfig().for_budget(0.2, max_epochs=0.5)


def test_a_longer_design_begins_with_the_shorter() -> None:
    """Runs measured already are not measured again when more are asked for."""
    np.testing.assert_array_equal(_draw(PAPER, 9)[:4], _draw(PAPER, 4))


def test_children_have_their_domains_from_parents_or_fresh_draws() -> None:
    """Every domain's block is one of a parent's or the fresh draw's, mostly a parent's."""
    parents, fresh = _draw(PAPER, 6), _draw(PAPER, 200, seed=2)
    children = recombine_vectors(parents, fresh, n_domains=N_DOMAINS, rng=stream(1, "children"))
    blocks = children.reshape(200, N_DOMAINS, -1)
    of_parents = (blocks[:, None] == parents.reshape(1, 6, N_DOMAINS, -1)).all(axis=3).any(axis=1)
    of_fresh = (blocks == fresh.reshape(200, N_DOMAINS, -1)).all(axis=2)
    assert np.all(of_parents | of_fresh)
    assert of_fresh.mean() == pytest.approx(1.0 / N_DOMAINS, rel=0.2)
