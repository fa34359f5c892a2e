"""Equivalent tokens: planted step laws come back, and nothing is invented beyond them."""

import json

import numpy as np
import pytest

from cuvee.arrays import FloatArray, IntArray
from cuvee.errors import DataError
from cuvee.randomness import stream
from cuvee.tables.runs import Trajectory
from cuvee.validate.equivalent import (
    MAX_EXTRAPOLATION,
    EquivalentTokens,
    StepLaw,
    equivalent_tokens,
    fit_step_law,
    objective_curves,
)

LAW = StepLaw(irreducible=1.2, scale=3e5, exponent=0.45)
TOKENS: IntArray = np.linspace(1e5, 2e6, 20).astype(np.int64)
PRIOR_BIAS = 0.02
"""Relative error that the weak prior on the exponent may leave on noiseless points."""


def _curves(n_seeds: int = 3, *, noise: float = 0.0) -> FloatArray:
    rng = stream(0, "curves")
    return LAW.loss(TOKENS) + noise * rng.standard_normal((n_seeds, len(TOKENS)))


@pytest.mark.parametrize("exponent", [0.2, 0.5, 0.9])
def test_planted_law_is_recovered(exponent: float) -> None:
    """Noiseless points give back E and beta."""
    law = StepLaw(irreducible=0.8, scale=2e5, exponent=exponent)
    fitted = fit_step_law(TOKENS, law.loss(TOKENS))
    assert fitted.exponent == pytest.approx(exponent, rel=PRIOR_BIAS)
    assert fitted.irreducible == pytest.approx(0.8, rel=PRIOR_BIAS)
    assert fitted.loss(8e6) == pytest.approx(law.loss(8e6), rel=1e-3)


def test_one_broken_checkpoint_does_not_move_the_law() -> None:
    """Huber weights hold an outlier of twenty times the noise."""
    losses = _curves(1, noise=0.002)[0]
    losses[10] += 0.04
    clean = fit_step_law(TOKENS, _curves(1, noise=0.002)[0])
    assert fit_step_law(TOKENS, losses).loss(8e6) == pytest.approx(float(clean.loss(8e6)), abs=0.01)


def test_five_points_extrapolate_to_twice_the_tokens() -> None:
    """The default of five points a run is enough for a short way."""
    points = np.array([0.2, 0.4, 0.6, 0.8, 1.0]) * 2e6
    fitted = fit_step_law(points.astype(np.int64), LAW.loss(points))
    assert fitted.loss(4e6) == pytest.approx(float(LAW.loss(4e6)), rel=1e-3)


def test_irreducible_loss_is_never_negative() -> None:
    """Losses that fall too fast for the law meet the bound E = 0."""
    law = fit_step_law(TOKENS, 5.0 - 4.0 * TOKENS / TOKENS[-1])
    assert law.irreducible == 0.0


def test_tokens_invert_the_law() -> None:
    """Solving for tokens undoes the loss; at or below E there are none."""
    assert LAW.tokens(float(LAW.loss(5e6))) == pytest.approx(5e6)
    assert LAW.tokens(LAW.irreducible) is None
    assert LAW.tokens(LAW.irreducible + 1e-300) is None


def test_inside_the_trajectory_it_interpolates() -> None:
    """The loss the natural mixture had at a point gives that point's tokens back."""
    found = equivalent_tokens(TOKENS, _curves(), LAW.loss(np.full(3, float(TOKENS[7]))))
    assert found.status == "measured"
    assert found.n_tokens == pytest.approx(float(TOKENS[7]), rel=1e-9)
    assert found.factor == pytest.approx(TOKENS[7] / TOKENS[-1], rel=1e-9)
    assert found.laws == (None, None, None)


def test_between_points_it_is_close_to_the_law() -> None:
    """Interpolation in log tokens follows the planted law between two points."""
    found = equivalent_tokens(TOKENS, _curves(1), LAW.loss(np.array([1.23e6])))
    assert found.n_tokens == pytest.approx(1.23e6, rel=1e-3)


def test_beyond_the_trajectory_the_law_is_solved() -> None:
    """Three times the measured tokens come back from a planted law."""
    found = equivalent_tokens(TOKENS, _curves(), LAW.loss(np.full(3, 6e6)))
    assert found.status == "extrapolated"
    assert found.n_tokens == pytest.approx(6e6, rel=0.03)
    assert found.factor == pytest.approx(3.0, rel=0.03)
    assert all(law is not None for law in found.laws)


def test_interval_over_seeds_holds_the_planted_answer() -> None:
    """With noise on every point the interval over seeds covers the truth nearly always."""
    rng = stream(3, "coverage")
    covered = 0
    for _ in range(30):
        losses = LAW.loss(TOKENS) + 0.003 * rng.standard_normal((4, len(TOKENS)))
        chosen = LAW.loss(3e6) + 0.003 * rng.standard_normal(4)
        found = equivalent_tokens(TOKENS, losses, chosen)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 3e6 <= found.high
    assert covered >= 25


def test_loss_below_the_irreducible_is_not_reached() -> None:
    """No number is given, only that the measured tokens are not enough."""
    found = equivalent_tokens(TOKENS, _curves(), np.full(3, LAW.irreducible - 0.05))
    assert (found.status, found.n_tokens, found.factor) == ("not reached", None, None)
    assert (found.low, found.high) == (2e6, None)
    assert found.reason == "3 of 3 seeds do not reach it within 16 times the measured tokens"


def test_nothing_is_claimed_far_beyond_the_measured_range() -> None:
    """A law that would reach the loss only after a hundredfold training does not count."""
    far = LAW.loss(np.full(3, 6.0 * MAX_EXTRAPOLATION * TOKENS[-1]))
    assert equivalent_tokens(TOKENS, _curves(), far).status == "not reached"


def test_one_seed_that_does_not_reach_decides() -> None:
    """A mean over the seeds that happened to reach would be too kind, so there is none."""
    chosen = LAW.loss(np.array([1e6, 1e6, 1e9]))
    found = equivalent_tokens(TOKENS, _curves(), chosen)
    assert found.status == "not reached"
    assert found.per_seed[2] is None
    assert found.reason.startswith("1 of 3 seeds")


def test_loss_above_the_first_point_is_below_range() -> None:
    """A very bad chosen mixture gets an upper bound."""
    found = equivalent_tokens(TOKENS, _curves(), np.full(3, 9.0))
    assert (found.status, found.low, found.high) == ("below range", None, 1e5)


def test_one_seed_has_no_interval() -> None:
    """The estimate stands alone and says so."""
    found = equivalent_tokens(TOKENS, _curves(1), LAW.loss(np.array([1e6])))
    assert (found.low, found.high) == (None, None)
    assert found.reason == "1 seed: an interval needs at least 2"


def test_few_points_are_not_extrapolated() -> None:
    """Three points cannot carry the three parameters of the law."""
    found = equivalent_tokens(TOKENS[-3:], _curves()[:, -3:], LAW.loss(np.full(3, 4e6)))
    assert found.status == "not reached"


def test_a_flat_trajectory_is_not_extrapolated() -> None:
    """Losses that no longer fall reach nothing."""
    found = equivalent_tokens(TOKENS, np.full((1, len(TOKENS)), 2.0), np.array([1.5]))
    assert found.status == "not reached"


def test_noise_does_not_make_the_trajectory_cross_early() -> None:
    """A single lucky early point is smoothed away by the isotonic fit."""
    losses = _curves(1)
    losses[0, 2] = LAW.loss(1.9e6)
    found = equivalent_tokens(TOKENS, losses, LAW.loss(np.array([1.85e6])))
    assert found.n_tokens == pytest.approx(1.85e6, rel=0.01)


def test_result_survives_json() -> None:
    """The result read back from JSON text equals the one written, laws included."""
    found = equivalent_tokens(TOKENS, _curves(), LAW.loss(np.full(3, 6e6)))
    assert EquivalentTokens.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_refusals_name_what_was_found() -> None:
    """Every refused input has its message."""
    with pytest.raises(DataError, match=r"shape \(3, 20\); expected .* = \(2, 20\)"):
        equivalent_tokens(TOKENS, _curves(), np.ones(2))
    with pytest.raises(DataError, match="positive and increase"):
        equivalent_tokens(TOKENS[::-1], _curves(), np.ones(3))
    with pytest.raises(DataError, match="NaN or infinite; leave diverged runs out"):
        equivalent_tokens(TOKENS, np.full((1, 20), np.nan), np.ones(1))
    with pytest.raises(DataError, match="at least 4 points, found 3"):
        fit_step_law(TOKENS[:3], np.ones(3))
    with pytest.raises(DataError, match="losses that fall with the tokens"):
        fit_step_law(TOKENS, TOKENS / 1e6)


def _trajectory(targets: tuple[str, ...], bpb: list[list[float]], last: int = 20) -> Trajectory:
    return Trajectory(
        n_tokens=np.array([10, last]),
        targets=targets,
        losses=np.zeros((2, len(targets))),
        losses_bpb=np.array(bpb),
    )


def test_objective_is_composed_by_name() -> None:
    """Targets in another order are matched by name; sets without weight are passed over."""
    one = _trajectory(("a", "b"), [[1.0, 2.0], [0.5, 1.0]])
    other = _trajectory(("x", "b", "a"), [[9.0, 2.0, 1.0], [9.0, 1.0, 0.5]])
    tokens, curves = objective_curves([one, other], ("a", "b"), np.array([0.25, 0.75]))
    np.testing.assert_array_equal(tokens, [10, 20])
    np.testing.assert_allclose(curves, [[1.75, 0.875]] * 2)


def test_trajectories_that_do_not_match_are_refused() -> None:
    """A missing target and other points are named."""
    one = _trajectory(("a",), [[1.0], [0.5]])
    with pytest.raises(DataError, match="trajectory 0 has no losses of target 'b'"):
        objective_curves([one], ("b",), np.ones(1))
    with pytest.raises(DataError, match="trajectory 1 has other points than trajectory 0"):
        objective_curves([one, _trajectory(("a",), [[1.0], [0.5]], 21)], ("a",), np.ones(1))
