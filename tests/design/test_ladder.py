"""The doubling ladder: rungs, caps, spread and repeatability."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuvee.design.ladder import LadderConfig, make_ladder
from cuvee.errors import ConfigError, InfeasibleError
from cuvee.randomness import stream
from cuvee.simplex import TOLERANCE
from cuvee.tables.design import Design


def _ladder(
    prior: list[float], caps: list[float], *, seed: int = 1, n_runs: int = 20, n_levels: int = 6
) -> Design:
    weights = np.array(prior) / np.sum(prior)
    domains = tuple(f"d{number}" for number in range(len(prior)))
    config = LadderConfig(n_runs=n_runs, n_levels=n_levels)
    return make_ladder(
        domains, weights, caps=np.array(caps), config=config, rng=stream(seed, "ladder")
    )


def test_shares_stand_on_the_ladder() -> None:
    """All shares but the one or two that fill the row up are a cap, a half of it and so on."""
    caps = np.array([0.5, 0.8, 0.4, 0.7])
    design = _ladder([4, 3, 2, 1], caps.tolist(), n_levels=4)
    rungs = np.append(0.5 ** np.arange(4), 0.0)
    for row, kind in zip(design.weights, design.kinds, strict=True):
        off = [
            np.abs(share / top - rungs).min() > 1e-9 for share, top in zip(row, caps, strict=True)
        ]
        assert kind != "ladder" or sum(off) <= 2


def test_fixed_points_come_first_and_nothing_repeats() -> None:
    """Natural and uniform are always measured; no mixture is measured twice."""
    design = _ladder([4, 3, 2, 1], [1.0] * 4)
    assert design.run_ids[:3] == ("natural", "uniform", "ladder-000")
    np.testing.assert_allclose(design.row("natural"), [0.4, 0.3, 0.2, 0.1])
    assert len(np.unique(design.weights.round(6), axis=0)) == 20


def test_every_domain_is_seen_high_and_absent() -> None:
    """The design spreads: each domain has a run near its largest share and one without it."""
    caps = np.full(8, 0.5)
    design = _ladder([1] * 8, caps.tolist(), n_runs=40)
    assert np.all(design.weights.max(axis=0) >= 0.25)
    assert np.all(design.weights.min(axis=0) == 0.0)


def test_the_same_seed_gives_the_same_design() -> None:
    """A design follows from its seed."""
    one, same, other = (_ladder([3, 2, 1], [0.9] * 3, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.weights, same.weights)
    assert np.abs(one.weights - other.weights).max() > 0.01


def test_caps_that_leave_one_mixture_are_refused() -> None:
    """There is nothing to compare."""
    with pytest.raises(InfeasibleError, match="too few"):
        _ladder([1, 1], [0.5, 0.5])


def test_caps_below_one_are_refused() -> None:
    """No mixture keeps them."""
    with pytest.raises(InfeasibleError, match=r"caps sum to 0\.8; they must sum to at least 1"):
        _ladder([1, 1], [0.4, 0.4])


def test_too_few_runs_are_refused() -> None:
    """A ladder needs rows beside the fixed points."""
    with pytest.raises(ConfigError, match="at least 4"):
        LadderConfig(n_runs=3)


@settings(max_examples=25, deadline=None)
@given(
    prior=st.lists(st.floats(0.05, 1.0), min_size=3, max_size=24),
    slack=st.floats(1.6, 6.0),
    seed=st.integers(0, 1000),
)
def test_rows_are_mixtures_within_the_caps(prior: list[float], slack: float, seed: int) -> None:
    """Whatever the pool, every row sums to 1 and keeps the caps."""
    weights = np.array(prior) / np.sum(prior)
    caps = np.minimum(1.0, slack * weights)
    design = _ladder(prior, caps.tolist(), seed=seed, n_runs=8)
    np.testing.assert_allclose(design.weights.sum(axis=1), 1.0, atol=TOLERANCE)
    assert np.all(design.weights <= caps + TOLERANCE)
    assert np.all(design.weights >= 0.0)
