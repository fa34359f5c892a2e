"""Find the best mixture by simulation: draw many, predict them, average the best.

Source: RegMix (arXiv:2407.01492), simulation and prediction of the best mixture.
"""

import logging

import numpy as np

from cuvee.arrays import FloatArray
from cuvee.search.constraints import Constraints
from cuvee.search.objective import PLAIN, Objective, Terms
from cuvee.search.settings import SearchConfig
from cuvee.simplex import check_weights, normalise, sample_dirichlet, temper
from cuvee.tables.optimum import Optimum
from cuvee.tables.predictor import NamedPredictions

logger = logging.getLogger(__name__)

_CHUNK = 8192
_REFINE_STRENGTHS = (10.0, 30.0, 100.0, 300.0, 1000.0)
_REFINE_PRIOR = 0.01
_REFINE_ROUNDS = 4


def minimise(
    predictor: NamedPredictions,
    objective_weights: FloatArray,
    *,
    constraints: Constraints,
    prior: FloatArray,
    config: SearchConfig,
    rng: np.random.Generator,
    terms: Terms = PLAIN,
) -> Optimum:
    """Look for the mixture of least predicted objective ``sum_t w_t L_t(r)``.

    Mixtures are drawn about the prior, each phase by itself, moved to the constraints and
    predicted; the mean of the ``n_best`` best is the answer, since a single best one of many is
    lucky rather than good. With ``refine``, rounds are drawn about the answer, which is replaced as
    long as a round's mean is predicted better. Memory does not grow with ``n_simulated``.

    Targets share their training runs, so their errors are not independent: the objective's
    standard deviation is that of `tables.predictor.objective_sd`.

    Args:
        predictor: Fitted model; its domains are matched to the constraints' by name.
        objective_weights: (n_targets,) at least 0, sum to 1; in the order of the predictor's
            targets.
        constraints: Limits on the mixture.
        prior: (n_domains,) natural weights in the order of the constraints' domains; sum to 1. With
            several phases, of a phase.
        config: Numbers of draws and their distribution.
        rng: Source of the draws.
        terms: Floors and a pull.

    Returns:
        The mixture, with predictions at the mixture itself.

    Raises:
        DataError: Names do not match, or the predictor returns NaN.
        InfeasibleError: No mixture was found that keeps the floors.

    Source: RegMix (arXiv:2407.01492), simulation and prediction of the best mixture.
    Deviation: constraints, phases, a choice of strengths and the further rounds are ours.
    """
    n_phases = len(constraints.phases)
    check_weights(prior, n_domains=len(constraints.domains) // n_phases)
    objective = Objective.match(predictor, objective_weights, constraints.domains, terms)
    only = constraints.only_point()
    if only is not None:
        objective.refuse_missed(only)
        return objective.describe(only, n_simulated=0, n_best=1)
    draws = _Draws(objective=objective, constraints=constraints, n_best=config.n_best, rng=rng)
    centre = np.tile(temper(prior, config.temperature), (n_phases, 1))
    n = config.n_simulated
    answer = draws.best_mean(centre, config.strengths, n)
    for _ in range(_REFINE_ROUNDS if config.refine else 0):
        n_more = max(config.n_simulated // 8, 8 * config.n_best)
        own = normalise(answer.reshape(centre.shape))
        near = (1.0 - _REFINE_PRIOR) * own + _REFINE_PRIOR * centre
        other = draws.best_mean(near, _REFINE_STRENGTHS, n_more)
        values = objective.values(np.stack([answer, other]), penalty=True)
        logger.info("predicted objective: answer %.5f, round about it %.5f", *values)
        n += n_more
        if values[1] >= values[0]:
            break
        answer = other
    objective.refuse_missed(answer)
    return objective.describe(answer, n_simulated=n, n_best=config.n_best)


class _Draws:
    """Mixtures drawn within the constraints."""

    def __init__(
        self,
        *,
        objective: Objective,
        constraints: Constraints,
        n_best: int,
        rng: np.random.Generator,
    ) -> None:
        self._objective = objective
        self._constraints = constraints
        self._n_best = n_best
        self._rng = rng

    def best_mean(self, centre: FloatArray, strengths: tuple[float, ...], n: int) -> FloatArray:
        """Average the best of ``n`` draws about (n_phases, n_domains) centres."""
        best, values = np.empty((0, centre.size)), np.empty(0)
        for start in range(0, n, _CHUNK):
            drawn = self._draw(centre, strengths, min(_CHUNK, n - start))
            values = np.concatenate([values, self._objective.values(drawn, penalty=True)])
            best = np.concatenate([best, drawn])
            leading = np.argsort(values, kind="stable")[: self._n_best]
            values, best = values[leading], best[leading]
        mean: FloatArray = best.mean(axis=0)
        if len(centre) == 1:
            mean = normalise(mean)
        return self._constraints.project(mean)

    def _draw(self, centre: FloatArray, strengths: tuple[float, ...], n_rows: int) -> FloatArray:
        phases = []
        for about, share in zip(centre, self._constraints.phases, strict=True):
            strength = self._rng.choice(np.asarray(strengths), size=n_rows)[:, None]
            phases.append(share * sample_dirichlet(strength * about, n=n_rows, rng=self._rng))
        drawn = np.hstack(phases)
        allowed = self._constraints.satisfied(drawn)
        drawn[~allowed] = self._constraints.project(drawn[~allowed])
        return drawn
