"""Somebody else's swarm: CSV tables of mixtures and of the losses they gave.

Rows are matched by their id, columns by their name, never by position.
"""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cuvee import artifacts
from cuvee.arrays import FloatArray
from cuvee.errors import DataError

ID_COLUMNS = ("index", "run_id", "run")
"""Names a table's id column may have; the first one present is taken."""
_METADATA = frozenset({*ID_COLUMNS, "name", ""})
ROUNDING = 0.005
"""How far a row of shares may sum from 1 and count as rounded."""
_SLACK = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class SwarmTable:
    """One CSV table: ids, named columns and numbers."""

    path: str
    ids: tuple[str, ...]
    """(n_rows,) unique, as written in the file."""
    columns: tuple[str, ...]
    """Unique names: domains of a weights table, targets of a losses table."""
    values: FloatArray
    """(n_rows, n_columns) shares whose rows sum to 1, or losses."""
    notices: tuple[str, ...]
    """What was put right while reading, for the reader's eye."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Swarm:
    """Mixtures and their losses, one row a run."""

    ids: tuple[str, ...]
    domains: tuple[str, ...]
    targets: tuple[str, ...]
    weights: FloatArray
    """(n_runs, n_domains) token shares; rows sum to 1."""
    losses: FloatArray
    """(n_runs, n_targets) in the unit of the file."""
    notices: tuple[str, ...]
    """What was put right while reading."""


def read_weights_csv(path: Path) -> SwarmTable:
    """Read mixtures: an id column, then one column a domain.

    Rows that sum to 1 within .005 were rounded and are rescaled, with a notice. Columns ``index``,
    ``run_id``, ``run``, ``name`` and columns without a name are not domains.

    Args:
        path: CSV in UTF-8 with a header.

    Returns:
        The table; rows of ``values`` sum to 1.

    Raises:
        DataError: The file cannot be read as such a table; the message names row and column.
    """
    table = _read_csv(path, what="weights")
    for row, column in np.argwhere(table.values < 0.0)[:1]:
        raise DataError(
            f"{path}: row {table.ids[row]}, column {table.columns[column]!r} is "
            f"{table.values[row, column]:g}; shares must be at least 0. Correct or remove it."
        )
    sums = table.values.sum(axis=1)
    off = np.abs(sums - 1.0)
    for row in np.flatnonzero(off > ROUNDING + _SLACK)[:1]:
        raise DataError(
            f"{path}: row {table.ids[row]} sums to {sums[row]:.6g}; rows must sum to 1 (rounding "
            f"up to {ROUNDING:g} is rescaled). Correct the row or remove it."
        )
    n_rounded = int(np.sum(off > _SLACK))
    notice = (
        f"{path}: {n_rounded} of {len(sums)} rows summed to {sums.min():.4g} to {sums.max():.4g} "
        "and were rescaled to 1"
    )
    return SwarmTable(
        path=table.path,
        ids=table.ids,
        columns=table.columns,
        values=table.values / sums[:, None],
        notices=(notice,) if n_rounded else (),
    )


def read_losses_csv(path: Path) -> SwarmTable:
    """Read losses: an id column, then one column a target.

    Args:
        path: CSV in UTF-8 with a header.

    Returns:
        The table; all values are finite.

    Raises:
        DataError: The file cannot be read as such a table; the message names row and column.
    """
    return _read_csv(path, what="losses")


def match_runs(weights: SwarmTable, losses: SwarmTable) -> Swarm:
    """Join mixtures and losses by id.

    Runs that stand in one table only are left out, with a notice.

    Args:
        weights: From `read_weights_csv`.
        losses: From `read_losses_csv`.

    Returns:
        The runs of both tables, in the order of the weights.

    Raises:
        DataError: No id is in both tables, or the ids are the same numbers counted from different
            starts.
    """
    rows = {_same_id(name): row for row, name in enumerate(losses.ids)}
    keys = [_same_id(name) for name in weights.ids]
    both = [row for row, key in enumerate(keys) if key in rows]
    _refuse_shifted_ids(weights, losses, n_shared=len(both))
    if not both:
        raise DataError(
            f"{weights.path} and {losses.path} share no run id (ids {weights.ids[0]}, ... and "
            f"{losses.ids[0]}, ...). Give both tables the same ids."
        )
    notices = [*weights.notices, *losses.notices]
    for n_left, table in ((len(keys) - len(both), weights), (len(rows) - len(both), losses)):
        if n_left:
            notices.append(
                f"{table.path}: {n_left} runs are not in the other table and are left out"
            )
    shares = weights.values[both]
    n_repeated = len(shares) - len(np.unique(shares.round(9), axis=0))
    if n_repeated:
        notices.append(f"{weights.path}: {n_repeated} runs repeat the mixture of another run")
    return Swarm(
        ids=tuple(weights.ids[row] for row in both),
        domains=weights.columns,
        targets=losses.columns,
        weights=shares,
        losses=losses.values[[rows[keys[row]] for row in both]],
        notices=tuple(notices),
    )


def write_predictions_csv(
    path: Path, ids: Sequence[str], targets: Sequence[str], mean: FloatArray, sd: FloatArray
) -> None:
    """Write predictions: ``index``, a column a target, then ``<target>_sd`` for each.

    Args:
        path: Replaced whole or not at all.
        ids: (n_rows,) run ids.
        targets: (n_targets,) names.
        mean: (n_rows, n_targets) predicted losses.
        sd: (n_rows, n_targets) their standard deviations.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["index", *targets, *(f"{name}_sd" for name in targets)])
    for name, row in zip(ids, np.hstack([mean, sd]).tolist(), strict=True):
        writer.writerow([name, *(repr(value) for value in row)])
    path.parent.mkdir(parents=True, exist_ok=True)
    artifacts.write_text(path, text.getvalue())


def _read_csv(path: Path, *, what: str) -> SwarmTable:
    header, rows = _read_rows(path, what=what)
    names = [name.strip() for name in header]
    id_column = next((name for name in ID_COLUMNS if name in names), None)
    if id_column is None:
        raise DataError(
            f"{path}: the header has no column named {' or '.join(ID_COLUMNS)} (found "
            f"{', '.join(names[:5])}, ...). Add an index column that names each run."
        )
    columns = [column for column, name in enumerate(names) if name not in _METADATA]
    repeated = [name for name, n in Counter(n for n in names if n).items() if n > 1]
    if repeated or not columns:
        found = f"column {repeated[0]!r} twice" if repeated else f"no column but {', '.join(names)}"
        raise DataError(f"{path}: found {found}; {what} need one column each. Correct the header.")
    ids = tuple(row[names.index(id_column)].strip() for _, row in rows)
    twice = [name for name, n in Counter(map(_same_id, ids)).items() if n > 1]
    if twice:
        raise DataError(f"{path}: run {twice[0]} stands in more than one row. Keep one row a run.")
    values = [
        [_number(path, names, cells, line, column) for column in columns] for line, cells in rows
    ]
    return SwarmTable(
        path=str(path),
        ids=ids,
        columns=tuple(names[column] for column in columns),
        values=np.asarray(values, dtype=np.float64),
        notices=(),
    )


def _read_rows(path: Path, *, what: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header and each row that is not blank with its line number."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (FileNotFoundError, IsADirectoryError) as error:
        raise DataError(
            f"{what} table {path} does not exist. Give the path of a CSV file."
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{what} table {path} is not CSV in UTF-8 ({error}). Convert it."
        ) from error
    if len(rows) < 2:
        raise DataError(
            f"{what} table {path} has {len(rows)} lines; expected a header and at least one row."
        )
    header = rows[0][1]
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise DataError(
                f"{path}: line {line} has {len(row)} cells, the header {len(header)}. Correct it."
            )
    return header, rows[1:]


def _number(path: Path, names: list[str], cells: list[str], line: int, column: int) -> float:
    text = cells[column].strip()
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        position = next(names.index(name) for name in ID_COLUMNS if name in names)
        raise DataError(
            f"{path}: row {cells[position].strip()} (line {line}), column {names[column]!r} is "
            f"{text!r}; expected a finite number. Correct the row or remove it."
        )
    return value


def _same_id(text: str) -> str:
    """Bring an id to one spelling: some tools write run 7 as 7.0."""
    whole = text.removesuffix(".0")
    return str(int(whole)) if whole.isascii() and whole.isdigit() else text


def _refuse_shifted_ids(weights: SwarmTable, losses: SwarmTable, *, n_shared: int) -> None:
    """Refuse runs 0 to n-1 beside runs 1 to n: joined by id they would all be off by one."""
    one, other = {_same_id(name) for name in weights.ids}, {_same_id(name) for name in losses.ids}
    if len(one) != len(other) or n_shared == len(one):
        return
    if not all(name.isdigit() for name in one | other):
        return
    first, second = sorted(map(int, one)), sorted(map(int, other))
    shift = second[0] - first[0]
    if all(b - a == shift for a, b in zip(first, second, strict=True)):
        raise DataError(
            f"run ids start at {first[0]} in {weights.path} and at {second[0]} in {losses.path}, "
            "so the same id names different runs. Number both tables alike."
        )
