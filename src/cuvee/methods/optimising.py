"""Find the best mixture by any predictor, with what surrounds it."""

from dataclasses import dataclass, replace

import numpy as np

from cuvee.arrays import FloatArray
from cuvee.errors import InfeasibleError
from cuvee.fit.predictor_files import ConvexPredictor, NamedPredictor
from cuvee.randomness import stream
from cuvee.search.constraints import Constraints
from cuvee.search.convex import ConvexAnswer, minimise_convex
from cuvee.search.objective import Objective, Terms
from cuvee.search.sensitivity import explore_draws, explore_exactly
from cuvee.search.settings import SearchConfig
from cuvee.search.simulate import minimise
from cuvee.simplex import normalise
from cuvee.tables.optimum import Optimum
from cuvee.tables.predictor import NamedPredictions
from cuvee.tables.sensitivity import Sensitivity

_NEAR = (30.0, 100.0, 300.0, 1000.0)
"""Strengths of draws about a mixture that is good already."""
_SHARE_OF_PRIOR = 0.02
"""Part of the centre of those draws that keeps every domain in their reach."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """An answer, what surrounds it, and how it was found."""

    optimum: Optimum
    sensitivity: Sensitivity
    found_by: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What is searched for."""

    objective: FloatArray
    """(n_targets,) weights; sum to 1."""
    constraints: Constraints
    terms: Terms
    prior: FloatArray
    """(n_domains,) mixture about which is drawn, of a phase."""


def find(
    predictor: NamedPredictor, question: Question, *, config: SearchConfig, seed: int
) -> Found:
    """Find the mixture of least predicted objective.

    A model whose losses are convex is solved exactly. Any other is searched by simulation about the
    prior; and where there is a convex law inside it, about that law's exact optimum too: the better
    of the two is the answer. Prices are then those of the law.

    Args:
        predictor: Fitted.
        question: Objective, limits and the prior.
        config: Numbers of draws; with ``solver: simulate`` nothing is solved exactly.
        seed: The run's seed.

    Returns:
        The answer with what surrounds it.

    Raises:
        InfeasibleError: The floors cannot be met within the limits.
    """
    part = predictor.convex_part() if config.solver == "auto" else None
    if part is not None and hasattr(predictor.model, "slopes"):
        answer = _exact(part, question)
        around = explore_exactly(
            part,
            answer,
            constraints=question.constraints,
            terms=question.terms,
            within=half_width(answer.optimum),
        )
        return Found(optimum=answer.optimum, sensitivity=around, found_by="an exact convex solve")
    found = {"simulation": simulate(predictor, question, config, seed, "search")}
    law = _law(part, question)
    if law is not None:
        centre = (1.0 - _SHARE_OF_PRIOR) * _phase_means(law.optimum, question.constraints)
        near = replace(question, prior=normalise(centre + _SHARE_OF_PRIOR * question.prior))
        fewer = max(config.n_simulated // 4, config.n_best)
        about = replace(config, temperature=1.0, strengths=_NEAR, n_simulated=fewer)
        found["simulation about the best mixture of its convex law"] = simulate(
            predictor, near, about, seed, "near"
        )
    pulled = Objective.match(
        predictor, question.objective, question.constraints.domains, question.terms
    )
    values = pulled.values(np.array([one.weights for one in found.values()]))
    how, optimum = list(found.items())[int(values.argmin())]
    around = explore_draws(
        predictor,
        optimum,
        constraints=question.constraints,
        terms=question.terms,
        within=half_width(optimum),
        rng=stream(seed, "search", "around"),
    )
    if law is not None:
        around = replace(around, prices=law.prices)
    return Found(optimum=optimum, sensitivity=around, found_by=how)


def half_width(optimum: Optimum) -> float:
    """Return half the answer's 90% interval: rises below it cannot be told from none."""
    return max(0.5 * (optimum.interval[1] - optimum.interval[0]), 1e-9)


def _exact(part: ConvexPredictor, question: Question) -> ConvexAnswer:
    n_phases = len(question.constraints.phases)
    return minimise_convex(
        part,
        question.objective,
        constraints=question.constraints,
        terms=question.terms,
        start=np.tile(question.prior / n_phases, n_phases),
    )


def _law(part: ConvexPredictor | None, question: Question) -> ConvexAnswer | None:
    """Solve the convex law inside a model; None where there is none or it cannot keep a floor."""
    if part is None:
        return None
    try:
        return _exact(part, question)
    except InfeasibleError:
        return None


def _phase_means(optimum: Optimum, constraints: Constraints) -> FloatArray:
    n_phases = len(constraints.phases)
    whole: FloatArray = np.array(optimum.weights).reshape(n_phases, -1).sum(axis=0)
    return whole


def simulate(
    predictor: NamedPredictions, question: Question, config: SearchConfig, seed: int, name: str
) -> Optimum:
    """Search by simulation; ``name`` keys the draws."""
    return minimise(
        predictor,
        question.objective,
        constraints=question.constraints,
        prior=question.prior,
        config=config,
        rng=stream(seed, name),
        terms=question.terms,
    )
