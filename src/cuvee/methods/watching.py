"""How far a running sweep is, read from its artefacts alone.

Nothing is asked of the process that works: its folder may lie on a shared filesystem. The pace is
measured between the times at which runs were finished, so that clocks of two machines never mix.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow.parquet as pq
import yaml

from cuvee import artifacts
from cuvee.artifacts import Json
from cuvee.errors import ArtifactError
from cuvee.methods.showing import read_artifact
from cuvee.proxy.sizes import model_size
from cuvee.report.numbers import clean, decimals, duration
from cuvee.tables.runs import read_trajectory

_LAST = 5
"""Runs whose losses are listed."""
_PACE_RUNS = 32
"""Latest runs that the pace is measured over."""
_BAR = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedRun:
    """One run of a sweep that has ended."""

    name: str
    size: str
    """Of its model; empty where another trainer named none."""
    n_parameters: float
    """Of its model, embedding and head apart; 0 where they are not known."""
    ended: float
    """Seconds since 1970, by the clock of the folder."""
    loss_bpb: float
    """Mean bits per byte over the targets; NaN where it diverged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepProgress:
    """The runs of one folder."""

    name: str
    finished: tuple[FinishedRun, ...]
    """In the order they ended."""
    n_total: int | None
    """Runs in all; None where the artefacts do not say."""

    @property
    def runs_per_hour(self) -> float | None:
        """Pace of the latest runs; None below two."""
        ended = [run.ended for run in self.finished[-_PACE_RUNS:]]
        if len(ended) < 2 or ended[-1] <= ended[0]:
            return None
        return 3600.0 * (len(ended) - 1) / (ended[-1] - ended[0])

    @property
    def expected_end(self) -> float | None:
        """Seconds since 1970 at which the last run ends at that pace; None where unknown."""
        pace = self.runs_per_hour
        if pace is None or self.n_total is None or len(self.finished) >= self.n_total:
            return None
        return self.finished[-1].ended + 3600.0 * (self.n_total - len(self.finished)) / pace

    @property
    def best(self) -> FinishedRun | None:
        """The run with the lowest loss among those of the largest size; None where all diverged."""
        known = [run for run in self.finished if np.isfinite(run.loss_bpb)]
        most = max((run.n_parameters for run in known), default=0.0)
        largest = [run for run in known if run.n_parameters == most]
        return min(largest, key=lambda run: run.loss_bpb, default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """A run's folder at one moment."""

    folder: str
    stages: tuple[tuple[str, str], ...]
    """Stage and how far it is."""
    sweeps: tuple[SweepProgress, ...]
    """The folders of runs, the one worked at last."""
    finished: bool
    """The report is written and nobody works there."""


def watch(out: Path) -> Watched:
    """Read how far a run is.

    Args:
        out: Its folder.

    Raises:
        ArtifactError: It holds no run.
    """
    if not (out / "config.yaml").is_file():
        raise ArtifactError(f"{out} holds no run; give the --out folder of `cuvee run`.")
    settings = cast(
        Mapping[str, Json], yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8"))
    )
    stages = cast(Mapping[str, str], read_artifact(out, rows=1)["stages"]) if _begun(out) else {}
    sweeps = []
    for folder in sorted(one for one in out.iterdir() if one.is_dir()):
        runs = _finished_runs(folder)
        if runs:
            total = _n_planned(out, settings) if folder.name == "sweep" else None
            sweeps.append(SweepProgress(name=folder.name, finished=runs, n_total=total))
    sweeps.sort(key=lambda one: one.finished[-1].ended)
    return Watched(
        folder=str(out),
        stages=tuple(stages.items()),
        sweeps=tuple(sweeps),
        finished=(out / "report.html").exists() and not (out / artifacts.LOCK).exists(),
    )


def describe_watched(found: Watched) -> str:
    """Write what `watch` found as plain text; names cannot steer the terminal."""
    lines = [clean(found.folder) + (": finished" if found.finished else "")]
    lines += [f"  {clean(name)}: {state}" for name, state in found.stages]
    if found.sweeps:
        lines += ["", *map(_headline, found.sweeps), *_losses(found.sweeps[-1])]
    return "\n".join(lines)


def _headline(sweep: SweepProgress) -> str:
    n_done, total = len(sweep.finished), sweep.n_total
    if total:
        filled = min(_BAR, _BAR * n_done // total)
        bar = "#" * filled + "." * (_BAR - filled)
        head = f"{clean(sweep.name)}  [{bar}]  {n_done} of {total} runs"
    else:
        head = f"{clean(sweep.name)}  {n_done} runs"
    pace, end = sweep.runs_per_hour, sweep.expected_end
    if pace is not None:
        head += f", {pace:.1f} an hour"
    if end is not None:
        left = end - sweep.finished[-1].ended
        clock = time.strftime("%Y-%m-%d %H:%M", time.localtime(end))
        head += f", end expected {clock} ({duration(left)} after the last)"
    return head


def _losses(sweep: SweepProgress) -> list[str]:
    """Write the best and the last losses of one folder."""
    lines = []
    if sweep.best is not None:
        best = sweep.best
        size = f"{clean(best.size)}, " if best.size else ""
        lines.append(
            f"best of {clean(sweep.name)} so far: {clean(best.name)} "
            f"{decimals(best.loss_bpb)} bits per byte ({size}mean over the targets)"
        )
    for run in sweep.finished[: -_LAST - 1 : -1]:
        loss = decimals(run.loss_bpb) if np.isfinite(run.loss_bpb) else "diverged"
        clock = time.strftime("%H:%M:%S", time.localtime(run.ended))
        lines.append(f"  {clock}  {loss:>8}  {clean(run.name)}")
    return lines


def _begun(out: Path) -> bool:
    return any(one.is_dir() and not one.name.startswith(".") for one in out.iterdir())


def _finished_runs(folder: Path) -> tuple[FinishedRun, ...]:
    """Read the runs of a folder that have ended; one that vanishes meanwhile is left out."""
    runs = []
    for path in folder.glob("*/trajectory.parquet"):
        try:
            runs.append(_finished_run(path.parent))
        except (FileNotFoundError, ArtifactError):
            continue
    return tuple(sorted(runs, key=lambda run: (run.ended, run.name)))


def _finished_run(folder: Path) -> FinishedRun:
    ended = (folder / artifacts.DONE).stat().st_mtime
    result = cast(Mapping[str, Json], artifacts.read_json(folder / "result.json"))
    spec = cast(Mapping[str, Json], artifacts.read_json(folder / "spec.json"))
    loss = float("nan")
    if not result["diverged"]:
        trajectory = read_trajectory(folder / "trajectory.parquet")
        loss = _mean_loss(trajectory.targets, trajectory.losses_bpb[-1].tolist())
    size = str(spec.get("size", ""))
    known = model_size(size).n_parameters if size else spec.get("n_parameters")
    return FinishedRun(
        name=folder.name,
        size=size,
        n_parameters=float(cast(float, known or 0.0)),
        ended=ended,
        loss_bpb=loss,
    )


def _mean_loss(names: Sequence[str], losses: Sequence[float]) -> float:
    """Return the mean over the targets, or over the domains' own text where there are none."""
    pairs = list(zip(names, losses, strict=True))
    of_targets = [loss for name, loss in pairs if name.startswith("target/")]
    return float(np.mean(of_targets or [loss for _, loss in pairs]))


def _n_planned(out: Path, settings: Mapping[str, Json]) -> int | None:
    """Count the runs of the design, with what its rounds have added so far."""
    folders = [out / "design", *sorted((out / "rounds").glob("*"))]
    tables = [path for one in folders if artifacts.is_done(one) for path in one.glob("*.parquet")]
    if not tables:
        return None
    rows = max(pq.read_metadata(path).num_rows for path in tables)
    sizes = settings.get("sizes")
    return int(rows) * (len(sizes) if isinstance(sizes, list) and sizes else 1)
