"""The map: near clusters near, weights heeded, the same again."""

import numpy as np
import pytest

from cuvee.errors import DataError
from cuvee.labels.cluster_map import Projection, map_clusters
from cuvee.labels.embeddings import units
from cuvee.randomness import stream


@pytest.mark.parametrize("projection", ["tsne", "pca"])
def test_documents_stand_near_their_centre(projection: Projection) -> None:
    """Three far groups: each document is nearest to its own group's centre; twice the same."""
    rng = np.random.default_rng(0)
    centres = units(np.eye(3, 8) + 0.01 * rng.normal(size=(3, 8)))
    cluster = np.repeat(np.arange(3), 30)
    points = units(centres[cluster] + 0.05 * rng.normal(size=(90, 8)))
    one, other = (
        map_clusters(
            centres,
            np.array([5, 5, 4]),
            points=points,
            point_cluster=cluster,
            rng=stream(1, "map"),
            projection=projection,
        )
        for _ in range(2)
    )
    apart = np.linalg.norm(one.points[:, None] - one.centres[None], axis=2)
    np.testing.assert_array_equal(apart.argmin(axis=1), cluster)
    np.testing.assert_array_equal(one.points, other.points)
    assert np.abs(one.points).max() <= 1.0
    assert one.projection == projection


def test_principal_axes_follow_the_tokens() -> None:
    """Clusters without tokens do not turn the axes; few points make t-SNE give way."""
    centres = np.eye(4)
    found = map_clusters(
        centres,
        np.array([50, 50, 0, 0]),
        points=np.zeros((0, 4)),
        point_cluster=np.zeros(0, dtype=np.int64),
        rng=stream(1, "map"),
    )
    assert found.projection == "pca"
    assert np.abs(found.centres[0] - found.centres[1]).max() == pytest.approx(2.0)
    np.testing.assert_allclose(found.centres[2], found.centres[3], atol=1e-12)


def test_shapes_must_match() -> None:
    """One message for all of them."""
    with pytest.raises(DataError, match="3 centres of 4 dimensions"):
        map_clusters(
            np.eye(3, 4),
            np.array([1, 1]),
            points=np.zeros((0, 4)),
            point_cluster=np.zeros(0, dtype=np.int64),
            rng=stream(1, "map"),
        )
