"""Gaussian process on log-shares: the most accurate predictor at the scale it was measured at."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, cast

import numpy as np
from scipy.linalg import block_diag, cho_solve, cholesky, solve_triangular
from scipy.optimize import Bounds, minimize
from threadpoolctl import threadpool_limits

from cuvee.arrays import FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.errors import ConfigError
from cuvee.fit.training_rows import check_mixtures, check_training_rows, own_of, require_fitted

logger = logging.getLogger(__name__)

CONSTANT_VARIANCE = 4.0
"""Prior variance of the level, in units of the losses' variance."""
JITTER = 1e-6
"""Added to the kernel's diagonal, in units of the losses' variance."""
MAX_STEPS = 200
"""Steps of the optimiser before a fit counts as not converged."""
_CHUNK = 4096
_SQRT5 = 5.0**0.5
_BROKEN = 2.0
"""A run is left out when it is missed by more than so many times the middle four fifths' range."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelPrior:
    """Normal prior of the hyper-parameters log eps, log A, log s, log W_i, log l_i."""

    mean: FloatArray
    """(2 n_domains + 3,) centres."""
    precision: FloatArray
    """(2 n_domains + 3, 2 n_domains + 3) inverse covariance."""
    reach: FloatArray
    """(2 n_domains + 3,) the optimiser stays so near the centres: 6 standard deviations."""


class LogGaussianProcess:
    """Predict each target by a Gaussian process on the logarithm of shares.

    With ``F_i(r) = log(1 + r_i / eps) / log(1 + 1 / eps)`` and losses standardised per target,
    ``k(r, r') = 4 + sum_i W_i F_i F'_i + A Matern52(D)``, ``D^2 = sum_i (F_i - F'_i)^2 / l_i^2``,
    noise ``s^2``. All hyper-parameters are the maximum of the marginal likelihood times weak
    log-normal priors; a target's own domain is expected to matter more. The standard deviation
    returned by `predict` includes the noise: it is that of a new run, not of the mean.

    Broken runs, which the others miss by twice the range of the middle four fifths of all losses,
    are left out and logged.

    Args:
        own: (n_targets,) column of each target's own domain, None where it has none.
        max_learning_rows: Hyper-parameters are learnt on at most so many runs, chosen by chance;
            the process is then conditioned on all. Cost is cubic in this number per step.

    Attributes:
        hyper_: (n_targets, 2 n_domains + 3) log eps, log A, log s, log W_i, log l_i.
        outliers_: (run, target) pairs left out.
        converged_: False where an optimiser stopped early.
    """

    def __init__(
        self, *, own: tuple[int | None, ...] | None = None, max_learning_rows: int = 200
    ) -> None:
        if max_learning_rows < 2:
            raise ConfigError(f"max_learning_rows is {max_learning_rows}; it must be at least 2.")
        self.own = own
        self.max_learning_rows = max_learning_rows

    def fit(self, weights: FloatArray, losses: FloatArray, *, rng: np.random.Generator) -> Self:
        """Learn from measured runs.

        Args:
            weights: (n_runs, n_domains) token shares; rows sum to 1.
            losses: (n_runs, n_targets) finite.
            rng: Chooses the runs hyper-parameters are learnt on, where there are many.

        Returns:
            The same object, fitted.

        Raises:
            DataError: The runs are not what they must be.
            ConfigError: ``own`` does not fit the runs.
        """
        shares, measured = check_training_rows(weights, losses, own=self.own)
        self.weights_ = shares
        self.losses_ = measured
        learning = _choose_rows(len(shares), self.max_learning_rows, rng)
        self.converged_ = True
        self.outliers_: tuple[tuple[int, int], ...] = ()
        hyper = []
        with threadpool_limits(limits=1):
            for target in range(measured.shape[1]):
                hyper.append(self._fit_target(target, learning))
            self.hyper_ = np.stack(hyper)
            self._condition()
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
        require_fitted(self, "hyper_")
        shares = check_mixtures(weights, n_domains=self.weights_.shape[1])
        mean = np.empty((len(shares), self.losses_.shape[1]))
        sd = np.empty_like(mean)
        with threadpool_limits(limits=1):
            for start in range(0, len(shares), _CHUNK):
                rows = slice(start, start + _CHUNK)
                for target, process in enumerate(self._processes):
                    mean[rows, target], sd[rows, target] = process.predict(shares[rows])
        return mean, sd

    def to_json(self) -> dict[str, Json]:
        """Return settings and all that was learnt, as plain JSON."""
        require_fitted(self, "hyper_")
        return {
            "own": None if self.own is None else list(self.own),
            "max_learning_rows": self.max_learning_rows,
            "weights": self.weights_.tolist(),
            "losses": self.losses_.tolist(),
            "hyper": self.hyper_.tolist(),
            "outliers": [list(pair) for pair in self.outliers_],
            "converged": self.converged_,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> Self:
        """Make a fitted model from `to_json`'s answer."""
        own = cast(list[int | None] | None, data["own"])
        model = cls(
            own=None if own is None else tuple(own),
            max_learning_rows=cast(int, data["max_learning_rows"]),
        )
        model.weights_ = np.asarray(data["weights"], dtype=np.float64)
        model.losses_ = np.asarray(data["losses"], dtype=np.float64)
        model.hyper_ = np.asarray(data["hyper"], dtype=np.float64)
        pairs = cast(list[list[int]], data["outliers"])
        model.outliers_ = tuple((run, target) for run, target in pairs)
        model.converged_ = bool(data["converged"])
        with threadpool_limits(limits=1):
            model._condition()
        return model

    def _fit_target(self, target: int, learning: IntArray) -> FloatArray:
        prior = kernel_prior(self.weights_.shape[1], own_of(self.own, target))
        rows = np.arange(len(self.weights_))
        # One at a time: a broken run makes its neighbours look broken too.
        for _ in range(len(rows) // 10 + 1):
            hyper = self._learn(target, np.intersect1d(learning, rows), prior)
            process = _Process(self.weights_[rows], self.losses_[rows, target], hyper)
            worst = process.broken_row()
            if worst is None or len(rows) <= 0.9 * len(self.weights_):
                break
            self.outliers_ += ((int(rows[worst]), target),)
            logger.warning(
                "target %d: run %d is far from what all other runs say and is left out",
                target,
                rows[worst],
            )
            rows = np.delete(rows, worst)
        return hyper

    def _learn(self, target: int, rows: IntArray, prior: KernelPrior) -> FloatArray:
        standardised, _, spread = standardise(self.losses_[rows, target])
        if spread == 0.0:
            return prior.mean
        result = minimize(
            negative_log_posterior,
            prior.mean,
            args=(self.weights_[rows], standardised, prior),
            jac=True,
            method="L-BFGS-B",
            bounds=Bounds(prior.mean - prior.reach, prior.mean + prior.reach),
            options={"maxiter": MAX_STEPS},
        )
        if not result.success and result.status == 1:
            self.converged_ = False
            logger.warning(
                "target %d: the Gaussian process stopped after %d steps (%s)",
                target,
                result.nit,
                result.message,
            )
        return cast(FloatArray, np.asarray(result.x, dtype=np.float64))

    def _condition(self) -> None:
        n_runs, n_targets = self.losses_.shape
        self._processes = []
        for target in range(n_targets):
            out = [run for run, column in self.outliers_ if column == target]
            rows = np.setdiff1d(np.arange(n_runs), out)
            self._processes.append(
                _Process(self.weights_[rows], self.losses_[rows, target], self.hyper_[target])
            )


def kernel_prior(n_domains: int, own: int | None) -> KernelPrior:
    """Give the prior of one target's hyper-parameters.

    ``log W_i = w + g_i`` and ``log l_i = l + h_i``: a level common to all domains and each domain's
    own part, so that few runs can move the level and many the parts. A target's own domain bends
    the loss on a shorter scale and carries more of its variance.

    Args:
        n_domains: Number of domains.
        own: Column of the target's own domain, None where it has none.

    Chosen on RegMix's 512 training runs (32 to fit, 128 others to judge; its test runs were not
    looked at): eps near .005 and slopes near .1 ranked better over its 13 targets than .02 and .3.
    """
    slope = np.full(n_domains, np.log(0.1))
    length = np.full(n_domains, 0.3)
    if own is not None:
        slope[own] += 1.5
        length[own] -= 0.5
    level, parts = np.ones((n_domains, n_domains)), np.eye(n_domains)
    covariance = block_diag(
        np.eye(3), 1.0**2 * level + 0.7**2 * parts, 0.7**2 * level + 0.5**2 * parts
    )
    return KernelPrior(
        mean=np.concatenate([np.log([0.005, 1.0, 0.1]), slope, length]),
        precision=np.asarray(np.linalg.inv(covariance), dtype=np.float64),
        reach=6.0 * np.sqrt(np.diag(covariance)),
    )


def negative_log_posterior(
    hyper: FloatArray, weights: FloatArray, losses: FloatArray, prior: KernelPrior
) -> tuple[float, FloatArray]:
    """Compute minus log (marginal likelihood times prior), up to a constant, and its gradient.

    With ``G = (K^-1 - K^-1 y y' K^-1) / 2`` the derivative of the first part along any change dK of
    the kernel matrix is ``sum(G * dK)``; the sums over pairs of runs below are matrix products.

    Args:
        hyper: (2 n_domains + 3,) log eps, log A, log s, log W_i, log l_i.
        weights: (n_runs, n_domains) token shares; rows sum to 1.
        losses: (n_runs,) standardised.
        prior: Normal prior of ``hyper``.

    Returns:
        The value and its (2 n_domains + 3,) gradient.
    """
    kernel = _Kernel(hyper)
    features, slopes = kernel.features(weights)
    matern, bend = kernel.matern(features, features)
    covariance = kernel.linear(features, features) + matern
    covariance[np.diag_indices_from(covariance)] += kernel.noise_variance + JITTER
    factor = cholesky(covariance, lower=True, check_finite=False)
    solved = cho_solve((factor, True), losses, check_finite=False)
    inverse = cho_solve((factor, True), np.eye(len(losses)), check_finite=False)
    offset = hyper - prior.mean
    pulled = prior.precision @ offset
    value = 0.5 * (losses @ solved + offset @ pulled) + np.log(np.diag(factor)).sum()

    G = 0.5 * (inverse - np.outer(solved, solved))
    H = G * bend
    H_rows = H.sum(axis=1)[:, None]
    G_features, H_features = G @ features, H @ features
    # sum_pq H_pq (F_pi - F_qi)^2 = 2 sum_p F_pi (h_p F_pi - (H F)_pi), h = row sums of H
    pull = H_rows * features - H_features
    along_length = 2.0 * (features * pull).sum(axis=0) / kernel.length**2
    along_slope = kernel.slope * (features * G_features).sum(axis=0)
    along_features = 2.0 * kernel.slope * G_features - 2.0 * pull / kernel.length**2
    gradient = np.concatenate(
        [
            [(along_features * slopes).sum(), (G * matern).sum()],
            [2.0 * kernel.noise_variance * np.trace(G)],
            along_slope,
            along_length,
        ]
    )
    return float(value), gradient + pulled


def standardise(losses: FloatArray) -> tuple[FloatArray, float, float]:
    """Return losses with mean 0 and spread 1, their mean and their spread (0 if constant)."""
    mean = float(losses.mean())
    spread = float(losses.std())
    if spread <= 1e-12 * max(abs(mean), 1e-300):
        return np.zeros_like(losses), mean, 0.0
    return (losses - mean) / spread, mean, spread


class _Kernel:
    """The covariance function at given hyper-parameters."""

    def __init__(self, hyper: FloatArray) -> None:
        n_domains = (len(hyper) - 3) // 2
        self.smoothing, self.amplitude, noise = np.exp(hyper[:3])
        self.noise_variance = float(noise**2)
        self.slope = np.exp(hyper[3 : 3 + n_domains])
        self.length = np.exp(hyper[3 + n_domains :])

    def features(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return F, (n_rows, n_domains), and its derivative along log eps."""
        eps = self.smoothing
        full = np.log1p(1.0 / eps)
        features = np.log1p(weights / eps) / full
        slopes = (features / (1.0 + eps) - weights / (eps + weights)) / full
        return features, slopes

    def linear(self, one: FloatArray, other: FloatArray) -> FloatArray:
        """Return the constant and linear part, (n_one, n_other)."""
        covariance: FloatArray = CONSTANT_VARIANCE + (one * self.slope) @ other.T
        return covariance

    def matern(self, one: FloatArray, other: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the Matern part, (n_one, n_other), and -2 times its derivative along D^2."""
        a, b = one / self.length, other / self.length
        squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2.0 * a @ b.T
        distance = _SQRT5 * np.sqrt(np.maximum(squared, 0.0))
        decay = self.amplitude * np.exp(-distance)
        return decay * (1.0 + distance + distance**2 / 3.0), decay * (1.0 + distance) * (5.0 / 3.0)

    def variance(self, features: FloatArray) -> FloatArray:
        """Return the prior variance of a new run, (n_rows,)."""
        variance: FloatArray = (
            CONSTANT_VARIANCE
            + (features**2 @ self.slope)
            + self.amplitude
            + self.noise_variance
            + JITTER
        )
        return variance


class _Process:
    """One target's process, conditioned on its runs."""

    def __init__(self, weights: FloatArray, losses: FloatArray, hyper: FloatArray) -> None:
        self.kernel = _Kernel(hyper)
        self.features = self.kernel.features(weights)[0]
        self.losses, self.mean, self.spread = standardise(losses)
        covariance = self._covariance(self.features)
        covariance[np.diag_indices_from(covariance)] += self.kernel.noise_variance + JITTER
        self.factor = cholesky(covariance, lower=True, check_finite=False)
        self.solved = cho_solve((self.factor, True), self.losses, check_finite=False)

    def predict(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return mean and standard deviation of new runs, both (n_rows,)."""
        features = self.kernel.features(weights)[0]
        covariance = self._covariance(features)
        explained = solve_triangular(self.factor, covariance.T, lower=True, check_finite=False)
        variance = self.kernel.variance(features) - (explained**2).sum(axis=0)
        sd = np.sqrt(np.maximum(variance, self.kernel.noise_variance + JITTER))
        return self.mean + self.spread * (covariance @ self.solved), self.spread * sd

    def broken_row(self) -> int | None:
        """Find the run missed by most, if by far more than all others differ."""
        inverse = cho_solve((self.factor, True), np.eye(len(self.losses)), check_finite=False)
        # What a run is missed by when left out has this closed form.
        missed = np.abs(self.solved / np.diag(inverse))
        low, high = np.quantile(self.losses, [0.1, 0.9])
        worst = int(np.argmax(missed))
        return worst if missed[worst] > _BROKEN * (high - low) else None

    def _covariance(self, features: FloatArray) -> FloatArray:
        return (
            self.kernel.linear(features, self.features)
            + self.kernel.matern(features, self.features)[0]
        )


def _choose_rows(n_runs: int, limit: int, rng: np.random.Generator) -> IntArray:
    if n_runs <= limit:
        return np.arange(n_runs)
    return np.sort(rng.choice(n_runs, size=limit, replace=False))
