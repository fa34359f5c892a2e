"""Scaling laws and the law of a new domain's share, with what was measured.

Every function takes values and returns one SVG element, as in `report.charts`.
"""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from cuvee.report.charts import PANEL_WIDTH
from cuvee.report.labels import Label, pixels, write_labels
from cuvee.report.numbers import decimals, shorten
from cuvee.report.pictures import ShareCurve, SizeLaw, StepLaw
from cuvee.report.svg import (
    DRAW,
    INK,
    MUTED,
    ROLE_COLOURS,
    SURFACE,
    house_style,
    inline,
    more_axes,
    new_axes,
)
from cuvee.report.ticks import even_ticks, limits, log_ticks, short_quantity, signed

_LINES = tuple(
    ROLE_COLOURS[role] for role in ("uniform", "other", "best-sampled", "chosen", "natural")
)
"""Colours of sizes or mixtures, in order; beyond five they come again."""
_STEP_HEIGHT = 372
_RESIDUALS_HEIGHT = 74
_HEIGHT = 300
_DODGE = 1.045
"""Ratio of parameters by which neighbouring intervals stand apart."""


def step_law_chart(law: StepLaw, *, unit: str, name: str) -> Markup:
    """Draw one mixture's losses over tokens at every size, the laws, and the residuals below.

    Args:
        law: Measurements and fitted law.
        unit: Of the losses.
        name: Unique on the page.
    """
    with house_style():
        below = _RESIDUALS_HEIGHT + 42
        axes = new_axes(PANEL_WIDTH, _STEP_HEIGHT, (50, 60, 10, below + 12))
        under = more_axes(axes, (50, 60, _STEP_HEIGHT - below, 42))
        residuals = 1e3 * (law.losses - law.fitted)
        labels = []
        axes.set_ylim(*limits(np.concatenate([law.losses.ravel(), law.curve.ravel()])))
        for place, size in enumerate(law.sizes):
            colour = _LINES[place % len(_LINES)]
            axes.plot(law.curve_tokens, law.curve[place], color=colour, linewidth=1.5)
            axes.plot(law.n_tokens, law.losses[place], "o", color=colour, markersize=5)
            under.plot(law.n_tokens, residuals[place], "o", color=colour, markersize=4)
            labels.append(Label(pixels(axes, float(law.curve[place, -1])), size, colour))
        reach = 1.2 * float(np.abs(residuals).max(initial=0.0)) or 1.0
        under.set_ylim(-reach, reach)
        under.axhline(0, color=MUTED, linewidth=0.9)
        for one in (axes, under):
            _log_axis(one, float(law.curve_tokens[0]), float(law.curve_tokens[-1]))
            one.grid(visible=True)
        axes.tick_params(labelbottom=False)
        even_ticks(axes.yaxis)
        under.yaxis.set_major_locator(MaxNLocator(3, symmetric=True))
        under.yaxis.set_major_formatter(FuncFormatter(signed))
        write_labels(axes, labels)
        axes.set_ylabel(unit, labelpad=3)
        under.set_ylabel("residual, 1/1000", labelpad=3, fontsize=9.5)
        under.set_xlabel("tokens", labelpad=3)
        worst = decimals(float(np.abs(residuals).max(initial=0.0)) / 1e3, 4)
        label = (
            f"Step laws of {shorten(law.mixture, 60)} at {', '.join(law.sizes)} parameters; "
            f"largest residual {worst} {unit}"
        )
        return inline(axes, name=name, label=label)


def size_law_chart(laws: Sequence[SizeLaw], *, unit: str, width: float, name: str) -> Markup:
    """Draw losses at the horizon over sizes, the laws, and what they predict with intervals.

    Args:
        laws: One a mixture; at least one.
        unit: Of the losses.
        width: Of the picture, CSS pixels.
        name: Unique on the page.
    """
    with house_style():
        axes = new_axes(width, _HEIGHT, (50, 104, 12, 42))
        every = [np.concatenate([one.losses, one.curve, [one.low, one.high]]) for one in laws]
        axes.set_ylim(*limits(np.concatenate(every)))
        labels = []
        for place, one in enumerate(laws):
            colour = _LINES[place % len(_LINES)]
            last = float(one.curve_parameters[-1])
            axes.plot(one.curve_parameters, one.curve, color=colour, linewidth=1.5)
            axes.plot(one.parameters, one.losses, "o", color=colour, markersize=5)
            # Side by side, for intervals of neighbours overlap.
            at = last * _DODGE ** (place + 1)
            axes.plot([at, at], [one.low, one.high], color=colour, linewidth=2)
            axes.plot(at, one.predicted, "D", color=colour, markerfacecolor=SURFACE, markersize=6)
            if one.measured is not None:
                axes.plot(at, one.measured, "X", color=INK, markersize=7, zorder=5)
            labels.append(Label(pixels(axes, one.predicted), shorten(one.mixture, 16), colour))
        low = float(min(one.curve_parameters[0] for one in laws))
        high = float(max(one.curve_parameters[-1] for one in laws))
        _log_axis(axes, low, high * _DODGE ** (len(laws) + 1))
        axes.grid(visible=True)
        even_ticks(axes.yaxis)
        write_labels(axes, labels)
        axes.set_xlabel("parameters without embedding", labelpad=3)
        axes.set_ylabel(unit, labelpad=3)
        label = "Size laws: " + "; ".join(_size_words(one) for one in laws)
        return inline(axes, name=name, label=label)


def share_chart(
    curve: ShareCurve, *, unit: str, width: float, name: str, base_name: str = "base"
) -> Markup:
    """Draw the loss over the new domains' share beside the base's, the critical share marked.

    Args:
        curve: Runs, law, base and critical share.
        unit: Of the losses.
        width: Of the picture, CSS pixels.
        name: Unique on the page.
        base_name: What the base's line is called.
    """
    with house_style():
        axes = new_axes(width, _HEIGHT, (54, 52, 12, 42))
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(
            *limits(np.concatenate([curve.losses, curve.mean, [curve.base], curve.checks[:, 1]]))
        )
        axes.grid(visible=True)
        if curve.critical is not None:
            _critical(axes, curve.critical)
        bottom, top = axes.get_ylim()
        low, high = (np.clip(end, bottom, top) for end in (curve.low, curve.high))
        axes.fill_between(curve.curve_shares, low, high, color=DRAW, alpha=0.3, linewidth=0)
        axes.plot(curve.curve_shares, curve.mean, color=INK, linewidth=1.6)
        axes.plot(curve.shares, curve.losses, "o", color=INK, markerfacecolor=SURFACE, markersize=5)
        if len(curve.checks):
            axes.plot(*curve.checks.T, "X", color=ROLE_COLOURS["chosen"], markersize=8, zorder=5)
        axes.axhline(curve.base, color=ROLE_COLOURS["best-sampled"], linewidth=1.8)
        write_labels(
            axes,
            [Label(pixels(axes, curve.base), base_name, ROLE_COLOURS["best-sampled"])],
        )
        even_ticks(axes.xaxis, axes.yaxis)
        axes.set_xlabel("share of the new domains", labelpad=3)
        axes.set_ylabel(unit, labelpad=3)
        label = (
            f"{shorten(curve.title, 80)}: {decimals(float(curve.mean[0]))} at a share of "
            f"{decimals(float(curve.curve_shares[0]))}, {decimals(float(curve.mean[-1]))} at "
            f"{decimals(float(curve.curve_shares[-1]))}, base {decimals(curve.base)}"
        )
        if curve.critical is not None:
            share, first, last = (decimals(one) for one in curve.critical)
            label += f"; critical share {share}, interval {first} to {last}"
        return inline(axes, name=name, label=label)


def _critical(axes: Axes, critical: tuple[float, float, float]) -> None:
    share, low, high = critical
    colour = ROLE_COLOURS["chosen"]
    axes.axvspan(low, high, color=colour, alpha=0.18, linewidth=0)
    axes.axvline(share, color=colour, linewidth=1.4)
    on_right = share < 0.6
    axes.annotate(
        f"critical share {decimals(share)}",
        (high if on_right else low, 1),
        xycoords=("data", "axes fraction"),
        xytext=(5 if on_right else -5, -4),
        textcoords="offset points",
        ha="left" if on_right else "right",
        va="top",
        color=colour,
    )


def _log_axis(axes: Axes, low: float, high: float) -> None:
    axes.set_xscale("log")
    axes.set_xlim(low / 1.06, high * 1.04)
    axes.xaxis.set_major_locator(FixedLocator(log_ticks(low / 1.06, high * 1.04)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_quantity(value)))


def _size_words(law: SizeLaw) -> str:
    words = (
        f"{shorten(law.mixture, 40)} {decimals(law.predicted)} predicted "
        f"({decimals(law.low)} to {decimals(law.high)})"
    )
    return words if law.measured is None else f"{words}, {decimals(law.measured)} measured"
