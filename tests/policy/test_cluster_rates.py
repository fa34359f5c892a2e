"""Rates of clusters: streamed, drawn as accepted, written and read."""

from collections.abc import Callable

import numpy as np
import pytest

from cuvee.errors import DataError
from cuvee.policy.cluster_rates import ClusterRates
from cuvee.policy.sampling import document_order, draw_copies
from cuvee.randomness import document_keys
from cuvee.tables.statistics import PoolStatistics


def _statistics() -> PoolStatistics:
    one = np.array([1])
    return PoolStatistics(
        domains=("a",), n_documents=one, n_bytes=one, n_tokens=one, available_tokens=one
    )


def test_each_document_has_its_clusters_rate() -> None:
    """Looked up by position."""
    policy = ClusterRates(clusters=("law", "food", "code"), rates=(0.5, 0.0, 2.0))
    bound = policy.bind(_statistics(), n_tokens=10)
    np.testing.assert_array_equal(bound.copies(np.array([2, 0, 1, 0])), [2.0, 0.5, 0.0, 0.5])
    with pytest.raises(DataError, match="row 1 is cluster 3"):
        bound.copies(np.array([0, 3]))


def test_accepted_documents_are_drawn_again_and_no_other() -> None:
    """Prefixes of every cluster in hash order, none and all of them included, become rates."""
    rng = np.random.default_rng(0)
    keys = document_keys(map(str, range(5000)))
    cluster = rng.integers(0, 6, len(keys))
    copies = np.zeros(len(keys), dtype=np.int64)
    order = document_order(keys, seed=3, purpose="copies")
    for place, share in enumerate((0.0, 1.0, 0.5, 0.01, 0.999, 0.3)):
        own = order[cluster[order] == place]
        copies[own[: int(np.ceil(share * len(own)))]] = 1
    names = [f"c{place}" for place in range(6)]
    policy = ClusterRates.of_documents(names, keys=keys, cluster=cluster, copies=copies, seed=3)
    again = ClusterRates.from_json(policy.to_json())
    assert again == policy
    expected = again.bind(_statistics(), n_tokens=1).copies(cluster)
    np.testing.assert_array_equal(draw_copies(expected, keys, seed=3), copies)
    np.testing.assert_allclose(policy.rates, (0.0, 1.0, 0.5, 0.01, 0.999, 0.3), atol=0.05)
    with pytest.raises(DataError, match="out of the order of seed 4"):
        ClusterRates.of_documents(names, keys=keys, cluster=cluster, copies=copies, seed=4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClusterRates(clusters=("a", "a"), rates=(0.0, 1.0)), "1 different names"),
        (lambda: ClusterRates(clusters=("a",), rates=(0.0, 1.0)), "have 2 rates"),
        (lambda: ClusterRates(clusters=("a",), rates=(-1.0,)), "rate of cluster 'a' is -1"),
        (lambda: ClusterRates.from_json({"column": "cluster"}), "not in the expected form"),
    ],
)
def test_bad_rates_are_refused(make: Callable[[], ClusterRates], message: str) -> None:
    """One clear message each."""
    with pytest.raises(DataError, match=message):
        make()
