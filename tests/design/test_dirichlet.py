"""Designs keep caps after rounding, hold no mixture twice and start with the fixed points."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cuvee.arrays import FloatArray
from cuvee.config import parse
from cuvee.design.dirichlet import DUPLICATE_DISTANCE, DesignConfig, make_design, sample_mixtures
from cuvee.errors import ConfigError, InfeasibleError
from cuvee.randomness import stream
from cuvee.simplex import TOLERANCE, check_weights

PRIOR = stream(0, "prior").dirichlet(np.ones(17))
"""As many domains as RegMix has of the Pile."""
DOMAINS = ("books", "code", "essays", "web")
NATURAL = np.array([0.1, 0.2, 0.1, 0.6])
NO_CAPS = np.ones(4)


def _nearest(weights: FloatArray) -> float:
    distance = np.abs(weights[:, None, :] - weights[None, :, :]).sum(axis=2)
    return float((distance + 2.0 * np.eye(len(weights))).min())


@settings(max_examples=40, deadline=None)
@given(
    arrays(np.float64, st.integers(2, 10), elements=st.floats(0.01, 1.0)),
    st.floats(1.002, 20.0),
    st.integers(0, 1000),
)
def test_caps_hold_after_rounding(sizes: FloatArray, epochs: float, seed: int) -> None:
    """Whether rejection or moving had to do it: caps, sums and distinctness hold."""
    prior = sizes / sizes.sum()
    caps = np.minimum(epochs * prior, 1.0)
    config = DesignConfig(oversample=20)
    weights = sample_mixtures(prior, n=6, caps=caps, config=config, rng=stream(seed, "design"))
    assert weights.shape == (6, len(prior))
    check_weights(weights, n_domains=len(prior))
    assert np.all(weights <= caps + TOLERANCE)
    assert _nearest(weights) > DUPLICATE_DISTANCE


@pytest.mark.parametrize("epochs", [15.0, 3.0, 1.3])
def test_shares_are_zero_or_not_small(epochs: float) -> None:
    """What is not 0 is at least min_share, also where mixtures were moved to the caps."""
    caps = np.minimum(epochs * PRIOR, 1.0)
    weights = sample_mixtures(
        PRIOR, n=64, caps=caps, config=DesignConfig(), rng=stream(1, "design")
    )
    assert weights[weights > 0.0].min() >= 2e-4 - TOLERANCE


def test_loose_caps_need_no_moving(caplog: pytest.LogCaptureFixture) -> None:
    """At RegMix's 15 epochs rejection alone finds all mixtures, sparse and even ones."""
    caps = np.minimum(15.0 * PRIOR, 1.0)
    with caplog.at_level(logging.INFO):
        weights = sample_mixtures(
            PRIOR, n=512, caps=caps, config=DesignConfig(), rng=stream(1, "design")
        )
    assert not caplog.records
    n_positive = (weights > 0.0).sum(axis=1)
    assert n_positive.min() <= 3
    assert n_positive.max() >= 14


def test_tight_caps_do_not_loop_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    """Where no draw is within the caps, mixtures are moved there and the log says how many."""
    caps = 1.001 * PRIOR
    with caplog.at_level(logging.INFO):
        weights = sample_mixtures(
            PRIOR, n=512, caps=caps, config=DesignConfig(), rng=stream(1, "design")
        )
    assert np.all(weights <= caps + TOLERANCE)
    assert "512 of 512 mixtures were moved" in caplog.text


def test_draws_follow_the_stream() -> None:
    """The same stream gives the same mixtures, another gives others."""
    first, again, other = (
        sample_mixtures(
            NATURAL, n=5, caps=NO_CAPS, config=DesignConfig(), rng=stream(seed, "design")
        )
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_temperature_flattens_the_mean() -> None:
    """Draws of many strengths have the tempered prior as their mean."""
    config = DesignConfig(min_share=0.0, strength_min=1.0, oversample=2)
    weights = sample_mixtures(NATURAL, n=4000, caps=NO_CAPS, config=config, rng=stream(3, "x"))
    expected = np.sqrt(NATURAL) / np.sqrt(NATURAL).sum()
    np.testing.assert_allclose(weights.mean(axis=0), expected, atol=0.03)  # 4 standard errors


def test_infeasible_caps_name_their_sum() -> None:
    """Caps below 1 in sum cannot be met, caps of exactly 1 by a single mixture."""
    with pytest.raises(InfeasibleError, match=r"caps sum to 0\.8"):
        sample_mixtures(
            NATURAL, n=4, caps=0.8 * NATURAL, config=DesignConfig(), rng=stream(0, "design")
        )
    with pytest.raises(
        InfeasibleError, match="caps sum to 1 and leave 1 distinct mixtures of the 4"
    ):
        sample_mixtures(NATURAL, n=4, caps=NATURAL, config=DesignConfig(), rng=stream(0, "design"))


def test_small_supply_is_left_out_rather_than_rounded_up() -> None:
    """A domain whose cap lies below min_share gets nothing; with one other, no choice is left."""
    with pytest.raises(InfeasibleError, match="leave 1 distinct mixtures"):
        sample_mixtures(
            np.array([0.9999, 0.0001]),
            n=4,
            caps=np.array([1.0, 0.00015]),
            config=DesignConfig(),
            rng=stream(0, "design"),
        )


def test_design_starts_with_the_fixed_points() -> None:
    """Natural, uniform, one point a target, then draws."""
    design = make_design(
        DOMAINS,
        NATURAL,
        caps=NO_CAPS,
        own_domains={"qa": ("books", "essays"), "programs": ("code",), "unknown": ()},
        config=DesignConfig(n_runs=8),
        rng=stream(0, "design"),
    )
    fixed = ("natural", "uniform", "own-qa", "own-programs")
    assert design.run_ids == (*fixed, "draw-000", "draw-001", "draw-002", "draw-003")
    assert design.kinds == ("natural", "uniform", "own", "own", "draw", "draw", "draw", "draw")
    np.testing.assert_allclose(design.row("natural"), NATURAL)
    np.testing.assert_allclose(design.row("uniform"), 0.25)
    # Own domains share 0.7 as 1 to 1, the rest is natural.
    np.testing.assert_allclose(design.row("own-qa"), [0.38, 0.06, 0.38, 0.18])


def test_fixed_points_keep_the_caps() -> None:
    """Every row of a design is within the caps."""
    caps = 1.4 * NATURAL
    design = make_design(
        DOMAINS,
        NATURAL,
        caps=caps,
        own_domains={"programs": ("code",)},
        config=DesignConfig(n_runs=12),
        rng=stream(0, "design"),
    )
    assert np.all(design.weights <= caps + TOLERANCE)
    assert design.row("own-programs")[1] == pytest.approx(0.28)


def test_equal_fixed_points_are_measured_once(caplog: pytest.LogCaptureFixture) -> None:
    """Two targets of the same own domains share a run; the draws fill its place."""
    with caplog.at_level(logging.INFO):
        design = make_design(
            DOMAINS,
            NATURAL,
            caps=NO_CAPS,
            own_domains={"qa": ("books",), "exams": ("books",)},
            config=DesignConfig(n_runs=8),
            rng=stream(0, "design"),
        )
    assert design.kinds.count("own") == 1
    assert len(design.run_ids) == 8
    assert "own-exams equals own-qa" in caplog.text


def test_design_refuses_too_few_runs() -> None:
    """The message says how many are needed."""
    with pytest.raises(ConfigError, match=r"3 fixed points .* n_runs >= 5"):
        make_design(
            DOMAINS,
            NATURAL,
            caps=NO_CAPS,
            own_domains={"qa": ("books",)},
            config=DesignConfig(n_runs=4),
            rng=stream(0, "design"),
        )


def test_design_refuses_unknown_own_domains() -> None:
    """The message names target, domain and those there are."""
    with pytest.raises(ConfigError, match=r"target 'qa' names own domain 'bokos'.*books, code"):
        make_design(
            DOMAINS,
            NATURAL,
            caps=NO_CAPS,
            own_domains={"qa": ("bokos",)},
            config=DesignConfig(),
            rng=stream(0, "design"),
        )


@pytest.mark.parametrize(
    "setting",
    [
        {"n_runs": 0},
        {"temperature": 0.0},
        {"strength_min": 6.0},
        {"n_strengths": 0},
        {"oversample": 0},
        {"min_share": 0.5},
        {"own_share": 0.0},
    ],
)
def test_config_refuses_settings_out_of_range(setting: dict[str, float]) -> None:
    """Every setting has its range, and the message its name."""
    name = next(iter(setting)).split("_m")[0] if "strength_min" in setting else next(iter(setting))
    with pytest.raises(ConfigError, match=name):
        parse(DesignConfig, setting)
