"""The pictures of the report: small panels that read on a telephone and on paper.

Every function takes values and returns one SVG element; nothing is written and no global state of
matplotlib is touched.
"""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from cuvee.arrays import FloatArray, IntArray
from cuvee.report.content import (
    FIXED_KINDS,
    Comparison,
    HeldOutSection,
    Role,
    RunsSection,
    TrajectorySection,
    TrajectorySeries,
)
from cuvee.report.labels import LABEL_HEIGHT, Label, pixels, write_labels
from cuvee.report.numbers import decimals, difference, shorten
from cuvee.report.svg import (
    DRAW,
    GRID,
    INK,
    MUTED,
    ROLE_COLOURS,
    SURFACE,
    house_style,
    inline,
    new_axes,
)
from cuvee.report.ticks import even_ticks, limits, log_ticks, rank_ticks, short_quantity, signed

PANEL_WIDTH = 340
RUNS_WIDTH = 620
DOUBLE_WIDTH = 704
TRAJECTORY_HEIGHT = 290

_MARKERS: dict[Role, str] = {
    "chosen": "o",
    "natural": "s",
    "uniform": "^",
    "best-sampled": "D",
    "other": "v",
}
_DASHES: dict[Role, str | tuple[float, tuple[float, ...]]] = {
    "chosen": "-",
    "natural": "-",
    "uniform": (0, (4, 1.6)),
    "best-sampled": (0, (6, 1.6, 1.2, 1.6)),
    "other": (0, (1.2, 1.4)),
}
_KIND_ROLES: dict[str, Role] = {"natural": "natural", "uniform": "uniform"}


def forest_plot(rows: Sequence[Comparison], *, limit: float, name: str) -> Markup:
    """Draw differences to one baseline with their intervals, the objective first.

    Args:
        rows: Comparisons with the same baseline.
        limit: Largest distance from zero shown, bits per byte, the same for all panels.
        name: Unique on the page.
    """
    height = 30 + 21 * len(rows) + 36
    with house_style():
        axes = new_axes(PANEL_WIDTH, height, (104, 58, 8, 36))
        axes.set_xlim(-limit, limit)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.axvspan(-limit, 0, color=GRID, alpha=0.35, linewidth=0)
        axes.axvline(0, color=MUTED, linewidth=1)
        for position, row in enumerate(rows):
            _forest_row(axes, position, row, limit)
        axes.spines["left"].set_visible(False)
        axes.yaxis.set_major_locator(NullLocator())
        axes.xaxis.set_major_locator(MaxNLocator(4, symmetric=True))
        axes.xaxis.set_major_formatter(FuncFormatter(signed))
        axes.set_xlabel("bits per byte", labelpad=3)
        for place, end in ((0.0, "better"), (1.0, "worse")):
            axes.annotate(
                end,
                (place, 0),
                xycoords="axes fraction",
                xytext=(0, -21),
                textcoords="offset points",
                ha="right" if place else "left",
                va="top",
            )
        label = f"Differences to {rows[0].baseline}: " + "; ".join(
            f"{row.target or 'all targets'} {_written(row)}, {row.word}" for row in rows
        )
        return inline(axes, name=name, label=shorten(label, 400))


def held_out_scatter(held_out: HeldOutSection, column: int, *, name: str) -> Markup:
    """Draw held-out predictions against measurements, with the line where they agree."""
    measured, predicted = held_out.measured[:, column], held_out.predicted[:, column]
    known = np.isfinite(measured) & np.isfinite(predicted)
    with house_style():
        axes = new_axes(PANEL_WIDTH, 300, (52, 12, 12, 42))
        low, high = limits(np.concatenate([measured[known], predicted[known]]))
        axes.set(xlim=(low, high), ylim=(low, high))
        axes.plot([low, high], [low, high], color=MUTED, linewidth=0.9, dashes=(4, 3))
        if held_out.predicted_sd is not None:
            spread = held_out.predicted_sd[:, column]
            axes.vlines(
                measured[known],
                (predicted - spread)[known],
                (predicted + spread)[known],
                color=DRAW,
                alpha=0.45,
                linewidth=1,
            )
        for kind in dict.fromkeys(held_out.kinds):
            rows = known & np.asarray([other == kind for other in held_out.kinds])
            _points(axes, measured[rows], predicted[rows], kind)
        axes.text(
            0.04,
            0.96,
            f"rank correlation {decimals(held_out.rank_correlation[column], 2)}\n"
            f"error {decimals(held_out.rmse[column])}",
            transform=axes.transAxes,
            va="top",
            linespacing=1.4,
        )
        axes.grid(visible=True)
        axes.set_xlabel(f"measured, {held_out.unit}", labelpad=3)
        axes.set_ylabel("predicted, run held out", labelpad=3)
        even_ticks(axes.xaxis, axes.yaxis)
        title = shorten(held_out.columns[column], 60)
        return inline(axes, name=name, label=f"Predicted against measured loss: {title}")


def loss_by_run(runs: RunsSection, *, width: float, name: str) -> Markup:
    """Draw the objective of every run, best at the top, the fixed points named.

    Diverged runs are not drawn.
    """
    known = np.flatnonzero(np.isfinite(runs.losses) & ~runs.diverged)
    order = np.asarray(known[np.argsort(runs.losses[known], kind="stable")], dtype=np.int64)
    height = float(np.clip(11 * len(order), 220, 560)) + 62
    with house_style():
        axes = new_axes(width, height, (40, 14, 12, 50))
        shown = runs.losses[order]
        ends = [
            end
            for end in (runs.predicted_low, runs.predicted_high, runs.predicted)
            if end is not None
        ]
        axes.set_xlim(*limits(np.concatenate([shown, ends]), margin=0.06))
        axes.set_ylim(len(order) - 0.3, -0.7)
        _predicted_band(axes, runs)
        for kind in dict.fromkeys(runs.kinds):
            places = [place for place, run in enumerate(order) if runs.kinds[run] == kind]
            _points(axes, shown[places], np.asarray(places, dtype=np.float64), kind)
        _name_runs(axes, runs, order)
        axes.grid(visible=True, axis="x")
        even_ticks(axes.xaxis)
        axes.yaxis.set_major_locator(FixedLocator(rank_ticks(len(order))))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda place, _: f"{place + 1:.0f}"))
        axes.set_xlabel(f"loss on the objective, {runs.unit}", labelpad=4)
        axes.set_ylabel("rank", labelpad=3)
        return inline(axes, name=name, label=f"Loss of {len(order)} runs, sorted")


def trajectory_chart(section: TrajectorySection, column: int, *, width: float, name: str) -> Markup:
    """Draw losses over tokens on a logarithmic axis: thin lines are seeds, thick ones their mean.

    The first hundredth of the tokens is left out: there every loss falls steeply, whatever the
    mixture.
    """
    with house_style():
        axes = new_axes(width, TRAJECTORY_HEIGHT, (50, 84, 12, 42))
        first, last = _token_range(section.series)
        axes.set_xscale("log")
        axes.set_xlim(first, last)
        ends: list[tuple[float, TrajectorySeries]] = []
        shown: list[FloatArray] = []
        for group in _by_mixture(section.series):
            curves = [series.losses_bpb[:, column] for series in group]
            shown += [
                curve[series.n_tokens >= first] for curve, series in zip(curves, group, strict=True)
            ]
            ends.append((_draw_mixture(axes, group, curves), group[0]))
        axes.set_ylim(*limits(np.concatenate(shown or [np.zeros(1)])))
        axes.grid(visible=True)
        axes.xaxis.set_major_locator(FixedLocator(log_ticks(first, last)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_quantity(value)))
        even_ticks(axes.yaxis)
        axes.set_xlabel("tokens", labelpad=3)
        axes.set_ylabel("bits per byte", labelpad=3)
        labels = [
            Label(pixels(axes, end), shorten(one.mixture, 14), ROLE_COLOURS[one.role])
            for end, one in ends
            if np.isfinite(end)
        ]
        write_labels(axes, labels)
        title = shorten(section.columns[column], 60)
        return inline(axes, name=name, label=f"Loss over tokens: {title}")


def _forest_row(axes: Axes, position: int, row: Comparison, limit: float) -> None:
    weight = "bold" if row.target is None else "normal"
    name = "all targets" if row.target is None else shorten(row.target, 17)
    side = axes.get_yaxis_transform()
    for place, text in ((-0.05, name), (1.32, _written(row))):
        axes.text(place, position, text, transform=side, ha="right", va="center", fontweight=weight)
    if row.difference is None:
        return
    sure = row.word != "cannot be told apart"
    colour = ROLE_COLOURS["chosen"] if row.word == "better" else INK
    low = row.difference if row.low is None else row.low
    high = row.difference if row.high is None else row.high
    axes.plot(
        np.clip([low, high], -limit, limit),
        [position, position],
        color=colour,
        linewidth=2.6 if row.target is None else 1.6,
        solid_capstyle="round",
    )
    axes.plot(
        row.difference,
        position,
        "D" if row.target is None else "o",
        color=colour,
        markerfacecolor=colour if sure else SURFACE,
        markersize=7 if row.target is None else 6,
    )


def _written(row: Comparison) -> str:
    return "n/a" if row.difference is None else difference(row.difference)


def _points(axes: Axes, x: FloatArray, y: FloatArray, kind: str) -> None:
    role = _KIND_ROLES.get(kind)
    fixed = kind in FIXED_KINDS
    axes.plot(
        x,
        y,
        _MARKERS[role] if role else "o",
        color=ROLE_COLOURS[role] if role else (INK if fixed else DRAW),
        markerfacecolor=None if role or not fixed else SURFACE,
        markersize=7 if role else 5.5,
        markeredgewidth=1.2,
        zorder=3 if fixed else 2,
    )


def _predicted_band(axes: Axes, runs: RunsSection) -> None:
    colour = ROLE_COLOURS["chosen"]
    if runs.predicted_low is not None and runs.predicted_high is not None:
        axes.axvspan(runs.predicted_low, runs.predicted_high, color=colour, alpha=0.16, linewidth=0)
    if runs.predicted is None:
        return
    axes.axvline(runs.predicted, color=colour, linewidth=1.6)
    left, right = axes.get_xlim()
    on_right = runs.predicted < (left + right) / 2
    axes.annotate(
        "chosen, predicted",
        (runs.predicted, 0),
        xycoords=("data", "axes fraction"),
        xytext=(6 if on_right else -6, 6),
        textcoords="offset points",
        ha="left" if on_right else "right",
        color=colour,
    )


def _name_runs(axes: Axes, runs: RunsSection, order: IntArray) -> None:
    """Write the fixed points' names beside their dots, moved down where two would touch."""
    left, right = axes.get_xlim()
    pixels = axes.get_position().height * axes.figure.bbox.height / (len(order) or 1)
    below = -np.inf
    for place, run in enumerate(order):
        if runs.kinds[run] not in FIXED_KINDS:
            continue
        # Losses rise downwards, so the upper right and the lower left of the chart are free.
        on_right = runs.losses[run] < (left + right) / 2
        y = max(place * pixels, below + LABEL_HEIGHT)
        below = y
        role = _KIND_ROLES.get(runs.kinds[run])
        axes.annotate(
            shorten(runs.run_ids[run], 24),
            (runs.losses[run], place),
            xytext=(9 if on_right else -9, place * pixels - y),
            textcoords="offset points",
            ha="left" if on_right else "right",
            va="center",
            color=ROLE_COLOURS[role] if role else INK,
            fontweight="bold" if role else "normal",
        )


def _token_range(series: Sequence[TrajectorySeries]) -> tuple[float, float]:
    tokens = np.concatenate([one.n_tokens for one in series] or [np.ones(1, dtype=np.int64)])
    last = float(tokens.max())
    return min(float(tokens[tokens >= last / 100].min()), last / 2), last


def _by_mixture(series: Sequence[TrajectorySeries]) -> list[list[TrajectorySeries]]:
    groups: dict[str, list[TrajectorySeries]] = {}
    for one in series:
        groups.setdefault(one.mixture, []).append(one)
    return list(groups.values())


def _draw_mixture(
    axes: Axes, group: Sequence[TrajectorySeries], curves: Sequence[FloatArray]
) -> float:
    """Draw the seeds of one mixture and, where their points agree, the mean; return its end."""
    role = group[0].role
    colour, dashes = ROLE_COLOURS[role], _DASHES[role]
    order = 4 if role == "chosen" else 3
    for series, curve in zip(group, curves, strict=True):
        axes.plot(series.n_tokens, curve, color=colour, linewidth=0.8, alpha=0.5, zorder=order)
    points = group[0].n_tokens
    if all(np.array_equal(series.n_tokens, points) for series in group):
        mean = np.mean(curves, axis=0)
        axes.plot(points, mean, color=colour, linestyle=dashes, linewidth=2, zorder=order)
    return float(np.mean([curve[-1] for curve in curves]))
