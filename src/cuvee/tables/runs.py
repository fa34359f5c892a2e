"""The measurements: final losses of every run, and the trajectories they end."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cuvee.arrays import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Runs:
    """Final measurements of a sweep, one row a run."""

    run_ids: tuple[str, ...]
    domains: tuple[str, ...]
    weights: FloatArray
    """(n_runs, n_domains) realised token shares; rows sum to 1."""
    targets: tuple[str, ...]
    """Names of the evaluation sets: ``target/<name>`` and ``domain/<name>``."""
    losses: FloatArray
    """(n_runs, n_targets) nats per token; NaN only where the run diverged, or was reused and never
    measured on that set."""
    losses_bpb: FloatArray
    """(n_runs, n_targets) bits per byte."""
    diverged: BoolArray
    """(n_runs,) True where the loss became NaN or spiked, or where the run could not be trained;
    kept, marked, left out of fits."""
    n_tokens: IntArray
    """(n_runs,) tokens trained on."""
    untrained: Mapping[str, str] = field(default_factory=dict)
    """Why a run could not be trained, by run id; its weights are those it was to have."""

    def column(self, target: str) -> FloatArray:
        """Return the (n_runs,) bits per byte of one evaluation set."""
        column: FloatArray = self.losses_bpb[:, self.targets.index(target)]
        return column


@dataclass(frozen=True, kw_only=True, slots=True)
class Trajectory:
    """Losses of one run at several points of its training, in long form."""

    n_tokens: IntArray
    """(n_points,) tokens trained on so far."""
    targets: tuple[str, ...]
    losses: FloatArray
    """(n_points, n_targets) nats per token."""
    losses_bpb: FloatArray
    """(n_points, n_targets) bits per byte."""


def write_runs(path: Path, runs: Runs) -> None:
    """Write runs as Parquet: ids, ``weight:<domain>``, ``loss:<set>`` and ``bpb:<set>`` columns.

    Where runs could not be trained there is a column ``untrained`` too, the reason or null.
    """
    columns: dict[str, object] = {
        "run_id": list(runs.run_ids),
        "diverged": runs.diverged,
        "n_tokens": runs.n_tokens,
    }
    if runs.untrained:
        columns["untrained"] = [runs.untrained.get(name) for name in runs.run_ids]
    for prefix, names, values in (
        ("weight", runs.domains, runs.weights),
        ("loss", runs.targets, runs.losses),
        ("bpb", runs.targets, runs.losses_bpb),
    ):
        for position, name in enumerate(names):
            columns[f"{prefix}:{name}"] = values[:, position]
    pq.write_table(pa.table(columns), path)


def read_runs(path: Path) -> Runs:
    """Read runs written by `write_runs`."""
    table = pq.read_table(path)

    def block(prefix: str) -> tuple[tuple[str, ...], FloatArray]:
        names = [name for name in table.column_names if name.startswith(prefix + ":")]
        values = np.column_stack([table[name].to_numpy() for name in names])
        return tuple(name.split(":", 1)[1] for name in names), values

    domains, weights = block("weight")
    targets, losses = block("loss")
    run_ids = tuple(table["run_id"].to_pylist())
    reasons = table["untrained"].to_pylist() if "untrained" in table.column_names else []
    return Runs(
        run_ids=run_ids,
        domains=domains,
        weights=weights,
        targets=targets,
        losses=losses,
        losses_bpb=block("bpb")[1],
        diverged=table["diverged"].to_numpy(zero_copy_only=False).astype(bool),
        n_tokens=table["n_tokens"].to_numpy().astype(np.int64),
        untrained={name: why for name, why in zip(run_ids, reasons, strict=False) if why},
    )


def write_trajectory(path: Path, trajectory: Trajectory) -> None:
    """Write a trajectory as Parquet: ``n_tokens``, ``loss:<set>`` and ``bpb:<set>`` columns."""
    columns: dict[str, object] = {"n_tokens": trajectory.n_tokens}
    for prefix, values in (("loss", trajectory.losses), ("bpb", trajectory.losses_bpb)):
        for position, name in enumerate(trajectory.targets):
            columns[f"{prefix}:{name}"] = values[:, position]
    pq.write_table(pa.table(columns), path)


def read_trajectory(path: Path) -> Trajectory:
    """Read a trajectory written by `write_trajectory`."""
    table = pq.read_table(path)
    targets = tuple(name[5:] for name in table.column_names if name.startswith("loss:"))
    stack = np.column_stack
    return Trajectory(
        n_tokens=table["n_tokens"].to_numpy().astype(np.int64),
        targets=targets,
        losses=stack([table[f"loss:{name}"].to_numpy() for name in targets]),
        losses_bpb=stack([table[f"bpb:{name}"].to_numpy() for name in targets]),
    )
