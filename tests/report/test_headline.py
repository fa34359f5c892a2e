"""The verdict in words says what the numbers say."""

import dataclasses

import pytest

from cuvee.report.content import Comparison, EquivalentTokens, ReportContent, Word
from cuvee.report.headline import findings, headline, scope


def judged(
    content: ReportContent,
    *,
    word: Word,
    difference: float | None,
    ends: tuple[float | None, float | None],
    equivalent: EquivalentTokens | None = None,
    baseline: str = "natural",
) -> ReportContent:
    """Return the report with one comparison."""
    assert content.verdict is not None
    row = Comparison(
        baseline=baseline,
        target=None,
        difference=difference,
        low=ends[0],
        high=ends[1],
        word=word,
        reason="1 seed: an interval needs at least 2" if ends[0] is None else "",
    )
    verdict = dataclasses.replace(content.verdict, comparisons=(row,), equivalent=equivalent)
    return dataclasses.replace(content, verdict=verdict)


def test_better(content: ReportContent) -> None:
    """A lower loss is called lower, with the interval of its size."""
    report = judged(content, word="better", difference=-0.2, ends=(-0.3, -0.1))
    assert headline(report) == "The chosen mixture is better than the natural one."
    assert findings(report) == (
        "Against the natural one: better, 0.200 bits per byte lower (95% interval 0.100 to 0.300).",
    )


def test_worse(content: ReportContent) -> None:
    """A higher loss is called higher."""
    report = judged(content, word="worse", difference=0.2, ends=(0.1, 0.3), baseline="uniform")
    assert headline(report) == "The chosen mixture is worse than the uniform one."
    assert "worse, 0.200 bits per byte higher (95% interval 0.100 to 0.300)" in findings(report)[0]


def test_cannot_be_told_apart(content: ReportContent) -> None:
    """An interval that holds zero keeps its signs."""
    report = judged(content, word="cannot be told apart", difference=-0.01, ends=(-0.03, 0.01))
    assert headline(report) == "The chosen mixture cannot be told apart from the natural one."
    assert "difference −0.010 bits per byte (95% interval −0.030 to 0.010)" in findings(report)[0]


def test_the_noise_floor_is_told(content: ReportContent) -> None:
    """With replicated seeds their spread stands beside the differences."""
    report = judged(content, word="better", difference=-0.2, ends=(-0.3, -0.1))
    assert report.verdict is not None
    noisy = dataclasses.replace(report.verdict, noise=0.00123)
    told = findings(dataclasses.replace(report, verdict=noisy))
    assert told[-1].endswith("a standard deviation of 0.0012 bits per byte.")
    assert len(told) == len(findings(report)) + 1


def test_one_seed_has_no_interval(content: ReportContent) -> None:
    """The sentence says why there is none."""
    report = judged(content, word="cannot be told apart", difference=-0.01, ends=(None, None))
    assert "(1 seed: an interval needs at least 2)" in findings(report)[0]


def test_no_pair_of_runs(content: ReportContent) -> None:
    """Where every run diverged no number is made up."""
    report = judged(content, word="cannot be told apart", difference=None, ends=(None, None))
    assert findings(report)[0] == (
        "Against the natural one: cannot be told apart (1 seed: an interval needs at least 2)."
    )


def test_no_verdict(content: ReportContent) -> None:
    """Without validation nothing is claimed."""
    report = dataclasses.replace(content, verdict=None)
    assert headline(report).startswith("No verdict yet")
    assert findings(report) == ()


@pytest.mark.parametrize(
    ("equivalent", "words"),
    [
        (EquivalentTokens(status="measured", n_tokens=3e6), "3.00M tokens, 1.50 times as many"),
        (
            EquivalentTokens(status="measured", n_tokens=3e6, low=2e6, high=4e6),
            "has after 2.00M, interval 2.00M to 4.00M.",
        ),
        (
            EquivalentTokens(status="extrapolated", n_tokens=3e6),
            "by the law fitted to its trajectory",
        ),
        (
            EquivalentTokens(status="not reached", reason="too far"),
            "is not expected to reach the loss that the chosen one has after 2.00M: too far.",
        ),
        (EquivalentTokens(status="below range"), "before its first measured point."),
    ],
)
def test_equivalent_tokens(
    content: ReportContent, equivalent: EquivalentTokens, words: str
) -> None:
    """The tokens the natural mixture would need, or that no number of them is enough."""
    report = judged(
        content, word="better", difference=-0.2, ends=(-0.3, -0.1), equivalent=equivalent
    )
    assert words in findings(report)[-1]


def test_scope_counts_seeds(content: ReportContent) -> None:
    """One seed is not called paired."""
    assert content.verdict is not None
    assert "3 paired seeds" in scope(content.verdict)
    assert "1 seed," in scope(dataclasses.replace(content.verdict, n_seeds=1))
