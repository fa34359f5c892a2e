"""Constraints join supply and bounds, and say which of them conflict."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuvee.errors import ConfigError, InfeasibleError
from cuvee.search.constraints import Constraints, GroupBound

DOMAINS = ("books", "code", "essays", "web")
NO_CAPS = np.ones(4)


def test_the_tighter_bound_holds() -> None:
    """Bounds are joined with the caps by name."""
    constraints = Constraints.from_bounds(
        DOMAINS,
        caps=np.array([0.2, 0.5, 1.0, 3.0]),
        bounds={"code": (0.1, 0.9), "essays": (0.0, 0.3)},
    )
    assert constraints.lower.tolist() == [0.0, 0.1, 0.0, 0.0]
    assert constraints.upper.tolist() == [0.2, 0.5, 0.3, 1.0]


def test_satisfied_and_project_agree() -> None:
    """Projected rows keep the bounds; rows that keep them stay."""
    constraints = Constraints.from_bounds(
        DOMAINS, caps=np.full(4, 0.5), bounds={"code": (0.1, 0.4)}
    )
    rows = np.array([[0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]])
    assert constraints.satisfied(rows).tolist() == [True, False]
    projected = constraints.project(rows)
    assert constraints.satisfied(projected).all()
    np.testing.assert_allclose(projected[0], rows[0])


@pytest.mark.parametrize(
    ("bounds", "caps", "only"),
    [
        ({"books": (0.5, 1.0), "web": (0.5, 1.0)}, [1, 1, 1, 1], [0.5, 0, 0, 0.5]),
        ({}, [0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4]),
        (
            {"books": (0.2, 0.2), "code": (0.1, 0.1), "essays": (0.3, 0.3)},
            [1, 1, 1, 1],
            [0.2, 0.1, 0.3, 0.4],
        ),
    ],
)
def test_a_single_possible_mixture_is_found(
    bounds: dict[str, tuple[float, float]], caps: list[float], only: list[float]
) -> None:
    """Full lower bounds, full caps, or all domains but one fixed."""
    constraints = Constraints.from_bounds(DOMAINS, caps=np.array(caps, float), bounds=bounds)
    point = constraints.only_point()
    assert point is not None
    np.testing.assert_allclose(point, only, atol=1e-9)


def test_free_mixtures_have_no_single_point() -> None:
    """Two domains with room leave a choice."""
    constraints = Constraints.from_bounds(
        DOMAINS, caps=NO_CAPS, bounds={"books": (0.2, 0.2), "code": (0.1, 0.1)}
    )
    assert constraints.only_point() is None


def test_a_bound_above_supply_is_named() -> None:
    """One domain alone can be the conflict."""
    with pytest.raises(
        InfeasibleError, match=r"'code' must have at least 0\.4 but can have at most 0\.3"
    ):
        Constraints.from_bounds(DOMAINS, caps=np.array([1, 0.3, 1, 1]), bounds={"code": (0.4, 1.0)})


def test_the_smallest_set_of_least_shares_is_named() -> None:
    """Two of four lower bounds are enough to exceed 1, and only they are named."""
    with pytest.raises(
        InfeasibleError, match=r"conflict: code 0\.5, web 0\.6 sum to 1\.1"
    ) as caught:
        Constraints.from_bounds(
            DOMAINS,
            caps=NO_CAPS,
            bounds={
                "books": (0.1, 1.0),
                "code": (0.5, 1.0),
                "essays": (0.2, 1.0),
                "web": (0.6, 1.0),
            },
        )
    assert "books" not in str(caught.value)


def test_too_little_supply_names_all_caps() -> None:
    """Every cap takes part in the conflict."""
    with pytest.raises(InfeasibleError, match=r"books 0\.1.*web 0\.2 sum to 0\.6"):
        Constraints.from_bounds(DOMAINS, caps=np.array([0.1, 0.1, 0.2, 0.2]), bounds={})


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"bokos": (0.0, 1.0)}, "'bokos', which the pool does not have.*books, code"),
        ({"code": (-0.1, 1.0)}, r"'code' are -0\.1 to 1"),
        ({"code": (0.0, 1.5)}, r"'code' are 0 to 1\.5"),
    ],
)
def test_bounds_are_checked_by_name(bounds: dict[str, tuple[float, float]], message: str) -> None:
    """Mistakes in the config are named."""
    with pytest.raises(ConfigError, match=message):
        Constraints.from_bounds(DOMAINS, caps=NO_CAPS, bounds=bounds)


def test_groups_and_frozen_ratios_hold() -> None:
    """A group's sum and the inner ratios of a frozen group hold for projected draws."""
    reference = np.array([0.1, 0.2, 0.3, 0.4])
    constraints = Constraints.from_bounds(
        DOMAINS,
        caps=np.array([1.0, 0.5, 1.0, 1.0]),
        bounds={},
        groups=(GroupBound(domains=(DOMAINS[0], DOMAINS[1]), at_most=0.3),),
        frozen=((DOMAINS[2], DOMAINS[3]),),
        reference=reference,
    )
    drawn = np.random.default_rng(0).dirichlet(np.ones(4) * 0.3, size=500)
    moved = constraints.project(drawn)
    assert constraints.satisfied(moved).all()
    np.testing.assert_allclose(moved.sum(axis=1), 1.0, atol=1e-9)
    assert (moved[:, :2].sum(axis=1) <= 0.3 + 1e-9).all()
    np.testing.assert_allclose(moved[:, 3] * 0.3, moved[:, 2] * 0.4, atol=1e-9)
    assert np.unique(moved.round(6), axis=0).shape[0] > 250
    assert constraints.only_point() is None


def test_conflicts_of_groups_name_a_smallest_set() -> None:
    """Only the limits that cannot be kept together are named, each once."""
    with pytest.raises(InfeasibleError) as error:
        Constraints.from_bounds(
            DOMAINS,
            caps=np.array([1.0, 1.0, 0.2, 0.9]),
            bounds={DOMAINS[3]: (0.1, 0.5)},
            groups=(
                GroupBound(domains=(DOMAINS[0], DOMAINS[1]), at_most=0.25),
                GroupBound(domains=(DOMAINS[0], DOMAINS[3]), at_most=0.9),
            ),
        )
    message = str(error.value)
    assert f"at most 0.2 of {DOMAINS[2]}" in message
    assert f"at most 0.5 of {DOMAINS[3]}" in message
    assert f"0 to 0.25 of {DOMAINS[0]} + {DOMAINS[1]}" in message
    assert "0.9" not in message


def test_frozen_groups_without_text_or_twice_are_refused() -> None:
    """There would be no ratio to keep, or two."""
    for frozen, words in (
        (((DOMAINS[1], DOMAINS[2]), (DOMAINS[2], DOMAINS[3])), "stands twice"),
        (((DOMAINS[0], "nowhere"),), "does not have"),
        (((DOMAINS[0], DOMAINS[1]),), "no ratio to keep"),
    ):
        with pytest.raises(ConfigError, match=words):
            Constraints.from_bounds(
                DOMAINS,
                caps=np.ones(4),
                bounds={},
                frozen=frozen,
                reference=np.array([0.0, 0.0, 0.5, 0.5]),
            )


def test_one_mixture_may_be_left() -> None:
    """Rows that leave a single mixture are noticed."""
    constraints = Constraints.from_bounds(
        DOMAINS,
        caps=np.ones(4),
        bounds={DOMAINS[0]: (0.4, 1.0)},
        groups=(GroupBound(domains=DOMAINS[:2], at_most=0.4),),
        frozen=(DOMAINS[2:],),
        reference=np.array([0.1, 0.1, 0.2, 0.6]),
    )
    only = constraints.only_point()
    assert only is not None
    np.testing.assert_allclose(only, [0.4, 0.0, 0.15, 0.45], atol=1e-8)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_phases_and_rows_hold_for_any_draw(seed: int) -> None:
    """Whatever the caps: every phase has its share, the whole run keeps supply and ratios."""
    rng = np.random.default_rng(seed)
    caps = np.minimum(np.maximum(rng.dirichlet(np.ones(4)) * 2.0, 0.3), 1.0)
    caps[0] = 1.0  # or the frozen pair could have no room for what the others cannot take
    caps[1] = 1.0
    constraints = Constraints.from_bounds(
        DOMAINS,
        caps=caps,
        bounds={},
        frozen=(DOMAINS[:2],),
        reference=rng.dirichlet(np.ones(4)) + 0.05,
        phases=(0.7, 0.3),
    )
    moved = constraints.project(rng.dirichlet(np.ones(8), size=50))
    assert constraints.satisfied(moved).all()
    np.testing.assert_allclose(moved[:, :4].sum(axis=1), 0.7, atol=1e-9)
    assert (moved[:, :4] + moved[:, 4:] <= caps + 1e-8).all()
