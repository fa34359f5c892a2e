"""Two-phase designs: shares of the phases, caps of the whole run, fixed points."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuvee.arrays import FloatArray
from cuvee.design.phases import PhasesConfig, join_phases, make_phases
from cuvee.errors import ConfigError, InfeasibleError
from cuvee.randomness import stream
from cuvee.simplex import TOLERANCE
from cuvee.tables.design import Design

DOMAINS = ("books", "code", "web")
NATURAL = np.array([0.1, 0.2, 0.7])
LATE = 0.25
ATOL = 1e-12
"""Rounding of sums of three shares."""


def _design(
    *, n_runs: int = 14, caps: FloatArray | None = None, seed: int = 0, same_share: float = 0.25
) -> Design:
    return make_phases(
        DOMAINS,
        NATURAL,
        caps=np.ones(3) if caps is None else caps,
        own_domains={"programs": ("code",), "other": ()},
        config=PhasesConfig(n_runs=n_runs, late_share=LATE, same_share=same_share, oversample=10),
        rng=stream(seed, "design"),
    )


def test_rows_are_named_and_ordered() -> None:
    """Fixed points, mixtures kept throughout, then changes; columns name domain and phase."""
    design = _design(n_runs=12)
    assert design.domains == ("books@1", "code@1", "web@1", "books@2", "code@2", "web@2")
    assert design.run_ids[:4] == ("natural", "uniform", "late-programs", "early-programs")
    assert design.kinds == ("natural", "uniform", "late", "early", *["same"] * 2, *["change"] * 6)


def test_fixed_points_hold_what_they_say() -> None:
    """Natural twice; natural, then seven parts own and three natural; and the reverse."""
    design = _design()
    own = 0.7 * np.array([0.0, 1.0, 0.0]) + 0.3 * NATURAL
    expected = {
        "natural": [0.75 * NATURAL, 0.25 * NATURAL],
        "late-programs": [0.75 * NATURAL, 0.25 * own],
        "early-programs": [0.75 * own, 0.25 * NATURAL],
    }
    for name, parts in expected.items():
        np.testing.assert_allclose(design.row(name), np.concatenate(parts), atol=ATOL)


def test_same_rows_do_not_change_and_others_do() -> None:
    """The two kinds of draws are what their names say."""
    design = _design(n_runs=24, same_share=0.5)
    first, second = design.weights[:, :3] / (1.0 - LATE), design.weights[:, 3:] / LATE
    change = np.abs(first - second).sum(axis=1)
    kinds = np.array(design.kinds)
    assert np.all(change[kinds == "same"] < 1e-9)
    assert np.all(change[kinds == "change"] > 1e-3)


@settings(max_examples=20, deadline=None)
@given(slack=st.floats(1.1, 9.0), seed=st.integers(0, 99))
def test_design_keeps_shares_and_joint_caps(slack: float, seed: int) -> None:
    """Each phase sums to its share; both phases of a domain together keep its cap."""
    caps = np.minimum(slack * NATURAL, 1.0)
    weights = _design(caps=caps, seed=seed).weights
    assert np.all(weights >= 0.0)
    np.testing.assert_allclose(weights[:, 3:].sum(axis=1), LATE, atol=TOLERANCE)
    np.testing.assert_allclose(weights[:, :3].sum(axis=1), 1.0 - LATE, atol=TOLERANCE)
    assert np.all(weights[:, :3] + weights[:, 3:] <= caps + TOLERANCE)


def test_half_of_the_runs_are_draws(caplog: pytest.LogCaptureFixture) -> None:
    """With few runs the reverse orders are left out first, and the log says which."""
    with caplog.at_level(logging.INFO):
        design = _design(n_runs=6)
    assert design.kinds == ("natural", "uniform", "late", "same", "change", "change")
    assert "early-programs left out" in caplog.text


def test_scarce_domain_can_be_kept_for_the_end() -> None:
    """A cap binds the whole run only: a tenth of the run is four tenths of its last quarter."""
    row = join_phases(
        np.array([[0.0, 0.3, 0.7]]),
        np.array([[1.0, 0.0, 0.0]]),
        late_share=LATE,
        caps=np.array([0.1, 1.0, 1.0]),
    )[0]
    np.testing.assert_allclose(row[[0, 3]], [0.0, 0.1], atol=ATOL)
    np.testing.assert_allclose(row[3:].sum(), LATE, atol=ATOL)


def test_late_share_need_not_be_small() -> None:
    """Any share between 0 and 1 is a phase."""
    early, late = np.array([[0.2, 0.8]]), np.array([[0.9, 0.1]])
    row = join_phases(early, late, late_share=0.9, caps=np.ones(2))[0]
    np.testing.assert_allclose(row, [0.02, 0.08, 0.81, 0.09], atol=ATOL)


def test_the_same_seed_gives_the_same_design() -> None:
    """A design follows from its seed."""
    one, same, other = (_design(seed=seed).weights for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.01


def test_design_refuses_what_cannot_be() -> None:
    """Too few runs, caps below 1 or of exactly 1, shares that are none, an unknown own domain."""
    with pytest.raises(ConfigError, match=r"n_runs is 3; .* n_runs >= 4"):
        _design(n_runs=3)
    with pytest.raises(InfeasibleError, match=r"sum to 0\.8"):
        _design(caps=0.8 * NATURAL)
    with pytest.raises(ConfigError, match="late_share is 1"):
        PhasesConfig(late_share=1.0)
    with pytest.raises(ConfigError, match="same_share is 2"):
        PhasesConfig(same_share=2.0)
    with pytest.raises(ConfigError, match="target 'qa' names own domain 'bokos'"):
        make_phases(
            DOMAINS,
            NATURAL,
            caps=np.ones(3),
            own_domains={"qa": ("bokos",)},
            config=PhasesConfig(),
            rng=stream(0, "design"),
        )
