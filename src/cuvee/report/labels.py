"""Names at the ends of lines, kept apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

LABEL_HEIGHT = 13.0
"""Of a line of text, CSS pixels."""


@dataclass(frozen=True, slots=True)
class Label:
    """A name beside a point; ``y`` in pixels from the bottom of the axes."""

    y: float
    text: str
    colour: str


def write_labels(axes: Axes, labels: Sequence[Label]) -> None:
    """Write names at the right end of lines, kept a line's height apart, as near as that allows."""
    ordered = sorted(labels, key=lambda label: label.y)
    places = np.asarray([label.y for label in ordered])
    height = axes.get_position().height * axes.figure.bbox.height
    for _ in range(100):
        places = np.clip(places, LABEL_HEIGHT / 2, height)
        gaps = LABEL_HEIGHT - np.diff(places)
        crowded = np.maximum(gaps, 0) / 2
        if not np.any(crowded > 0.01):
            break
        places[:-1] -= crowded
        places[1:] += crowded
    for label, place in zip(ordered, places, strict=True):
        axes.annotate(
            label.text,
            (1, place / height),
            xycoords="axes fraction",
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=label.colour,
            fontweight="bold",
            annotation_clip=False,
        )


def pixels(axes: Axes, value: float) -> float:
    """Return the height of a value above the bottom of the axes, CSS pixels."""
    low, high = axes.get_ylim()
    height = axes.get_position().height * axes.figure.bbox.height
    return float((value - low) / (high - low) * height)
