"""Clusters of documents: spherical k-means on a hash-chosen sample, assignment by cosine."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self, cast

import numpy as np
import numpy.typing as npt
from sklearn.cluster import MiniBatchKMeans

from cuvee import artifacts
from cuvee.arrays import FloatArray, IntArray
from cuvee.errors import ArtifactError, ConfigError, DataError
from cuvee.executors import one_thread
from cuvee.labels.cluster_names import name_clusters
from cuvee.labels.embeddings import EmbeddingConfig, TfidfEmbedder, Vectors, units
from cuvee.randomness import integer_seed

logger = logging.getLogger(__name__)

_BATCH = 4096
_ROUNDS = 20
_STILL = 1e-5
_ROWS = 1024
"""Rows of one product of vectors and centres; always so many, for results that do not depend on
the documents beside them."""
_CENTRES = "centres.npz"
_EMBEDDER = "embedder.npz"
_NAMES = "clusters.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    """How documents are divided into clusters."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    n_clusters: int = 100
    """At most; tiny ones are merged into their nearest. Quad: 10,000 of 600 million documents."""
    n_sample: int = 50_000
    """Documents the clusters are learnt from, chosen by hash."""
    min_documents: int = 10
    """Documents of the sample below which a cluster is merged into its nearest; as the sample is
    part of the pool, no cluster of the pool is smaller. Ours."""
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    """How documents become vectors."""

    def __post_init__(self) -> None:
        for name, least in (("n_clusters", 2), ("min_documents", 1), ("n_sample", 2)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        if self.n_sample < self.n_clusters * self.min_documents:
            raise ConfigError(
                f"n_sample is {self.n_sample}, which {self.n_clusters} clusters of at least "
                f"{self.min_documents} documents cannot share. Raise it, or ask for fewer clusters."
            )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ClusterModel:
    """Centres of clusters with their names, and what turns texts into vectors."""

    centres: Vectors
    """(n_clusters, n_dimensions) of length 1."""
    names: tuple[str, ...]
    """(n_clusters,) unique, harmless to show."""
    n_sample: IntArray
    """(n_clusters,) documents of the sample."""
    mean_cosine: FloatArray
    """(n_clusters,) mean cosine of the sample's documents to their centre."""
    embedder: TfidfEmbedder | None
    """None where vectors come from elsewhere."""

    def assign(self, vectors: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.int32], Vectors]:
        """Give each document the cluster whose centre is nearest by angle.

        A document's cluster does not depend on the documents beside it. Of equally near centres,
        as of all for a vector of zeros, the first is taken.

        Args:
            vectors: (n_documents, n_dimensions) of any length.

        Returns:
            (n_documents,) clusters and (n_documents,) cosines to their centres.

        Raises:
            DataError: They have another number of dimensions, or a number is not finite.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.centres.shape[1]:
            raise DataError(
                f"vectors have shape {vectors.shape}; the clusters were learnt in "
                f"{self.centres.shape[1]} dimensions. Use the same embedding."
            )
        return _nearest(units(vectors), self.centres)

    def save(self, folder: Path) -> None:
        """Write the model into a folder: numpy archives without objects, and JSON."""
        np.savez(
            folder / _CENTRES,
            centres=self.centres,
            n_sample=self.n_sample,
            mean_cosine=self.mean_cosine,
        )
        if self.embedder is not None:
            self.embedder.save(folder / _EMBEDDER)
        artifacts.write_json(
            folder / _NAMES, {"names": list(self.names), "own_embedder": self.embedder is not None}
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a model; it assigns as the one that was saved.

        Raises:
            ArtifactError: The folder holds something else.
        """
        facts = artifacts.read_json(folder / _NAMES)
        try:
            named = cast(dict[str, list[str]], facts)
            with np.load(folder / _CENTRES, allow_pickle=False) as archive:
                return cls(
                    centres=archive["centres"],
                    names=tuple(str(name) for name in named["names"]),
                    n_sample=archive["n_sample"],
                    mean_cosine=archive["mean_cosine"],
                    embedder=(
                        TfidfEmbedder.load(folder / _EMBEDDER) if named["own_embedder"] else None
                    ),
                )
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise ArtifactError(
                f"{folder} does not hold clusters ({error}). Delete it and cluster again."
            ) from error


def fit_clusters(
    texts: Sequence[str],
    config: ClusterConfig,
    *,
    rng: np.random.Generator,
    vectors: npt.NDArray[np.floating] | None = None,
) -> ClusterModel:
    """Learn clusters from a sample of documents.

    scikit-learn's mini-batch k-means on vectors of length 1 finds where the centres lie; Euclidean
    centres are shorter the more a cluster is spread, so its last word is not the nearest by angle.
    So the centres are scaled to length 1 and spherical Lloyd steps follow until the mean cosine
    stands still. Then the smallest cluster is merged into its neighbours, document by document,
    while it is below the minimum.

    Args:
        texts: The sample in hash order; clusters are named from them.
        config: Number, minimum size, embedding.
        rng: Source of the SVD and of the first centres.
        vectors: (n_documents, n_dimensions) where they come from elsewhere; None: TF-IDF and SVD of
            the texts.

    Raises:
        DataError: The sample is too small, or the vectors are not one a text.

    Source: Dhillon and Modha, "Concept decompositions for large sparse text data using clustering"
        (Machine Learning 42, 2001), spherical k-means; Sculley, "Web-scale k-means clustering"
        (WWW 2010), mini-batches.
    """
    least = max(2, config.min_documents)
    if len(texts) < 2 * least:
        raise DataError(
            f"the sample has {len(texts)} documents; two clusters of at least {least} need more. "
            "Lower min_documents, or give a larger pool."
        )
    embedder = None
    if vectors is None:
        embedder, vectors = TfidfEmbedder.fit(texts, config.embedding, rng=rng)
    if len(vectors) != len(texts):
        raise DataError(f"there are {len(vectors)} vectors for {len(texts)} texts; give one each.")
    points = units(vectors)
    centres = spherical_kmeans(points, n_clusters=config.n_clusters, rng=rng)
    centres = _merge_small(points, centres, config.min_documents)
    cluster, cosine = _nearest(points, centres)
    counts = np.bincount(cluster, minlength=len(centres)).astype(np.int64)
    logger.info("%d clusters asked for, %d are large enough", config.n_clusters, len(centres))
    starts = [text[: config.embedding.n_characters] for text in texts]
    return ClusterModel(
        centres=centres,
        names=name_clusters(starts, cluster, n_clusters=len(centres)),
        n_sample=counts,
        mean_cosine=np.bincount(cluster, weights=cosine, minlength=len(centres))
        / np.maximum(counts, 1),
        embedder=embedder,
    )


def spherical_kmeans(points: Vectors, *, n_clusters: int, rng: np.random.Generator) -> Vectors:
    """Find centres that make the mean cosine of documents to their centres large.

    Args:
        points: (n_documents, n_dimensions) of length 1.
        n_clusters: At most as many as documents.
        rng: Source of the first centres and the mini-batches.

    Returns:
        (n_clusters, n_dimensions) of length 1, fewer where a cluster stayed empty.
    """
    n_clusters = min(n_clusters, len(points))
    model = MiniBatchKMeans(
        n_clusters,
        batch_size=max(_BATCH, 2 * n_clusters),
        n_init=1,
        random_state=integer_seed(rng),
        reassignment_ratio=0.01,
    )
    with one_thread():
        model.fit(points)
        centres = units(model.cluster_centers_)
        before = -np.inf
        for _ in range(_ROUNDS):
            cluster, cosine = _nearest(points, centres)
            reached = float(cosine.mean(dtype=np.float64))
            if reached < before + _STILL:
                break
            before = reached
            centres = _centres(points, cluster, len(centres))
    return centres


def _centres(points: Vectors, cluster: npt.NDArray[np.int32], n_clusters: int) -> Vectors:
    """Return directions of the sums of members, leaving empty clusters out."""
    order = np.argsort(cluster, kind="stable")
    present, first = np.unique(cluster[order], return_index=True)
    sums = np.add.reduceat(points[order].astype(np.float64), first, axis=0)
    assert len(present) <= n_clusters, "clusters are numbered below n_clusters"
    return units(sums)


def _nearest(points: Vectors, centres: Vectors) -> tuple[npt.NDArray[np.int32], Vectors]:
    """Return the nearest centre of each point, and the cosine, in products of one fixed shape.

    A matrix product may add in another order when it has another number of rows, so that the last
    digits, and with them ties, would depend on how many documents a shard happens to hold.
    """
    cluster = np.empty(len(points), dtype=np.int32)
    cosine = np.empty(len(points), dtype=np.float32)
    padded = np.zeros((_ROWS, points.shape[1]), dtype=np.float32)
    turned = np.ascontiguousarray(centres.T)
    products = np.empty((_ROWS, len(centres)), dtype=np.float32)
    for start in range(0, len(points), _ROWS):
        some = points[start : start + _ROWS]
        padded[: len(some)] = some
        np.matmul(padded, turned, out=products)
        best = products[: len(some)].argmax(axis=1)
        cluster[start : start + len(some)] = best
        cosine[start : start + len(some)] = products[np.arange(len(some)), best]
    return cluster, cosine


def _merge_small(points: Vectors, centres: Vectors, min_documents: int) -> Vectors:
    """Remove the smallest cluster while it is too small; its documents go to their nearest."""
    cluster, _ = _nearest(points, centres)
    kept = np.ones(len(centres), dtype=np.bool_)
    counts = np.bincount(cluster, minlength=len(centres))
    while kept.sum() > 1:
        live = np.flatnonzero(kept)
        smallest = int(live[counts[live].argmin()])
        if counts[smallest] >= min_documents:
            break
        kept[smallest] = False
        members = np.flatnonzero(cluster == smallest)
        rest = np.flatnonzero(kept)
        cluster[members] = rest[_nearest(points[members], centres[rest])[0]]
        counts = np.bincount(cluster, minlength=len(centres))
    return centres[kept]
