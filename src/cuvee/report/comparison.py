"""Methods side by side as text: one honest sentence, a table a target, what each search cost.

The text is Markdown whose columns are aligned, so that it reads in a terminal and in a page.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cuvee import config
from cuvee.artifacts import Json
from cuvee.report.numbers import MINUS, clean, decimals, difference, quantity, share
from cuvee.validate.accuracy import AccuracyRow
from cuvee.validate.compare import TOTAL
from cuvee.validate.ranking import Difference, Ranking, Standing, TargetTable

_PLACES = 4
_SPECIAL = re.compile(r"([\\`*\[\]<>|])")


@dataclass(frozen=True, kw_only=True, slots=True)
class ContenderRow:
    """An answer or a baseline, and what finding it cost."""

    name: str
    kind: str
    """``method`` or ``baseline``."""
    method: str
    """Which one it comes from; empty for a baseline that comes from none."""
    shares: Mapping[str, float]
    """Tokens by domain, of all it trains on."""
    n_runs: int
    """Models trained to find it."""
    trained_tokens: int
    """Tokens those were trained on."""
    n_scored: int
    """Documents whose gradient was computed to find it."""
    n_labels: int
    """Labels given to documents to find it; in no FLOPs."""
    flops: float
    """Of training and scoring together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonContent:
    """A finished comparison."""

    size: str
    """Of the judged models, such as ``0.4m``."""
    n_tokens: int
    """Each of them has seen."""
    n_seeds: int
    model_flops: float
    """Of training one of them."""
    contenders: tuple[ContenderRow, ...]
    """Methods first."""
    ranking: Ranking
    accuracies: tuple[AccuracyRow, ...] = ()
    """On the tasks among the targets, each against the best in total."""

    def contender(self, name: str) -> ContenderRow:
        """Return one contender."""
        return next(one for one in self.contenders if one.name == name)

    def to_json(self) -> dict[str, Json]:
        """Return the comparison as plain JSON, the sentence included."""
        plain: dict[str, Json] = dataclasses.asdict(self)
        return {"best": self.ranking.table().rows[0].name, "sentence": sentence(self), **plain}

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> "ComparisonContent":
        """Rebuild a comparison from `to_json`.

        Raises:
            ConfigError: A key is unknown, missing or of the wrong kind.
        """
        told = {key: value for key, value in data.items() if key not in ("best", "sentence")}
        return config.parse(cls, told)


def sentence(content: ComparisonContent) -> str:
    """Say who is best, who cannot be told apart from it, and what its search cost."""
    rows = content.ranking.table().rows
    best = content.contender(rows[0].name)
    judged = (
        f"Trained on {quantity(content.n_tokens)} tokens each, models of {content.size} parameters"
    )
    if rows[0].mean_bpb is None:
        return f"{judged} diverged on every contender's text, so nothing can be said."
    seeds = "1 seed" if content.n_seeds == 1 else f"{content.n_seeds} seeds"
    lead = (
        f"{judged} have the lowest loss over all targets on the answer of {clean(best.name)} "
        f"({decimals(rows[0].mean_bpb, _PLACES)} bits per byte, {seeds})"
        if best.kind == "method"
        else f"{judged} have the lowest loss over all targets on {clean(best.name)}, a baseline "
        f"({decimals(rows[0].mean_bpb, _PLACES)} bits per byte, {seeds})"
    )
    return f"{lead}; {_ties(content, rows)}; {_price(content, best, rows)}."


def markdown(content: ComparisonContent) -> str:
    """Write the whole comparison as aligned Markdown; names are escaped."""
    ranking = content.ranking
    parts = [f"**{_escaped(sentence(content))}**", scope(content)]
    parts += [_title(one, ranking) + "\n\n" + _standings(one, ranking) for one in ranking.tables]
    parts += ["### What the search cost\n\n" + _costs(content)]
    if content.accuracies:
        parts.append("### Accuracy on tasks\n\n" + _accuracies(content.accuracies))
    parts.append("### Shares of tokens\n\n" + _shares(content))
    return "\n\n".join(parts) + "\n"


def scope(content: ComparisonContent) -> str:
    """Say what the tables hold and what they do not account for."""
    ranking = content.ranking
    weights = sorted(set(ranking.weights))
    mean = "the mean" if len(weights) == 1 else "the weighted mean"
    return (
        f"Loss in bits per byte on the targets' verdict half, mean and standard deviation over "
        f"seeds; total: {mean} over targets. Runs of one seed begin with the same weights, and "
        f"differences are paired by seed, with {100 * ranking.confidence:g}% intervals. That the "
        "best was found on these same runs is not corrected for."
    )


def flops(value: float) -> str:
    """Write floating-point operations to two digits.

    Example:
        >>> flops(0.0), flops(3.14159e9)
        ('0', '3.1e9')
    """
    if value == 0:
        return "0"
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits}e{int(exponent)}"


def _ties(content: ComparisonContent, rows: Sequence[Standing]) -> str:
    """Say who cannot be told apart from the best, and that the rest is behind."""
    tied = [clean(row.name) for row in rows[1:] if row.place == "cannot be told apart"]
    behind = [row for row in rows[1:] if row.place == "worse"]
    lost = [clean(row.name) for row in rows[1:] if row.place == "diverged"]
    level = f"by the {100 * content.ranking.confidence:g}% intervals of paired differences"
    if content.n_seeds == 1:
        told = "with one seed nothing can be told apart"
    elif not tied:
        told = f"all others are worse {level}, each taken by itself"
    else:
        rest = ", and all others are worse" if behind else ""
        told = f"{_listed(tied)} cannot be told apart from it {level}, each taken by itself{rest}"
    return f"{told}, and every run on {_listed(lost)} diverged" if lost else told


def _price(content: ComparisonContent, best: ContenderRow, rows: Sequence[Standing]) -> str:
    """Say what the best one's search cost, and which as good a one cost less."""
    if best.flops == 0:
        own = "finding it trained no model"
    else:
        times = best.flops / content.model_flops
        own = (
            f"finding it took {flops(best.flops)} FLOPs, {times:.3g} times the training of one "
            "such model"
        )
    tied = [content.contender(row.name) for row in rows if row.place == "cannot be told apart"]
    cheaper = min(tied, key=lambda one: one.flops, default=best)
    if cheaper.flops >= best.flops:
        return own
    cost = f"took {flops(cheaper.flops)}" if cheaper.flops else "trained no model"
    return f"{own}, finding {clean(cheaper.name)} {cost}"


def _title(table: TargetTable, ranking: Ranking) -> str:
    name = "All targets" if table.target == TOTAL else _escaped(clean(table.target))
    if table.noise_bpb is None:
        return f"### {name}"
    return f"### {name} (noise of one run {decimals(table.noise_bpb, _PLACES)})"


def _standings(table: TargetTable, ranking: Ranking) -> str:
    head = ["contender", "loss", "sd", "minus the best", "interval", "beside the best"]
    if ranking.reference is not None:
        head += [f"minus {_escaped(clean(ranking.reference))}", "interval"]
    body = []
    for row in table.rows:
        cells = [
            _escaped(clean(row.name)),
            "n/a" if row.mean_bpb is None else decimals(row.mean_bpb, _PLACES),
            "" if row.sd_bpb is None else decimals(row.sd_bpb, _PLACES),
            *_estimate(row.behind),
            row.place,
        ]
        if ranking.reference is not None:
            cells += _estimate(row.beyond_reference)
        body.append(cells)
    return _table(head, body, left=(0, 5))


def _estimate(found: Difference | None) -> list[str]:
    if found is None or found.mean_bpb is None:
        return ["", ""]
    ends = ""
    if found.low_bpb is not None and found.high_bpb is not None:
        ends = f"{difference(found.low_bpb, _PLACES)} to {difference(found.high_bpb, _PLACES)}"
    return [difference(found.mean_bpb, _PLACES), ends]


def _costs(content: ComparisonContent) -> str:
    head = ["contender", "method", "models", "their tokens", "documents scored", "labels", "FLOPs"]
    head.append("over one judged model")
    body = [
        [
            _escaped(clean(one.name)),
            one.method,
            str(one.n_runs),
            quantity(one.trained_tokens),
            quantity(one.n_scored),
            quantity(one.n_labels),
            flops(one.flops),
            f"{one.flops / content.model_flops:.3g}",
        ]
        for one in content.contenders
    ]
    note = (
        f"One judged model: {flops(content.model_flops)} FLOPs. Models: calibrations, proxies and "
        "base models. FLOPs: forward and backward of every token trained on or scored; their "
        "evaluations and the labels (quality scores, clusters) are not in it."
    )
    return f"{_table(head, body, left=(0, 1))}\n\n{note}"


def _accuracies(rows: Sequence[AccuracyRow]) -> str:
    head = ["task", "contender", "accuracy", "interval", "best minus it", "best is"]
    body = [
        [
            _escaped(clean(row.target)) + (" by bytes" if row.measure == "accuracy_norm" else ""),
            _escaped(clean(row.mixture)),
            "n/a" if row.mean is None else decimals(row.mean),
            "" if row.low is None or row.high is None else f"{row.low:.3f} to {row.high:.3f}",
            "" if row.difference is None else difference(row.difference),
            row.word or "",
        ]
        for row in rows
    ]
    return _table(head, body, left=(0, 1, 5))


def _shares(content: ComparisonContent) -> str:
    domains = list(content.contenders[0].shares)
    head = ["domain", *(_escaped(clean(one.name)) for one in content.contenders)]
    body = [
        [_escaped(clean(name)), *(share(one.shares[name]) for one in content.contenders)]
        for name in domains
    ]
    return _table(head, body, left=(0,))


def _table(head: Sequence[str], body: Sequence[Sequence[str]], *, left: Sequence[int]) -> str:
    """Write rows under a head, columns of equal width; ``left`` are those not of numbers."""
    rows = [[cell.replace(MINUS, "-") for cell in row] for row in (head, *body)]
    widths = [max(3, *(len(row[place]) for row in rows)) for place in range(len(head))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("| " + " | ".join(cells) + " |")
    rule = [
        "-" * width if place in left else "-" * (width - 1) + ":"
        for place, width in enumerate(widths)
    ]
    return "\n".join([lines[0], "| " + " | ".join(rule) + " |", *lines[1:]])


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)
