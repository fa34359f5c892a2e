"""The passes over label files that a streamed selection is made of, each a task a part.

scores    documents in each cell of each criterion's raw scores
tokens    tokens in each cell of the merged quality, by curve and domain
draws     documents whose copies were drawn, and their tokens by the hash they are discarded by
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cuvee import artifacts
from cuvee.arrays import FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.config import dump, parse
from cuvee.executors import Task, run_tasks
from cuvee.policy.quality_curve import QualityCurve, curves_from_json, curves_to_json
from cuvee.policy.sampling import draw_copies
from cuvee.policy.streamed_ranks import (
    Cells,
    CodeArray,
    StreamedScale,
    merged_cells,
    score_cells,
    score_codes,
)
from cuvee.randomness import hash64
from cuvee.select.label_files import FilePart, LabelBatch, LabelFiles, keys_of, read_labels

Progress: TypeAlias = Callable[[str, int, int], None]
"""Told the pass, the parts done and their number."""

REQUEST = "request.json"
COUNTS, DRAWN, WAITING = "counts.npy", "drawn.parquet", "discard.npy"
SCALE, RANKS = "scale", "ranks"
_DIVIDED, _START, _SLOPE, _EXPECTED = "divided.npy", "start.npy", "slope.npy", "expected.npy"
DISCARD_BITS = 16
"""Tokens that wait for the budget are counted by the first bits of their hash."""
_CHUNK = 1 << 15


@dataclass(frozen=True, kw_only=True, slots=True)
class CopiesRequest:
    """All that the copies depend on."""

    labels: LabelFiles
    curves: tuple[QualityCurve, ...]
    parts: tuple[tuple[FilePart, ...], ...]
    """Row groups of each part."""
    seed: int

    def write(self, path: Path) -> None:
        """Write the request for the tasks."""
        artifacts.write_json(
            path,
            {
                "labels": dump(self.labels),
                "curves": curves_to_json(self.curves),
                "parts": [[dump(one) for one in part] for part in self.parts],
                "seed": self.seed,
            },
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the request of a task."""
        data = cast(Mapping[str, Json], artifacts.read_json(path))
        parts = cast(Sequence[Sequence[Mapping[str, Json]]], data["parts"])
        return cls(
            labels=parse(LabelFiles, cast(Mapping[str, Json], data["labels"])),
            curves=curves_from_json(cast(Mapping[str, Json], data["curves"])),
            parts=tuple(tuple(parse(FilePart, one) for one in part) for part in parts),
            seed=cast(int, data["seed"]),
        )


def run_pass(
    name: str, folder: Path, request: CopiesRequest, *, workers: int, on_progress: Progress
) -> list[Path]:
    """Run one pass, going on where an earlier call was stopped.

    Args:
        name: ``scores``, ``tokens`` or ``draws``, and ``-finer`` for its second time.
        folder: Of the request and all passes.
        request: What is drawn.
        workers: Processes; 0 works in this one.
        on_progress: Told of every part done.

    Returns:
        Folders of the parts, in order.
    """
    function = f"{__name__}:{_FUNCTIONS[name.removesuffix('-finer')]}"
    tasks = [
        Task(
            function=function,
            spec={"folder": str(folder), "part": number, "finer": name.endswith("-finer")},
            folder=folder / name / f"{number:05d}",
            cost=sum(one.n_rows for one in part),
        )
        for number, part in enumerate(request.parts)
    ]
    on_progress(name, 0, len(tasks))
    for n_done, _ in enumerate(run_tasks(tasks, workers=workers), start=1):
        on_progress(name, n_done, len(tasks))
    return [task.folder for task in tasks]


def sum_counts(parts: Sequence[Path], name: str = COUNTS) -> IntArray:
    """Add up the integers that the parts of a pass counted."""
    total = np.load(parts[0] / name, allow_pickle=False).astype(np.int64)
    for part in parts[1:]:
        total += np.load(part / name, mmap_mode="r", allow_pickle=False)
    return np.asarray(total, dtype=np.int64)


def write_cells(folder: Path, arrays: Mapping[str, npt.NDArray[np.generic]], seed: int) -> None:
    """Write tables that later passes read, as one artefact."""
    with artifacts.writing(folder, stage="select", settings={}, seed=seed, inputs={}) as aside:
        for name, values in arrays.items():
            np.save(aside / name, values)


def write_scale(folder: Path, scale: StreamedScale, *, seed: int) -> None:
    """Write the scale for the later passes."""
    tables = {_DIVIDED: scale.cells.divided, _START: scale.start, _SLOPE: scale.slope}
    write_cells(folder / SCALE, tables, seed)


def write_divided(folder: Path, cells: Cells, *, seed: int) -> None:
    """Write which bins the second time of a pass divides."""
    write_cells(folder, {_DIVIDED: cells.divided}, seed)


def write_expected(folder: Path, cells: Cells, expected: FloatArray, *, seed: int) -> None:
    """Write the expected copies of each cell for the pass that draws."""
    write_cells(folder / RANKS, {_DIVIDED: cells.divided, _EXPECTED: expected}, seed)


def divided_folder(folder: Path, name: str) -> Path:
    """Return where the bins stand that the second time of a pass divides."""
    return folder / f"{name}-divided"


def count_scores(spec: Mapping[str, Json], folder: Path) -> None:
    """Count documents by cell of their raw scores; a task of `executors`.

    Args:
        spec: ``folder`` of the passes, number of the ``part``, and whether this is the second time.
        folder: The part's artefact folder.
    """
    root, request, part = _open(spec)
    cells = score_cells(len(request.labels.criteria), _divided(spec, root, "scores"))
    counts = np.zeros(cells.size, dtype=np.int64)
    for batch in read_labels(request.labels, part):
        for criterion, scores in enumerate(batch.scores):
            placed = cells.place(criterion, score_codes(scores))
            first = criterion << cells.bits
            if len(cells.divided):
                first = 0
            found = np.bincount(placed - first)
            counts[first : first + len(found)] += found
    _write_counts(folder, counts)


def count_tokens(spec: Mapping[str, Json], folder: Path) -> None:
    """Count tokens by cell of the merged quality; a task of `executors`.

    Args:
        spec: As of `count_scores`.
        folder: The part's artefact folder.
    """
    root, request, part = _open(spec)
    curves, n_domains = request.curves, len(request.curves[0].domains)
    cells = merged_cells(len(curves) * n_domains, _divided(spec, root, "tokens"))
    scale = _read_scale(root, len(request.labels.criteria))
    counts = np.zeros(cells.size, dtype=np.int64)
    for batch in read_labels(request.labels, part, domains=curves[0].domains):
        for number, curve in enumerate(curves):
            codes = scale.merge(batch.scores, batch.domain, curve.merge)
            placed = cells.place(batch.domain + number * n_domains, codes)
            # Sums of integers below 2^53 are exact as floats.
            sums = np.bincount(placed, weights=batch.n_tokens, minlength=cells.size)
            counts += sums.astype(np.int64)
    _write_counts(folder, counts)


def draw_part(spec: Mapping[str, Json], folder: Path) -> None:
    """Draw the copies of a part's documents; a task of `executors`.

    Args:
        spec: As of `count_scores`.
        folder: The part's artefact folder.
    """
    root, request, part = _open(spec)
    curves, n_domains = request.curves, len(request.curves[0].domains)
    tables = root / RANKS
    cells = merged_cells(len(curves) * n_domains, _load_integers(tables / _DIVIDED))
    expected = _load_floats(tables / _EXPECTED)
    scale = _read_scale(root, len(request.labels.criteria))
    waiting = np.zeros(1 << DISCARD_BITS, dtype=np.int64)
    with artifacts.writing(folder, stage="select", settings={}, seed=request.seed, inputs={}) as to:
        writer: pq.ParquetWriter | None = None
        for batch in read_labels(request.labels, part, domains=curves[0].domains, ids=True):
            codes = [scale.merge(batch.scores, batch.domain, one.merge) for one in curves]
            table, tokens = _draw(batch, codes, cells, expected, request.seed)
            places = table["discard"].to_numpy() >> np.uint64(64 - DISCARD_BITS)
            sums = np.bincount(places.astype(np.int64), weights=tokens, minlength=len(waiting))
            waiting += sums.astype(np.int64)
            writer = writer or pq.ParquetWriter(to / DRAWN, table.schema, compression="zstd")
            writer.write_table(table)
        if writer is not None:
            writer.close()
        np.save(to / WAITING, waiting)


_FUNCTIONS = {"scores": "count_scores", "tokens": "count_tokens", "draws": "draw_part"}


def _draw(
    batch: LabelBatch,
    codes: Sequence[CodeArray],
    cells: Cells,
    expected: FloatArray,
    seed: int,
) -> tuple[pa.Table, IntArray]:
    """Return the documents drawn, and the tokens of all their copies."""
    assert batch.ids is not None, "asked for"
    keys = keys_of(batch.ids)
    n_domains = cells.n_groups // len(codes)
    copies = np.empty(len(keys), dtype=np.int64)
    for first in range(0, len(keys), _CHUNK):
        part = slice(first, first + _CHUNK)
        wanted = np.zeros(len(keys[part]))
        for number, some in enumerate(codes):
            placed = cells.place(batch.domain[part] + number * n_domains, some[part])
            np.maximum(wanted, expected.take(placed), out=wanted)
        copies[part] = draw_copies(wanted, keys[part], seed=seed)
    kept = np.flatnonzero(copies)
    tokens = copies[kept] * batch.n_tokens[kept]
    table = pa.table(
        {
            "id": batch.ids.take(pa.array(kept)),
            "copies": copies[kept].astype(np.int32),
            "n_tokens": tokens,
            "discard": hash64(seed, "discard", keys[kept]),
        }
    )
    return table, tokens


def _open(spec: Mapping[str, Json]) -> tuple[Path, CopiesRequest, tuple[FilePart, ...]]:
    root = Path(cast(str, spec["folder"]))
    request = CopiesRequest.read(root / REQUEST)
    return root, request, request.parts[cast(int, spec["part"])]


def _divided(spec: Mapping[str, Json], root: Path, name: str) -> IntArray:
    if not spec["finer"]:
        return np.empty(0, dtype=np.int64)
    return _load_integers(divided_folder(root, name) / _DIVIDED)


def _read_scale(root: Path, n_criteria: int) -> StreamedScale:
    folder = root / SCALE
    return StreamedScale(
        cells=score_cells(n_criteria, _load_integers(folder / _DIVIDED)),
        start=_load_floats(folder / _START),
        slope=_load_floats(folder / _SLOPE),
    )


def _load_integers(path: Path) -> IntArray:
    return np.asarray(np.load(path, allow_pickle=False), dtype=np.int64)


def _load_floats(path: Path) -> FloatArray:
    loaded: FloatArray = np.load(path, mmap_mode="r", allow_pickle=False)
    return loaded


def _write_counts(folder: Path, counts: IntArray) -> None:
    with artifacts.writing(folder, stage="select", settings={}, seed=0, inputs={}) as aside:
        np.save(aside / COUNTS, counts)
