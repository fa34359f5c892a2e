"""A fit's and a search's figures as tables for people; control characters are escaped."""

from collections.abc import Mapping, Sequence
from typing import cast

from cuvee.artifacts import Json
from cuvee.report.numbers import quantity


def describe_fit(result: Mapping[str, Json]) -> str:
    """Write a fit's figures as a table for people."""
    scores = cast(list[dict[str, Json]], result["scores"])
    own = cast(dict[str, Json], result["own"])
    named = sum(domain is not None for domain in own.values())
    lines = [
        f"{result['model']} on {result['n_runs']} runs of {result['n_domains']} domains; "
        f"own domain {'detected' if result['own_detected'] else 'known'} for {named} of {len(own)} "
        "targets"
    ]
    lines += [f"note: {notice}" for notice in cast(list[str], result["notices"])]
    if result["carried"] is not None:
        lines += carried_lines(cast(dict[str, Json], result["carried"]))
    if result["leaderboard"] is not None:
        board = cast(dict[str, Json], result["leaderboard"])
        lines += [*leaderboard_lines(board, cast(dict[str, float], result["seconds"])), ""]
    width = max([6, *(len(str(score["target"])) for score in scores)])
    lines.append(
        f"{'target':<{width}}  {'rank':>6}  {'rmse':>8}  {'of mean':>8}  {'coverage':>8}  "
        f"{'regret':>8}  {'by chance':>9}"
    )
    for score in scores:
        rank = "-" if score["rank"] is None else f"{score['rank']:.3f}"
        lines.append(
            f"{score['target']!s:<{width}}  {rank:>6}  {score['rmse']:>8.4f}  "
            f"{score['baseline_rmse']:>8.4f}  {score['coverage']:>8.2f}  "
            f"{score['regret']:>8.4f}  {score['baseline_regret']:>9.4f}"
        )
    lines.append("held-out folds; rank: Spearman; of mean: error of predicting the mean")
    lines.append(f"predictor: {result['folder']}")
    return _printable(lines)


def carried_lines(carried: Mapping[str, Json]) -> list[str]:
    """Say how a study's losses were carried to another size, and how far that missed before."""
    sizes = cast(list[int], carried["sizes"])
    lines = [
        f"losses carried from {', '.join(quantity(size) for size in sizes)} parameters to "
        f"{quantity(cast(int, carried['size']))} and {quantity(cast(int, carried['n_tokens']))} "
        f"tokens by the {carried['law']} law; median standard deviation "
        f"{cast(float, carried['sd']):.4f}, common to all mixtures in large part and not in the "
        "figures below"
    ]
    held_out = cast("dict[str, float] | None", carried["held_out"])
    if held_out is None:
        return [*lines, "two sizes: the law could not be checked on a size left out"]
    return [
        *lines,
        f"largest size ({quantity(held_out['size'])}) left out: error {held_out['rmse']:.4f}, bias "
        f"{held_out['bias']:+.4f}, rank {held_out['rank']:.3f}, {held_out['coverage']:.0%} inside "
        f"90% intervals; losses there spread by {held_out['spread']:.4f} over mixtures",
    ]


def leaderboard_lines(
    board: Mapping[str, Json], seconds: Mapping[str, float] | None = None
) -> list[str]:
    """Write a leaderboard as a table for people.

    Args:
        board: As `fit.leaderboard.Leaderboard.to_json` writes it.
        seconds: Time of each model; None leaves the column out.
    """
    standings = [
        *cast(Sequence[dict[str, Json]], board["models"]),
        *cast(Sequence[dict[str, Json]], board["baselines"]),
    ]
    width = max(len(str(one["name"])) for one in standings)
    columns = ["rank", "rmse", "regret", "in 90%", "t.rank", "t.in 90%", "t.jack"]
    columns += [] if seconds is None else ["seconds"]
    lines = [f"{'model':<{width}}" + "".join(f"  {name:>8}" for name in columns)]
    shares = ("coverage", "targets_coverage", "targets_jackknife")
    keys = ("rank", "rmse", "regret", "coverage", "targets_rank", *shares[1:])
    for one in standings:
        cells = [_figure(one[key], 2 if key in shares else 4) for key in keys]
        if seconds is not None:
            cells.append(_figure(seconds.get(str(one["name"])), 1))
        note = " <- chosen" if one["name"] == board["winner"] else ""
        if one["failure"] is not None:
            note = f" not fitted: {one['failure']}"
        elif one["n_warnings"]:
            note += f" ({one['n_warnings']} warnings)"
        lines.append(f"{one['name']!s:<{width}}" + "".join(f"  {cell:>8}" for cell in cells) + note)
    lines += [
        f"{pick['name']}: run {pick['run']}, {cast(float, pick['distance']):.0%} of tokens away, "
        f"has regret {cast(float, pick['regret']):.4f}"
        for pick in cast(Sequence[dict[str, Json]], board["picks"])
    ]
    lines.append(
        f"{board['n_runs']} runs held out in {board['n_folds']} folds, {board['n_repeats']} times; "
        "rank, rmse, regret, in 90%: of the objective, "
        "every target predicted by itself; t.: mean over single targets; jack: in "
        "intervals as wide as 90% of the errors in other folds"
    )
    lines.append(f"chosen by: {board['rule']}")
    return lines


def describe_search(result: Mapping[str, Json]) -> str:
    """Write the answer and its baselines as tables for people."""
    mixtures = cast(list[dict[str, Json]], result["mixtures"])
    names = [str(one["name"]) for one in mixtures]
    widths = [max(8, len(name)) for name in names]
    lines = [f"{result['model']}: least predicted objective, found by {result['found_by']}", ""]
    lines += _table(
        "domain", names, widths, [cast(dict[str, float], m["weights"]) for m in mixtures]
    )
    lines.append("")
    lines.append(
        f"{'mixture':<{max(widths)}}  {'predicted':>9}  {'90% interval':>17}  "
        f"{'measured':>8}  moved"
    )
    for one in mixtures:
        low, high = cast(list[float], one["interval"])
        measured = "-" if one["measured"] is None else f"{one['measured']:.4f}"
        note = "" if one["allowed"] else "  (outside the constraints)"
        lines.append(
            f"{one['name']!s:<{max(widths)}}  {one['predicted']:>9.4f}  "
            f"{f'{low:.4f} - {high:.4f}':>17}  {measured:>8}  {one['distance']:>5.0%}{note}"
        )
    lines.append("")
    targets = cast(dict[str, list[float]], mixtures[0]["targets"])
    width = max(map(len, ["target", *targets]))
    lines.append(f"{'target':<{width}}  {'predicted':>9}  {'90% interval':>17}")
    for target, (mean, low, high) in targets.items():
        lines.append(f"{target:<{width}}  {mean:>9.4f}  {f'{low:.4f} - {high:.4f}':>17}")
    lines.append("moved: share of tokens that differs from the mixture found")
    lines += ["", *sensitivity_lines(cast(dict[str, Json], result["sensitivity"]))]
    lines.append(f"answer: {result['folder']}")
    return _printable(lines)


def sensitivity_lines(around: Mapping[str, Json], unit: str = "of loss") -> list[str]:
    """Write what surrounds an optimum for people: ranges, prices and the path of the pull.

    Args:
        around: A `tables.sensitivity.Sensitivity` as plain JSON.
        unit: Of the objective.
    """
    domains = cast(list[str], around["domains"])
    ranges = cast(list[list[float]], around["ranges"])
    width = max(map(len, domains))
    judged = (
        "rise at most 1.645 standard deviations of the change"
        if around["paired"]
        else f"predicted within {cast(float, around['within']):.4f} {unit}, half the answer's 90% "
        "interval"
    )
    lines = [f"cannot be told apart ({judged}): shares {'of' if around['exact'] else 'at least'}"]
    lines += [
        f"  {name:<{width}}  {low:.3f} - {high:.3f}"
        for name, (low, high) in zip(domains, ranges, strict=True)
    ]
    for price in cast(list[dict[str, Json]], around["prices"]):
        value, bound = cast(float, price["price"]), cast(float, price["bound"])
        if price["kind"] == "floor":
            what = f"the floor {bound:.4g} of {price['name']}: {value:.4g} {unit} per unit of it"
        elif price["kind"] == "row":
            what = f"({price['name']}): {0.01 * value:.5f} {unit} per hundredth"
        else:
            side = "most" if price["kind"] == "upper" else "least"
            what = (
                f"at {side} {bound:.4g} of {price['name']}: {0.01 * value:.5f} {unit} per hundredth"
            )
        lines.append(f"price of {what} of the run" if "hundredth" in what else f"price of {what}")
    path = cast(list[dict[str, Json]], around["path"])
    if path:
        lines.append("pull towards the reference: strength, nats away from it, objective")
        lines += [
            f"  {p['kl']:<9.4g}  {p['divergence']:>7.4f}  {p['predicted']:>9.4f}" for p in path
        ]
    return lines


def _table(
    head: str, names: list[str], widths: list[int], columns: list[dict[str, float]]
) -> list[str]:
    """Write named columns side by side, rows by the first column's value, the largest first."""
    rows = sorted(columns[0], key=lambda row: -columns[0][row])
    width = max(len(head), *map(len, rows))
    lines = [
        f"{head:<{width}}" + "".join(f"  {n:>{w}}" for n, w in zip(names, widths, strict=True))
    ]
    for row in rows:
        cells = (f"  {one[row]:>{w}.4f}" for one, w in zip(columns, widths, strict=True))
        lines.append(f"{row:<{width}}" + "".join(cells))
    return lines


def _figure(value: Json, digits: int) -> str:
    return "-" if value is None else f"{cast(float, value):.{digits}f}"


def _printable(lines: Sequence[str]) -> str:
    return "\n".join(
        "".join(char if char.isprintable() else repr(char)[1:-1] for char in line) for line in lines
    )
