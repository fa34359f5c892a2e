"""Mixture reuse: classes of domains, the collapsed space, and what an earlier run must share."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.design.dirichlet import DesignConfig
from cuvee.design.reuse import (
    Collapse,
    DomainChanges,
    classify_domains,
    design_changed,
    why_refused,
)
from cuvee.errors import DataError, InfeasibleError

NAMES = ("a", "b", "c", "d", "e")
FINGERPRINTS = st.dictionaries(st.sampled_from("abcdefg"), st.sampled_from("123"))
SPEC: dict[str, Json] = {"size": "0.1m", "learning_rate": 0.004, "subset_tokens": {"a": 9, "b": 7}}


@st.composite
def collapses(draw: st.DrawFn) -> tuple[Collapse, FloatArray]:
    """Draw a collapse that leaves a domain unchanged, and reduced mixtures."""
    changed = draw(st.sets(st.sampled_from(NAMES), max_size=len(NAMES) - 1))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights = rng.dirichlet(np.full(len(NAMES), 0.5)) + 1e-6
    made = Collapse.about(NAMES, weights, changed=changed)
    return made, rng.dirichlet(np.full(1 + len(changed), 0.5), size=20)


@given(old=FINGERPRINTS, new=FINGERPRINTS)
def test_every_domain_has_one_class(old: dict[str, str], new: dict[str, str]) -> None:
    """The classes divide all names; unchanged is same name and same fingerprint."""
    found = classify_domains(old, new)
    classes = (found.unchanged, found.revised, found.added, found.removed)
    assert sorted(name for one in classes for name in one) == sorted(set(old) | set(new))
    assert {*found.unchanged} == {name for name, one in old.items() if new.get(name) == one}
    assert {*found.changed} == {name for name, one in new.items() if old.get(name) != one}
    assert classify_domains(old, old) == DomainChanges(
        unchanged=tuple(sorted(old)), revised=(), added=(), removed=()
    )


@given(drawn=collapses())
def test_expanding_keeps_sums_and_inner_ratios(drawn: tuple[Collapse, FloatArray]) -> None:
    """Shares sum to 1, unchanged domains stand in their ratios, and collapsing gives it back."""
    collapse, reduced = drawn
    whole = collapse.expand(reduced)
    np.testing.assert_allclose(whole.sum(axis=1), 1.0, atol=1e-12)
    frozen = [NAMES.index(name) for name in NAMES if name not in collapse.changed]
    np.testing.assert_allclose(
        whole[:, frozen], reduced[:, :1] * collapse.inner[frozen], rtol=1e-12, atol=0.0
    )
    np.testing.assert_allclose(collapse.collapse(whole), reduced, rtol=1e-12, atol=1e-15)
    assert len(collapse.reduced) == reduced.shape[1]


@given(drawn=collapses(), seed=st.integers(0, 2**32 - 1))
def test_bounds_collapse_exactly(drawn: tuple[Collapse, FloatArray], seed: int) -> None:
    """A reduced mixture keeps the collapsed bounds just where the whole one keeps the bounds."""
    collapse, reduced = drawn
    rng = np.random.default_rng(seed)
    lower, upper = rng.uniform(0.0, 0.1, len(NAMES)), rng.uniform(0.2, 1.0, len(NAMES))
    low, high = collapse.collapse_bounds(lower, upper)
    whole = collapse.expand(reduced)
    slack = 1e-9
    inside = ((reduced >= low - slack) & (reduced <= high + slack)).all(axis=1)
    strictly = ((whole > lower + slack) & (whole < upper - slack)).all(axis=1)
    loosely = ((whole > lower - 2 * slack) & (whole < upper + 2 * slack)).all(axis=1)
    assert (inside | ~strictly).all()
    assert (loosely | ~inside).all()


def test_ratios_are_kept_of_something() -> None:
    """Without an unchanged domain that has a share there is nothing to freeze, nor to bound."""
    with pytest.raises(DataError, match="no unchanged domain has a share"):
        Collapse.about(("a", "b"), np.array([0.0, 1.0]), changed={"b"})
    collapse = Collapse.about(("a", "b", "c"), np.array([0.0, 0.5, 0.5]), changed={"c"})
    with pytest.raises(InfeasibleError, match=r"'a' must have at least 0\.1"):
        collapse.collapse_bounds(np.array([0.1, 0.0, 0.0]), np.ones(3))


def test_the_virtual_domain_has_a_name_of_its_own() -> None:
    """A domain may itself be called as the virtual one would be."""
    collapse = Collapse.about(("unchanged", "b"), np.array([0.5, 0.5]), changed={"b"})
    assert collapse.reduced == ("unchanged*", "b")


def test_design_measures_the_changed_domain_in_frozen_ratios() -> None:
    """Few runs: the natural mixture, then only the new domain's share against the others."""
    prior, old = np.array([0.4, 0.3, 0.2, 0.05, 0.05]), np.array([0.1, 0.2, 0.3, 0.4, 0.0])
    caps = np.array([1.0, 1.0, 1.0, 0.3, 0.9])
    collapse = Collapse.about(NAMES, old, changed={"e"})
    made = design_changed(
        collapse,
        prior,
        caps=caps,
        own_domains={"x": ("e", "a"), "y": ("a",)},
        config=DesignConfig(n_runs=20),
        rng=np.random.default_rng(1),
    )
    assert len(made.run_ids) == 8
    assert made.run_ids[:3] == ("natural", "even", "own-x")
    np.testing.assert_allclose(made.row("natural"), prior, atol=1e-12)
    frozen = made.weights[1:, :4] / made.weights[1:, :4].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(frozen, np.tile(old[:4], (7, 1)), atol=1e-12)
    assert (made.weights <= caps + 1e-9).all()
    assert np.ptp(made.weights[1:, 4]) > 0.1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"device": "cuda"}, None),
        ({"learning_rate": 0.002}, "learning_rate was 0.004, and is 0.002 here"),
        ({"new": 1}, "new was None, and is 1 here"),
        (
            {"subset_tokens": {"a": 8, "b": 7}},
            "drew from 9 tokens of domain 'a', and would from 8 tokens here",
        ),
        ({"subset_tokens": {"a": 9, "b": 8}}, None),
        ({"subset_tokens": None}, "drew from 9 tokens of domain 'a', and would from all here"),
    ],
)
def test_a_run_must_share_what_decided_its_result(
    change: dict[str, Json], reason: str | None
) -> None:
    """The size of a domain's part counts only where the run had a share of it."""
    shares = {"a": 1.0, "b": 0.0}
    found = why_refused(SPEC, {**SPEC, **change}, shares=shares, unchanged=("a", "b"))
    assert found == reason
