"""Methods side by side as one offline HTML page: no script, all names escaped."""

from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from cuvee.report import charts
from cuvee.report.comparison import ComparisonContent, flops, scope, sentence
from cuvee.report.content import Comparison, Word
from cuvee.report.page import environment
from cuvee.validate.compare import TOTAL
from cuvee.validate.ranking import Difference


@dataclass(frozen=True, slots=True)
class _Panel:
    """One contender beside the reference on every target."""

    name: str
    chart: Markup


def build_comparison_page(content: ComparisonContent) -> str:
    """Write the comparison as one self-contained HTML page; equal content gives equal text."""
    engine = environment()
    engine.filters["flops"] = flops
    page = engine.get_template("comparison.html.j2").render(
        content=content,
        sentence=sentence(content),
        scope=scope(content),
        panels=tuple(_panels(content)),
        total=TOTAL,
        domains=tuple(content.contenders[0].shares),
    )
    return page.encode("utf-8", errors="replace").decode("utf-8")


def _panels(content: ComparisonContent) -> Iterator[_Panel]:
    """Draw every contender's differences to the reference, the best in total first."""
    ranking, reference = content.ranking, content.ranking.reference
    if reference is None:
        return
    found: dict[str, list[Comparison]] = {}
    for table in ranking.tables:
        for row in table.rows:
            if row.beyond_reference is not None:
                target = None if table.target == TOTAL else table.target
                found.setdefault(row.name, []).append(
                    _comparison(reference, target, row.beyond_reference)
                )
    ends = [
        abs(end)
        for rows in found.values()
        for row in rows
        for end in (row.difference, row.low, row.high)
        if end is not None
    ]
    limit = 1.08 * max(ends, default=0.0) or 1.0
    for place, (name, rows) in enumerate(found.items()):
        yield _Panel(name, charts.forest_plot(rows, limit=limit, name=f"against-{place}"))


def _comparison(reference: str, target: str | None, found: Difference) -> Comparison:
    word: Word = "cannot be told apart"
    if found.low_bpb is not None and found.high_bpb is not None:
        if found.high_bpb < 0.0:
            word = "better"
        elif found.low_bpb > 0.0:
            word = "worse"
    return Comparison(
        baseline=reference,
        target=target,
        difference=found.mean_bpb,
        low=found.low_bpb,
        high=found.high_bpb,
        word=word,
    )
