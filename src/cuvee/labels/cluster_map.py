"""Clusters on a plane: their centres and some documents, for a picture."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from sklearn.manifold import TSNE

from cuvee.arrays import FloatArray, IntArray
from cuvee.errors import DataError
from cuvee.executors import one_thread
from cuvee.randomness import integer_seed

Projection: TypeAlias = Literal["tsne", "pca"]

_FEWEST = 12
"""Points below which neighbourhoods mean nothing and t-SNE gives way to principal components."""
_PERPLEXITY = 30.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ClusterMap:
    """Where clusters and documents stand on the plane; both axes within [-1, 1]."""

    projection: Projection
    """What was used."""
    centres: FloatArray
    """(n_clusters, 2)"""
    points: FloatArray
    """(n_points, 2) a sample of documents."""
    point_cluster: IntArray
    """(n_points,)"""


def map_clusters(
    centres: npt.NDArray[np.floating],
    n_tokens: npt.NDArray[np.integer],
    *,
    points: npt.NDArray[np.floating],
    point_cluster: npt.NDArray[np.integer],
    rng: np.random.Generator,
    projection: Projection = "tsne",
) -> ClusterMap:
    """Lay clusters out on a plane, near ones near each other.

    Principal components are those of the centres weighted by tokens, on which the documents are
    projected too; t-SNE places centres and documents together, by angle.

    Args:
        centres: (n_clusters, n_dimensions) of length 1.
        n_tokens: (n_clusters,) tokens of each cluster in the pool.
        points: (n_points, n_dimensions) vectors of a sample of documents; a thousand are plenty.
        point_cluster: (n_points,) their clusters.
        rng: Source of t-SNE's seed.
        projection: tsne, for which there must be some points, or pca.

    Returns:
        The map; the same for the same input on one kind of machine.

    Raises:
        DataError: Shapes do not match.

    Source: van der Maaten and Hinton, "Visualizing data using t-SNE" (JMLR 9, 2008).
    """
    n_clusters, n_dimensions = centres.shape
    if n_tokens.shape != (n_clusters,) or points.shape != (len(point_cluster), n_dimensions):
        raise DataError(
            f"the map has {n_clusters} centres of {n_dimensions} dimensions, tokens of shape "
            f"{n_tokens.shape}, points of shape {points.shape} and {len(point_cluster)} clusters "
            "of points; give one token count a centre, and one vector and cluster a point."
        )
    together = np.concatenate([centres, points]).astype(np.float64)
    chosen: Projection = "pca" if len(together) < _FEWEST else projection
    with one_thread():
        if chosen == "pca":
            plane = _principal(together, np.asarray(centres, dtype=np.float64), n_tokens)
        else:
            plane = TSNE(
                metric="cosine",
                init="random",
                perplexity=min(_PERPLEXITY, (len(together) - 1) / 3.0),
                random_state=integer_seed(rng),
            ).fit_transform(together)
    plane = np.asarray(plane, dtype=np.float64)
    middle = (plane.max(axis=0) + plane.min(axis=0)) / 2.0
    reach = float(np.abs(plane - middle).max()) or 1.0
    placed = (plane - middle) / reach
    return ClusterMap(
        projection=chosen,
        centres=placed[:n_clusters],
        points=placed[n_clusters:],
        point_cluster=np.asarray(point_cluster, dtype=np.int64),
    )


def _principal(
    vectors: FloatArray, centres: FloatArray, n_tokens: npt.NDArray[np.integer]
) -> FloatArray:
    """Project on the first two principal axes of the centres, each weighing as its tokens."""
    weights = np.maximum(n_tokens, 0) / max(int(n_tokens.sum()), 1)
    mean = weights @ centres
    _, _, axes = np.linalg.svd(np.sqrt(weights)[:, None] * (centres - mean), full_matrices=False)
    axes = np.concatenate([axes, np.zeros((2, centres.shape[1]))])[:2]
    # A singular vector is as good as its negative: its largest entry is made positive.
    signs = np.sign(axes[np.arange(2), np.abs(axes).argmax(axis=1)])
    plane: FloatArray = (vectors - mean) @ (axes * signs[:, None]).T
    return plane
