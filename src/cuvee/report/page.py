"""The report as one HTML page: no script, nothing loaded from elsewhere, the same bytes every time.

All text that comes from the pool or the config is escaped by the template engine; a content
security policy inside the page forbids scripts and requests should anything ever slip through.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from cuvee.arrays import FloatArray, IntArray
from cuvee.report import charts, numbers
from cuvee.report.content import (
    FIXED_KINDS,
    Comparison,
    LossSection,
    MixtureLoss,
    MixtureSection,
    PoolSection,
    ReportContent,
    Role,
    RunsSection,
    SelectionSection,
    VerdictSection,
)
from cuvee.report.downloads import downloads
from cuvee.report.headline import findings, headline, scope
from cuvee.report.panels import (
    Panel,
    SensitivityView,
    best_so_far_panel,
    clusters_view,
    curves_view,
    outlying_words,
    residual_panel,
    response_view,
    scaling_view,
    sensitivity_view,
    share_panels,
    share_rows,
)

_N_BEST_RUNS = 8
_JOINT = re.compile(r"(?<=\w)_(?=\w)")


@dataclass(frozen=True, slots=True)
class _VerdictGroup:
    """All that is said about one baseline."""

    baseline: str
    total: Comparison | None
    rows: tuple[Comparison, ...]
    chart: Markup


@dataclass(frozen=True, slots=True)
class _MixtureRow:
    domain: str
    natural: float
    chosen: float
    best_sampled: float | None
    ratio: float
    cap: float | None
    epochs: float | None
    at_cap: bool
    natural_bar: str
    chosen_bar: str


@dataclass(frozen=True, slots=True)
class _LossRow:
    """Means over seeds; ``spread`` is the standard deviation of the objective over seeds."""

    loss: MixtureLoss
    targets: tuple[float, ...]
    total: float | None
    spread: float | None
    lowest: tuple[bool, ...]
    """Which of the total and the targets are the lowest of their column."""


def build_page(content: ReportContent) -> str:
    """Write the report as one self-contained HTML page.

    Args:
        content: What to show; sections that are None are left out.

    Returns:
        The page; equal content gives equal text, in any process.
    """
    # Lone surrogates cannot be written as UTF-8; names are cleaned, a config might still hold one.
    page = environment().get_template("report.html.j2").render(_view(content))
    return page.encode("utf-8", errors="replace").decode("utf-8")


def environment() -> Environment:
    """Make the template engine of the pages: everything escaped, nothing undefined."""
    made = Environment(
        loader=PackageLoader("cuvee.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {
        "share": numbers.share,
        "count": numbers.count,
        "quantity": numbers.quantity,
        "megabytes": numbers.megabytes,
        "decimals": numbers.decimals,
        "difference": numbers.difference,
        "duration": numbers.duration,
        "ratio": numbers.ratio,
        "clean": numbers.clean,
        "clean_lines": numbers.clean_lines,
        "breakable": _breakable,
    }
    made.globals["interval"] = numbers.interval
    return made


def _breakable(text: str) -> Markup:
    """Make a name harmless and let long ones break after their underscores."""
    return Markup(_JOINT.sub("_<wbr>", str(escape(numbers.clean(text)))))


def _view(content: ReportContent) -> dict[str, object]:
    return {
        "content": content,
        "headline": headline(content),
        "findings": findings(content),
        "scope": scope(content.verdict) if content.verdict else "",
        "verdict_groups": _verdict_groups(content.verdict) if content.verdict else (),
        "mixture_rows": _mixture_rows(content.mixture),
        "loss_rows": _loss_rows(content.losses) if content.losses else (),
        "has_proxy": content.losses is not None and _has_proxy(content.losses),
        "files": downloads(content),
        "scatters": _scatters(content),
        "residuals": residual_panel(content.held_out) if content.held_out else None,
        "outlying": outlying_words(content.held_out) if content.held_out else "",
        "best_panel": best_so_far_panel(content.runs) if content.runs else None,
        "response": response_view(content.response) if content.response else None,
        "sensitivity": _sensitivity(content),
        "clusters": clusters_view(content.clusters) if content.clusters else None,
        "curves": curves_view(content.curves) if content.curves else None,
        "scaling": scaling_view(content.scaling) if content.scaling else None,
        "share_panels": share_panels(content.shares) if content.shares else (),
        "share_rows": share_rows(content.shares) if content.shares else (),
        "run_panel": _run_panel(content.runs) if content.runs else None,
        "run_rows": _run_rows(content.runs) if content.runs else (),
        "n_diverged": int(content.runs.diverged.sum()) if content.runs else 0,
        "trajectories": _trajectories(content),
        "legend": _legend(content),
        "pool_rows": _pool_rows(content.pool) if content.pool else (),
        "pool_totals": _pool_totals(content.pool) if content.pool else (),
        "n_rejects": sum(n for _, n in content.pool.rejects) if content.pool else 0,
        "selection_rows": _selection_rows(content.selection) if content.selection else (),
    }


def _verdict_groups(verdict: VerdictSection) -> tuple[_VerdictGroup, ...]:
    limit = _forest_limit(verdict.comparisons)
    groups = []
    for position, baseline in enumerate(dict.fromkeys(row.baseline for row in verdict.comparisons)):
        rows = tuple(row for row in verdict.comparisons if row.baseline == baseline)
        chart = charts.forest_plot(rows, limit=limit, name=f"verdict-{position}")
        total = next((row for row in rows if row.target is None), None)
        groups.append(_VerdictGroup(baseline, total, rows, chart))
    return tuple(groups)


def _forest_limit(rows: Sequence[Comparison]) -> float:
    ends = [
        abs(end)
        for row in rows
        for end in (row.difference, row.low, row.high)
        if end is not None and np.isfinite(end)
    ]
    return 1.08 * max(ends, default=0.0) or 1.0


def _mixture_rows(mixture: MixtureSection) -> tuple[_MixtureRow, ...]:
    """Sort domains by the chosen share; bars are percentages of the longest one."""
    longest = float(max(mixture.natural.max(), mixture.chosen.max()))
    order = np.lexsort((-mixture.natural, -mixture.chosen))

    def at(values: FloatArray | None, index: int) -> float | None:
        return None if values is None else float(values[index])

    rows = []
    for index in order:
        natural, chosen = float(mixture.natural[index]), float(mixture.chosen[index])
        cap = at(mixture.caps, index)
        rows.append(
            _MixtureRow(
                domain=mixture.domains[index],
                natural=natural,
                chosen=chosen,
                best_sampled=at(mixture.best_sampled, index),
                ratio=chosen / natural if natural > 0 else float("inf"),
                cap=cap,
                epochs=at(mixture.epochs, index),
                at_cap=cap is not None and cap < 1 and chosen >= 0.99 * cap,
                natural_bar=f"{100 * natural / longest:.2f}",
                chosen_bar=f"{100 * chosen / longest:.2f}",
            )
        )
    return tuple(rows)


def _loss_rows(losses: LossSection) -> tuple[_LossRow, ...]:
    by_seed = [losses.by_seed(row) for row in losses.rows]
    lowest = np.min([table.mean(axis=0) for table in by_seed if len(table)] or [[0.0]], axis=0)
    rows = []
    for row, table in zip(losses.rows, by_seed, strict=True):
        if not len(table):
            rows.append(_LossRow(row, (), None, None, ()))
            continue
        mean = table.mean(axis=0)
        spread = float(table[:, 0].std(ddof=1)) if len(table) > 1 else None
        best = tuple(bool(one) for one in mean <= lowest)
        rows.append(_LossRow(row, tuple(mean[1:].tolist()), float(mean[0]), spread, best))
    return tuple(rows)


def _has_proxy(losses: LossSection) -> bool:
    return any(row.predicted is not None or row.proxy is not None for row in losses.rows)


def _sensitivity(content: ReportContent) -> SensitivityView | None:
    """Arrange what surrounds the answer, where it is a mixture of the same columns."""
    found, mixture = content.sensitivity, content.mixture
    if found is None or found.domains != mixture.domains:
        return None
    return sensitivity_view(found, chosen=mixture.chosen, natural=mixture.natural)


def _scatters(content: ReportContent) -> tuple[Panel, ...]:
    held_out = content.held_out
    if held_out is None:
        return ()
    return tuple(
        Panel(name, charts.held_out_scatter(held_out, column, name=f"held-out-{column}"))
        for column, name in enumerate(held_out.columns)
    )


def _run_panel(runs: RunsSection) -> Panel:
    return Panel(
        "Every run, sorted",
        charts.loss_by_run(runs, width=charts.RUNS_WIDTH, name="runs-wide"),
        charts.loss_by_run(runs, width=charts.PANEL_WIDTH, name="runs-narrow"),
    )


def _run_rows(runs: RunsSection) -> tuple[tuple[int, str, float, float], ...]:
    """List the best runs and every fixed point: rank, name, loss, distance from the best."""
    known = np.flatnonzero(np.isfinite(runs.losses) & ~runs.diverged)
    order = known[np.argsort(runs.losses[known], kind="stable")]
    return tuple(
        (place + 1, runs.run_ids[run], float(runs.losses[run]), float(runs.losses[run] - best))
        for best in runs.losses[order[:1]]
        for place, run in enumerate(order)
        if place < _N_BEST_RUNS or runs.kinds[run] in FIXED_KINDS
    )


def _trajectories(content: ReportContent) -> tuple[Panel, ...]:
    section = content.trajectories
    if section is None or not section.series:
        return ()
    panels = [
        Panel(
            title,
            charts.trajectory_chart(
                section, column, width=charts.PANEL_WIDTH, name=f"trajectory-{column}"
            ),
        )
        for column, title in enumerate(section.columns)
    ]
    wide = charts.trajectory_chart(section, 0, width=charts.DOUBLE_WIDTH, name="trajectory-wide")
    return (Panel(panels[0].title, wide, panels[0].wide), *panels[1:])


def _legend(content: ReportContent) -> tuple[tuple[str, Role], ...]:
    series = content.trajectories.series if content.trajectories else ()
    return tuple(dict.fromkeys((one.mixture, one.role) for one in series))


def _pool_rows(pool: PoolSection) -> tuple[dict[str, object], ...]:
    order = np.argsort(-pool.available_tokens, kind="stable")
    return tuple(
        {
            "domain": pool.domains[index],
            "documents": int(pool.n_documents[index]),
            "bytes": int(pool.n_bytes[index]),
            "tokens": int(pool.n_tokens[index]),
            "unique": int(pool.unique_tokens[index]),
            "available": int(pool.available_tokens[index]),
            "validation": int(pool.validation_documents[index]),
        }
        for index in order
    )


def _pool_totals(pool: PoolSection) -> dict[str, int]:
    return {
        "documents": int(pool.n_documents.sum()),
        "bytes": int(pool.n_bytes.sum()),
        "tokens": int(pool.n_tokens.sum()),
        "unique": int(pool.unique_tokens.sum()),
        "available": int(pool.available_tokens.sum()),
        "validation": int(pool.validation_documents.sum()),
    }


def _selection_rows(selection: SelectionSection) -> tuple[dict[str, object], ...]:
    planned, realised = _shares(selection.planned_tokens), _shares(selection.realised_tokens)
    order = np.argsort(-planned, kind="stable")
    return tuple(
        {
            "domain": selection.domains[index],
            "planned_tokens": int(selection.planned_tokens[index]),
            "realised_tokens": int(selection.realised_tokens[index]),
            "planned": float(planned[index]),
            "realised": float(realised[index]),
            "points": 100 * float(realised[index] - planned[index]),
            "epochs": float(selection.epochs[index]),
        }
        for index in order
    )


def _shares(tokens: IntArray) -> FloatArray:
    shares: FloatArray = tokens / max(int(tokens.sum()), 1)
    return shares
