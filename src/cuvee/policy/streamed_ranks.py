"""Quality ranks of pools too large for memory: integer histograms in place of a sort.

Scores become 32-bit codes that keep their order, codes fall into bins, bins that hold too much are
divided once more. Counts are integers, so any shards, in any order, by any number of workers, add
up to the same tables and so to the same copies.

Source: QuaDMix (arXiv:2504.16511), equations 1 and 2; section 3.4 estimates the same tables from
10,000 documents.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias

import numpy as np
import numpy.typing as npt

from cuvee.arrays import BoolArray, FloatArray, IntArray

CodeArray: TypeAlias = npt.NDArray[np.uint32]
ScoreArray: TypeAlias = npt.NDArray[np.float32]

SCORE_BITS, SCORE_FINER = 20, 12
"""A score's bin is the first 20 bits of its code, sign, exponent and 11 of the fraction; a divided
bin tells every float32 apart."""
MERGED_BITS, MERGED_FINER = 15, 9
TOLERANCE = 5e-4
"""Largest share of a group in one bin that is not divided."""
_FEW = 1 << 15
"""Documents of a group, within one part of a pool, of which every one is counted."""
_CODES = 2.0**32
_SIGN = np.uint32(1 << 31)
_CHUNK = 1 << 15
"""Documents worked on at once: their arrays stay in the processor's second cache."""


def score_codes(scores: ScoreArray) -> CodeArray:
    """Turn scores into unsigned integers of the same order.

    Args:
        scores: (n_documents,) float32, not NaN; -0 counts as 0.

    Returns:
        (n_documents,) codes: equal exactly where the scores are, smaller where they are smaller.
    """
    bits = (scores + np.float32(0.0)).view(np.int32)
    flips = (bits >> np.int32(31)).view(np.uint32) | _SIGN
    return bits.view(np.uint32) ^ flips


def decode_scores(codes: CodeArray) -> ScoreArray:
    """Return the scores of codes, the inverse of `score_codes`."""
    flips = np.where(codes & _SIGN, _SIGN, np.uint32(0xFFFFFFFF))
    return (codes ^ flips).view(np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cells:
    """Bins of 32-bit codes, group by group; a bin that holds too much is divided once more."""

    n_groups: int
    bits: int
    """A group has ``2 ** bits`` bins."""
    finer_bits: int
    """A divided bin has ``2 ** finer_bits``."""
    divided: IntArray
    """(n_divided,) rising numbers of the bins that are divided; group times bins plus bin."""
    slot: IntArray
    """(n_groups 2^bits,) which of the divided bins a bin is, -1 for the others; empty without."""

    @classmethod
    def of(
        cls, n_groups: int, bits: int, finer_bits: int, divided: IntArray | Sequence[int] = ()
    ) -> Self:
        """Lay out the cells.

        Args:
            n_groups: Criteria, or domains.
            bits: Logarithm of the bins of a group.
            finer_bits: Logarithm of the parts of a divided bin.
            divided: (n_divided,) rising numbers of bins to divide.
        """
        numbers = np.asarray(divided, dtype=np.int64)
        slot = np.empty(0, dtype=np.int64)
        if len(numbers):
            slot = np.full(n_groups << bits, -1, dtype=np.int64)
            slot[numbers] = np.arange(len(numbers))
        return cls(n_groups=n_groups, bits=bits, finer_bits=finer_bits, divided=numbers, slot=slot)

    @property
    def n_bins(self) -> int:
        """Number of bins, divided or not."""
        return self.n_groups << self.bits

    @property
    def size(self) -> int:
        """Number of cells, those of divided bins that stay empty included."""
        return self.n_bins + (len(self.divided) << self.finer_bits)

    def place(self, group: IntArray | int, codes: CodeArray) -> IntArray:
        """Find the cells of documents.

        Args:
            group: (n_documents,) or one for all.
            codes: (n_documents,)

        Returns:
            (n_documents,) numbers below `size`.
        """
        cells = (codes >> np.uint32(32 - self.bits)).astype(np.int64)
        cells += np.left_shift(group, self.bits)
        if len(self.divided):
            slot = self.slot[cells]
            rows = np.flatnonzero(slot >= 0)
            part = codes[rows] >> np.uint32(32 - self.bits - self.finer_bits)
            part &= np.uint32((1 << self.finer_bits) - 1)
            first = self.n_bins + (slot[rows] << self.finer_bits)
            cells[rows] = first + part.astype(np.int64)
        return cells

    def heavy(self, bins: IntArray, tolerance: float = TOLERANCE) -> Self:
        """Divide the bins that hold more than a share of their group.

        Args:
            bins: (n_groups 2^bits,) documents or tokens.
            tolerance: The share.
        """
        shaped = bins.reshape(self.n_groups, -1)
        over = shaped > tolerance * shaped.sum(axis=1, keepdims=True)
        return self.of(self.n_groups, self.bits, self.finer_bits, np.flatnonzero(over))

    def fill(self, bins: IntArray, finer: "SparseCounts") -> tuple[IntArray, bool]:
        """Put counts of bins and of their parts into the cells.

        Args:
            bins: (n_groups 2^bits,) counts.
            finer: Counts of parts of bins, of some parts of some bins at least.

        Returns:
            (size,) counts, and whether the divided bins' parts hold all that the bins do.
        """
        counts = np.zeros(self.size, dtype=np.int64)
        n_bins = self.n_bins
        counts[:n_bins] = bins
        if len(self.divided):
            slot = self.slot[finer.place >> self.finer_bits]
            part = finer.place & ((1 << self.finer_bits) - 1)
            own = slot >= 0
            counts[n_bins + (slot[own] << self.finer_bits) + part[own]] = finer.count[own]
            counts[self.divided] = 0
        return counts, int(counts.sum()) == int(bins.sum())

    def running(self, counts: IntArray) -> "Running":
        """Sum up each group's counts in the order of codes.

        Args:
            counts: (size,)
        """
        filled = np.flatnonzero(counts)
        starts = filled << self.finer_bits
        part = filled[filled >= self.n_bins] - self.n_bins
        starts[filled >= self.n_bins] = (
            self.divided[part >> self.finer_bits] << self.finer_bits
        ) + (part & ((1 << self.finer_bits) - 1))
        order = np.argsort(starts, kind="stable")
        cells, group = filled[order], starts[order] >> (self.bits + self.finer_bits)
        reached = np.cumsum(counts[cells])
        ends = np.searchsorted(group, np.arange(self.n_groups), side="right")
        sums = np.concatenate([[0], reached])[np.concatenate([[0], ends])]
        return Running(
            cells=cells,
            group=group,
            reached=reached - sums[group],
            total=np.diff(sums)[group],
        )

    def error(self, counts: IntArray) -> FloatArray:
        """Return the (n_groups,) largest share in a cell that could still be divided."""
        running = self.running(counts)
        largest = counts[: self.n_bins].reshape(self.n_groups, -1).max(axis=1)
        total = np.ones(self.n_groups, dtype=np.int64)
        total[running.group] = running.total
        return np.asarray(largest / total, dtype=np.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """Running sums over the cells that hold anything, in the order of groups and codes."""

    cells: IntArray
    """(n_cells,)"""
    group: IntArray
    """(n_cells,)"""
    reached: IntArray
    """(n_cells,) sum of the group's cells up to and including this one."""
    total: IntArray
    """(n_cells,) sum of the group."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SparseCounts:
    """Counts at the places that have any."""

    place: IntArray
    """(n_places,) rising."""
    count: IntArray
    """(n_places,) above 0."""

    @classmethod
    def of(cls, place: IntArray, count: IntArray) -> Self:
        """Add up counts that share a place.

        Args:
            place: (n,) in any order, repeats allowed.
            count: (n,)
        """
        places, which = np.unique(place, return_inverse=True)
        # Sums of integers below 2^53 are exact as floats.
        sums = np.bincount(which, weights=count, minlength=len(places))
        return cls(place=places, count=sums.astype(np.int64))

    @classmethod
    def of_bins(cls, bins: IntArray) -> Self:
        """Leave out the bins that hold nothing."""
        place = np.flatnonzero(bins)
        return cls(place=place, count=bins[place])


def count_finer(
    cells: Cells, bins: IntArray, codes: CodeArray, count: IntArray | None, wanted: BoolArray
) -> SparseCounts:
    """Count the parts of some bins.

    Args:
        cells: Undivided.
        bins: (n_documents,) of `Cells.place`.
        codes: (n_documents,)
        count: (n_documents,) what is summed; None counts documents.
        wanted: (n_groups 2^bits,) which bins.
    """
    rows = np.flatnonzero(wanted[bins])
    part = codes[rows] >> np.uint32(32 - cells.bits - cells.finer_bits)
    part &= np.uint32((1 << cells.finer_bits) - 1)
    place = (bins[rows] << cells.finer_bits) + part.astype(np.int64)
    if count is None:
        places, documents = np.unique(place, return_counts=True)
        return SparseCounts(place=places, count=documents.astype(np.int64))
    return SparseCounts.of(place, count[rows])


def bins_to_divide(cells: Cells, bins: IntArray, documents: IntArray) -> BoolArray:
    """Guess from some documents which bins of all of them hold too much.

    Args:
        cells: Undivided.
        bins: (n_groups 2^bits,) counts of a part of the pool.
        documents: (n_groups,) documents in it.

    Returns:
        (n_groups 2^bits,) True for bins with half the tolerance, and for all of groups so small
        that one document may be too much.
    """
    shaped = bins.reshape(cells.n_groups, -1)
    over = shaped > 0.5 * TOLERANCE * shaped.sum(axis=1, keepdims=True)
    return np.asarray(over | (documents < _FEW)[:, None]).ravel()


def score_cells(n_criteria: int, divided: IntArray | Sequence[int] = ()) -> Cells:
    """Lay out the cells of raw scores, a group a criterion."""
    return Cells.of(n_criteria, SCORE_BITS, SCORE_FINER, divided)


def merged_cells(n_groups: int, divided: IntArray | Sequence[int] = ()) -> Cells:
    """Lay out the cells of merged qualities, a group a curve's domain."""
    return Cells.of(n_groups, MERGED_BITS, MERGED_FINER, divided)


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamedScale:
    """Average ranks of all criteria: what `Normaliser` is for scores in memory.

    Within a cell the normalised score rises with the code, so a criterion keeps its order; equal
    scores stay equal.
    """

    cells: Cells
    start: FloatArray
    """(size,) average rank where a bin begins; of parts of divided bins the average rank itself."""
    slope: FloatArray
    """(size,) its rise by code."""

    @classmethod
    def of_counts(
        cls,
        cells: Cells,
        counts: IntArray,
        *,
        larger_is_better: Sequence[bool],
        floor_share: float | None = None,
    ) -> Self:
        """Learn the scale of every criterion from the documents in each cell of its scores.

        Args:
            cells: One group a criterion.
            counts: (size,) documents.
            larger_is_better: (n_criteria,) directions of the raw scores.
            floor_share: None for the ``rank`` of `Normaliser`; for its ``floor-rank`` the share of
                the documents, the worst, that become one value, to the width of a cell.
        """
        running = cells.running(counts)
        start, slope = np.zeros(cells.size), np.zeros(cells.size)
        for criterion, larger in enumerate(larger_is_better):
            own = running.group == criterion
            places, reached = running.cells[own], running.reached[own]
            first, last = _ends(reached, counts[places], larger=larger, floor_share=floor_share)
            whole = places < cells.n_bins
            start[places] = np.where(whole, first, (first + last) / 2.0)
            slope[places] = np.where(whole, (last - first) / (1 << (32 - cells.bits)), 0.0)
        return cls(cells=cells, start=start, slope=slope)

    def normalise(self, criterion: int, codes: CodeArray) -> FloatArray:
        """Return the (n_documents,) normalised scores of one criterion; smaller is better."""
        cells = self.cells.place(criterion, codes)
        within = (codes & np.uint32((1 << (32 - self.cells.bits)) - 1)).astype(np.float64)
        within += 0.5
        within *= self.slope.take(cells)
        within += self.start.take(cells)
        return within

    def merge(self, scores: Sequence[ScoreArray], domain: IntArray, merge: FloatArray) -> CodeArray:
        """Merge raw scores with each domain's weights (equation 1).

        Args:
            scores: (n_criteria) arrays of (n_documents,).
            domain: (n_documents,) positions of the domains.
            merge: (n_domains, n_criteria) at least 0, rows sum to 1.

        Returns:
            (n_documents,) codes of the merged quality in [0, 1], smaller is better.
        """
        weights = np.ascontiguousarray(merge.T) * _CODES
        codes = np.empty(len(domain), dtype=np.uint32)
        for first in range(0, len(domain), _CHUNK):
            part = slice(first, first + _CHUNK)
            merged = np.zeros(len(domain[part]))
            for criterion, column in enumerate(scores):
                value = self.normalise(criterion, score_codes(column[part]))
                value *= weights[criterion].take(domain[part])
                merged += value
            np.clip(merged, 0.0, _CODES - 1.0, out=merged)
            codes[part] = merged.astype(np.int64).astype(np.uint32)
        return codes


def token_shares(cells: Cells, tokens: IntArray) -> FloatArray:
    """Rank the cells by tokens (equation 2).

    Args:
        cells: Of merged qualities, a group a domain.
        tokens: (size,) in each cell.

    Returns:
        (size,) share of the group's tokens in cells that are as good or better; 1 for the worst
        that holds any, and for cells that hold none.
    """
    running = cells.running(tokens)
    shares = np.ones(cells.size)
    shares[running.cells] = running.reached / running.total
    return shares


def _ends(
    running: IntArray, counts: IntArray, *, larger: bool, floor_share: float | None
) -> tuple[FloatArray, FloatArray]:
    """Return the average ranks at the first and beyond the last code of a criterion's cells.

    Args:
        running: (n_cells,) documents up to and including each cell, in the order of codes.
        counts: (n_cells,) documents in each.
        larger: Whether larger scores are better.
        floor_share: Share of the documents, the worst, that become one value, or None.
    """
    total = max(int(running[-1]), 1)
    first, last = (running - counts) / total, running / total
    if larger:
        first, last = 1.0 - first, 1.0 - last
    if floor_share is not None:
        best = np.minimum(first, last)
        floor = best[best <= 1.0 - floor_share].max(initial=0.0)
        first, last = (np.where(best >= floor, (floor + 1.0) / 2.0, side) for side in (first, last))
    return first, last
