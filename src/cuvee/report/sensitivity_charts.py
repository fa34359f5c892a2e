"""What surrounds the chosen mixture: shares that cannot be told apart, and the path of a pull.

Every function takes values and returns one SVG element, as in `report.charts`.
"""

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from cuvee.arrays import FloatArray
from cuvee.report.labels import Label, pixels, write_labels
from cuvee.report.numbers import shorten
from cuvee.report.svg import DRAW, GRID, INK, MUTED, ROLE_COLOURS, house_style, inline, new_axes
from cuvee.report.ticks import even_ticks, limits
from cuvee.tables.sensitivity import Sensitivity

_ROW = 17
_MOST_LINES = 6
_HEIGHT = 300
_LINE_COLOURS = (
    ROLE_COLOURS["chosen"],
    INK,
    *(ROLE_COLOURS[n] for n in ("uniform", "best-sampled", "other")),
    DRAW,
)


def range_chart(
    found: Sensitivity, *, chosen: FloatArray, natural: FloatArray, width: float, name: str
) -> Markup:
    """Draw each domain's range of shares, the chosen and the natural share marked.

    Args:
        found: Ranges of the columns.
        chosen: (n_columns,) the chosen mixture.
        natural: (n_columns,) the natural one.
        width: Of the picture, CSS pixels.
        name: Unique on the page.
    """
    order = np.argsort(-chosen, kind="stable")
    ranges = np.array(found.ranges)
    with house_style():
        axes = new_axes(width, 46 + _ROW * len(order), (118, 14, 6, 40))
        axes.set_ylim(len(order) - 0.4, -0.6)
        axes.set_xlim(0.0, min(1.0, 1.05 * float(max(ranges.max(), natural.max()))))
        for place, column in enumerate(order):
            axes.plot(
                ranges[column],
                [place, place],
                color=DRAW,
                alpha=0.55,
                linewidth=5,
                solid_capstyle="round",
            )
            axes.plot(
                natural[column], place, "s", color=ROLE_COLOURS["natural"], markersize=5, zorder=3
            )
            axes.plot(
                chosen[column], place, "o", color=ROLE_COLOURS["chosen"], markersize=6.5, zorder=4
            )
            axes.text(
                -0.02,
                place,
                shorten(found.domains[column], 18),
                transform=axes.get_yaxis_transform(),
                ha="right",
                va="center",
            )
        axes.spines["left"].set_visible(False)
        axes.yaxis.set_major_locator(NullLocator())
        axes.grid(visible=True, axis="x", color=GRID)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))
        axes.set_xlabel("share of the tokens", labelpad=3)
        label = "; ".join(
            f"{shorten(found.domains[column], 24)} {100 * ranges[column][0]:.1f}% to "
            f"{100 * ranges[column][1]:.1f}%, chosen {100 * chosen[column]:.1f}%"
            for column in order
        )
        return inline(axes, name=name, label=shorten(f"Ranges of shares: {label}", 600))


def path_objective_chart(found: Sensitivity, *, unit: str, width: float, name: str) -> Markup:
    """Draw the predicted objective over the distance from the natural mixture."""
    away = np.array([point.divergence for point in found.path])
    values = np.array([point.predicted for point in found.path])
    with house_style():
        axes = new_axes(width, _HEIGHT, (54, 14, 12, 42))
        axes.set(xlim=limits(away), ylim=limits(values))
        top = min(float(values.min()) + found.within, axes.get_ylim()[1])
        axes.axhspan(float(values.min()), top, color=DRAW, alpha=0.18, linewidth=0)
        axes.plot(away, values, "o-", color=ROLE_COLOURS["chosen"], linewidth=2, markersize=5)
        axes.grid(visible=True)
        even_ticks(axes.xaxis, axes.yaxis)
        axes.set_xlabel("nats from the natural mixture", labelpad=3)
        axes.set_ylabel(f"predicted, {unit}", labelpad=3)
        return inline(axes, name=name, label="Predicted objective along the path of the pull")


def path_shares_chart(found: Sensitivity, *, width: float, name: str) -> Markup:
    """Draw the shares that change most over the distance from the natural mixture."""
    away = np.array([point.divergence for point in found.path])
    shares = np.array([point.weights for point in found.path])
    shown = np.argsort(-np.ptp(shares, axis=0), kind="stable")[:_MOST_LINES]
    with house_style():
        axes = new_axes(width, _HEIGHT, (44, 96, 12, 42))
        axes.set(xlim=limits(away), ylim=(0.0, 1.08 * float(shares[:, shown].max())))
        for column, colour in zip(shown, _LINE_COLOURS, strict=False):
            axes.plot(away, shares[:, column], "o-", color=colour, linewidth=1.6, markersize=4)
        write_labels(
            axes,
            [
                Label(
                    pixels(axes, float(shares[-1, column])),
                    shorten(found.domains[column], 15),
                    colour,
                )
                for column, colour in zip(shown, _LINE_COLOURS, strict=False)
            ],
        )
        axes.grid(visible=True)
        even_ticks(axes.xaxis)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))
        axes.set_xlabel("nats from the natural mixture", labelpad=3)
        axes.tick_params(axis="y", colors=MUTED)
        label = "Shares along the path of the pull: " + ", ".join(
            f"{shorten(found.domains[column], 24)} from {100 * shares[0, column]:.1f}% to "
            f"{100 * shares[-1, column]:.1f}%"
            for column in shown
        )
        return inline(axes, name=name, label=shorten(label, 400))
