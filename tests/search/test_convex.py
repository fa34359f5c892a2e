"""The exact search: against a grid, with prices that are derivatives of the optimum."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuvee.arrays import FloatArray
from cuvee.errors import DataError, InfeasibleError
from cuvee.search.constraints import Constraints
from cuvee.search.convex import kl_path, minimise_convex
from cuvee.search.objective import Terms, no_worse
from cuvee.search.sensitivity import describe_prices, explore_draws, explore_exactly


@dataclass(frozen=True)
class Planted:
    """``exp(t . r)`` for each target."""

    effects: FloatArray
    domains: tuple[str, ...]
    targets: tuple[str, ...]

    @classmethod
    def of(cls, effects: FloatArray) -> "Planted":
        """Name rows and columns."""
        n_targets, n_domains = effects.shape
        return cls(
            effects,
            tuple(f"d{place}" for place in range(n_domains)),
            tuple(f"t{place}" for place in range(n_targets)),
        )

    def predict(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return means and a constant standard deviation."""
        mean = np.exp(weights @ self.effects.T)
        return mean, np.full_like(mean, 0.01)

    def slopes(self, weights: FloatArray) -> FloatArray:
        """Return the derivatives of the means."""
        mean = np.exp(weights @ self.effects.T)
        return np.asarray(mean[:, :, None] * self.effects)


EFFECTS = np.array([[-1.0, 0.2, 0.4], [0.5, -1.2, 0.1]])
EQUAL = np.array([0.5, 0.5])


def _constraints(upper: list[float], lower: list[float] | None = None) -> Constraints:
    bounds = dict(zip(("d0", "d1", "d2"), zip(lower or [0.0] * 3, upper, strict=True), strict=True))
    return Constraints.from_bounds(("d0", "d1", "d2"), caps=np.ones(3), bounds=bounds)


def test_the_answer_is_that_of_a_dense_grid() -> None:
    """No mixture of a fine grid within the bounds is better."""
    model = Planted.of(EFFECTS)
    constraints = _constraints([0.4, 0.7, 1.0], [0.0, 0.0, 0.05])
    answer = minimise_convex(model, EQUAL, constraints=constraints)
    grid = np.array(
        [[a, b, 200 - a - b] for a in range(201) for b in range(201 - a)], dtype=np.float64
    )
    grid = grid[constraints.satisfied(grid / 200)] / 200
    values = model.predict(grid)[0] @ EQUAL
    assert answer.optimum.predicted <= values.min() + 1e-9
    assert answer.gap < 1e-6


def test_prices_are_derivatives_of_the_optimum() -> None:
    """Moving a bound a little changes the objective by its price."""
    model = Planted.of(EFFECTS)
    answer = minimise_convex(model, EQUAL, constraints=_constraints([0.3, 0.4, 1.0]))
    assert {(one.name, one.kind) for one in answer.prices} == {("d0", "upper"), ("d1", "upper")}
    for one in answer.prices:
        upper = [0.3, 0.4, 1.0]
        upper[int(one.name[1])] += 1e-4
        more = minimise_convex(model, EQUAL, constraints=_constraints(upper))
        gained = (answer.optimum.predicted - more.optimum.predicted) / 1e-4
        assert one.price == pytest.approx(gained, rel=0.02)


def test_least_shares_have_prices_too() -> None:
    """A domain nobody wants costs what it must have."""
    answer = minimise_convex(
        Planted.of(EFFECTS), EQUAL, constraints=_constraints([1.0] * 3, [0.0, 0.0, 0.2])
    )
    assert [(one.name, one.kind, one.bound) for one in answer.prices] == [("d2", "lower", 0.2)]


def test_prices_in_words() -> None:
    """Half an epoch's worth, dearest first, in the objective's unit."""
    model, constraints = Planted.of(EFFECTS), _constraints([0.3, 0.4, 1.0])
    answer = minimise_convex(model, EQUAL, constraints=constraints)
    found = explore_exactly(model, answer, constraints=constraints, terms=Terms(), within=0.01)
    words = describe_prices(found, share_of_epoch=np.array([0.1, 0.2, 0.7]), unit="nats")
    assert len(words) == 2
    assert words[0].startswith("half an epoch more of d")
    assert words[0].endswith("nats (at the margin)")


def test_the_pull_leads_from_the_reference_to_the_optimum() -> None:
    """Strong pulls stay at the reference, weak ones reach the free optimum."""
    model, reference = Planted.of(EFFECTS), np.array([0.2, 0.3, 0.5])
    constraints = _constraints([1.0] * 3)
    path = kl_path(
        model,
        EQUAL,
        constraints=constraints,
        terms=Terms(reference=reference),
        strengths=(1e3, 1.0, 0.1, 0.0),
    )
    np.testing.assert_allclose(path[0].optimum.weights, reference, atol=1e-3)
    values = [one.optimum.predicted for one in path]
    assert values == sorted(values, reverse=True)
    free = minimise_convex(model, EQUAL, constraints=constraints)
    np.testing.assert_allclose(path[-1].optimum.weights, free.optimum.weights, atol=1e-4)


def test_a_pull_without_reference_is_refused() -> None:
    """There is nothing to pull towards."""
    with pytest.raises(DataError, match="needs a reference"):
        minimise_convex(
            Planted.of(EFFECTS), EQUAL, constraints=_constraints([1.0] * 3), terms=Terms(kl=0.1)
        )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n_domains=st.integers(2, 20))
def test_answers_keep_the_bounds_and_close_the_gap(seed: int, n_domains: int) -> None:
    """Whatever the laws and the caps."""
    rng = np.random.default_rng(seed)
    model = Planted.of(rng.normal(0.0, 1.0, size=(3, n_domains)))
    caps = np.maximum(rng.dirichlet(np.ones(n_domains)) * 2.5, 1.2 / n_domains)
    constraints = Constraints.from_bounds(model.domains, caps=np.minimum(caps, 1.0), bounds={})
    answer = minimise_convex(model, np.full(3, 1.0 / 3.0), constraints=constraints)
    weights = np.array(answer.optimum.weights)
    assert weights.sum() == pytest.approx(1.0, abs=1e-9)
    assert (weights <= constraints.upper + 1e-9).all()
    assert answer.gap < 1e-4


def _grid(constraints: Constraints, n: int = 200) -> FloatArray:
    """Return all mixtures of hundredths that keep the constraints."""
    rows = np.array([[a, b, n - a - b] for a in range(n + 1) for b in range(n + 1 - a)], float) / n
    return np.asarray(rows[constraints.satisfied(rows)])


def test_floors_hold_and_have_prices() -> None:
    """The answer is the grid's best among those that keep the floor; its price a derivative."""
    model, constraints = Planted.of(EFFECTS), _constraints([1.0, 0.5, 1.0])
    free = minimise_convex(model, EQUAL, constraints=constraints)
    floor = free.optimum.target_means[1] - 0.05
    answer = minimise_convex(
        model, EQUAL, constraints=constraints, terms=Terms(floors={"t1": floor})
    )
    assert answer.optimum.target_means[1] <= floor + 1e-6
    means = model.predict(_grid(constraints))[0]
    allowed = means[means[:, 1] <= floor]
    assert answer.optimum.predicted <= (allowed @ EQUAL).min() + 1e-9
    assert answer.gap < 1e-6
    price = next(one for one in answer.prices if one.kind == "floor")
    looser = minimise_convex(
        model, EQUAL, constraints=constraints, terms=Terms(floors={"t1": floor + 1e-4})
    )
    gained = (answer.optimum.predicted - looser.optimum.predicted) / 1e-4
    assert price.price == pytest.approx(gained, rel=0.02)


def test_conflicting_floors_name_a_smallest_set() -> None:
    """The limits that matter are named with the floor, the others not."""
    model = Planted.of(EFFECTS)
    constraints = _constraints([0.9, 0.2, 1.0])
    reach = minimise_convex(model, np.array([0.0, 1.0]), constraints=constraints)
    wanted = reach.optimum.predicted - 0.05
    with pytest.raises(InfeasibleError) as error:
        minimise_convex(
            model,
            EQUAL,
            constraints=constraints,
            terms=Terms(floors={"t0": 1.4, "t1": wanted}),
        )
    message = str(error.value)
    assert "at most 0.2 of d1" in message
    assert "a loss of t1" in message
    assert "d0" not in message
    assert "a loss of t0" not in message


def test_no_target_gets_worse_than_at_the_reference() -> None:
    """Floors by a reference mixture hold for every target."""
    model, reference = Planted.of(EFFECTS), np.array([0.3, 0.3, 0.4])
    floors = no_worse(model, reference, by=0.01)
    answer = minimise_convex(
        model,
        np.array([1.0, 0.0]),
        constraints=_constraints([1.0] * 3),
        terms=Terms(floors=floors),
    )
    start = model.predict(reference[None, :])[0][0]
    assert (np.array(answer.optimum.target_means) <= start + 0.01 + 1e-6).all()
    assert answer.optimum.target_means[1] > start[1]


def test_ranges_are_those_of_a_grid() -> None:
    """Least and largest shares among mixtures within the tolerance, exact and by draws."""
    model, constraints = Planted.of(EFFECTS), _constraints([0.6, 0.7, 1.0])
    answer = minimise_convex(model, EQUAL, constraints=constraints)
    exact = explore_exactly(model, answer, constraints=constraints, terms=Terms(), within=0.01)
    grid = _grid(constraints)
    near = grid[model.predict(grid)[0] @ EQUAL <= answer.optimum.predicted + 0.01]
    ranges = np.array(exact.ranges)
    assert (ranges[:, 0] <= near.min(axis=0) + 1e-9).all()
    assert (ranges[:, 1] >= near.max(axis=0) - 1e-9).all()
    np.testing.assert_allclose(
        ranges, np.stack([near.min(axis=0), near.max(axis=0)], axis=1), atol=0.01
    )
    drawn = explore_draws(
        model,
        answer.optimum,
        constraints=constraints,
        terms=Terms(reference=np.array([0.2, 0.3, 0.5])),
        within=0.01,
        rng=np.random.default_rng(1),
    )
    seen = np.array(drawn.ranges)
    assert (seen[:, 0] >= ranges[:, 0] - 1e-6).all()
    assert (seen[:, 1] <= ranges[:, 1] + 1e-6).all()
    assert (np.ptp(seen, axis=1) > 0.5 * np.ptp(ranges, axis=1)).all()
    divergences = [point.divergence for point in drawn.path]
    assert divergences == sorted(divergences)


def test_phases_share_the_supply() -> None:
    """A domain's parts in both phases together keep its cap; the late phase gets what helps it."""
    effects = np.array([[-0.3, 0.0, -1.5, 0.0]])
    model = Planted(effects, ("a@1", "b@1", "a@2", "b@2"), ("t0",))
    constraints = Constraints.from_bounds(
        ("a", "b"), caps=np.array([0.3, 1.0]), bounds={}, phases=(0.75, 0.25)
    )
    answer = minimise_convex(model, np.ones(1), constraints=constraints)
    np.testing.assert_allclose(answer.optimum.weights, [0.05, 0.7, 0.25, 0.0], atol=1e-6)
    assert answer.gap < 1e-6
    assert any("at most 0.3 of a" in one.name for one in answer.prices)
