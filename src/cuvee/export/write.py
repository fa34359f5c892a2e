"""Export a selection: divide its parts, write a trainer's files, read them again, and say so.

The division of the parts is resumable part by part in ``<dest>.pieces``; the export itself appears
under its own name only when all of it is written and has been read again.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np

from cuvee import artifacts
from cuvee.arrays import IntArray
from cuvee.artifacts import Json
from cuvee.config import dump
from cuvee.errors import ArtifactError
from cuvee.executors import Task, run_tasks
from cuvee.export.exported import DOMAINS, EXPORT, Exported, by_domain, token_fractions
from cuvee.export.exporter import ExportConfig, Exporter, FileSet, Place
from cuvee.export.formats import exporter_of
from cuvee.export.lineage import LineageFile
from cuvee.export.pieces import DomainCounts, Pieces
from cuvee.export.reread import check_counts, check_encoded, count_again
from cuvee.export.selection import LINEAGE, SelectionFiles
from cuvee.export.sets import Division, check_enough, divide, filled
from cuvee.export.token_index import INDEX_VERSION, write_index
from cuvee.export.tokenizer import ExportTokenizer

Progress: TypeAlias = Callable[[str, int, int], None]
"""Told the step, what is done of it, and of how much."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """What is exported, and as what."""

    selection: SelectionFiles
    tokenizer: ExportTokenizer
    exporter: Exporter
    place: Place
    on_progress: Progress

    def divide(self, tokens: IntArray) -> Division:
        """Decide the sets by (n_domains,) tokens."""
        return divide(self.selection, self.exporter, self.place.config, tokens=tokens)

    def check_enough(self, tokens: IntArray) -> None:
        """Refuse too few of (n_domains,) tokens."""
        check_enough(tokens, self.exporter, self.place.config)


def silent(step: str, done: int, total: int) -> None:
    """Show no progress."""


def export_selection(
    run: Path,
    dest: Path,
    config: ExportConfig,
    *,
    workers: int,
    on_progress: Progress = silent,
) -> Exported:
    """Write a run's selection as a trainer's files; a finished export is not made again.

    Args:
        run: The folder of a run with a finished selection.
        dest: The export's folder.
        config: The format and what it is made for.
        workers: Processes that divide the parts; 0 works in this one.
        on_progress: Told of every part and every set.

    Returns:
        What was written, as read from the files themselves.

    Raises:
        ConfigError: There is no such format or layout, or the trainer could not read this path.
        ArtifactError: The selection is not finished, or ``dest`` holds something else.
        InfeasibleError: There are too few tokens for one of the trainer's sequences.
        DataError: What was read again is not what the selection counts.
    """
    job = _job(SelectionFiles.open(run), config, dest, on_progress)
    job.exporter.check(job.place)
    division = job.divide(job.selection.realised_tokens)
    if job.tokenizer.is_own:
        job.check_enough(job.selection.realised_tokens)
    described, inputs = _described(job), _inputs(job)
    if artifacts.is_done(dest):
        _check_same(dest, described, inputs)
        return Exported.read(dest)
    waiting = dest.with_name(dest.name + ".pieces")
    with (
        artifacts.locked(waiting),
        artifacts.writing(
            dest, stage="export", settings=described, seed=job.selection.seed, inputs=inputs
        ) as aside,
    ):
        pieces = _pieces(job, division, waiting, workers)
        if job.tokenizer.is_own:
            _write(aside, job, division, pieces, None)
        else:
            encoded = pieces.counted(len(job.place.domains))
            division, pieces = _divided_again(job, division, pieces, encoded, waiting, workers)
            _write(aside, job, division, pieces, encoded)
    shutil.rmtree(waiting)
    return Exported.read(dest)


def _job(
    selection: SelectionFiles, config: ExportConfig, dest: Path, on_progress: Progress
) -> _Job:
    exporter = exporter_of(config.to)
    tokenizer = ExportTokenizer.open(selection, config.tokenizer)
    root = config.root if config.root is not None else dest.resolve().as_posix()
    place = Place(
        config=config,
        layout=config.layout or exporter.layouts[0],
        root=root.rstrip("/") or "/",
        domains=selection.domains,
        vocabulary_size=tokenizer.vocabulary_size,
        end_of_text=tokenizer.end_of_text,
        n_phases=len(selection.phase_shares),
        phase_shares=tuple(selection.phase_shares.tolist()),
    )
    return _Job(
        selection=selection,
        tokenizer=tokenizer,
        exporter=exporter,
        place=place,
        on_progress=on_progress,
    )


def _described(job: _Job) -> dict[str, Json]:
    """Return the settings; a tokenizer's path is none: it is known by its digest."""
    settings = {name: one for name, one in dump(job.place.config).items() if name != "tokenizer"}
    return {**settings, "layout": job.place.layout, "root": job.place.root}


def _inputs(job: _Job) -> dict[str, str]:
    return {
        "selection": artifacts.digest_of(job.selection.folder),
        "tokenizer": job.tokenizer.digest,
    }


def _check_same(dest: Path, described: Mapping[str, Json], inputs: Mapping[str, str]) -> None:
    manifest = cast(dict[str, Any], artifacts.read_json(dest / artifacts.MANIFEST))
    found = {**manifest["settings"], **manifest["inputs"]}
    differing = sorted(
        key for key, value in {**described, **inputs}.items() if found.get(key) != value
    )
    if differing:
        raise ArtifactError(
            f"{dest} was exported with another {', '.join(differing)}. Choose another --dest, or "
            "delete it."
        )


def _pieces(job: _Job, division: Division, waiting: Path, workers: int) -> Pieces:
    """Divide the parts, going on where an earlier call was stopped."""
    selection, content = job.selection, job.exporter.content
    store = selection.store if job.tokenizer.is_own else None
    inputs: dict[str, Json] = {**_inputs(job)}
    of: Json = {
        "content": content,
        "set_of": division.set_of,
        "inputs": inputs,
        "index": INDEX_VERSION,
        "tokens": artifacts.digest_of(store) if store is not None else None,
    }
    folder = waiting / artifacts.digest_json(of)[:16]
    index = write_index(folder / "index", selection, store=store)
    tokenizer = job.tokenizer.write(folder / "tokenizer")
    tasks = [
        Task(
            function="cuvee.export.pieces:make_piece",
            spec={
                "part": str(part),
                "index": str(index),
                "store": str(store) if store is not None else None,
                "tokenizer": str(tokenizer),
                "domains": selection.domains,
                "sets": division.set_of[phase],
                "content": content,
            },
            folder=folder / part.stem,
            cost=part.stat().st_size,
        )
        for part, phase in zip(selection.parts, selection.phase_of_part.tolist(), strict=True)
    ]
    job.on_progress("divide", 0, len(tasks))
    for n_done, _ in enumerate(run_tasks(tasks, workers=workers), start=1):
        job.on_progress("divide", n_done, len(tasks))
    return Pieces.open([task.folder for task in tasks], dtype=job.place.dtype, content=content)


def _divided_again(
    job: _Job,
    division: Division,
    pieces: Pieces,
    encoded: DomainCounts,
    waiting: Path,
    workers: int,
) -> tuple[Division, Pieces]:
    """Hold the sets, which were decided by the run's tokens, against those of the tokenizer given.

    A domain about as long as one of the trainer's sequences may be too small for a set of its own
    by one tokenizer and not by the other. That is rare, and all parts are then encoded once more:
    so every set is as if the run's tokenizer had been the one given, its documents' order included.

    Raises:
        InfeasibleError: There are too few tokens for one of the trainer's sequences.
    """
    job.check_enough(encoded.n_tokens)
    exact = job.divide(encoded.n_tokens)
    if exact.set_of != division.set_of:
        pieces = _pieces(job, exact, waiting, workers)
    return exact, pieces


def _write(
    folder: Path, job: _Job, division: Division, pieces: Pieces, encoded: DomainCounts | None
) -> None:
    """Write all sets, read them again, and describe them."""
    selection, exporter, place = job.selection, job.exporter, job.place
    sets = filled(division, *pieces.totals(len(division.sets)))
    full = [(number, one) for number, one in enumerate(sets) if one.n_documents]
    with LineageFile(folder / "lineage.parquet", selection.domains) as lineage:
        for n_done, (number, one) in enumerate(full, start=1):
            with exporter.writer(folder, one, place) as writer:
                for chunk in pieces.chunks(number):
                    lineage.add(chunk, writer.add(chunk))
            job.on_progress("write", n_done, len(full))
    counted = np.zeros(len(selection.domains), dtype=np.int64)
    for n_done, (number, one) in enumerate(full, start=1):
        lengths = exporter.lengths(folder, one, place)
        counted += count_again(lengths, pieces.counts(number), one, exporter, len(counted))
        job.on_progress("read again", n_done, len(full))
    if encoded is None:
        check_counts(counted, selection)
    else:
        check_encoded(counted, encoded, selection)
    written = [one for _, one in full]
    facts = exporter.describe(folder, written, place)
    shutil.copyfile(selection.folder / LINEAGE, folder / "pool_lineage.parquet")
    job.tokenizer.write_for_trainers(folder / "tokenizer")
    _describe(folder, job, division, written, counted, facts)


def _describe(
    folder: Path,
    job: _Job,
    division: Division,
    sets: list[FileSet],
    counted: IntArray,
    facts: Mapping[str, Json],
) -> None:
    selection, place = job.selection, job.place
    said = cast(Sequence[str], facts.get("notes", []))
    about: dict[str, Json] = {
        "to": place.config.to,
        "layout": division.layout,
        "units": "share of tokens",
        "context": place.config.context,
        "vocabulary_size": place.vocabulary_size,
        "end_of_text": place.end_of_text,
        "is_own_tokenizer": job.tokenizer.is_own,
        "domains": by_domain(
            selection.domains, selection.planned_shares, selection.realised_tokens, counted
        ),
        "notes": [*division.notes, *said, *_tokenizer_notes(job, counted)],
        "facts": {name: fact for name, fact in facts.items() if name != "notes"},
    }
    artifacts.write_json(folder / EXPORT, about)
    names = selection.domains
    artifacts.write_json(
        folder / DOMAINS,
        {
            "sets": {
                one.name: {
                    "phase": one.phase,
                    "domains": [names[code] for code in one.domains],
                    "documents": one.n_documents,
                    "tokens": one.n_tokens,
                }
                for one in sets
            }
        },
    )


def _tokenizer_notes(job: _Job, counted: IntArray) -> list[str]:
    """Say how far another tokenizer moves the shares, and which token it lacked."""
    selection, tokenizer = job.selection, job.tokenizer
    notes = []
    if not tokenizer.is_own:
        moved = token_fractions(counted) - selection.planned_shares
        code = int(np.argmax(np.abs(moved)))
        notes.append(
            f"counted with another tokenizer than the run's: {counted.sum():,} tokens, by the "
            f"run's {selection.realised_tokens.sum():,}; of all shares that of "
            f"{selection.domains[code]!r} is farthest from the planned one, by "
            f"{100 * moved[code]:+.2f} points"
        )
    if tokenizer.added is not None:
        notes.append(
            f"the tokenizer given has no end-of-text that is safe: {tokenizer.added!r} was added "
            f"as id {tokenizer.end_of_text}, and the model needs {tokenizer.vocabulary_size:,} ids"
        )
    return notes
