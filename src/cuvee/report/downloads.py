"""The report's numbers as CSV files that the page carries in itself.

Each file is a ``data:`` link: the page needs no script and asks nobody for it. Numbers stand in
full precision, empty where there is none. Names are the pool's own and so untrusted: a cell of
text that a spreadsheet would take for a formula begins with an apostrophe.
"""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import quote

import numpy as np

from cuvee.report.cluster_sections import ClustersSection
from cuvee.report.content import (
    HeldOutSection,
    LossSection,
    MixtureSection,
    PoolSection,
    ReportContent,
    RunsSection,
    SelectionSection,
    TrajectorySection,
    VerdictSection,
)
from cuvee.report.numbers import clean
from cuvee.report.pictures import CurvesSection, ResponseSection, ScalingSection, SharesSection
from cuvee.tables.sensitivity import Sensitivity

Cell: TypeAlias = str | int | float | None
Table: TypeAlias = tuple[Sequence[str], Iterable[Sequence[Cell]]]
"""Names of the columns, and the rows."""

_FORMULA = ("=", "+", "-", "@", "\t")


@dataclass(frozen=True, slots=True)
class Download:
    """One file of numbers."""

    file: str
    """Its name, such as ``mixture.csv``."""
    href: str
    """``data:text/csv`` link that holds all of it."""
    n_rows: int
    """Without the names of the columns."""


def downloads(content: ReportContent) -> dict[str, Download]:
    """Write the numbers of every section that is there as CSV.

    Args:
        content: What the report shows.

    Returns:
        Section's name, as in `ReportContent`, to its file; sections that are None are absent.
    """
    found = {}
    for section, table in _TABLES.items():
        part = getattr(content, section)
        if part is not None:
            found[section] = csv_download(f"{section.replace('_', '-')}.csv", table(part))
    return found


def csv_download(file: str, table: Table) -> Download:
    """Write one table as a CSV file within a link.

    Args:
        file: The file's name.
        table: Names of the columns and the rows.
    """
    names, rows = table
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([_cell(name) for name in names])
    n_rows = 0
    for row in rows:
        writer.writerow([_cell(value) for value in row])
        n_rows += 1
    encoded = quote(text.getvalue().encode("utf-8", errors="replace"), safe="/:,;()")
    return Download(file, f"data:text/csv;charset=utf-8,{encoded}", n_rows)


def _cell(value: Cell) -> str:
    """Write one value; text is made harmless, numbers are whole.

    Example:
        >>> _cell("=1+1"), _cell(-0.5), _cell(float("nan")), _cell(None)
        ("'=1+1", '-0.5', '', '')
    """
    if value is None:
        return ""
    if isinstance(value, str):
        text = clean(value)
        return f"'{text}" if text.lstrip().startswith(_FORMULA) else text
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    return repr(float(value)) if np.isfinite(value) else ""


def _mixture(section: MixtureSection) -> Table:
    extra = {
        name: getattr(section, name)
        for name in ("best_sampled", "caps", "epochs")
        if getattr(section, name) is not None
    }
    return ("domain", "chosen", "natural", *extra), zip(
        section.domains, section.chosen, section.natural, *extra.values(), strict=True
    )


def _verdict(section: VerdictSection) -> Table:
    return ("baseline", "target", "difference_bpb", "low_bpb", "high_bpb", "verdict", "reason"), (
        (
            row.baseline,
            "all targets" if row.target is None else row.target,
            row.difference,
            row.low,
            row.high,
            row.word,
            row.reason,
        )
        for row in section.comparisons
    )


def _losses(section: LossSection) -> Table:
    """Give each seed of each mixture a row; a mixture that was not validated has one without."""
    rows: list[Sequence[Cell]] = []
    for row in section.rows:
        known: tuple[Cell, ...] = (row.predicted, row.predicted_low, row.predicted_high, row.proxy)
        if row.seeds_bpb is None:
            rows.append((row.name, *known, None, *[None] * len(section.targets)))
            continue
        rows += [
            (row.name, *known, seed, *losses) for seed, losses in enumerate(row.seeds_bpb.tolist())
        ]
    names = ("predicted", "predicted_low", "predicted_high", "measured_by_proxy", "seed")
    return ("mixture", *names, *section.targets), rows


def _trajectories(section: TrajectorySection) -> Table:
    return ("mixture", "seed", "n_tokens", *section.columns), (
        (one.mixture, one.seed, n_tokens, *losses)
        for one in section.series
        for n_tokens, losses in zip(one.n_tokens.tolist(), one.losses_bpb.tolist(), strict=True)
    )


def _runs(section: RunsSection) -> Table:
    return ("run", "kind", "objective", "diverged"), zip(
        section.run_ids,
        section.kinds,
        section.losses.tolist(),
        section.diverged.astype(np.int64).tolist(),
        strict=True,
    )


def _held_out(section: HeldOutSection) -> Table:
    """Give each held-out loss a row."""
    spread = section.predicted_sd
    return ("run", "kind", "loss", "measured", "predicted", "predicted_sd"), (
        (
            run_id,
            section.kinds[run],
            name,
            section.measured[run, column],
            section.predicted[run, column],
            None if spread is None else spread[run, column],
        )
        for run, run_id in enumerate(section.run_ids)
        for column, name in enumerate(section.columns)
    )


def _pool(section: PoolSection) -> Table:
    names = (
        "n_documents",
        "n_bytes",
        "n_tokens",
        "unique_tokens",
        "available_tokens",
        "validation_documents",
    )
    return ("domain", *names), zip(
        section.domains, *(getattr(section, name).tolist() for name in names), strict=True
    )


def _selection(section: SelectionSection) -> Table:
    names = ("planned_tokens", "realised_tokens", "epochs")
    return ("domain", *names), zip(
        section.domains, *(getattr(section, name).tolist() for name in names), strict=True
    )


def _response(section: ResponseSection) -> Table:
    """Write which domain helps which target: the predicted change of each loss."""
    effects = section.effects
    return ("domain", *(f"change_of_{name}" for name in effects.columns)), (
        (domain, *values)
        for domain, values in zip(effects.rows, effects.values.tolist(), strict=True)
    )


def _scaling(section: ScalingSection) -> Table:
    """Give each point of the size laws a row; the last of each mixture is the prediction."""
    rows: list[Sequence[Cell]] = []
    for law in section.size_laws:
        for parameters, loss in zip(law.parameters.tolist(), law.losses.tolist(), strict=True):
            rows.append((law.mixture, parameters, loss, None, None, None))
        rows.append((law.mixture, section.size, law.measured, law.predicted, law.low, law.high))
    return ("mixture", "parameters", "loss", "predicted", "low", "high"), rows


def _shares(section: SharesSection) -> Table:
    return ("losses_of", "share_of_new_domains", "loss", "base"), (
        (curve.title, share, loss, curve.base)
        for curve in section.curves
        for share, loss in zip(curve.shares.tolist(), curve.losses.tolist(), strict=True)
    )


def _sensitivity(section: Sensitivity) -> Table:
    return ("domain", "least_share", "most_share"), (
        (domain, low, high)
        for domain, (low, high) in zip(section.domains, section.ranges, strict=True)
    )


def _curves(section: CurvesSection) -> Table:
    names = (*(f"weight_of_{name}" for name in section.criteria), "threshold", "taken", "share")
    return ("domain", *names), (
        (
            domain,
            *section.merge[column].tolist(),
            section.threshold[column],
            section.taken[column],
            section.shares[column],
        )
        for column, domain in enumerate(section.domains)
    )


def _clusters(section: ClustersSection) -> Table:
    picture = section.map
    return ("cluster", "n_tokens", "taken_tokens", "mean_influence"), zip(
        picture.names,
        picture.n_tokens.tolist(),
        picture.taken_tokens.tolist(),
        picture.mean_reward.tolist(),
        strict=True,
    )


_TABLES: Mapping[str, Callable[..., Table]] = {
    "verdict": _verdict,
    "mixture": _mixture,
    "losses": _losses,
    "trajectories": _trajectories,
    "runs": _runs,
    "held_out": _held_out,
    "curves": _curves,
    "clusters": _clusters,
    "sensitivity": _sensitivity,
    "response": _response,
    "scaling": _scaling,
    "shares": _shares,
    "pool": _pool,
    "selection": _selection,
}
"""Section of a report to its table, in the order of the page."""
