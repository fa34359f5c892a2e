"""Accuracy beside the verdict: Wilson's intervals, paired differences, diverged seeds."""

import numpy as np
import pytest
from scipy import stats

from cuvee.arrays import FloatArray
from cuvee.errors import DataError
from cuvee.randomness import stream
from cuvee.validate.accuracy import (
    AccuracyRow,
    compare_accuracy,
    rows_from_json,
    rows_to_json,
    wilson_interval,
)


def rows(confidence: float = 0.95, /, **correct: FloatArray) -> dict[str, AccuracyRow]:
    """Compare mixtures on one task, by mixture."""
    found = compare_accuracy(
        correct,
        target="arc",
        measure="accuracy",
        chosen="chosen",
        chance=0.25,
        confidence=confidence,
        rng=stream(1, "accuracy"),
    )
    return {row.mixture: row for row in found}


def marks(share: float, *, n_seeds: int = 3, n_examples: int = 400, seed: int = 0) -> FloatArray:
    """Draw right and wrong answers."""
    draws = stream(seed, "marks").random((n_seeds, n_examples))
    return np.asarray(draws < share, dtype=np.float64)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (157, 400)])
def test_wilsons_interval_is_scipys(k: int, n: int) -> None:
    """Of whole numbers of right answers it is that of scipy."""
    expected = stats.binomtest(k, n).proportion_ci(0.9, method="wilson")
    found = wilson_interval(k / n, n, 0.9)
    assert found == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_levels_and_differences_by_hand() -> None:
    """Means are over seeds and examples, a difference is the chosen one's minus the other's."""
    chosen = np.array([[1.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0]])
    other = np.array([[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    found = rows(chosen=chosen, natural=other)
    assert (found["chosen"].mean, found["natural"].mean) == (5 / 8, 2 / 8)
    assert found["chosen"].difference is None
    assert found["natural"].difference == 3 / 8
    assert (found["natural"].n_examples, found["natural"].n_seeds) == (4, 2)


def test_words_follow_the_interval() -> None:
    """Higher accuracy is better; none gets a direction where the interval holds 0."""
    found = rows(
        chosen=marks(0.5, seed=1),
        low=marks(0.3, seed=2),
        high=marks(0.7, seed=3),
        same=marks(0.5, seed=4),
    )
    words = {name: row.word for name, row in found.items()}
    assert words == {
        "chosen": None,
        "low": "better",
        "high": "worse",
        "same": "cannot be told apart",
    }


def test_pairing_narrows_the_interval() -> None:
    """Where both fail on the same questions a small difference is seen."""
    chosen = marks(0.5)
    other = chosen.copy()
    other[:, :40] = 0.0
    paired = rows(chosen=chosen, other=other)["other"]
    shuffled = rows(chosen=chosen, other=np.roll(other, 200, axis=1))["other"]
    assert paired.difference == shuffled.difference
    widths = []
    for row in (paired, shuffled):
        assert row.difference_low is not None
        assert row.difference_high is not None
        widths.append(row.difference_high - row.difference_low)
    assert widths[0] < 0.7 * widths[1]
    assert paired.word == "better"


def test_interval_covers_as_often_as_it_says() -> None:
    """Of 80 pairs without a difference about a fifth leaves 0 out of an 80% interval."""
    outside = 0
    for number in range(80):
        chosen = marks(0.4, n_seeds=1, n_examples=150, seed=2 * number)
        other = marks(0.4, n_seeds=1, n_examples=150, seed=2 * number + 1)
        found = rows(0.8, chosen=chosen, other=other)
        outside += found["other"].word != "cannot be told apart"
    assert 6 <= outside <= 28  # binomial(80, 0.2): 1e-3 lies beyond each end


def test_diverged_seeds_are_left_out() -> None:
    """Rows of NaN lose their pairs; a mixture without a run has no figures."""
    chosen, other, gone = marks(0.6), marks(0.2), np.full((3, 400), np.nan)
    other[1] = np.nan
    found = rows(chosen=chosen, other=other, gone=gone)
    assert found["other"].n_seeds == 2
    assert found["other"].difference == pytest.approx((chosen - other)[[0, 2]].mean())
    assert (found["gone"].mean, found["gone"].difference) == (None, None)
    assert found["gone"].word == "cannot be told apart"


def test_rows_survive_json() -> None:
    """What is written is what is read."""
    found = tuple(rows(chosen=marks(0.6), other=marks(0.2)).values())
    assert rows_from_json(rows_to_json(found)) == found  # type: ignore[arg-type]


def test_tables_of_other_shapes_are_refused() -> None:
    """Examples must be the same for all mixtures."""
    with pytest.raises(DataError, match=r"accuracy of task 'arc': tables have shapes"):
        rows(chosen=marks(0.5), other=marks(0.5, n_examples=10))
