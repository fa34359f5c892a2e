"""The fitted surface of the objective: slices along one share, a map over three.

Every function takes values and returns one SVG element, as in `report.charts`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.tri import Triangulation

from cuvee.arrays import FloatArray
from cuvee.report.charts import PANEL_WIDTH
from cuvee.report.numbers import decimals, shorten
from cuvee.report.pictures import Slice, Ternary
from cuvee.report.svg import (
    DRAW,
    HIGHER,
    INK,
    LOWER,
    MUTED,
    ROLE_COLOURS,
    SURFACE,
    house_style,
    inline,
    new_axes,
)
from cuvee.report.ticks import even_ticks

_SLICE_HEIGHT = 230
_TERNARY_HEIGHT = 372
_N_BANDS = 8
_WORST = 0.9
"""Losses above this quantile of the map share its last band: corners would take all the colours."""
_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])


@dataclass(frozen=True, slots=True)
class Scale:
    """Colours of a map."""

    colour: str
    """One of the palette of `report.svg`; its opacity tells the values apart."""
    strong: Literal["low", "high"]
    """Which values are drawn strongest."""


def slice_limits(slices: Sequence[Slice]) -> tuple[float, float]:
    """Return one range of the objective that all slices are drawn in.

    It holds every band up to twice the chosen share; what rises beyond runs out of the picture.

    Args:
        slices: At least one.
    """
    lows, highs = [], []
    for one in slices:
        near = one.shares <= max(2.0 * one.chosen, float(one.shares[1]))
        lows.append(float(one.low.min()))
        highs.append(float(one.high[near].max()))
    low, high = min(lows), max(highs)
    room = 0.04 * (high - low) or 0.05 * abs(low) or 1.0
    return low - room, high + room


def slice_chart(one: Slice, *, limits: tuple[float, float], unit: str, name: str) -> Markup:
    """Draw the predicted objective along one domain's share, with its band.

    Args:
        one: The slice.
        limits: Range of the objective, the same for all panels.
        unit: Of the objective.
        name: Unique on the page.
    """
    with house_style():
        axes = new_axes(PANEL_WIDTH, _SLICE_HEIGHT, (50, 12, 10, 42))
        axes.set(xlim=(0.0, 100.0 * float(one.shares[-1]) or 1.0), ylim=limits)
        axes.grid(visible=True)
        percent = 100.0 * one.shares
        colour = ROLE_COLOURS["chosen"]
        bands = [(one.low, one.high)]
        if one.change_low is not None and one.change_high is not None:
            bands.append((one.change_low, one.change_high))
        for band in bands:
            low, high = (np.clip(end, *limits) for end in band)
            axes.fill_between(percent, low, high, color=DRAW, alpha=0.25, linewidth=0)
        shown = one.mean <= limits[1]
        axes.plot(percent[shown], one.mean[shown], color=INK, linewidth=1.8, zorder=3)
        _share_mark(axes, one.natural, "natural", high=one.natural > one.chosen)
        _share_mark(axes, one.chosen, "chosen", high=one.natural <= one.chosen)
        at = float(np.interp(one.chosen, one.shares, one.mean))
        axes.plot(100.0 * one.chosen, at, "o", color=colour, markersize=6.5, zorder=4)
        even_ticks(axes.xaxis, axes.yaxis)
        axes.set_xlabel("share of tokens, %", labelpad=3)
        axes.set_ylabel(unit, labelpad=3)
        label = (
            f"Predicted objective along the share of {shorten(one.domain, 60)}: "
            f"{decimals(float(one.mean[0]))} without it, {decimals(at)} at the chosen share of "
            f"{decimals(100.0 * one.chosen, 1)}%, {decimals(float(one.mean[-1]))} at "
            f"{decimals(float(percent[-1]), 1)}%"
        )
        return inline(axes, name=name, label=label)


def ternary_chart(
    ternary: Ternary,
    values: FloatArray,
    *,
    title: str,
    scale: Scale,
    name: str,
) -> Markup:
    """Draw values over the shares of three domains, with the measured mixtures and the chosen one.

    Args:
        ternary: The grid and the marks.
        values: (n_points,) over its grid.
        title: What they are, with the unit.
        scale: How they are coloured.
        name: Unique on the page.
    """
    with house_style():
        axes = new_axes(PANEL_WIDTH, _TERNARY_HEIGHT, (30, 30, 26, 96))
        axes.set_axis_off()
        axes.set(xlim=(0.0, 1.0), ylim=(0.0, float(_CORNERS[2, 1])), aspect="equal")
        edges = _bands(values)
        _paint(axes, ternary.grid @ _CORNERS, values, edges, scale)
        frame = _CORNERS[[0, 1, 2, 0]]
        axes.plot(*frame.T, color=MUTED, linewidth=1, clip_on=False)
        _marks(axes, ternary)
        _name_corners(axes, ternary.corners)
        _colour_key(axes, edges, scale, title)
        label = (
            f"{title}, over the shares of {', '.join(shorten(one, 40) for one in ternary.corners)}"
            f": from {decimals(float(values.min()))} to {decimals(float(values.max()))}, least at "
            f"{_written(ternary.grid[int(np.argmin(values))])}; chosen {_written(ternary.chosen)}"
        )
        return inline(axes, name=name, label=label)


def ternary_charts(ternary: Ternary, *, unit: str, name: str) -> tuple[Markup, Markup]:
    """Draw the predicted objective and its standard deviation, one map each."""
    return (
        ternary_chart(
            ternary,
            ternary.mean,
            title=f"predicted, {unit}",
            scale=Scale(LOWER, strong="low"),
            name=f"{name}-mean",
        ),
        ternary_chart(
            ternary,
            ternary.sd,
            title=f"standard deviation, {unit}",
            scale=Scale(HIGHER, strong="high"),
            name=f"{name}-sd",
        ),
    )


def _share_mark(axes: Axes, share: float, role: str, *, high: bool) -> None:
    """Draw a share's upright line; its name leans away from the other's."""
    left, right = axes.get_xlim()
    place = 100.0 * share
    axes.axvline(place, color=ROLE_COLOURS[role], linewidth=1, dashes=(3, 3), zorder=2)
    on_right = high if 0.2 < place / (right - left) < 0.75 else place < (left + right) / 2
    axes.annotate(
        role,
        (place, 1),
        xycoords=("data", "axes fraction"),
        xytext=(4 if on_right else -4, -4 if role == "chosen" else -18),
        textcoords="offset points",
        ha="left" if on_right else "right",
        va="top",
        color=ROLE_COLOURS[role],
    )


def _bands(values: FloatArray) -> FloatArray:
    """Return (n_bands + 1,) edges of even bands; the last holds all that is worse."""
    low, high = float(values.min()), float(np.quantile(values, _WORST))
    if not high > low:
        high = low + (abs(low) or 1.0) * 1e-6
    return np.linspace(low, high, _N_BANDS + 1)


def _strength(band: int, scale: Scale) -> float:
    part = band / (_N_BANDS - 1)
    return 0.85 * (1.0 - part if scale.strong == "low" else part)


def _paint(
    axes: Axes, places: FloatArray, values: FloatArray, edges: FloatArray, scale: Scale
) -> None:
    """Fill the bands; what is weak lets the page show through, light or dark."""
    triangles = Triangulation(places[:, 0], places[:, 1])
    held = np.clip(values, edges[0], edges[-1])
    reach = edges.copy()
    reach[0] -= 1e-9 * max(abs(reach[0]), 1.0)
    reach[-1] += 1e-9 * max(abs(reach[-1]), 1.0)
    axes.tricontourf(
        triangles,
        held,
        levels=reach,
        colors=[to_rgba(scale.colour, _strength(band, scale)) for band in range(_N_BANDS)],
    )


def _marks(axes: Axes, ternary: Ternary) -> None:
    """Draw the measured mixtures as rings, the natural one and the chosen one filled."""
    measured = ternary.measured @ _CORNERS
    axes.plot(
        *measured.T,
        "o",
        color=INK,
        markerfacecolor="none",
        markersize=5,
        markeredgewidth=1,
        clip_on=False,
    )
    for place, role, mark in (
        (ternary.natural, "natural", "s"),
        (ternary.chosen, "chosen", "D"),
    ):
        axes.plot(
            *(place @ _CORNERS),
            mark,
            color=ROLE_COLOURS[role],
            markeredgecolor=SURFACE,
            markersize=8,
            clip_on=False,
            zorder=5,
        )


def _name_corners(axes: Axes, corners: tuple[str, str, str]) -> None:
    for (x, y), name, (side, drop) in zip(
        _CORNERS,
        corners,
        (("left", -6.0), ("right", -6.0), ("center", 6.0)),
        strict=True,
    ):
        axes.annotate(
            shorten(name, 20),
            (x, y),
            xytext=(-24 if side == "left" else 24 if side == "right" else 0, drop),
            textcoords="offset points",
            ha=side,
            va="bottom" if drop > 0 else "top",
            fontweight="bold",
            annotation_clip=False,
        )


def _colour_key(axes: Axes, edges: FloatArray, scale: Scale, title: str) -> None:
    """Draw the bands' colours with numbers at their ends, below the map."""
    height = float(axes.get_position().height * axes.figure.bbox.height)
    top, bottom = -44.0 / height, -56.0 / height
    tall = float(_CORNERS[2, 1])
    for band in range(_N_BANDS):
        axes.fill(
            np.array([band, band + 1, band + 1, band]) / _N_BANDS,
            tall * np.array([bottom, bottom, top, top]),
            color=scale.colour,
            alpha=_strength(band, scale),
            linewidth=0,
            clip_on=False,
        )
    axes.plot(
        [0, 1, 1, 0, 0],
        tall * np.array([bottom, bottom, top, top, bottom]),
        color=MUTED,
        linewidth=0.7,
        clip_on=False,
    )
    for place, text, side in (
        (0.0, decimals(float(edges[0])), "left"),
        (0.5, decimals(float(edges[_N_BANDS // 2])), "center"),
        (1.0, f"{decimals(float(edges[-1]))} and above", "right"),
    ):
        axes.text(place, tall * bottom - 0.02, text, ha=side, va="top", color=MUTED, clip_on=False)
    axes.text(0.0, tall * top + 0.015, title, ha="left", va="bottom", color=MUTED)


def _written(shares: FloatArray) -> str:
    return " : ".join(decimals(100.0 * float(share), 0) for share in shares)
