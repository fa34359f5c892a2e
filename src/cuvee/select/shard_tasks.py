"""The tasks that write a selection: text goes from the pool's shards to those of the selection.

scatter    reads some shards of the pool again, and puts each copy by its shard of the selection
shards     gathers the rows of one shard of the selection, puts them in order and writes them

All that is decided is decided before (`take`, `shuffle`), so tasks only carry text. A task holds a
few times the text of a shard, whatever the size of the pool.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cuvee import artifacts
from cuvee.arrays import IntArray
from cuvee.artifacts import Json
from cuvee.config import dump, parse
from cuvee.corpus.pool import PoolConfig, Shard
from cuvee.errors import ArtifactError
from cuvee.executors import Task, run_tasks
from cuvee.select.budget import SelectConfig
from cuvee.select.lineage import LINEAGE, lineage_of, write_lineage
from cuvee.select.reread import FoundDocuments, reread
from cuvee.select.shuffle import RowOrder
from cuvee.select.take import TakenDocuments

Progress: TypeAlias = Callable[[str, int, int], None]
"""Told the step, what is done of it, and of how much."""

SHARD = "shard.parquet"
SHARD_SCHEMA = pa.schema(
    {"id": pa.string(), "text": pa.string(), "domain": pa.string(), "copy": pa.int32()}
)
_ROWS_SCHEMA = pa.schema(
    {
        "place": pa.int64(),
        "id": pa.large_string(),
        "text": pa.large_string(),
        "domain": pa.int32(),
        "copy": pa.int32(),
    }
)
_TAKEN, _SCATTER, _SHARDS = "taken", "scatter", "shards"
_ROWS, _BATCHES, _ENDS, _PLACE = "rows.arrow", "batches.npy", "ends.npy", "place"
_MOST_SCATTERED = 1000
"""Tasks that read the pool; each leaves a file that every shard's task looks into."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardRequest:
    """What is to be written."""

    documents: TakenDocuments
    order: RowOrder
    shards: tuple[Shard, ...]
    """Of the pool."""
    pool: PoolConfig
    domains: tuple[str, ...]
    settings: SelectConfig

    def digest(self) -> str:
        """Return a digest of all that the rows, their order and the files depend on."""
        arrays = [getattr(self.documents, one.name) for one in fields(TakenDocuments)]
        digest = hashlib.sha256()
        for array in (*arrays, self.order.place, self.order.ends):
            digest.update(f"{array.dtype} {len(array)} ".encode())
            digest.update(np.ascontiguousarray(array).data)
        plain: Json = {
            "shards": [dump(shard) for shard in self.shards],
            "pool": dump(self.pool),
            "domains": self.domains,
            "settings": dump(self.settings),
            "arrays": digest.hexdigest(),
        }
        return artifacts.digest_json(plain)


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeShards:
    """What the tasks have made, each in the order of the selection."""

    shards: tuple[Path, ...]
    """Folders with a `SHARD` each."""
    lineages: tuple[Path, ...]
    """Files of the documents read by each task."""


def make_shards(
    request: ShardRequest, folder: Path, *, workers: int, on_progress: Progress
) -> MadeShards:
    """Write every shard of a selection, going on where an earlier call was stopped.

    Args:
        request: What is to be written.
        folder: Of this request alone; holds the text once more, besides the shards.
        workers: Processes; 0 works in this one.
        on_progress: Told of every task done.

    Raises:
        DataError: A shard of the pool changed since it was tokenised.
    """
    groups = _groups(request)
    if not artifacts.is_done(folder / _TAKEN):
        _write_taken(request, groups, folder / _TAKEN)
    by_index = {shard.index: shard for shard in request.shards}
    common: dict[str, Json] = {"taken": str(folder / _TAKEN), "settings": dump(request.settings)}
    scatter = [
        Task(
            function=f"{__name__}:scatter_copies",
            spec={
                **common,
                "shards": [dump(by_index[index]) for index in group],
                "pool": dump(request.pool),
            },
            folder=folder / _SCATTER / f"{number:05d}",
            cost=sum(by_index[index].n_bytes for index in group),
        )
        for number, group in enumerate(groups)
    ]
    read: dict[str, Json] = {"scattered": str(folder / _SCATTER), "n_scattered": len(groups)}
    write = [
        Task(
            function=f"{__name__}:write_shard",
            spec={**common, **read, "domains": request.domains},
            folder=folder / _SHARDS / f"{number:05d}",
        )
        for number in range(len(request.order.ends))
    ]
    for step, tasks in (("read", scatter), ("write", write)):
        on_progress(step, 0, len(tasks))
        for n_done, _ in enumerate(run_tasks(tasks, workers=workers), start=1):
            on_progress(step, n_done, len(tasks))
    return MadeShards(
        shards=tuple(task.folder for task in write),
        lineages=tuple(task.folder / LINEAGE for task in scatter),
    )


def scatter_copies(spec: Mapping[str, Json], folder: Path) -> None:
    """Read taken documents again and put their copies by shards of the selection (a task).

    Args:
        spec: Folder of what is ``taken``; ``shards`` of the ``pool`` to be read; ``settings``.
        folder: The task's artefact folder.

    Raises:
        DataError: A shard changed since it was tokenised.
    """
    taken = Path(cast(str, spec["taken"]))
    documents, place = _read_taken(taken / f"{folder.name}.npz")
    plain = cast(Sequence[Mapping[str, Json]], spec["shards"])
    pool = parse(PoolConfig, cast(Mapping[str, Json], spec["pool"]))
    found = reread(tuple(parse(Shard, one) for one in plain), documents, pool)
    limit = _settings(spec).shard_bytes
    with (
        artifacts.writing(folder, stage="select", settings={}, seed=0, inputs={}) as aside,
        _ScatteredRows(aside, np.load(taken / _ENDS), buffer_bytes=limit) as rows,
    ):

        def scattered() -> Iterator[pa.Table]:
            for batch in found:
                for table in _copies(batch, documents, place, limit=limit):
                    rows.add(table)
                yield lineage_of(batch, documents)

        write_lineage(aside / LINEAGE, scattered())


def write_shard(spec: Mapping[str, Json], folder: Path) -> None:
    """Gather the rows of one shard of the selection and write them in order (a task).

    Args:
        spec: Folder of what is ``taken``; folder ``scattered`` of the ``n_scattered`` tasks that
            have read the pool; names of the ``domains``; ``settings``.
        folder: The task's artefact folder.

    Raises:
        ArtifactError: Rows are missing.
    """
    scattered, number = Path(cast(str, spec["scattered"])), int(folder.name)
    ends = np.load(Path(cast(str, spec["taken"])) / _ENDS, allow_pickle=False)
    start, end = ends[number - 1] if number else 0, ends[number]
    table = _gather(scattered, cast(int, spec["n_scattered"]), number)
    place = table["place"].to_numpy()
    rows = np.argsort(place)
    if not np.array_equal(place[rows], np.arange(start, end)):
        raise ArtifactError(
            f"{scattered} holds {len(rows)} of {end - start} rows of shard {number}. Delete it and "
            "run the same command again."
        )
    table = table.take(pa.array(rows))
    names = pa.array(cast(Sequence[str], spec["domains"]))
    table = table.set_column(3, "domain", names.take(table["domain"].combine_chunks()))
    with artifacts.writing(folder, stage="select", settings={}, seed=0, inputs={}) as aside:
        compression = _settings(spec).compression
        with pq.ParquetWriter(aside / SHARD, SHARD_SCHEMA, compression=compression) as writer:
            # In one piece: where pages end would else depend on how the rows arrived.
            shard = table.select(SHARD_SCHEMA.names).combine_chunks()
            writer.write_table(shard.cast(SHARD_SCHEMA))


class _ScatteredRows:
    """A file of rows by shards of the selection, in batches of one shard each.

    Memory holds a buffer; when it is full its rows are written, one batch a shard.
    """

    def __init__(self, folder: Path, ends: IntArray, *, buffer_bytes: int) -> None:
        self._folder = folder
        self._ends = ends
        self._buffer_bytes = buffer_bytes
        self._waiting: list[pa.Table] = []
        self._waiting_bytes = 0
        self._shards: list[int] = []
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self._writer = pa.ipc.new_file(folder / _ROWS, _ROWS_SCHEMA, options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._flush()
            np.save(self._folder / _BATCHES, np.array(self._shards, dtype=np.int32))
        self._writer.close()

    def add(self, table: pa.Table) -> None:
        self._waiting.append(table)
        self._waiting_bytes += table.nbytes
        if self._waiting_bytes >= self._buffer_bytes:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        table = pa.concat_tables(self._waiting).combine_chunks()
        self._waiting, self._waiting_bytes = [], 0
        shard = np.searchsorted(self._ends, table["place"].to_numpy(), side="right")
        rows = np.argsort(shard, kind="stable")
        numbers, starts = np.unique(shard[rows], return_index=True)
        for number, own in zip(numbers, np.split(rows, starts[1:]), strict=True):
            for batch in table.take(pa.array(own)).combine_chunks().to_batches():
                self._writer.write_batch(batch)
                self._shards.append(int(number))


def _copies(
    found: FoundDocuments, documents: TakenDocuments, place: IntArray, *, limit: int
) -> Iterator[pa.Table]:
    """Yield rows to be written, one a copy, in tables of bounded text."""
    times = documents.copies[found.place]
    each = np.repeat(np.arange(len(times)), times)
    copy = np.arange(len(each)) - np.repeat(np.cumsum(times) - times, times)
    full = np.flatnonzero(np.diff(np.cumsum(found.n_bytes[each]) // limit)) + 1
    ids = pa.array(found.ids, pa.large_string())
    for part, number in zip(np.split(each, full), np.split(copy, full), strict=True):
        own = found.place[part]
        yield pa.table(
            {
                "place": place[documents.first[own] + number],
                "id": ids.take(pa.array(part)),
                "text": found.text.take(pa.array(part)),
                "domain": documents.domain[own].astype(np.int32),
                "copy": number.astype(np.int32),
            },
            schema=_ROWS_SCHEMA,
        )


def _gather(folder: Path, n_scattered: int, number: int) -> pa.Table:
    """Read the rows of one shard of the selection out of all files."""
    tables = [_ROWS_SCHEMA.empty_table()]
    for part in range(n_scattered):
        one = folder / f"{part:05d}"
        own = np.flatnonzero(np.load(one / _BATCHES, allow_pickle=False) == number)
        if len(own):
            with pa.memory_map(str(one / _ROWS)) as file, pa.ipc.open_file(file) as reader:
                batches = [reader.get_batch(int(batch)) for batch in own]
            tables.append(pa.Table.from_batches(batches))
    return pa.concat_tables(tables).combine_chunks()


def _groups(request: ShardRequest) -> list[list[int]]:
    """Divide the pool's shards with a taken document, whatever the number of workers."""
    taken = np.unique(request.documents.shard)
    n_groups = min(len(taken), _MOST_SCATTERED)
    return [part.tolist() for part in np.array_split(taken, n_groups)] if n_groups else []


def _write_taken(request: ShardRequest, groups: Sequence[Sequence[int]], folder: Path) -> None:
    documents = request.documents
    with artifacts.writing(folder, stage="select", settings={}, seed=0, inputs={}) as aside:
        np.save(aside / _ENDS, request.order.ends)
        for number, group in enumerate(groups):
            low, high = np.searchsorted(documents.shard, (group[0], group[-1] + 1))
            part = documents.part(int(low), int(high))
            first = int(documents.first[low])
            arrays = {one.name: getattr(part, one.name) for one in fields(part)}
            arrays[_PLACE] = request.order.place[first : first + len(part.phases)]
            np.savez(aside / f"{number:05d}.npz", **arrays)


def _read_taken(path: Path) -> tuple[TakenDocuments, IntArray]:
    """Read some taken documents, and the rows that their copies become."""
    with np.load(path, allow_pickle=False) as arrays:
        documents = TakenDocuments(**{one.name: arrays[one.name] for one in fields(TakenDocuments)})
        return documents, arrays[_PLACE]


def _settings(spec: Mapping[str, Json]) -> SelectConfig:
    return parse(SelectConfig, cast(Mapping[str, Json], spec["settings"]))
