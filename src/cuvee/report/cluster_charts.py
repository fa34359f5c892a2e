"""Clusters on a plane, arms of a bandit over its rounds, scores of the documents probed.

Every function takes values and returns one SVG element, as in `report.charts`.
"""

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from cuvee.arrays import FloatArray
from cuvee.report.cluster_sections import ArmsSection, ClusterMapSection, RewardsSection
from cuvee.report.labels import Label, pixels, write_labels
from cuvee.report.numbers import count, decimals, quantity, share, shorten
from cuvee.report.svg import (
    DRAW,
    GRID,
    HIGHER,
    INK,
    LOWER,
    MUTED,
    ROLE_COLOURS,
    house_style,
    inline,
    more_axes,
    new_axes,
)
from cuvee.report.ticks import limits, short_quantity

_MAP_HEIGHT = 420
_ARMS_HEIGHT = 470
_HISTOGRAM_HEIGHT = 250
_LARGEST = 900.0
"""Area of the largest cluster's disc, square points; areas are in proportion to tokens."""
_SMALLEST = 6.0
_MOST_NAMES = 12
_MOST_DISCS = _MOST_POINTS = 2000
_NAME_HEIGHT, _LETTER_WIDTH = 14.0, 6.6
_COLOURS = (
    ROLE_COLOURS["chosen"],
    INK,
    *(ROLE_COLOURS[name] for name in ("uniform", "best-sampled", "other")),
    DRAW,
)
_BINS = 40
_TAIL = 0.005


def cluster_map_chart(section: ClusterMapSection, *, width: float, name: str) -> Markup:
    """Draw clusters as discs: size by tokens, colour by mean reward, an edge where some was taken.

    Args:
        section: Places, tokens and rewards.
        width: Of the picture, CSS pixels.
        name: Unique on the page.
    """
    with house_style():
        axes = new_axes(width, _MAP_HEIGHT, (8, 8, 8, 8))
        axes.set(xlim=(-1.08, 1.08), ylim=(-1.08, 1.08))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(NullLocator())
        for spine in axes.spines.values():
            spine.set_visible(False)
        shown = section.points[:_MOST_POINTS]
        axes.scatter(shown[:, 0], shown[:, 1], s=3, color=DRAW, alpha=0.35, linewidth=0)
        _draw_clusters(axes, section)
        _name_clusters(axes, section)
        return inline(axes, name=name, label=_map_label(section))


def arms_chart(section: ArmsSection, *, width: float, name: str) -> Markup:
    """Draw mean rewards with intervals, pulls and tokens taken of some arms over the rounds.

    Args:
        section: Arms and rounds.
        width: Of the picture, CSS pixels.
        name: Unique on the page.
    """
    with house_style():
        left, right = 52, 132
        top = new_axes(width, _ARMS_HEIGHT, (left, right, 12, 252))
        middle = more_axes(top, (left, right, 232, 150))
        bottom = more_axes(top, (left, right, 334, 42))
        panels = ((top, section.mean), (middle, section.pulls), (bottom, section.tokens))
        for axes, values in panels:
            first, last = section.rounds[[0, -1]] if len(section.rounds) else (0, 1)
            axes.set_xlim(first - 0.5, max(last, first + 1) + 0.5)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.grid(visible=True)
            for row, colour in zip(values, _COLOURS, strict=False):
                axes.plot(section.rounds, row, color=colour, linewidth=1.6, drawstyle="steps-post")
        known = section.threshold[np.isfinite(section.threshold)]
        top.set_ylim(*limits(np.concatenate([section.mean.ravel(), known])))
        for low, high, colour in zip(section.low, section.high, _COLOURS, strict=False):
            top.fill_between(
                section.rounds, low, high, step="post", color=colour, alpha=0.12, linewidth=0
            )
        top.plot(section.rounds, section.threshold, color=MUTED, linewidth=1.2, dashes=(4, 3))
        bottom.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_quantity(value)))
        for axes in (top, middle):
            axes.tick_params(labelbottom=False)
        for axes, title in ((top, "mean reward"), (middle, "pulls"), (bottom, "tokens taken")):
            axes.set_ylabel(title, labelpad=3)
        bottom.set_xlabel("round", labelpad=3)
        if len(section.rounds):
            write_labels(
                top,
                [
                    Label(pixels(top, float(row[-1])), shorten(arm, 16), colour)
                    for row, arm, colour in zip(section.mean, section.names, _COLOURS, strict=False)
                ],
            )
        return inline(top, name=name, label=_arms_label(section))


def rewards_chart(section: RewardsSection, *, width: float, name: str) -> Markup:
    """Draw how many probed documents had which score, those of accepted clusters in colour.

    Args:
        section: Scores; the half per cent at either end stands in the last bar of its side.
        width: Of the picture, CSS pixels.
        name: Unique on the page.
    """
    rewards = section.rewards[np.isfinite(section.rewards)]
    accepted = section.rewards[np.isfinite(section.rewards) & section.accepted]
    with house_style():
        axes = new_axes(width, _HISTOGRAM_HEIGHT, (48, 14, 22, 42))
        if len(rewards):
            low, high = (float(end) for end in np.quantile(rewards, [_TAIL, 1.0 - _TAIL]))
            edges = np.linspace(low, high if high > low else low + 1.0, _BINS + 1)
            for values, colour in ((rewards, DRAW), (accepted, ROLE_COLOURS["chosen"])):
                heights, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
                axes.bar(
                    edges[:-1], heights, np.diff(edges), align="edge", color=colour, linewidth=0
                )
        if section.threshold is not None:
            axes.axvline(section.threshold, color=INK, linewidth=1.2, dashes=(4, 3))
            axes.annotate(
                "threshold",
                (section.threshold, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                va="bottom",
            )
        axes.axvline(0, color=MUTED, linewidth=0.9)
        axes.grid(visible=True, axis="y", color=GRID)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_xlabel("influence of a probed document", labelpad=3)
        axes.set_ylabel("documents", labelpad=3)
        return inline(axes, name=name, label=_rewards_label(rewards, accepted))


def _draw_clusters(axes: Axes, section: ClusterMapSection) -> None:
    """Draw the largest clusters' discs, small ones over large ones."""
    shown = np.argsort(-section.n_tokens, kind="stable")[:_MOST_DISCS]
    strength = _strength(section)[shown]
    taken = section.taken_tokens[shown] > 0
    areas = _LARGEST * section.n_tokens[shown] / max(int(section.n_tokens.max(initial=1)), 1)
    axes.scatter(
        section.centres[shown, 0],
        section.centres[shown, 1],
        s=np.maximum(areas, _SMALLEST),
        facecolors=[
            to_rgba(DRAW, 0.25)
            if np.isnan(one)
            else to_rgba(HIGHER if one >= 0 else LOWER, 0.25 + 0.6 * abs(float(one)))
            for one in strength
        ],
        edgecolors=[to_rgba(INK if one else "none") for one in taken],
        linewidths=np.where(taken, 1.2, 0.0).tolist(),
    )


def _strength(section: ClusterMapSection) -> FloatArray:
    """Return rewards from the threshold on, scaled to [-1, 1]; NaN where none is known."""
    middle = 0.0 if section.threshold is None else section.threshold
    apart = section.mean_reward - middle
    known = np.abs(apart[np.isfinite(apart)])
    scale = float(np.quantile(known, 0.95)) if known.size else 0.0
    strength: FloatArray = np.clip(apart / (scale or 1.0), -1.0, 1.0)
    return strength


def _name_clusters(axes: Axes, section: ClusterMapSection) -> None:
    """Name the clusters that gave or hold the most, as far as names do not run into each other."""
    order = np.lexsort((-section.n_tokens, -section.taken_tokens))
    width, height = axes.get_window_extent().size
    placed: list[tuple[float, float, float, float]] = []
    for place in order.tolist():
        if len(placed) >= _MOST_NAMES:
            return
        text = shorten(section.names[place], 28)
        x, y = axes.transData.transform(section.centres[place]) - axes.bbox.min
        half = _LETTER_WIDTH * len(text) / 2.0
        x, y = np.clip(x, half, max(width - half, half)), np.clip(y, 8.0, height - 8.0)
        box = (x - half, x + half, y - _NAME_HEIGHT / 2.0, y + _NAME_HEIGHT / 2.0)
        if any(_overlap(box, other) for other in placed):
            continue
        placed.append(box)
        axes.annotate(
            text,
            (x / width, y / height),
            xycoords="axes fraction",
            ha="center",
            va="center",
            color=INK,
            fontsize=9.5,
        )


def _overlap(
    one: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> bool:
    return one[0] < other[1] and other[0] < one[1] and one[2] < other[3] and other[2] < one[3]


def _map_label(section: ClusterMapSection) -> str:
    touched = int((section.taken_tokens > 0).sum())
    best = np.argsort(-section.taken_tokens, kind="stable")[:3]
    named = ", ".join(
        f"{shorten(section.names[place], 40)} {quantity(float(section.taken_tokens[place]))}"
        for place in best.tolist()
        if section.taken_tokens[place] > 0
    )
    words = f"Map of {count(len(section.names))} clusters, {count(touched)} of them taken from"
    return f"{words}; most tokens: {named}" if named else words


def _arms_label(section: ArmsSection) -> str:
    if not len(section.rounds):
        return "Arms over rounds: no round was played"
    arms = "; ".join(
        f"{shorten(arm, 40)} mean {decimals(float(mean[-1]), 4)}, {count(int(pulls[-1]))} pulls, "
        f"{quantity(float(tokens[-1]))} tokens"
        for arm, mean, pulls, tokens in zip(
            section.names, section.mean, section.pulls, section.tokens, strict=True
        )
    )
    return (
        f"{count(len(section.rounds))} rounds, {quantity(float(section.all_tokens[-1]))} tokens "
        f"taken: {shorten(arms, 400)}"
    )


def _rewards_label(rewards: FloatArray, accepted: FloatArray) -> str:
    if not len(rewards):
        return "Influence of probed documents: none was probed"
    words = (
        f"Influence of {count(len(rewards))} probed documents: median "
        f"{decimals(float(np.median(rewards)), 4)}, {share(float((rewards > 0).mean()))} above 0"
    )
    if not len(accepted):
        return words
    return f"{words}; of accepted clusters {decimals(float(np.median(accepted)), 4)}"
