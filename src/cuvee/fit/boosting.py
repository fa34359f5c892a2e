"""Boosted regression trees, RegMix's predictor, with settings that suit the number of runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, cast

import lightgbm as lgb
import numpy as np

from cuvee.arrays import FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.errors import ConfigError
from cuvee.fit.training_rows import check_mixtures, check_training_rows, require_fitted
from cuvee.randomness import integer_seed

PAPER_RUNS = 256
"""From so many runs on, the paper's settings are used unless others are given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TreeSettings:
    """What LightGBM is told."""

    n_rounds: int
    """Trees per target; paper 1000."""
    learning_rate: float
    """Shrinkage of each tree; paper 0.01."""
    n_leaves: int
    """Leaves per tree; paper 31."""
    min_rows: int
    """Runs per leaf at least; paper 20, which makes a constant of fewer than 40 runs."""

    def __post_init__(self) -> None:
        if min(self.n_rounds, self.min_rows) < 1 or self.n_leaves < 2 or self.learning_rate <= 0.0:
            raise ConfigError(
                f"tree settings are {self}; allowed: n_rounds and min_rows from 1, n_leaves from "
                "2, learning_rate above 0."
            )


PAPER = TreeSettings(n_rounds=1000, learning_rate=0.01, n_leaves=31, min_rows=20)
FEW_RUNS = TreeSettings(n_rounds=1000, learning_rate=0.03, n_leaves=8, min_rows=3)


class BoostedTrees:
    """Predict each target by gradient-boosted regression trees on the weights.

    No rounds are saved by early stopping, so no run is needed to decide on it. The standard
    deviation is the root mean square error on folds left out, the same for all mixtures.
    Predictions do not depend on the order of the domains: columns are brought into an order of
    their own, so that ties between equal splits fall alike.

    Args:
        settings: Tree settings; None takes the paper's from 256 runs on, and 8 leaves of at least 3
            runs with a rate of .03 below.
        n_folds: Folds of the standard deviation, each costing one more fit; 0 saves them and takes
            the losses' own spread.

    Attributes:
        boosters_: (n_targets,) LightGBM models as its own text.
        residual_sd_: (n_targets,) cross-validated error, in the losses' unit.
        converged_: Always True.

    Source: RegMix (arXiv:2407.01492), the LightGBM settings of its released code.
    Deviation: the released notebook stops early on the test rows; here no test row reaches a fit.
    """

    def __init__(self, *, settings: TreeSettings | None = None, n_folds: int = 3) -> None:
        if n_folds < 0 or n_folds == 1:
            raise ConfigError(
                f"n_folds is {n_folds}; give at least 2 to cross-validate, or 0 to leave it out."
            )
        self.settings = settings
        self.n_folds = n_folds

    def fit(self, weights: FloatArray, losses: FloatArray, *, rng: np.random.Generator) -> Self:
        """Learn from measured runs.

        Args:
            weights: (n_runs, n_domains) token shares; rows sum to 1.
            losses: (n_runs, n_targets) finite.
            rng: Assigns runs to folds, and seeds LightGBM.

        Returns:
            The same object, fitted; the same on every machine with the same LightGBM.

        Raises:
            DataError: The runs are not what they must be.
        """
        shares, measured = check_training_rows(weights, losses)
        self.column_order_ = _column_order(shares)
        ordered = shares[:, self.column_order_]
        folds = rng.permutation(np.arange(len(shares)) % max(self.n_folds, 1))
        seed = integer_seed(rng)
        settings = self.settings or (PAPER if len(shares) >= PAPER_RUNS else FEW_RUNS)
        self._models = [_boost(ordered, column, settings, seed) for column in measured.T]
        self.boosters_ = tuple(model.model_to_string() for model in self._models)
        self.residual_sd_ = np.asarray(
            [_left_out_error(ordered, column, folds, settings, seed) for column in measured.T]
        )
        self.converged_ = True
        return self

    def predict(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Predict the losses of mixtures.

        Args:
            weights: (n_rows, n_domains) token shares; rows sum to 1.

        Returns:
            Mean and standard deviation of a new run, both (n_rows, n_targets).

        Raises:
            NotFittedError: `fit` was not called.
            DataError: The weights are not mixtures of the fitted domains.
        """
        require_fitted(self, "boosters_")
        shares = check_mixtures(weights, n_domains=len(self.column_order_))
        ordered = shares[:, self.column_order_]
        mean = np.column_stack([_trees_at(model, ordered) for model in self._models])
        return mean, np.broadcast_to(self.residual_sd_, mean.shape).copy()

    def to_json(self) -> dict[str, Json]:
        """Return settings and all that was learnt, as plain JSON."""
        require_fitted(self, "boosters_")
        return {
            "n_folds": self.n_folds,
            "settings": None if self.settings is None else _settings_json(self.settings),
            "column_order": self.column_order_.tolist(),
            "boosters": list(self.boosters_),
            "residual_sd": self.residual_sd_.tolist(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> Self:
        """Make a fitted model from `to_json`'s answer."""
        given = cast(Mapping[str, float] | None, data["settings"])
        settings = None if given is None else _settings_of(given)
        model = cls(settings=settings, n_folds=cast(int, data["n_folds"]))
        model.column_order_ = np.asarray(data["column_order"], dtype=np.int64)
        model.boosters_ = tuple(cast(Sequence[str], data["boosters"]))
        model._models = [lgb.Booster(model_str=text) for text in model.boosters_]
        model.residual_sd_ = np.asarray(data["residual_sd"], dtype=np.float64)
        model.converged_ = True
        return model


def _column_order(weights: FloatArray) -> IntArray:
    """Sort columns by their values, so that the order given does not matter."""
    return np.lexsort(weights[::-1])


def _boost(
    weights: FloatArray, losses: FloatArray, settings: TreeSettings, seed: int
) -> lgb.Booster:
    parameters = {
        "objective": "regression",
        "learning_rate": settings.learning_rate,
        "num_leaves": settings.n_leaves,
        "min_data_in_leaf": settings.min_rows,
        "min_data_in_bin": 1 if settings.min_rows < PAPER.min_rows else 3,
        "num_threads": 1,
        "deterministic": True,
        "force_row_wise": True,
        "seed": seed,
        "verbosity": -1,
    }
    data = lgb.Dataset(weights, label=losses)
    return lgb.train(parameters, data, num_boost_round=settings.n_rounds)


def _trees_at(model: lgb.Booster, weights: FloatArray) -> FloatArray:
    return np.asarray(model.predict(weights, num_threads=1), dtype=np.float64)


def _left_out_error(
    weights: FloatArray, losses: FloatArray, folds: IntArray, settings: TreeSettings, seed: int
) -> float:
    if not folds.any():
        return float(losses.std())
    errors = np.empty_like(losses)
    for fold in np.unique(folds):
        out = folds == fold
        model = _boost(weights[~out], losses[~out], settings, seed)
        errors[out] = losses[out] - _trees_at(model, weights[out])
    return float(np.sqrt(np.mean(errors**2)))


def _settings_json(settings: TreeSettings) -> dict[str, Json]:
    return {
        "n_rounds": settings.n_rounds,
        "learning_rate": settings.learning_rate,
        "n_leaves": settings.n_leaves,
        "min_rows": settings.min_rows,
    }


def _settings_of(data: Mapping[str, float]) -> TreeSettings:
    return TreeSettings(
        n_rounds=int(data["n_rounds"]),
        learning_rate=data["learning_rate"],
        n_leaves=int(data["n_leaves"]),
        min_rows=int(data["min_rows"]),
    )
