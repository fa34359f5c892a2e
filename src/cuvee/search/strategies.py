"""What a bandit is compared with: selections of the same budget by simpler rules."""

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import numpy as np

from cuvee.arrays import FloatArray, IntArray
from cuvee.errors import DataError
from cuvee.policy.sampling import take_quota
from cuvee.search.arms import ClusteredPool, DocumentQueues, ProbeRecord
from cuvee.search.bandit import Probe

Strategy: TypeAlias = Literal["top-influence", "greedy", "uniform", "random"]


def top_influence(
    pool: ClusteredPool, probe: Probe, *, n_tokens: int, n_probes: int, seed: int
) -> IntArray:
    """Score every document and take the best.

    Args:
        pool: Documents and clusters.
        probe: Scores documents.
        n_tokens: Token budget, at least 0; the last document is kept whole.
        n_probes: Not used: all are scored.
        seed: Not used: documents of equal score are taken in order of their keys.

    Returns:
        (n_documents,) copies, 0 or 1.
    """
    scores = _scored(probe, np.argsort(pool.keys, kind="stable"))
    order = np.lexsort((pool.keys, -scores))
    return _reach(pool, order, n_tokens)


def greedy(
    pool: ClusteredPool, probe: Probe, *, n_tokens: int, n_probes: int, seed: int
) -> IntArray:
    """Score a few documents of every cluster once and take the best clusters whole.

    Args:
        pool: Documents and clusters.
        probe: Scores documents.
        n_tokens: Token budget, at least 0; the last document is kept whole.
        n_probes: Documents scored of each cluster.
        seed: The run's seed.

    Returns:
        (n_documents,) copies, 0 or 1.
    """
    record = ProbeRecord.empty(pool.n_clusters)
    queues = DocumentQueues(pool, seed=seed, purpose="probe")
    for cluster in np.flatnonzero(pool.count()).tolist():
        drawn = queues.take(cluster, n_probes)
        record.add(cluster, np.asarray(probe(drawn), dtype=np.float64))
    supply = DocumentQueues(pool, seed=seed, purpose="copies")
    order = np.argsort(-record.mean, kind="stable")
    ranked = [supply.take(cluster, int(supply.n_left[cluster])) for cluster in order.tolist()]
    return _reach(pool, np.concatenate(ranked), n_tokens)


def uniform(
    pool: ClusteredPool, probe: Probe, *, n_tokens: int, n_probes: int, seed: int
) -> IntArray:
    """Take as many tokens of every cluster; what a small one lacks the others give.

    Args:
        pool: Documents and clusters.
        probe: Not asked.
        n_tokens: Token budget, at least 0; the last document is kept whole.
        n_probes: Not used.
        seed: The run's seed.

    Returns:
        (n_documents,) copies, 0 or 1.
    """
    supply = pool.tokens()
    # Documents in order of the level, the tokens taken of every cluster, at which they come in.
    queues = DocumentQueues(pool, seed=seed, purpose="copies")
    order = np.concatenate(
        [queues.take(cluster, len(pool.keys)) for cluster in range(pool.n_clusters)]
    )
    before = np.cumsum(pool.n_tokens[order]) - pool.n_tokens[order]
    starts = np.cumsum(supply) - supply
    level = before - starts[pool.cluster[order]]
    return _reach(pool, order[np.lexsort((pool.keys[order], level))], n_tokens)


def random_documents(
    pool: ClusteredPool, probe: Probe, *, n_tokens: int, n_probes: int, seed: int
) -> IntArray:
    """Take documents in hash order, whatever their cluster.

    Args:
        pool: Documents and clusters.
        probe: Not asked.
        n_tokens: Token budget, at least 0; the last document is kept whole.
        n_probes: Not used.
        seed: The run's seed.

    Returns:
        (n_documents,) copies, 0 or 1.
    """
    return np.minimum(take_quota(pool.keys, pool.n_tokens, quota=n_tokens, seed=seed), 1)


STRATEGIES: Mapping[Strategy, Callable[..., IntArray]] = {
    "top-influence": top_influence,
    "greedy": greedy,
    "uniform": uniform,
    "random": random_documents,
}
"""Every strategy, by name; all are called alike."""


def _reach(pool: ClusteredPool, order: IntArray, n_tokens: int) -> IntArray:
    """Take documents in an order until the budget is reached."""
    lengths = pool.n_tokens[order]
    copies = np.zeros(len(pool.keys), dtype=np.int64)
    copies[order] = np.cumsum(lengths) - lengths < n_tokens
    return copies


def _scored(probe: Probe, documents: IntArray) -> FloatArray:
    scores = np.empty(len(documents))
    scores[documents] = np.asarray(probe(documents), dtype=np.float64)
    for place in np.flatnonzero(~np.isfinite(scores))[:1]:
        raise DataError(
            f"the reward of document {place} is {scores[place]}; rewards must be finite."
        )
    return scores
