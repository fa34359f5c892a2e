"""A threshold keeps what reaches it."""

import numpy as np
import pytest

from cuvee.errors import ConfigError, DataError
from cuvee.policy.threshold import BoundThreshold, Threshold
from cuvee.tables.statistics import PoolStatistics


def _bound(minimum: float) -> BoundThreshold:
    one = np.array([1])
    statistics = PoolStatistics(
        domains=("a",), n_documents=one, n_bytes=one, n_tokens=one, available_tokens=one
    )
    return Threshold(column="quality", minimum=minimum).bind(statistics, n_tokens=1)


def test_threshold_keeps_scores_from_the_minimum_up() -> None:
    """The minimum itself is kept."""
    copies = _bound(0.5).copies(np.array([0.4, 0.5, 0.6, -np.inf]))
    assert copies.tolist() == [0.0, 1.0, 1.0, 0.0]


def test_threshold_refuses_missing_scores() -> None:
    """A NaN is named by column and row."""
    with pytest.raises(DataError, match="column quality row 1 is NaN"):
        _bound(0.5).copies(np.array([0.4, np.nan]))


def test_threshold_refuses_a_minimum_without_meaning() -> None:
    """The minimum is a finite score."""
    with pytest.raises(ConfigError, match="minimum is nan"):
        Threshold(column="quality", minimum=float("nan"))
