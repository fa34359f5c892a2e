"""Sections refuse arrays that do not fit their names."""

import dataclasses

import numpy as np
import pytest

from cuvee.errors import DataError
from cuvee.report.content import ReportContent


def test_array_of_another_shape_is_refused(content: ReportContent) -> None:
    """The message names the field, what was found and what is allowed."""
    with pytest.raises(DataError) as caught:
        dataclasses.replace(content.mixture, chosen=np.ones(3))
    assert str(caught.value) == (
        "report: mixture chosen has shape (3,); it must be (16). Pass one value for each "
        "name of its section."
    )


def test_array_of_another_dimension_is_refused(content: ReportContent) -> None:
    """Losses over seeds have a row a seed, any number of them."""
    assert content.losses is not None
    row = dataclasses.replace(content.losses.rows[0], seeds_bpb=np.ones(4))
    with pytest.raises(
        DataError, match=r"losses of 'chosen' has shape \(4,\); it must be \(any, 4\)"
    ):
        dataclasses.replace(content.losses, rows=(row,))


def test_names_of_another_number_are_refused(content: ReportContent) -> None:
    """Each run has its kind."""
    assert content.runs is not None
    with pytest.raises(DataError, match="kinds has 1 entries for 32 runs"):
        dataclasses.replace(content.runs, kinds=("natural",))
