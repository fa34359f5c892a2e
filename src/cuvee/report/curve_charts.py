"""Quality curves: expected copies over the quality rank, a line a domain."""

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cuvee.report.labels import Label, pixels, write_labels
from cuvee.report.numbers import shorten
from cuvee.report.pictures import CurvesSection
from cuvee.report.svg import DRAW, INK, ROLE_COLOURS, house_style, inline, new_axes

_HEIGHT = 300
_MOST_LINES = 6
_COLOURS = (
    ROLE_COLOURS["chosen"],
    INK,
    *(ROLE_COLOURS[name] for name in ("uniform", "best-sampled", "other")),
    DRAW,
)


def copies_chart(section: CurvesSection, *, width: float, name: str) -> Markup:
    """Draw the curves of the domains with the largest chosen shares.

    Args:
        section: Curves of all domains.
        width: Of the picture, CSS pixels.
        name: Unique on the page.
    """
    shown = np.argsort(-section.shares, kind="stable")[:_MOST_LINES]
    with house_style():
        axes = new_axes(width, _HEIGHT, (44, 100, 12, 42))
        reach = float(section.ranks[(section.copies[shown] > 1e-2).any(axis=0)].max(initial=0.1))
        axes.set(xlim=(0.0, min(1.15 * reach, 1.0)), ylim=(0.0, 2.1))
        inside = section.ranks <= 1.15 * reach
        for column, colour in zip(shown, _COLOURS, strict=False):
            axes.plot(
                section.ranks[inside], section.copies[column][inside], color=colour, linewidth=1.8
            )
        write_labels(
            axes,
            [
                Label(
                    pixels(axes, float(section.copies[column][0])),
                    shorten(section.domains[column], 16),
                    colour,
                )
                for column, colour in zip(shown, _COLOURS, strict=False)
            ],
        )
        axes.grid(visible=True)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))
        axes.set_xlabel("quality rank, best first", labelpad=3)
        axes.set_ylabel("expected copies", labelpad=3)
        label = "Expected copies of the best documents: " + ", ".join(
            f"{shorten(section.domains[column], 24)} {section.copies[column][0]:.2f}"
            for column in shown
        )
        return inline(axes, name=name, label=shorten(label, 400))
