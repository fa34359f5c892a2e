"""Can floors on single targets be met together, and if not, which limits conflict?"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cuvee.arrays import FloatArray
from cuvee.errors import InfeasibleError
from cuvee.search.conflicts import smallest_conflict
from cuvee.search.constraints import Constraints
from cuvee.search.objective import MISSED
from cuvee.search.programme import Floors, solve


def meet(floors: Floors, constraints: Constraints, start: FloatArray) -> FloatArray:
    """Find a mixture that keeps limits and floors.

    Args:
        floors: Largest losses; convex in the mixture.
        constraints: Linear limits.
        start: (n_domains,) a mixture that keeps the linear limits.

    Returns:
        The start if it keeps the floors, else the mixture that keeps them with most room.

    Raises:
        InfeasibleError: None does; the message names a smallest set of floors and limits that
            conflict.
    """
    if not len(floors.targets) or _worst(floors, start) <= 0.0:
        return start
    worst, weights = _least_miss(floors, constraints, start)
    if worst <= MISSED:
        return weights
    raise InfeasibleError(_conflict(floors, constraints, start))


def _worst(floors: Floors, weights: FloatArray) -> float:
    """Return the largest loss by which a floor is missed."""
    missed = floors.smooth.means(weights)[floors.targets] - floors.most
    return float(missed.max(initial=-np.inf))


def _least_miss(
    floors: Floors, constraints: Constraints, start: FloatArray
) -> tuple[float, FloatArray]:
    """Minimise the largest miss, each floor's in its own scale."""
    n_columns = len(constraints.domains)
    begun = np.append(constraints.project(start), -floors.room(start).min(initial=0.0))
    slope = np.append(np.zeros(n_columns), 1.0)
    found = solve(
        lambda point: float(point[-1]),
        lambda _: slope,
        constraints=constraints,
        start=begun,
        curved=(
            (
                lambda point: floors.room(point[:-1]) + point[-1],
                lambda point: np.hstack(
                    [floors.room_slopes(point[:-1]), np.ones((len(floors.targets), 1))]
                ),
            ),
        ),
        n_extra=1,
    )
    weights = constraints.project(found[:-1])
    return _worst(floors, weights), weights


def _conflict(floors: Floors, constraints: Constraints, start: FloatArray) -> str:
    names = floors.smooth.objective.predictor.targets
    wanted = [
        f"a loss of {names[target]} of at most {most:.5g}"
        for target, most in zip(floors.targets, floors.most, strict=True)
    ]
    linear = list(dict.fromkeys(row.text for row in constraints.system() if row.text))

    def conflicts(some: Sequence[str]) -> bool:
        kept = [place for place, text in enumerate(wanted) if text in some]
        if not kept:
            return False
        lifted = _lift(constraints, set(some))
        return _least_miss(_only(floors, kept), lifted, start)[0] > MISSED

    found = smallest_conflict([*linear, *wanted], conflicts)
    reached = _least_miss(
        _only(floors, [place for place, text in enumerate(wanted) if text in found]),
        _lift(constraints, set(found)),
        start,
    )[1]
    losses = floors.smooth.means(reached)
    nearest = ", ".join(
        f"{names[target]} {losses[target]:.5g}"
        for target, text in zip(floors.targets, wanted, strict=True)
        if text in found
    )
    if len(found) == 1:
        return f"no mixture is predicted to have {found[0]}; the nearest has {nearest}. Raise it."
    return (
        f"constraints conflict: {'; '.join(found)}. No mixture is predicted to keep them together; "
        f"the nearest has {nearest}. Loosen one of them."
    )


def _only(floors: Floors, places: Sequence[int]) -> Floors:
    kept = np.asarray(places, dtype=np.int64)
    return replace(
        floors, targets=floors.targets[kept], most=floors.most[kept], scales=floors.scales[kept]
    )


def _lift(constraints: Constraints, texts: set[str]) -> Constraints:
    """Keep only the limits with these texts."""
    kept = [row for row in constraints.system() if row.text in texts]
    whole = np.repeat(
        np.asarray(constraints.phases), len(constraints.domains) // len(constraints.phases)
    )
    return replace(
        constraints,
        lower=np.zeros_like(constraints.lower),
        upper=whole,
        rows=tuple(kept),
    )
