"""The passes over label files that a streamed selection is made of, each a task a part.

scores    documents in each cell of each criterion's raw scores
tokens    tokens in each cell of the merged quality, by curve and domain
draws     documents whose copies were drawn, and their tokens by the hash they are discarded by
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cuvee import artifacts
from cuvee.arrays import BoolArray, FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.config import dump, parse
from cuvee.executors import Task, run_tasks
from cuvee.policy.quality_curve import QualityCurve, curves_from_json, curves_to_json
from cuvee.policy.sampling import draw_copies
from cuvee.policy.streamed_ranks import (
    Cells,
    CodeArray,
    SparseCounts,
    StreamedScale,
    bins_to_divide,
    count_finer,
    merged_cells,
    score_cells,
    score_codes,
)
from cuvee.randomness import hash64
from cuvee.select.label_files import FilePart, LabelBatch, LabelFiles, keys_of, read_labels

Progress: TypeAlias = Callable[[str, int, int], None]
"""Told the pass, the parts done and their number."""

REQUEST = "request.json"
BINS, FINER = "bins", "finer"
MERGED, DRAWN, WAITING = "merged.npy", "drawn.parquet", "discard.npy"
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
    kind, is_finer = name.removesuffix("-finer"), name.endswith("-finer")
    common: dict[str, Json] = {
        "request": str(folder / REQUEST),
        "labels": dump(request.labels),
        "divided": str(divided_folder(folder, kind)) if is_finer else None,
        **{what: str(folder / what) for what in _READ[kind]},
    }
    tasks = [
        Task(
            function=f"{__name__}:{_FUNCTIONS[kind]}",
            spec={
                **common,
                "part": number,
                "counted": str(folder / "tokens" / f"{number:05d}") if kind == "draws" else None,
            },
            folder=folder / name / f"{number:05d}",
            cost=sum(one.n_rows for one in part),
        )
        for number, part in enumerate(request.parts)
    ]
    on_progress(name, 0, len(tasks))
    for n_done, _ in enumerate(run_tasks(tasks, workers=workers), start=1):
        on_progress(name, n_done, len(tasks))
    return [task.folder for task in tasks]


def sum_bins(parts: Sequence[Path], cells: Cells) -> IntArray:
    """Add up the (n_bins,) counts of the parts of a pass."""
    total = np.zeros(cells.n_bins, dtype=np.int64)
    for part in parts:
        counts = _read_counts(part, BINS)
        total[counts.place] += counts.count
    return total


def sum_finer(parts: Sequence[Path], cells: Cells) -> SparseCounts:
    """Add up the counts of parts of the divided bins."""
    places, counts = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for part in parts:
        found = _read_counts(part, FINER)
        own = cells.slot[found.place >> cells.finer_bits] >= 0
        places.append(found.place[own])
        counts.append(found.count[own])
    return SparseCounts.of(np.concatenate(places), np.concatenate(counts))


def sum_waiting(parts: Sequence[Path]) -> IntArray:
    """Add up the tokens drawn, by the first bits of the hash they are discarded by."""
    return np.asarray(
        np.sum([_load_integers(part / WAITING) for part in parts], axis=0), dtype=np.int64
    )


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
        spec: File of the ``request``, the ``labels`` it reads and the number of the ``part``; the
            second time, the folder of the bins to be ``divided``.
        folder: The part's artefact folder.
    """
    request, part = _open(spec)
    one = score_cells(1)
    batches = [batch.scores for batch in read_labels(request.labels, part)]
    bins, finer = [], []
    for criterion in range(len(request.labels.criteria)):
        codes = np.concatenate([score_codes(scores[criterion]) for scores in batches])
        placed = one.place(0, codes)
        own = np.bincount(placed, minlength=one.n_bins)
        first = criterion * one.n_bins
        wanted = _wanted(spec, one, own, np.array([len(codes)]), first=first)
        found = count_finer(one, placed, codes, None, wanted)
        finer.append(SparseCounts(place=found.place + (first << one.finer_bits), count=found.count))
        bins.append(own)
    with artifacts.writing(folder, stage="select", settings={}, seed=0, inputs={}) as aside:
        _write_counts(aside, SparseCounts.of_bins(np.concatenate(bins)), _together(finer))


def count_tokens(spec: Mapping[str, Json], folder: Path) -> None:
    """Count tokens by cell of the merged quality; a task of `executors`.

    Args:
        spec: As of `count_scores`, and the folder of the ``scale``.
        folder: The part's artefact folder.
    """
    request, part = _open(spec)
    curves, n_domains = request.curves, len(request.curves[0].domains)
    cells = merged_cells(len(curves) * n_domains)
    scale = _read_scale(Path(cast(str, spec[SCALE])), len(request.labels.criteria))
    batches = []
    for batch in read_labels(request.labels, part, domains=curves[0].domains):
        codes = [scale.merge(batch.scores, batch.domain, one.merge) for one in curves]
        batches.append((batch.domain, batch.n_tokens, codes))
    domain = np.concatenate([one[0] for one in batches])
    n_tokens = np.concatenate([one[1] for one in batches])
    merged = np.concatenate([np.stack(one[2]) for one in batches], axis=1)
    del batches
    bins, finer = np.zeros(cells.n_bins, dtype=np.int64), []
    for number, codes in enumerate(merged):
        group = domain + number * n_domains
        # Sums of integers below 2^53 are exact as floats.
        placed = cells.place(group, codes)
        sums = np.bincount(placed, weights=n_tokens, minlength=cells.n_bins)
        own = sums.astype(np.int64)
        documents = np.bincount(group, minlength=cells.n_groups)
        wanted = _wanted(spec, cells, own, documents)
        finer.append(count_finer(cells, placed, codes, n_tokens, wanted))
        bins += own
    with artifacts.writing(folder, stage="select", settings={}, seed=0, inputs={}) as aside:
        _write_counts(aside, SparseCounts.of_bins(bins), _together(finer))
        if spec["divided"] is None:
            np.save(aside / MERGED, merged)


def draw_part(spec: Mapping[str, Json], folder: Path) -> None:
    """Draw the copies of a part's documents; a task of `executors`.

    Args:
        spec: As of `count_scores`, the folder of the ``ranks``, and that of the part's tokens
            ``counted``.
        folder: The part's artefact folder.
    """
    request, part = _open(spec)
    domains = request.curves[0].domains
    tables, counted = Path(cast(str, spec[RANKS])), Path(cast(str, spec["counted"]))
    divided = _load_integers(tables / _DIVIDED)
    cells = merged_cells(len(request.curves) * len(domains), divided)
    expected = _load_floats(tables / _EXPECTED)
    merged = np.load(counted / MERGED, mmap_mode="r", allow_pickle=False)
    waiting = np.zeros(1 << DISCARD_BITS, dtype=np.int64)
    first = 0
    with artifacts.writing(folder, stage="select", settings={}, seed=request.seed, inputs={}) as to:
        writer: pq.ParquetWriter | None = None
        for batch in read_labels(request.labels, part, domains=domains, ids=True, scores=False):
            codes = merged[:, first : first + len(batch.domain)]
            first += len(batch.domain)
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
_READ: dict[str, tuple[str, ...]] = {"scores": (), "tokens": (SCALE,), "draws": (RANKS,)}
"""Tables of earlier passes that a pass reads."""


def _draw(
    batch: LabelBatch,
    codes: CodeArray,
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


def _open(spec: Mapping[str, Json]) -> tuple[CopiesRequest, tuple[FilePart, ...]]:
    request = CopiesRequest.read(Path(cast(str, spec["request"])))
    labels = parse(LabelFiles, cast(Mapping[str, Json], spec["labels"]))
    return replace(request, labels=labels), request.parts[cast(int, spec["part"])]


def _wanted(
    spec: Mapping[str, Json],
    cells: Cells,
    bins: IntArray,
    documents: IntArray,
    *,
    first: int = 0,
) -> BoolArray:
    """Return the bins whose parts are counted: the first time those that look heavy from here.

    Those of the second time are numbered from ``first``.
    """
    if spec["divided"] is None:
        return bins_to_divide(cells, bins, documents)
    wanted = np.zeros(cells.n_bins, dtype=np.bool_)
    divided = _load_integers(Path(cast(str, spec["divided"])) / _DIVIDED) - first
    wanted[divided[(divided >= 0) & (divided < cells.n_bins)]] = True
    return wanted


def _read_scale(folder: Path, n_criteria: int) -> StreamedScale:
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


def _together(groups: Sequence[SparseCounts]) -> SparseCounts:
    """Join the counts of groups that follow each other."""
    return SparseCounts(
        place=np.concatenate([one.place for one in groups]),
        count=np.concatenate([one.count for one in groups]),
    )


def _write_counts(folder: Path, bins: SparseCounts, finer: SparseCounts) -> None:
    for name, counts in ((BINS, bins), (FINER, finer)):
        for what, values in (("place", counts.place), ("count", counts.count)):
            small = np.min_scalar_type(int(values.max(initial=0)))
            np.save(folder / f"{name}-{what}.npy", values.astype(small))


def _read_counts(part: Path, name: str) -> SparseCounts:
    return SparseCounts(
        place=_load_integers(part / f"{name}-place.npy"),
        count=_load_integers(part / f"{name}-count.npy"),
    )
