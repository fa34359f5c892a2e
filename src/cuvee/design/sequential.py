"""What to measure next, and when to stop: batches chosen by a fitted predictor.

A batch holds the mixtures predicted best and one chosen for what it might turn out to be. Runs are
worth adding as long as one of the mixtures left could be expected to beat the best by a margin.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from scipy.special import ndtr

from cuvee.arrays import FloatArray, IntArray
from cuvee.errors import ConfigError, DataError
from cuvee.simplex import check_weights, sample_dirichlet, temper
from cuvee.tables.design import Design
from cuvee.tables.predictor import NamedPredictions

Move: TypeAlias = Callable[[FloatArray], FloatArray]
"""Moves (n_rows, n_domains) mixtures to the nearest that keep the constraints."""

_KIND = "sequential"
_RUN_ID = "next"
_ROUNDS = 2
_CENTRES = 16
_NEAR_STRENGTHS = (10.0, 1000.0)
_NEAR_PRIOR = 0.02
_SQRT_2PI = float(np.sqrt(2.0 * np.pi))


@dataclass(frozen=True, kw_only=True, slots=True)
class SequentialConfig:
    """How batches are chosen, and when there are enough."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    batch_size: int = 4
    """Mixtures a batch, at least 1."""
    n_exploratory: int = 1
    """How many of them are chosen by their lower bound, at most ``batch_size``."""
    exploration: float = 1.0
    """Standard deviations from the mean to that lower bound, at least 0."""
    least_distance: float = 0.05
    """How much shares must differ in sum, from all measured mixtures and within the batch, in
    [0, 1]. Twice the share of tokens that go elsewhere."""
    n_candidates: int = 4000
    """Mixtures drawn to choose from, half as many again about the best ones."""
    temperature: float = 0.5
    """Exponent that flattens the prior before drawing, above 0."""
    strengths: tuple[float, float] = (0.1, 50.0)
    """Least and largest total concentration of the draws, evenly spread in logarithm."""
    stop_share: float = 0.02
    """Stop when the expected gain is below this share of the spread (median less best) of the
    candidates' predicted losses, in [0, 1]. Ours: on RegMix's 512 published runs, 2% stops after 20
    (one target) and 32 runs (mean of 13) at the best or second best of the pool."""

    def __post_init__(self) -> None:
        checks = {
            f"batch_size is {self.batch_size}; it must be at least 1": self.batch_size >= 1,
            f"n_exploratory is {self.n_exploratory}; it must lie in 0 to batch_size": (
                0 <= self.n_exploratory <= self.batch_size
            ),
            f"exploration is {self.exploration}; it must be at least 0": self.exploration >= 0.0,
            f"least_distance is {self.least_distance}; it must lie in [0, 1]": (
                0.0 <= self.least_distance <= 1.0
            ),
            f"n_candidates is {self.n_candidates}; it must be at least 1": self.n_candidates >= 1,
            f"temperature is {self.temperature}; it must be above 0": self.temperature > 0.0,
            f"strengths are {self.strengths}; they must be above 0 and ascend": (
                0.0 < self.strengths[0] <= self.strengths[1]
            ),
            f"stop_share is {self.stop_share}; it must lie in [0, 1]": (
                0.0 <= self.stop_share <= 1.0
            ),
        }
        for message, holds in checks.items():
            if not holds:
                raise ConfigError(message + ".")


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """A batch to be measured next."""

    domains: tuple[str, ...]
    weights: FloatArray
    """(n_proposed, n_domains) token shares; rows sum to 1."""
    rows: tuple[int, ...]
    """(n_proposed,) places among the candidates."""
    roles: tuple[str, ...]
    """(n_proposed,) why each is proposed: ``best`` or ``exploratory``."""
    predicted: FloatArray
    """(n_proposed,) predicted objective."""
    predicted_sd: FloatArray
    """(n_proposed,) its standard deviation for a new run, for fully correlated errors."""

    def append_to(self, design: Design) -> Design:
        """Return the design with these mixtures as runs ``next-<number>`` of kind ``sequential``.

        Raises:
            DataError: The design has other domains.
        """
        if design.domains != self.domains:
            raise DataError(
                f"the proposal's domains are {', '.join(self.domains)}, the design's "
                f"{', '.join(design.domains)}. Propose for the design's own domains, in its order."
            )
        names = [name for name in design.run_ids if name.startswith(f"{_RUN_ID}-")]
        first = max((int(name.rpartition("-")[2]) + 1 for name in names), default=0)
        numbers = range(first, first + len(self.weights))
        return Design(
            run_ids=(*design.run_ids, *(f"{_RUN_ID}-{number:03d}" for number in numbers)),
            kinds=(*design.kinds, *(_KIND for _ in numbers)),
            domains=design.domains,
            weights=np.vstack([design.weights, self.weights]),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Regret:
    """What may still be gained by measuring more, in the unit of the objective."""

    held: float
    """Least predicted objective of all mixtures, measured or not: what is held now."""
    held_measured: float
    """Least predicted objective of the measured mixtures."""
    expected: float
    """Largest expected improvement on ``held`` by any one mixture."""
    expected_measured: float
    """The same on ``held_measured``: what choosing among measured mixtures only gives away."""
    noise: float
    """Standard deviation of a run about its mixture's mean, as far as the predictor knows it."""
    spread: float
    """Median less least predicted objective of the candidates."""


def propose_next(
    predictor: NamedPredictions,
    objective_weights: FloatArray,
    *,
    measured: FloatArray,
    candidates: FloatArray,
    config: SequentialConfig,
) -> Proposal:
    """Choose the next batch: the best predicted mixtures, then exploratory ones.

    The objective is ``m = sum_t w_t mean_t``; its standard deviation ``s = sum_t w_t sd_t`` is the
    bound for fully correlated errors. First come the mixtures of least m, then those of least
    ``m - exploration s``. None is near one measured or taken before.

    Args:
        predictor: Fitted on the measured mixtures.
        objective_weights: (n_targets,) at least 0, sum to 1; in the order of the predictor's
            targets.
        measured: (n_runs, n_domains) mixtures measured so far, in the order of its domains.
        candidates: (n_candidates, n_domains) mixtures to choose from: `draw_candidates`, or a pool.
        config: Batch size and what is exploratory.

    Returns:
        The batch, best first.

    Raises:
        DataError: Weights are not mixtures, the predictor returns NaN, or too few candidates are
            far enough from those measured.
    """
    check_weights(measured, n_domains=len(predictor.domains))
    mean, sd = _objective(predictor, objective_weights, candidates)
    free = _distances(candidates, measured) > config.least_distance
    rows: list[int] = []
    roles: list[str] = []
    for place in range(config.batch_size):
        exploratory = place >= config.batch_size - config.n_exploratory
        if not free.any():
            raise DataError(
                f"{len(rows)} of {len(candidates)} candidates differ by more than "
                f"{config.least_distance:g} from all measured mixtures and each other; the batch "
                f"needs {config.batch_size}. Give more candidates, or lower batch_size or "
                "least_distance."
            )
        score = mean - config.exploration * sd if exploratory else mean
        row = int(np.argmin(np.where(free, score, np.inf)))
        rows.append(row)
        roles.append("exploratory" if exploratory else "best")
        free &= _distances(candidates, candidates[[row]]) > config.least_distance
    return Proposal(
        domains=predictor.domains,
        weights=candidates[rows],
        rows=tuple(rows),
        roles=tuple(roles),
        predicted=mean[rows],
        predicted_sd=sd[rows],
    )


def draw_candidates(
    predictor: NamedPredictions,
    objective_weights: FloatArray,
    *,
    prior: FloatArray,
    move: Move,
    config: SequentialConfig,
    rng: np.random.Generator,
) -> FloatArray:
    """Draw mixtures to choose from: about the prior, then about those that promise most.

    Args:
        predictor: Fitted model.
        objective_weights: (n_targets,) as for `propose_next`.
        prior: (n_domains,) natural weights in the order of the predictor's domains; sum to 1.
        move: Moves mixtures to the constraints, as `Constraints.project` does.
        config: Numbers of draws and their distribution.
        rng: Source of the draws.

    Returns:
        (about 1.5 n_candidates, n_domains) token shares; rows sum to 1 and keep the constraints.

    Raises:
        DataError: The prior is not a mixture, or the predictor returns NaN.
    """
    check_weights(prior, n_domains=len(predictor.domains))
    centre = temper(prior, config.temperature)
    n_near = max(config.n_candidates // (2 * _ROUNDS), 1)
    drawn = move(_dirichlet(centre[None, :], config.strengths, config.n_candidates, rng))
    candidates, mean, bound = drawn, np.empty(0), np.empty(0)
    for _ in range(_ROUNDS):
        new_mean, new_sd = _objective(predictor, objective_weights, drawn)
        mean = np.concatenate([mean, new_mean])
        bound = np.concatenate([bound, new_mean - config.exploration * new_sd])
        leading = np.union1d(_least(mean, _CENTRES), _least(bound, _CENTRES))
        near = (1.0 - _NEAR_PRIOR) * candidates[leading] + _NEAR_PRIOR * centre
        drawn = move(_dirichlet(near, _NEAR_STRENGTHS, n_near, rng))
        candidates = np.vstack([candidates, drawn])
    return candidates


def expected_regret(
    predictor: NamedPredictions,
    objective_weights: FloatArray,
    *,
    measured: FloatArray,
    candidates: FloatArray,
) -> Regret:
    """Estimate what the best mixture known gives away against the best there is.

    With h the least predicted objective, m and s mean and standard deviation of a candidate without
    the noise of a run, and ``z = (h - m) / s``, the gain from knowing one candidate is
    ``max_x s (z Phi(z) + phi(z))``: its expected improvement on h. It is less than the gain from
    knowing them all, but s is the bound for fully correlated errors of the targets, which makes up
    for that: on published runs it is about as large as the true regret until that is below the
    noise.

    The noise is taken to be the least standard deviation that the predictor states at a measured
    mixture.

    Args:
        predictor: Fitted on the measured mixtures.
        objective_weights: (n_targets,) as for `propose_next`.
        measured: (n_runs, n_domains) mixtures measured so far, in the order of its domains.
        candidates: (n_candidates, n_domains) all others that could be chosen.

    Returns:
        The regret, in the unit of the fitted losses.

    Raises:
        DataError: Weights are not mixtures, or the predictor returns NaN.
    """
    check_weights(measured, n_domains=len(predictor.domains))
    known, known_sd = _objective(predictor, objective_weights, measured)
    mean, sd = _objective(predictor, objective_weights, candidates)
    noise = float(known_sd.min())
    doubt = np.sqrt(np.maximum(sd**2 - noise**2, 0.0))
    held_measured = float(known.min())
    held = min(held_measured, float(mean.min()))
    return Regret(
        held=held,
        held_measured=held_measured,
        expected=float(_improvement(held, mean, doubt).max()),
        expected_measured=float(_improvement(held_measured, mean, doubt).max()),
        noise=noise,
        spread=float(np.median(mean) - mean.min()),
    )


def should_stop(
    regret: Regret, config: SequentialConfig, *, threshold: float | None = None
) -> bool:
    """Tell whether another batch is not worth its runs.

    Args:
        regret: From `expected_regret`.
        config: ``stop_share`` gives the threshold where none is given.
        threshold: Expected gain below which to stop, in the unit of the losses; None:
            ``stop_share`` of the spread.
    """
    limit = config.stop_share * regret.spread if threshold is None else threshold
    return regret.expected <= limit


def _objective(
    predictor: NamedPredictions, objective_weights: FloatArray, weights: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return mean and standard deviation of the objective, (n_rows,) each."""
    check_weights(objective_weights, n_domains=len(predictor.targets))
    check_weights(weights, n_domains=len(predictor.domains))
    means, sds = predictor.predict(weights)
    for row, column in np.argwhere(~(np.isfinite(means) & np.isfinite(sds)))[:1]:
        raise DataError(
            f"the predictor returns {means[row, column]} +- {sds[row, column]} for target "
            f"{predictor.targets[column]!r}; predictions must be finite. Fit it again, or fit "
            "another model."
        )
    return means @ objective_weights, sds @ objective_weights


def _improvement(held: float, mean: FloatArray, sd: FloatArray) -> FloatArray:
    """Return ``E max(0, held - f)`` for f normal; without doubt, the difference itself."""
    safe = np.where(sd > 0.0, sd, 1.0)
    z = (held - mean) / safe
    expected = safe * (z * ndtr(z) + np.exp(-0.5 * z**2) / _SQRT_2PI)
    return np.where(sd > 0.0, np.maximum(expected, 0.0), np.maximum(held - mean, 0.0))


def _distances(weights: FloatArray, others: FloatArray) -> FloatArray:
    """Return the (n_rows,) sums of differences from the nearest other mixture."""
    nearest = np.full(len(weights), np.inf)
    for other in others:
        nearest = np.minimum(nearest, np.abs(weights - other).sum(axis=1))
    return nearest


def _least(values: FloatArray, n: int) -> IntArray:
    return np.argsort(values, kind="stable")[:n]


def _dirichlet(
    centres: FloatArray, strengths: tuple[float, float], n: int, rng: np.random.Generator
) -> FloatArray:
    least, largest = strengths
    strength = np.exp(rng.uniform(np.log(least), np.log(largest), size=n))[:, None]
    return sample_dirichlet(strength * centres[rng.integers(len(centres), size=n)], n=n, rng=rng)
