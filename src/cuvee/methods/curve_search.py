"""Look for the best quality curve, and for what to measure next: draw, predict, recombine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cuvee.arrays import BoolArray, FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.design.quality_prior import (
    QualityPriorConfig,
    draw_vectors,
    mean_vector,
    recombine_vectors,
)
from cuvee.errors import InfeasibleError
from cuvee.methods.curve_fit import CurvePredictor, CurvesConfig
from cuvee.policy.induced import Induced
from cuvee.policy.quality_curve import QualityCurve
from cuvee.randomness import stream
from cuvee.search.constraints import Constraints
from cuvee.simplex import TOLERANCE

_PARENTS = 64
_CHILDREN = 10
"""Vectors drawn for each child of a generation."""
_APART = 0.05
"""Sum of differences of shares within which two vectors of a batch are the same to a proxy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveLimits:
    """What the curve must keep."""

    shares: Constraints
    """Limits on domains and groups of them."""
    budget: float
    """Tokens of the given text that stand for the token budget; what a curve takes beyond them is
    discarded evenly, and what it takes less is seen again."""
    least_tokens: float
    """Tokens a curve must take in expectation, so that no document is seen too often."""
    least_unique: float
    """Least tokens of documents not taken before, over the budget."""
    largest_losses: FloatArray
    """(n_targets,) largest predicted losses; infinite where there is no limit."""

    def excess(self, contents: Sequence[Induced], losses: FloatArray) -> FloatArray:
        """Return the (n,) amounts by which curves miss their limits; 0 where all are kept.

        Args:
            contents: (n,) what the curves take.
            losses: (n, n_targets) predicted.
        """
        shares = np.stack([one.shares for one in contents])
        tokens = np.array([float(one.tokens.sum()) for one in contents])
        unique = np.array([float(one.unique_tokens.sum()) for one in contents])
        missing = [
            1.0 - tokens / max(self.least_tokens, 1e-300),
            self.least_unique - unique / np.maximum(tokens, self.budget),
            *(self.shares.lower - shares).T,
            *(shares - self.shares.upper).T,
            *(losses - self.largest_losses).T,
        ]
        for row in self.shares.rows:
            value = shares @ row.coefficients
            missing += [row.lower - value, value - row.upper]
        beyond = np.maximum(np.stack(missing) - TOLERANCE, 0.0)
        return np.asarray(beyond.sum(axis=0))


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """Vectors with what is predicted for them."""

    vectors: FloatArray
    """(n, n_parameters), draws from the prior first."""
    n_drawn: int
    """How many are draws from the prior."""
    mean: FloatArray
    """(n,) predicted objective."""
    sd: FloatArray
    """(n,) its standard deviation, for errors of the targets that are all alike."""
    excess: FloatArray
    """(n,) by how much limits are missed."""
    shares: FloatArray
    """(n, n_domains)"""

    @property
    def kept(self) -> BoolArray:
        """(n,) where all limits are kept."""
        return np.asarray(self.excess <= 0.0)

    def join(self, others: "Candidates") -> "Candidates":
        """Put others after these."""
        return Candidates(
            vectors=np.vstack([self.vectors, others.vectors]),
            n_drawn=self.n_drawn,
            mean=np.concatenate([self.mean, others.mean]),
            sd=np.concatenate([self.sd, others.sd]),
            excess=np.concatenate([self.excess, others.excess]),
            shares=np.vstack([self.shares, others.shares]),
        )


def draw_candidates(
    predictor: CurvePredictor,
    settings: CurvesConfig,
    *,
    n: int,
    prior: QualityPriorConfig,
    limits: CurveLimits,
    rng: np.random.Generator,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Candidates:
    """Draw vectors from the prior, then recombine the best of them.

    Vectors that miss a limit are worse than all that keep them, the more so the more they miss, so
    that limits no draw keeps may still be met.

    Args:
        predictor: Fitted.
        settings: How many generations.
        n: Draws from the prior.
        prior: Of the vectors.
        limits: What the answer must keep.
        rng: Source of all choices.
        on_progress: Told how many vectors are done, of how many.

    Returns:
        The draws, then their children.
    """
    measured = predictor.measured
    n_domains, n_children = len(measured.sample.domains), max(n // _CHILDREN, 1)
    total, done = n + n_children * settings.n_generations, 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        on_progress(min(done, total), total)

    def draw(count: int) -> FloatArray:
        return draw_vectors(
            prior, n=count, n_domains=n_domains, n_criteria=len(measured.criteria), rng=rng
        )

    found = _judge(predictor, draw(n), limits, advance)
    for _ in range(settings.n_generations):
        parents = found.vectors[_best_first(found)[:_PARENTS]]
        children = recombine_vectors(parents, draw(n_children), n_domains=n_domains, rng=rng)
        found = found.join(_judge(predictor, children, limits, advance))
    return found


def find_curve(
    predictor: CurvePredictor,
    settings: CurvesConfig,
    *,
    prior: QualityPriorConfig,
    limits: CurveLimits,
    seed: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[QualityCurve, dict[str, Json]]:
    """Average the best predicted of many vectors.

    The average is the answer unless it misses a limit or is predicted worse than its vectors are in
    the mean; then the best vector is.

    Args:
        predictor: Fitted on measured curves.
        settings: Numbers of draws.
        prior: Of the vectors.
        limits: What the answer must keep.
        seed: The run's seed.
        on_progress: Told how many vectors are done, of how many.

    Returns:
        The curve, and what is predicted for it, for the best vector, for the averaged ones and for
        the prior's mean.

    Raises:
        InfeasibleError: Too few vectors keep the limits.

    Source: QuaDMix (arXiv:2504.16511), section 3.3: 100,000 draws, mean of the 10 best.
    """
    measured = predictor.measured
    candidates = draw_candidates(
        predictor,
        settings,
        n=settings.n_simulated,
        prior=prior,
        limits=limits,
        rng=stream(seed, "search"),
        on_progress=on_progress,
    )
    order = _best_first(candidates)[: settings.n_best]
    if not candidates.kept[order].all():
        raise InfeasibleError(_too_few(candidates, limits, measured.sample.domains))
    best, drawn = candidates.vectors[order], candidates.vectors[: candidates.n_drawn]
    sizes = {"n_domains": len(measured.sample.domains), "n_criteria": len(measured.criteria)}
    ends = np.stack([mean_vector(prior, rows, **sizes) for rows in (best, drawn)])
    judged = _judge(predictor, np.vstack([ends, best[:1]]), limits, lambda done: None)
    top_mean = float(candidates.mean[order].mean())
    averaged = bool(judged.kept[0]) and float(judged.mean[0]) <= top_mean
    taken = 0 if averaged else 2
    curve = measured.curve(judged.vectors[taken])
    induced = measured.sample.induce(curve)
    return curve, {
        "predicted": float(judged.mean[taken]),
        "predicted_sd": float(judged.sd[taken]),
        "taken": "average" if averaged else "best",
        "predicted_best": float(candidates.mean[order[0]]),
        "predicted_top_mean": top_mean,
        "predicted_average": float(judged.mean[0]),
        "predicted_prior_mean": float(judged.mean[1]),
        "n_simulated": len(candidates.mean),
        "n_kept": int(candidates.kept.sum()),
        "tokens": float(induced.tokens.sum()),
        "unique_tokens": float(induced.unique_tokens.sum()),
        "shares": dict(zip(measured.sample.domains, induced.shares.tolist(), strict=True)),
    }


def propose_vectors(
    candidates: Candidates,
    settings: CurvesConfig,
    *,
    n: int,
    measured: FloatArray,
) -> tuple[FloatArray, tuple[str, ...]]:
    """Choose what to measure next among candidates that keep the limits.

    Args:
        candidates: From `draw_candidates`.
        settings: How far to look beyond the prediction.
        n: Vectors to choose.
        measured: (n_runs, n_domains) shares of curves measured so far.

    Returns:
        (at most n, n_parameters) vectors, and why each: ``best``, ``bound`` or ``draw``.
    """
    n_best, n_bound = n - n // 2, n // 4
    taken: list[int] = []
    kinds: list[str] = []
    bound = candidates.mean - settings.exploration * candidates.sd
    fresh = np.arange(len(candidates.mean)) < candidates.n_drawn
    plan = [("best", candidates.mean, n_best), ("bound", bound, n_bound)]
    plan += [("draw", np.where(fresh, 0.0, np.inf), n - n_best - n_bound)]
    free = candidates.kept & (_nearest(candidates.shares, measured) > _APART)
    for kind, score, count in plan:
        for _ in range(count):
            row = int(np.argmin(np.where(free, score, np.inf)))
            if not (free[row] and np.isfinite(score[row])):
                break
            taken.append(row)
            kinds.append(kind)
            free &= np.abs(candidates.shares - candidates.shares[row]).sum(axis=1) > _APART
    return candidates.vectors[taken], tuple(kinds)


def _judge(
    predictor: CurvePredictor,
    vectors: FloatArray,
    limits: CurveLimits,
    on_progress: Callable[[int], None],
) -> Candidates:
    contents = predictor.measured.induce(vectors, on_progress)
    mean, sd = predictor.predict(vectors, contents)
    return Candidates(
        vectors=vectors,
        n_drawn=len(vectors),
        mean=mean @ predictor.measured.objective,
        sd=sd @ predictor.measured.objective,
        excess=limits.excess(contents, mean),
        shares=np.stack([one.shares for one in contents]),
    )


def _best_first(candidates: Candidates) -> IntArray:
    return np.lexsort((candidates.mean, candidates.excess))


def _nearest(shares: FloatArray, others: FloatArray) -> FloatArray:
    nearest = np.full(len(shares), np.inf)
    for other in others:
        nearest = np.minimum(nearest, np.abs(shares - other).sum(axis=1))
    return nearest


def _too_few(candidates: Candidates, limits: CurveLimits, domains: tuple[str, ...]) -> str:
    shares = candidates.shares[int(np.argmin(candidates.excess))]
    off = np.maximum(limits.shares.lower - shares, shares - limits.shares.upper)
    worst = int(np.argmax(off))
    nearest = (
        f"The nearest has {shares[worst]:.1%} of {domains[worst]}. "
        if off[worst] > TOLERANCE
        else ""
    )
    return (
        f"{int(candidates.kept.sum())} of {len(candidates.mean)} drawn and recombined curves keep "
        f"the limits (a sample of {limits.least_tokens:,.0f} tokens of the given text, shares, "
        f"unique tokens, floors). {nearest}Loosen the limits, raise prior.largest_threshold, or "
        "lower target_tokens."
    )
