"""The label column of domains that a pool is indexed by: names of clusters, and quality cells.

A quality cell is a domain crossed with a part of its text by one score: ``news:1`` holds the best
n-th of the domain's bytes, ``news:n`` the worst. Where the cuts lie follows from integer counts of
bytes by score, so that shards, their order and workers do not matter.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cuvee import artifacts
from cuvee.arrays import IntArray, KeyArray
from cuvee.artifacts import Json
from cuvee.config import parse
from cuvee.corpus.pool import Shard
from cuvee.errors import ArtifactError
from cuvee.executors import run_tasks
from cuvee.labels.passes import SCORE, SCORES, ColumnTasks, run_column
from cuvee.policy.streamed_ranks import SCORE_BITS, CodeArray, score_codes

CELLS = "cells"
"""Name of the column."""
_TASK = "cuvee.labels.domain_cells:name_shard"
_ROWS = 2**16
_DOCUMENTS = "documents.parquet"

Cuts: TypeAlias = dict[str, list[int]]
"""By domain, the (n_cells - 1,) last codes of all cells but the worst."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainColumns:
    """The columns that documents' domains follow from; all have a row a document, in order."""

    scan: Path
    """Folder of the shards' scans: key, n_bytes, and the domain as read."""
    shards: tuple[Shard, ...]
    named: Path | None = None
    """Folder of a label column with ``domain``, or with ``cluster``; None: the domain as read."""
    names: tuple[str, ...] = ()
    """Names of the clusters."""
    scores: Path | None = None
    """Folder of a label column with ``score``; None: domains are not divided."""
    larger_is_better: bool = True
    n_cells: int = 1
    """Cells of each domain, where there are scores."""


def write_domain_column(
    columns: DomainColumns,
    out: Path,
    *,
    workers: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Write ``labels/cells/<shard>.parquet``, key and domain of every document, resumably.

    Args:
        columns: What from.
        out: The folder of the labels.
        workers: Processes; 0 works in this one.
        on_progress: Called with the number of shards done and their total.

    Returns:
        The column's artefact folder.

    Raises:
        ArtifactError: A column is unfinished, or of other documents.
    """
    folder = out / "labels" / CELLS
    if artifacts.is_done(folder):
        return folder
    cuts = find_cuts(columns) if columns.scores else {}
    spec: Mapping[str, Json] = {
        "scan": str(columns.scan),
        "named": str(columns.named) if columns.named else None,
        "names": list(columns.names),
        "scores": str(columns.scores) if columns.scores else None,
        "larger_is_better": columns.larger_is_better,
        "cuts": cast(Json, cuts),
    }
    return run_column(
        ColumnTasks(
            column=CELLS,
            function=_TASK,
            spec=spec,
            shards=columns.shards,
            settings={"column": CELLS, "n_cells": columns.n_cells, "cuts": cast(Json, cuts)},
        ),
        out,
        run=lambda tasks: run_tasks(tasks, workers=workers),
        on_progress=on_progress,
    )


def find_cuts(columns: DomainColumns) -> Cuts:
    """Cut each domain's text in cells of about equal bytes by score.

    Documents of one score stay together. Memory grows with the different scores, of which 20 bits
    are told apart, not with the pool.

    Args:
        columns: With scores.

    Returns:
        By domain, the last codes of its cells but the worst; a cell may be empty where many
        documents have one score.
    """
    counts: dict[str, IntArray] = {}
    codes: dict[str, CodeArray] = {}
    for shard in columns.shards:
        for part in _parts(_sources(columns, shard.name), columns):
            for name, own in part.by_domain():
                known = codes.get(name, np.zeros(0, dtype=np.uint32))
                merged, place = np.unique(
                    np.concatenate([known, part.codes[own]]), return_inverse=True
                )
                sums = np.zeros(len(merged), dtype=np.int64)
                before = counts.get(name, np.zeros(0, dtype=np.int64))
                np.add.at(sums, place, np.concatenate([before, part.n_bytes[own]]))
                codes[name], counts[name] = merged, sums
    return {name: _cuts(codes[name], counts[name], columns.n_cells) for name in sorted(codes)}


def name_shard(spec: Mapping[str, Json], folder: Path) -> None:
    """Name the domains of one shard's documents; a task of `executors`.

    Args:
        spec: ``shard`` and the fields of `DomainColumns` as plain data, and the ``cuts``.
        folder: The part's artefact folder.
    """
    shard = parse(Shard, cast(Mapping[str, Json], spec["shard"]))
    named, scores = cast("str | None", spec["named"]), cast("str | None", spec["scores"])
    cuts = cast(Cuts, spec["cuts"])
    columns = DomainColumns(
        scan=Path(str(spec["scan"])),
        shards=(shard,),
        named=Path(named) if named else None,
        names=tuple(cast(list[str], spec["names"])),
        scores=Path(scores) if scores else None,
        larger_is_better=bool(spec["larger_is_better"]),
    )
    settings: Json = {"shard": shard.url, "cuts": cast(Json, cuts)}
    schema = pa.schema([pa.field("key", pa.uint64()), pa.field("domain", pa.string())])
    with (
        artifacts.writing(folder, stage="label", settings=settings, seed=0, inputs={}) as aside,
        pq.ParquetWriter(aside / SCORES, schema, compression="zstd") as writer,
    ):
        for part in _parts(_sources(columns, shard.name), columns):
            domains = np.array(part.names, dtype=np.object_)[part.place]
            for name, own in part.by_domain() if cuts else ():
                cells = np.searchsorted(cuts[name], part.codes[own]) + 1
                domains[own] = [f"{name}:{cell}" for cell in cells.tolist()]
            writer.write_table(pa.table([part.keys, domains.tolist()], schema=schema))


@dataclass(frozen=True, slots=True)
class _Part:
    keys: KeyArray
    place: IntArray
    """(n_documents,) positions in ``names``."""
    names: list[str]
    n_bytes: IntArray
    codes: CodeArray
    """Of the scores, the best first; empty without scores."""

    def by_domain(self) -> Iterator[tuple[str, IntArray]]:
        """Yield each domain that is there, and its documents."""
        for place in np.unique(self.place).tolist():
            yield self.names[place], np.flatnonzero(self.place == place)


def _sources(columns: DomainColumns, shard: str) -> list[Path]:
    folders = [one for one in (columns.named, columns.scores) if one is not None]
    for one in folders:
        artifacts.require(one, made_by="cuvee label")
    return [columns.scan / shard / _DOCUMENTS, *(one / f"{shard}.parquet" for one in folders)]


def _parts(paths: Sequence[Path], columns: DomainColumns) -> Iterator[_Part]:
    """Read the columns of one shard side by side, some rows at a time."""
    files = [pq.ParquetFile(path) for path in paths]
    try:
        if len({file.metadata.num_rows for file in files}) > 1:
            raise _unlike(paths)
        for tables in zip(*(_pieces(file) for file in files), strict=True):
            keys = tables[0]["key"].to_numpy()
            if any(np.any(one["key"].to_numpy() != keys) for one in tables[1:]):
                raise _unlike(paths)
            codes = np.zeros(0, dtype=np.uint32)
            if columns.scores is not None:
                codes = _best_first(tables[-1][SCORE].to_numpy(), columns.larger_is_better)
            place, names = _domains(tables[0] if columns.named is None else tables[1], columns)
            yield _Part(
                keys=keys,
                place=place,
                names=names,
                n_bytes=tables[0]["n_bytes"].to_numpy(),
                codes=codes,
            )
    finally:
        for file in files:
            file.close()


def _pieces(file: pq.ParquetFile) -> Iterator[pa.Table]:
    """Cut a file in pieces of the same numbers of rows, whatever its row groups."""
    wanted = ("key", "domain", "cluster", "n_bytes", SCORE)
    columns = [name for name in file.schema_arrow.names if name in wanted]
    waiting = file.schema_arrow.empty_table().select(columns)
    for batch in file.iter_batches(columns=columns):
        waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch]).select(columns)])
        while waiting.num_rows >= _ROWS:
            yield waiting.slice(0, _ROWS)
            waiting = waiting.slice(_ROWS)
    yield waiting


def _domains(table: pa.Table, columns: DomainColumns) -> tuple[IntArray, list[str]]:
    if not table.num_rows:  # a shard of rejected rows only has labels of another kind
        return np.zeros(0, dtype=np.int64), []
    if "domain" not in table.column_names:
        return table["cluster"].to_numpy().astype(np.int64), list(columns.names)
    found = table["domain"].combine_chunks().dictionary_encode()
    return found.indices.to_numpy().astype(np.int64), found.dictionary.to_pylist()


def _best_first(scores: npt.NDArray[np.floating], larger_is_better: bool) -> CodeArray:
    """Return codes that rise from the best score; documents without a score come last."""
    turned = (-scores if larger_is_better else scores).astype(np.float32)
    turned = np.where(np.isnan(turned), np.float32(np.inf), turned)
    return np.asarray(score_codes(turned) >> np.uint32(32 - SCORE_BITS), dtype=np.uint32)


def _cuts(codes: CodeArray, n_bytes: IntArray, n_cells: int) -> list[int]:
    reached = np.cumsum(n_bytes) * n_cells
    ends = np.searchsorted(reached, int(n_bytes.sum()) * np.arange(1, n_cells))
    found: list[int] = codes[ends].tolist()
    return found


def _unlike(paths: Sequence[Path]) -> ArtifactError:
    return ArtifactError(
        f"{paths[-1]} and {paths[0]} are not of the same documents. Delete both folders and label "
        "the domains again."
    )
