"""Constraints join supply and bounds, and say which of them conflict."""

import numpy as np
import pytest

from cuvee.errors import ConfigError, InfeasibleError
from cuvee.search.constraints import Constraints

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
