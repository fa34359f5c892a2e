"""The verdict: paired intervals, their coverage, their words, and what is refused."""

import json

import numpy as np
import pytest
from scipy import stats

from cuvee import config
from cuvee.arrays import FloatArray
from cuvee.errors import ConfigError, CuveeWarning, DataError
from cuvee.randomness import stream
from cuvee.validate.compare import (
    ValidateConfig,
    Verdict,
    compare,
    mean_interval,
    named_mixtures,
    noise_floor,
)

TARGETS = ("qa", "essays")
WEIGHTS = np.array([0.75, 0.25])
RTOL = 1e-12
"""Rounding of a handful of float64 operations."""


def _losses(*offsets: float, n_seeds: int = 3) -> dict[str, FloatArray]:
    """Mixtures that differ by constants plus a little, on top of a large shared seed effect."""
    rng = stream(0, "losses")
    shared = 2.0 + 0.3 * rng.standard_normal((n_seeds, 1))
    names = ["chosen", *(f"baseline-{k}" for k in range(len(offsets)))]
    return {
        name: shared + offset + 0.001 * rng.standard_normal((n_seeds, 2))
        for name, offset in zip(names, (0.0, *offsets), strict=True)
    }


def test_words_follow_the_sign_of_the_interval() -> None:
    """Clear differences get a direction; none gets one where the interval holds 0."""
    verdict = compare(_losses(0.1, -0.1, 0.0), TARGETS, WEIGHTS, chosen="chosen")
    words = [verdict.row(f"baseline-{k}").word for k in range(3)]
    assert words == ["better", "worse", "cannot be told apart"]
    assert verdict.row("baseline-0", "essays").word == "better"
    assert verdict.row("baseline-0").reason == "the 95% interval over 3 seeds lies below 0"


def test_interval_equals_scipys_paired_t_test() -> None:
    """The ends are those of scipy's paired t test, for the total and for each target."""
    losses = _losses(0.01, n_seeds=5)
    verdict = compare(losses, TARGETS, WEIGHTS, chosen="chosen", confidence=0.9)
    for target, weights in (("total", WEIGHTS), ("qa", [1, 0]), ("essays", [0, 1])):
        one, other = losses["chosen"] @ weights, losses["baseline-0"] @ weights
        expected = stats.ttest_rel(one, other).confidence_interval(0.9)
        row = verdict.row("baseline-0", target)
        assert row.n_seeds == 5
        assert (row.low_bpb, row.high_bpb) == pytest.approx(tuple(expected), rel=1e-9)
        assert row.difference_bpb == pytest.approx((one - other).mean(), rel=1e-9)


def test_pairing_removes_what_seeds_share() -> None:
    """A difference far below the spread between seeds is seen, because it is the same in each."""
    losses = _losses(0.02)
    verdict = compare(losses, TARGETS, WEIGHTS, chosen="chosen")
    assert verdict.noise_bpb["total"] is not None
    assert verdict.noise_bpb["total"] > 0.02
    assert verdict.row("baseline-0").word == "better"


@pytest.mark.parametrize("n_seeds", [2, 3, 5])
def test_interval_covers_the_true_mean_as_often_as_it_says(n_seeds: int) -> None:
    """Simulated coverage of the 95% interval lies within 4 standard errors of 95%."""
    rng = stream(1, "coverage", n_seeds)
    n_trials, truth = 4000, -0.03
    draws = truth + 0.02 * rng.standard_normal((n_trials, n_seeds))
    ends = np.array([mean_interval(row, 0.95) for row in draws])
    covered = np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1]))
    assert abs(covered - 0.95) < 4 * np.sqrt(0.95 * 0.05 / n_trials)


def test_one_seed_gives_no_interval_and_says_why() -> None:
    """With one seed the word is 'cannot be told apart', however large the difference."""
    verdict = compare(_losses(5.0, n_seeds=1), TARGETS, WEIGHTS, chosen="chosen")
    row = verdict.row("baseline-0")
    assert (row.low_bpb, row.high_bpb, row.n_seeds) == (None, None, 1)
    assert row.word == "cannot be told apart"
    assert row.reason == "1 seed: an interval needs at least 2"
    assert row.difference_bpb == pytest.approx(-5.0, abs=0.01)
    assert set(verdict.noise_bpb.values()) == {None}


def test_a_mixture_equal_to_a_baseline_cannot_be_told_apart() -> None:
    """Identical runs give the interval [0, 0], which holds 0."""
    losses = _losses()
    row = compare({**losses, "natural": losses["chosen"]}, TARGETS, WEIGHTS, chosen="chosen").rows[
        0
    ]
    assert (row.low_bpb, row.high_bpb, row.word) == (0.0, 0.0, "cannot be told apart")


def test_noise_floor_pools_over_mixtures() -> None:
    """The pooled variance is the mean of equal-sized variances, mixture means taken out."""
    rng = stream(2, "noise")
    tables = [rng.normal(mean, sd, (4, 2)) for mean, sd in ((1, 0.1), (3, 0.2), (2, 0.3))]
    expected = np.sqrt(np.mean([table.var(axis=0, ddof=1) for table in tables], axis=0))
    assert noise_floor(tables) == pytest.approx(expected.tolist(), rel=RTOL)


def test_a_diverged_run_loses_its_pairs_with_a_warning() -> None:
    """The pair goes, on all targets, and the reason says so."""
    losses = _losses(0.1, 0.1)
    losses["baseline-1"][1, 0] = np.nan
    with pytest.warns(
        CuveeWarning, match=r"left out of the verdict: baseline-1 \(1\); their pairs"
    ):
        verdict = compare(losses, TARGETS, WEIGHTS, chosen="chosen")
    assert verdict.row("baseline-0").n_seeds == 3
    row = verdict.row("baseline-1", "essays")
    assert row.n_seeds == 2
    assert row.reason.endswith("; 1 of 3 pairs lost to diverged runs")


def test_no_pair_left_cannot_be_told_apart() -> None:
    """A baseline that always diverged has no difference and no direction."""
    losses = _losses(0.1)
    losses["baseline-0"][:] = np.nan
    with pytest.warns(CuveeWarning, match="diverged"):
        verdict = compare(losses, TARGETS, WEIGHTS, chosen="chosen")
    row = verdict.row("baseline-0")
    assert (row.difference_bpb, row.word) == (None, "cannot be told apart")
    assert verdict.scores[-1].mean_bpb is None


def test_scores_hold_means_and_spreads() -> None:
    """Each mixture has its mean and standard deviation on the total and on every target."""
    losses = _losses(0.1)
    verdict = compare(losses, TARGETS, WEIGHTS, chosen="chosen")
    assert [score.target for score in verdict.scores[:3]] == ["total", "qa", "essays"]
    total, one = losses["chosen"] @ WEIGHTS, losses["baseline-0"][:, 0]
    assert verdict.scores[0].mean_bpb == pytest.approx(total.mean(), rel=RTOL)
    assert verdict.scores[4].sd_bpb == pytest.approx(one.std(ddof=1), rel=RTOL)


def test_verdict_survives_json() -> None:
    """A verdict read back from JSON text equals the one written."""
    verdict = compare(_losses(0.1, n_seeds=1), TARGETS, WEIGHTS, chosen="chosen")
    assert Verdict.from_json(json.loads(json.dumps(verdict.to_json()))) == verdict


def test_arguments_are_left_as_they_were() -> None:
    """Comparing changes none of the arrays."""
    losses = _losses(0.1)
    before = {name: table.copy() for name, table in losses.items()}
    compare(losses, TARGETS, WEIGHTS, chosen="chosen")
    for name, table in losses.items():
        np.testing.assert_array_equal(table, before[name])


def test_refusals_name_what_was_found() -> None:
    """Every refused input has its message."""
    losses = _losses(0.1)
    with pytest.raises(DataError, match=r"'other' has no losses; found chosen, baseline-0\."):
        compare(losses, TARGETS, WEIGHTS, chosen="other")
    with pytest.raises(DataError, match=r"2 targets but weights of shape \(3,\); give one each\."):
        compare(losses, TARGETS, np.ones(3) / 3, chosen="chosen")
    with pytest.raises(DataError, match=r"sums to 1\.5"):
        compare(losses, TARGETS, np.array([1.0, 0.5]), chosen="chosen")
    with pytest.raises(DataError, match="unique and not 'total'; found total, qa"):
        compare(losses, ("total", "qa"), WEIGHTS, chosen="chosen")
    with pytest.raises(DataError, match=r"'short' have shape \(2, 2\).*\(3, 2\), seeds"):
        compare({**losses, "short": np.ones((2, 2))}, TARGETS, WEIGHTS, chosen="chosen")
    with pytest.raises(DataError, match=r"'chosen' have shape \(0, 2\)"):
        compare({"chosen": np.ones((0, 2))}, TARGETS, WEIGHTS, chosen="chosen")
    losses["baseline-0"][2, 1] = np.inf
    with pytest.raises(DataError, match="'baseline-0', seed row 2, target 'essays' is infinite"):
        compare(losses, TARGETS, WEIGHTS, chosen="chosen")
    with pytest.raises(DataError, match="at least 2 values, found 1; add seeds"):
        mean_interval(np.ones(1), 0.95)


def test_unknown_row_is_refused() -> None:
    """Asking for a baseline that was not compared lists those that were."""
    verdict = compare(_losses(0.1), TARGETS, WEIGHTS, chosen="chosen")
    with pytest.raises(
        DataError, match="no comparison with 'doremi' on 'total'; baselines are base"
    ):
        verdict.row("doremi")


def _settings(**changes: object) -> ValidateConfig:
    return config.parse(ValidateConfig, {"size": "0.8m", "n_tokens": 1000, **changes})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_tokens": 0}, "n_tokens is 0; it must be at least 1"),
        ({"n_seeds": 0}, "n_seeds is 0; it must be at least 1, better 3"),
        ({"confidence": 1.0}, "confidence is 1.0; it must lie between 0 and 1"),
        ({"mixtures": {"natural": {"a": 1}}}, "mixtures.natural takes a reserved name"),
        ({"mixtures": {"../x": {"a": 1}}}, "mixture name '../x' cannot be part of a folder's name"),
        ({"mixtures": {"mine": {"a": 1.02}}}, "mixtures.mine sums to 1.02; shares of tokens must"),
        ({"mixtures": {"mine": {"a": -0.5, "b": 1.5}}}, "mixtures.mine.a is -0.5; a share is"),
        ({"mixtures": {"mine": {}}}, "mixtures.mine sums to 0;"),
        ({"seeds": 3}, "config key seeds is unknown; allowed here: confidence,"),
    ],
)
def test_config_refusals(changes: dict[str, object], message: str) -> None:
    """Settings out of range are refused with what was found and what is allowed."""
    with pytest.raises(ConfigError) as caught:
        _settings(**changes)
    assert message in str(caught.value)


def test_named_mixtures_are_matched_by_name_and_rescaled() -> None:
    """Order in the config does not matter, unnamed domains get 0, rounding is rescaled."""
    mixtures = named_mixtures(_settings(mixtures={"mine": {"c": 0.2, "a": 0.802}}), ("a", "b", "c"))
    np.testing.assert_allclose(mixtures["mine"], np.array([0.802, 0.0, 0.2]) / 1.002, rtol=RTOL)


def test_named_mixture_of_an_unknown_domain_is_refused() -> None:
    """The message names the mixture, the domain and the pool's domains."""
    with pytest.raises(
        ConfigError, match=r"validate\.mixtures\.mine names domain 'd', which the pool"
    ):
        named_mixtures(_settings(mixtures={"mine": {"d": 1.0}}), ("a", "b"))
