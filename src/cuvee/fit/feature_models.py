"""Regressions of losses on any features, for parameters that are no mixture."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self, TypeAlias, cast

import lightgbm as lgb
import numpy as np
from scipy.stats import spearmanr
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel
from sklearn.linear_model import RidgeCV

from cuvee.arrays import FloatArray, IntArray
from cuvee.errors import DataError
from cuvee.randomness import integer_seed

Regression: TypeAlias = Literal["linear", "trees", "process"]
REGRESSIONS: tuple[Regression, ...] = ("linear", "trees", "process")
_PENALTIES = np.logspace(-3, 4, 22)
_TREES = {"learning_rate": 0.03, "num_leaves": 8, "min_data_in_leaf": 3, "feature_fraction": 0.5}
_ROUNDS = 500
_LEAST_RUNS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureModel:
    """One regression a target, with the error it had on folds left out.

    Source: QuaDMix (arXiv:2504.16511), section 3.3, regresses the loss on the parameters by boosted
    trees; ridge and the Gaussian process (Matern 5/2 plus a linear kernel) are ours.
    """

    kind: Regression
    models: tuple[RidgeCV | lgb.Booster | GaussianProcessRegressor, ...]
    centre: FloatArray
    """(n_features,)"""
    width: FloatArray
    """(n_features,)"""
    error: FloatArray
    """(n_targets,) root mean square error on folds left out."""

    @classmethod
    def fit(
        cls,
        features: FloatArray,
        losses: FloatArray,
        *,
        kind: Regression,
        rng: np.random.Generator,
        n_folds: int = 5,
    ) -> Self:
        """Learn from measured runs.

        Args:
            features: (n_runs, n_features) finite.
            losses: (n_runs, n_targets) finite.
            kind: Which regression.
            rng: Assigns folds.
            n_folds: Of the error.

        Raises:
            DataError: Shapes disagree, a value is not finite, or there are fewer than 8 runs.
        """
        _check(features, losses)
        predicted = held_out(features, losses, kind=kind, rng=rng, n_folds=n_folds)
        centre, width = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-9)
        rows = (features - centre) / width
        seed = integer_seed(rng)
        return cls(
            kind=kind,
            models=tuple(_fit_one(kind, rows, column, seed) for column in losses.T),
            centre=centre,
            width=width,
            error=np.sqrt(np.mean((predicted - losses) ** 2, axis=0)),
        )

    def predict(self, features: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Predict losses.

        Args:
            features: (n_rows, n_features).

        Returns:
            Mean and standard deviation, both (n_rows, n_targets); the deviation is the error on
            folds left out, for a process at least its own.
        """
        rows = (features - self.centre) / self.width
        means, sds = [], []
        for model, error in zip(self.models, self.error, strict=True):
            if isinstance(model, GaussianProcessRegressor):
                mean, sd = model.predict(rows, return_std=True)
                sds.append(np.maximum(sd, error))
            else:
                mean = np.asarray(model.predict(rows))
                sds.append(np.full(len(rows), error))
            means.append(mean)
        return np.stack(means, axis=1), np.stack(sds, axis=1)


def held_out(
    features: FloatArray,
    losses: FloatArray,
    *,
    kind: Regression,
    rng: np.random.Generator,
    n_folds: int = 5,
) -> FloatArray:
    """Predict every run by a model that has not seen it.

    Args:
        features: (n_runs, n_features).
        losses: (n_runs, n_targets).
        kind: Which regression.
        rng: Assigns folds.
        n_folds: At least 2.

    Returns:
        (n_runs, n_targets) predictions.
    """
    folds: IntArray = rng.permutation(np.arange(len(features)) % n_folds).astype(np.int64)
    predicted = np.empty_like(losses)
    seed = integer_seed(rng)
    for fold in range(n_folds):
        out = folds == fold
        centre = features[~out].mean(axis=0)
        width = np.maximum(features[~out].std(axis=0), 1e-9)
        rows, asked = (features[~out] - centre) / width, (features[out] - centre) / width
        for column in range(losses.shape[1]):
            model = _fit_one(kind, rows, losses[~out, column], seed)
            predicted[out, column] = np.asarray(model.predict(asked))
    return predicted


def mean_rank(predicted: FloatArray, measured: FloatArray) -> float:
    """Return Spearman's correlation of two (n_runs,) columns; 0 where one is constant."""
    if np.ptp(predicted) == 0.0 or np.ptp(measured) == 0.0:
        return 0.0
    return float(cast(Mapping[str, float], spearmanr(predicted, measured)._asdict())["statistic"])


def _fit_one(
    kind: Regression, rows: FloatArray, losses: FloatArray, seed: int
) -> RidgeCV | lgb.Booster | GaussianProcessRegressor:
    if kind == "linear":
        return RidgeCV(alphas=_PENALTIES).fit(rows, losses)
    if kind == "trees":
        settings = {**_TREES, "seed": seed, "num_threads": 1, "verbose": -1, "deterministic": True}
        return lgb.train(settings, lgb.Dataset(rows, losses), num_boost_round=_ROUNDS)
    n_features = rows.shape[1]
    kernel = (
        ConstantKernel(1.0) * Matern(length_scale=np.sqrt(n_features), nu=2.5)
        + ConstantKernel(1.0 / n_features, (1e-5, 10.0)) * DotProduct(sigma_0=1.0)
        + WhiteKernel(0.1, (1e-4, 1.0))
    )
    model = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=0)
    with warnings.catch_warnings():
        # A parameter at its bound is a weak prior doing its work.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(rows, losses)


def _check(features: FloatArray, losses: FloatArray) -> None:
    if features.ndim != 2 or losses.ndim != 2 or len(features) != len(losses):
        raise DataError(
            f"features have shape {features.shape} and losses {losses.shape}; expected (n_runs, "
            "n_features) and (n_runs, n_targets) with the same runs in the same order."
        )
    if len(features) < _LEAST_RUNS:
        raise DataError(
            f"{len(features)} runs; a regression on features needs at least {_LEAST_RUNS}. Measure "
            "more."
        )
    if not (np.all(np.isfinite(features)) and np.all(np.isfinite(losses))):
        raise DataError("features or losses are not finite. Leave diverged runs out of the fit.")
