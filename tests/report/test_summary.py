"""The summary for a terminal."""

import dataclasses

from cuvee.report.content import ReportContent
from cuvee.report.summary import summary_text


def summary(content: ReportContent, *, selection: str | None = "out/selection") -> str:
    """Write the summary with made-up paths."""
    return summary_text(content, report="out/report.html", selection=selection)


def test_summary_holds_the_outcome(content: ReportContent) -> None:
    """Mixture, losses, verdict and paths are all there."""
    text = summary(content)
    for expected in (
        "news wire",
        "-0.118 +- 0.011",
        "1.720 +- 0.003",
        "The chosen mixture is better than the natural one.",
        "accuracy on tasks, verdict half",
        "0.287 +- 0.050",
        "out/report.html",
        "out/selection",
    ):
        assert expected in text


def test_names_are_not_taken_for_markup(content: ReportContent) -> None:
    """Square brackets of a mixture's name are shown as they are."""
    assert "_DoReMi [bold]" in summary(content)


def test_summary_is_plain_text(content: ReportContent) -> None:
    """No colours, no escapes, no spaces at the ends, nothing wider than asked."""
    text = summary(content)
    assert "\x1b" not in text
    assert all(line == line.rstrip() and len(line) <= 100 for line in text.splitlines())
    assert text == summary(content)


def test_long_paths_are_not_broken(content: ReportContent) -> None:
    """A path can be copied whole, however long."""
    path = "a/very/long/path/" * 12 + "selection"
    assert f"selection   {path}" in summary(content, selection=path).splitlines()


def test_unfinished_runs_have_a_summary(content: ReportContent) -> None:
    """Without losses, verdict and selection the mixture is still shown."""
    bare = dataclasses.replace(content, losses=None, verdict=None)
    text = summary(bare, selection=None)
    assert "news wire" in text
    assert "No verdict yet" in text
    assert "loss on the objective" not in text
