"""Keep the documents whose score reaches a minimum: the filter most corpora are built with."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cuvee.arrays import FloatArray
from cuvee.errors import ConfigError, DataError
from cuvee.tables.statistics import PoolStatistics


@dataclass(frozen=True, kw_only=True, slots=True)
class Threshold:
    """One copy of each document with at least a minimum score, none of the others."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    column: str
    """Name of the label column that holds the score."""
    minimum: float
    """Least score that is kept, in the unit of the column."""

    def __post_init__(self) -> None:
        if not np.isfinite(self.minimum):
            raise ConfigError(f"threshold minimum is {self.minimum}; it must be a finite score.")

    def bind(self, statistics: PoolStatistics, *, n_tokens: int) -> "BoundThreshold":
        """Bind like every policy; a threshold needs nothing of the pool or the budget."""
        return BoundThreshold(column=self.column, minimum=self.minimum)


@dataclass(frozen=True, kw_only=True, slots=True)
class BoundThreshold:
    """A threshold ready to stream."""

    column: str
    minimum: float

    def copies(self, scores: FloatArray) -> FloatArray:
        """Return the expected copies of documents.

        Args:
            scores: (n_documents,) values of the label column.

        Returns:
            (n_documents,) 1 where the score is at least the minimum, else 0.

        Raises:
            DataError: A score is NaN.
        """
        for row in np.flatnonzero(np.isnan(scores))[:1]:
            raise DataError(
                f"column {self.column} row {row} is NaN; every document needs a score. Make the "
                "label column again."
            )
        return np.asarray(scores >= self.minimum, dtype=np.float64)
