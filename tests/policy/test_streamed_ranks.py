"""Ranks by integer histograms: order kept, heavy bins divided, close to the exact ranks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cuvee.arrays import BoolArray, FloatArray, IntArray
from cuvee.policy.ranks import Normaliser, merge_scores, token_ranks
from cuvee.policy.streamed_ranks import (
    TOLERANCE,
    Cells,
    CodeArray,
    ScoreArray,
    SparseCounts,
    StreamedScale,
    bins_to_divide,
    count_finer,
    decode_scores,
    merged_cells,
    score_cells,
    score_codes,
    token_shares,
)

LARGER = (True, False, True)
MERGE = np.array([[0.3, 0.3, 0.4], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.1, 0.9, 0.0]])
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def _pool(n: int, seed: int = 0) -> tuple[list[ScoreArray], IntArray, IntArray]:
    """Return scores (normal; crowded far from 0; three in ten equal), domains and lengths."""
    rng = np.random.default_rng(seed)
    domain = rng.choice(4, n, p=[0.8, 0.15, 0.045, 0.005])
    scores = [
        rng.standard_normal(n),
        1000.0 + 0.1 * rng.standard_normal(n) + 0.1 * domain,
        np.where(rng.random(n) < 0.3, 0.0, -rng.exponential(size=n)),
    ]
    return [one.astype(np.float32) for one in scores], domain, rng.integers(1, 400, n)


def _counts(cells: Cells, group: IntArray, codes: CodeArray, count: IntArray) -> IntArray:
    """Count bins and their parts, in one go."""
    place = cells.place(group, codes)
    return np.bincount(place, weights=count, minlength=cells.size).astype(np.int64)


def _scale(scores: list[ScoreArray], *, floor_share: float | None = None) -> StreamedScale:
    group = np.repeat(np.arange(len(scores)), len(scores[0]))
    codes = score_codes(np.concatenate(scores))
    cells = score_cells(len(scores))
    ones = np.ones(len(group), dtype=np.int64)
    finer = cells.heavy(_counts(cells, group, codes, ones))
    counts = _counts(finer, group, codes, ones)
    return StreamedScale.of_counts(
        finer, counts, larger_is_better=LARGER[: len(scores)], floor_share=floor_share
    )


@given(scores=arrays(np.float32, st.integers(1, 30), elements=FLOATS))
def test_codes_keep_the_order_of_scores(scores: ScoreArray) -> None:
    """Comparisons come out alike, 0 and -0 are one, and codes give the scores back."""
    codes = score_codes(scores)
    np.testing.assert_array_equal(codes[:, None] < codes, scores[:, None] < scores)
    np.testing.assert_array_equal(codes[:, None] == codes, scores[:, None] == scores)
    np.testing.assert_array_equal(decode_scores(codes), scores)


@pytest.mark.parametrize("floor_share", [None, 0.4])
def test_scale_is_the_normaliser_of_the_same_scores(floor_share: float | None) -> None:
    """Average ranks of continuous, crowded and tied scores, within a cell of them."""
    scores, _, _ = _pool(40_000)
    scale = _scale(scores, floor_share=floor_share)
    for place, (column, larger) in enumerate(zip(scores, LARGER, strict=True)):
        exact = Normaliser.fit(
            column.astype(np.float64),
            larger_is_better=larger,
            method="rank" if floor_share is None else "floor-rank",
            floor_share=floor_share or 0.5,
        ).transform(column.astype(np.float64))
        found = scale.normalise(place, score_codes(column))
        off = np.abs(found - exact) > TOLERANCE  # the floor lies within a cell
        assert off.mean() <= (TOLERANCE if floor_share else 0.0)
        if floor_share is None:
            order = np.argsort(exact, kind="stable")
            assert np.all(np.diff(found[order]) >= 0.0)
            tied = np.diff(exact[order]) == 0.0
            np.testing.assert_array_equal(np.diff(found[order])[tied], 0.0)


def test_ranks_are_close_to_the_exact_ones() -> None:
    """In domains large and small, by one criterion or several, with ties: within a thousandth."""
    scores, domain, n_tokens = _pool(200_000)
    exact = np.stack(
        [
            Normaliser.fit(one.astype(np.float64), larger_is_better=larger).transform(
                one.astype(np.float64)
            )
            for one, larger in zip(scores, LARGER, strict=True)
        ],
        axis=1,
    )
    wanted = token_ranks(merge_scores(exact, domain, MERGE), n_tokens, domain)
    codes = _scale(scores).merge(scores, domain, MERGE)
    cells = merged_cells(4)
    finer = cells.heavy(_counts(cells, domain, codes, n_tokens))
    counts = _counts(finer, domain, codes, n_tokens)
    ranks = token_shares(finer, counts)[finer.place(domain, codes)]
    large = domain < 3
    assert np.abs(ranks - wanted)[large].max() < 1e-3
    one = n_tokens.max() / n_tokens[~large].sum()  # two neighbours may change places
    assert np.abs(ranks - wanted)[~large].max() < TOLERANCE + 2.0 * one
    assert finer.error(counts).max() <= TOLERANCE
    for index in range(4):
        assert ranks[domain == index].max() == 1.0


def test_parts_of_the_pool_add_up_to_the_same_counts() -> None:
    """Counts of parts in any order fill the cells as one count of everything does."""
    scores, domain, n_tokens = _pool(30_000)
    codes = _scale(scores).merge(scores, domain, MERGE)
    cells = merged_cells(4)
    whole = cells.heavy(_counts(cells, domain, codes, n_tokens))
    bins, places, counts = np.zeros(cells.n_bins, dtype=np.int64), [], []
    for rows in np.array_split(np.random.default_rng(1).permutation(30_000), 5):
        own = _counts(cells, domain[rows], codes[rows], n_tokens[rows])
        seen = bins_to_divide(cells, own, np.bincount(domain[rows], minlength=4))
        placed = cells.place(domain[rows], codes[rows])
        finer = count_finer(cells, placed, codes[rows], n_tokens[rows], seen)
        places.append(finer.place)
        counts.append(finer.count)
        bins += own
    assert cells.heavy(bins).divided.tolist() == whole.divided.tolist()
    together = SparseCounts.of(np.concatenate(places), np.concatenate(counts))
    filled, complete = whole.fill(bins, together)
    assert complete
    np.testing.assert_array_equal(filled, _counts(whole, domain, codes, n_tokens))


def test_a_bin_nobody_saw_as_heavy_is_missed_and_said_so() -> None:
    """Without its parts a divided bin does not add up."""
    cells = Cells.of(1, 4, 4)
    codes = np.array([0x10000000, 0x1F000000, 0xF0000000], dtype=np.uint32)
    zero, ones = np.zeros(3, dtype=np.int64), np.ones(3, dtype=np.int64)
    bins = _counts(cells, zero, codes, ones)
    finer = cells.heavy(bins, tolerance=0.5)
    assert finer.divided.tolist() == [1]
    unseen: BoolArray = np.zeros(16, dtype=np.bool_)
    placed = cells.place(zero, codes)
    none = count_finer(cells, placed, codes, ones, unseen)
    assert finer.fill(bins, none)[1] is False
    unseen[1] = True
    counts, complete = finer.fill(bins, count_finer(cells, placed, codes, None, unseen))
    assert complete
    shares: FloatArray = token_shares(finer, counts)[finer.place(zero, codes)]
    np.testing.assert_allclose(shares, [1 / 3, 2 / 3, 1.0])
