"""Accuracy on downstream tasks: each mixture's, and how far the chosen one's lies from it.

It stands beside the verdict and takes no part in it: of the few hundred questions a small model is
asked, accuracy is a far coarser measure than the answers' loss.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from scipy import special

from cuvee import config
from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.errors import DataError
from cuvee.validate.compare import Word

Measure: TypeAlias = Literal["accuracy", "accuracy_norm"]
"""By log-likelihood, or by log-likelihood over the bytes of each choice."""

_N_DRAWS = 4000


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracyRow:
    """One mixture's accuracy on one task."""

    target: str
    measure: Measure
    mixture: str
    n_examples: int
    n_seeds: int
    """Runs that did not diverge."""
    chance: float | None
    """Accuracy of guessing; None where one cannot guess."""
    mean: float | None
    """Over seeds and examples, in [0, 1]; None when every run diverged."""
    low: float | None
    """Lower end of Wilson's interval over examples."""
    high: float | None
    """Upper end."""
    difference: float | None = None
    """The chosen mixture's accuracy minus this one's, seeds and examples paired; above 0 the chosen
    one is better. None for the chosen mixture itself."""
    difference_low: float | None = None
    """Lower end of the bootstrap interval."""
    difference_high: float | None = None
    """Upper end."""
    word: Word | None = None


def rows_to_json(rows: Sequence[AccuracyRow]) -> list[Json]:
    """Return rows as plain JSON data."""
    return [dataclasses.asdict(row) for row in rows]


def rows_from_json(data: Sequence[Mapping[str, Json]]) -> tuple[AccuracyRow, ...]:
    """Rebuild rows from `rows_to_json`."""
    return tuple(config.parse(AccuracyRow, row) for row in data)


def compare_accuracy(
    correct: Mapping[str, FloatArray],
    *,
    target: str,
    measure: Measure,
    chosen: str,
    chance: float | None,
    confidence: float,
    rng: np.random.Generator,
) -> tuple[AccuracyRow, ...]:
    """Judge the chosen mixture's accuracy on one task against every other one's.

    A difference's interval holds the middle share of its bootstrap distribution, seeds and examples
    being drawn again, each with replacement, so that both their variances enter. With one seed only
    examples are drawn.

    Args:
        correct: By mixture, (n_seeds, n_examples) 1 where right, 0 where wrong; a diverged run is a
            row of NaN. Rows and columns are the same seeds and examples for every mixture.
        target: The task's name.
        measure: How choices were compared.
        chosen: Name of the chosen mixture.
        chance: Accuracy of guessing, if one can.
        confidence: Coverage of each interval by itself.
        rng: Draws the bootstrap's samples.

    Returns:
        One row a mixture, in the given order.

    Raises:
        DataError: Shapes do not agree.
    """
    shapes = {name: table.shape for name, table in correct.items()}
    if len(set(shapes.values())) != 1 or chosen not in correct:
        raise DataError(
            f"accuracy of task {target!r}: tables have shapes {shapes}, and the chosen mixture is "
            f"{chosen!r}; all must be (n_seeds, n_examples) alike, the chosen one among them."
        )
    rows = []
    for name, table in correct.items():
        mean, low, high = _level(table, confidence)
        row = AccuracyRow(
            target=target,
            measure=measure,
            mixture=name,
            n_examples=table.shape[1],
            n_seeds=len(_kept(table)),
            chance=chance,
            mean=mean,
            low=low,
            high=high,
        )
        if name != chosen:
            row = _compared(row, correct[chosen] - table, confidence, rng)
        rows.append(row)
    return tuple(rows)


def wilson_interval(share: float, n: int, confidence: float) -> tuple[float, float]:
    """Return Wilson's interval of a share of n trials, which need not be a whole number of them.

    (p + z^2 / 2n -/+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n).

    Args:
        share: p, in [0, 1].
        n: Trials, at least 1.
        confidence: Coverage in (0, 1).

    Returns:
        Lower and upper end.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference,
        JASA 22 (1927). scipy.stats.binomtest has it for whole numbers.
    """
    z = float(special.ndtri(0.5 + confidence / 2.0))
    centre = share + z**2 / (2 * n)
    half = z * math.sqrt(share * (1.0 - share) / n + z**2 / (4 * n**2))
    scale = 1.0 + z**2 / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def _kept(table: FloatArray) -> FloatArray:
    return np.asarray(table[~np.isnan(table).any(axis=1)], dtype=np.float64)


def _level(table: FloatArray, confidence: float) -> tuple[float | None, float | None, float | None]:
    """Return mean accuracy and its interval; runs share the examples, so that n is their number."""
    kept = _kept(table)
    if not len(kept):
        return None, None, None
    mean = float(kept.mean())
    return mean, *wilson_interval(mean, kept.shape[1], confidence)


def _compared(
    row: AccuracyRow, differences: FloatArray, confidence: float, rng: np.random.Generator
) -> AccuracyRow:
    kept = _kept(differences)
    if not len(kept):
        return dataclasses.replace(row, word="cannot be told apart")
    n_seeds, n_examples = kept.shape
    seeds = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=_N_DRAWS) / n_seeds
    even = np.full(n_examples, 1 / n_examples)
    examples = rng.multinomial(n_examples, even, size=_N_DRAWS) / n_examples
    draws = np.einsum("bs,se,be->b", seeds, kept, examples, optimize=True)
    tail = (1.0 - confidence) / 2.0
    low, high = (float(end) for end in np.quantile(draws, [tail, 1.0 - tail]))
    word: Word = "better" if low > 0 else "worse" if high < 0 else "cannot be told apart"
    return dataclasses.replace(
        row,
        difference=float(kept.mean()),
        difference_low=low,
        difference_high=high,
        word=word,
    )
