"""Solve for the best mixture exactly where the predicted losses are convex, with prices.

The objective ``sum_t w_t L_t(r) + kl KL(r || reference)`` is minimised over shares within bounds by
sequential quadratic programming. How far the answer can be from the best is known without knowing
the best: ``gap = max_s g . (r - s)`` over all mixtures s within the bounds, g being the gradient at
r; for a convex objective no mixture is better by more than that.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, minimize

from cuvee.arrays import FloatArray
from cuvee.errors import DataError
from cuvee.search.answer import describe_answer
from cuvee.search.constraints import Constraints
from cuvee.simplex import TOLERANCE, normalise
from cuvee.tables.optimum import Optimum
from cuvee.tables.predictor import SmoothPredictions

logger = logging.getLogger(__name__)

LARGEST_GAP = 1e-5
"""Gap, as a share of the objective's spread over single domains, above which a warning is given."""
_STEPS = 500
_FLOOR = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """What it would be worth to move one bound."""

    domain: str
    side: str
    """``upper``: the most this domain may have; ``lower``: the least it must."""
    bound: float
    price: float
    """Fall of the objective per unit of share, at the margin; above 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvexAnswer:
    """The exact optimum and what holds it where it is."""

    optimum: Optimum
    gap: float
    """No mixture within the bounds has an objective lower by more than this."""
    prices: tuple[Price, ...]
    """Bounds that cost something, dearest first."""


def minimise_convex(
    predictor: SmoothPredictions,
    objective_weights: FloatArray,
    *,
    constraints: Constraints,
    kl: float = 0.0,
    reference: FloatArray | None = None,
    start: FloatArray | None = None,
) -> ConvexAnswer:
    """Find the mixture of least objective.

    Args:
        predictor: Its means are convex in the weights; domains in the constraints' order.
        objective_weights: (n_targets,) at least 0, sum to 1.
        constraints: Bounds on the mixture.
        kl: Strength of the pull towards the reference, in the losses' unit per nat.
        reference: (n_domains,) mixture pulled towards; needed where ``kl`` is above 0.
        start: (n_domains,) where to begin; None: the point of the bounds nearest to uniform.

    Returns:
        The answer. Its predictions are without the pull.

    Raises:
        DataError: Domains differ, or a pull has no reference with all domains in it.
    """
    problem = _Problem.of(predictor, objective_weights, constraints, kl, reference)
    only = constraints.only_point()
    weights = only if only is not None else _solve(problem, start)
    gradient = problem.gradient(weights)
    gap = 0.0 if only is not None else float(gradient @ (weights - _best_corner(problem, gradient)))
    spread = float(np.ptp(gradient))
    if gap > LARGEST_GAP * max(spread, 1e-300):
        logger.warning(
            "the search may be %.2g above the best mixture, %.1e of the objective's slope",
            gap,
            gap / spread,
        )
    optimum = describe_answer(predictor, objective_weights, weights, n_simulated=0, n_best=1)
    return ConvexAnswer(optimum=optimum, gap=gap, prices=_prices(problem, weights, gradient))


def kl_path(
    predictor: SmoothPredictions,
    objective_weights: FloatArray,
    *,
    constraints: Constraints,
    reference: FloatArray,
    strengths: Sequence[float],
) -> tuple[ConvexAnswer, ...]:
    """Follow the optimum as it is pulled less and less towards a reference.

    Args:
        predictor: As for `minimise_convex`.
        objective_weights: (n_targets,) at least 0, sum to 1.
        constraints: Bounds on the mixture.
        reference: (n_domains,) such as the natural mixture.
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
            kl=strength,
            reference=reference,
            start=start,
        )
        start = np.array(answer.optimum.weights)
        answers.append(answer)
    return tuple(answers)


def describe_prices(
    answer: ConvexAnswer, *, share_of_epoch: FloatArray, unit: str, most: int = 3
) -> tuple[str, ...]:
    """Say what bounds cost, dearest first.

    Args:
        answer: Of `minimise_convex`.
        share_of_epoch: (n_domains,) share of the run that one epoch of each domain is.
        unit: Of the objective, such as ``bits per byte``.
        most: At most so many sentences.

    Example:
        ``half an epoch more of code would be worth 0.003 bits per byte``
    """
    columns = {name: place for place, name in enumerate(answer.optimum.domains)}
    worth = [
        (0.5 * float(share_of_epoch[columns[one.domain]]) * one.price, one)
        for one in answer.prices
        if one.side == "upper" and one.bound < 1.0
    ]
    worth.sort(key=lambda pair: -pair[0])
    return tuple(
        f"half an epoch more of {one.domain} would be worth {value:.4f} {unit} (at the margin)"
        for value, one in worth[:most]
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Problem:
    predictor: SmoothPredictions
    objective_weights: FloatArray
    constraints: Constraints
    kl: float
    reference: FloatArray

    @classmethod
    def of(
        cls,
        predictor: SmoothPredictions,
        objective_weights: FloatArray,
        constraints: Constraints,
        kl: float,
        reference: FloatArray | None,
    ) -> "_Problem":
        if tuple(predictor.domains) != constraints.domains:
            raise DataError(
                f"the predictor knows domains {', '.join(predictor.domains)}; the constraints have "
                f"{', '.join(constraints.domains)}. Search over the domains it was fitted on, in "
                "their order."
            )
        n_domains = len(constraints.domains)
        if kl > 0.0 and (reference is None or len(reference) != n_domains):
            raise DataError(
                "a pull of the mixture (kl) needs a reference with a share for every domain, such "
                "as the natural mixture."
            )
        given = np.full(n_domains, 1.0 / n_domains) if reference is None else reference
        return cls(
            predictor=predictor,
            objective_weights=objective_weights,
            constraints=constraints,
            kl=kl,
            reference=np.maximum(given, _FLOOR),
        )

    def value(self, weights: FloatArray) -> float:
        """Return the objective at (n_domains,) shares."""
        share = normalise(np.maximum(weights, 0.0))
        mean, _ = self.predictor.predict(share[None, :])
        pull = float(np.sum(share * np.log(np.maximum(share, _FLOOR) / self.reference)))
        return float(mean[0] @ self.objective_weights) + self.kl * pull

    def gradient(self, weights: FloatArray) -> FloatArray:
        """Return its (n_domains,) gradient."""
        share = normalise(np.maximum(weights, 0.0))
        slopes = self.predictor.slopes(share[None, :])[0]
        pull = np.log(np.maximum(share, _FLOOR) / self.reference) + 1.0
        gradient: FloatArray = self.objective_weights @ slopes + self.kl * pull
        return gradient


def _solve(problem: _Problem, start: FloatArray | None) -> FloatArray:
    bounds = problem.constraints
    n_domains = len(bounds.domains)
    first = bounds.project(np.full(n_domains, 1.0 / n_domains) if start is None else start)
    scale = max(float(np.ptp(problem.gradient(first))), 1e-12)
    result = minimize(
        lambda weights: problem.value(weights) / scale,
        first,
        jac=lambda weights: problem.gradient(weights) / scale,
        method="SLSQP",
        bounds=Bounds(bounds.lower, bounds.upper),
        constraints=LinearConstraint(np.ones((1, n_domains)), 1.0, 1.0),
        options={"maxiter": _STEPS, "ftol": 1e-13},
    )
    found = bounds.project(np.asarray(result.x, dtype=np.float64))
    return found if problem.value(found) <= problem.value(first) else first


def _best_corner(problem: _Problem, gradient: FloatArray) -> FloatArray:
    """Return the mixture within the bounds that lies lowest along the gradient."""
    corner = problem.constraints.lower.copy()
    left = 1.0 - float(corner.sum())
    for column in np.argsort(gradient, kind="stable"):
        room = float(problem.constraints.upper[column] - corner[column])
        taken = min(room, left)
        corner[column] += taken
        left -= taken
    return corner


def _prices(problem: _Problem, weights: FloatArray, gradient: FloatArray) -> tuple[Price, ...]:
    """Read the bounds' multipliers off the gradient: all free domains have the same slope."""
    bounds = problem.constraints
    at_upper = (bounds.upper - weights < 1e-7) & (bounds.upper - bounds.lower > TOLERANCE)
    at_lower = (weights - bounds.lower < 1e-7) & (bounds.upper - bounds.lower > TOLERANCE)
    free = ~(at_upper | at_lower)
    if free.any():
        level = float(gradient[free].mean())
    elif at_upper.any() and at_lower.any():
        level = 0.5 * float(gradient[at_upper].max() + gradient[at_lower].min())
    else:
        level = float(gradient.mean())
    prices = []
    for column, name in enumerate(bounds.domains):
        if at_upper[column] and level > gradient[column]:
            prices.append((name, "upper", bounds.upper[column], level - gradient[column]))
        elif at_lower[column] and bounds.lower[column] > 0.0 and gradient[column] > level:
            prices.append((name, "lower", bounds.lower[column], gradient[column] - level))
    prices.sort(key=lambda one: -one[3])
    return tuple(
        Price(domain=name, side=side, bound=float(bound), price=float(price))
        for name, side, bound, price in prices
    )
