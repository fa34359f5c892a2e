"""Read back what another trainer measured on a design, as the runs that fit and search read."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, cast

import numpy as np

from cuvee import artifacts
from cuvee.arrays import BoolArray, FloatArray
from cuvee.artifacts import Json
from cuvee.corpus.store import TokenStore
from cuvee.errors import ArtifactError, ConfigError, DataError
from cuvee.methods.job import Job
from cuvee.methods.measure import INGEST
from cuvee.methods.pool import Prepared, open_prepared
from cuvee.methods.regmix import RegMixConfig, load_config
from cuvee.methods.trainer_configs import read_drawn
from cuvee.policy.mixture import column_names
from cuvee.proxy.sweep import collect
from cuvee.tables.design import Design
from cuvee.tables.logged_losses import LoggedColumns, LoggedRun, read_logged
from cuvee.tables.runs import Trajectory, write_runs, write_trajectory

_SHORT = 0.01
"""Share of its tokens that a run may lack, or runs may differ by: trainers count whole batches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestConfig:
    """What the logged losses are."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    unit: Literal["nats", "bpb"] = "nats"
    """nats per token, or bits per byte."""
    tokens_per_byte: Mapping[str, float] = field(default_factory=dict)
    """Of some targets, as the trainer's tokenizer counts them, where losses are nats; of others the
    pool's tokenizer tells."""

    def __post_init__(self) -> None:
        if self.unit not in ("nats", "bpb"):
            raise ConfigError(f"--unit is {self.unit!r}; choose nats or bpb.")
        for name, ratio in self.tokens_per_byte.items():
            if not (ratio > 0.0 and math.isfinite(ratio)):
                raise ConfigError(
                    f"tokens per byte of {name!r} are {ratio}; give a number above 0."
                )


def ingest(
    job: Job, files: Sequence[Path], *, columns: LoggedColumns, settings: IngestConfig
) -> dict[str, Json]:
    """Read logs of all runs of a design; `cuvee fit` and `cuvee search` go on from them.

    Writes a folder a run below ``sweep``, with its trajectory, and the table ``runs``. Mixtures are
    those that the trainer was told (`trainer_configs`), or the design's. A run with a loss that is
    NaN or infinite diverged: it is kept, marked, and left out of fits.

    Args:
        job: The folder that `cuvee design` has worked in.
        files: The logs.
        columns: What their columns are called.
        settings: The losses' unit.

    Returns:
        Runs, points, targets, tokens, those that diverged, and notes.

    Raises:
        ArtifactError: There is no design, or runs are there already.
        DataError: The logs are not of the design's runs and targets.
    """
    chain_settings = _settings(job)
    prepared = open_prepared(job, chain_settings.pool, chain_settings.targets)
    made, plan = read_drawn(job)
    if artifacts.is_done(job.folder("runs")) or job.folder("sweep").exists():
        raise ArtifactError(
            f"{job.out} holds measured runs already ({job.folder('sweep')}); ingest into a folder "
            "where only `cuvee design` has worked, or delete its sweep and runs."
        )
    ratios = _tokens_per_byte(prepared, settings)
    logged, targets = read_logged(files, columns, tuple(ratios))
    lacking = sorted(set(prepared.objective_names) - set(targets))
    if lacking:
        raise DataError(
            f"no column is of target {lacking[0]!r}, which the objective holds; found "
            f"{', '.join(targets)}. Name it with --target TARGET=COLUMN."
        )
    _check_runs(made, logged)
    n_planned = int(plan.get("n_tokens", chain_settings.proxy.n_tokens))  # type: ignore[arg-type]
    diverged = [name for name in made.run_ids if not np.isfinite(logged[name].losses).all()]
    _check_lengths(logged, diverged, n_planned)
    ratio = np.array([ratios[name] for name in targets])
    names = column_names(prepared.statistics.domains, len(chain_settings.phases))
    _write_sweep(job, made, logged, targets, ratio, settings, names, chain_settings.seed)
    return {
        "folder": str(job.folder("runs")),
        "n_runs": len(made.run_ids),
        "n_points": int(sum(len(one.n_tokens) for one in logged.values())),
        "targets": list(targets),
        "n_tokens": int(max(one.n_tokens[-1] for one in logged.values())),
        "diverged": list(diverged),
        "notes": _notes(settings, targets, plan),
    }


def describe_ingested(found: Mapping[str, Json]) -> str:
    """Say what was read, for people."""
    diverged = cast(Sequence[str], found["diverged"])
    lines = [
        f"{found['n_runs']} runs, {found['n_points']} points, {found['n_tokens']:,} tokens each: "
        f"{found['folder']}"
    ]
    if diverged:
        lines.append(f"diverged, and left out of every fit: {', '.join(diverged)}")
    return "\n".join([*lines, *cast(Sequence[str], found["notes"])])


def _settings(job: Job) -> RegMixConfig:
    path = job.folder("config.yaml")
    if not path.exists():
        raise ArtifactError(f"{job.out} holds no design; run `cuvee design CONFIG --out` first.")
    return load_config(path)


def _tokens_per_byte(prepared: Prepared, settings: IngestConfig) -> dict[str, float]:
    """Return the tokens a byte of every evaluation set, as given or by the pool's tokenizer."""
    ratios: dict[str, float] = {}
    if prepared.targets is not None:
        ratios |= _ratios(prepared.targets, "target", side=0)
    ratios |= _ratios(prepared.store, "domain", side=1)
    for name, ratio in settings.tokens_per_byte.items():
        known = [one for one in (name, f"target/{name}", f"domain/{name}") if one in ratios]
        if not known:
            raise ConfigError(
                f"--tokens-per-byte names {name!r}, which is not a target; targets are "
                f"{', '.join(ratios)}."
            )
        ratios[known[0]] = ratio
    return ratios


def _ratios(store: TokenStore, kind: str, *, side: int) -> dict[str, float]:
    own = store.side == side
    n_domains = len(store.domains)
    tokens = np.bincount(store.domain[own], store.n_tokens[own] - 1.0, minlength=n_domains)
    n_bytes = np.bincount(store.domain[own], store.n_bytes[own], minlength=n_domains)
    ratio = tokens / np.maximum(n_bytes, 1.0)
    return {f"{kind}/{name}": one for name, one in zip(store.domains, ratio.tolist(), strict=True)}


def _check_runs(made: Design, logged: Mapping[str, LoggedRun]) -> None:
    unknown = sorted(set(logged) - set(made.run_ids))
    if unknown:
        raise DataError(
            f"the logs name run {unknown[0]!r}, which is not in the design; its runs are "
            f"{', '.join(made.run_ids[:8])}{', ...' * (len(made.run_ids) > 8)}. Correct the name, "
            "or leave the run out."
        )
    missing = [name for name in made.run_ids if name not in logged]
    if missing:
        raise DataError(
            f"the logs lack {len(missing)} of the design's {len(made.run_ids)} runs: "
            f"{', '.join(missing[:8])}{', ...' * (len(missing) > 8)}. Train them; of one that "
            "failed give a row with the loss nan, and it counts as diverged."
        )


def _check_lengths(
    logged: Mapping[str, LoggedRun], diverged: Sequence[str], n_planned: int
) -> None:
    """Refuse runs that are not finished, or that saw different amounts of text or sizes."""
    ends = {
        name: int(one.n_tokens[-1]) for name, one in logged.items() if name not in set(diverged)
    }
    if not ends:
        raise DataError("every run diverged; lower the trainer's learning rate.")
    shortest, longest = min(ends, key=lambda name: ends[name]), max(ends.values())
    if ends[shortest] < (1.0 - _SHORT) * n_planned:
        raise DataError(
            f"run {shortest!r} ends at {ends[shortest]:,} of {n_planned:,} tokens "
            "(proxy.n_tokens). Finish it, or mark it as diverged by a loss of nan."
        )
    if ends[shortest] < (1.0 - _SHORT) * longest:
        raise DataError(
            f"run {shortest!r} ends at {ends[shortest]:,} tokens and another at {longest:,}; runs "
            "are compared at equal tokens. Cut the logs to the same."
        )
    sizes = sorted({one.size for one in logged.values() if one.size is not None})
    if len(sizes) > 1:
        raise DataError(
            f"the logs are of {len(sizes)} sizes ({sizes[0]:,}, {sizes[1]:,} ...); a design is "
            "measured at one. Use `cuvee fit --weights --losses --at-size` for several."
        )


def _write_sweep(
    job: Job,
    made: Design,
    logged: Mapping[str, LoggedRun],
    targets: tuple[str, ...],
    ratio: FloatArray,
    settings: IngestConfig,
    columns: Sequence[str],
    seed: int,
) -> None:
    inputs = {"design": artifacts.digest_of(job.folder("design"))}
    for run_id, row in zip(made.run_ids, made.weights.tolist(), strict=True):
        weights = dict(zip(columns, row, strict=True))
        with artifacts.writing(
            job.folder("sweep", run_id), stage=INGEST, settings={}, seed=seed, inputs=inputs
        ) as aside:
            _write_run(aside, logged[run_id], weights, targets, ratio, settings)
    runs = collect(made.run_ids, job.folder("sweep"))
    made_of = {name: artifacts.digest_of(job.folder("sweep", name)) for name in made.run_ids}
    with artifacts.writing(
        job.folder("runs"), stage=INGEST, settings={}, seed=seed, inputs=made_of
    ) as aside:
        write_runs(aside / "runs.parquet", runs)


def _write_run(
    folder: Path,
    run: LoggedRun,
    weights: Mapping[str, float],
    targets: tuple[str, ...],
    ratio: FloatArray,
    settings: IngestConfig,
) -> None:
    finite: BoolArray = np.all(np.isfinite(run.losses), axis=1)
    n_kept = len(finite) if finite.all() else int(np.argmin(finite))
    nats = run.losses[:n_kept]
    factor = ratio / math.log(2.0)
    if settings.unit == "bpb":
        nats = nats / factor
    write_trajectory(
        folder / "trajectory.parquet",
        Trajectory(
            n_tokens=run.n_tokens[:n_kept], targets=targets, losses=nats, losses_bpb=nats * factor
        ),
    )
    artifacts.write_json(folder / "spec.json", {"trainer": "other", "n_parameters": run.size})
    artifacts.write_json(
        folder / "result.json",
        {
            "diverged": n_kept < len(finite),
            "n_tokens": int(run.n_tokens[-1]),
            "n_parameters": run.size,
            "columns": list(weights),
            "weights": dict(weights),
            "sets": list(targets),
            "tokens_per_byte": dict(zip(targets, ratio.tolist(), strict=True)),
            "training_losses": [],
        },
    )


def _notes(settings: IngestConfig, targets: Sequence[str], plan: Mapping[str, Json]) -> list[str]:
    notes = []
    given = {name.rpartition("/")[2] for name in settings.tokens_per_byte}
    if settings.unit == "nats" and any(name.rpartition("/")[2] not in given for name in targets):
        notes.append(
            "losses are turned into bits per byte by the pool's tokenizer; where the trainer's is "
            "another, give --tokens-per-byte TARGET=NUMBER or log bits per byte (--unit bpb)"
        )
    if not plan:
        notes.append("no configs were written for a trainer: mixtures are the design's")
    return notes
