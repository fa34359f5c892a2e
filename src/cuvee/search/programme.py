"""Smooth programmes over mixtures: an objective with slopes, limits, and the solver."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, minimize

from cuvee.arrays import FloatArray, IntArray
from cuvee.search.constraints import Constraints
from cuvee.search.objective import Objective
from cuvee.simplex import normalise
from cuvee.tables.predictor import SmoothPredictions

_STEPS = 500
_PRECISION = 1e-13
_LEAST_SHARE = 1e-12

Function = Callable[[FloatArray], float]
Gradient = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True, kw_only=True, slots=True)
class Smooth:
    """An objective with its derivatives, at one mixture."""

    objective: Objective
    predictor: SmoothPredictions
    """The objective's own predictor."""

    def value(self, weights: FloatArray) -> float:
        """Compute the objective at (n_domains,) weights."""
        return float(self.objective.values(_share(weights)[None, :])[0])

    def gradient(self, weights: FloatArray) -> FloatArray:
        """Compute its (n_domains,) gradient."""
        share = _share(weights)
        gradient: FloatArray = self.objective.weights @ self.slopes(share)
        if self.objective.kl > 0.0:
            ratio = np.maximum(share, _LEAST_SHARE) / self.objective.reference
            gradient = gradient + self.objective.kl * (np.log(ratio) + 1.0)
        return gradient

    def means(self, weights: FloatArray) -> FloatArray:
        """Predict the (n_targets,) losses."""
        return np.asarray(self.objective.means(_share(weights)[None, :])[0])

    def slopes(self, weights: FloatArray) -> FloatArray:
        """Compute their (n_targets, n_domains) derivatives in the constraints' order."""
        columns = self.objective.columns
        known = self.predictor.slopes(_share(weights)[None, columns])[0]
        slopes: FloatArray = np.empty_like(known)
        slopes[:, columns] = known
        return slopes


@dataclass(frozen=True, kw_only=True, slots=True)
class Floors:
    """Convex limits ``L_t(r) <= most_t`` on some targets."""

    smooth: Smooth
    targets: IntArray
    """(n_floors,) columns of the targets."""
    most: FloatArray
    """(n_floors,) largest losses."""
    scales: FloatArray
    """(n_floors,) how much each loss varies: what the limits are divided by."""

    @classmethod
    def of(cls, smooth: Smooth, constraints: Constraints) -> "Floors":
        """Take the objective's finite floors."""
        targets = np.flatnonzero(np.isfinite(smooth.objective.floors))
        middle = constraints.project(
            np.full(len(constraints.domains), 1.0 / len(constraints.domains))
        )
        slopes = smooth.slopes(middle)[targets]
        return cls(
            smooth=smooth,
            targets=targets,
            most=smooth.objective.floors[targets],
            scales=np.maximum(np.ptp(slopes, axis=1), 1e-9) if len(targets) else np.zeros(0),
        )

    def room(self, weights: FloatArray) -> FloatArray:
        """Compute (n_floors,) losses that are left, each in its scale."""
        left: FloatArray = (self.most - self.smooth.means(weights)[self.targets]) / self.scales
        return left

    def room_slopes(self, weights: FloatArray) -> FloatArray:
        """Compute their (n_floors, n_domains) derivatives."""
        slopes: FloatArray = -self.smooth.slopes(weights)[self.targets] / self.scales[:, None]
        return slopes


def solve(
    function: Function,
    gradient: Gradient,
    *,
    constraints: Constraints,
    start: FloatArray,
    curved: tuple[tuple[Gradient, Gradient], ...] = (),
    n_extra: int = 0,
) -> FloatArray:
    """Minimise a smooth function of a mixture.

    Args:
        function: Scaled so that its slopes are about 1.
        gradient: Its derivatives.
        constraints: Linear limits on the mixture.
        start: (n_columns + n_extra,) where to begin.
        curved: Pairs of a function that must be at least 0 and its derivatives.
        n_extra: Free variables that follow the mixture's columns.

    Returns:
        (n_columns + n_extra,) where the method stopped; limits hold to its precision only.
    """
    free = np.full(n_extra, np.inf)
    pad = np.zeros((1, n_extra))
    linear = [
        LinearConstraint(
            np.hstack([constraints.sums, np.repeat(pad, len(constraints.phases), axis=0)]),
            np.asarray(constraints.phases),
            np.asarray(constraints.phases),
        )
    ]
    for equal in (True, False):
        rows = [row for row in constraints.rows if (row.lower == row.upper) == equal]
        if rows:
            matrix = np.stack([row.coefficients for row in rows])
            linear.append(
                LinearConstraint(
                    np.hstack([matrix, np.repeat(pad, len(rows), axis=0)]),
                    np.array([row.lower for row in rows]),
                    np.array([row.upper for row in rows]),
                )
            )
    nonlinear = [{"type": "ineq", "fun": fun, "jac": jac} for fun, jac in curved]
    result = minimize(
        function,
        start,
        jac=gradient,
        method="SLSQP",
        bounds=Bounds(
            np.concatenate([constraints.lower, -free]), np.concatenate([constraints.upper, free])
        ),
        constraints=[*linear, *nonlinear],
        options={"maxiter": _STEPS, "ftol": _PRECISION},
    )
    return np.asarray(result.x, dtype=np.float64)


def _share(weights: FloatArray) -> FloatArray:
    return normalise(np.maximum(weights, 0.0))
