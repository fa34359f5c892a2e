"""Contenders judged together: order, ties, the reference, diverged runs, and their JSON."""

import json
import warnings

import numpy as np
import pytest

from cuvee.errors import CuveeWarning, DataError
from cuvee.validate.compare import compare
from cuvee.validate.ranking import Ranking, rank

TARGETS = ("qa", "code")
WEIGHTS = np.array([0.25, 0.75])


def losses(rng: np.random.Generator, *, n_seeds: int = 3) -> dict[str, np.ndarray]:
    """Seeds shift all alike; `far` is behind on code alone, `near` by less than the noise."""
    shared = rng.normal(3.0, 0.2, size=(n_seeds, 1))
    small = rng.normal(0.0, 1e-3, size=(4, n_seeds, 2))
    return {
        "natural": shared + 0.05 + small[0],
        "good": shared + small[1],
        "near": shared + 1e-5 + small[2],
        "far": shared + np.array([0.0, 0.2]) + small[3],
    }


def test_order_ties_and_losers() -> None:
    """The lowest mean is best; a paired interval above 0 is worse; the rest cannot be told."""
    given = losses(np.random.default_rng(0))
    found = rank(given, TARGETS, WEIGHTS, reference="natural")
    table = found.table()
    means = {name: float((one @ WEIGHTS).mean()) for name, one in given.items()}
    assert [row.name for row in table.rows] == sorted(means, key=means.__getitem__)
    places = {row.name: row.place for row in table.rows}
    assert sorted(places[name] for name in ("good", "near")) == ["best", "cannot be told apart"]
    assert (places["natural"], places["far"]) == ("worse", "worse")
    on_qa = {row.name: row.place for row in found.table("qa").rows}
    assert on_qa["natural"] == "worse"
    assert on_qa["far"] != "worse"


def test_differences_are_those_of_the_verdict() -> None:
    """Every pair's interval is the one that `compare` gives, and its sign turns with the order."""
    given = losses(np.random.default_rng(1))
    found = rank(given, TARGETS, WEIGHTS, reference="natural")
    assert len(found.pairs) == 6 * 3
    for pair in found.pairs:
        row = compare(given, TARGETS, WEIGHTS, chosen=pair.first).row(pair.second, pair.target)
        assert (pair.difference.mean_bpb, pair.word) == (row.difference_bpb, row.word)
        back = compare(given, TARGETS, WEIGHTS, chosen=pair.second).row(pair.first, pair.target)
        assert pair.difference.low_bpb == pytest.approx(-(back.high_bpb or np.nan))
    for row in found.table("code").rows:
        if row.name == "natural":
            assert row.beyond_reference is None
            continue
        expected = float((given[row.name] - given["natural"])[:, 1].mean())
        assert row.beyond_reference is not None
        assert row.beyond_reference.mean_bpb == pytest.approx(expected)


def test_one_seed_tells_nothing_apart() -> None:
    """Without an interval nobody is called worse."""
    found = rank(losses(np.random.default_rng(2), n_seeds=1), TARGETS, WEIGHTS)
    places = [row.place for row in found.table().rows]
    assert places == ["best", *["cannot be told apart"] * 3]
    assert found.table().noise_bpb is None


def test_diverged_runs_are_told_once_and_come_last() -> None:
    """A contender without a run left is last, and the warning comes once for all comparisons."""
    given = losses(np.random.default_rng(3))
    given["good"] = np.full((3, 2), np.nan)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        found = rank(given, TARGETS, WEIGHTS)
    assert [one.category for one in heard] == [CuveeWarning]
    last = found.table().rows[-1]
    assert (last.name, last.place, last.mean_bpb) == ("good", "diverged", None)


def test_json_round_trip() -> None:
    """What is written comes back equal."""
    found = rank(losses(np.random.default_rng(4)), TARGETS, WEIGHTS, reference="natural")
    assert Ranking.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_too_few_or_unknown_are_refused() -> None:
    """One contender is no comparison; a reference must be one of them."""
    given = losses(np.random.default_rng(5))
    with pytest.raises(DataError, match="at least 2 contenders, found 1"):
        rank({"good": given["good"]}, TARGETS, WEIGHTS)
    with pytest.raises(DataError, match="reference 'none' is no contender"):
        rank(given, TARGETS, WEIGHTS, reference="none")
    with pytest.raises(DataError, match="no table of target 'prose'"):
        rank(given, TARGETS, WEIGHTS).table("prose")
