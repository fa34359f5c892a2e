"""A fit's and a search's figures as tables for people; control characters are escaped."""

from collections.abc import Mapping, Sequence
from typing import cast

from cuvee.artifacts import Json


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
    columns = ["rank", "rmse", "regret", "in 90%", "t.rank", "t.in 90%"]
    columns += [] if seconds is None else ["seconds"]
    lines = [f"{'model':<{width}}" + "".join(f"  {name:>8}" for name in columns)]
    keys = ("rank", "rmse", "regret", "coverage", "targets_rank", "targets_coverage")
    for one in standings:
        cells = [_figure(one[key], 2 if "coverage" in key else 4) for key in keys]
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
        "every target predicted by itself; t.: mean over single targets"
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
    lines.append(f"answer: {result['folder']}")
    return _printable(lines)


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
