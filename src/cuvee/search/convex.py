"""Solve for the best mixture exactly where the predicted losses are convex, with prices.

The objective ``sum_t w_t L_t(r) + kl KL(r || reference)`` is minimised under linear limits and
floors on single targets by sequential quadratic programming. How far the answer can be from the
best is known without knowing the best: with prices p_t of the floors and G the gradient of
``f + sum_t p_t L_t`` at r,

    gap = max_s G . (r - s) + sum_t p_t (floor_t - L_t(r))

over all mixtures s that keep the linear limits; for convex losses no allowed mixture is better by
more than that.

Source: Boyd and Vandenberghe, Convex Optimization (2004), 5.5 (optimality) and 5.6.3 (prices).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls

from cuvee.arrays import FloatArray
from cuvee.search.constraints import Constraints
from cuvee.search.floors import meet
from cuvee.search.objective import MISSED, PLAIN, Objective, Terms
from cuvee.search.programme import Floors, Smooth, solve
from cuvee.tables.optimum import Optimum
from cuvee.tables.predictor import SmoothPredictions
from cuvee.tables.sensitivity import Price

logger = logging.getLogger(__name__)

LARGEST_GAP = 1e-4
"""Gap, as a share of the objective's slopes at the start, above which a warning is given."""
_AT_LIMIT = 1e-7
_WORTH_NAMING = 1e-6
"""Price, as a share of the objective's slopes, below which a limit costs nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvexAnswer:
    """The exact optimum and what holds it where it is."""

    optimum: Optimum
    gap: float
    """No allowed mixture has an objective lower by more than this."""
    prices: tuple[Price, ...]
    """Limits that cost something, dearest first: those on shares, then floors."""
    divergence: float
    """KL(answer || reference), nats; against the uniform mixture where no reference was given."""


def minimise_convex(
    predictor: SmoothPredictions,
    objective_weights: FloatArray,
    *,
    constraints: Constraints,
    terms: Terms = PLAIN,
    start: FloatArray | None = None,
) -> ConvexAnswer:
    """Find the mixture of least objective.

    Args:
        predictor: Its means are convex in the weights; its domains are matched by name.
        objective_weights: (n_targets,) at least 0, sum to 1.
        constraints: Linear limits on the mixture.
        terms: Floors and a pull.
        start: (n_domains,) where to begin; None: the point of the limits nearest to uniform.

    Returns:
        The answer. Its predictions are without the pull.

    Raises:
        ConfigError: A floor names an unknown target.
        DataError: Domains differ, or a pull has no reference with all domains in it.
        InfeasibleError: The floors cannot be met within the limits; the message names a smallest
            set of them that conflict.
    """
    smooth = Smooth(
        objective=Objective.match(predictor, objective_weights, constraints.domains, terms),
        predictor=predictor,
    )
    floors = Floors.of(smooth, constraints)
    only = constraints.only_point()
    n_domains = len(constraints.domains)
    begun = np.full(n_domains, 1.0 / n_domains) if start is None else start
    first = meet(floors, constraints, constraints.project(begun) if only is None else only)
    gap = 0.0
    prices: tuple[Price, ...] = ()
    weights = first
    if only is None:
        weights = _solve(smooth, floors, constraints, first)
        gap, prices = _certify(smooth, floors, constraints, weights)
        spread = max(float(np.ptp(smooth.gradient(first))), 1e-300)
        if gap > LARGEST_GAP * spread:
            logger.warning(
                "the search may be %.2g above the best mixture, %.1e of the objective's slope",
                gap,
                gap / spread,
            )
    return ConvexAnswer(
        optimum=smooth.objective.describe(weights, n_simulated=0, n_best=1),
        gap=gap,
        prices=prices,
        divergence=float(smooth.objective.divergence(weights[None, :])[0]),
    )


def kl_path(
    predictor: SmoothPredictions,
    objective_weights: FloatArray,
    *,
    constraints: Constraints,
    terms: Terms,
    strengths: Sequence[float],
) -> tuple[ConvexAnswer, ...]:
    """Follow the optimum as it is pulled less and less towards a reference.

    Args:
        predictor: As for `minimise_convex`.
        objective_weights: (n_targets,) at least 0, sum to 1.
        constraints: Linear limits on the mixture.
        terms: The reference, such as the natural mixture, and floors.
        strengths: Pulls, in the losses' unit per nat; each begins at the answer of the one before.

    Returns:
        One answer a strength, in their order.
    """
    answers: list[ConvexAnswer] = []
    start: FloatArray | None = None
    for strength in strengths:
        answer = minimise_convex(
            predictor,
            objective_weights,
            constraints=constraints,
            terms=replace(terms, kl=strength),
            start=start,
        )
        start = np.array(answer.optimum.weights)
        answers.append(answer)
    return tuple(answers)


def _solve(
    smooth: Smooth, floors: Floors, constraints: Constraints, first: FloatArray
) -> FloatArray:
    scale = max(float(np.ptp(smooth.gradient(first))), 1e-12)
    found = solve(
        lambda weights: smooth.value(weights) / scale,
        lambda weights: smooth.gradient(weights) / scale,
        constraints=constraints,
        start=first,
        curved=((floors.room, floors.room_slopes),) if len(floors.targets) else (),
    )
    weights = constraints.project(found)
    missed = -floors.room(weights) * floors.scales
    if missed.max(initial=0.0) > MISSED or smooth.value(weights) > smooth.value(first):
        return first
    return weights


def _certify(
    smooth: Smooth, floors: Floors, constraints: Constraints, weights: FloatArray
) -> tuple[float, tuple[Price, ...]]:
    """Return how far the best can be, and the multipliers of the limits that hold the answer."""
    gradient = smooth.gradient(weights)
    slopes = smooth.slopes(weights)[floors.targets]
    spread = max(float(np.ptp(gradient)), 1e-300)
    left = floors.room(weights) * floors.scales
    near = np.flatnonzero(left < 10.0 * MISSED)
    active = _active(constraints, weights)
    # A free multiplier is the difference of two that are at least 0.
    normals = [
        *constraints.sums,
        *-constraints.sums,
        *(normal for _, normal in active),
        *slopes[near],
    ]
    n_free = 2 * len(constraints.phases)
    fitted, _ = nnls(np.stack(normals).T, -gradient / spread)
    fitted = fitted * spread
    on_limits, on_floors = fitted[n_free : n_free + len(active)], fitted[n_free + len(active) :]
    tilted = gradient + on_floors @ slopes[near]
    best = _lowest(constraints, tilted)
    gap = max(float(tilted @ (weights - best) + on_floors @ left[near]), 0.0)
    names = smooth.objective.predictor.targets
    prices = [
        replace(limit, price=float(price))
        for (limit, _), price in zip(active, on_limits, strict=True)
        if price > _WORTH_NAMING * spread and not (limit.kind == "lower" and limit.bound <= 0.0)
    ]
    prices.sort(key=lambda one: -one.price)
    priced_floors = [
        Price(
            kind="floor",
            name=names[floors.targets[place]],
            bound=float(floors.most[place]),
            price=float(price),
        )
        for place, price in zip(near, on_floors, strict=True)
        if price > _WORTH_NAMING
    ]
    priced_floors.sort(key=lambda one: -one.price)
    return gap, (*prices, *priced_floors)


def _active(constraints: Constraints, weights: FloatArray) -> list[tuple[Price, FloatArray]]:
    """Return the linear limits the mixture lies on, with their outward normals."""
    active: list[tuple[Price, FloatArray]] = []
    for column, name in enumerate(constraints.domains):
        unit = np.zeros(len(weights))
        unit[column] = 1.0
        least, most = float(constraints.lower[column]), float(constraints.upper[column])
        if weights[column] - least < _AT_LIMIT:
            active.append((Price(kind="lower", name=name, bound=least, price=0.0), -unit))
        if most - weights[column] < _AT_LIMIT:
            active.append((Price(kind="upper", name=name, bound=most, price=0.0), unit))
    for row in constraints.rows:
        value = float(row.coefficients @ weights)
        for bound, sign in ((row.lower, -1.0), (row.upper, 1.0)):
            if abs(value - bound) < _AT_LIMIT:
                price = Price(kind="row", name=row.text, bound=bound, price=0.0)
                active.append((price, sign * row.coefficients))
    return active


def _lowest(constraints: Constraints, slope: FloatArray) -> FloatArray:
    """Return the mixture within the linear limits that lies lowest along a slope."""
    if constraints.region is not None:
        return constraints.region.lowest(slope)
    corner = constraints.lower.copy()
    left = 1.0 - float(corner.sum())
    for column in np.argsort(slope, kind="stable"):
        taken = min(float(constraints.upper[column] - corner[column]), left)
        corner[column] += taken
        left -= taken
    return corner
