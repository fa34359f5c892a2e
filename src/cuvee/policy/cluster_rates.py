"""A rate for each cluster: the share of its documents that is taken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, cast

import numpy as np

from cuvee.arrays import FloatArray, IntArray, KeyArray
from cuvee.artifacts import Json
from cuvee.errors import DataError
from cuvee.policy.sampling import draw_copies
from cuvee.randomness import hash64
from cuvee.tables.statistics import PoolStatistics

COLUMN = "cluster"
"""Name of the label column that holds each document's cluster."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterRates:
    """Expected copies of the documents of each cluster."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    clusters: tuple[str, ...]
    """Unique names; the label column holds positions in them."""
    rates: tuple[float, ...]
    """(n_clusters,) expected copies, finite and at least 0."""
    column: str = COLUMN
    """Name of the label column."""

    def __post_init__(self) -> None:
        if len(set(self.clusters)) != len(self.clusters) or not self.clusters:
            raise DataError(
                f"{len(self.clusters)} clusters have {len(set(self.clusters))} different names; "
                "give each its own, at least one."
            )
        if len(self.rates) != len(self.clusters):
            raise DataError(
                f"{len(self.clusters)} clusters have {len(self.rates)} rates; give each one."
            )
        for name, rate in zip(self.clusters, self.rates, strict=True):
            if not (np.isfinite(rate) and rate >= 0.0):
                raise DataError(
                    f"the rate of cluster {name!r} is {rate}; it must be finite and at least 0."
                )

    @classmethod
    def of_documents(
        cls,
        clusters: Sequence[str],
        *,
        keys: KeyArray,
        cluster: IntArray,
        copies: IntArray,
        seed: int,
    ) -> Self:
        """Make the rates at which `sampling.draw_copies` takes exactly the documents accepted.

        A bandit accepts the documents of a cluster in the order of the very hash that draws copies,
        so a rate just above the last one's hash draws them and no other: what was chosen document
        by document streams as a rate.

        Args:
            clusters: (n_clusters,) names.
            keys: (n_documents,) unique keys.
            cluster: (n_documents,) positions in ``clusters``.
            copies: (n_documents,) 1 where accepted, else 0.
            seed: The seed the documents were accepted with, and will be drawn with.

        Raises:
            DataError: They are not the first of their cluster in the order of that seed.
        """
        hashes = hash64(seed, "copies", keys)
        taken = np.asarray(copies) > 0
        last = np.zeros(len(clusters), dtype=np.uint64)
        np.maximum.at(last, cluster[taken], hashes[taken])
        some = np.bincount(cluster[taken], minlength=len(clusters)) > 0
        # 2^64 has no float just above every hash; the next one up is 2^11 away at most.
        rates = np.where(some, np.minimum(np.nextafter(last * 2.0**-64, 2.0), 1.0), 0.0)
        drawn = draw_copies(rates[cluster], keys, seed=seed)
        wrong = np.flatnonzero(drawn != copies)
        if len(wrong):
            raise DataError(
                f"document {int(wrong[0])} is {'' if copies[wrong[0]] else 'not '}accepted, out of "
                f"the order of seed {seed}; rates stand only for documents accepted in that order. "
                "Use the seed of the search."
            )
        return cls(clusters=tuple(clusters), rates=tuple(rates.tolist()))

    def to_json(self) -> dict[str, Json]:
        """Return the rates as plain JSON, in the order of the clusters."""
        return {
            "column": self.column,
            "clusters": [
                {"name": name, "rate": rate}
                for name, rate in zip(self.clusters, self.rates, strict=True)
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> Self:
        """Make rates from the answer of `to_json`.

        Raises:
            DataError: A key is missing or a value is not allowed.
        """
        try:
            rows = cast(Sequence[Mapping[str, Json]], data["clusters"])
            return cls(
                clusters=tuple(str(row["name"]) for row in rows),
                rates=tuple(float(cast(float, row["rate"])) for row in rows),
                column=str(data["column"]),
            )
        except (KeyError, TypeError) as error:
            raise DataError(
                f"cluster rates are not in the expected form ({error!r}); they need column, and "
                "clusters each with name and rate."
            ) from error

    def bind(self, statistics: PoolStatistics, *, n_tokens: int) -> "BoundClusterRates":
        """Bind like every policy; rates of clusters need nothing of the pool or the budget."""
        return BoundClusterRates(column=self.column, rates=np.asarray(self.rates))


@dataclass(frozen=True, kw_only=True, slots=True)
class BoundClusterRates:
    """Rates ready to stream."""

    column: str
    rates: FloatArray
    """(n_clusters,)"""

    def copies(self, cluster: IntArray) -> FloatArray:
        """Return the expected copies of documents.

        Args:
            cluster: (n_documents,) values of the label column.

        Returns:
            (n_documents,) expected copies.

        Raises:
            DataError: A cluster has no rate.
        """
        for row in np.flatnonzero((cluster < 0) | (cluster >= len(self.rates)))[:1]:
            raise DataError(
                f"column {self.column} row {row} is cluster {cluster[row]}, and there are rates "
                f"for clusters 0 to {len(self.rates) - 1}. Make the label column again."
            )
        copies: FloatArray = self.rates[cluster]
        return copies
