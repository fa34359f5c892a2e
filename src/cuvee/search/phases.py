"""Find the best mixture of several phases by simulation: draw each phase, keep the supply."""

from dataclasses import dataclass

import numpy as np

from cuvee.arrays import FloatArray
from cuvee.errors import InfeasibleError
from cuvee.search.answer import describe_answer
from cuvee.search.simulate import SearchConfig
from cuvee.simplex import TOLERANCE, cap, normalise, sample_dirichlet, temper
from cuvee.tables.optimum import Optimum
from cuvee.tables.predictor import NamedPredictions

_CHUNK = 8192
_REFINE_STRENGTHS = (10.0, 30.0, 100.0, 300.0, 1000.0)
_REFINE_PRIOR = 0.01
_REFINE_ROUNDS = 4


def minimise_phases(
    predictor: NamedPredictions,
    objective_weights: FloatArray,
    *,
    shares: tuple[float, ...],
    caps: FloatArray,
    prior: FloatArray,
    config: SearchConfig,
    rng: np.random.Generator,
) -> Optimum:
    """Look for the phases of least predicted objective.

    Every phase's mixture is drawn about the prior by itself. Where the phases together need more of
    a domain than there is, the row is moved towards the natural mixture until they do not. The
    answer is the mean of the best, which keeps supply and phases as each of them does.

    Args:
        predictor: Fitted on columns ``<domain>@1``, ..., ``<domain>@2``, ...
        objective_weights: (n_targets,) at least 0, sum to 1.
        shares: (n_phases,) share of the run's tokens of each phase.
        caps: (n_domains,) largest shares of the whole run.
        prior: (n_domains,) natural weights; sum to 1.
        config: Numbers of draws and their distribution; bounds are not used.
        rng: Source of the draws.

    Returns:
        The answer, its domains the predictor's columns.

    Raises:
        InfeasibleError: The caps leave no mixture.
    """
    if caps.sum() < 1.0 - TOLERANCE:
        raise InfeasibleError(
            f"caps sum to {caps.sum():.6g}; they must sum to at least 1 for any mixture to keep "
            "them. Allow more epochs, lower the target token budget or add text."
        )
    part = np.asarray(shares)
    space = _Space(shares=part, caps=caps, inside=np.outer(part, cap(prior, upper=caps)).ravel())
    centre = np.tile(temper(prior, config.temperature), (len(shares), 1))
    best = np.empty((0, centre.size))
    n, n_more = config.n_simulated, max(config.n_simulated // 8, 8 * config.n_best)

    def objective(rows: FloatArray) -> FloatArray:
        values: FloatArray = predictor.predict(rows)[0] @ objective_weights
        return values

    def best_mean(about: FloatArray, strengths: tuple[float, ...], n_rows: int) -> FloatArray:
        kept, values = best, np.empty(0)
        for start in range(0, n_rows, _CHUNK):
            drawn = space.draw(about, strengths, min(_CHUNK, n_rows - start), rng)
            kept = np.concatenate([kept, drawn])
            values = np.concatenate([values, objective(drawn)])
            leading = np.argsort(values, kind="stable")[: config.n_best]
            kept, values = kept[leading], values[leading]
        mean: FloatArray = kept.mean(axis=0)
        return mean

    answer = best_mean(centre, config.strengths, n)
    for _ in range(_REFINE_ROUNDS if config.refine else 0):
        own = normalise(answer.reshape(centre.shape))
        near = (1.0 - _REFINE_PRIOR) * own + _REFINE_PRIOR * centre
        other = best_mean(near, _REFINE_STRENGTHS, n_more)
        n += n_more
        held, found = objective(np.stack([answer, other]))
        if found >= held:
            break
        answer = other
    return describe_answer(
        predictor, objective_weights, normalise(answer), n_simulated=n, n_best=config.n_best
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class WithoutPhases:
    """What a predictor of phases says of mixtures that stay the same."""

    predictor: NamedPredictions
    domains: tuple[str, ...]
    shares: tuple[float, ...]

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the columns of the predictions."""
        return self.predictor.targets

    def predict(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Predict the losses of (n_rows, n_domains) mixtures kept through all phases."""
        return self.predictor.predict(np.hstack([share * weights for share in self.shares]))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Space:
    shares: FloatArray
    caps: FloatArray
    inside: FloatArray
    """A row that keeps the caps."""

    def draw(
        self,
        about: FloatArray,
        strengths: tuple[float, ...],
        n_rows: int,
        rng: np.random.Generator,
    ) -> FloatArray:
        """Draw rows whose phases lie about (n_phases, n_domains) centres, within the supply."""
        phases = []
        for centre, share in zip(about, self.shares, strict=True):
            strength = rng.choice(np.asarray(strengths), size=n_rows)[:, None]
            phases.append(share * sample_dirichlet(strength * centre, n=n_rows, rng=rng))
        rows = np.hstack(phases)
        whole = rows.reshape(n_rows, len(self.shares), -1).sum(axis=1)
        held = self.inside.reshape(len(self.shares), -1).sum(axis=0)
        over = whole - self.caps
        room = np.where(over > 0.0, (self.caps - held) / np.maximum(whole - held, 1e-300), 1.0)
        kept = np.clip(room.min(axis=1, keepdims=True), 0.0, 1.0)
        moved: FloatArray = kept * rows + (1.0 - kept) * self.inside
        return moved
