"""Find the best mixture by simulation: draw many, predict them, average the best.

Source: RegMix (arXiv:2407.01492), simulation and prediction of the best mixture.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

import numpy as np

from cuvee.arrays import FloatArray, IntArray
from cuvee.errors import ConfigError, DataError
from cuvee.search.constraints import Constraints
from cuvee.simplex import TOLERANCE, check_weights, normalise, sample_dirichlet, temper
from cuvee.tables.optimum import Optimum
from cuvee.tables.predictor import NamedPredictions

logger = logging.getLogger(__name__)

_CHUNK = 8192
_REFINE_STRENGTHS = (10.0, 30.0, 100.0, 300.0, 1000.0)
_REFINE_PRIOR = 0.01
_REFINE_ROUNDS = 4
_NORMAL_95 = 1.6448536269514722


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    """How the best mixture is looked for."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    n_simulated: int = 100_000
    """Mixtures drawn about the prior. RegMix: 100,000."""
    n_best: int = 128
    """Best predicted mixtures averaged into the answer. RegMix: 128."""
    temperature: float = 0.5
    """Exponent that flattens the prior before drawing, above 0. RegMix: 1."""
    strengths: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    """Total concentrations of the Dirichlet, drawn from evenly. RegMix: (1,).

    Ours reach from mixtures of few domains to even ones, where the best are often found.
    """
    refine: bool = True
    """Draw up to four rounds of an eighth as many about the answer, while it gets better.

    RegMix: False. Ours: with 17 domains one round leaves a clear distance to a known optimum.
    """
    solver: Literal["auto", "simulate"] = "auto"
    """auto: solve exactly where the predictor's losses are convex, simulate otherwise. RegMix:
    simulate."""
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Least and largest share of some domains, by name."""

    def __post_init__(self) -> None:
        if not 1 <= self.n_best <= self.n_simulated:
            raise ConfigError(
                f"n_best is {self.n_best} and n_simulated {self.n_simulated}; at least 1 must be "
                "kept, and no more than are simulated."
            )
        if not self.temperature > 0.0:
            raise ConfigError(f"temperature is {self.temperature:g}; it must be above 0.")
        if not self.strengths or any(not strength > 0.0 for strength in self.strengths):
            raise ConfigError(
                f"strengths are {list(self.strengths)}; give at least one, all above 0."
            )
        for name, (least, largest) in self.bounds.items():
            if not 0.0 <= least <= largest <= 1.0:
                raise ConfigError(
                    f"bounds of domain {name!r} are {least:g} to {largest:g}; they must ascend "
                    "within [0, 1]."
                )
        total = sum(least for least, _ in self.bounds.values())
        if total > 1.0 + TOLERANCE:
            raise ConfigError(
                f"the bounds' least shares sum to {total:g}; they must sum to at most 1. Lower one "
                "of them."
            )


def minimise(
    predictor: NamedPredictions,
    objective_weights: FloatArray,
    *,
    constraints: Constraints,
    prior: FloatArray,
    config: SearchConfig,
    rng: np.random.Generator,
) -> Optimum:
    """Look for the mixture of least predicted objective ``sum_t w_t L_t(r)``.

    Mixtures are drawn about the prior, moved to the constraints by projection and predicted; the
    mean of the ``n_best`` best is the answer, since a single best one of many is lucky rather than
    good. With ``refine``, rounds are drawn about the answer, which is replaced as long as a round's
    mean is predicted better. Memory does not grow with ``n_simulated``.

    The objective's standard deviation is ``sum_t w_t sd_t``: the bound for fully correlated
    errors. Targets share their training runs, so independence would promise too much.

    Args:
        predictor: Fitted model; its domains are matched to the constraints' by name.
        objective_weights: (n_targets,) at least 0, sum to 1; in the order of the predictor's
            targets.
        constraints: Bounds on the mixture.
        prior: (n_domains,) natural weights in the order of the constraints' domains; sum to 1.
        config: Numbers of draws and their distribution.
        rng: Source of the draws.

    Returns:
        The mixture, with predictions at the mixture itself.

    Raises:
        DataError: Names do not match, or the predictor returns NaN.

    Source: RegMix (arXiv:2407.01492), simulation and prediction of the best mixture.
    Deviation: constraints, a choice of strengths and the further rounds are ours.
    """
    check_weights(prior, n_domains=len(constraints.domains))
    problem = _Problem.match(predictor, objective_weights, constraints)
    only = constraints.only_point()
    if only is not None:
        return problem.describe(only, n_simulated=0, n_best=1)
    centre = temper(prior, config.temperature)
    n, n_best = config.n_simulated, config.n_best
    answer = _best_mean(problem, centre, config.strengths, n=n, n_best=n_best, rng=rng)
    for _ in range(_REFINE_ROUNDS if config.refine else 0):
        n_more = max(config.n_simulated // 8, 8 * n_best)
        near = (1.0 - _REFINE_PRIOR) * answer + _REFINE_PRIOR * centre
        other = _best_mean(problem, near, _REFINE_STRENGTHS, n=n_more, n_best=n_best, rng=rng)
        values = problem.objective(np.stack([answer, other]))
        logger.info("predicted objective: answer %.5f, round about it %.5f", *values)
        n += n_more
        if values[1] >= values[0]:
            break
        answer = other
    return problem.describe(answer, n_simulated=n, n_best=n_best)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Problem:
    """The objective as a function of weights in the order of the constraints' domains."""

    predictor: NamedPredictions
    columns: IntArray
    objective_weights: FloatArray
    constraints: Constraints

    @classmethod
    def match(
        cls, predictor: NamedPredictions, objective_weights: FloatArray, constraints: Constraints
    ) -> Self:
        check_weights(objective_weights, n_domains=len(predictor.targets))
        names = constraints.domains
        if sorted(names) != sorted(predictor.domains):
            raise DataError(
                f"the predictor knows domains {', '.join(predictor.domains)}; the constraints have "
                f"{', '.join(names)}. Search over the domains the predictor was fitted on."
            )
        columns = np.asarray([names.index(name) for name in predictor.domains], dtype=np.int64)
        return cls(
            predictor=predictor,
            columns=columns,
            objective_weights=np.asarray(objective_weights, dtype=np.float64),
            constraints=constraints,
        )

    def predict(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        mean, sd = self.predictor.predict(weights[:, self.columns])
        for row, column in np.argwhere(~(np.isfinite(mean) & np.isfinite(sd)))[:1]:
            raise DataError(
                f"the predictor returns {mean[row, column]} +- {sd[row, column]} for target "
                f"{self.predictor.targets[column]!r}; predictions must be finite. Fit it again, or "
                "fit another model."
            )
        return mean, sd

    def objective(self, weights: FloatArray) -> FloatArray:
        values: FloatArray = self.predict(weights)[0] @ self.objective_weights
        return values

    def describe(self, weights: FloatArray, *, n_simulated: int, n_best: int) -> Optimum:
        mean, sd = self.predict(weights[None, :])
        value = float(mean[0] @ self.objective_weights)
        spread = float(sd[0] @ self.objective_weights)
        return Optimum(
            domains=self.constraints.domains,
            weights=tuple(weights.tolist()),
            targets=self.predictor.targets,
            objective_weights=tuple(self.objective_weights.tolist()),
            predicted=value,
            predicted_sd=spread,
            interval=(value - _NORMAL_95 * spread, value + _NORMAL_95 * spread),
            target_means=tuple(mean[0].tolist()),
            target_sds=tuple(sd[0].tolist()),
            n_simulated=n_simulated,
            n_best=n_best,
        )


def _best_mean(
    problem: _Problem,
    centre: FloatArray,
    strengths: tuple[float, ...],
    *,
    n: int,
    n_best: int,
    rng: np.random.Generator,
) -> FloatArray:
    """Average the best of ``n`` draws about a centre, within the constraints."""
    best = np.empty((0, len(centre)))
    values = np.empty(0)
    for start in range(0, n, _CHUNK):
        n_rows = min(_CHUNK, n - start)
        strength = rng.choice(np.asarray(strengths), size=n_rows)[:, None]
        drawn = sample_dirichlet(strength * centre, n=n_rows, rng=rng)
        allowed = problem.constraints.satisfied(drawn)
        drawn[~allowed] = problem.constraints.project(drawn[~allowed])
        values = np.concatenate([values, problem.objective(drawn)])
        best = np.concatenate([best, drawn])
        leading = np.argsort(values, kind="stable")[:n_best]
        values, best = values[leading], best[leading]
    return problem.constraints.project(normalise(best.mean(axis=0)))
