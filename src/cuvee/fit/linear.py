"""Linear regression on mixture weights: the baseline of every other predictor."""

import logging
from collections.abc import Mapping
from typing import Self

import numpy as np
from threadpoolctl import threadpool_limits

from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.fit.training_rows import check_mixtures, check_training_rows, require_fitted

logger = logging.getLogger(__name__)


class LinearMixture:
    """Predict each target as ``b . r``, by ordinary least squares.

    An intercept would be redundant: shares sum to 1. Where there are fewer runs than domains, the
    answer is the mean loss plus the smallest slopes that fit. The standard deviation is that of a
    new run, ``s sqrt(1 + r' (R'R)^+ r)``; s has n_runs - rank degrees of freedom, and is the
    losses' own spread where none are left.

    Attributes:
        slopes_: (n_domains, n_targets) b.
        residual_sd_: (n_targets,) s.
        converged_: Always True.

    Source: RegMix (arXiv:2407.01492), the linear model of its section on regression.
    """

    def fit(self, weights: FloatArray, losses: FloatArray, *, rng: np.random.Generator) -> Self:
        """Learn from measured runs.

        Args:
            weights: (n_runs, n_domains) token shares; rows sum to 1.
            losses: (n_runs, n_targets) finite.
            rng: Not used; a linear fit leaves nothing to chance.

        Returns:
            The same object, fitted.

        Raises:
            DataError: The runs are not what they must be.
        """
        shares, measured = check_training_rows(weights, losses)
        n_runs, n_domains = shares.shape
        mean = measured.mean(axis=0)
        with threadpool_limits(limits=1):
            inverse = np.linalg.pinv(shares, rcond=1e-10)
            # Shares sum to 1, so adding the mean to every slope adds it to every prediction.
            self.slopes_ = inverse @ (measured - mean) + mean
            self._leverage = inverse @ inverse.T
            rank = int(np.linalg.matrix_rank(shares, tol=1e-10))
        freedom = n_runs - rank
        residual = measured - shares @ self.slopes_
        if freedom > 0:
            self.residual_sd_ = np.sqrt((residual**2).sum(axis=0) / freedom)
        else:
            logger.warning("%d runs fix all %d slopes; errors are guessed", n_runs, n_domains)
            self.residual_sd_ = measured.std(axis=0, ddof=1)
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
        require_fitted(self, "slopes_")
        shares = check_mixtures(weights, n_domains=len(self.slopes_))
        leverage = np.einsum("ij,jk,ik->i", shares, self._leverage, shares)
        widening = np.sqrt(1.0 + np.maximum(leverage, 0.0))
        return shares @ self.slopes_, widening[:, None] * self.residual_sd_

    def slopes(self, weights: FloatArray) -> FloatArray:
        """Return the derivatives of the mean along the weights, the same at every mixture.

        Args:
            weights: (n_rows, n_domains) token shares; rows sum to 1.

        Returns:
            (n_rows, n_targets, n_domains) derivatives, in the losses' unit.

        Raises:
            NotFittedError: `fit` was not called.
            DataError: The weights are not mixtures of the fitted domains.
        """
        require_fitted(self, "slopes_")
        shares = check_mixtures(weights, n_domains=len(self.slopes_))
        return np.tile(self.slopes_.T, (len(shares), 1, 1))

    def to_json(self) -> dict[str, Json]:
        """Return settings and all that was learnt, as plain JSON."""
        require_fitted(self, "slopes_")
        return {
            "slopes": self.slopes_.tolist(),
            "leverage": self._leverage.tolist(),
            "residual_sd": self.residual_sd_.tolist(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> Self:
        """Make a fitted model from `to_json`'s answer."""
        model = cls()
        model.slopes_ = np.asarray(data["slopes"], dtype=np.float64)
        model._leverage = np.asarray(data["leverage"], dtype=np.float64)
        model.residual_sd_ = np.asarray(data["residual_sd"], dtype=np.float64)
        model.converged_ = True
        return model
