"""What a policy must know of the pool before it streams: tokens, documents and bytes per domain."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from cuvee import artifacts
from cuvee.arrays import FloatArray, IntArray
from cuvee.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolStatistics:
    """Training side of the pool, per domain."""

    domains: tuple[str, ...]
    """Sorted names."""
    n_documents: IntArray
    """(n_domains,) documents on the training side of the given pool."""
    n_bytes: IntArray
    """(n_domains,) UTF-8 bytes of their text."""
    n_tokens: IntArray
    """(n_domains,) tokens of the given pool, one end-of-text token a document included."""
    available_tokens: IntArray
    """(n_domains,) tokens of the real pool; equals ``n_tokens`` unless declared in the config."""

    def __post_init__(self) -> None:
        for name, count in zip(self.domains, self.n_tokens, strict=True):
            if count <= 0:
                raise DataError(
                    f"domain {name!r} has no training tokens; every domain needs text. Remove it "
                    "from the pool or give it documents."
                )

    @property
    def natural(self) -> FloatArray:
        """(n_domains,) shares of the available tokens: the natural mixture."""
        return np.asarray(self.available_tokens / self.available_tokens.sum(), dtype=np.float64)


def write_statistics(path: Path, statistics: PoolStatistics) -> None:
    """Write statistics as JSON."""
    artifacts.write_json(
        path,
        {
            "domains": list(statistics.domains),
            "n_documents": statistics.n_documents.tolist(),
            "n_bytes": statistics.n_bytes.tolist(),
            "n_tokens": statistics.n_tokens.tolist(),
            "available_tokens": statistics.available_tokens.tolist(),
        },
    )


def read_statistics(path: Path) -> PoolStatistics:
    """Read statistics written by `write_statistics`."""
    data = cast(dict[str, list[int]], artifacts.read_json(path))
    return PoolStatistics(
        domains=tuple(str(name) for name in data["domains"]),
        n_documents=np.asarray(data["n_documents"], dtype=np.int64),
        n_bytes=np.asarray(data["n_bytes"], dtype=np.int64),
        n_tokens=np.asarray(data["n_tokens"], dtype=np.int64),
        available_tokens=np.asarray(data["available_tokens"], dtype=np.int64),
    )
