"""Runs one by one: what each missed its prediction by, and the best found so far.

Every function takes values and returns one SVG element, as in `report.charts`.
"""

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from cuvee.arrays import FloatArray, IntArray
from cuvee.report.content import HeldOutSection, RunsSection
from cuvee.report.labels import Label, pixels, write_labels
from cuvee.report.numbers import decimals, difference, shorten
from cuvee.report.svg import DRAW, INK, MUTED, ROLE_COLOURS, house_style, inline, new_axes
from cuvee.report.ticks import even_ticks, limits

_FAR = 3.0
"""Robust standard deviations beyond which a run is named."""
_MOST_NAMED = 6
_HEIGHT = 300


def outlying_runs(held_out: HeldOutSection) -> IntArray:
    """Find runs whose objective is missed by far more than is usual, the worst first.

    Their residual lies beyond three robust standard deviations (1.4826 times the median absolute
    deviation) from the median one.

    Returns:
        (n_outlying,) rows, at most 6.
    """
    residuals = held_out.predicted[:, 0] - held_out.measured[:, 0]
    known = np.isfinite(residuals)
    if known.sum() < 4:
        return np.zeros(0, dtype=np.int64)
    apart = np.abs(residuals - np.median(residuals[known]))
    usual = 1.4826 * float(np.median(apart[known]))
    found = np.flatnonzero(known & (apart > _FAR * usual))
    order = np.argsort(-apart[found], kind="stable")[:_MOST_NAMED]
    return np.asarray(found[order], dtype=np.int64)


def residual_chart(held_out: HeldOutSection, *, width: float, name: str) -> Markup:
    """Draw each run's residual on the objective over its measured loss, outlying ones named.

    Args:
        held_out: Measured and predicted losses; the objective is the first column.
        width: Of the picture, CSS pixels.
        name: Unique on the page.
    """
    measured = held_out.measured[:, 0]
    residuals = held_out.predicted[:, 0] - measured
    known = np.isfinite(residuals)
    named = outlying_runs(held_out)
    with house_style():
        axes = new_axes(width, _HEIGHT, (54, 14, 12, 42))
        reach = 1.15 * float(np.abs(residuals[known]).max(initial=0.0)) or 1.0
        axes.set(xlim=limits(measured[known]), ylim=(-reach, reach))
        axes.grid(visible=True)
        axes.axhline(0, color=MUTED, linewidth=1)
        if held_out.predicted_sd is not None:
            spread = np.minimum(held_out.predicted_sd[:, 0], 2.0 * reach)
            axes.vlines(
                measured[known],
                (residuals - spread)[known],
                (residuals + spread)[known],
                color=DRAW,
                alpha=0.45,
                linewidth=1,
            )
        axes.plot(measured[known], residuals[known], "o", color=DRAW, markersize=5.5)
        axes.plot(
            measured[named], residuals[named], "o", color=ROLE_COLOURS["chosen"], markersize=6.5
        )
        middle = float(np.mean(axes.get_xlim()))
        for run in named:
            on_right = measured[run] < middle
            axes.annotate(
                shorten(held_out.run_ids[run], 24),
                (measured[run], residuals[run]),
                xytext=(8 if on_right else -8, 0),
                textcoords="offset points",
                ha="left" if on_right else "right",
                va="center",
            )
        even_ticks(axes.xaxis, axes.yaxis)
        axes.set_xlabel(f"measured, {held_out.unit}", labelpad=3)
        axes.set_ylabel("predicted minus measured", labelpad=3)
        return inline(axes, name=name, label=_residual_label(held_out, named))


def best_so_far(losses: FloatArray) -> FloatArray:
    """Return the (n_runs,) lowest loss among the first runs; NaN before the first known one.

    Example:
        >>> best_so_far(np.array([3.0, np.nan, 2.0, 2.5])).tolist()
        [3.0, 3.0, 2.0, 2.0]
    """
    lowest: FloatArray = np.minimum.accumulate(np.where(np.isnan(losses), np.inf, losses))
    return np.where(np.isinf(lowest), np.nan, lowest)


def best_so_far_chart(runs: RunsSection, *, width: float, name: str) -> Markup:
    """Draw the best objective after n runs, beside the natural mixture's.

    Its height above the last value is the regret of having stopped there.

    Args:
        runs: In the order they were measured; diverged ones are no gain.
        width: Of the picture, CSS pixels.
        name: Unique on the page.
    """
    losses = np.where(runs.diverged, np.nan, runs.losses)
    best = best_so_far(losses)
    numbers = np.arange(1, len(losses) + 1)
    natural = [loss for loss, kind in zip(losses, runs.kinds, strict=True) if kind == "natural"]
    with house_style():
        axes = new_axes(width, _HEIGHT, (50, 84, 12, 42))
        axes.set_xlim(0.5, max(len(losses), 1) + 0.5)
        # The worse half of the runs needs no room: what matters is near the best.
        middle = np.nanmedian(losses) if np.isfinite(losses).any() else np.nan
        shown = np.concatenate([best[-1:], natural, [middle]])
        low, high = limits(shown, margin=0.12)
        axes.set_ylim(low, high)
        axes.grid(visible=True)
        inside = losses <= high
        axes.plot(numbers[inside], losses[inside], "o", color=DRAW, markersize=4.5)
        colour = ROLE_COLOURS["best-sampled"]
        axes.step(numbers, best, where="post", color=colour, linewidth=2, zorder=3)
        labels = []
        if np.isfinite(best).any():
            labels.append(Label(pixels(axes, float(best[-1])), "best so far", colour))
        for loss in natural[:1]:
            axes.axhline(loss, color=ROLE_COLOURS["natural"], linewidth=1.4)
            labels.append(Label(pixels(axes, float(loss)), "natural", ROLE_COLOURS["natural"]))
        write_labels(axes, [label for label in labels if np.isfinite(label.y)])
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        even_ticks(axes.yaxis)
        axes.set_xlabel("runs measured", labelpad=3)
        axes.set_ylabel(f"objective, {runs.unit}", labelpad=3, color=INK)
        return inline(axes, name=name, label=_best_label(best, natural))


def _best_label(best: FloatArray, natural: list[float]) -> str:
    places = sorted({0, len(best) // 4, len(best) // 2, len(best) - 1} & set(range(len(best))))
    label = "Best objective so far: " + ", ".join(
        f"{decimals(float(best[place]))} after {place + 1}" for place in places
    )
    return label + "".join(f"; natural mixture {decimals(loss)}" for loss in natural[:1])


def _residual_label(held_out: HeldOutSection, named: IntArray) -> str:
    residuals = held_out.predicted[:, 0] - held_out.measured[:, 0]
    label = f"Residuals of {int(np.isfinite(residuals).sum())} runs on the objective"
    if not len(named):
        return label
    runs = (
        f"{shorten(held_out.run_ids[run], 40)} {difference(float(residuals[run]))}" for run in named
    )
    return f"{label}; outlying: {', '.join(runs)}"
