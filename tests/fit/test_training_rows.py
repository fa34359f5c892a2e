"""The door of all predictors; its messages are tested through each of them in contracts/."""

import numpy as np

from cuvee.fit.training_rows import check_mixtures, check_training_rows, own_of


def test_plain_lists_become_arrays() -> None:
    """Converted once, at the door."""
    weights, losses = check_training_rows([[1, 0], [0, 1]], [[2], [3]])
    assert weights.dtype == losses.dtype == np.float64
    assert check_mixtures([[1, 0]], n_domains=2).dtype == np.float64


def test_no_mixtures_are_no_error() -> None:
    """An empty table has an empty answer."""
    assert check_mixtures(np.empty((0, 2)), n_domains=2).shape == (0, 2)


def test_own_of_reads_what_is_known() -> None:
    """None as a whole, or for one target."""
    assert [own_of(None, 1), own_of((3, None), 0), own_of((3, None), 1)] == [None, 3, None]
