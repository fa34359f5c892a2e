"""How often each document of a labelled pool is taken: one public function from labels to copies.

Small pools are read whole and ranked exactly. Larger ones are streamed (`copies_passes`): ranks are
off by no more than the share of a cell, and nothing depends on the number of files, their order,
the workers, or on having been stopped.
"""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, Self, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cuvee import artifacts
from cuvee.arrays import FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.config import dump
from cuvee.errors import ArtifactError, ConfigError, DataError
from cuvee.policy.quality_curve import QualityCurve, curves_to_json, pool_copies
from cuvee.policy.ranks import Normaliser
from cuvee.policy.sampling import discard, draw_copies
from cuvee.policy.streamed_ranks import (
    Cells,
    StreamedScale,
    merged_cells,
    score_cells,
    token_shares,
)
from cuvee.select import copies_passes as passes
from cuvee.select.copies_passes import CopiesRequest, Progress
from cuvee.select.label_files import FilePart, LabelFiles, describe, divide, keys_of, read_labels

SUMMARY = "copies.json"
FLOOR_SHARE = 0.5
IN_MEMORY_ROWS = 2_000_000
"""About 300 MB of labels."""
_ASKED = "asked.json"
_PARTS = 32
_LEAST_ROWS, _MOST_ROWS = 250_000, 1_600_000
"""Of a part, whose codes are held in memory."""
_FINER = "-finer"


@dataclass(frozen=True, kw_only=True, slots=True)
class CopiesConfig:
    """How copies are drawn from labels."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    normalisation: Literal["rank", "floor-rank"] = "rank"
    """How criteria are put on one scale."""
    floor_share: float = FLOOR_SHARE
    """Share of the documents, the worst, that become one value with floor-rank."""
    n_tokens: int | None = None
    """Token budget; what was drawn beyond it is discarded evenly. None keeps all."""
    in_memory_rows: int = IN_MEMORY_ROWS
    """Most documents that are read whole and ranked exactly; more are streamed."""

    def __post_init__(self) -> None:
        if not 0.0 < self.floor_share < 1.0:
            raise ConfigError(f"floor_share is {self.floor_share}; it must be within (0, 1).")
        if self.n_tokens is not None and self.n_tokens < 1:
            raise ConfigError(f"n_tokens is {self.n_tokens}; it must be at least 1.")
        if self.in_memory_rows < 0:
            raise ConfigError(f"in_memory_rows is {self.in_memory_rows}; it must be at least 0.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Copies:
    """What a table of copies holds."""

    n_documents: int
    """Documents of the pool."""
    n_taken: int
    """Documents with at least one copy."""
    n_copies: int
    n_tokens: int
    """Tokens of all copies."""
    drawn_tokens: int
    """The same before the budget."""
    rank_error: float
    """Most that a document's token rank can be off; 0 where ranks are exact."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what a finished table holds.

        Raises:
            ArtifactError: The folder is not finished.
        """
        artifacts.require(folder, made_by="cuvee copies")
        data = cast(dict[str, float], artifacts.read_json(folder / SUMMARY))
        return cls(
            **{name: int(data[name]) for name in cls.__slots__ if name != "rank_error"},
            rank_error=float(data["rank_error"]),
        )


def write_copies(
    folder: Path,
    curves: Sequence[QualityCurve],
    *,
    labels: LabelFiles,
    settings: CopiesConfig,
    seed: int,
    workers: int = 0,
    on_progress: Progress = lambda name, done, total: None,
) -> Copies:
    """Draw the copies of every document and write those that are taken.

    Writes ``part-*.parquet`` with columns ``id`` and ``copies``, at least 1, and ``copies.json``
    (`Copies`). The same ids and copies come from any division of the labels into files, in any
    order, by any number of workers; a call that was killed goes on where it was.

    Args:
        folder: Appears complete or not at all; ``<folder>.passes`` stands beside it meanwhile.
        curves: One, or several whose union is taken: the largest expected copies of any.
        labels: The pool's label columns.
        settings: Scale, budget, and what counts as small.
        seed: The run's seed.
        workers: Processes; 0 works in this one.
        on_progress: Told of every part of every pass.

    Returns:
        What the table holds; that of the finished table where there is one of this request.

    Raises:
        DataError: The labels are not what they must be.
        ArtifactError: The folder or the passes are of another request.
    """
    row_groups, files = describe(labels)
    asked = _asked(curves, labels, settings, files)
    beside = folder.with_name(folder.name + ".passes")
    if artifacts.is_done(folder):
        made = _finished(folder, asked, seed)
        shutil.rmtree(beside, ignore_errors=True)
        return made
    n_rows = sum(one.n_rows for one in row_groups)
    if n_rows == 0:
        raise DataError("the label files hold no document; give files with rows.")
    if n_rows <= settings.in_memory_rows:
        return _write_exact(folder, curves, labels, row_groups, settings, asked=asked, seed=seed)
    request = CopiesRequest(
        labels=labels,
        curves=tuple(curves),
        parts=tuple(tuple(some) for some in divide(row_groups, _n_parts(n_rows))),
        seed=seed,
    )
    with artifacts.locked(beside):
        _claim(beside, request, asked)
        error = _rank(beside, request, settings, workers, on_progress)
        parts = passes.run_pass("draws", beside, request, workers=workers, on_progress=on_progress)
        made = _write_kept(folder, parts, settings, n_rows, error, asked=asked, seed=seed)
    shutil.rmtree(beside, ignore_errors=True)
    return made


def _write_exact(
    folder: Path,
    curves: Sequence[QualityCurve],
    labels: LabelFiles,
    row_groups: Sequence[FilePart],
    settings: CopiesConfig,
    *,
    asked: dict[str, Json],
    seed: int,
) -> Copies:
    """Read all documents and rank them exactly."""
    batches = list(read_labels(labels, row_groups, domains=curves[0].domains, ids=True))
    domain = np.concatenate([one.domain for one in batches])
    n_tokens = np.concatenate([one.n_tokens for one in batches])
    columns = []
    for place, larger in enumerate(labels.larger_is_better):
        scores = np.concatenate([one.scores[place] for one in batches]).astype(np.float64)
        scale = Normaliser.fit(
            scores,
            larger_is_better=larger,
            method=settings.normalisation,
            floor_share=settings.floor_share,
        )
        columns.append(scale.transform(scores))
    expected = pool_copies(
        curves, normalised=np.stack(columns, axis=1), n_tokens=n_tokens, domain=domain
    )
    ids = pa.chunked_array([one.ids for one in batches]).combine_chunks()
    keys = keys_of(ids)
    drawn = draw_copies(expected, keys, seed=seed)
    total = int((drawn * n_tokens).sum())
    quota = total if settings.n_tokens is None else settings.n_tokens
    copies = discard(drawn, n_tokens, keys, quota=quota, seed=seed)
    kept = np.flatnonzero(copies)
    table = pa.table({"id": ids.take(pa.array(kept)), "copies": copies[kept].astype(np.int32)})
    made = Copies(
        n_documents=len(keys),
        n_taken=len(kept),
        n_copies=int(copies.sum()),
        n_tokens=int((copies * n_tokens).sum()),
        drawn_tokens=total,
        rank_error=0.0,
    )
    with artifacts.writing(folder, stage="select", settings=asked, seed=seed, inputs={}) as aside:
        pq.write_table(table, aside / "part-00000.parquet", compression="zstd")
        artifacts.write_json(aside / SUMMARY, dump(made))
    return made


def _rank(
    folder: Path,
    request: CopiesRequest,
    settings: CopiesConfig,
    workers: int,
    on_progress: Progress,
) -> float:
    """Run the passes that ranks need; return how far a rank can be off."""
    labels, curves, seed = request.labels, request.curves, request.seed
    if not artifacts.is_done(folder / passes.SCALE):
        cells, counts = _count(
            "scores", folder, request, score_cells(len(labels.criteria)), workers, on_progress
        )
        floor = settings.floor_share if settings.normalisation == "floor-rank" else None
        scale = StreamedScale.of_counts(
            cells, counts, larger_is_better=labels.larger_is_better, floor_share=floor
        )
        passes.write_scale(folder, scale, seed=seed)
    n_domains = len(curves[0].domains)
    cells, tokens = _count(
        "tokens", folder, request, merged_cells(len(curves) * n_domains), workers, on_progress
    )
    if not artifacts.is_done(folder / passes.RANKS):
        expected = _expected(curves, cells, tokens)
        passes.write_expected(folder, cells, expected, seed=seed)
    return float(cells.error(tokens).max())


def _count(
    name: str,
    folder: Path,
    request: CopiesRequest,
    cells: Cells,
    workers: int,
    on_progress: Progress,
) -> tuple[Cells, IntArray]:
    """Count once, and again where bins held too much that no part had seen to be heavy."""
    parts = passes.run_pass(name, folder, request, workers=workers, on_progress=on_progress)
    bins = passes.sum_bins(parts, cells)
    finer = cells.heavy(bins)
    if not len(finer.divided):
        return cells, bins
    counts, whole = finer.fill(bins, passes.sum_finer(parts, finer))
    if whole:
        return finer, counts
    if not artifacts.is_done(passes.divided_folder(folder, name)):
        passes.write_divided(passes.divided_folder(folder, name), finer, seed=request.seed)
    parts = passes.run_pass(
        name + _FINER, folder, request, workers=workers, on_progress=on_progress
    )
    return finer, finer.fill(bins, passes.sum_finer(parts, finer))[0]


def _expected(curves: Sequence[QualityCurve], cells: Cells, tokens: IntArray) -> FloatArray:
    """Return the (size,) expected copies of documents by cell; 0 where there are none."""
    n_domains = len(curves[0].domains)
    ranks = cells.running(tokens)
    shares = token_shares(cells, tokens)[ranks.cells]
    expected = np.zeros(cells.size)
    for number, curve in enumerate(curves):
        own = ranks.group // n_domains == number
        expected[ranks.cells[own]] = curve.copies(shares[own], ranks.group[own] % n_domains)
    return expected


def _write_kept(
    folder: Path,
    parts: Sequence[Path],
    settings: CopiesConfig,
    n_rows: int,
    error: float,
    *,
    asked: dict[str, Json],
    seed: int,
) -> Copies:
    """Discard evenly down to the budget and write what is kept."""
    waiting = passes.sum_waiting(parts)
    last = _last_kept(parts, waiting, settings.n_tokens)
    totals = np.zeros(3, dtype=np.int64)
    with artifacts.writing(folder, stage="select", settings=asked, seed=seed, inputs={}) as aside:
        for number, part in enumerate(parts):
            table = pq.read_table(part / passes.DRAWN)
            if last is not None:
                table = table.filter(pc.less_equal(table["discard"], pa.scalar(last, pa.uint64())))
            for place, name in enumerate(("copies", "n_tokens")):
                totals[place + 1] += pc.sum(table[name]).as_py() or 0
            totals[0] += table.num_rows
            pq.write_table(
                table.select(["id", "copies"]),
                aside / f"part-{number:05d}.parquet",
                compression="zstd",
            )
        made = Copies(
            n_documents=n_rows,
            n_taken=int(totals[0]),
            n_copies=int(totals[1]),
            n_tokens=int(totals[2]),
            drawn_tokens=int(waiting.sum()),
            rank_error=error,
        )
        artifacts.write_json(aside / SUMMARY, dump(made))
    return made


def _last_kept(parts: Sequence[Path], waiting: IntArray, budget: int | None) -> int | None:
    """Return the hash up to which documents are kept; None where all are.

    The hash whose bin the budget ends in is found by the sums alone; only its documents are read.
    """
    if budget is None or int(waiting.sum()) <= budget:
        return None
    reached = np.cumsum(waiting)
    place = int(np.searchsorted(reached, budget))
    shift = pa.scalar(64 - passes.DISCARD_BITS, pa.uint64())
    tables = []
    for part in parts:
        table = pq.read_table(part / passes.DRAWN, columns=["discard", "n_tokens"])
        near = pc.equal(pc.shift_right(table["discard"], shift), pa.scalar(place, pa.uint64()))
        tables.append(table.filter(near))
    near = pa.concat_tables(tables).sort_by("discard")
    tokens = near["n_tokens"].to_numpy()
    before = int(reached[place] - waiting[place]) + np.cumsum(tokens) - tokens
    kept = int(np.flatnonzero(before < budget)[-1])
    return int(near["discard"][kept].as_py())


def _n_parts(n_rows: int) -> int:
    return max(min(_PARTS, math.ceil(n_rows / _LEAST_ROWS)), math.ceil(n_rows / _MOST_ROWS))


def _asked(
    curves: Sequence[QualityCurve], labels: LabelFiles, settings: CopiesConfig, files: list[Json]
) -> dict[str, Json]:
    """Return all that the copies depend on but the seed, once the curves fit the labels."""
    for curve in curves:
        if curve.criteria != labels.criteria:
            raise DataError(
                f"the curve merges {', '.join(curve.criteria)}, but the labels are of "
                f"{', '.join(labels.criteria)}. Name the same criteria in the same order."
            )
        if curve.domains != curves[0].domains:
            raise DataError("curves of a union must be of the same domains in the same order.")
    return {
        "labels": dump(replace(labels, files=("",))),
        "curves": curves_to_json(curves),
        "copies": dump(settings),
        "files": files,
    }


def _finished(folder: Path, asked: dict[str, Json], seed: int) -> Copies:
    manifest = cast(dict[str, Json], artifacts.read_json(folder / artifacts.MANIFEST))
    if (manifest["settings"], manifest["seed"]) != (_plain(asked), seed):
        raise ArtifactError(
            f"{folder} was drawn by another curve, from other labels, or with other settings. "
            "Choose another --out, or delete it."
        )
    return Copies.read(folder)


def _claim(folder: Path, request: CopiesRequest, asked: dict[str, Json]) -> None:
    """Let the passes belong to this request, and to no other."""
    wanted: dict[str, Json] = {**asked, "seed": request.seed}
    if (folder / _ASKED).exists():
        if artifacts.read_json(folder / _ASKED) != _plain(wanted):
            raise ArtifactError(
                f"{folder} holds passes of another curve, other labels or other settings. Delete "
                "it, or choose another --out."
            )
    else:
        request.write(folder / passes.REQUEST)
        artifacts.write_json(folder / _ASKED, wanted)


def _plain(value: Json) -> Json:
    """Return a value as it is read back from JSON."""
    return cast(Json, json.loads(artifacts.canonical_json(value)))
