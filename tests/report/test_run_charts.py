"""Runs one by one: the best so far never rises, outlying runs are found and named."""

import dataclasses
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from cuvee.report import run_charts
from cuvee.report.content import HeldOutSection, ReportContent, RunsSection


@pytest.fixture(name="held_out")
def _held_out(content: ReportContent) -> HeldOutSection:
    assert content.held_out is not None
    return content.held_out


@pytest.fixture(name="runs")
def _runs(content: ReportContent) -> RunsSection:
    assert content.runs is not None
    return content.runs


def test_best_so_far_is_the_running_minimum() -> None:
    """Diverged runs neither count nor hide what came before."""
    losses = np.array([np.nan, 3.0, 4.0, np.nan, 2.0])
    np.testing.assert_array_equal(
        run_charts.best_so_far(losses), np.array([np.nan, 3.0, 3.0, 3.0, 2.0])
    )


def test_best_so_far_says_the_last_value_and_the_natural_one(runs: RunsSection) -> None:
    """The label holds the outcome and what it is beside."""
    drawing = run_charts.best_so_far_chart(runs, width=340, name="one")
    label = ET.fromstring(drawing).attrib["aria-label"]
    assert f"{np.nanmin(runs.losses):.3f} after {len(runs.losses)}" in label
    assert "natural mixture 2.433" in label


@pytest.mark.parametrize("losses", [[], [np.nan], [1.0], [1.0, 1.0]])
def test_best_so_far_of_few_runs_can_be_drawn(losses: list[float]) -> None:
    """No run, a diverged one, one, and equal ones."""
    runs = RunsSection(
        run_ids=tuple(f"draw-{number}" for number in range(len(losses))),
        kinds=("draw",) * len(losses),
        losses=np.array(losses),
        diverged=np.isnan(losses),
        size="0.1m",
        n_tokens=1000,
    )
    run_charts.best_so_far_chart(runs, width=340, name="one")


def test_run_far_off_its_prediction_is_named(held_out: HeldOutSection) -> None:
    """A planted miss is found first, drawn with its name and told in the label."""
    predicted = held_out.predicted.copy()
    predicted[5, 0] = held_out.measured[5, 0] - 1.0
    broken = dataclasses.replace(held_out, predicted=predicted)
    assert run_charts.outlying_runs(broken)[0] == 5
    drawing = run_charts.residual_chart(broken, width=340, name="one")
    root = ET.fromstring(drawing)
    assert broken.run_ids[5] in ["".join(one.itertext()) for one in root.iter("text")]
    assert f"{broken.run_ids[5]} \N{MINUS SIGN}1.000" in root.attrib["aria-label"]


def test_runs_that_miss_alike_are_not_outlying(held_out: HeldOutSection) -> None:
    """A bias common to all runs names none of them."""
    rng = np.random.default_rng(1)
    shifted = held_out.measured + 0.5 + rng.uniform(-0.01, 0.01, held_out.measured.shape)
    assert not len(run_charts.outlying_runs(dataclasses.replace(held_out, predicted=shifted)))


def test_residuals_of_no_run_can_be_drawn(held_out: HeldOutSection) -> None:
    """All runs diverged: an empty picture, no error."""
    empty = dataclasses.replace(held_out, predicted=np.full(held_out.predicted.shape, np.nan))
    run_charts.residual_chart(empty, width=340, name="one")
