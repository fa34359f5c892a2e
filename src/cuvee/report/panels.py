"""The report's pictures with their titles and tables, arranged for the page."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from cuvee.arrays import FloatArray
from cuvee.report import charts, law_charts, run_charts, surfaces
from cuvee.report.cluster_charts import arms_chart, cluster_map_chart, rewards_chart
from cuvee.report.cluster_sections import ClustersSection
from cuvee.report.content import HeldOutSection, RunsSection
from cuvee.report.curve_charts import copies_chart
from cuvee.report.matrices import Row, matrix_rows
from cuvee.report.numbers import clean, difference, quantity
from cuvee.report.pictures import (
    CurvesSection,
    Matrix,
    ResponseSection,
    ScalingSection,
    SharesSection,
)
from cuvee.report.sensitivity_charts import (
    path_objective_chart,
    path_shares_chart,
    range_chart,
)
from cuvee.tables.sensitivity import PathPoint, Sensitivity


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart with its title; where both are there ``narrow`` replaces ``wide`` on telephones."""

    title: str
    wide: Markup
    narrow: Markup | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A matrix arranged for the page."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    n_left_out: int


@dataclass(frozen=True, slots=True)
class SliceRow:
    """One slice in numbers."""

    domain: str
    chosen: float
    natural: float
    without: float
    at_chosen: float
    cost: float


@dataclass(frozen=True, slots=True)
class ResponseView:
    """How the losses answer to the mixture."""

    has_phases: bool
    has_changes: bool
    slices: tuple[Panel, ...]
    slice_rows: tuple[SliceRow, ...]
    ternary: tuple[Panel, ...]
    effects: Table
    effects_caption: str
    share_ranks: Table
    share_caption: str
    loss_ranks: Table | None
    loss_caption: str


@dataclass(frozen=True, slots=True)
class ScalingView:
    """Size laws and step laws."""

    sizes: Panel
    size_names: tuple[str, ...]
    has_checks: bool
    steps: tuple[Panel, ...]


def residual_panel(held_out: HeldOutSection) -> Panel:
    """Draw the residuals of the held-out predictions."""
    wide, narrow = (
        run_charts.residual_chart(held_out, width=width, name=name)
        for width, name in _widths("residuals")
    )
    return Panel("What each run was missed by", wide, narrow)


def outlying_words(held_out: HeldOutSection) -> str:
    """Name the runs whose residuals stand out, in a sentence."""
    found = run_charts.outlying_runs(held_out)
    if not len(found):
        return "No run lies beyond three robust standard deviations."
    residuals = held_out.predicted[:, 0] - held_out.measured[:, 0]
    names = ", ".join(
        f"{clean(held_out.run_ids[run])} ({difference(float(residuals[run]))})" for run in found
    )
    return f"Beyond three robust standard deviations: {names}."


def best_so_far_panel(runs: RunsSection) -> Panel:
    """Draw the best objective after each run."""
    wide, narrow = (
        run_charts.best_so_far_chart(runs, width=width, name=name)
        for width, name in _widths("best-so-far")
    )
    return Panel("Best so far, run by run", wide, narrow)


def response_view(section: ResponseSection) -> ResponseView:
    """Arrange slices, maps and matrices."""
    ternary: tuple[Panel, ...] = ()
    if section.ternary is not None:
        mean, sd = surfaces.ternary_charts(section.ternary, unit=section.unit, name="ternary")
        ternary = (Panel("Predicted objective", mean), Panel("Its standard deviation", sd))
    range_ = surfaces.slice_limits(section.slices) if section.slices else (0.0, 1.0)
    singly = "bold where it can be told apart from 0, each taken singly (95%)"
    sd_words = (
        f" With its standard deviation; {singly}."
        if section.effects.sd is not None
        else " This model claims no standard deviation of a change."
    )
    ranks = (
        f"Spearman's rank correlation with each target's loss over {section.n_runs} runs; {singly}."
    )
    return ResponseView(
        has_phases=section.n_phases > 1,
        has_changes=any(one.change_low is not None for one in section.slices),
        slices=tuple(
            Panel(
                one.domain,
                surfaces.slice_chart(one, limits=range_, unit=section.unit, name=f"slice-{place}"),
            )
            for place, one in enumerate(section.slices)
        ),
        slice_rows=tuple(
            SliceRow(
                domain=one.domain,
                chosen=one.chosen,
                natural=one.natural,
                without=float(one.mean[0]),
                at_chosen=float(np.interp(one.chosen, one.shares, one.mean)),
                cost=one.cost,
            )
            for one in section.slices
        ),
        ternary=ternary,
        effects=_table(section.effects, places=1, factor=1e3),
        effects_caption=(
            f"Change of the predicted loss, thousandths of {section.unit}, when a share rises by "
            f"{100 * section.step:g} points from the chosen one. Blue: the loss falls.{sd_words}"
        ),
        share_ranks=_table(section.share_ranks, places=2, full=1.0),
        share_caption=f"{ranks} Blue: more of the domain goes with less loss.",
        loss_ranks=(
            None if section.loss_ranks is None else _table(section.loss_ranks, places=2, full=1.0)
        ),
        loss_caption=f"{ranks} Orange: what is good for the one is good for the other.",
    )


def scaling_view(section: ScalingSection) -> ScalingView:
    """Arrange size laws and step laws."""
    wide, narrow = (
        law_charts.size_law_chart(section.size_laws, unit=section.unit, width=width, name=name)
        for width, name in _widths("size-laws")
    )
    parameters = section.size_laws[0].parameters
    return ScalingView(
        sizes=Panel("Loss at the horizon over sizes", wide, narrow),
        size_names=tuple(quantity(float(one)) for one in parameters),
        has_checks=any(one.measured is not None for one in section.size_laws),
        steps=tuple(
            Panel(
                one.mixture, law_charts.step_law_chart(one, unit=section.unit, name=f"step-{place}")
            )
            for place, one in enumerate(section.step_laws)
        ),
    )


def share_panels(section: SharesSection) -> tuple[Panel, ...]:
    """Draw the losses over the new domains' share; the first is drawn large."""
    panels = []
    for place, curve in enumerate(section.curves):
        narrow = law_charts.share_chart(
            curve, unit=section.unit, width=charts.PANEL_WIDTH, name=f"share-{place}"
        )
        if place:
            panels.append(Panel(curve.title, narrow))
            continue
        wide = law_charts.share_chart(
            curve, unit=section.unit, width=charts.DOUBLE_WIDTH, name="share-wide"
        )
        panels.append(Panel(curve.title, wide, narrow))
    return tuple(panels)


def share_rows(section: SharesSection) -> tuple[tuple[tuple[float, float], ...], ...]:
    """Return the runs of each curve as share and loss, by share."""
    return tuple(
        tuple(
            (float(curve.shares[run]), float(curve.losses[run]))
            for run in np.argsort(curve.shares, kind="stable")
        )
        for curve in section.curves
    )


@dataclass(frozen=True, slots=True)
class SensitivityRow:
    """One domain's range in numbers."""

    domain: str
    chosen: float
    natural: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class SensitivityView:
    """How far the answer may move."""

    ranges: Panel
    path: tuple[Panel, ...]
    rows: tuple[SensitivityRow, ...]
    path_rows: tuple[PathPoint, ...]


def sensitivity_view(
    found: Sensitivity, *, chosen: FloatArray, natural: FloatArray
) -> SensitivityView:
    """Arrange what surrounds the answer.

    Args:
        found: Ranges and the path of the pull.
        chosen: (n_columns,) the chosen mixture.
        natural: (n_columns,) the natural one.
    """
    wide, narrow = (
        range_chart(found, chosen=chosen, natural=natural, width=width, name=name)
        for width, name in _widths("ranges")
    )
    path: tuple[Panel, ...] = ()
    if len(found.path) > 1:
        width = charts.PANEL_WIDTH
        path = (
            Panel(
                "Predicted objective",
                path_objective_chart(found, unit="bits per byte", width=width, name="path-loss"),
            ),
            Panel("Shares", path_shares_chart(found, width=width, name="path-shares")),
        )
    order = np.argsort(-chosen, kind="stable")
    return SensitivityView(
        ranges=Panel("Shares that cannot be told apart from the chosen ones", wide, narrow),
        path=path,
        rows=tuple(
            SensitivityRow(
                found.domains[column],
                float(chosen[column]),
                float(natural[column]),
                *found.ranges[column],
            )
            for column in order
        ),
        path_rows=found.path,
    )


@dataclass(frozen=True, slots=True)
class CurveRow:
    """One domain's curve in numbers."""

    domain: str
    merge: tuple[float, ...]
    threshold: float
    taken: float
    share: float


@dataclass(frozen=True, slots=True)
class CurvesView:
    """The chosen quality curves."""

    chart: Panel
    rows: tuple[CurveRow, ...]


def curves_view(section: CurvesSection) -> CurvesView:
    """Arrange the curves, the largest shares first."""
    wide, narrow = (
        copies_chart(section, width=width, name=name) for width, name in _widths("curves")
    )
    order = np.argsort(-section.shares, kind="stable")
    return CurvesView(
        chart=Panel("Expected copies by quality", wide, narrow),
        rows=tuple(
            CurveRow(
                section.domains[column],
                tuple(section.merge[column].tolist()),
                float(section.threshold[column]),
                float(section.taken[column]),
                float(section.shares[column]),
            )
            for column in order
        ),
    )


@dataclass(frozen=True, slots=True)
class ClustersView:
    """A bandit's clusters."""

    map: Panel
    arms: Panel
    rewards: Panel


def clusters_view(section: ClustersSection) -> ClustersView:
    """Draw the clusters, the arms that gave most, and the scores of what was probed."""

    def both(title: str, draw: Callable[..., Markup], part: object, key: str) -> Panel:
        wide, narrow = (draw(part, width=width, name=name) for width, name in _widths(key))
        return Panel(title, wide, narrow)

    return ClustersView(
        map=both("Clusters by likeness", cluster_map_chart, section.map, "clusters"),
        arms=both("Arms over the rounds", arms_chart, section.arms, "arms"),
        rewards=both("Influence of probed documents", rewards_chart, section.rewards, "rewards"),
    )


def _widths(name: str) -> tuple[tuple[float, str], ...]:
    return (charts.RUNS_WIDTH, f"{name}-wide"), (charts.PANEL_WIDTH, f"{name}-narrow")


def _table(matrix: Matrix, *, places: int, full: float | None = None, factor: float = 1.0) -> Table:
    rows = matrix_rows(matrix, places=places, full=full, factor=factor)
    return Table(matrix.columns, rows, matrix.n_left_out)
