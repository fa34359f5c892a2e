"""A study: every mixture trained at several sizes, with its losses along the way."""

import csv as plain_csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from cuvee.arrays import FloatArray, IntArray
from cuvee.errors import DataError
from cuvee.simplex import check_weights
from cuvee.tables.swarm import ID_COLUMNS, SwarmTable, read_weights_csv

MIXTURE_COLUMNS = ("mixture", *ID_COLUMNS)
"""Names the column of mixtures may have; the first one present is taken."""
SIZE_COLUMNS = ("parameters", "n_parameters", "params", "size")
TOKEN_COLUMNS = ("n_tokens", "tokens")
STEP_COLUMNS = ("step", "steps")
_UNITS = {"k": 1e3, "m": 1e6, "b": 1e9}
_Key: TypeAlias = tuple[str, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """Losses of mixtures at every size and at the same token counts."""

    mixture_ids: tuple[str, ...]
    domains: tuple[str, ...]
    weights: FloatArray
    """(n_mixtures, n_domains) realised token shares; rows sum to 1."""
    sizes: IntArray
    """(n_sizes,) parameters without embedding, rising."""
    n_tokens: IntArray
    """(n_points,) tokens trained on, rising; all at a constant learning rate."""
    targets: tuple[str, ...]
    losses: FloatArray
    """(n_mixtures, n_sizes, n_points, n_targets), finite; in one unit, such as bits per byte."""
    notices: tuple[str, ...] = ()
    """What was put right or left out while reading."""

    def __post_init__(self) -> None:
        check_weights(self.weights, n_domains=len(self.domains))
        shape = (len(self.mixture_ids), len(self.sizes), len(self.n_tokens), len(self.targets))
        if self.losses.shape != shape:
            raise DataError(
                f"a study's losses have shape {self.losses.shape}; its mixtures, sizes, points and "
                f"targets make {shape}. Give one loss for each."
            )
        for name, values in (("sizes", self.sizes), ("n_tokens", self.n_tokens)):
            if np.any(np.diff(values) <= 0):
                raise DataError(f"a study's {name} are {values.tolist()}; they must rise.")
        for place in np.argwhere(~np.isfinite(self.losses))[:1]:
            mixture, size = self.mixture_ids[place[0]], self.sizes[place[1]]
            raise DataError(
                f"mixture {mixture!r} at {size:,} parameters has no loss on "
                f"{self.targets[place[3]]!r} after {self.n_tokens[place[2]]:,} tokens. Leave the "
                "mixture out of the study, or measure it again."
            )

    def only(self, *, n_sizes: int) -> Self:
        """Return the study of the smallest sizes."""
        return type(self)(
            mixture_ids=self.mixture_ids,
            domains=self.domains,
            weights=self.weights,
            sizes=self.sizes[:n_sizes],
            n_tokens=self.n_tokens,
            targets=self.targets,
            losses=self.losses[:, :n_sizes],
            notices=self.notices,
        )


def write_study(path: Path, study: Study) -> None:
    """Write a study as Parquet, one row a mixture, size and point.

    Columns: ``mixture``, ``parameters``, ``n_tokens``, ``weight:<domain>``, ``loss:<target>``.
    """
    shape = study.losses.shape[:3]
    mixture, size, point = (axis.ravel() for axis in np.indices(shape))
    columns: dict[str, object] = {
        "mixture": [study.mixture_ids[place] for place in mixture],
        "parameters": study.sizes[size],
        "n_tokens": study.n_tokens[point],
    }
    for place, name in enumerate(study.domains):
        columns[f"weight:{name}"] = study.weights[mixture, place]
    for place, name in enumerate(study.targets):
        columns[f"loss:{name}"] = study.losses[..., place].ravel()
    pq.write_table(pa.table(columns), path)


def read_study(path: Path) -> Study:
    """Read a study written by `write_study`, or a Parquet or CSV table of the same columns.

    Rows may stand in any order.

    Raises:
        DataError: A column is missing, a row is missing or given twice, or a mixture's weights
            differ between its rows.
    """
    table = _read(path)
    names = table.column_names
    missing = [name for name in ("mixture", "parameters", "n_tokens") if name not in names]
    domains = tuple(name[7:] for name in names if name.startswith("weight:"))
    targets = tuple(name[5:] for name in names if name.startswith("loss:"))
    if missing or not domains or not targets:
        raise DataError(
            f"{path} has columns {', '.join(names)}; a study needs mixture, parameters, n_tokens, "
            "weight:<domain> and loss:<target>."
        )
    ids, mixture = np.unique(np.array(table["mixture"].to_pylist(), str), return_inverse=True)
    sizes, size = np.unique(table["parameters"].to_numpy().astype(np.int64), return_inverse=True)
    tokens, point = np.unique(table["n_tokens"].to_numpy().astype(np.int64), return_inverse=True)
    shape = (len(ids), len(sizes), len(tokens))
    flat = np.ravel_multi_index((mixture, size, point), shape)
    counts = np.bincount(flat, minlength=int(np.prod(shape)))
    if counts.max() > 1 or counts.min() < 1:
        place = np.unravel_index(int(np.argmax(counts != 1)), shape)
        number = counts.reshape(shape)[place]
        raise DataError(
            f"{path} has {number} rows for mixture {str(ids[place[0]])!r}, {sizes[place[1]]} "
            f"parameters and {tokens[place[2]]} tokens; a study needs exactly one for each "
            "mixture, size and token count. Leave out what was not measured everywhere."
        )
    return Study(
        mixture_ids=tuple(str(one) for one in ids),
        domains=domains,
        weights=_weights(path, table, domains, ids, mixture),
        sizes=sizes,
        n_tokens=tokens,
        targets=targets,
        losses=np.stack([_scatter(table[f"loss:{one}"], flat, shape) for one in targets], axis=-1),
    )


def read_study_csv(
    weights_path: Path, losses_path: Path, *, tokens_per_step: int | None = None
) -> Study:
    """Read somebody else's study: a table of mixtures and one of losses.

    The losses have a column that names the mixture, one of sizes (such as 70000000 or 70M,
    parameters without embedding), one of tokens or of steps, and one a target; matched by name.
    Mixtures not measured at every size and points not measured in every run are left out, with a
    notice.

    Args:
        weights_path: As `swarm.read_weights_csv` takes.
        losses_path: CSV in UTF-8 with a header.
        tokens_per_step: Tokens of a step, for a table of steps.

    Returns:
        The study, its mixtures in the order of the weights.

    Raises:
        DataError: A table cannot be read so; the message names row and column.
    """
    weights = read_weights_csv(weights_path)
    targets, rows = _read_losses(losses_path, tokens_per_step)
    sizes = sorted({size for _, size, _ in rows})
    measured = {(name, size) for name, size, _ in rows}
    kept = [name for name in weights.ids if all((name, size) in measured for size in sizes)]
    points = {
        (name, size): {tokens for one, at, tokens in rows if (one, at) == (name, size)}
        for name in kept
        for size in sizes
    }
    tokens = sorted(set.intersection(*points.values())) if kept else []
    if not tokens:
        raise DataError(
            f"{weights_path} and {losses_path} have {len(kept)} mixtures in common that were "
            f"measured at all {len(sizes)} sizes, and no token count that all of these share. "
            "Leave out the sizes that few were measured at, and measure all at the same tokens."
        )
    places = [weights.ids.index(name) for name in kept]
    return Study(
        mixture_ids=tuple(kept),
        domains=weights.columns,
        weights=weights.values[places],
        sizes=np.array(sizes, dtype=np.int64),
        n_tokens=np.array(tokens, dtype=np.int64),
        targets=targets,
        losses=np.array(
            [[[rows[name, size, at] for at in tokens] for size in sizes] for name in kept]
        ),
        notices=(*weights.notices, *_left_out(losses_path, weights, kept, tokens, rows)),
    )


def _left_out(
    path: Path,
    weights: SwarmTable,
    kept: Sequence[str],
    tokens: Sequence[int],
    rows: Iterable[_Key],
) -> tuple[str, ...]:
    keys = list(rows)
    every = {name for name, _, _ in keys} | set(weights.ids)
    gone = sorted(every - set(kept))
    n_points = len({at for name, _, at in keys if name in kept} - set(tokens))
    notices = []
    if gone:
        notices.append(
            f"{path}: {len(gone)} mixtures ({', '.join(gone[:5])}{', ...' * (len(gone) > 5)}) lack "
            "weights or a size and are left out"
        )
    if n_points:
        notices.append(f"{path}: {n_points} token counts are not in every run and are left out")
    return tuple(notices)


def _read_losses(
    path: Path, tokens_per_step: int | None
) -> tuple[tuple[str, ...], dict[_Key, list[float]]]:
    """Return the targets, and each row's losses by mixture, size and tokens."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *lines = [row for row in plain_csv.reader(file) if any(row)] or [[]]
    except (OSError, UnicodeDecodeError, plain_csv.Error) as error:
        raise DataError(f"losses table {path} is not CSV in UTF-8 ({error}).") from error
    names = [name.strip() for name in header]
    _refuse_header(path, names)
    mixture, size = _column(path, names, MIXTURE_COLUMNS), _column(path, names, SIZE_COLUMNS)
    in_steps = not set(TOKEN_COLUMNS) & set(names)
    at = _column(path, names, STEP_COLUMNS if in_steps else TOKEN_COLUMNS)
    if in_steps and tokens_per_step is None:
        raise DataError(
            f"{path} counts steps (column {names[at]!r}); say how many tokens a step has."
        )
    unit = tokens_per_step if in_steps and tokens_per_step is not None else 1
    known = {"", *MIXTURE_COLUMNS, *SIZE_COLUMNS, *TOKEN_COLUMNS, *STEP_COLUMNS}
    columns = [place for place, name in enumerate(names) if name not in known]
    rows: dict[_Key, list[float]] = {}
    for number, cells in enumerate(lines, start=2):
        if len(cells) != len(names):
            raise DataError(f"{path}: row {number} has {len(cells)} cells, not {len(names)}.")

        def value(place: int, row: int = number, cells: Sequence[str] = cells) -> float:
            return _number(path, row, names[place], cells[place])

        key = (cells[mixture].strip(), round(value(size)), round(value(at) * unit))
        if key in rows:
            raise DataError(
                f"{path}: row {number} repeats mixture {key[0]!r} at {key[1]} parameters and "
                f"{key[2]} tokens. Keep one row of each."
            )
        rows[key] = [value(place) for place in columns]
    return tuple(names[place] for place in columns), rows


def _refuse_header(path: Path, names: Sequence[str]) -> None:
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise DataError(f"{path}: found column {twice[0]!r} twice. Correct the header.")


def _column(path: Path, names: Sequence[str], allowed: Sequence[str]) -> int:
    for name in allowed:
        if name in names:
            return names.index(name)
    raise DataError(
        f"{path}: the header has no column named {' or '.join(allowed)} (found "
        f"{', '.join(names[:6])}). Rename the one that is meant."
    )


def _number(path: Path, row: int, name: str, cell: str) -> float:
    """Read a number; sizes and tokens may end in K, M or B."""
    text = cell.strip().lower()
    counted = name in (*SIZE_COLUMNS, *TOKEN_COLUMNS, *STEP_COLUMNS)
    unit = _UNITS.get(text[-1:], 1.0) if counted else 1.0
    try:
        value = float(text[:-1] if unit > 1.0 else text) * unit
    except ValueError:
        value = float("nan")
    if not np.isfinite(value) or (counted and value <= 0.0):
        raise DataError(
            f"{path}: row {row}, column {name!r} is {cell.strip()!r}; expected a finite number"
            f"{' above 0' if counted else ''}. Correct the row or remove it."
        )
    return value


def _read(path: Path) -> pa.Table:
    if path.suffix != ".csv":
        return pq.read_table(path)

    return csv.read_csv(path)


def _scatter(column: pa.ChunkedArray, flat: IntArray, shape: tuple[int, ...]) -> FloatArray:
    values = np.empty(int(np.prod(shape)))
    values[flat] = column.to_numpy()
    return values.reshape(shape)


def _weights(
    path: Path, table: pa.Table, domains: tuple[str, ...], ids: object, mixture: IntArray
) -> FloatArray:
    rows = np.column_stack([table[f"weight:{name}"].to_numpy() for name in domains])
    first = np.array([int(np.argmax(mixture == place)) for place in range(mixture.max() + 1)])
    weights: FloatArray = rows[first]
    apart = np.abs(rows - weights[mixture]).max(axis=1)
    if apart.max() > 1e-6:
        row = int(np.argmax(apart))
        raise DataError(
            f"{path} gives mixture {table['mixture'][row].as_py()!r} other weights in row {row} "
            "than before; name each mixture by an id of its own."
        )
    return weights
