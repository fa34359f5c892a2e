"""Parameter vectors to be measured: the design of a method whose rows are no mixtures."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cuvee.arrays import FloatArray
from cuvee.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Vectors:
    """Parameters, one row a run."""

    run_ids: tuple[str, ...]
    """Unique names, such as ``natural`` or ``draw-007``."""
    kinds: tuple[str, ...]
    """Why each row is there: ``natural``, ``top`` or ``draw``."""
    names: tuple[str, ...]
    """(n_parameters,) of the columns."""
    values: FloatArray
    """(n_runs, n_parameters) finite."""

    def __post_init__(self) -> None:
        if self.values.shape != (len(self.run_ids), len(self.names)):
            raise DataError(
                f"vectors have shape {self.values.shape}; {len(self.run_ids)} runs and "
                f"{len(self.names)} parameters make another."
            )
        if not np.all(np.isfinite(self.values)):
            raise DataError("a vector's parameter is not finite.")


def write_vectors(path: Path, vectors: Vectors) -> None:
    """Write vectors as Parquet: ``run_id``, ``kind``, then one column a parameter in order."""
    columns: dict[str, object] = {"run_id": list(vectors.run_ids), "kind": list(vectors.kinds)}
    columns |= {name: vectors.values[:, place] for place, name in enumerate(vectors.names)}
    pq.write_table(pa.table(columns), path)


def read_vectors(path: Path) -> Vectors:
    """Read vectors written by `write_vectors`."""
    table = pq.read_table(path)
    names = tuple(table.column_names[2:])
    return Vectors(
        run_ids=tuple(table["run_id"].to_pylist()),
        kinds=tuple(table["kind"].to_pylist()),
        names=names,
        values=np.column_stack([table[name].to_numpy() for name in names]),
    )
