"""I-optimal designs: the greedy choice against brute force, and what the designs keep."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuvee.arrays import FloatArray, IntArray
from cuvee.design.dirichlet import sample_mixtures
from cuvee.design.optimal import OptimalConfig, i_optimal_design, i_optimal_rows
from cuvee.errors import ConfigError, DataError, InfeasibleError
from cuvee.randomness import stream
from cuvee.simplex import TOLERANCE
from cuvee.tables.design import Design

DOMAINS = ("books", "code", "essays", "web")
NATURAL = np.array([0.1, 0.2, 0.1, 0.6])
RTOL = 1e-8
"""Rank-one updates of 20 rows against a linear solve."""


def _pool(n: int = 30, n_domains: int = 4, seed: int = 0) -> FloatArray:
    return stream(seed, "pool").dirichlet(np.full(n_domains, 0.5), size=n)


def _kernel(one: FloatArray, other: FloatArray, own: int | None) -> FloatArray:
    """The prior of few_runs 2.5, written out pair by pair."""
    covariance = np.empty((len(one), len(other)))
    for row, a in enumerate(one):
        for column, b in enumerate(other):
            value, squared = 4.0, 0.0
            for domain, (x, y) in enumerate(zip(a, b, strict=True)):
                slope = 1.34 if domain == own else 0.1
                f, g = (np.log1p(share / 0.002) / np.log1p(500.0) for share in (x, y))
                value += slope * (f * g + 0.3 * x * y)
                squared += ((f - g) / (1.0 if domain == own else np.e)) ** 2
            scaled = np.sqrt(5.0 * squared)
            covariance[row, column] = value + 0.5 * (1.0 + scaled + scaled**2 / 3.0) * np.exp(
                -scaled
            )
    return covariance


def _doubt(chosen: FloatArray, reference: FloatArray, own: tuple[int | None, ...]) -> float:
    """Posterior variance of the reference, summed over targets, by linear solves."""
    total = 0.0
    for column in own:
        across = _kernel(chosen, reference, column)
        within = _kernel(chosen, chosen, column) + 0.01 * np.eye(len(chosen))
        prior = sum(float(_kernel(row[None], row[None], column)[0, 0]) for row in reference)
        total += prior - float((across * np.linalg.solve(within, across)).sum())
    return total


class _First(np.random.Generator):
    """Always draws the best."""

    def choice(self, a: IntArray) -> int:
        return int(a[0])


def test_each_choice_lowers_the_doubt_most() -> None:
    """Among all rows left, the one taken leaves the least posterior variance, for every step."""
    pool, own = _pool(12), (1, 1, None)
    rows = i_optimal_rows(pool, n=3, own_columns=own, rng=_First(np.random.PCG64(0)))
    for step in range(3):
        before = list(rows[:step])
        left = [row for row in range(12) if row not in before]
        doubts = [_doubt(pool[[*before, row]], pool, own) for row in left]
        assert rows[step] == left[int(np.argmin(doubts))]


def test_designed_rows_leave_less_doubt_than_random_ones() -> None:
    """The point of the design."""
    pool, own = _pool(60), (0, 1, 2, None)
    rng = stream(0, "rows")
    designed = i_optimal_rows(pool, n=6, own_columns=own, rng=rng)
    random = [_doubt(pool[rng.permutation(60)[:6]], pool, own) for _ in range(5)]
    assert _doubt(pool[designed], pool, own) < 0.8 * np.median(random)


def test_only_candidates_are_chosen_and_none_twice() -> None:
    """Row numbers are those of the pool."""
    candidates = np.array([3, 5, 8, 13, 21])
    rows = i_optimal_rows(
        _pool(), n=5, own_columns=(0,), rng=stream(0, "rows"), candidates=candidates
    )
    assert sorted(rows.tolist()) == candidates.tolist()


def test_rows_follow_the_stream() -> None:
    """The same stream gives the same rows, another gives others."""
    first, same, other = (
        i_optimal_rows(_pool(60), n=6, own_columns=(0, None), rng=stream(seed, "rows")).tolist()
        for seed in (1, 1, 2)
    )
    assert first == same
    assert first != other


def test_reference_moves_the_choice() -> None:
    """Rows that tell about the mixtures of interest are preferred."""
    pool = np.vstack([np.eye(4) * 0.97 + 0.0075, _pool(20)])
    near_code = 0.9 * np.eye(4)[[1]] + 0.025
    row = i_optimal_rows(
        pool, n=1, own_columns=(1,), rng=_First(np.random.PCG64(0)), reference=near_code
    )
    shares = pool[row[0]]
    assert int(np.argmax(shares)) == 1


def test_rows_refuse_bad_requests() -> None:
    """Too many rows, a column that is none, rows that are no mixtures."""
    rng = stream(0, "rows")
    with pytest.raises(ConfigError, match="n is 31; it must lie in 1 to 30"):
        i_optimal_rows(_pool(), n=31, own_columns=(0,), rng=rng)
    with pytest.raises(ConfigError, match="own column of target 1 is 4; columns run from 0 to 3"):
        i_optimal_rows(_pool(), n=3, own_columns=(0, 4), rng=rng)
    with pytest.raises(DataError, match="rows must sum to 1"):
        i_optimal_rows(2.0 * _pool(), n=3, own_columns=(0,), rng=rng)


def _design(*, n_runs: int = 8, caps: FloatArray | None = None, seed: int = 0) -> Design:
    return i_optimal_design(
        DOMAINS,
        NATURAL,
        caps=np.ones(4) if caps is None else caps,
        own_domains={"programs": ("code",), "qa": ("books", "essays"), "other": ()},
        config=OptimalConfig(n_runs=n_runs, n_candidates=60, n_reference=40, oversample=4),
        rng=stream(seed, "design"),
    )


def test_design_starts_with_natural_and_uniform() -> None:
    """The two mixtures every report compares with are measured; the rest is chosen."""
    design = _design(n_runs=4)
    assert design.run_ids == ("natural", "uniform", "optimal-000", "optimal-001")
    assert design.kinds == ("natural", "uniform", "optimal", "optimal")
    np.testing.assert_allclose(design.row("natural"), NATURAL)
    np.testing.assert_allclose(design.row("uniform"), 0.25)


def test_sweeps_leave_less_doubt() -> None:
    """Moving the chosen mixtures lowers the variance that the greedy choice leaves."""
    drawn = OptimalConfig(oversample=4)
    reference = sample_mixtures(
        NATURAL, n=40, caps=np.ones(4), config=drawn, rng=stream(0, "reference")
    )
    doubts = []
    for n_sweeps in (0, 2):
        config = OptimalConfig(
            n_runs=6, n_sweeps=n_sweeps, n_candidates=12, n_reference=200, oversample=4
        )
        design = i_optimal_design(
            DOMAINS,
            NATURAL,
            caps=np.ones(4),
            own_domains={"programs": ("code",), "other": ()},
            config=config,
            rng=stream(0, "design"),
        )
        doubts.append(_doubt(design.weights, reference, (1, None)))
    assert doubts[1] < doubts[0]


@settings(max_examples=8, deadline=None)
@given(slack=st.floats(1.2, 8.0), seed=st.integers(0, 99))
def test_design_keeps_the_caps_and_repeats_nothing(slack: float, seed: int) -> None:
    """Rows are distinct mixtures within the caps, before and after sweeps."""
    caps = np.minimum(slack * NATURAL, 1.0)
    weights = _design(caps=caps, seed=seed).weights
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=TOLERANCE)
    assert np.all(weights >= 0.0)
    assert np.all(weights <= caps + TOLERANCE)
    apart = np.abs(weights[:, None] - weights[None]).sum(axis=2) + np.eye(len(weights))
    assert apart.min() > 1e-5


def test_uniform_prior_is_measured_once() -> None:
    """Where natural is uniform, its place goes to a chosen mixture."""
    design = i_optimal_design(
        DOMAINS,
        np.full(4, 0.25),
        caps=np.ones(4),
        own_domains={},
        config=OptimalConfig(n_runs=3, n_sweeps=0, n_candidates=20, n_reference=10),
        rng=stream(0, "design"),
    )
    assert design.kinds == ("natural", "optimal", "optimal")


def test_design_refuses_what_cannot_be() -> None:
    """Too few runs, caps below 1, an unknown own domain, settings out of range."""
    with pytest.raises(ConfigError, match="n_runs is 2; natural and uniform are always measured"):
        _design(n_runs=2)
    with pytest.raises(InfeasibleError, match=r"caps sum to 0\.8"):
        _design(caps=0.8 * NATURAL)
    with pytest.raises(ConfigError, match="target 'qa' names own domain 'bokos'"):
        i_optimal_design(
            DOMAINS,
            NATURAL,
            caps=np.ones(4),
            own_domains={"qa": ("bokos",)},
            config=OptimalConfig(),
            rng=stream(0, "design"),
        )
    with pytest.raises(ConfigError, match="n_sweeps -1"):
        OptimalConfig(n_sweeps=-1)
    with pytest.raises(ConfigError, match="temperature is 0"):
        OptimalConfig(temperature=0.0)
