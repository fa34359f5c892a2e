"""Two published laws, one exponential, one a sum of powers; both convex in the weights."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Self, cast

import numpy as np
from threadpoolctl import threadpool_limits

from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.fit.effective_data import LawPrior
from cuvee.fit.law_fit import FittedLaw, fit_law
from cuvee.fit.training_rows import check_mixtures, check_training_rows, require_fitted

SMOOTHING = 2e-3
"""Added to shares, so that a domain left out has a finite loss (BiMix)."""


class ConvexLaw(ABC):
    """What laws with parameters of their own for every target share.

    Attributes:
        parameters_: Each target's (n_parameters,), of losses scaled to run from 0 to 1.
        covariance_: Each target's (n_parameters, n_parameters), of the parameters.
        scale_: (n_targets, 2) least loss and range that scale the losses.
        residual_sd_: (n_targets,) leave-one-out misfit, in the losses' unit.
        outliers_: (run, target) pairs that the robust loss hears less than half.
        converged_: False where the fit of a target stopped early.
    """

    n_domains_: int
    parameters_: tuple[FloatArray, ...]
    covariance_: tuple[FloatArray, ...]

    @staticmethod
    @abstractmethod
    def prior(n_domains: int) -> LawPrior:
        """Give the parameters' normal prior, for losses scaled to run from 0 to 1."""

    @staticmethod
    @abstractmethod
    def law(parameters: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Compute (n_rows,) values and their (n_rows, n_parameters) derivatives."""

    @staticmethod
    @abstractmethod
    def along_weights(parameters: FloatArray, weights: FloatArray) -> FloatArray:
        """Compute the (n_rows, n_domains) derivatives along the weights."""

    def fit_target(self, weights: FloatArray, losses: FloatArray) -> FittedLaw:
        """Fit one target.

        Args:
            weights: (n_runs, n_domains) token shares; rows sum to 1.
            losses: (n_runs,) finite.
        """
        return fit_law(self.law, self.prior(weights.shape[1]), weights, losses)

    def fit(self, weights: FloatArray, losses: FloatArray, *, rng: np.random.Generator) -> Self:
        """Learn from measured runs.

        Args:
            weights: (n_runs, n_domains) token shares; rows sum to 1.
            losses: (n_runs, n_targets) finite.
            rng: Not used; the start is the prior's centre.

        Returns:
            The same object, fitted.

        Raises:
            DataError: The runs are not what they must be.
        """
        shares, measured = check_training_rows(weights, losses)
        with threadpool_limits(limits=1):
            fits = [self.fit_target(shares, column) for column in measured.T]
        self.n_domains_ = shares.shape[1]
        self.parameters_ = tuple(one.parameters for one in fits)
        self.covariance_ = tuple(one.covariance for one in fits)
        self.scale_ = np.stack([one.scale for one in fits])
        self.residual_sd_ = np.array([one.residual_sd for one in fits])
        self.converged_ = all(one.converged for one in fits)
        self.outliers_ = tuple(
            (int(run), target)
            for target, one in enumerate(fits)
            for run in np.flatnonzero(one.outliers)
        )
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
        require_fitted(self, "parameters_")
        shares = check_mixtures(weights, n_domains=self.n_domains_)
        means, sds = [], []
        for target, parameters in enumerate(self.parameters_):
            lowest, spread = self.scale_[target]
            value, slopes = self.law(parameters, shares)
            doubt = np.einsum("ij,jk,ik->i", slopes, self.covariance_[target], slopes)
            means.append(lowest + spread * value)
            variance = spread**2 * np.maximum(doubt, 0.0) + self.residual_sd_[target] ** 2
            sds.append(np.sqrt(variance))
        return np.stack(means, axis=1), np.stack(sds, axis=1)

    def slopes(self, weights: FloatArray) -> FloatArray:
        """Compute the derivatives of the mean along the weights; the mean is convex in them.

        Args:
            weights: (n_rows, n_domains) token shares; rows sum to 1.

        Returns:
            (n_rows, n_targets, n_domains) derivatives, in the losses' unit.

        Raises:
            NotFittedError: `fit` was not called.
            DataError: The weights are not mixtures of the fitted domains.
        """
        require_fitted(self, "parameters_")
        shares = check_mixtures(weights, n_domains=self.n_domains_)
        return np.stack(
            [
                spread * self.along_weights(parameters, shares)
                for parameters, (_, spread) in zip(self.parameters_, self.scale_, strict=True)
            ],
            axis=1,
        )

    def to_json(self) -> dict[str, Json]:
        """Return all that was learnt, as plain JSON."""
        require_fitted(self, "parameters_")
        return {
            "n_domains": self.n_domains_,
            "parameters": [one.tolist() for one in self.parameters_],
            "covariance": [one.tolist() for one in self.covariance_],
            "scale": self.scale_.tolist(),
            "residual_sd": self.residual_sd_.tolist(),
            "outliers": [list(pair) for pair in self.outliers_],
            "converged": self.converged_,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> Self:
        """Make a fitted model from `to_json`'s answer."""
        model = cls()
        model.n_domains_ = cast(int, data["n_domains"])
        rows = cast(list[list[float]], data["parameters"])
        model.parameters_ = tuple(np.asarray(one, dtype=np.float64) for one in rows)
        squares = cast(list[list[list[float]]], data["covariance"])
        model.covariance_ = tuple(np.asarray(one, dtype=np.float64) for one in squares)
        model.scale_ = np.asarray(data["scale"], dtype=np.float64)
        model.residual_sd_ = np.asarray(data["residual_sd"], dtype=np.float64)
        pairs = cast(list[list[int]], data["outliers"])
        model.outliers_ = tuple((run, target) for run, target in pairs)
        model.converged_ = bool(data["converged"])
        return model


class ExponentialMixingLaw(ConvexLaw):
    """Predict each target as ``c + exp(t . r)``.

    On the simplex the paper's factor k is a constant added to all t. Parameters: c, t_i.

    Source: Data Mixing Laws (arXiv:2403.16952), ``L_i(r) = c_i + k_i exp(sum_j t_ij r_j)``.
    """

    @staticmethod
    def prior(n_domains: int) -> LawPrior:
        """Give the prior: a floor somewhat below the least loss, effects of a few e-folds.

        Chosen on runs of RegMix's 512 that were not fitted; its test runs were not looked at.
        """
        return LawPrior(
            mean=np.concatenate([[-0.3], np.full(n_domains, -0.7)]),
            sd=np.concatenate([[0.5], np.full(n_domains, 3.0)]),
        )

    @staticmethod
    def law(parameters: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Compute ``c + exp(t . r)`` and its derivatives along c and t."""
        value = np.exp(np.clip(weights @ parameters[1:], -30.0, 30.0))
        return parameters[0] + value, np.column_stack(
            [np.ones(len(value)), value[:, None] * weights]
        )

    @staticmethod
    def along_weights(parameters: FloatArray, weights: FloatArray) -> FloatArray:
        """Compute ``t_i exp(t . r)``."""
        value = np.exp(np.clip(weights @ parameters[1:], -30.0, 30.0))
        slopes: FloatArray = value[:, None] * parameters[1:]
        return slopes


class BivariatePower(ConvexLaw):
    """Predict each target as ``c + sum_i F_i (r_i + eps)^(-a_i)``, F_i and a_i positive.

    Parameters: c, log F_i, log a_i; eps is .002.

    Source: BiMix (arXiv:2405.14908), the mixture's part of its law. Deviation: the paper's law is
    of a domain's own share only; the sum lets every domain matter for every target.
    """

    @staticmethod
    def prior(n_domains: int) -> LawPrior:
        """Give the prior: small effects of most domains, exponents about a third."""
        return LawPrior(
            mean=np.concatenate(
                [[-0.3], np.full(n_domains, -4.0), np.full(n_domains, np.log(0.3))]
            ),
            sd=np.concatenate([[1.0], np.full(n_domains, 1.5), np.full(n_domains, 0.5)]),
        )

    @staticmethod
    def law(parameters: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Compute the law and its derivatives along c, log F and log a."""
        terms, exponent, log_share = _terms(parameters, weights)
        slopes = np.column_stack([np.ones(len(terms)), terms, -terms * exponent * log_share])
        return parameters[0] + terms.sum(axis=1), slopes

    @staticmethod
    def along_weights(parameters: FloatArray, weights: FloatArray) -> FloatArray:
        """Compute ``-a_i F_i (r_i + eps)^(-a_i - 1)``."""
        terms, exponent, log_share = _terms(parameters, weights)
        slopes: FloatArray = -exponent * terms * np.exp(-log_share)
        return slopes


def _terms(
    parameters: FloatArray, weights: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return ``F_i (r_i + eps)^(-a_i)``, a_i and ``log(r_i + eps)``."""
    n_domains = weights.shape[1]
    log_factor = np.clip(parameters[1 : 1 + n_domains], -30.0, 6.0)
    exponent = np.exp(np.clip(parameters[1 + n_domains :], -6.0, 1.0))
    log_share = np.log(weights + SMOOTHING)
    return np.exp(log_factor - exponent * log_share), exponent, log_share
