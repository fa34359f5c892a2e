"""Matrices: sign gives the side, size the strength, and what is not known has no colour."""

import numpy as np

from cuvee.report.matrices import matrix_rows
from cuvee.report.pictures import Matrix


def matrix(values: list[list[float]], **more: object) -> Matrix:
    """Name the rows and columns of an array by letters."""
    table = np.asarray(values)
    return Matrix(
        rows=tuple("abc"[: len(table)]),
        columns=tuple("xyz"[: table.shape[1]]),
        values=table,
        **more,  # type: ignore[arg-type]
    )


def test_sign_gives_the_side_and_size_the_strength() -> None:
    """The largest has the full colour on either side, half of it half."""
    (row,) = matrix_rows(matrix([[-1.0, 1.0, 0.5]]), places=1, full=1.0)
    assert [cell.side for cell in row.cells] == ["lower", "higher", "higher"]
    assert row.cells[0].strength == row.cells[1].strength == 2 * row.cells[2].strength


def test_values_beyond_the_full_one_are_no_stronger() -> None:
    """One huge number does not pale the others, and stays readable itself."""
    (row,) = matrix_rows(matrix([[9.0, 1.0]]), places=1, full=1.0)
    assert row.cells[0].strength == row.cells[1].strength <= 70


def test_unknown_numbers_have_no_colour() -> None:
    """A constant column has no rank correlation."""
    (row,) = matrix_rows(matrix([[float("nan"), 1.0]]), places=2)
    assert row.cells[0].text == "n/a"
    assert row.cells[0].strength == 0


def test_factor_is_on_value_and_deviation_alike() -> None:
    """Thousandths are written for both."""
    made = matrix([[-0.0123]], sd=np.array([[0.004]]), sure=np.array([[True]]))
    (row,) = matrix_rows(made, places=1, factor=1e3)
    assert (row.cells[0].text, row.cells[0].doubt) == ("\N{MINUS SIGN}12.3", "4.0")
    assert row.cells[0].sure


def test_matrix_of_zeros_has_no_colour() -> None:
    """Nothing is divided by nothing."""
    (row,) = matrix_rows(matrix([[0.0, 0.0]]), places=1)
    assert [cell.strength for cell in row.cells] == [0, 0]
