"""Ways of computing influence beside what training measures."""

import numpy as np
import pytest

from cuvee.errors import ConfigError
from cuvee.methods.curvature_choice import (
    CheckConfig,
    WayRank,
    choose_way,
    compare_ways,
    describe_check,
    describe_choice,
    settings_of,
)
from cuvee.methods.quad_engine import InfluenceConfig


def test_the_way_that_ranks_as_training_does_comes_first() -> None:
    """Ranks, their intervals, and whether the best is surely ahead of the plain product."""
    rng = np.random.default_rng(0)
    falls = np.linspace(0.0, 1.0, 24)
    scores = {
        "attention/none": rng.standard_normal(24),
        "attention/refined 0.1": falls + 0.02 * rng.standard_normal(24),
        "attention/kfac 0.1": -falls,
    }
    found = compare_ways(scores, falls, rng=rng)
    assert found[0].name == "attention/refined 0.1"
    assert found[0].rank > 0.95
    assert found[0].low <= found[0].rank
    assert found[0].ahead_low > 0.0
    assert found[-1].rank == pytest.approx(-1.0)
    plain = next(one for one in found if one.name.endswith("none"))
    assert plain.ahead == 0.0
    assert "surely better" in describe_check(found)
    alike = {"all/none": falls, "all/ekfac 1": falls + 1e-3 * rng.standard_normal(24)}
    assert "cannot be told apart" in describe_check(compare_ways(alike, falls, rng=rng))


def test_settings_that_cannot_be_are_refused() -> None:
    """Too few clusters, unknown matrices."""
    with pytest.raises(ConfigError, match="at least 4, 1, 1"):
        CheckConfig(n_clusters=2)
    with pytest.raises(ConfigError, match="choose from attention, mlp and all"):
        CheckConfig(where=("head",))


def _way(name: str, rank: float, behind_low: float) -> WayRank:
    return WayRank(
        name=name,
        rank=rank,
        low=rank - 0.1,
        high=rank + 0.1,
        ahead=0.0,
        ahead_low=0.0,
        behind_low=behind_low,
    )


def test_the_cheapest_of_those_that_cannot_be_told_apart_is_chosen() -> None:
    """The best where it is surely best; of one price the best rank; and it is said."""
    found = [
        _way("all/refined 0.1", 0.8, 0.0),
        _way("all/kfac 1", 0.7, -0.1),
        _way("all/kfac 0.1", 0.6, -0.1),
        _way("all/none", 0.2, 0.3),
    ]
    assert choose_way(found).name == "all/kfac 1"
    assert "all/refined 0.1 reached 0.80, which cannot be told apart" in describe_choice(found)
    surely = [found[0], _way("all/kfac 1", 0.1, 0.4), found[3]]
    assert choose_way(surely).name == "all/refined 0.1"
    assert "the most of 3 ways" in describe_choice(surely)


def test_intervals_tell_the_best_from_noise_but_not_from_its_like() -> None:
    """Paired draws of the clusters: a copy of the best is never told apart, noise is."""
    rng = np.random.default_rng(1)
    falls = np.linspace(0.0, 1.0, 30)
    good = falls + 0.02 * rng.standard_normal(30)
    scores = {"mlp/none": rng.standard_normal(30), "mlp/diagonal 0.1": good, "mlp/kfac 0.1": good}
    found = {one.name: one for one in compare_ways(scores, falls, rng=rng)}
    assert found["mlp/none"].behind_low > 0.0
    assert found["mlp/kfac 0.1"].behind_low == 0.0
    assert choose_way(compare_ways(scores, falls, rng=rng)).name == "mlp/diagonal 0.1"


def test_a_way_becomes_settings() -> None:
    """Matrices, curvature, damping; steps only where they were compared."""
    auto = InfluenceConfig(curvature="auto", steps=3, damping=0.5)
    refined = settings_of("mlp/refined 0.01", auto)
    assert (refined.where, refined.curvature) == ("mlp", "ekfac")
    assert (refined.damping, refined.steps) == (0.01, 3)
    plain = settings_of("attention/none", auto)
    assert (plain.curvature, plain.damping, plain.steps) == ("none", 0.5, 0)
    assert settings_of("all/diagonal 1", auto).curvature == "diagonal"
