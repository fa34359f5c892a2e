"""The default predictor: a Gaussian process and a power law, each right where the other is not."""

from collections.abc import Mapping
from typing import Self, cast

import numpy as np

from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.fit.distilled_law import DistilledLaw
from cuvee.fit.shared_process import SharedGaussianProcess
from cuvee.fit.training_rows import require_fitted

TRUSTED = 2.0
"""The law counts as much as the process up to so many of the process's standard deviations."""


class Ensemble:
    """Predict the mean of `SharedGaussianProcess` and the `DistilledLaw` it has taught.

    ``mean = m_gp + s d`` and ``sd^2 = sd_gp^2 + (s d)^2`` with ``d = m_law - m_gp``: where the two
    disagree, neither is trusted. The law's part s is a half while d is within two standard
    deviations of the process, and falls as ``(2 sd_gp / d)^2`` beyond: a law that runs away, as
    near the vertex of a domain no target is of a kind with, is heard less.

    Args:
        own: (n_targets,) column of each target's own domain, None where it has none. None for all:
            detected.

    Attributes:
        law_: The fitted law; its mean is convex in the weights.
        outliers_: (run, target) pairs left out.
        converged_: False where the law's fit stopped early.
    """

    def __init__(self, *, own: tuple[int | None, ...] | None = None) -> None:
        self.own = own

    @property
    def process_(self) -> SharedGaussianProcess:
        """The fitted Gaussian process."""
        return self.law_.process_

    def fit(self, weights: FloatArray, losses: FloatArray, *, rng: np.random.Generator) -> Self:
        """Learn from measured runs.

        Args:
            weights: (n_runs, n_domains) token shares; rows sum to 1.
            losses: (n_runs, n_targets) finite.
            rng: Handed to the law and its process.

        Returns:
            The same object, fitted.

        Raises:
            DataError: The runs are not what they must be.
            ConfigError: ``own`` does not fit the runs.
        """
        self._keep(DistilledLaw(own=self.own).fit(weights, losses, rng=rng))
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
        require_fitted(self, "law_")
        mean, sd = self.process_.predict(weights)
        step = self._step(weights, mean, sd)
        return mean + step, np.hypot(sd, step)

    def change(self, weights: FloatArray, base: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Predict how the expected losses change from one mixture to others.

        The process's own change (`SharedGaussianProcess.change`), moved and widened by how the
        law's part changes.

        Args:
            weights: (n_rows, n_domains) token shares; rows sum to 1.
            base: (n_domains,) token shares of the mixture compared with.

        Returns:
            Mean and standard deviation of the change, both (n_rows, n_targets).

        Raises:
            NotFittedError: `fit` was not called.
            DataError: The weights are not mixtures of the fitted domains.
        """
        require_fitted(self, "law_")
        mean, sd = self.process_.change(weights, base)
        rows = np.vstack([weights, base])
        steps = self._step(rows, *self.process_.predict(rows))
        moved = steps[:-1] - steps[-1]
        return mean + moved, np.hypot(sd, moved)

    def to_json(self) -> dict[str, Json]:
        """Return settings and all that was learnt, as plain JSON."""
        require_fitted(self, "law_")
        return {"law": self.law_.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> Self:
        """Make a fitted model from `to_json`'s answer."""
        law = DistilledLaw.from_json(cast(dict[str, Json], data["law"]))
        model = cls(own=law.own)
        model._keep(law)
        return model

    def _step(self, weights: FloatArray, mean: FloatArray, sd: FloatArray) -> FloatArray:
        """Return the law's part: how far it moves the process's mean."""
        apart = self.law_.mean(weights) - mean
        reach = TRUSTED * sd / np.maximum(np.abs(apart), 1e-300)
        step: FloatArray = 0.5 * np.minimum(1.0, reach**2) * apart
        return step

    def _keep(self, law: DistilledLaw) -> None:
        self.law_ = law
        self.outliers_ = law.outliers_
        self.converged_ = law.converged_
