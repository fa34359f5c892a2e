"""One pass over the pool's text for one criterion: a task a shard, then one label column."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cuvee import artifacts
from cuvee.arrays import FloatArray, KeyArray
from cuvee.artifacts import Json
from cuvee.config import dump, parse
from cuvee.corpus.pool import PoolConfig, Shard
from cuvee.corpus.read import read_batches
from cuvee.errors import ArtifactError, DataError
from cuvee.executors import Task, run_tasks
from cuvee.labels.scorers import SCORE, Scorer, batch_scorer
from cuvee.randomness import document_keys

__all__ = [
    "SCORE",
    "SCORES",
    "ColumnTasks",
    "LabelPass",
    "Scorer",
    "align",
    "label_shard",
    "read_column",
    "run_column",
    "run_pass",
]

SCORES = "scores.parquet"
"""File of a shard's labels in its part's folder."""
_TASK = "cuvee.labels.passes:label_shard"


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelPass:
    """A criterion and the pool it is computed on."""

    column: str
    """Name of the label column."""
    scorer: Scorer
    model: Path | None
    """File or folder of a learnt scorer; None for the others."""
    shards: tuple[Shard, ...]
    pool: PoolConfig
    options: Mapping[str, Json] = field(default_factory=dict)
    """What else the scorer is told, such as the name of the pool's column, ``number``."""


def run_pass(
    job: LabelPass,
    out: Path,
    *,
    workers: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Score every document of a pool, going on where an earlier call was stopped.

    Writes ``labels/<column>/<shard>.parquet``: key, score and, for heuristics, every column.

    Args:
        job: The criterion.
        out: The run's folder.
        workers: Processes; 0 scores in this one.
        on_progress: Called with the number of shards done and their total.

    Returns:
        The column's artefact folder.

    Raises:
        DataError: A shard is missing or damaged.
    """
    digest = _digest_model(job.model) if job.model else ""
    spec: Mapping[str, Json] = {
        "config": dump(job.pool),
        "scorer": job.scorer,
        "model": str(job.model) if job.model else None,
        "digest": digest,
        "options": dict(job.options),
    }
    return run_column(
        ColumnTasks(
            column=job.column,
            function=_TASK,
            spec=spec,
            shards=job.shards,
            settings={"column": job.column, "scorer": job.scorer, **job.options},
        ),
        out,
        run=lambda tasks: run_tasks(tasks, workers=workers),
        prepare=_remove_stale,
        on_progress=on_progress,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnTasks:
    """A label column to be made: one task a shard, each leaving ``scores.parquet``."""

    column: str
    """Its name."""
    function: str
    """Of `executors.Task`; its spec is ``spec`` and the shard."""
    spec: Mapping[str, Json]
    shards: tuple[Shard, ...]
    settings: Json
    """Of the column's manifest."""
    gpus: float = 0.0
    """Of `executors.Task`, for each shard."""


def run_column(
    job: ColumnTasks,
    out: Path,
    *,
    run: Callable[[Sequence[Task]], Iterator[Task]],
    prepare: Callable[[Task], None] = lambda task: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Run a column's tasks, going on where an earlier call was stopped, and gather their files.

    Args:
        job: The column.
        out: The run's folder.
        run: Runs tasks and yields each when it is finished.
        prepare: Called with every task before they run.
        on_progress: Called with the number of shards done and their total.

    Returns:
        The column's artefact folder.
    """
    folder = out / "labels" / job.column
    if artifacts.is_done(folder):
        return folder
    parts = out / "labels" / ".passes" / job.column
    tasks = [
        Task(
            function=job.function,
            spec={"shard": dump(shard), **job.spec},
            folder=parts / shard.name,
            cost=shard.n_bytes,
            gpus=job.gpus,
        )
        for shard in job.shards
    ]
    for task in tasks:
        prepare(task)
    for n_done, _ in enumerate(run(tasks), start=1):
        on_progress(n_done, len(tasks))
    with artifacts.writing(
        folder,
        stage="label",
        settings=job.settings,
        seed=0,
        inputs={shard.name: artifacts.digest_of(parts / shard.name) for shard in job.shards},
    ) as aside:
        for shard in job.shards:
            shutil.copyfile(parts / shard.name / SCORES, aside / f"{shard.name}.parquet")
    shutil.rmtree(parts)
    return folder


def label_shard(spec: Mapping[str, Json], folder: Path) -> None:
    """Score one shard; a task of `executors`.

    Args:
        spec: ``shard`` and ``config`` as plain data, the scorer, its model's file, digest
            and options.
        folder: The part's artefact folder.
    """
    shard = parse(Shard, cast(Mapping[str, Json], spec["shard"]))
    config = parse(PoolConfig, cast(Mapping[str, Json], spec["config"]))
    model, options = cast("str | None", spec["model"]), cast(Mapping[str, Json], spec["options"])
    score = batch_scorer(
        cast(Scorer, spec["scorer"]), Path(model) if model is not None else None, options
    )
    number = cast("str | None", options.get("number"))
    settings, inputs = _about(spec)
    with artifacts.writing(
        folder, stage="label", settings=settings, seed=0, inputs=inputs
    ) as aside:
        tables = [
            pa.table({"key": document_keys(batch.ids), **score(batch)})
            for batch in read_batches(shard, config, number=number)
            if batch.ids
        ]
        if not tables:  # a shard of rejected rows only
            none = pa.table({"key": np.zeros(0, np.uint64), SCORE: np.zeros(0, np.float32)})
            tables.append(none)
        pq.write_table(pa.concat_tables(tables), aside / SCORES, compression="zstd")


def _about(spec: Mapping[str, Json]) -> tuple[dict[str, Json], dict[str, str]]:
    """Return what a part depends on: its settings and its inputs' digests."""
    shard = cast(Mapping[str, Json], spec["shard"])
    options = cast(Mapping[str, Json], spec["options"])
    settings = {"shard": shard["url"], "scorer": spec["scorer"], **options}
    return settings, {"model": str(spec["digest"])}


def _remove_stale(task: Task) -> None:
    """Remove a part that a stopped pass has left of another model or other options."""
    if artifacts.is_done(task.folder):
        manifest = cast(dict[str, Json], artifacts.read_json(task.folder / artifacts.MANIFEST))
        if (manifest["settings"], manifest["inputs"]) != _about(task.spec):
            shutil.rmtree(task.folder)


def _digest_model(path: Path) -> str:
    """Return the SHA-256 of a model's file, or of all files of its folder."""
    if path.is_file():
        return artifacts.digest_file(path)
    files = sorted(one for one in path.iterdir() if one.is_file())
    return artifacts.digest_json({one.name: artifacts.digest_file(one) for one in files})


def read_column(folder: Path, shards: Sequence[str], column: str = SCORE) -> dict[str, pa.Table]:
    """Read a label column.

    Args:
        folder: The column's artefact folder.
        shards: Names of the shards.
        column: Which of its columns.

    Returns:
        By shard: key and the column.

    Raises:
        ArtifactError: The folder is unfinished or lacks a shard or the column.
    """
    artifacts.require(folder, made_by="cuvee label")
    try:
        return {
            name: pq.read_table(folder / f"{name}.parquet", columns=["key", column])
            for name in shards
        }
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise ArtifactError(
            f"{folder} has no label for every shard ({error}). Delete it and run the label stage "
            "again."
        ) from error


def align(table: pa.Table, keys: KeyArray, *, column: str = SCORE) -> FloatArray:
    """Put a shard's labels in the order of documents.

    Args:
        table: Of `read_column`: key and the column; keys may repeat with equal values.
        keys: (n_documents,) of the documents wanted.
        column: Which column.

    Returns:
        (n_documents,) labels.

    Raises:
        DataError: A document has no label.
    """
    known = table["key"].to_numpy()
    order = np.argsort(known, kind="stable")
    place = np.minimum(np.searchsorted(known[order], keys), max(len(known) - 1, 0))
    if len(keys) and (not len(known) or np.any(known[order][place] != keys)):
        raise DataError(
            "a document of the pool has no label; the labels were made of another pool. Run the "
            "label stage again in a new folder."
        )
    return np.asarray(table[column].to_numpy()[order][place], dtype=np.float64)
