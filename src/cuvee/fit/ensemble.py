"""The default predictor: a Gaussian process and a power law, each right where the other is not."""

from collections.abc import Mapping
from typing import Self, cast

import numpy as np

from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.fit.effective_data import EffectiveDataPower
from cuvee.fit.gaussian_process import LogGaussianProcess
from cuvee.fit.training_rows import require_fitted


class Ensemble:
    """Predict the mean of `LogGaussianProcess` and `EffectiveDataPower`.

    ``mean = (m_gp + m_law) / 2`` and ``sd^2 = sd_gp^2 + ((m_gp - m_law) / 2)^2``: where the two
    disagree, neither is trusted.

    Args:
        own: (n_targets,) column of each target's own domain, None where it has none.

    Attributes:
        process_: The fitted Gaussian process.
        law_: The fitted power law.
        converged_: True where both converged.
    """

    def __init__(self, *, own: tuple[int | None, ...] | None = None) -> None:
        self.own = own

    def fit(self, weights: FloatArray, losses: FloatArray, *, rng: np.random.Generator) -> Self:
        """Learn from measured runs.

        Args:
            weights: (n_runs, n_domains) token shares; rows sum to 1.
            losses: (n_runs, n_targets) finite.
            rng: Handed to the Gaussian process.

        Returns:
            The same object, fitted.

        Raises:
            DataError: The runs are not what they must be.
            ConfigError: ``own`` does not fit the runs.
        """
        process = LogGaussianProcess(own=self.own).fit(weights, losses, rng=rng)
        self.law_ = EffectiveDataPower(own=self.own).fit(weights, losses, rng=rng)
        self.process_ = process
        self.converged_ = self.process_.converged_ and self.law_.converged_
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
        require_fitted(self, "process_")
        process_mean, process_sd = self.process_.predict(weights)
        law_mean, _ = self.law_.predict(weights)
        half = (process_mean - law_mean) / 2.0
        return process_mean - half, np.hypot(process_sd, half)

    def to_json(self) -> dict[str, Json]:
        """Return settings and all that was learnt, as plain JSON."""
        require_fitted(self, "process_")
        return {"process": self.process_.to_json(), "law": self.law_.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> Self:
        """Make a fitted model from `to_json`'s answer."""
        process = LogGaussianProcess.from_json(cast(dict[str, Json], data["process"]))
        model = cls(own=process.own)
        model.process_ = process
        model.law_ = EffectiveDataPower.from_json(cast(dict[str, Json], data["law"]))
        model.converged_ = process.converged_ and model.law_.converged_
        return model
