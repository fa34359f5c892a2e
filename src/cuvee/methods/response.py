"""How a fitted predictor answers to the mixture: slices, a ternary, effects and correlations.

A mixture is moved by giving one column another share and scaling the others of its phase in
proportion, so that each phase keeps its tokens:

    r(i, x)_j = r_j (1 - x) / (1 - r_i)   for j other than i, and x for i     (one phase)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cuvee.arrays import FloatArray, IntArray
from cuvee.fit.crossval import rank_correlation
from cuvee.fit.predictor_files import NamedPredictor
from cuvee.report.pictures import Matrix, ResponseSection, Slice, Ternary
from cuvee.tables.predictor import objective_sd

STEP = 0.02
"""Rise of a share, of the run's tokens, whose effect is shown."""
_NORMAL_90 = 1.6448536269514722
_NORMAL_95 = 1.959963984540054
_MOST_SLICES = 6
_MOST_ROWS = 24
_SLICE_POINTS = 41
_TERNARY_SIDE = 28
_BEYOND = 1.15
"""A slice goes this much beyond the largest measured share, where there is room."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What the answers are about."""

    predictor: NamedPredictor
    objective: FloatArray
    """(n_targets,) weights; sum to 1."""
    chosen: FloatArray
    """(n_columns,) the chosen mixture, one phase after the other; sums to 1."""
    natural: FloatArray
    """(n_columns,) the natural mixture in every phase; sums to 1."""
    phases: IntArray
    """(n_columns,) phase of each column."""
    measured: FloatArray
    """(n_runs, n_columns) mixtures of the runs that did not diverge."""


def section(
    asked: Asked, *, targets: tuple[str, ...], share_ranks: Matrix, loss_ranks: Matrix | None
) -> ResponseSection:
    """Gather all pictures of one predictor.

    Args:
        asked: The predictor and the mixtures.
        targets: (n_targets,) names to show.
        share_ranks: From `rank_matrix`, of shares.
        loss_ranks: The same of the domains' own losses; None where they were not measured.
    """
    return ResponseSection(
        slices=slices(asked),
        ternary=ternary(asked),
        effects=effects(asked, targets=targets),
        step=STEP,
        share_ranks=share_ranks,
        loss_ranks=loss_ranks,
        n_runs=len(asked.measured),
        n_phases=int(asked.phases.max()) + 1,
    )


def move(asked: Asked, column: int, shares: FloatArray) -> FloatArray:
    """Give one column other shares, the others of its phase in proportion.

    Args:
        asked: Holds the chosen mixture.
        column: The column moved.
        shares: (n_rows,) its new shares, at most its phase's.

    Returns:
        (n_rows, n_columns) mixtures; where nothing else of the phase is chosen, the others take
        the natural mixture's proportions.
    """
    same = asked.phases == asked.phases[column]
    others = same & (np.arange(len(same)) != column)
    total = float(asked.chosen[same].sum())
    rest = np.where(others, asked.chosen, 0.0)
    if not rest.sum() > 0.0:
        rest = np.where(others, np.maximum(asked.natural, 1e-12), 0.0)
    moved: FloatArray = np.where(same, 0.0, asked.chosen) + np.outer(
        (total - shares) / rest.sum(), rest
    )
    moved[:, column] = shares
    return moved


def slices(asked: Asked) -> tuple[Slice, ...]:
    """Predict the objective along the share of each domain that would be missed most."""
    with_none = np.vstack(
        [move(asked, column, np.zeros(1)) for column in range(len(asked.chosen))] + [asked.chosen]
    )
    losses = _objective(asked, with_none)[0]
    costs = losses[:-1] - losses[-1]
    held = np.flatnonzero((asked.chosen > 0.0) & (_others(asked) > 0.0))
    order = held[np.argsort(-costs[held], kind="stable")][:_MOST_SLICES]
    return tuple(_slice(asked, int(column), cost=float(costs[column])) for column in order)


def ternary(asked: Asked) -> Ternary | None:
    """Predict the objective over the three largest shares of the longest phase."""
    totals = np.bincount(asked.phases, weights=asked.chosen)
    inside = np.flatnonzero((asked.phases == int(np.argmax(totals))) & (asked.chosen > 0.0))
    if len(inside) < 3:
        return None
    three = inside[np.argsort(-asked.chosen[inside], kind="stable")][:3]
    total = float(asked.chosen[three].sum())
    grid = simplex_grid(_TERNARY_SIDE)
    rows = np.tile(asked.chosen, (len(grid), 1))
    rows[:, three] = total * grid
    mean, sd = _objective(asked, rows)
    shares = asked.measured[:, three]
    known = shares.sum(axis=1) > 0.0
    names = asked.predictor.domains
    return Ternary(
        corners=(names[three[0]], names[three[1]], names[three[2]]),
        total=total,
        grid=grid,
        mean=mean,
        sd=sd,
        measured=shares[known] / shares[known].sum(axis=1, keepdims=True),
        chosen=asked.chosen[three] / total,
        natural=_divided(asked.natural[three]),
    )


def effects(asked: Asked, *, targets: tuple[str, ...]) -> Matrix:
    """Predict how each target's loss changes when a domain's share rises by `STEP`.

    A finite difference of the predictor's mean. Where a share has no room to rise, its fall is
    taken with the other sign. A change beyond 1.96 standard deviations is sure.

    Args:
        asked: The predictor and the mixtures.
        targets: (n_targets,) names to show.
    """
    total = np.bincount(asked.phases, weights=asked.chosen)[asked.phases]
    sign = np.where(asked.chosen + STEP <= total, 1.0, -1.0)
    rows = np.vstack(
        [
            move(asked, column, np.maximum(asked.chosen[column : column + 1] + STEP * way, 0.0))
            for column, way in enumerate(sign)
        ]
    )
    mean, sd = asked.predictor.change(rows, asked.chosen)
    # All targets' errors in common: the objective's is at most that large.
    values = sign[:, None] * np.column_stack([mean @ asked.objective, mean])
    doubt = (
        None
        if sd is None
        else np.column_stack([objective_sd(asked.predictor, sd, asked.objective), sd])
    )
    order = np.argsort(-asked.chosen, kind="stable")
    if len(order) > _MOST_ROWS:
        strength = np.abs(values).max(axis=1)
        strongest = np.argsort(-strength, kind="stable")[:_MOST_ROWS]
        order = np.array([row for row in order if row in strongest])
    return Matrix(
        rows=tuple(asked.predictor.domains[row] for row in order),
        columns=("objective", *targets),
        values=values[order],
        sd=None if doubt is None else doubt[order],
        sure=None if doubt is None else np.abs(values[order]) > _NORMAL_95 * doubt[order],
        n_left_out=len(asked.chosen) - len(order),
    )


def rank_matrix(
    domains: Sequence[str], values: FloatArray, targets: Sequence[str], losses: FloatArray
) -> Matrix:
    """Correlate each domain's share, or loss, with each target's loss over the runs.

    Spearman's rank correlation; beyond ``1.96 / sqrt(n_runs - 1)`` it is sure, one by one.

    Args:
        domains: (n_domains,) names.
        values: (n_runs, n_domains) shares or losses.
        targets: (n_targets,) names.
        losses: (n_runs, n_targets) losses.

    Returns:
        The domains with the strongest correlations, at most 24, strongest first.

    Source: RegMix (arXiv:2407.01492), the correlations of domains' validation losses with the
    target's.
    """
    found = np.array(
        [
            [_known(rank_correlation(one, other)) for other in losses.T]
            for one in np.asarray(values).T
        ]
    ).reshape(len(domains), len(targets))
    limit = _NORMAL_95 / np.sqrt(max(len(losses) - 1, 1))
    order = np.argsort(-np.abs(np.nan_to_num(found[:, 0])), kind="stable")[:_MOST_ROWS]
    return Matrix(
        rows=tuple(domains[row] for row in order),
        columns=tuple(targets),
        values=found[order],
        sure=np.abs(np.nan_to_num(found[order])) > limit,
        n_left_out=len(domains) - len(order),
    )


def simplex_grid(side: int) -> FloatArray:
    """Lay a regular grid over the divisions among three.

    Args:
        side: Steps along an edge.

    Returns:
        ((side + 1) (side + 2) / 2, 3) rows that sum to 1.

    Example:
        >>> simplex_grid(1).tolist()
        [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    """
    rows = [
        (one, other, side - one - other)
        for one in range(side + 1)
        for other in range(side + 1 - one)
    ]
    return np.asarray(rows, dtype=np.float64) / side


def _slice(asked: Asked, column: int, *, cost: float) -> Slice:
    chosen, natural = float(asked.chosen[column]), float(asked.natural[column])
    total = float(asked.chosen[asked.phases == asked.phases[column]].sum())
    furthest = max(_BEYOND * float(asked.measured[:, column].max(initial=0.0)), chosen, natural)
    shares = np.linspace(0.0, min(furthest, total), _SLICE_POINTS)
    shares = np.unique(np.append(shares, chosen))
    rows = move(asked, column, shares)
    mean, sd = _objective(asked, rows)
    _, change_sd = asked.predictor.change(rows, asked.chosen)
    half = (
        None
        if change_sd is None
        else _NORMAL_90 * objective_sd(asked.predictor, change_sd, asked.objective)
    )
    return Slice(
        domain=asked.predictor.domains[column],
        shares=shares,
        mean=mean,
        low=mean - _NORMAL_90 * sd,
        high=mean + _NORMAL_90 * sd,
        chosen=chosen,
        natural=natural,
        cost=cost,
        change_low=None if half is None else mean - half,
        change_high=None if half is None else mean + half,
    )


def _others(asked: Asked) -> FloatArray:
    """Return, for each column, the chosen share of the other columns of its phase."""
    total = np.bincount(asked.phases, weights=asked.chosen)[asked.phases]
    others: FloatArray = total - asked.chosen
    return others


def _objective(asked: Asked, rows: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the (n_rows,) objective and its sd."""
    mean, sd = asked.predictor.predict(rows)
    return mean @ asked.objective, objective_sd(asked.predictor, sd, asked.objective)


def _divided(shares: FloatArray) -> FloatArray:
    total = float(shares.sum())
    divided: FloatArray = shares / total if total > 0.0 else np.full(3, 1.0 / 3.0)
    return divided


def _known(rank: float | None) -> float:
    return float("nan") if rank is None else rank
