"""Slices and maps: every band inside the picture, marks where they belong, numbers in words."""

import dataclasses
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from cuvee.errors import DataError
from cuvee.report import surfaces
from cuvee.report.content import ReportContent
from cuvee.report.pictures import ResponseSection, Ternary

MATHTEXT = "$x$ costs $5"


@pytest.fixture(name="response")
def _response(content: ReportContent) -> ResponseSection:
    assert content.response is not None
    return content.response


@pytest.fixture(name="ternary")
def _ternary(response: ResponseSection) -> Ternary:
    assert response.ternary is not None
    return response.ternary


def texts(svg: str) -> list[str]:
    """Return the texts of a drawing."""
    return ["".join(element.itertext()) for element in ET.fromstring(svg).iter("text")]


def test_limits_hold_the_bands_near_the_chosen_share(response: ResponseSection) -> None:
    """What is asked about a domain's share lies inside the picture."""
    low, high = surfaces.slice_limits(response.slices)
    for one in response.slices:
        near = one.shares <= 2 * one.chosen
        assert low < one.low.min()
        assert high > one.high[near].max()


def test_limits_of_equal_losses_have_a_width(response: ResponseSection) -> None:
    """A predictor that answers nothing still makes a picture."""
    flat = np.full(21, 2.0)
    one = dataclasses.replace(response.slices[0], mean=flat, low=flat, high=flat)
    low, high = surfaces.slice_limits((one,))
    assert low < 2.0 < high
    surfaces.slice_chart(one, limits=(low, high), unit="bits per byte", name="one")


def test_slice_says_its_ends_and_the_chosen_share(response: ResponseSection) -> None:
    """A screen reader hears the losses without the domain, as chosen and at the end."""
    one = response.slices[0]
    drawing = surfaces.slice_chart(one, limits=(2.0, 3.0), unit="bits per byte", name="one")
    label = ET.fromstring(drawing).attrib["aria-label"]
    assert f"{one.mean[0]:.3f} without it" in label
    assert f"{one.mean[-1]:.3f} at 50.0%" in label
    assert {"chosen", "natural"} <= set(texts(drawing))


def test_map_names_its_corners_as_plain_text(ternary: Ternary) -> None:
    """Names with markup and dollars are drawn letter by letter, on both maps."""
    for drawing in surfaces.ternary_charts(ternary, unit="bits per byte", name="one"):
        assert MATHTEXT in texts(drawing)
        assert "<script" not in drawing


def test_map_marks_every_measured_mixture(ternary: Ternary) -> None:
    """Rings, square and diamond: one mark a mixture."""
    drawing = surfaces.ternary_charts(ternary, unit="bits per byte", name="one")[0]
    uses = [use.get("style", "") for use in ET.fromstring(drawing).iter("use")]
    assert sum("var(--ink" in style for style in uses) == len(ternary.measured)
    assert sum("var(--chosen" in style for style in uses) == 1
    assert sum("var(--natural" in style for style in uses) == 1


def test_map_says_where_the_least_loss_lies(ternary: Ternary) -> None:
    """The division of the best grid point stands in the label."""
    drawing = surfaces.ternary_charts(ternary, unit="bits per byte", name="one")[0]
    best = ternary.grid[int(np.argmin(ternary.mean))]
    written = " : ".join(f"{100 * share:.0f}" for share in best)
    assert f"least at {written}" in ET.fromstring(drawing).attrib["aria-label"]


def test_map_of_equal_losses_can_be_drawn(ternary: Ternary) -> None:
    """A constant predictor makes one colour, no error."""
    flat = dataclasses.replace(ternary, mean=np.full(len(ternary.mean), 2.0))
    surfaces.ternary_charts(flat, unit="bits per byte", name="one")


def test_map_without_runs_can_be_drawn(ternary: Ternary) -> None:
    """No measured mixture holds any of the three domains."""
    bare = dataclasses.replace(ternary, measured=np.zeros((0, 3)))
    surfaces.ternary_charts(bare, unit="bits per byte", name="one")


def test_grid_of_another_length_is_refused(ternary: Ternary) -> None:
    """The message names the field."""
    with pytest.raises(DataError, match="ternary sd has shape"):
        dataclasses.replace(ternary, sd=np.zeros(3))
