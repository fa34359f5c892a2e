"""The critical share: planted laws, coverage of its ends, shares that never or always lose."""

import numpy as np
import pytest

from cuvee.arrays import FloatArray
from cuvee.errors import DataError
from cuvee.fit.critical_share import critical_share, fit_share_law

SHARES = np.repeat([0.0, 0.0625, 0.125, 0.25, 0.5, 0.75, 0.875, 1.0], 2)
NOISE = 0.005


def _loss(shares: FloatArray | float, rate: float) -> FloatArray:
    return np.asarray(2.2 + 0.02 * np.exp(rate * np.asarray(shares)))


def test_noiseless_law_comes_back() -> None:
    """Floor, amplitude and rate, and the share where the base's loss is met."""
    law = fit_share_law(SHARES, _loss(SHARES, 2.5))
    np.testing.assert_allclose([law.floor, law.amplitude, law.rate], [2.2, 0.02, 2.5], rtol=1e-3)
    base = float(_loss(0.6, 2.5))
    found = critical_share(SHARES, _loss(SHARES, 2.5), base_loss=base, n_tokens=7)
    assert found.status == "inside"
    assert found.share == pytest.approx(0.6, abs=1e-3)
    assert found.n_tokens == 7


def test_ends_are_safe_and_hold_the_critical_share() -> None:
    """A new run is better than the base at the lower end and worse at the upper, 19 times in 20."""
    rng = np.random.default_rng(0)
    held, better, worse = [], [], []
    for _ in range(200):
        rate, critical = np.log(rng.uniform(3.0, 30.0)), rng.uniform(0.3, 0.9)
        losses = _loss(SHARES, rate) + NOISE * rng.standard_normal(len(SHARES))
        base = float(_loss(critical, rate))
        found = critical_share(SHARES, losses, base_loss=base, n_tokens=1)
        held.append(found.low <= critical <= found.high)
        better.append(_loss(found.low, rate) + NOISE * rng.standard_normal() < base)
        worse.append(_loss(found.high, rate) + NOISE * rng.standard_normal() > base)
    assert np.mean(held) > 0.97
    assert 0.89 <= np.mean(better) <= 0.99
    assert 0.89 <= np.mean(worse) <= 0.99


@pytest.mark.parametrize(("base", "status", "share"), [(2.0, "below", 0.0), (3.0, "above", 1.0)])
def test_shares_that_always_or_never_lose(base: float, status: str, share: float) -> None:
    """A base that is always better, and one that is always worse."""
    found = critical_share(SHARES, _loss(SHARES, 2.5), base_loss=base, n_tokens=1)
    assert (found.status, found.share) == (status, share)


def test_a_share_of_another_kind_is_left_out() -> None:
    """Runs without any of the old domains lie far above the law of all others."""
    rng = np.random.default_rng(0)
    losses = _loss(SHARES, 2.5) + NOISE * rng.standard_normal(len(SHARES))
    losses[SHARES == 1.0] += 0.5
    found = critical_share(SHARES, losses, base_loss=float(_loss(0.5, 2.5)), n_tokens=1)
    assert found.left_out == (1.0,)
    assert found.low <= 0.5 <= found.high
    assert found.high - found.low < 0.3


def test_too_few_shares_are_refused() -> None:
    """Three parameters need four shares."""
    with pytest.raises(DataError, match="3 losses at 3 different shares"):
        fit_share_law(np.array([0.0, 0.5, 1.0]), np.array([2.0, 2.1, 2.2]))
