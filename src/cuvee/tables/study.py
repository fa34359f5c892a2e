"""A study: every mixture trained at several sizes, with its losses along the way."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from cuvee.arrays import FloatArray, IntArray
from cuvee.errors import DataError
from cuvee.simplex import check_weights


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
            f"{path} has {number} rows for mixture {str(ids[place[0]])!r}, {sizes[place[1]]} parameters "
            f"and {tokens[place[2]]} tokens; a study needs exactly one for each mixture, size and "
            "token count. Leave out what was not measured everywhere."
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
