"""Laws: dots for measurements, crosses for checks, the critical share in words."""

import dataclasses
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from cuvee.report import law_charts
from cuvee.report.content import ReportContent
from cuvee.report.pictures import ScalingSection, SharesSection


@pytest.fixture(name="scaling")
def _scaling(content: ReportContent) -> ScalingSection:
    assert content.scaling is not None
    return content.scaling


@pytest.fixture(name="shares")
def _shares(content: ReportContent) -> SharesSection:
    assert content.shares is not None
    return content.shares


def test_step_law_tells_its_largest_residual(scaling: ScalingSection) -> None:
    """The label's number is the largest distance between dot and line."""
    law = scaling.step_laws[0]
    drawing = law_charts.step_law_chart(law, unit="bits per byte", name="one")
    worst = np.abs(law.losses - law.fitted).max()
    assert f"largest residual {worst:.4f}" in ET.fromstring(drawing).attrib["aria-label"]


def test_step_law_names_every_size(scaling: ScalingSection) -> None:
    """Each line ends in its size."""
    law = scaling.step_laws[0]
    root = ET.fromstring(law_charts.step_law_chart(law, unit="bits per byte", name="one"))
    found = {"".join(one.itertext()) for one in root.iter("text")}
    assert set(law.sizes) <= found


def test_size_law_says_prediction_interval_and_check(scaling: ScalingSection) -> None:
    """A mixture trained afterwards has its measured loss, the other has none."""
    drawing = law_charts.size_law_chart(
        scaling.size_laws, unit="bits per byte", width=620, name="one"
    )
    label = ET.fromstring(drawing).attrib["aria-label"]
    assert "2.660 predicted (2.600 to 2.720), 2.650 measured" in label
    assert label.count("measured") == 1


def test_critical_share_and_its_interval_are_told(shares: SharesSection) -> None:
    """Only the curve that decides one shows one."""
    one, other = (
        ET.fromstring(law_charts.share_chart(curve, unit="bits per byte", width=340, name="one"))
        for curve in shares.curves
    )
    assert "critical share 0.440, interval 0.420 to 0.460" in one.attrib["aria-label"]
    assert "critical" not in other.attrib["aria-label"]


def test_checks_are_crosses(shares: SharesSection) -> None:
    """One mark a run trained afterwards, in the chosen mixture's colour."""
    curve = dataclasses.replace(shares.curves[0], critical=None)
    drawing = law_charts.share_chart(curve, unit="bits per byte", width=340, name="one")
    uses = [use.get("style", "") for use in ET.fromstring(drawing).iter("use")]
    assert sum("var(--chosen" in style for style in uses) == len(curve.checks)
