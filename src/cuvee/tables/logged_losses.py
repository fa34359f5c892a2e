"""Losses that another trainer logged: CSV or JSON lines, runs and points in any order."""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cuvee.arrays import FloatArray, IntArray
from cuvee.errors import DataError
from cuvee.tables.study import SIZE_COLUMNS, STEP_COLUMNS, TOKEN_COLUMNS
from cuvee.tables.swarm import ID_COLUMNS

RUN_COLUMNS = ("run_id", "run", *ID_COLUMNS)
"""Names the column of runs may have; a file without one is the run that its name says."""
_CHART_RUN = "run_id"
_CHARTED = re.compile(r"(?P<run>.+?) - (?P<metric>.+?)(?<!__MIN)(?<!__MAX)")
_UNITS = {"k": 1e3, "m": 1e6, "b": 1e9}
_Row = Mapping[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggedColumns:
    """What the columns are called; None takes the first of the usual names."""

    run: str | None = None
    tokens: str | None = None
    step: str | None = None
    size: str | None = None
    tokens_per_step: int | None = None
    """For a log that counts steps."""
    targets: Mapping[str, str] = field(default_factory=dict)
    """Columns of some targets, by the target's name."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LoggedRun:
    """What was logged of one run."""

    n_tokens: IntArray
    """(n_points,) tokens trained on so far, rising."""
    losses: FloatArray
    """(n_points, n_targets) as logged; NaN or infinite where the run diverged."""
    size: int | None
    """Parameters, where a column says."""


def read_logged(
    paths: Sequence[Path], columns: LoggedColumns, targets: Sequence[str]
) -> tuple[dict[str, LoggedRun], tuple[str, ...]]:
    """Read logs of runs.

    Rows without any target's loss, such as those of training steps, are passed over. A loss that is
    NaN or infinite is one of a run that diverged.

    Args:
        paths: ``.csv``, ``.jsonl`` or ``.ndjson`` files. A chart's export, with a column a run
            named ``<run> - <metric>`` as Weights & Biases writes it, is one metric of all runs;
            several are put together.
        columns: What the columns are called.
        targets: Names to look for: ``target/<name>`` and ``domain/<name>``. A column has such a
            name, or the part behind the stroke where only one has it.

    Returns:
        Runs by id, and the targets that were found, in the order given.

    Raises:
        DataError: A file cannot be read so; the message names file, row and column.
    """
    found: dict[str, dict[int, tuple[list[float], int | None]]] = {}
    where: dict[tuple[str, int], str] = {}
    names: tuple[str, ...] | None = None
    for path, rows in _tables(paths):
        reader = _Reader.of(path, rows, columns, targets)
        if names not in (None, tuple(reader.targets)):
            raise DataError(
                f"{path} has the targets {', '.join(reader.targets)}; the files before have "
                f"{', '.join(names or ())}. Give all files the same."
            )
        names = tuple(reader.targets)
        for number, row in enumerate(rows, start=2 if path.suffix == ".csv" else 1):
            losses = reader.losses(row, number)
            if losses is None:
                continue
            run, at, size = (
                reader.run(row, number),
                reader.at(row, number),
                reader.size(row, number),
            )
            if (run, at) in where:
                raise DataError(
                    f"{path}: row {number} repeats run {run!r} at {at:,} tokens (before in "
                    f"{where[run, at]}). Keep one row of each."
                )
            where[run, at] = f"{path.name}, row {number}"
            found.setdefault(run, {})[at] = (losses, size)
    if not found:
        raise DataError(
            f"{', '.join(map(str, paths))}: no row holds a loss on a target. Give evaluation logs."
        )
    return {run: _logged(run, points) for run, points in sorted(found.items())}, names or ()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reader:
    """The columns of one file."""

    path: Path
    run_column: str | None
    at_column: str
    unit: int
    size_column: str | None
    targets: Mapping[str, str]
    """Column of each target."""

    @classmethod
    def of(
        cls, path: Path, rows: Sequence[_Row], columns: LoggedColumns, targets: Sequence[str]
    ) -> "_Reader":
        names = list(dict.fromkeys(name for row in rows for name in row))
        if not names:
            raise DataError(f"{path} holds no rows. Give logs of losses.")
        run = _column(path, names, columns.run, RUN_COLUMNS)
        tokens = _column(path, names, columns.tokens, TOKEN_COLUMNS)
        step = _column(path, names, columns.step, STEP_COLUMNS)
        if tokens is None and (step is None or columns.tokens_per_step is None):
            lacking = "say how many tokens a step has" if step else "name its column of tokens"
            raise DataError(
                f"{path} has no column named {' or '.join(TOKEN_COLUMNS)} (found "
                f"{', '.join(names[:8])}); {lacking}."
            )
        return cls(
            path=path,
            run_column=run,
            at_column=tokens or step or "",
            unit=1 if tokens else columns.tokens_per_step or 1,
            size_column=_column(path, names, columns.size, SIZE_COLUMNS),
            targets=_target_columns(path, names, columns.targets, targets),
        )

    def run(self, row: _Row, number: int) -> str:
        if self.run_column is None:
            return self.path.name.split(".")[0]
        name = str(_given(row, self.run_column) or "").strip()
        if not name:
            raise DataError(f"{self.path}: row {number} names no run ({self.run_column!r}).")
        return name

    def at(self, row: _Row, number: int) -> int:
        return round(self._count(row, self.at_column, number) * self.unit)

    def size(self, row: _Row, number: int) -> int | None:
        if self.size_column is None or _given(row, self.size_column) is None:
            return None
        return round(self._count(row, self.size_column, number))

    def losses(self, row: _Row, number: int) -> list[float] | None:
        """Return the row's losses; None where it has none at all."""
        values = {target: _given(row, name) for target, name in self.targets.items()}
        if all(value is None for value in values.values()):
            return None
        for target, value in values.items():
            if value is None:
                raise DataError(
                    f"{self.path}: row {number} has no loss on {target!r} (column "
                    f"{self.targets[target]!r}) but has others. Log all targets at the same points."
                )
        return [self._number(value, self.targets[name], number) for name, value in values.items()]

    def _number(self, value: object, column: str, number: int) -> float:
        try:
            return float(str(value).strip())
        except ValueError as error:
            raise DataError(
                f"{self.path}: row {number}, column {column!r} is {str(value)!r}; expected a "
                "number, or nan where the run diverged."
            ) from error

    def _count(self, row: _Row, column: str, number: int) -> float:
        text = str(_given(row, column) or "").strip().lower()
        unit = _UNITS.get(text[-1:], 1.0)
        try:
            value = float(text[:-1] if unit > 1.0 else text) * unit
        except ValueError:
            value = float("nan")
        if not (np.isfinite(value) and value >= 0.0):
            raise DataError(
                f"{self.path}: row {number}, column {column!r} is {text!r}; expected a count."
            )
        return value


def _tables(paths: Sequence[Path]) -> Iterator[tuple[Path, list[_Row]]]:
    """Yield each file's rows; charts come last and as one table."""
    charts: dict[tuple[str, str], dict[str, object]] = {}
    last = None
    for path in paths:
        rows = list(_rows(path))
        if not any(_CHARTED.fullmatch(name) for row in rows[:1] for name in row):
            yield path, rows
            continue
        last = path
        for row in rows:
            for at, run, metric, value in _chart_cells(row):
                own = charts.setdefault((run, str(at[1])), {_CHART_RUN: run, at[0]: at[1]})
                if metric in own and own[metric] != value:
                    raise DataError(
                        f"{path}: {metric!r} of run {run!r} at {at[0]} {at[1]} was given before. "
                        "Keep one chart of each metric."
                    )
                own[metric] = value
    if last is not None:
        yield last, list(charts.values())


def _chart_cells(row: _Row) -> Iterator[tuple[tuple[str, object], str, str, object]]:
    """Yield place, run, metric and value of the filled cells of a chart's row."""
    place, *columns = row
    for name in columns:
        match, value = _CHARTED.fullmatch(name), _given(row, name)
        if match is not None and value is not None:
            yield (place.lower(), row[place]), match["run"], match["metric"], value


def _rows(path: Path) -> Iterator[_Row]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 ({error}).") from error
    if path.suffix == ".csv":
        yield from _csv_rows(path, text)
    elif path.suffix in (".jsonl", ".ndjson"):
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                yield _json_row(path, number, line)
    else:
        raise DataError(f"{path}: logs are .csv, .jsonl or .ndjson. Rename or convert it.")


def _csv_rows(path: Path, text: str) -> Iterator[_Row]:
    lines = csv.reader(text.splitlines())
    header = [name.strip() for name in next(lines, [])]
    twice = [name for name in header if name and header.count(name) > 1]
    if twice:
        raise DataError(f"{path}: found column {twice[0]!r} twice. Correct the header.")
    for number, cells in enumerate(lines, start=2):
        if len(cells) != len(header):
            raise DataError(f"{path}: row {number} has {len(cells)} cells, not {len(header)}.")
        yield dict(zip(header, cells, strict=True))


def _json_row(path: Path, number: int, line: str) -> _Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}: line {number} is not JSON ({error}).") from error
    if not isinstance(row, dict):
        raise DataError(f"{path}: line {number} is not a JSON object with a value a column.")
    return row


def _given(row: _Row, column: str) -> object | None:
    """Return a value; None where the cell is empty."""
    value = row.get(column)
    return None if value is None or (isinstance(value, str) and not value.strip()) else value


def _column(
    path: Path, names: Sequence[str], chosen: str | None, usual: Iterable[str]
) -> str | None:
    if chosen is not None and chosen not in names:
        raise DataError(
            f"{path} has no column {chosen!r}; its columns are {', '.join(names[:12])}."
        )
    return chosen or next((name for name in usual if name in names), None)


def _target_columns(
    path: Path, names: Sequence[str], chosen: Mapping[str, str], targets: Sequence[str]
) -> dict[str, str]:
    """Return the column of every target that has one."""
    short = [name.split("/", 1)[1] for name in targets]
    own = {name: name.split("/", 1)[1] for name in targets}
    by_name = {one: name for name, one in own.items() if short.count(one) == 1}
    columns: dict[str, str] = {}
    for given, column in chosen.items():
        target = given if given in targets else by_name.get(given)
        if target is None:
            raise DataError(
                f"--target names {given!r}, which is not a target; targets are "
                f"{', '.join(targets)}."
            )
        columns[target] = _column(path, names, column, ()) or column
    for target in targets:
        plain = own[target] if by_name.get(own[target]) == target else target
        found = next((name for name in (target, plain) if name in names), None)
        if found is not None:
            columns.setdefault(target, found)
    unknown = [
        name for name in names if name.startswith(("target/", "domain/")) and name not in targets
    ]
    if unknown and unknown[0] not in chosen.values():
        raise DataError(
            f"{path}: column {unknown[0]!r} is of no target; targets are {', '.join(targets)}. "
            "Rename it, or leave it out."
        )
    if not columns:
        raise DataError(
            f"{path} has no column of a target; targets are {', '.join(targets)}, columns "
            f"{', '.join(names[:12])}. Name them with --target TARGET=COLUMN."
        )
    return {target: columns[target] for target in targets if target in columns}


def _logged(run: str, points: Mapping[int, tuple[list[float], int | None]]) -> LoggedRun:
    sizes = sorted({size for _, size in points.values() if size is not None})
    if len(sizes) > 1:
        raise DataError(
            f"run {run!r} has rows of {len(sizes)} sizes ({sizes[0]:,}, {sizes[1]:,}); a run has "
            "one. For runs of several sizes use `cuvee fit --weights --losses --at-size`."
        )
    order = sorted(points)
    return LoggedRun(
        n_tokens=np.asarray(order, dtype=np.int64),
        losses=np.array([points[at][0] for at in order], dtype=np.float64),
        size=sizes[0] if sizes else None,
    )
