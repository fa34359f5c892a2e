"""Somebody else's swarm: CSV tables of mixtures and of the losses they gave.

Rows are matched by their id, columns by their name, never by position.
"""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from cuvee import artifacts
from cuvee.arrays import FloatArray, IntArray
from cuvee.errors import DataError

ID_COLUMNS = ("index", "run_id", "run", "id", "name")
"""Names a table's id column may have. Two tables are joined by the first one that both have."""
_METADATA = frozenset({*ID_COLUMNS, ""})
ROUNDING = 0.005
"""How far a row of shares may sum from 1 and count as rounded."""
_SLACK = 1e-9
_NAMED = 5
"""Most runs named in one notice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SwarmTable:
    """One CSV table: ids, named columns and numbers."""

    path: str
    ids: tuple[str, ...]
    """(n_rows,) unique, as written in the file."""
    id_columns: Mapping[str, tuple[str, ...]]
    """Every column of the file that may name runs, (n_rows,) cells each; ``ids`` is the first."""
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

    def take(self, rows: IntArray) -> Self:
        """Return some of the runs, (n_taken,) row numbers, in that order."""
        return replace(
            self,
            ids=tuple(self.ids[row] for row in rows),
            weights=self.weights[rows],
            losses=self.losses[rows],
        )


def read_weights_csv(path: Path) -> SwarmTable:
    """Read mixtures: an id column, then one column a domain.

    Rows that sum to 1 within .005 were rounded and are rescaled, with a notice. Columns ``index``,
    ``run_id``, ``run``, ``id``, ``name`` and columns without a name are not domains.

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
    return replace(
        table, values=table.values / sums[:, None], notices=(notice,) if n_rounded else ()
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
    """Join mixtures and losses by id, never by position.

    The tables are joined by the first of `ID_COLUMNS` that both have, and must agree on the others.
    Runs that stand in one table only are left out, with a notice.

    Args:
        weights: From `read_weights_csv`.
        losses: From `read_losses_csv`.

    Returns:
        The runs of both tables, in the order of the weights.

    Raises:
        DataError: No id is in both tables, one table may count its runs from 0 and the other from
            1, or two id columns pair the runs differently.
    """
    ids, other_ids = _shared_ids(weights, losses)
    rows = {_same_id(name): row for row, name in enumerate(other_ids)}
    pairs = [(row, rows[key]) for row, key in enumerate(map(_same_id, ids)) if key in rows]
    _refuse_shifted_ids(weights, losses, ids, other_ids)
    if not pairs:
        raise DataError(
            f"{weights.path} and {losses.path} share no run id (ids {ids[0]}, ... and "
            f"{other_ids[0]}, ...). Give both tables the same ids."
        )
    _refuse_other_pairs(weights, losses, pairs)
    notices = [*weights.notices, *losses.notices]
    for n_left, table in ((len(ids) - len(pairs), weights), (len(rows) - len(pairs), losses)):
        if n_left:
            notices.append(
                f"{table.path}: {n_left} runs are not in the other table and are left out"
            )
    taken = tuple(ids[row] for row, _ in pairs)
    shares = weights.values[[row for row, _ in pairs]]
    return Swarm(
        ids=taken,
        domains=weights.columns,
        targets=losses.columns,
        weights=shares,
        losses=losses.values[[row for _, row in pairs]],
        notices=(*notices, *_repeated_mixtures(weights.path, taken, shares)),
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


def write_weights_csv(
    path: Path, ids: Sequence[str], domains: Sequence[str], weights: FloatArray
) -> None:
    """Write mixtures: ``index``, then one column a domain.

    Args:
        path: Replaced whole or not at all.
        ids: (n_rows,) names of the mixtures.
        domains: (n_domains,) names.
        weights: (n_rows, n_domains) token shares; rows sum to 1.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["index", *domains])
    for name, row in zip(ids, weights.tolist(), strict=True):
        writer.writerow([name, *(repr(value) for value in row)])
    path.parent.mkdir(parents=True, exist_ok=True)
    artifacts.write_text(path, text.getvalue())


def _read_csv(path: Path, *, what: str) -> SwarmTable:
    header, rows = _read_rows(path, what=what)
    names = [name.strip() for name in header]
    id_columns = [name for name in ID_COLUMNS if name in names]
    if not id_columns:
        raise DataError(
            f"{path}: the header has no column named {' or '.join(ID_COLUMNS)} (found "
            f"{', '.join(names[:5])}, ...). Add an index column that names each run."
        )
    columns = [column for column, name in enumerate(names) if name not in _METADATA]
    repeated = [name for name, n in Counter(n for n in names if n).items() if n > 1]
    if repeated or not columns:
        found = f"column {repeated[0]!r} twice" if repeated else f"no column but {', '.join(names)}"
        raise DataError(f"{path}: found {found}; {what} need one column each. Correct the header.")
    ids = {name: tuple(row[names.index(name)].strip() for _, row in rows) for name in id_columns}
    _refuse_repeated_ids(str(path), ids[id_columns[0]])
    values = [
        [_number(path, names, cells, line, column) for column in columns] for line, cells in rows
    ]
    return SwarmTable(
        path=str(path),
        ids=ids[id_columns[0]],
        id_columns=ids,
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


def _refuse_repeated_ids(path: str, ids: Sequence[str]) -> None:
    twice = [name for name, n in Counter(map(_same_id, ids)).items() if n > 1]
    if twice:
        raise DataError(f"{path}: run {twice[0]} stands in more than one row. Keep one row a run.")


def _shared_ids(weights: SwarmTable, losses: SwarmTable) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return both tables' ids by the first column that both have, else by each one's own first."""
    for name in ID_COLUMNS:
        if name in weights.id_columns and name in losses.id_columns:
            for table in (weights, losses):
                _refuse_repeated_ids(table.path, table.id_columns[name])
            return weights.id_columns[name], losses.id_columns[name]
    return weights.ids, losses.ids


def _refuse_other_pairs(
    weights: SwarmTable, losses: SwarmTable, pairs: Sequence[tuple[int, int]]
) -> None:
    """Refuse tables whose other id columns pair the runs differently."""
    for name in ID_COLUMNS:
        if name not in weights.id_columns or name not in losses.id_columns:
            continue
        for row, other in pairs:
            one, two = weights.id_columns[name][row], losses.id_columns[name][other]
            if _same_id(one) != _same_id(two):
                raise DataError(
                    f"run {weights.ids[row]} of {weights.path} has {name} {one!r}, but {two!r} in "
                    f"{losses.path}: the id columns of the two tables pair the runs differently. "
                    f"Correct {name} or remove the column that is wrong."
                )


def _repeated_mixtures(path: str, ids: Sequence[str], shares: FloatArray) -> tuple[str, ...]:
    """Say which runs have the mixture of a run before them."""
    _, first, mixture = np.unique(shares.round(9), axis=0, return_index=True, return_inverse=True)
    earlier = first[mixture.reshape(-1)]
    pairs = [
        f"{name} that of {ids[before]}"
        for row, (name, before) in enumerate(zip(ids, earlier, strict=True))
        if before != row
    ]
    if not pairs:
        return ()
    more = ", ..." if len(pairs) > _NAMED else ""
    return (
        f"{path}: {len(pairs)} runs repeat the mixture of another run ({', '.join(pairs[:_NAMED])}"
        f"{more}); they share a fold",
    )


def _refuse_shifted_ids(
    weights: SwarmTable, losses: SwarmTable, ids: Sequence[str], other_ids: Sequence[str]
) -> None:
    """Refuse runs 0 to n-1 beside runs 1 to n: joined by id they would all be off by one."""
    one, other = ({_same_id(name) for name in names} for names in (ids, other_ids))
    if one == other or not all(name.isdigit() for name in one | other):
        return
    first, second = sorted(map(int, one)), sorted(map(int, other))
    starts = f"run ids start at {first[0]} in {weights.path} and at {second[0]} in {losses.path}, "
    shift = second[0] - first[0]
    if len(first) == len(second) and all(
        b - a == shift for a, b in zip(first, second, strict=True)
    ):
        raise DataError(f"{starts}so the same id names different runs. Number both tables alike.")
    whole = all(numbers[-1] - numbers[0] == len(numbers) - 1 for numbers in (first, second))
    nested = one < other or other < one
    if {first[0], second[0]} == {0, 1} and (whole or not nested):
        n_alone = len(one ^ other)
        raise DataError(
            f"{starts}and {n_alone} runs are in one table only, so the same id may name different "
            "runs. Number both tables alike; if they are, leave those runs out of both."
        )
