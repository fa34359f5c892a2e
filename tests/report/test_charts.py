"""The charts: names as plain text, every point drawn, odd input survived."""

import dataclasses
import xml.etree.ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest

from cuvee.report import charts
from cuvee.report.content import ReportContent, RunsSection, TrajectorySection

MATHTEXT = "$x$ costs $5"


def texts(svg: str) -> list[str]:
    """Return the texts of a drawing."""
    return ["".join(element.itertext()) for element in ET.fromstring(svg).iter("text")]


def runs_of(losses: list[float], kinds: list[str]) -> RunsSection:
    """Make a sweep from losses and kinds."""
    return RunsSection(
        run_ids=tuple(f"{kind}-{number}" for number, kind in enumerate(kinds)),
        kinds=tuple(kinds),
        losses=np.asarray(losses),
        diverged=np.isnan(losses),
        size="0.1m",
        n_tokens=1000,
    )


def test_dollars_are_not_mathematics(content: ReportContent) -> None:
    """A name between dollars is drawn letter by letter."""
    assert content.verdict is not None
    rows = [row for row in content.verdict.comparisons if row.baseline == "natural"]
    assert MATHTEXT in texts(charts.forest_plot(rows, limit=0.2, name="one"))


@pytest.mark.parametrize("bad", ["$\\frac{", "$", "a\x00b\nc", "\udc80", "<b>&", "#d55e00", "漢字"])
def test_any_name_can_be_drawn(bad: str) -> None:
    """Broken mathematics, control characters, surrogates, markup and colours are only text."""
    runs = dataclasses.replace(runs_of([2.0, 1.0], ["natural", "draw"]), run_ids=(bad, "draw-000"))
    drawing = charts.loss_by_run(runs, width=340, name="one")
    drawing.encode("utf-8")
    expected = {"a\x00b\nc": "a\ufffdb c", "\udc80": "\ufffd"}.get(bad, bad)
    assert expected in texts(drawing)


def test_colours_become_variables_of_the_page(content: ReportContent) -> None:
    """The page decides on light and dark; the colour itself stays as a fallback."""
    assert content.trajectories is not None
    drawing = charts.trajectory_chart(content.trajectories, 0, width=340, name="one")
    assert "var(--chosen, #d55e00)" in drawing
    assert "var(--ink, #22252a)" in drawing or "var(--muted, #666c75)" in drawing


def test_each_run_that_did_not_diverge_is_a_dot() -> None:
    """Dots are counted by the marks that refer to a marker."""
    runs = runs_of([2.0, 1.0, np.nan, 3.0], ["natural", "draw", "draw", "draw"])
    root = ET.fromstring(charts.loss_by_run(runs, width=340, name="one"))
    marks = [use for use in root.iter("use") if "--draw" in use.get("style", "")]
    assert len(marks) == 2


def test_all_fixed_points_are_named(content: ReportContent) -> None:
    """Natural, uniform and own points bear their names; draws do not."""
    assert content.runs is not None
    found = texts(charts.loss_by_run(content.runs, width=620, name="one"))
    assert {"natural", "uniform", "own-reasoning", "own-common sense"} <= set(found)
    assert not [text for text in found if text.startswith("draw-")]


def test_many_runs_of_a_ladder_are_not_named() -> None:
    """Only runs that are few and placed by hand bear names; names of all would run together."""
    runs = runs_of([2.0, *np.linspace(1.0, 3.0, 20)], ["natural", *["ladder"] * 20])
    found = texts(charts.loss_by_run(runs, width=620, name="one"))
    assert [text for text in found if "-" in text] == ["natural-0"]


@pytest.mark.parametrize("losses", [[], [np.nan], [1.0], [1.0, 1.0], list(range(600))])
def test_sweeps_of_any_size_can_be_drawn(losses: list[float]) -> None:
    """No run, one run, equal runs and many runs all make a chart."""
    kinds = ["draw"] * len(losses)
    charts.loss_by_run(runs_of([float(loss) for loss in losses], kinds), width=340, name="one")


def test_trajectories_of_seeds_with_other_points_have_no_mean(content: ReportContent) -> None:
    """Seeds measured at different tokens are drawn singly."""
    assert content.trajectories is not None
    first, second, *_ = content.trajectories.series
    moved = dataclasses.replace(second, n_tokens=second.n_tokens + 1)
    section = TrajectorySection(columns=content.trajectories.columns, series=(first, moved))
    root = ET.fromstring(charts.trajectory_chart(section, 0, width=340, name="one"))
    curves = [path for path in root.iter("path") if "var(--chosen" in path.get("style", "")]
    assert len(curves) == 2


def test_labels_at_the_ends_of_lines_do_not_touch(content: ReportContent) -> None:
    """Names of lines that end together are moved apart by a line's height."""
    assert content.trajectories is not None
    root = ET.fromstring(charts.trajectory_chart(content.trajectories, 0, width=340, name="one"))
    names = {series.mixture for series in content.trajectories.series}
    heights = sorted(
        float(element.attrib["y"])
        for element in root.iter("text")
        if "".join(element.itertext()) in names and "y" in element.attrib
    )
    assert len(heights) == len(names)
    assert np.all(np.diff(heights) >= 12.9)


def test_settings_of_matplotlib_are_left_alone(content: ReportContent) -> None:
    """Neither the caller's settings change, nor do they change the drawing."""
    assert content.held_out is not None
    plain = charts.held_out_scatter(content.held_out, 0, name="one")
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 9, "text.parse_math": True}):
        before = dict(mpl.rcParams)
        assert charts.held_out_scatter(content.held_out, 0, name="one") == plain
        assert dict(mpl.rcParams) == before
