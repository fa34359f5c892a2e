"""Export a selection: divide its parts, write a trainer's files, read them again, and say so.

The division of the parts is resumable part by part in ``<dest>.pieces``; the export itself appears
under its own name only when all of it is written and has been read again.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias, cast

import numpy as np

from cuvee import artifacts
from cuvee.arrays import FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.config import dump
from cuvee.corpus.encoder import Encoder
from cuvee.errors import ArtifactError
from cuvee.executors import Task, run_tasks
from cuvee.export.exporter import ExportConfig, Exporter, FileSet, Place
from cuvee.export.formats import exporter_of
from cuvee.export.lineage import LineageFile
from cuvee.export.pieces import Pieces
from cuvee.export.reread import check_counts, count_again
from cuvee.export.selection import LINEAGE, SelectionFiles, copy_tokenizer
from cuvee.export.sets import Division, divide, filled
from cuvee.export.token_index import INDEX_VERSION, write_index

Progress: TypeAlias = Callable[[str, int, int], None]
"""Told the step, what is done of it, and of how much."""

EXPORT, DOMAINS = "export.json", "domains.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What a finished export holds, per domain in the order of the selection's mixture.json."""

    folder: Path
    to: str
    layout: str
    domains: tuple[str, ...]
    planned_shares: FloatArray
    """(n_domains,) the mixture."""
    realised_tokens: IntArray
    """(n_domains,) counted in the files that were written."""
    sets: tuple[FileSet, ...]
    notes: tuple[str, ...]
    """What was left out, merged or filled up, in sentences."""
    usage: str
    """How the trainer is pointed to it, in a line."""

    @property
    def realised_shares(self) -> FloatArray:
        """(n_domains,) shares of the tokens written; sum to 1."""
        return np.asarray(self.realised_tokens / self.realised_tokens.sum(), dtype=np.float64)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what a finished export holds.

        Raises:
            ArtifactError: The folder is not a finished export.
        """
        artifacts.require(folder, made_by="cuvee export")
        data = cast(dict[str, Any], artifacts.read_json(folder / EXPORT))
        named = {name: code for code, name in enumerate(data["domains"])}
        sets = cast(dict[str, Any], artifacts.read_json(folder / DOMAINS))["sets"]
        return cls(
            folder=folder,
            to=data["to"],
            layout=data["layout"],
            domains=tuple(named),
            planned_shares=np.array([one["planned_share"] for one in data["domains"].values()]),
            realised_tokens=np.array(
                [one["realised_tokens"] for one in data["domains"].values()], dtype=np.int64
            ),
            sets=tuple(
                FileSet(
                    name=name,
                    phase=one["phase"],
                    domains=tuple(named[domain] for domain in one["domains"]),
                    n_documents=one["documents"],
                    n_tokens=one["tokens"],
                )
                for name, one in sets.items()
            ),
            notes=tuple(data["notes"]),
            usage=data["facts"]["usage"],
        )

    def to_json(self) -> dict[str, Json]:
        """Return shares and counts as plain JSON."""
        per_domain = zip(
            self.domains,
            self.planned_shares.tolist(),
            self.realised_shares.tolist(),
            self.realised_tokens.tolist(),
            strict=True,
        )
        return {
            "to": self.to,
            "layout": self.layout,
            "units": "share of tokens",
            "domains": {
                name: {
                    "planned_share": planned,
                    "realised_share": realised,
                    "realised_minus_planned": realised - planned,
                    "realised_tokens": tokens,
                }
                for name, planned, realised, tokens in per_domain
            },
            "notes": list(self.notes),
            "usage": self.usage,
        }


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
    exporter = exporter_of(config.to)
    selection = SelectionFiles.open(run)
    place = _place(selection, exporter, config, dest)
    exporter.check(place)
    division = divide(selection, exporter, config)
    described, inputs = _described(config, place, division), _inputs(selection)
    if artifacts.is_done(dest):
        _check_same(dest, described, inputs)
        return Exported.read(dest)
    waiting = dest.with_name(dest.name + ".pieces")
    with (
        artifacts.locked(waiting),
        artifacts.writing(
            dest, stage="export", settings=described, seed=selection.seed, inputs=inputs
        ) as aside,
    ):
        pieces = _pieces(selection, exporter, place, division, waiting, workers, on_progress)
        sets = filled(division, *pieces.totals(len(division.sets)))
        _write(aside, selection, exporter, place, division, sets, pieces, on_progress)
    shutil.rmtree(waiting)
    return Exported.read(dest)


def _place(
    selection: SelectionFiles, exporter: Exporter, config: ExportConfig, dest: Path
) -> Place:
    encoder = Encoder(selection.tokenizer)
    root = config.root if config.root is not None else dest.resolve().as_posix()
    return Place(
        config=config,
        layout=config.layout or exporter.layouts[0],
        root=root.rstrip("/") or "/",
        domains=selection.domains,
        vocabulary_size=encoder.vocabulary_size,
        end_of_text=encoder.end_of_text,
        n_phases=len(selection.phase_shares),
        phase_shares=tuple(selection.phase_shares.tolist()),
    )


def _described(config: ExportConfig, place: Place, division: Division) -> dict[str, Json]:
    return {**dump(config), "layout": division.layout, "root": place.root}


def _inputs(selection: SelectionFiles) -> dict[str, str]:
    return {
        "selection": artifacts.digest_of(selection.folder),
        "tokenizer": artifacts.digest_of(selection.run / "tokenizer"),
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


def _pieces(
    selection: SelectionFiles,
    exporter: Exporter,
    place: Place,
    division: Division,
    waiting: Path,
    workers: int,
    on_progress: Progress,
) -> Pieces:
    """Divide the parts, going on where an earlier call was stopped."""
    inputs: dict[str, Json] = {**_inputs(selection)}
    store = selection.store
    of: Json = {
        "content": exporter.content,
        "set_of": division.set_of,
        "inputs": inputs,
        "index": INDEX_VERSION,
        "tokens": artifacts.digest_of(store) if store is not None else None,
    }
    folder = waiting / artifacts.digest_json(of)[:16]
    index = write_index(folder / "index", selection)
    tasks = [
        Task(
            function="cuvee.export.pieces:make_piece",
            spec={
                "part": str(part),
                "index": str(index),
                "store": str(store) if store is not None else None,
                "tokenizer": str(selection.tokenizer),
                "domains": selection.domains,
                "sets": division.set_of[phase],
                "content": exporter.content,
            },
            folder=folder / part.stem,
            cost=part.stat().st_size,
        )
        for part, phase in zip(selection.parts, selection.phase_of_part.tolist(), strict=True)
    ]
    on_progress("divide", 0, len(tasks))
    for n_done, _ in enumerate(run_tasks(tasks, workers=workers), start=1):
        on_progress("divide", n_done, len(tasks))
    return Pieces.open([task.folder for task in tasks], dtype=place.dtype, content=exporter.content)


def _write(
    folder: Path,
    selection: SelectionFiles,
    exporter: Exporter,
    place: Place,
    division: Division,
    sets: tuple[FileSet, ...],
    pieces: Pieces,
    on_progress: Progress,
) -> None:
    """Write all sets, read them again, and describe them."""
    full = [(number, one) for number, one in enumerate(sets) if one.n_documents]
    with LineageFile(folder / "lineage.parquet", selection.domains) as lineage:
        for n_done, (number, one) in enumerate(full, start=1):
            with exporter.writer(folder, one, place) as writer:
                for chunk in pieces.chunks(number):
                    lineage.add(chunk, writer.add(chunk))
            on_progress("write", n_done, len(full))
    counted = np.zeros(len(selection.domains), dtype=np.int64)
    for n_done, (number, one) in enumerate(full, start=1):
        lengths = exporter.lengths(folder, one, place)
        counted += count_again(lengths, pieces.counts(number), one, exporter, len(counted))
        on_progress("read again", n_done, len(full))
    check_counts(counted, selection)
    written = [one for _, one in full]
    facts = exporter.describe(folder, written, place)
    shutil.copyfile(selection.folder / LINEAGE, folder / "pool_lineage.parquet")
    copy_tokenizer(selection.tokenizer, folder / "tokenizer")
    _describe(folder, selection, place, division, written, counted, facts)


def _describe(
    folder: Path,
    selection: SelectionFiles,
    place: Place,
    division: Division,
    sets: list[FileSet],
    counted: IntArray,
    facts: Mapping[str, Json],
) -> None:
    shares = (counted / counted.sum()).tolist()
    rows = zip(
        selection.domains, selection.planned_shares.tolist(), shares, counted.tolist(), strict=True
    )
    said = cast(Sequence[str], facts.get("notes", []))
    about: dict[str, Json] = {
        "to": place.config.to,
        "layout": division.layout,
        "units": "share of tokens",
        "context": place.config.context,
        "vocabulary_size": place.vocabulary_size,
        "end_of_text": place.end_of_text,
        "domains": {
            name: {
                "planned_share": planned,
                "realised_share": share,
                "realised_minus_planned": share - planned,
                "realised_tokens": tokens,
            }
            for name, planned, share, tokens in rows
        },
        "notes": [*division.notes, *said],
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
