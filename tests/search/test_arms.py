"""Records of probes, queues of documents, neighbours: by hand and by brute force."""

import numpy as np
import pytest

from cuvee.randomness import document_keys
from cuvee.search.arms import (
    ClusteredPool,
    DocumentQueues,
    Neighbours,
    ProbeRecord,
    effective_clusters,
    regret_per_token,
)


def test_running_record_equals_that_of_all_scores() -> None:
    """Mean and deviations of many pulls, also of means far from 0, as if computed at once."""
    rng = np.random.default_rng(0)
    record = ProbeRecord.empty(3)
    seen: list[list[float]] = [[], [], []]
    for _ in range(60):
        cluster = int(rng.integers(2))
        scores = 1e6 + cluster + rng.normal(size=int(rng.integers(0, 6)))
        record.add(cluster, scores)
        seen[cluster].extend(scores.tolist())
    assert record.n_pulls.sum() == 60
    for cluster in range(2):
        assert record.n_probes[cluster] == len(seen[cluster])
        assert record.mean[cluster] == pytest.approx(np.mean(seen[cluster]), rel=1e-12)
        squares = np.var(seen[cluster]) * len(seen[cluster])
        assert record.squares[cluster] == pytest.approx(squares, rel=1e-6)
    pooled = sum(np.var(one) * len(one) for one in seen[:2]) / (len(seen[0]) + len(seen[1]) - 2)
    assert record.spread == pytest.approx(np.sqrt(pooled), rel=1e-6)
    assert np.isnan(record.shrunk_means()[2])


def test_shrunk_means_are_nearer_to_the_truth_and_the_best_is_not_lucky() -> None:
    """On many clusters with few probes: less squared error, no bias of the best one."""
    rng = np.random.default_rng(1)
    truth = rng.normal(0.0, 0.3, 500)
    record = ProbeRecord.empty(500)
    for cluster in range(500):
        record.add(cluster, truth[cluster] + rng.normal(size=5))
    shrunk = record.shrunk_means()
    assert np.mean((shrunk - truth) ** 2) < 0.7 * np.mean((record.mean - truth) ** 2)
    best = np.argsort(-record.mean)[:25]
    assert abs((shrunk - truth)[best].mean()) < 0.3 * (record.mean - truth)[best].mean()


def test_equal_means_shrink_to_one_and_sure_means_stay() -> None:
    """Nothing between clusters but noise; then nothing but differences."""
    alike, apart = ProbeRecord.empty(4), ProbeRecord.empty(4)
    for cluster in range(4):
        alike.add(cluster, np.array([-1.0, 1.0]))
        apart.add(cluster, np.full(3, float(cluster)))
    np.testing.assert_allclose(alike.shrunk_means(), 0.0)
    np.testing.assert_allclose(apart.shrunk_means(), [0.0, 1.0, 2.0, 3.0])


def test_queues_give_every_document_once_and_stop_at_the_tokens() -> None:
    """Each cluster's own documents; the one that reaches the tokens is the last."""
    rng = np.random.default_rng(2)
    pool = ClusteredPool(
        keys=document_keys(map(str, range(200))),
        cluster=rng.integers(0, 3, 200),
        n_tokens=rng.integers(1, 50, 200),
        n_clusters=4,
    )
    queues = DocumentQueues(pool, seed=0, purpose="copies")
    taken = queues.take(1, 10**9, n_tokens=100)
    assert pool.n_tokens[taken[:-1]].sum() < 100 <= pool.n_tokens[taken].sum()
    rest = queues.take(1, 10**9)
    both = np.concatenate([taken, rest])
    np.testing.assert_array_equal(np.sort(both), np.flatnonzero(pool.cluster == 1))
    assert queues.n_left[1] == queues.tokens_left[1] == 0
    assert len(queues.take(3, 5)) == 0
    half = DocumentQueues(pool, seed=0, purpose="copies", share=0.5)
    np.testing.assert_array_equal(half.n_left, np.ceil(pool.count() / 2))
    np.testing.assert_array_equal(half.take(1, 10**9), both[: len(both) // 2 + len(both) % 2])
    assert half.tokens_left[1] == 0


def test_neighbours_weigh_sums_and_counts_alike() -> None:
    """By hand: two close centres and one far; a distant neighbour lowers nothing."""
    close = np.array([1.0, 0.0]), np.array([0.95, np.sqrt(1 - 0.95**2)])
    centres = np.stack([close[0], 3.0 * close[1], np.array([0.0, -1.0])])
    neighbours = Neighbours.of_centres(centres, radius=0.2)
    weight = 1.0 - 0.05 / 0.2
    record = ProbeRecord.empty(3)
    record.add(0, np.array([1.0, 1.0]))
    record.add(1, np.array([0.0]))
    means, pulls = neighbours.smooth(record)
    np.testing.assert_allclose(
        means, [2.0 / (2.0 + weight), 2.0 * weight / (2.0 * weight + 1.0), 0.0]
    )
    np.testing.assert_allclose(pulls, [1.0 + weight, 1.0 + weight, 0.0])
    record.add(1, np.array([1.0, 1.0, 1.0]))
    record.mean[:] = 0.7
    np.testing.assert_allclose(neighbours.smooth(record)[0][:2], 0.7)


def test_regret_and_coverage_by_hand() -> None:
    """The oracle takes the best clusters, part of the last; nothing taken has none."""
    supply, values = np.array([10, 20, 30]), np.array([0.0, 2.0, 1.0])
    assert regret_per_token(np.array([10, 10, 5]), values, supply) == pytest.approx(
        (20 * 2.0 + 5 * 1.0 - 25.0) / 25
    )
    assert regret_per_token(np.array([0, 20, 5]), values, supply) == 0.0
    assert regret_per_token(np.zeros(3, dtype=np.int64), values, supply) == 0.0
    assert effective_clusters(np.array([7, 0, 0])) == pytest.approx(1.0)
