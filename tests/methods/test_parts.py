"""A sweep dealt to parts."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuvee.errors import ConfigError
from cuvee.methods.job import Job
from cuvee.methods.parts import Part, deal, prepare

COSTS = st.dictionaries(st.text("abcxyz-0123", min_size=1), st.integers(1, 50), max_size=40)


@given(COSTS, st.integers(1, 12))
def test_each_run_is_dealt_once_and_fairly(costs: dict[str, int], n_parts: int) -> None:
    """No run is left or dealt twice; no two parts differ by more than the larger's dearest run."""
    parts = deal(costs, n_parts)
    assert sorted(name for part in parts for name in part) == sorted(costs)
    assert len(parts) == n_parts
    loads = [sum(costs[name] for name in part) for part in parts]
    for part, load in zip(parts, loads, strict=True):
        assert load - min(loads) <= min((costs[name] for name in part), default=0)
    assert deal(dict(reversed(costs.items())), n_parts) == parts


def test_equal_runs_are_dealt_in_turn() -> None:
    """Runs of one cost go round in the order of their ids."""
    costs = dict.fromkeys(("run-3", "run-0", "run-4", "run-1", "run-2"), 2.0)
    assert deal(costs, 2) == [["run-0", "run-2", "run-4"], ["run-1", "run-3"]]


def test_parts_are_read() -> None:
    """K/N counts from 1."""
    assert Part.parse("3/16") == Part(number=3, of=16)
    assert Part.parse("1/1") == Part(number=1, of=1)


@pytest.mark.parametrize("text", ["0/4", "5/4", "3", "3/", "a/b", "-1/4", "3/16/2", "1/0", "٣/٤"])
def test_what_is_no_part_is_refused(text: str) -> None:
    """The message says what a part looks like."""
    with pytest.raises(ConfigError, match=r"--part is .*; give K/N with K from 1 to N"):
        Part.parse(text)


def test_what_has_no_sweep_has_no_parts(tmp_path: Path) -> None:
    """Quad trains one model; the message names the methods that train more."""
    with pytest.raises(ConfigError, match=r"method quad .* serve regmix, mixing-laws, continual, "):
        prepare("quad", None, Job(out=tmp_path / "out", workers=0))
    assert not (tmp_path / "out").exists()
