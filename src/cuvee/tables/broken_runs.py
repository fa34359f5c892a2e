"""Runs of somebody else's swarm that diverged or broke: named, and left out where it is certain."""

from dataclasses import replace

import numpy as np

from cuvee.tables.swarm import Swarm

BROKEN = 10.0
"""Robust standard deviations from the median at which a loss is no measurement of a mixture.

In RegMix's published tables no run is as far as one of them from the median of every target.
"""
_BROKEN_ALONE = 30.0
"""The same where there is one target only: a single loss may well have a long tail."""
_LEAST_SHARE = 0.5
"""Nor is a loss broken that is nearer than this share of the median: most runs may be repeats."""
_MINIMUM_RUNS = 8
"""Among fewer runs nothing is called far from the others."""
_NORMAL_MAD = 1.4826


def leave_out_broken(swarm: Swarm) -> Swarm:
    """Leave out runs whose losses are no measurements of their mixtures, with a notice of each.

    A run counts as diverged or broken where its loss is `BROKEN` robust standard deviations (1.4826
    median absolute deviations), and half of the median, from the median of every target. Where that
    holds of some targets only it is kept, with a notice: an unusual mixture may have an unusual
    loss.

    Args:
        swarm: From `match_runs`.
    """
    if len(swarm.ids) < _MINIMUM_RUNS:
        return swarm
    median = np.median(swarm.losses, axis=0)
    off = np.abs(swarm.losses - median)
    spread = _NORMAL_MAD * np.median(off, axis=0)
    varied = spread > 0.0
    limit = BROKEN if np.count_nonzero(varied) > 1 else _BROKEN_ALONE
    far = (off > np.maximum(limit * spread, _LEAST_SHARE * np.abs(median))) & varied
    broken = np.all(far | ~varied, axis=1) & bool(varied.any())
    notices = []
    for row in np.flatnonzero(far.any(axis=1)):
        column = int(np.argmax(np.where(far[row], off[row] / np.where(varied, spread, 1.0), 0.0)))
        where = "every target" if broken[row] else f"{np.count_nonzero(far[row])} targets"
        fate = "is left out: it diverged or broke" if broken[row] else "is kept; look at it"
        notices.append(
            f"run {swarm.ids[row]} {fate} (far from all others on {where}, such as "
            f"{swarm.targets[column]}: {swarm.losses[row, column]:.4g}, median "
            f"{median[column]:.4g})"
        )
    kept = swarm.take(np.flatnonzero(~broken).astype(np.int64))
    return replace(kept, notices=(*swarm.notices, *notices))
