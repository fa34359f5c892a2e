"""Regress losses on quality curves and average the best of many: QuaDMix's fit and search."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import numpy as np

from cuvee.arrays import FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.design.quality_prior import QualityPriorConfig, draw_vectors, mean_vector
from cuvee.errors import ConfigError, InfeasibleError
from cuvee.fit.feature_models import REGRESSIONS, FeatureModel, Regression, held_out, mean_rank
from cuvee.policy.induced import PoolSample
from cuvee.policy.quality_curve import QualityCurve
from cuvee.randomness import stream

Features: TypeAlias = Literal["contents", "domain-contents", "parameters"]
FEATURES: tuple[Features, ...] = ("contents", "domain-contents", "parameters")
_STRIDE = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvesConfig:
    """How many curves are measured, and how the best is looked for."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    n_runs: int = 96
    """Proxies, the natural curve and each criterion's best among them. QuaDMix: 3,000."""
    n_simulated: int = 20_000
    """Vectors drawn from the prior and predicted. QuaDMix: 100,000."""
    n_best: int = 10
    """Best predicted vectors averaged. QuaDMix: 10."""
    regressions: tuple[Regression, ...] = REGRESSIONS
    """Those compared by cross-validation. QuaDMix: trees."""
    features: tuple[Features, ...] = FEATURES
    """What they are told: contents that a vector gives, their quality taken together or by domain,
    or the vector. QuaDMix: parameters."""
    sample_documents: int = 500
    """Documents of each domain on which a vector's contents are computed."""

    def __post_init__(self) -> None:
        if self.n_runs < 12 or not 1 <= self.n_best <= self.n_simulated:
            raise ConfigError(
                f"n_runs is {self.n_runs}, n_best {self.n_best} and n_simulated "
                f"{self.n_simulated}; give at least 12 runs, and keep no more vectors than drawn."
            )
        if not self.regressions or not self.features or self.sample_documents < 50:
            raise ConfigError(
                "curves needs at least one of regressions and of features, and sample_documents "
                "of 50."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredCurves:
    """Curves whose losses are known, and the pool they sample."""

    vectors: FloatArray
    """(n_runs, n_parameters)"""
    losses: FloatArray
    """(n_runs, n_targets) bits per byte."""
    objective: FloatArray
    """(n_targets,) weights; sum to 1."""
    sample: PoolSample
    criteria: tuple[str, ...]

    def curve(self, vector: FloatArray) -> QualityCurve:
        """Make a curve of a vector."""
        return QualityCurve.of_vector(self.sample.domains, self.criteria, vector)

    def features(
        self,
        kind: Features,
        vectors: FloatArray,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> FloatArray:
        """Return what a regression is told of (n, n_parameters) vectors; logarithms of lambda."""
        n_domains, n_criteria = len(self.sample.domains), len(self.criteria)
        if kind == "parameters":
            parts = vectors.reshape(len(vectors), n_domains, -1).copy()
            parts[:, :, n_criteria] = np.log(parts[:, :, n_criteria])
            return np.asarray(parts.reshape(len(vectors), -1))
        rows = []
        for number, vector in enumerate(vectors):
            induced = self.sample.induce(self.curve(vector))
            rows.append(induced.features(by_domain=kind == "domain-contents"))
            if (number + 1) % _STRIDE == 0:
                on_progress(number + 1, len(vectors))
        return np.array(rows)


def compare_regressions(
    measured: MeasuredCurves, settings: CurvesConfig, *, seed: int
) -> dict[str, float]:
    """Cross-validate every regression on every kind of features.

    Args:
        measured: Curves and their losses.
        settings: What is compared.
        seed: The run's seed.

    Returns:
        Spearman correlation of predicted and measured objective on folds left out, by
        ``<features>/<regression>``.
    """
    ranks = {}
    for features in settings.features:
        rows = measured.features(features, measured.vectors)
        for kind in settings.regressions:
            predicted = held_out(
                rows, measured.losses, kind=kind, rng=stream(seed, "cross-validation")
            )
            ranks[f"{features}/{kind}"] = mean_rank(
                predicted @ measured.objective, measured.losses @ measured.objective
            )
    return ranks


def find_curve(
    measured: MeasuredCurves,
    settings: CurvesConfig,
    *,
    chosen: str,
    prior: QualityPriorConfig,
    least_share: float,
    seed: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[QualityCurve, dict[str, Json]]:
    """Average the best predicted of many vectors drawn from the prior.

    Args:
        measured: Curves and their losses.
        settings: Numbers of draws.
        chosen: ``<features>/<regression>`` to predict by.
        prior: Of the vectors.
        least_share: Share of the pool's tokens that a vector must sample in expectation.
        seed: The run's seed.
        on_progress: Told how many vectors are done.

    Returns:
        The curve, and what is predicted for it, for the best draw, for the draws averaged and for
        the prior's mean.

    Raises:
        InfeasibleError: Too few vectors sample so much.

    Source: QuaDMix (arXiv:2504.16511), section 3.3: 100,000 draws, mean of the 10 best.
    """
    features, _, kind = chosen.partition("/")
    model = FeatureModel.fit(
        measured.features(_features_named(features), measured.vectors),
        measured.losses,
        kind=_regression_named(kind),
        rng=stream(seed, "fit"),
    )
    n_domains, n_criteria = len(measured.sample.domains), len(measured.criteria)
    vectors = draw_vectors(
        prior,
        n=settings.n_simulated,
        n_domains=n_domains,
        n_criteria=n_criteria,
        rng=stream(seed, "search"),
    )
    vectors = vectors[_enough(measured, vectors, least_share)]
    if len(vectors) < settings.n_best:
        raise InfeasibleError(
            f"{len(vectors)} of {settings.n_simulated} drawn vectors sample the {least_share:.1%} "
            "of the pool that the token budget needs. Raise prior.largest_threshold or max_epochs, "
            "or lower target_tokens."
        )

    def predict(rows: FloatArray) -> tuple[FloatArray, FloatArray]:
        told = measured.features(_features_named(features), rows, on_progress)
        mean, sd = model.predict(told)
        return mean @ measured.objective, sd @ measured.objective

    objective, _ = predict(vectors)
    order = np.argsort(objective, kind="stable")[: settings.n_best]
    ends = np.stack(
        [
            mean_vector(prior, rows, n_domains=n_domains, n_criteria=n_criteria)
            for rows in (vectors[order], vectors)
        ]
    )
    predicted, sd = predict(ends)
    curve = measured.curve(ends[0])
    induced = measured.sample.induce(curve)
    return curve, {
        "predictor": chosen,
        "predicted_best": float(objective[order[0]]),
        "predicted_top_mean": float(objective[order].mean()),
        "predicted": float(predicted[0]),
        "predicted_sd": float(sd[0]),
        "predicted_prior_mean": float(predicted[1]),
        "n_simulated": len(vectors),
        "tokens": float(induced.tokens.sum()),
        "unique_tokens": float(induced.unique_tokens.sum()),
        "shares": dict(zip(measured.sample.domains, induced.shares.tolist(), strict=True)),
    }


def _enough(measured: MeasuredCurves, vectors: FloatArray, least_share: float) -> IntArray:
    pool = measured.sample.pool_tokens / measured.sample.pool_tokens.sum()
    shares = np.array([measured.curve(vector).token_shares for vector in vectors])
    return np.flatnonzero(shares @ pool >= least_share)


def _features_named(name: str) -> Features:
    return next(one for one in FEATURES if one == name)


def _regression_named(name: str) -> Regression:
    return next(one for one in REGRESSIONS if one == name)
