"""A verdict of validate reaches the page unchanged."""

import numpy as np

from cuvee.report.verdict import verdict_section
from cuvee.validate.compare import compare
from cuvee.validate.equivalent import equivalent_tokens


def test_verdict_becomes_a_section() -> None:
    """The total stands for all targets; numbers, words and reasons are taken over."""
    chosen = np.array([[1.0, 2.0], [1.1, 2.1], [1.2, 2.2]])
    gap = np.array([[0.1, 0.2], [0.11, 0.21], [0.12, 0.19]])
    losses = {"chosen": chosen, "natural": chosen + gap}
    verdict = compare(losses, ["qa", "code"], np.array([0.5, 0.5]), chosen="chosen")
    section = verdict_section(verdict, None, size="0.8m", n_tokens=2_000_000)
    assert [row.target for row in section.comparisons] == [None, "qa", "code"]
    assert section.n_seeds == 3
    assert section.equivalent is None
    for row, source in zip(section.comparisons, verdict.rows, strict=True):
        assert (row.difference, row.low, row.high) == (
            source.difference_bpb,
            source.low_bpb,
            source.high_bpb,
        )
        assert (row.word, row.reason) == (source.word, source.reason)


def test_equivalent_tokens_are_taken_over() -> None:
    """Status, estimate, interval and reason stay together."""
    n_tokens = np.array([100, 200, 400, 800])
    trajectory = np.array([[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0]])
    found = equivalent_tokens(n_tokens, trajectory, np.array([2.0, 3.0]))
    verdict = compare(
        {"chosen": np.ones((2, 1)), "natural": np.ones((2, 1))},
        ["qa"],
        np.ones(1),
        chosen="chosen",
    )
    section = verdict_section(verdict, found, size="0.8m", n_tokens=800)
    assert section.equivalent is not None
    assert section.equivalent.status == "measured"
    assert section.equivalent.n_tokens == found.n_tokens
    assert (section.equivalent.low, section.equivalent.high) == (found.low, found.high)
    assert section.equivalent.reason == found.reason
