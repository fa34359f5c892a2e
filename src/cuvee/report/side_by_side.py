"""Two finished runs side by side as one offline HTML page."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cuvee.report.downloads import csv_download
from cuvee.report.page import environment
from cuvee.validate.compare import TOTAL, Comparison


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What one part of a run took."""

    what: str
    n_runs: int | None = None
    n_tokens: int | None = None
    flops: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One finished run."""

    folder: str
    targets: tuple[str, ...]
    weights: tuple[float, ...]
    """(n_targets,) of the objective; they sum to 1."""
    text: str
    """Fingerprint of the targets' text."""
    pool: str
    """Fingerprint of the pool's text."""
    mixture: Mapping[str, float]
    """Planned token shares by domain."""
    predicted: float | None
    """Objective predicted for the answer, at its proxies' size."""
    predicted_low: float | None
    """Lower end of its 90% interval."""
    predicted_high: float | None
    losses: Mapping[str, float | None]
    """Measured bits per byte of the chosen mixture, all targets and each; None where every seed
    diverged."""
    verdict: tuple[Comparison, ...]
    judged: str
    """Size, tokens and seeds of the models judged, in words."""
    costs: tuple[Cost, ...]
    settings: tuple[tuple[str, str], ...]
    """Resolved config by dotted name."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """One line of a table: its name and a value of either run, None where it has none."""

    name: Any
    one: object
    other: object


def build_comparison(one: Side, other: Side) -> str:
    """Write two runs side by side as one self-contained HTML page.

    Args:
        one: The first run.
        other: The second, judged on the same targets.

    Returns:
        The page; equal runs give equal text.
    """
    mixtures = _pairs(one.mixture, other.mixture)
    mixtures.sort(key=lambda pair: -max(_number(pair.one), _number(pair.other)))
    verdicts = _pairs(
        {(row.baseline, row.target): row for row in one.verdict},
        {(row.baseline, row.target): row for row in other.verdict},
    )
    settings = [
        pair for pair in _pairs(dict(one.settings), dict(other.settings)) if pair.one != pair.other
    ]
    longest = max([_number(value) for pair in mixtures for value in (pair.one, pair.other)])
    view = {
        "sides": (one, other),
        "same_scale": one.judged == other.judged,
        "same_pool": one.pool == other.pool,
        "mixtures": mixtures,
        "longest": longest or 1.0,
        "losses": _pairs(one.losses, other.losses),
        "totals": [pair for pair in verdicts if pair.name[1] == TOTAL],
        "by_target": [pair for pair in verdicts if pair.name[1] != TOTAL],
        "costs": _pairs(
            {cost.what: cost for cost in one.costs}, {cost.what: cost for cost in other.costs}
        ),
        "settings": settings,
        "files": {
            "mixtures": csv_download(
                "mixtures.csv",
                (
                    ("domain", "a", "b"),
                    [(pair.name, _number(pair.one), _number(pair.other)) for pair in mixtures],
                ),
            ),
            "verdicts": csv_download(
                "verdicts.csv",
                (
                    ("run", "baseline", "target", "difference_bpb", "low_bpb", "high_bpb", "word"),
                    [
                        (
                            name,
                            row.baseline,
                            row.target,
                            row.difference_bpb,
                            row.low_bpb,
                            row.high_bpb,
                            row.word,
                        )
                        for name, side in (("a", one), ("b", other))
                        for row in side.verdict
                    ],
                ),
            ),
        },
    }
    page = environment().get_template("side_by_side.html.j2").render(view)
    return page.encode("utf-8", errors="replace").decode("utf-8")


def _pairs(one: Mapping[Any, object], other: Mapping[Any, object]) -> list[_Pair]:
    """Match two tables by name, in the order of the first, then what only the second has."""
    names = dict.fromkeys([*one, *other])
    return [_Pair(name, one.get(name), other.get(name)) for name in names]


def _number(value: object) -> float:
    return value if isinstance(value, float) else 0.0
