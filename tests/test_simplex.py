"""Weights stay on the simplex, within their bounds, and nearest or in proportion as promised."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import optimize, stats

from cuvee import simplex
from cuvee.arrays import FloatArray
from cuvee.errors import DataError, InfeasibleError
from cuvee.randomness import stream

ATOL = 1e-9
"""The house tolerance of sums and bounds."""


@st.composite
def weights_and_caps(draw: st.DrawFn) -> tuple[FloatArray, FloatArray]:
    """Draw weights with zeros and ties, and caps from barely feasible to loose."""
    n_domains = draw(st.integers(1, 12))
    share = st.one_of(st.just(0.0), st.floats(1e-12, 1.0))
    values = draw(arrays(np.float64, n_domains, elements=share))
    sizes = draw(arrays(np.float64, n_domains, elements=st.floats(1e-6, 1.0)))
    slack = draw(st.sampled_from([1.0, 1.0 + 1e-9, 1.001, 1.3, 5.0, 1000.0]))
    weights = values / values.sum() if values.sum() > 0.0 else np.full(n_domains, 1.0 / n_domains)
    return weights, slack * sizes / sizes.sum()


@settings(deadline=None)
@given(weights_and_caps())
def test_cap_keeps_sum_and_caps(case: tuple[FloatArray, FloatArray]) -> None:
    """Capped weights sum to 1 and lie below the caps, however tight those are."""
    weights, caps = case
    capped = simplex.cap(weights, upper=caps)
    simplex.check_weights(capped, n_domains=len(caps))
    assert np.all(capped <= caps + ATOL)


@settings(deadline=None)
@given(weights_and_caps())
def test_cap_leaves_weights_within_caps_alone(case: tuple[FloatArray, FloatArray]) -> None:
    """Nothing moves where nothing has to."""
    weights, _ = case
    np.testing.assert_allclose(simplex.cap(weights, upper=weights * 1.01), weights, atol=ATOL)


def test_cap_moves_excess_in_proportion() -> None:
    """0.2 above the cap goes to the other two as 3 to 1."""
    capped = simplex.cap([0.6, 0.3, 0.1], upper=[0.4, 1.0, 1.0])
    np.testing.assert_allclose(capped, [0.4, 0.45, 0.15], atol=ATOL)


def test_cap_repeats_when_a_domain_overflows_in_turn() -> None:
    """The second domain reaches its cap only because of what the first one gave it."""
    capped = simplex.cap([0.6, 0.3, 0.1], upper=[0.4, 0.4, 1.0])
    np.testing.assert_allclose(capped, [0.4, 0.4, 0.2], atol=ATOL)


def test_cap_falls_back_on_domains_of_no_weight() -> None:
    """Mass that weighted domains cannot hold goes to the rest in proportion to their caps."""
    capped = simplex.cap([1.0, 0.0, 0.0], upper=[0.4, 0.4, 0.8])
    np.testing.assert_allclose(capped, [0.4, 0.2, 0.4], atol=ATOL)


def test_cap_treats_rows_alike() -> None:
    """A block of rows gives what each row gives alone."""
    rows = stream(0, "rows").dirichlet(np.full(6, 0.4), size=50)
    caps = np.full(6, 0.3)
    alone = np.stack([simplex.cap(row, upper=caps) for row in rows])
    np.testing.assert_allclose(simplex.cap(rows, upper=caps), alone, atol=ATOL)


@settings(deadline=None)
@given(weights_and_caps(), st.floats(0.0, 0.9))
def test_project_keeps_sum_and_bounds(
    case: tuple[FloatArray, FloatArray], floor_share: float
) -> None:
    """Projected points sum to 1 within their bounds, wherever they come from."""
    weights, caps = case
    lower = floor_share * caps / max(float(caps.sum()), 1.0)
    projected = simplex.project(10.0 * weights - 3.0, lower=lower, upper=caps)
    simplex.check_weights(projected, n_domains=len(caps))
    assert np.all(projected >= lower - ATOL)
    assert np.all(projected <= caps + ATOL)


@settings(deadline=None)
@given(weights_and_caps())
def test_project_leaves_feasible_points_alone(case: tuple[FloatArray, FloatArray]) -> None:
    """Projecting twice is projecting once."""
    weights, caps = case
    once = simplex.project(weights, lower=np.zeros_like(caps), upper=caps)
    twice = simplex.project(once, lower=np.zeros_like(caps), upper=caps)
    np.testing.assert_allclose(twice, once, atol=ATOL)


def test_project_finds_the_nearest_point() -> None:
    """A general solver finds no nearer point."""
    rng = stream(0, "project")
    lower, upper = np.full(5, 0.05), np.array([0.2, 0.9, 0.3, 0.25, 0.6])
    for point in rng.normal(0.2, 0.5, size=(10, 5)):
        solution = optimize.minimize(
            lambda w, point=point: 0.5 * np.sum((w - point) ** 2),
            np.full(5, 0.2),
            jac=lambda w, point=point: w - point,
            bounds=list(zip(lower, upper, strict=True)),
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1.0},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        projected = simplex.project(point, lower=lower, upper=upper)
        np.testing.assert_allclose(projected, solution.x, atol=1e-6)  # the solver's own accuracy


@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        ([0.6, 0.6], [1.0, 1.0], "lower bounds sum to 1.2"),
        ([0.0, 0.0], [0.3, 0.5], "upper bounds sum to 0.8"),
        ([0.0, 0.5], [1.0, 0.4], "bound 1 has lower 0.5 above upper 0.4"),
    ],
)
def test_project_refuses_bounds_without_a_point(
    lower: list[float], upper: list[float], message: str
) -> None:
    """The error says which sum or bound is impossible."""
    with pytest.raises(InfeasibleError, match=message):
        simplex.project([0.5, 0.5], lower=lower, upper=upper)


def test_cap_refuses_caps_below_one() -> None:
    """Caps that sum to less than 1 leave no mixture."""
    with pytest.raises(InfeasibleError, match=r"upper bounds sum to 0\.9"):
        simplex.cap([0.5, 0.5], upper=[0.5, 0.4])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([[0.5, 0.5], [0.5, 0.47]], r"weights row 1 sums to 0\.97.*simplex.normalise"),
        ([[1.5, -0.5]], r"row 0 column 1 is -0\.5"),
        ([[np.nan, 1.0]], "row 0 column 0 is nan"),
        ([[0.5, 0.25, 0.25]], "expected 2 columns"),
    ],
)
def test_check_weights_names_the_row(weights: list[list[float]], message: str) -> None:
    """Each fault is named with its place."""
    with pytest.raises(DataError, match=message):
        simplex.check_weights(weights, n_domains=2)


def test_check_weights_accepts_rounding() -> None:
    """Sums within the tolerance pass, one row or many."""
    simplex.check_weights([0.1] * 10, n_domains=10)
    simplex.check_weights([[0.5, 0.5 + 5e-10]], n_domains=2)


@pytest.mark.parametrize("values", [[0.0, 0.0], [-1.0, 2.0], [np.inf, 1.0]])
def test_normalise_refuses_what_has_no_shares(values: list[float]) -> None:
    """Nothing positive, negative or infinite values are refused."""
    with pytest.raises(DataError, match="values to normalise"):
        simplex.normalise(values)


def test_normalise_does_not_overflow() -> None:
    """Values near the largest float still have shares."""
    np.testing.assert_allclose(simplex.normalise([1e308, 1e308, 0.0]), [0.5, 0.5, 0.0])


def test_temper_flattens_and_keeps_zeros() -> None:
    """At T = 0.5 shares go as square roots."""
    np.testing.assert_allclose(simplex.temper([0.8, 0.2, 0.0], 0.5), [2 / 3, 1 / 3, 0.0])


def test_supply_caps_are_epochs_times_share_of_budget() -> None:
    """A domain of 10 tokens at 4 epochs is at most 0.4 of a run of 100."""
    caps = simplex.supply_caps([10, 500], max_epochs=4.0, n_tokens=100)
    np.testing.assert_allclose(caps, [0.4, 1.0])
    caps = simplex.supply_caps([10, 500], max_epochs=np.array([1.0, 4.0]), n_tokens=100)
    np.testing.assert_allclose(caps, [0.1, 1.0])


def test_supply_caps_refuse_a_budget_beyond_supply() -> None:
    """The message gives supply and budget."""
    with pytest.raises(InfeasibleError, match=r"holds 60 tokens .* budget of 100"):
        simplex.supply_caps([10, 20], max_epochs=2.0, n_tokens=100)
    with pytest.raises(DataError, match="must be positive"):
        simplex.supply_caps([10, 20], max_epochs=0.0, n_tokens=10)


@settings(deadline=None)
@given(weights_and_caps(), st.integers(0, 10**9))
def test_largest_remainder_is_exact_and_close(
    case: tuple[FloatArray, FloatArray], n_units: int
) -> None:
    """Quotas sum to the units and each lies within one unit of its share."""
    weights, _ = case
    quotas = simplex.largest_remainder(weights, n_units)
    assert quotas.sum() == n_units
    assert np.all(quotas >= 0)
    assert np.all(np.abs(quotas - weights * n_units) < 1.0 + 1e-6)  # 1e9 units in float64


def test_largest_remainder_gives_ties_to_the_lower_index() -> None:
    """Equal remainders are served in order, also where shares are not exact in binary."""
    assert simplex.largest_remainder([0.25] * 4, 6).tolist() == [2, 2, 1, 1]
    assert simplex.largest_remainder([0.1] * 10, 3).tolist() == [1, 1, 1] + [0] * 7
    assert simplex.largest_remainder([0.1] * 10, 10).tolist() == [1] * 10


@pytest.mark.parametrize("strength", [0.05, 1.0, 20.0])
def test_sample_dirichlet_has_beta_marginals(strength: float) -> None:
    """Each share follows Beta(a_i, sum of the others), also at small concentrations."""
    concentration = strength * np.array([0.5, 0.3, 0.2])
    n = 4000
    draws = simplex.sample_dirichlet(concentration, n=n, rng=stream(0, "dirichlet"))
    simplex.check_weights(draws, n_domains=3)
    for column in range(3):
        marginal = stats.beta(concentration[column], strength - concentration[column])
        # Not a Kolmogorov-Smirnov test: small strengths put much mass nearer to 1 than floats go.
        for share in (1e-9, 1e-3, 0.1, 0.5, 0.9, 1.0 - 1e-6):
            below = int(np.sum(draws[:, column] < share))
            assert stats.binomtest(below, n, float(marginal.cdf(share))).pvalue > 1e-4


def test_sample_dirichlet_survives_tiny_concentrations() -> None:
    """Where gamma values would all underflow, rows are vertices, not NaN."""
    draws = simplex.sample_dirichlet(np.full(4, 1e-5), n=1000, rng=stream(1, "dirichlet"))
    simplex.check_weights(draws, n_domains=4)
    assert np.all(draws.max(axis=1) > 0.9)


def test_sample_dirichlet_gives_nothing_to_zero() -> None:
    """A domain of concentration 0 gets no weight."""
    draws = simplex.sample_dirichlet([1.0, 0.0, 2.0], n=100, rng=stream(2, "dirichlet"))
    assert np.all(draws[:, 1] == 0.0)
    with pytest.raises(DataError, match="concentrations"):
        simplex.sample_dirichlet([0.0, 0.0], n=1, rng=stream(3, "dirichlet"))
