"""What the report says of a predictor, against predictors whose answers are known."""

import numpy as np
import pytest

from cuvee.arrays import FloatArray
from cuvee.fit.linear import LinearMixture
from cuvee.fit.predictor_files import NamedPredictor
from cuvee.methods import response
from cuvee.methods.response import Asked

SLOPES = np.array([[3.0, 1.0], [2.0, 2.0], [1.0, 4.0], [2.5, 2.5]])
"""(n_domains, n_targets) losses of each domain alone."""


def asked(chosen: list[float], *, phases: list[int] | None = None) -> Asked:
    """Ask a linear predictor, learnt without noise, about a mixture of four columns."""
    weights = np.random.default_rng(0).dirichlet(np.ones(4), size=20)
    model = LinearMixture().fit(weights, weights @ SLOPES, rng=np.random.default_rng(1))
    return Asked(
        predictor=NamedPredictor(
            model=model, name="linear", domains=("a", "b", "c", "d"), targets=("x", "y")
        ),
        objective=np.array([0.75, 0.25]),
        chosen=np.array(chosen),
        natural=np.full(4, 0.25),
        phases=np.array(phases or [0, 0, 0, 0]),
        measured=weights,
    )


def test_move_keeps_the_others_proportions() -> None:
    """The column has its share, rows sum to 1, and the rest stand to one another as before."""
    moved = response.move(asked([0.4, 0.3, 0.2, 0.1]), 0, np.array([0.0, 0.4, 0.7]))
    np.testing.assert_allclose(moved.sum(axis=1), 1.0)
    np.testing.assert_allclose(moved[:, 0], [0.0, 0.4, 0.7])
    np.testing.assert_allclose(moved[1], [0.4, 0.3, 0.2, 0.1])
    np.testing.assert_allclose(moved[:, 1] / moved[:, 3], 3.0)


def test_move_stays_within_its_phase() -> None:
    """Each phase keeps its tokens; the other phase is not touched."""
    moved = response.move(asked([0.5, 0.3, 0.1, 0.1], phases=[0, 0, 1, 1]), 2, np.array([0.2]))
    np.testing.assert_allclose(moved, [[0.5, 0.3, 0.2, 0.0]], atol=1e-15)


def test_move_from_a_vertex_makes_room_for_the_natural_mixture() -> None:
    """Where nothing else is chosen, there are no proportions of its own."""
    moved = response.move(asked([1.0, 0.0, 0.0, 0.0]), 0, np.array([0.7]))
    np.testing.assert_allclose(moved, [[0.7, 0.1, 0.1, 0.1]])


def test_slices_come_by_the_cost_of_leaving_a_domain_out() -> None:
    """The domain of least loss is missed most; the numbers are those of the known answer."""
    found = response.slices(asked([0.4, 0.3, 0.2, 0.1]))
    alone = SLOPES @ [0.75, 0.25]
    before = alone @ [0.4, 0.3, 0.2, 0.1]
    without = {
        name: alone @ np.where(np.arange(4) == place, 0.0, row)
        for place, (name, row) in enumerate(
            zip(
                "abcd",
                np.array([0.4, 0.3, 0.2, 0.1]) / (1 - np.array([[0.4], [0.3], [0.2], [0.1]])),
                strict=True,
            )
        )
    }
    expected = sorted(without, key=lambda name: -without[name])
    assert [one.domain for one in found] == expected
    for one in found:
        assert one.cost == pytest.approx(without[one.domain] - before, abs=1e-9)
        assert one.mean[0] == pytest.approx(without[one.domain], abs=1e-9)


def test_slices_hold_the_chosen_share_and_stay_near_what_was_measured() -> None:
    """No slice goes to shares far beyond all runs."""
    question = asked([0.4, 0.3, 0.2, 0.1])
    for one in response.slices(question):
        column = "abcd".index(one.domain)
        assert np.isclose(one.shares, one.chosen).any()
        assert one.shares[-1] <= 1.15 * question.measured[:, column].max() + 1e-12


def test_domains_without_a_share_have_no_slice() -> None:
    """What is not chosen cannot be missed."""
    found = response.slices(asked([0.5, 0.5, 0.0, 0.0]))
    assert {one.domain for one in found} == {"a", "b"}
    assert response.slices(asked([1.0, 0.0, 0.0, 0.0])) == ()


def test_ternary_is_over_the_three_largest() -> None:
    """The fourth domain keeps its share; the prediction at the chosen division is the optimum's."""
    question = asked([0.1, 0.3, 0.2, 0.4])
    found = response.ternary(question)
    assert found is not None
    assert found.corners == ("d", "b", "c")
    assert found.total == pytest.approx(0.9)
    corner = int(np.argmax(found.grid[:, 0]))
    expected = (0.9 * SLOPES[3] + 0.1 * SLOPES[0]) @ [0.75, 0.25]
    assert found.mean[corner] == pytest.approx(expected, abs=1e-9)
    np.testing.assert_allclose(found.measured.sum(axis=1), 1.0)


def test_two_domains_make_no_ternary() -> None:
    """Three corners need three domains."""
    assert response.ternary(asked([0.5, 0.5, 0.0, 0.0])) is None


def test_effects_are_the_known_slopes() -> None:
    """A linear law's change is exact: step / (1 - share) times domain minus mixture."""
    chosen = np.array([0.4, 0.3, 0.2, 0.1])
    found = response.effects(asked(chosen.tolist()), targets=("x", "y"))
    change = response.STEP / (1.0 - chosen)[:, None] * (SLOPES - chosen @ SLOPES)
    assert found.columns == ("objective", "x", "y")
    np.testing.assert_allclose(found.values[:, 1:], change, atol=1e-9)
    np.testing.assert_allclose(found.values[:, 0], change @ [0.75, 0.25], atol=1e-9)
    assert found.sd is None
    assert found.sure is None


def test_effect_of_a_share_without_room_is_that_of_its_fall() -> None:
    """At the vertex the share can only fall: the sign is turned."""
    found = response.effects(asked([1.0, 0.0, 0.0, 0.0]), targets=("x", "y"))
    fall = response.STEP * (SLOPES[1:].mean(axis=0) - SLOPES[0])
    np.testing.assert_allclose(found.values[found.rows.index("a"), 1:], -fall, atol=1e-9)


def test_ranks_find_what_goes_with_low_loss() -> None:
    """A monotone relation has rank 1 whatever its shape; noise is not sure; rows are sorted."""
    rng = np.random.default_rng(3)
    shares: FloatArray = rng.random((30, 3))
    losses = np.column_stack([np.exp(-5 * shares[:, 1]), shares[:, 1] ** 3])
    found = response.rank_matrix(("a", "b", "c"), shares, ("x", "y"), losses)
    assert found.rows[0] == "b"
    np.testing.assert_allclose(found.values[0], [-1.0, 1.0])
    assert found.sure is not None
    assert found.sure[0].all()
    assert not found.sure[1:].all()


def test_ranks_of_a_constant_are_unknown() -> None:
    """A domain with the same share in all runs has no correlation, and is never sure."""
    shares = np.column_stack([np.full(10, 0.5), np.linspace(0, 1, 10)])
    found = response.rank_matrix(("a", "b"), shares, ("x",), np.linspace(0, 1, 10)[:, None])
    assert found.rows == ("b", "a")
    assert np.isnan(found.values[1, 0])
    assert found.sure is not None
    assert not found.sure[1, 0]


def test_many_domains_leave_the_weak_ones_out() -> None:
    """At most 24 rows are shown, and the number of the others is told."""
    rng = np.random.default_rng(4)
    names = tuple(f"domain {number}" for number in range(30))
    found = response.rank_matrix(names, rng.random((12, 30)), ("x",), rng.random((12, 1)))
    assert len(found.rows) == 24
    assert found.n_left_out == 6
