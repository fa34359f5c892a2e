"""What quality curves cost: losses of measured curves regressed on what the curves take."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import numpy as np

from cuvee.arrays import FloatArray
from cuvee.errors import ConfigError
from cuvee.fit.feature_models import REGRESSIONS, FeatureModel, Regression, held_out, mean_rank
from cuvee.policy.induced import Induced, PoolSample
from cuvee.policy.quality_curve import QualityCurve
from cuvee.randomness import stream

Features: TypeAlias = Literal["contents", "domain-contents", "parameters"]
FEATURES: tuple[Features, ...] = ("contents", "domain-contents", "parameters")
_SMALLEST_THRESHOLD = 1e-4
_STRIDE = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvesConfig:
    """How many curves are measured, and how the best is looked for."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    n_runs: int = 96
    """Proxies, the natural curve and each criterion's best among them. QuaDMix: 3,000."""
    start_runs: int = 48
    """Proxies measured before the first choice; as many as `n_runs`: all are drawn beforehand.
    QuaDMix: 3,000."""
    batch_size: int = 16
    """Proxies of each later round: half where the best is predicted, a quarter where the bound of
    the prediction is, the others drawn from the prior."""
    exploration: float = 1.0
    """Standard deviations from the prediction to that bound, at least 0."""
    n_simulated: int = 20_000
    """Vectors drawn from the prior and predicted. QuaDMix: 100,000."""
    n_generations: int = 8
    """Times that a tenth as many are made of the best so far, domain by domain. QuaDMix: 0."""
    n_best: int = 10
    """Best predicted vectors averaged. QuaDMix: 10."""
    least_unique: float = 0.0
    """Least tokens of documents not taken before, as a share of the token budget, in [0, 1]."""
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
        if self.start_runs < 12 or self.batch_size < 1 or self.n_generations < 0:
            raise ConfigError(
                f"start_runs is {self.start_runs}, batch_size {self.batch_size} and n_generations "
                f"{self.n_generations}; they must be at least 12, 1 and 0."
            )
        if not (self.exploration >= 0.0 and 0.0 <= self.least_unique <= 1.0):
            raise ConfigError(
                f"exploration is {self.exploration:g} and least_unique {self.least_unique:g}; they "
                "must be at least 0, and within [0, 1]."
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

    def induce(
        self,
        vectors: FloatArray,
        on_progress: Callable[[int], None] = lambda done: None,
    ) -> list[Induced]:
        """Return what each of (n, n_parameters) vectors takes of the pool."""
        found = []
        for number, vector in enumerate(vectors):
            found.append(self.sample.induce(self.curve(vector)))
            if (number + 1) % _STRIDE == 0:
                on_progress(_STRIDE)
        return found

    def features(
        self, kind: Features, vectors: FloatArray, contents: Sequence[Induced]
    ) -> FloatArray:
        """Return what a regression is told of (n, n_parameters) vectors and their contents.

        Of parameters, lambda and omega are given as logarithms.
        """
        if kind == "parameters":
            parts = vectors.reshape(len(vectors), len(self.sample.domains), -1).copy()
            curve = parts[:, :, len(self.criteria) :]
            curve[:, :, :2] = np.log(np.maximum(curve[:, :, :2], _SMALLEST_THRESHOLD))
            return np.asarray(parts.reshape(len(vectors), -1))
        by_domain = kind == "domain-contents"
        return np.array([one.features(by_domain=by_domain) for one in contents])


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePredictor:
    """A regression of losses, fitted on measured curves."""

    measured: MeasuredCurves
    features: Features
    model: FeatureModel

    @classmethod
    def fit(cls, measured: MeasuredCurves, chosen: str, *, seed: int) -> "CurvePredictor":
        """Fit a regression named as ``<features>/<regression>``."""
        features, _, kind = chosen.partition("/")
        told = next(one for one in FEATURES if one == features)
        rows = measured.features(told, measured.vectors, measured.induce(measured.vectors))
        model = FeatureModel.fit(
            rows,
            measured.losses,
            kind=next(one for one in REGRESSIONS if one == kind),
            rng=stream(seed, "fit"),
        )
        return cls(measured=measured, features=told, model=model)

    def predict(
        self, vectors: FloatArray, contents: Sequence[Induced]
    ) -> tuple[FloatArray, FloatArray]:
        """Predict losses of (n, n_parameters) vectors: mean and sd, both (n, n_targets)."""
        return self.model.predict(self.measured.features(self.features, vectors, contents))


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
    contents = measured.induce(measured.vectors)
    for features in settings.features:
        rows = measured.features(features, measured.vectors, contents)
        for kind in settings.regressions:
            predicted = held_out(
                rows, measured.losses, kind=kind, rng=stream(seed, "cross-validation")
            )
            ranks[f"{features}/{kind}"] = mean_rank(
                predicted @ measured.objective, measured.losses @ measured.objective
            )
    return ranks
