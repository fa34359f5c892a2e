"""The order of mixtures elsewhere: rank correlation, its interval, what trusting it would cost."""

import json

import numpy as np
import pytest

from cuvee.errors import DataError
from cuvee.validate.agreement import Agreement, agreement


def test_regret_is_of_the_mixture_chosen_here() -> None:
    """The best mixture here costs there what the best one there would have saved."""
    found = agreement(np.array([1.0, 2, 3, 4, 5]), np.array([1.5, 1.2, 3, 4, 5]), name="0.4m")
    assert found.rank == pytest.approx(0.9)
    assert found.regret_bpb == pytest.approx(0.3)
    assert found.spread_bpb == pytest.approx(3.8)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.9 < found.high < 1.0


def test_the_interval_covers_the_true_correlation() -> None:
    """Of normal pairs of known correlation about as many intervals as stated hold it."""
    rng = np.random.default_rng(0)
    n_trials, n, pearson = 400, 24, 0.7
    truth = 6.0 / np.pi * np.arcsin(pearson / 2.0)
    covered = 0
    for _ in range(n_trials):
        here = rng.normal(size=n)
        there = pearson * here + np.sqrt(1.0 - pearson**2) * rng.normal(size=n)
        found = agreement(here, there, name="x")
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= truth <= found.high
    assert abs(covered / n_trials - 0.95) < 0.04


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_perfect_order_is_not_certain(sign: float) -> None:
    """Its outer end is 1, its inner one is not, and comes nearer with more mixtures."""
    ends = []
    for n in (6, 24):
        found = agreement(np.arange(float(n)), sign * np.arange(float(n)), name="x")
        assert found.rank == sign
        outer, inner = (found.high, found.low) if sign > 0 else (found.low, found.high)
        assert outer == sign
        assert inner is not None
        ends.append(sign * inner)
    assert 0.0 < ends[0] < ends[1] < 1.0


def test_diverged_runs_and_flat_losses() -> None:
    """A diverged run is left out; equal losses have no order; too few mixtures are refused."""
    here = np.arange(6.0)
    there = np.array([0.0, 1.0, np.nan, 3.0, 4.0, 5.0])
    assert agreement(here, there, name="x").n_mixtures == 5
    flat = agreement(here, np.ones(6), name="x")
    assert (flat.rank, flat.low, flat.spread_bpb) == (None, None, 0.0)
    assert Agreement.from_json(json.loads(json.dumps(flat.to_json()))) == flat
    with pytest.raises(DataError, match="3 mixtures have losses at both ends of"):
        agreement(here[:4], there[:4], name="0.4m")
