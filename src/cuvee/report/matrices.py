"""Matrices as tables whose cells are coloured by sign and size: picture and table in one.

The colour only repeats what the number says; without colours nothing is lost.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from cuvee.report.numbers import decimals, difference
from cuvee.report.pictures import Matrix

_STRONGEST = 62
"""Opacity of the largest value, percent: the ink on it stays readable, light and dark."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One number and how it is drawn."""

    text: str
    doubt: str
    """Its standard deviation; empty where there is none."""
    side: Literal["lower", "higher"]
    """Below 0, or not."""
    strength: int
    """Opacity of the colour, percent."""
    sure: bool
    """Told apart from 0, or nothing known of that."""


@dataclass(frozen=True, slots=True)
class Row:
    """A name and its numbers."""

    name: str
    cells: tuple[Cell, ...]


def matrix_rows(
    matrix: Matrix, *, places: int, full: float | None = None, factor: float = 1.0
) -> tuple[Row, ...]:
    """Arrange a matrix for the page.

    Args:
        matrix: The numbers.
        places: Decimals.
        full: Absolute value of the strongest colour; None: the 95% quantile of the numbers.
        factor: What the numbers are multiplied by before they are written.

    Returns:
        Its rows in order.
    """
    sizes = np.abs(matrix.values[np.isfinite(matrix.values)])
    if full is None:
        full = float(np.quantile(sizes, 0.95)) if sizes.size else 0.0
    return tuple(
        Row(
            name,
            tuple(
                _cell(matrix, row, column, full, places=places, factor=factor)
                for column in range(len(matrix.columns))
            ),
        )
        for row, name in enumerate(matrix.rows)
    )


def _cell(
    matrix: Matrix, row: int, column: int, full: float, *, places: int, factor: float
) -> Cell:
    value = float(matrix.values[row, column])
    known = bool(np.isfinite(value)) and full > 0.0
    return Cell(
        text=difference(factor * value, places),
        doubt="" if matrix.sd is None else decimals(factor * float(matrix.sd[row, column]), places),
        side="lower" if value < 0 else "higher",
        strength=round(_STRONGEST * min(abs(value) / full, 1.0)) if known else 0,
        sure=matrix.sure is None or bool(matrix.sure[row, column]),
    )
