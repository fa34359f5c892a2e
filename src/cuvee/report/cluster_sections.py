"""What the report draws of clusters and of a bandit over them, as plain values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.stats import norm

from cuvee.arrays import BoolArray, FloatArray, IntArray
from cuvee.errors import DataError
from cuvee.report.shapes import check_shape
from cuvee.search.arms import ProbeRecord
from cuvee.search.bandit_log import Round

CONFIDENCE = 0.9
"""Coverage of the intervals of mean rewards."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterMapSection:
    """Clusters on a plane, with what was learnt of them and taken."""

    names: tuple[str, ...]
    centres: FloatArray
    """(n_clusters, 2) within [-1, 1]."""
    points: FloatArray
    """(n_points, 2) a sample of documents."""
    n_tokens: IntArray
    """(n_clusters,) in the pool."""
    taken_tokens: IntArray
    """(n_clusters,) in the selection."""
    mean_reward: FloatArray
    """(n_clusters,) of the documents probed; NaN where there were none."""
    threshold: float | None
    """Last mean reward from which clusters were accepted; None: all were."""

    def __post_init__(self) -> None:
        n_clusters = len(self.names)
        check_shape("cluster centres", self.centres, (n_clusters, 2))
        check_shape("cluster points", self.points, (None, 2))
        for name in ("n_tokens", "taken_tokens", "mean_reward"):
            check_shape(f"cluster {name}", getattr(self, name), (n_clusters,))


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmsSection:
    """Some arms of a bandit, round by round."""

    names: tuple[str, ...]
    """(n_arms,) those that gave the most tokens first."""
    rounds: IntArray
    """(n_rounds,) numbers of the rounds, first pulls left out."""
    mean: FloatArray
    """(n_arms, n_rounds) mean reward at each round's end."""
    low: FloatArray
    """(n_arms, n_rounds) lower end of the mean's interval."""
    high: FloatArray
    """(n_arms, n_rounds) upper end."""
    pulls: IntArray
    """(n_arms, n_rounds) pulls so far."""
    tokens: IntArray
    """(n_arms, n_rounds) tokens taken so far."""
    all_tokens: IntArray
    """(n_rounds,) tokens taken of all arms so far."""
    threshold: FloatArray
    """(n_rounds,) mean reward needed; NaN where every arm pulled was accepted."""
    n_left_out: int
    """Arms that are not shown."""

    def __post_init__(self) -> None:
        shape = (len(self.names), len(self.rounds))
        for name in ("mean", "low", "high", "pulls", "tokens"):
            check_shape(f"arms {name}", getattr(self, name), shape)
        for name in ("all_tokens", "threshold"):
            check_shape(f"arms {name}", getattr(self, name), (len(self.rounds),))

    @classmethod
    def of_rounds(cls, rounds: Sequence[Round], names: Sequence[str], *, n_shown: int = 6) -> Self:
        """Follow the arms that gave the most tokens through a bandit's log.

        Intervals are of the normal kind, with the standard deviation of documents about their
        cluster's mean pooled over all clusters: an arm's own few probes would not tell it.

        Args:
            rounds: All of them, first to last.
            names: (n_clusters,) of all clusters.
            n_shown: Arms shown at most.

        Raises:
            DataError: A round pulled a cluster that has no name.
        """
        n_clusters = len(names)
        played = [one for one in rounds if not one.survey]
        record = ProbeRecord.empty(n_clusters)
        tokens = np.zeros(n_clusters, dtype=np.int64)
        half = float(norm.ppf(0.5 + CONFIDENCE / 2.0))
        columns: list[tuple[FloatArray, FloatArray, IntArray, IntArray]] = []
        estimate = 0
        for one in rounds:
            if one.estimate != estimate:
                record, estimate = record.forgotten(), one.estimate
            for pull in one.pulls:
                if pull.cluster >= n_clusters:
                    raise DataError(
                        f"round {one.number} pulled cluster {pull.cluster}, and there are names of "
                        f"{n_clusters}. Give the names of the clusters the bandit chose from."
                    )
                record.add(pull.cluster, np.array(pull.rewards))
                tokens[pull.cluster] += pull.n_tokens
            if not one.survey:
                apart = half * record.spread / np.sqrt(np.maximum(record.n_probes, 1))
                columns.append((record.mean.copy(), apart, record.n_pulls.copy(), tokens.copy()))
        shown = np.argsort(-tokens, kind="stable")[: min(n_shown, n_clusters)]
        mean = _table([column[0] for column in columns], shown)
        apart = _table([column[1] for column in columns], shown)
        return cls(
            names=tuple(names[place] for place in shown.tolist()),
            rounds=np.array([one.number for one in played], dtype=np.int64),
            mean=mean,
            low=mean - apart,
            high=mean + apart,
            pulls=_table([column[2] for column in columns], shown).astype(np.int64),
            tokens=_table([column[3] for column in columns], shown).astype(np.int64),
            all_tokens=np.array([one.total_tokens for one in played], dtype=np.int64),
            threshold=np.array(
                [np.nan if one.threshold is None else one.threshold for one in played]
            ),
            n_left_out=n_clusters - len(shown),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardsSection:
    """Scores of all documents that were probed since rewards were last estimated anew."""

    rewards: FloatArray
    """(n_probes,)"""
    accepted: BoolArray
    """(n_probes,) True where the document's cluster gave something to the selection."""
    threshold: float | None
    """Last mean reward a cluster needed; None: none was needed."""

    def __post_init__(self) -> None:
        check_shape("accepted probes", self.accepted, (len(self.rewards),))

    @classmethod
    def of_rounds(cls, rounds: Sequence[Round]) -> Self:
        """Gather the scores from a bandit's log."""
        last = rounds[-1].estimate if rounds else 0
        pulls = [pull for one in rounds if one.estimate == last for pull in one.pulls]
        gave = {pull.cluster for one in rounds for pull in one.pulls if pull.n_tokens}
        thresholds = [one.threshold for one in rounds if not one.survey]
        return cls(
            rewards=np.array([reward for pull in pulls for reward in pull.rewards]),
            accepted=np.array(
                [pull.cluster in gave for pull in pulls for _ in pull.rewards], dtype=np.bool_
            ),
            threshold=thresholds[-1] if thresholds else None,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterRow:
    """One cluster in numbers and an example."""

    name: str
    n_documents: int
    n_tokens: int
    taken_tokens: int
    n_probes: int
    mean_reward: float | None
    """None where nothing was probed."""
    example: str
    """Start of a document, chosen by hash; the user's text as it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClustersSection:
    """A bandit over clusters: what it chose from, learnt and took."""

    map: ClusterMapSection
    arms: ArmsSection
    rewards: RewardsSection
    rows: tuple[ClusterRow, ...]
    """Those shown, most tokens taken first."""
    n_left_out: int
    """Clusters without a row."""
    scored_share: float
    """Documents scored over all documents."""
    effective: float
    """Clusters that the selection is spread over: exp of the entropy of its token shares."""


def _table(columns: Sequence[FloatArray | IntArray], shown: IntArray) -> FloatArray:
    """Return the (n_arms, n_rounds) values of some arms, given all arms' of every round."""
    if not columns:
        return np.zeros((len(shown), 0))
    return np.stack(columns, axis=1)[shown].astype(np.float64)
