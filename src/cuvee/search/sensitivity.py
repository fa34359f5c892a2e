"""What surrounds an optimum: mixtures that cannot be told from it, the path of a pull, prices."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from cuvee.arrays import FloatArray
from cuvee.search.constraints import Constraints
from cuvee.search.convex import ConvexAnswer, kl_path
from cuvee.search.objective import NORMAL_90, Objective, Terms
from cuvee.search.programme import Floors, Smooth, solve
from cuvee.simplex import sample_dirichlet
from cuvee.tables.optimum import Optimum
from cuvee.tables.predictor import (
    NamedPredictions,
    PairedPredictions,
    SmoothPredictions,
    objective_sd,
)
from cuvee.tables.sensitivity import PathPoint, Sensitivity

PULLS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.0)
"""Strengths of the pull, in units of the objective's rise from the optimum to the reference."""
_STRENGTHS = (10.0, 30.0, 100.0, 300.0, 1000.0)
_N_DRAWN = 16_384
_N_STEPS = 32
_BEST = 32


def explore_exactly(
    predictor: SmoothPredictions,
    answer: ConvexAnswer,
    *,
    constraints: Constraints,
    terms: Terms,
    within: float,
) -> Sensitivity:
    """Describe the surroundings of an exact optimum.

    Each end of a domain's range is a convex programme of its own: the least or largest share under
    the same limits and an objective at most ``within`` above the optimum's.

    Args:
        predictor: As for `minimise_convex`, which gave the answer.
        answer: The optimum.
        constraints: Linear limits on the mixture.
        terms: Floors, and the reference of the path.
        within: Rise of the objective that cannot be told from none, above 0.

    Returns:
        Ranges, prices and, where there is a reference, the path of the pull.
    """
    weights = np.array(answer.optimum.objective_weights)
    smooth = Smooth(
        objective=Objective.match(predictor, weights, constraints.domains, terms),
        predictor=predictor,
    )
    best = np.array(answer.optimum.weights)
    path: tuple[PathPoint, ...] = ()
    if terms.reference is not None:
        strengths = _strengths(smooth.objective, best)
        path = tuple(
            _point(one.optimum, kl, one.divergence)
            for kl, one in zip(
                strengths,
                kl_path(
                    predictor, weights, constraints=constraints, terms=terms, strengths=strengths
                ),
                strict=True,
            )
        )
    return Sensitivity(
        domains=constraints.domains,
        exact=True,
        gap=answer.gap,
        within=within,
        paired=False,
        ranges=_exact_ranges(smooth, constraints, best, within),
        prices=answer.prices,
        path=path,
    )


def explore_draws(
    predictor: NamedPredictions,
    optimum: Optimum,
    *,
    constraints: Constraints,
    terms: Terms,
    within: float,
    rng: np.random.Generator,
) -> Sensitivity:
    """Describe the surroundings of a simulated optimum.

    Mixtures are drawn about the optimum and about the reference and set on the lines from the
    optimum to each domain alone and away from it. Ranges are those of the mixtures seen, so the
    true ones are at least as wide. Where the predictor knows the deviation of a change between two
    mixtures, each mixture is judged by its own.

    Args:
        predictor: As for `minimise`, which gave the optimum.
        optimum: The answer.
        constraints: Linear limits on the mixture.
        terms: Floors, and the reference of the path.
        within: Rise of the objective that cannot be told from none, above 0.
        rng: Source of the draws.

    Returns:
        Ranges and, where there is a reference, the path of the pull; no prices.
    """
    objective = Objective.match(
        predictor, np.array(optimum.objective_weights), constraints.domains, terms
    )
    best = np.array(optimum.weights)
    drawn = constraints.project(
        np.vstack([best[None, :], _lines(best), _clouds(best, terms.reference, rng)])
    )
    free = replace(objective, kl=0.0).values(drawn, penalty=True)
    pulled = free + objective.kl * objective.divergence(drawn)
    bound = _change_bounds(objective, drawn, best)
    near = drawn[pulled <= pulled[0] + (within if bound is None else bound)]
    path: tuple[PathPoint, ...] = ()
    if terms.reference is not None:
        divergence = objective.divergence(drawn)
        path = tuple(
            _simulated_point(objective, drawn, free, divergence, kl)
            for kl in _strengths(objective, best)
        )
    return Sensitivity(
        domains=constraints.domains,
        exact=False,
        gap=None,
        within=within,
        paired=bound is not None,
        ranges=tuple(zip(near.min(axis=0).tolist(), near.max(axis=0).tolist(), strict=True)),
        path=path,
    )


def _change_bounds(objective: Objective, drawn: FloatArray, best: FloatArray) -> FloatArray | None:
    """Return the (n_rows,) rises that cannot be told from none; None where they are not known."""
    if not isinstance(objective.predictor, PairedPredictions):
        return None
    columns = objective.columns
    _, sd = objective.predictor.change(drawn[:, columns], best[columns])
    if sd is None:
        return None
    return NORMAL_90 * objective_sd(objective.predictor, sd, objective.weights)


def _strengths(objective: Objective, best: FloatArray) -> tuple[float, ...]:
    """Scale the pulls by what there is to gain over the reference, per nat of moving."""
    free = replace(objective, kl=0.0)
    values = free.values(np.stack([best, objective.reference / objective.reference.sum()]))
    nats = max(float(objective.divergence(best[None, :])[0]), 1e-3)
    rise = max(float(values[1] - values[0]), 1e-6)
    return tuple(pull * rise / nats for pull in PULLS)


def _exact_ranges(
    smooth: Smooth, constraints: Constraints, best: FloatArray, within: float
) -> tuple[tuple[float, float], ...]:
    if constraints.only_point() is not None:
        return tuple((share, share) for share in best.tolist())
    floors = Floors.of(smooth, constraints)
    most = smooth.value(best) + within
    curved = [
        (
            lambda weights: np.array([(most - smooth.value(weights)) / within]),
            lambda weights: -smooth.gradient(weights)[None, :] / within,
        )
    ]
    if len(floors.targets):
        curved.append((floors.room, floors.room_slopes))
    ranges = []
    for column in range(len(best)):
        ends = [float(best[column])]
        for sign in (1.0, -1.0):
            slope = np.zeros(len(best))
            slope[column] = sign
            found = constraints.project(
                solve(
                    partial(_along, slope),
                    partial(_slope, slope),
                    constraints=constraints,
                    start=best,
                    curved=tuple(curved),
                )
            )
            if smooth.value(found) <= most + 1e-3 * within:
                ends.append(float(found[column]))
        ranges.append((min(ends), max(ends)))
    return tuple(ranges)


def _along(slope: FloatArray, weights: FloatArray) -> float:
    return float(slope @ weights)


def _slope(slope: FloatArray, _: FloatArray) -> FloatArray:
    return slope


def _lines(best: FloatArray) -> FloatArray:
    """Return mixtures in which one domain has more or less, the others in proportion."""
    rows = []
    for column, own in enumerate(best):
        for share in np.linspace(0.0, 1.0, _N_STEPS) ** 2:
            for moved in (own * (1.0 - share), own + (1.0 - own) * share):
                row = best * ((1.0 - moved) / max(1.0 - own, 1e-12))
                row[column] = moved
                rows.append(row)
    return np.array(rows)


def _clouds(best: FloatArray, reference: FloatArray | None, rng: np.random.Generator) -> FloatArray:
    """Draw about the optimum, the reference and points between them."""
    other = best if reference is None else reference
    share = rng.uniform(size=(_N_DRAWN, 1))
    centre = 0.98 * (share * best + (1.0 - share) * other) + 0.02 / len(best)
    strength = rng.choice(np.asarray(_STRENGTHS), size=(_N_DRAWN, 1))
    return sample_dirichlet(strength * centre, n=_N_DRAWN, rng=rng)


def _point(optimum: Optimum, kl: float, divergence: float) -> PathPoint:
    return PathPoint(
        kl=kl, divergence=divergence, predicted=optimum.predicted, weights=optimum.weights
    )


def _simulated_point(
    objective: Objective,
    drawn: FloatArray,
    values: FloatArray,
    divergence: FloatArray,
    kl: float,
) -> PathPoint:
    leading = np.argsort(values + kl * divergence, kind="stable")[:_BEST]
    mean = drawn[leading].mean(axis=0)
    return PathPoint(
        kl=kl,
        divergence=float(objective.divergence(mean[None, :])[0]),
        predicted=float(replace(objective, kl=0.0).values(mean[None, :])[0]),
        weights=tuple(mean.tolist()),
    )


def describe_prices(
    found: Sensitivity, *, share_of_epoch: FloatArray, unit: str, most: int = 3
) -> tuple[str, ...]:
    """Say what limits cost, dearest first.

    Args:
        found: Of `explore_exactly`.
        share_of_epoch: (n_domains,) share of the run that one epoch of each domain is; its order is
            the columns'.
        unit: Of the objective, such as ``bits per byte``.
        most: At most so many sentences.

    Example:
        ``half an epoch more of code would be worth 0.0030 bits per byte (at the margin)``
    """
    columns: Sequence[str] = found.domains
    worth: list[tuple[float, str]] = []
    for one in found.prices:
        if one.kind == "upper" and one.bound < 1.0:
            step = 0.5 * float(share_of_epoch[columns.index(one.name)])
            words = f"half an epoch more of {one.name}"
        elif one.kind == "floor":
            step, words = 0.01, f"letting {one.name} get worse by 0.01"
        elif one.kind == "lower":
            step, words = 0.01, f"one hundredth of the run less of {one.name} than it must have"
        else:
            step, words = 0.01, f"loosening ({one.name}) by 0.01"
        worth.append((step * one.price, words))
    worth.sort(key=lambda pair: -pair[0])
    return tuple(
        f"{words} would be worth {value:.4f} {unit} (at the margin)"
        for value, words in worth[:most]
    )
