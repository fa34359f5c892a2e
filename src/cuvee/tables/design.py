"""The design: the mixtures to be measured, one row a run."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cuvee.arrays import FloatArray
from cuvee.simplex import check_weights

REUSED = "reused"
"""Kind of a run that an earlier command measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Design:
    """Mixtures to be measured."""

    run_ids: tuple[str, ...]
    """Unique names, such as ``natural``, ``uniform``, ``own-qa`` or ``draw-007``."""
    kinds: tuple[str, ...]
    """Why each row is there: ``natural``, ``uniform``, ``own``, ``draw``, ``optimal``, ``ladder``
    or ``sequential``; with phases ``late``, ``early``, ``same`` or ``change``; `REUSED`."""
    domains: tuple[str, ...]
    """Columns; with reused runs the pool's domains first, then those that are gone."""
    weights: FloatArray
    """(n_runs, n_domains) token shares; rows sum to 1."""

    def __post_init__(self) -> None:
        check_weights(self.weights, n_domains=len(self.domains))

    def row(self, run_id: str) -> FloatArray:
        """Return the (n_domains,) weights of one run."""
        weights: FloatArray = self.weights[self.run_ids.index(run_id)]
        return weights


def write_design(path: Path, design: Design) -> None:
    """Write a design as Parquet: ``run_id``, ``kind``, then one column a domain in order."""
    columns = {"run_id": list(design.run_ids), "kind": list(design.kinds)}
    table = pa.table({**columns, **_columns(design.domains, design.weights)})
    pq.write_table(table, path)


def read_design(path: Path) -> Design:
    """Read a design written by `write_design`."""
    table = pq.read_table(path)
    domains = tuple(table.column_names[2:])
    return Design(
        run_ids=tuple(table["run_id"].to_pylist()),
        kinds=tuple(table["kind"].to_pylist()),
        domains=domains,
        weights=np.column_stack([table[name].to_numpy() for name in domains]),
    )


def _columns(names: tuple[str, ...], values: FloatArray) -> dict[str, FloatArray]:
    return {name: values[:, position] for position, name in enumerate(names)}
