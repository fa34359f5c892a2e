"""Hand a design's runs to another trainer: one config a run, and what it was told, for ingest."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from cuvee import artifacts
from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.corpus.tokens import TOKENIZER
from cuvee.errors import ArtifactError, ConfigError
from cuvee.export.names import safe_names
from cuvee.export.run_configs import (
    Trainer,
    TrainerSweep,
    drawn_weights,
    trainer_of,
    write_shared,
)
from cuvee.methods import chain, chain_files
from cuvee.methods.job import Job
from cuvee.methods.pool import Prepared
from cuvee.methods.regmix import RegMixConfig
from cuvee.tables.design import Design, read_design, write_design

FOLDER = "trainer"
PLAN = "plan.json"
DRAWN = "drawn.parquet"


def write_trainer_configs(
    settings: RegMixConfig, job: Job, *, to: str, root: str | None, data: Mapping[str, str]
) -> dict[str, Json]:
    """Write one config for each run of the finished design, below ``trainer/<to>``.

    Args:
        settings: The run's config; its proxies' tokens, context and batch are the trainer's.
        job: Where the design is.
        to: The trainer's name.
        root: Path below which the trainer finds ``data/<domain>``; None: the configs' folder.
        data: Other paths for some domains.

    Returns:
        The folder, the runs, their use, and notes of what was left out or is not matched.

    Raises:
        ConfigError: There is no such trainer or domain, the trainer could not read a path, or the
            config takes over runs of an earlier command.
        ArtifactError: The configs were written with other options.
    """
    trainer = trainer_of(to)
    if settings.reuse is not None:
        raise ConfigError(
            "the config takes over runs of cuvee's own proxies (reuse), which runs of another "
            "trainer cannot stand beside. Leave reuse out."
        )
    prepared = chain.open_stores(settings, job)
    folder = job.folder(FOLDER, to)
    sweep = _sweep(settings, prepared, folder, root=root, data=data)
    inputs = {"design": artifacts.digest_of(job.folder("design"))}
    options: dict[str, Json] = {
        "to": to,
        "paths": dict(zip(sweep.domains, sweep.paths, strict=True)),
    }
    if artifacts.is_done(folder):
        _check_same(folder, options)
    else:
        made = chain_files.read_made_design(job)
        with artifacts.writing(
            folder, stage="design", settings=options, seed=settings.seed, inputs=inputs
        ) as aside:
            _write(aside, trainer, to, made, sweep, settings)
    return {
        "folder": str(folder),
        "usage": trainer.usage,
        **cast(dict[str, Json], artifacts.read_json(folder / PLAN)),
    }


def read_drawn(job: Job) -> tuple[Design, dict[str, Json]]:
    """Read the mixtures that a trainer was told, and the plan; the design where none was written.

    Raises:
        ArtifactError: Configs were written for several trainers that were told different mixtures.
    """
    made = chain_files.read_made_design(job)
    done = sorted(one for one in job.folder(FOLDER).glob("*") if artifacts.is_done(one))
    if not done:
        return made, {}
    found = [read_design(one / DRAWN) for one in done]
    if any(not np.array_equal(one.weights, found[0].weights) for one in found[1:]):
        raise ArtifactError(
            f"{job.folder(FOLDER)} holds configs of {len(done)} trainers that were told different "
            "mixtures. Delete those that did not train the runs."
        )
    return found[0], cast(dict[str, Json], artifacts.read_json(done[0] / PLAN))


def describe_configs(made: Mapping[str, Any]) -> str:
    """Say what was written, for people."""
    runs = made["runs"]
    lines = [
        f"{len(runs)} configs for {made['trainer']}, of {made['n_tokens']:,} tokens each: "
        f"{made['folder']}/RUN",
        f"weights are shares of {made['unit']}",
        *cast(list[str], made["notes"]),
        f"use: {made['usage']}",
        "then: cuvee ingest OUT --from LOSSES",
    ]
    return "\n".join(lines)


def _sweep(
    settings: RegMixConfig,
    prepared: Prepared,
    folder: Path,
    *,
    root: str | None,
    data: Mapping[str, str],
) -> TrainerSweep:
    statistics, proxy = prepared.statistics, settings.proxy
    unknown = sorted(set(data) - set(statistics.domains))
    if unknown:
        raise ConfigError(
            f"--data names {unknown[0]!r}, which is not a domain; domains are "
            f"{', '.join(statistics.domains)}."
        )
    place = folder.resolve().as_posix()
    files, below = safe_names(statistics.domains), (root or place).rstrip("/")
    paths = [
        data.get(name, f"{below}/data/{file}")
        for name, file in zip(statistics.domains, files, strict=True)
    ]
    share = proxy.n_tokens / chain.target_tokens(settings, prepared)
    return TrainerSweep(
        domains=statistics.domains,
        files=files,
        paths=tuple(paths),
        n_tokens=proxy.n_tokens,
        context=proxy.context,
        batch_tokens=proxy.batch_tokens,
        phases=settings.phases,
        available_tokens=statistics.available_tokens,
        document_tokens=statistics.n_tokens / statistics.n_documents,
        fraction=min(1.0, share) if proxy.repetition_matched else 1.0,
        tokenizer=f"{below}/{TOKENIZER.partition('.')[0]}",
        vocabulary_size=prepared.store.vocabulary_size,
        folder=place,
    )


def _check_same(folder: Path, options: Mapping[str, Json]) -> None:
    manifest = cast(dict[str, Json], artifacts.read_json(folder / artifacts.MANIFEST))
    if manifest["settings"] != options:
        raise ArtifactError(
            f"{folder} was written with another --root or --data. Give the same, or delete it."
        )


def _write(
    folder: Path,
    trainer: Trainer,
    to: str,
    made: Design,
    sweep: TrainerSweep,
    settings: RegMixConfig,
) -> None:
    left_out: dict[str, Json] = {}
    rows: list[FloatArray] = []
    shares = np.asarray(settings.phases)[:, None]
    for run_id, row in zip(made.run_ids, made.weights, strict=True):
        planned = row.reshape(len(settings.phases), -1) / shares
        weights, small = drawn_weights(planned, sweep)
        (folder / run_id).mkdir()
        trainer.write(folder / run_id, weights, sweep)
        rows.append((weights * shares).ravel())
        if small.any():
            names = [sweep.domains[place] for place in np.flatnonzero(small.any(axis=0)).tolist()]
            left_out[run_id] = names
    write_shared(folder, to, sweep)
    write_design(
        folder / DRAWN,
        Design(
            run_ids=made.run_ids,
            kinds=made.kinds,
            domains=made.domains,
            weights=np.stack(rows),
        ),
    )
    plan: dict[str, Json] = {
        "trainer": trainer.title,
        "unit": trainer.unit,
        "runs": list(made.run_ids),
        "n_tokens": sweep.n_tokens,
        "context": sweep.context,
        "batch_tokens": sweep.batch_tokens,
        "phase_steps": sweep.steps(),
        "fraction": sweep.fraction,
        "domains": {
            name: {
                "path": path,
                "draw_from_tokens": int(sweep.fraction * tokens),
                "document_tokens": mean,
            }
            for name, path, tokens, mean in zip(
                sweep.domains,
                sweep.paths,
                sweep.available_tokens.tolist(),
                sweep.document_tokens.tolist(),
                strict=True,
            )
        },
        "left_out": left_out,
        "notes": _notes(trainer, made, sweep, settings, len(left_out)),
    }
    artifacts.write_json(folder / PLAN, plan)


def _notes(
    trainer: Trainer, made: Design, sweep: TrainerSweep, settings: RegMixConfig, n_changed: int
) -> list[str]:
    notes = list(trainer.notes)
    n_zero = int((made.weights == 0.0).any(axis=1).sum())
    if n_zero:
        notes.append(f"domains of weight 0 are left out of {n_zero} configs")
    if n_changed:
        notes.append(
            f"domains of less than one sequence of {sweep.context:,} tokens are left out of "
            f"{n_changed} configs and of the mixtures that are fitted; {PLAN} names them"
        )
    if sweep.fraction < 1.0 and not trainer.matches_repetition:
        notes.append(
            f"the target run would repeat more than these runs do: give the trainer the same "
            f"{sweep.fraction:.3g} of each domain in all runs ({PLAN}: draw_from_tokens)"
        )
    if settings.in_rounds:
        notes.append(
            f"these are the {len(made.run_ids)} runs to begin with (runs: auto); runs: design lays "
            f"out all {settings.design.n_runs} at once"
        )
    return notes
