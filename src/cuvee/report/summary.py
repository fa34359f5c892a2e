"""The summary printed when a run ends: the report's main numbers as a table for a terminal."""

import io

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cuvee.report import numbers
from cuvee.report.content import Comparison, LossSection, MixtureLoss, ReportContent
from cuvee.report.headline import findings, headline
from cuvee.validate.accuracy import AccuracyRow

_BAR_WIDTH = 24


def summarise(content: ReportContent, *, report: str, selection: str | None) -> Group:
    """Arrange the outcome for a terminal.

    Args:
        content: The run's report.
        report: Path of report.html.
        selection: Path of the selected data; None where none was written.

    Returns:
        What rich prints, with ``crop=False`` so that long paths stay whole; text from the pool is
        never taken for markup.
    """
    parts: list[RenderableType] = [_mixture_table(content), Text()]
    if content.losses is not None:
        parts += [_loss_table(content, content.losses), _units(content.losses), Text()]
    if content.verdict is not None and content.verdict.accuracies:
        parts += [_accuracy_table(content.verdict.accuracies), Text()]
    parts.append(Text(headline(content), style="bold"))
    parts += [Padding(Text(_ascii(sentence)), (0, 0, 0, 2)) for sentence in findings(content)]
    parts += [Text(numbers.clean(note), style="italic") for note in content.notes]
    parts += [Text(), Text(f"report      {report}", no_wrap=True, overflow="ignore")]
    if selection is not None:
        parts.append(Text(f"selection   {selection}", no_wrap=True, overflow="ignore"))
    return Group(*parts)


def summary_text(
    content: ReportContent, *, report: str, selection: str | None, width: int = 100
) -> str:
    """Write the outcome as plain text without colours, the same for the same content."""
    buffer = io.StringIO()
    console = Console(
        file=buffer, width=width, color_system=None, force_terminal=False, legacy_windows=False
    )
    console.print(summarise(content, report=report, selection=selection), crop=False)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def _mixture_table(content: ReportContent) -> Table:
    mixture = content.mixture
    table = _new_table("mixture (shares of tokens)")
    _columns(table, "domain", ("chosen", "natural", "ratio"))
    if mixture.epochs is not None:
        table.add_column("epochs", justify="right")
    table.add_column("", width=_BAR_WIDTH, no_wrap=True)
    longest = float(mixture.chosen.max())
    for index in np.lexsort((-mixture.natural, -mixture.chosen)):
        chosen, natural = float(mixture.chosen[index]), float(mixture.natural[index])
        cells = [
            numbers.shorten(mixture.domains[index], 40),
            numbers.share(chosen),
            numbers.share(natural),
            numbers.ratio(chosen / natural if natural > 0 else float("inf")),
        ]
        if mixture.epochs is not None:
            cells.append(numbers.decimals(float(mixture.epochs[index]), 2))
        bar = "#" * round(_BAR_WIDTH * chosen / longest)
        table.add_row(*(Text(cell) for cell in (*cells, bar)))
    return table


def _loss_table(content: ReportContent, losses: LossSection) -> Table:
    table = _new_table("loss on the objective")
    _columns(
        table,
        "mixture",
        ("proxy, predicted", "proxy, measured", "validated", "chosen minus it"),
    )
    table.add_column("chosen is")
    totals = content.verdict.totals() if content.verdict else ()
    against = {row.baseline: row for row in totals}
    for row in losses.rows:
        cells = _loss_cells(losses, row, against.get(row.name))
        style = "bold" if row.role == "chosen" else ""
        table.add_row(*(Text(_ascii(cell)) for cell in cells), style=style)
    return table


def _loss_cells(losses: LossSection, row: MixtureLoss, against: Comparison | None) -> list[str]:
    totals = losses.by_seed(row)[:, 0]
    validated = numbers.decimals(float(totals.mean())) if len(totals) else ""
    if len(totals) > 1:
        validated += f" +- {numbers.decimals(float(totals.std(ddof=1)))}"
    predicted = _estimate(row.predicted, row.predicted_low, row.predicted_high)
    return [
        numbers.shorten(row.name, 24),
        predicted,
        "" if row.proxy is None else numbers.decimals(row.proxy),
        validated,
        "" if against is None else _estimate(against.difference, against.low, against.high),
        "" if against is None else against.word,
    ]


def _estimate(value: float | None, low: float | None, high: float | None) -> str:
    """Write an estimate with half the width of its interval."""
    if value is None:
        return ""
    if low is None or high is None:
        return numbers.decimals(value)
    return f"{numbers.decimals(value)} +- {numbers.decimals((high - low) / 2)}"


def _accuracy_table(rows: tuple[AccuracyRow, ...]) -> Table:
    table = _new_table("accuracy on tasks, verdict half (questions; guessing)")
    table.add_column("task", overflow="fold")
    _columns(table, "mixture", ("accuracy", "chosen minus it"))
    table.add_column("chosen is")
    for row in rows:
        guessing = "" if row.chance is None else f"; {numbers.decimals(row.chance, 2)}"
        by = " by bytes" if row.measure == "accuracy_norm" else ""
        cells = [
            f"{numbers.shorten(row.target, 24)}{by} ({row.n_examples}{guessing})",
            numbers.shorten(row.mixture, 24),
            _estimate(row.mean, row.low, row.high),
            _estimate(row.difference, row.difference_low, row.difference_high),
            row.word or "",
        ]
        table.add_row(*(Text(_ascii(cell)) for cell in cells))
    return table


def _units(losses: LossSection) -> Text:
    size = f" of {losses.proxy_size} parameters" if losses.proxy_size else ""
    return Text(
        f"proxy: {losses.proxy_unit}, proxies{size}, search half; validated: bits per byte, "
        "verdict half, mean and sd over seeds; other +-: half an interval",
        style="dim",
    )


def _new_table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 1),
    )


def _columns(table: Table, first: str, others: tuple[str, ...]) -> None:
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right")


def _ascii(text: str) -> str:
    return text.replace(numbers.MINUS, "-")
