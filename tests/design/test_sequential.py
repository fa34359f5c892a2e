"""Batches and the stopping rule, on predictors whose answers are known."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuvee.arrays import FloatArray
from cuvee.config import parse
from cuvee.design.sequential import (
    SequentialConfig,
    draw_candidates,
    expected_regret,
    propose_next,
    should_stop,
)
from cuvee.errors import ConfigError, DataError
from cuvee.randomness import stream
from cuvee.simplex import TOLERANCE, project
from cuvee.tables.design import Design

DOMAINS = ("books", "code", "web")
NATURAL = np.array([0.1, 0.2, 0.7])
ONE = np.ones(1)
BEST = np.array([0.5, 0.3, 0.2])
MONTE_CARLO_RTOL = 0.02
"""Four standard errors of 400,000 draws."""


@dataclass(frozen=True)
class _Bowl:
    """Loss 1 + |r - best|^2; sure near what was measured, or as sure as told."""

    measured: FloatArray
    noise: float = 0.01
    doubt: float = 0.1
    domains: tuple[str, ...] = DOMAINS
    targets: tuple[str, ...] = ("qa",)

    def predict(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        mean = 1.0 + ((weights - BEST) ** 2).sum(axis=1)
        away = np.abs(weights[:, None] - self.measured[None]).sum(axis=2).min(axis=1)
        sd = np.hypot(self.noise, self.doubt * away)
        return np.tile(mean[:, None], len(self.targets)), np.tile(sd[:, None], len(self.targets))


@dataclass(frozen=True)
class _Table:
    """Means and deviations of candidates that are told apart by their first share."""

    means: tuple[float, ...]
    sds: tuple[float, ...]
    domains: tuple[str, ...] = ("a", "b")
    targets: tuple[str, ...] = ("qa",)

    @property
    def candidates(self) -> FloatArray:
        first = np.arange(len(self.means)) / 100.0
        return np.stack([first, 1.0 - first], axis=1)

    def predict(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        rows = np.rint(100.0 * weights[:, 0]).astype(int)
        return np.array(self.means)[rows, None], np.array(self.sds)[rows, None]


def _project(weights: FloatArray) -> FloatArray:
    return project(weights, lower=np.zeros(3), upper=np.array([0.4, 1.0, 1.0]))


def test_batch_is_the_best_and_then_the_lower_bound() -> None:
    """Two of least mean, then the one of least mean minus two deviations; the measured is out."""
    table = _Table(means=(0.0, 3.0, 1.0, 2.0, 5.0), sds=(0.1, 0.1, 0.1, 0.1, 3.0))
    batch = propose_next(
        table,
        ONE,
        measured=table.candidates[[0]],
        candidates=table.candidates,
        config=SequentialConfig(batch_size=3, exploration=2.0, least_distance=0.001),
    )
    assert batch.rows == (2, 3, 4)
    assert batch.roles == ("best", "best", "exploratory")
    np.testing.assert_array_equal(batch.weights, table.candidates[[2, 3, 4]])
    np.testing.assert_array_equal(batch.predicted, [1.0, 2.0, 5.0])
    np.testing.assert_array_equal(batch.predicted_sd, [0.1, 0.1, 3.0])


def test_neighbours_of_chosen_mixtures_are_left_out() -> None:
    """Rows 0 and 1, and 1 and 2, differ by 0.02 in sum: only every other one is taken."""
    table = _Table(means=(1.0, 2.0, 3.0, 4.0, 9.0), sds=(0.1,) * 5)
    batch = propose_next(
        table,
        ONE,
        measured=table.candidates[[4]],
        candidates=table.candidates,
        config=SequentialConfig(batch_size=2, n_exploratory=0, least_distance=0.03),
    )
    assert batch.rows == (0, 2)


def test_too_few_candidates_are_named() -> None:
    """A pool that is used up cannot fill a batch."""
    table = _Table(means=(1.0, 2.0), sds=(0.1, 0.1))
    with pytest.raises(DataError, match=r"1 of 2 candidates differ by more than 0\.001"):
        propose_next(
            table,
            ONE,
            measured=table.candidates[[0]],
            candidates=table.candidates,
            config=SequentialConfig(least_distance=0.001),
        )


def test_objective_adds_up_deviations() -> None:
    """With two equal targets the deviation of the mean is that of each: errors go together."""
    bowl = _Bowl(measured=NATURAL[None], targets=("qa", "code"))
    batch = propose_next(
        bowl,
        np.array([0.25, 0.75]),
        measured=NATURAL[None],
        candidates=BEST[None],
        config=SequentialConfig(batch_size=1, n_exploratory=0),
    )
    assert batch.predicted[0] == pytest.approx(1.0)
    assert batch.predicted_sd[0] == pytest.approx(
        np.hypot(0.01, 0.1 * np.abs(BEST - NATURAL).sum())
    )


def test_appended_runs_are_numbered_on() -> None:
    """Every batch continues the numbers of the one before."""
    design = Design(
        run_ids=("natural",), kinds=("natural",), domains=DOMAINS, weights=NATURAL[None]
    )
    bowl = _Bowl(measured=NATURAL[None])
    candidates = stream(0, "x").dirichlet(np.ones(3), size=50)
    config = SequentialConfig(batch_size=2)
    for _ in range(2):
        batch = propose_next(
            bowl, ONE, measured=design.weights, candidates=candidates, config=config
        )
        design = batch.append_to(design)
    assert design.run_ids == ("natural", "next-000", "next-001", "next-002", "next-003")
    assert design.kinds == ("natural", *["sequential"] * 4)
    assert len(np.unique(design.weights, axis=0)) == 5


def test_other_domains_are_not_appended() -> None:
    """A proposal belongs to the design it was made for."""
    batch = propose_next(
        _Bowl(measured=NATURAL[None]),
        ONE,
        measured=NATURAL[None],
        candidates=BEST[None],
        config=SequentialConfig(batch_size=1),
    )
    other = Design(run_ids=("x",), kinds=("draw",), domains=("a", "b", "c"), weights=BEST[None])
    with pytest.raises(DataError, match="domains are books, code, web, the design's a, b, c"):
        batch.append_to(other)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999))
def test_candidates_keep_the_constraints_and_close_in(seed: int) -> None:
    """All are mixtures moved to the constraints; one lies near the best there is."""
    config = SequentialConfig(n_candidates=200)
    candidates = draw_candidates(
        _Bowl(measured=NATURAL[None]),
        ONE,
        prior=NATURAL,
        move=_project,
        config=config,
        rng=stream(seed, "candidates"),
    )
    assert candidates.shape == (300, 3)
    np.testing.assert_allclose(candidates.sum(axis=1), 1.0, atol=TOLERANCE)
    assert np.all(candidates >= 0.0)
    assert np.all(candidates[:, 0] <= 0.4 + TOLERANCE)
    nearest = np.abs(candidates - _project(BEST)).sum(axis=1).min()
    assert nearest < 0.1


def test_expected_gain_is_the_expected_improvement() -> None:
    """Against draws from the normal distribution without the noise, for the candidate in doubt."""
    table = _Table(means=(1.0, 1.1, 2.0), sds=(0.3, 0.5, 0.3))
    regret = expected_regret(
        table, ONE, measured=table.candidates[[0]], candidates=table.candidates
    )
    draws = stream(0, "gain").normal(1.1, 0.4, size=400_000)
    assert regret.noise == 0.3
    assert regret.held == regret.held_measured == 1.0
    assert regret.expected == pytest.approx(
        np.maximum(1.0 - draws, 0.0).mean(), rel=MONTE_CARLO_RTOL
    )
    assert regret.spread == pytest.approx(0.1)


def test_regret_without_doubt_is_a_difference() -> None:
    """Where all is known, measured mixtures give away what the best predicted is better by."""
    table = _Table(means=(1.0, 0.4), sds=(0.2, 0.2))
    regret = expected_regret(
        table, ONE, measured=table.candidates[[0]], candidates=table.candidates
    )
    assert regret.expected == 0.0
    assert regret.held == 0.4
    assert regret.expected_measured == pytest.approx(0.6)


def test_regret_falls_as_runs_are_added_and_stops_them() -> None:
    """On a bowl the rule stops after a few batches, with a mixture near the best."""
    config = SequentialConfig(n_candidates=300, stop_share=0.08)
    measured = NATURAL[None]
    rng = stream(0, "stop")
    expected = []
    for _ in range(12):
        bowl = _Bowl(measured=measured, doubt=0.3)
        candidates = draw_candidates(
            bowl, ONE, prior=NATURAL, move=lambda weights: weights, config=config, rng=rng
        )
        regret = expected_regret(bowl, ONE, measured=measured, candidates=candidates)
        expected.append(regret.expected)
        if should_stop(regret, config):
            break
        batch = propose_next(bowl, ONE, measured=measured, candidates=candidates, config=config)
        measured = np.vstack([measured, batch.weights])
    assert 2 <= len(expected) < 12
    assert expected[-1] < 0.2 * expected[0]
    assert np.abs(measured - BEST).sum(axis=1).min() < 0.1


def test_threshold_is_in_the_unit_of_the_losses() -> None:
    """Given a threshold the spread does not matter; without one it sets the scale."""
    table = _Table(means=(1.0, 1.1, 2.0), sds=(0.3, 0.5, 0.3))
    regret = expected_regret(
        table, ONE, measured=table.candidates[[0]], candidates=table.candidates
    )
    assert should_stop(regret, SequentialConfig(), threshold=regret.expected + 1e-9)
    assert not should_stop(regret, SequentialConfig(), threshold=regret.expected - 1e-9)
    share = regret.expected / regret.spread
    assert not should_stop(regret, SequentialConfig(stop_share=0.0))
    assert should_stop(regret, SequentialConfig(stop_share=1.0)) == (share <= 1.0)


def test_predictions_that_are_not_finite_are_refused() -> None:
    """The message names the target."""
    table = _Table(means=(1.0, float("nan")), sds=(0.1, 0.1))
    with pytest.raises(DataError, match=r"nan \+- 0.1 for target 'qa'"):
        propose_next(
            table,
            ONE,
            measured=table.candidates[[0]],
            candidates=table.candidates,
            config=SequentialConfig(),
        )


@pytest.mark.parametrize(
    "setting",
    [
        {"batch_size": 0},
        {"n_exploratory": 5},
        {"exploration": -1.0},
        {"least_distance": 2.0},
        {"n_candidates": 0},
        {"temperature": 0.0},
        {"strengths": (5.0, 1.0)},
        {"stop_share": 2.0},
    ],
)
def test_config_refuses_settings_out_of_range(setting: dict[str, object]) -> None:
    """Every setting has its range, and the message its name."""
    with pytest.raises(ConfigError, match=next(iter(setting))):
        parse(SequentialConfig, setting)
