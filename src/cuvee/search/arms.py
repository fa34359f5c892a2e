"""Clusters as arms: their documents in hash order, what their probes said, how they compare."""

from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, vstack

from cuvee.arrays import FloatArray, IntArray, KeyArray
from cuvee.errors import DataError
from cuvee.policy.sampling import document_order
from cuvee.randomness import Purpose

_ROWS_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ClusteredPool:
    """The documents a bandit chooses from, each in one cluster."""

    keys: KeyArray
    """(n_documents,) unique, from `randomness.document_keys`."""
    cluster: IntArray
    """(n_documents,) in [0, n_clusters)."""
    n_tokens: IntArray
    """(n_documents,) lengths, at least 1."""
    n_clusters: int
    """Clusters may be empty."""

    def __post_init__(self) -> None:
        n_documents = len(self.keys)
        for name in ("cluster", "n_tokens"):
            if getattr(self, name).shape != (n_documents,):
                raise DataError(
                    f"{name} has shape {getattr(self, name).shape}; {n_documents} documents need "
                    f"({n_documents},)."
                )
        if not n_documents:
            raise DataError("the pool has no documents; a bandit needs at least one.")
        if self.cluster.min() < 0 or self.cluster.max() >= self.n_clusters:
            raise DataError(
                f"clusters run from {self.cluster.min()} to {self.cluster.max()}; they must lie in "
                f"[0, {self.n_clusters})."
            )
        if self.n_tokens.min() < 1:
            raise DataError(
                f"document {int(self.n_tokens.argmin())} has {self.n_tokens.min()} tokens; each "
                "needs at least 1. Leave empty documents out."
            )

    def count(self) -> IntArray:
        """Return the (n_clusters,) documents of each cluster."""
        return np.bincount(self.cluster, minlength=self.n_clusters).astype(np.int64)

    def tokens(self, copies: IntArray | None = None) -> IntArray:
        """Return the (n_clusters,) tokens of each cluster, of all documents or of those taken."""
        taken = self.n_tokens if copies is None else self.n_tokens * copies
        sums = np.zeros(self.n_clusters, dtype=np.int64)
        np.add.at(sums, self.cluster, taken)
        return sums


class DocumentQueues:
    """Each cluster's documents in an order made by hash, taken from the front.

    Whatever the layout of the pool, the same documents come in the same order.
    """

    def __init__(
        self, pool: ClusteredPool, *, seed: int, purpose: Purpose, share: float = 1.0
    ) -> None:
        """Order the documents.

        Args:
            pool: Documents and clusters.
            seed: The run's seed.
            purpose: What the order is for.
            share: Of each cluster's documents that its queue holds, rounded up; in (0, 1].
        """
        by_hash = document_order(pool.keys, seed=seed, purpose=purpose)
        self._order = by_hash[np.argsort(pool.cluster[by_hash], kind="stable")]
        self._n_tokens = pool.n_tokens[self._order]
        counts = pool.count()
        self._fronts = np.cumsum(counts) - counts
        self.n_left = np.minimum(np.ceil(share * counts), counts).astype(np.int64)
        """(n_clusters,) documents not yet taken from each queue."""
        self._ends = self._fronts + self.n_left
        up_to = np.concatenate([[0], np.cumsum(self._n_tokens)])
        self.tokens_left = np.asarray(up_to[self._ends] - up_to[self._fronts], dtype=np.int64)
        """(n_clusters,) their tokens."""

    def take(self, cluster: int, n_documents: int, *, n_tokens: int | None = None) -> IntArray:
        """Take documents from the front of a cluster's queue.

        Args:
            cluster: Which.
            n_documents: At most so many; all that are left if they are fewer.
            n_tokens: Stop with the document that reaches so many tokens; None: no limit.

        Returns:
            (n_taken,) positions in the pool.
        """
        front = int(self._fronts[cluster])
        end = min(front + n_documents, int(self._ends[cluster]))
        lengths = self._n_tokens[front:end]
        if n_tokens is not None:
            before = np.cumsum(lengths) - lengths
            end = front + int(np.searchsorted(before, n_tokens, side="left"))
        self._fronts[cluster] = end
        self.n_left[cluster] = self._ends[cluster] - end
        self.tokens_left[cluster] -= int(self._n_tokens[front:end].sum())
        return self._order[front:end]


@dataclass(kw_only=True, slots=True)
class ProbeRecord:
    """Running count, mean and squared deviations of every cluster's probed documents."""

    n_pulls: IntArray
    """(n_clusters,)"""
    n_probes: IntArray
    """(n_clusters,) documents scored."""
    mean: FloatArray
    """(n_clusters,) over all of a cluster's probes; where there is none, what it was before the
    record was last forgotten, and 0 at first."""
    squares: FloatArray
    """(n_clusters,) sum of squared deviations from the mean."""

    @classmethod
    def empty(cls, n_clusters: int) -> Self:
        """Make the record of clusters that were never pulled."""
        return cls(
            n_pulls=np.zeros(n_clusters, dtype=np.int64),
            n_probes=np.zeros(n_clusters, dtype=np.int64),
            mean=np.zeros(n_clusters),
            squares=np.zeros(n_clusters),
        )

    def forgotten(self) -> Self:
        """Return a record without probes; a mean stands until its cluster is probed again."""
        return replace(self.empty(len(self.mean)), mean=self.mean.copy())

    def add(self, cluster: int, scores: FloatArray) -> None:
        """Count one pull.

        Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing
            sample variances" (1979), equation 2.1.
        """
        self.n_pulls[cluster] += 1
        n_new, n_old = len(scores), int(self.n_probes[cluster])
        if not n_new:
            return
        own = float(scores.mean())
        apart = own - float(self.mean[cluster])
        n_all = n_old + n_new
        self.squares[cluster] += float(((scores - own) ** 2).sum()) + apart**2 * (
            n_old * n_new / n_all
        )
        self.mean[cluster] += apart * (n_new / n_all)
        self.n_probes[cluster] = n_all

    @property
    def spread(self) -> float:
        """Standard deviation of documents about their cluster's mean, pooled.

        Where no cluster has two probes it is that of all probes; 0 where there are not two.
        """
        freedom = int(np.maximum(self.n_probes - 1, 0).sum())
        if freedom:
            return float(np.sqrt(self.squares.sum() / freedom))
        own = self.mean[self.n_probes > 0]
        return float(own.std(ddof=1)) if len(own) > 1 else 0.0

    def shrunk_means(self) -> FloatArray:
        """Return means pulled towards the mean of all clusters by as much as they are in doubt.

            m_i = m + (mean_i - m) t^2 / (t^2 + s^2 / n_i),   t^2 = max(0, var(mean) - mean(s^2/n))

        The best of many raw means is lucky rather than good; these are not biased by the choice.

        Returns:
            (n_clusters,) NaN where nothing was probed.

        Source: Efron and Morris, "Data analysis using Stein's estimator and its generalizations"
            (1975), section 2, normal means of unequal variances.
        """
        probed = self.n_probes > 0
        found = np.full(len(self.mean), np.nan)
        if not probed.any():
            return found
        own = self.mean[probed]
        noise = self.spread**2 / self.n_probes[probed]
        between = max(0.0, float(own.var(ddof=1) - noise.mean())) if len(own) > 1 else 0.0
        doubt = between + noise
        share = np.divide(between, doubt, out=np.ones_like(own), where=doubt > 0.0)
        found[probed] = own.mean() + (own - own.mean()) * share
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbours:
    """How much the probes of one cluster say about another.

    w_ij = 1 - d_ij / radius with the cosine distance d of the centres, 0 beyond the radius; w_ii =
    1. Sums and numbers of probes are weighted alike, so a distant neighbour lowers nothing.

    Source: Quad (arXiv:2409.16986), released code. Deviation: there a neighbour's reward is
        weighted and its count is not, which shrinks means towards 0.
    """

    weights: csr_array = field(repr=False)
    """(n_clusters, n_clusters)"""

    @classmethod
    def of_centres(cls, centres: npt.NDArray[np.floating], *, radius: float) -> Self:
        """Weigh pairs of clusters by the distance of their centres.

        Args:
            centres: (n_clusters, n_dimensions) any length; only directions count.
            radius: Cosine distance, in (0, 2].
        """
        lengths = np.linalg.norm(centres, axis=1, keepdims=True)
        units = np.asarray(centres / np.where(lengths > 0.0, lengths, 1.0), dtype=np.float64)
        parts = []
        for start in range(0, len(units), _ROWS_AT_ONCE):
            near = np.maximum(
                1.0 - (1.0 - units[start : start + _ROWS_AT_ONCE] @ units.T) / radius, 0
            )
            near[np.arange(len(near)), start + np.arange(len(near))] = 1.0
            parts.append(csr_array(near))
        return cls(weights=csr_array(vstack(parts)))

    def smooth(self, record: ProbeRecord) -> tuple[FloatArray, FloatArray]:
        """Return the (n_clusters,) weighted means and numbers of pulls."""
        n_probes = np.asarray(self.weights @ record.n_probes, dtype=np.float64)
        sums = np.asarray(self.weights @ (record.n_probes * record.mean), dtype=np.float64)
        pulls = np.asarray(self.weights @ record.n_pulls, dtype=np.float64)
        return np.divide(sums, n_probes, out=np.zeros_like(sums), where=n_probes > 0.0), pulls


def regret_per_token(taken: IntArray, values: FloatArray, supply: IntArray) -> float:
    """Compare what was taken with the best that as many tokens could have been.

    Args:
        taken: (n_clusters,) tokens taken.
        values: (n_clusters,) mean score of a cluster's documents; NaN counts as nothing known and
            is never the oracle's choice unless all others are used up.
        supply: (n_clusters,) tokens there are.

    Returns:
        Mean score of a token the oracle takes, minus that of a token taken; 0 if nothing was taken.

    Example:
        >>> regret_per_token(np.array([0, 10]), np.array([1.0, 0.5]), np.array([10, 10]))
        0.5
    """
    total = int(taken.sum())
    if not total:
        return 0.0
    known = np.where(np.isnan(values), np.nanmin(values), values)
    order = np.argsort(-known, kind="stable")
    before = np.cumsum(supply[order]) - supply[order]
    best = np.clip(total - before, 0, supply[order])
    return float((best @ known[order] - taken @ known) / total)


def effective_clusters(taken: IntArray) -> float:
    """Return exp(entropy) of the shares of tokens: as many clusters as equal shares would be.

    Args:
        taken: (n_clusters,) tokens taken; not all 0.

    Example:
        >>> round(effective_clusters(np.array([5, 5, 0])), 6)
        2.0
    """
    shares = taken[taken > 0] / taken.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
