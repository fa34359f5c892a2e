"""Several answers judged together: who is best on each target, and who cannot be told apart."""

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from cuvee import config
from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.errors import CuveeWarning, DataError
from cuvee.validate.compare import TOTAL, Comparison, Score, Verdict, compare

Place: TypeAlias = Literal["best", "cannot be told apart", "worse", "diverged"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Mean over seeds of one minus another, bits per byte, and its interval."""

    mean_bpb: float | None
    """None when no pair of runs is left."""
    low_bpb: float | None
    """None below two pairs."""
    high_bpb: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """One contender on one target or in total."""

    name: str
    n_seeds: int
    mean_bpb: float | None
    """None when every run diverged."""
    sd_bpb: float | None
    """Standard deviation over seeds; None below two seeds."""
    place: Place
    """Beside the best of this target; ``worse`` where the interval lies above 0."""
    behind: Difference | None
    """This contender minus the best; None for the best itself."""
    beyond_reference: Difference | None
    """This contender minus the reference; None for the reference, or where there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetTable:
    """All contenders on one target, the lowest loss first."""

    target: str
    """A target's name, or ``total``."""
    noise_bpb: float | None
    """Standard deviation over seeds within contenders, pooled; None with one seed."""
    rows: tuple[Standing, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two contenders on one target or in total."""

    first: str
    second: str
    target: str
    n_seeds: int
    difference: Difference
    """First minus second: below 0 the first is better."""
    word: str
    """What the first is beside the second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """Contenders judged together at equal tokens."""

    targets: tuple[str, ...]
    weights: tuple[float, ...]
    """The objective's weight of each target; they sum to 1."""
    confidence: float
    """Coverage of each interval by itself."""
    reference: str | None
    tables: tuple[TargetTable, ...]
    """The total first, then each target."""
    pairs: tuple[Pair, ...]
    """Every two contenders in the order given, the total first, then each target."""

    def table(self, target: str = TOTAL) -> TargetTable:
        """Return one target's table.

        Raises:
            DataError: There is no such target.
        """
        for one in self.tables:
            if one.target == target:
                return one
        known = ", ".join(one.target for one in self.tables)
        raise DataError(f"no table of target {target!r}; there are {known}.")

    def to_json(self) -> dict[str, Json]:
        """Return the ranking as plain JSON data."""
        plain: dict[str, Json] = dataclasses.asdict(self)
        return plain

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> "Ranking":
        """Rebuild a ranking from `to_json`.

        Raises:
            ConfigError: A key is unknown, missing or of the wrong kind.
        """
        return config.parse(cls, data)


def rank(
    losses_bpb: Mapping[str, FloatArray],
    targets: Sequence[str],
    weights: FloatArray,
    *,
    confidence: float = 0.95,
    reference: str | None = None,
) -> Ranking:
    """Judge all contenders beside each target's best one, by `compare`'s paired intervals.

    Every interval has the stated coverage by itself. That the best was found by looking at the same
    runs is not corrected for, so that its lead is flattered a little: the words tell who is surely
    behind, not how far.

    Args:
        losses_bpb: By contender, (n_seeds, n_targets) bits per byte on the targets' verdict half;
            row s of every one has the same seed. A diverged run is a row with NaN.
        targets: (n_targets,) names.
        weights: (n_targets,) the objective's weights; they sum to 1.
        confidence: Coverage of the intervals.
        reference: A contender that all others are set beside too; None: none.

    Returns:
        Tables by target and the comparison of every two.

    Raises:
        DataError: There are fewer than two contenders, `reference` is none of them, or as
            `compare`.

    Example:
        >>> import numpy as np
        >>> losses = {"a": np.array([[1.0], [1.2]]), "b": np.array([[1.1], [1.3]])}
        >>> [(row.name, row.place) for row in rank(losses, ["qa"], np.ones(1)).table().rows]
        [('a', 'best'), ('b', 'worse')]
    """
    names = tuple(losses_bpb)
    if len(names) < 2:
        raise DataError(f"a comparison needs at least 2 contenders, found {len(names)}.")
    if reference is not None and reference not in losses_bpb:
        raise DataError(f"reference {reference!r} is no contender; there are {', '.join(names)}.")
    verdicts = {}
    for number, name in enumerate(names):
        with warnings.catch_warnings():
            if number:  # diverged runs are the same every time; once is enough to hear of them
                warnings.simplefilter("ignore", CuveeWarning)
            verdicts[name] = compare(
                losses_bpb, targets, weights, chosen=name, confidence=confidence
            )
    first = verdicts[names[0]]
    columns = (TOTAL, *targets)
    return Ranking(
        targets=tuple(targets),
        weights=first.weights,
        confidence=confidence,
        reference=reference,
        tables=tuple(_table(verdicts, target, reference) for target in columns),
        pairs=tuple(
            _pair(one, verdicts[one].row(other, target))
            for place, one in enumerate(names)
            for other in names[place + 1 :]
            for target in columns
        ),
    )


def _table(verdicts: Mapping[str, Verdict], target: str, reference: str | None) -> TargetTable:
    """Set every contender beside the one of the lowest mean loss; equal ones in the given order."""
    any_verdict = next(iter(verdicts.values()))
    scores = {one.mixture: one for one in any_verdict.scores if one.target == target}
    order = sorted(scores, key=lambda name: _loss(scores[name]))
    best = order[0]
    return TargetTable(
        target=target,
        noise_bpb=any_verdict.noise_bpb[target],
        rows=tuple(
            _standing(
                scores[name],
                behind=None if name == best else verdicts[name].row(best, target),
                beyond=None
                if reference in (None, name)
                else verdicts[name].row(str(reference), target),
            )
            for name in order
        ),
    )


def _loss(score: Score) -> float:
    return math.inf if score.mean_bpb is None else score.mean_bpb


def _standing(score: Score, *, behind: Comparison | None, beyond: Comparison | None) -> Standing:
    place: Place = "best"
    if score.mean_bpb is None:
        place = "diverged"
    elif behind is not None:
        place = "worse" if behind.word == "worse" else "cannot be told apart"
    return Standing(
        name=score.mixture,
        n_seeds=score.n_seeds,
        mean_bpb=score.mean_bpb,
        sd_bpb=score.sd_bpb,
        place=place,
        behind=None if behind is None else _difference(behind),
        beyond_reference=None if beyond is None else _difference(beyond),
    )


def _difference(row: Comparison) -> Difference:
    return Difference(mean_bpb=row.difference_bpb, low_bpb=row.low_bpb, high_bpb=row.high_bpb)


def _pair(first: str, row: Comparison) -> Pair:
    return Pair(
        first=first,
        second=row.baseline,
        target=row.target,
        n_seeds=row.n_seeds,
        difference=_difference(row),
        word=row.word,
    )
