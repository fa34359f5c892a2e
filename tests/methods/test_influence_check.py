"""Ways of computing influence beside what training measures."""

import numpy as np
import pytest

from cuvee.errors import ConfigError
from cuvee.methods.influence_check import CheckConfig, compare_ways, describe_check


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
