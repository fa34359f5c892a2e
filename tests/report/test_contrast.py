"""Colours of the page: words can be read and lines be seen, in light, in dark and on paper."""

import re
from pathlib import Path

import pytest

CSS = Path(__file__).resolve().parents[2] / "src/cuvee/report/templates/report.css"
BLOCKS = re.findall(r":root \{([^}]*--surface[^}]*)\}", CSS.read_text(encoding="utf-8"))
LINES = ("chosen", "natural", "best-sampled", "other", "draw", "lower", "uniform")


def luminance(colour: str) -> float:
    """Return the relative luminance of a colour, 0 to 1 (WCAG 2.2)."""
    digits = colour.lstrip("#")
    digits = "".join(2 * one for one in digits) if len(digits) == 3 else digits
    shares = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, 1 to 21 (WCAG 2.2)."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("block", BLOCKS, ids=["light", "dark", "paper"])
def test_contrast_is_that_of_level_aa(block: str) -> None:
    """Words 4.5 to 1, lines and marks 3 to 1, each on the page's ground."""
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", block))
    words = {"ink", "muted", "accent"} | {name for name in colours if name.endswith("-text")}
    assert len(words) == 10
    for name in words:
        assert contrast(colours[name], colours["surface"]) >= 4.5, name
    for name in ("ink", "muted", "accent"):
        assert contrast(colours[name], colours["wash"]) >= 4.5, name
    for name in LINES:
        assert contrast(colours[name], colours["surface"]) >= 3.0, name
