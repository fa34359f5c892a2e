"""The set of mixtures that keep linear limits: is there one, how far it reaches, moving into it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog

from cuvee.arrays import BoolArray, FloatArray
from cuvee.errors import DataError
from cuvee.simplex import TOLERANCE

_OPTIONS = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
_SOLVED = 0
_TIGHT = 1e-8
"""Room at the inside below which a limit is kept as an equation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A linear limit: ``lower <= coefficients . w <= upper``."""

    text: str
    """What it demands, for messages."""
    coefficients: FloatArray
    """(n_columns,)"""
    lower: float = -np.inf
    upper: float = np.inf


@dataclass(frozen=True, kw_only=True, slots=True)
class Polytope:
    """``lower <= rows . w <= upper``, which some mixture keeps."""

    rows: FloatArray
    """(n_rows, n_columns)"""
    lower: FloatArray
    """(n_rows,)"""
    upper: FloatArray
    """(n_rows,)"""
    inside: FloatArray
    """(n_columns,) a mixture that leaves room at every limit that has any."""
    reach: FloatArray
    """(n_columns, 2) least and largest value of each column."""

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Polytope | None":
        """Find what room the rows leave; None where no mixture keeps them."""
        matrix = np.stack([row.coefficients for row in rows])
        lower = np.array([row.lower for row in rows])
        upper = np.array([row.upper for row in rows])
        if lowest(np.zeros(matrix.shape[1]), matrix, lower, upper) is None:
            return None
        directions = np.unique(np.vstack([np.eye(matrix.shape[1]), matrix]), axis=0)
        corners = [
            corner
            for direction in np.vstack([directions, -directions])
            if (corner := lowest(direction, matrix, lower, upper)) is not None
        ]
        points = np.stack(corners)
        return cls(
            rows=matrix,
            lower=lower,
            upper=upper,
            inside=points.mean(axis=0),
            reach=np.stack([points.min(axis=0), points.max(axis=0)], axis=1),
        )

    def lowest(self, slope: FloatArray) -> FloatArray:
        """Return the (n_columns,) mixture that lies lowest along a slope."""
        found = lowest(slope, self.rows, self.lower, self.upper)
        return self.inside if found is None else found

    def keeps(self, weights: FloatArray) -> BoolArray:
        """Tell which (..., n_columns) mixtures keep the limits, within `simplex.TOLERANCE`."""
        values = weights @ self.rows.T
        kept = (values >= self.lower - TOLERANCE) & (values <= self.upper + TOLERANCE)
        return np.asarray(np.all(kept, axis=-1), dtype=np.bool_)

    def move_in(self, points: FloatArray) -> FloatArray:
        """Move (n_rows, n_columns) points to the equations, then inwards until they keep the rest.

        The first step is the nearest point, the second a straight line towards ``inside``.
        """
        held = self.rows @ self.inside
        equal = (self.upper - held < _TIGHT) | (held - self.lower < _TIGHT)
        flat = self.rows[equal]
        off = (points - self.inside) @ flat.T
        moved = points - off @ np.linalg.pinv(flat, rcond=1e-9).T
        rows, held = self.rows[~equal], held[~equal]
        values = moved @ rows.T
        room = np.ones_like(values)
        for over, limit in (
            (values > self.upper[~equal], self.upper[~equal]),
            (values < self.lower[~equal], self.lower[~equal]),
        ):
            step = np.where(over, values - held, 1.0)
            room = np.where(over, np.where(over, limit - held, 1.0) / step, room)
        kept = np.clip(room.min(axis=1, initial=1.0), 0.0, 1.0)[:, None]
        inner: FloatArray = kept * moved + (1.0 - kept) * self.inside
        return np.maximum(inner, 0.0)


def is_feasible(rows: Sequence[Row]) -> bool:
    """Tell whether any mixture keeps all rows."""
    matrix = np.stack([row.coefficients for row in rows])
    lower = np.array([row.lower for row in rows])
    upper = np.array([row.upper for row in rows])
    return lowest(np.zeros(matrix.shape[1]), matrix, lower, upper) is not None


def lowest(
    slope: FloatArray, rows: FloatArray, lower: FloatArray, upper: FloatArray
) -> FloatArray | None:
    """Minimise a linear function under linear limits.

    Args:
        slope: (n_columns,) the function.
        rows: (n_rows, n_columns) limits' coefficients.
        lower: (n_rows,) least values.
        upper: (n_rows,) largest values.

    Returns:
        (n_columns,) where it is least; None where nothing keeps the limits.

    Raises:
        DataError: The function falls without end: the limits do not bound the columns.
    """
    equal = lower == upper
    above, below = ~equal & np.isfinite(upper), ~equal & np.isfinite(lower)
    scale = max(float(np.abs(slope).max(initial=0.0)), 1e-300)
    result = linprog(
        slope / scale,
        A_ub=np.vstack([rows[above], -rows[below]]),
        b_ub=np.concatenate([upper[above], -lower[below]]),
        A_eq=rows[equal],
        b_eq=upper[equal],
        bounds=(None, None),
        options=_OPTIONS,
    )
    if result.status == _SOLVED:
        return np.asarray(result.x, dtype=np.float64)
    if result.status == 2:
        return None
    raise DataError(f"a linear programme over the mixtures failed: {result.message}")
