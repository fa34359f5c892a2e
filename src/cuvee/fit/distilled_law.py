"""The power law in effective data, taught by a Gaussian process where nothing was measured."""

from collections.abc import Mapping
from typing import Self, cast

import numpy as np
from scipy.optimize import least_squares
from threadpoolctl import threadpool_limits

from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.errors import ConfigError
from cuvee.fit.effective_data import LawPrior, law
from cuvee.fit.shared_process import SharedGaussianProcess
from cuvee.fit.training_rows import check_mixtures, require_fitted
from cuvee.simplex import normalise, sample_dirichlet

NOISE = 0.03
"""Expected misfit of a measured run, in units of the losses' range."""
_STRENGTHS = (0.5, 16.0)
_TOLERANCE = 1e-6
_MAX_EVALUATIONS = 200


class DistilledLaw:
    """Predict each target as ``c + k (a0 + sum_i a_i r_i)^(-beta)``, all but c positive.

    A `SharedGaussianProcess` is fitted to the runs; the law is then fitted to the runs and to what
    the process says of mixtures nobody measured, each weighed by how sure it is. So the law keeps
    its shape, which carries over to other scales, and does not run away where there are few runs.
    Its mean is convex in the weights. The standard deviation is the process's, to whose square that
    of the difference between the two is added.

    Args:
        own: (n_targets,) column of each target's own domain, None where it has none. None for all:
            detected, as `SharedGaussianProcess` does.
        n_distilled: Mixtures the process is asked about.

    Attributes:
        process_: The fitted process.
        parameters_: (n_targets, 4 + n_domains) c, log k, log beta, log a0, log a_i of losses
            scaled to run from 0 to 1.
        scale_: (n_targets, 2) least loss and range that scale the losses.
        outliers_: (run, target) pairs that the process left out.
        converged_: False where the fit of a target stopped early.
    """

    def __init__(
        self, *, own: tuple[int | None, ...] | None = None, n_distilled: int = 200
    ) -> None:
        if n_distilled < 0:
            raise ConfigError(f"n_distilled is {n_distilled}; it must be at least 0.")
        self.own = own
        self.n_distilled = n_distilled

    def fit(self, weights: FloatArray, losses: FloatArray, *, rng: np.random.Generator) -> Self:
        """Learn from measured runs.

        Args:
            weights: (n_runs, n_domains) token shares; rows sum to 1.
            losses: (n_runs, n_targets) finite.
            rng: Handed to the process; draws the mixtures it is asked about.

        Returns:
            The same object, fitted.

        Raises:
            DataError: The runs are not what they must be.
            ConfigError: ``own`` does not fit the runs.
        """
        self.process_ = SharedGaussianProcess(own=self.own).fit(weights, losses, rng=rng)
        self.outliers_ = self.process_.outliers_
        asked = _mixtures_about(self.process_.weights_, self.n_distilled, rng)
        mean, sd = self.process_.predict(asked)
        shares = np.vstack([self.process_.weights_, asked])
        fits = []
        with threadpool_limits(limits=1):
            for target in range(self.process_.losses_.shape[1]):
                fits.append(self._fit_target(target, shares, mean[:, target], sd[:, target]))
        self.parameters_ = np.stack([parameters for parameters, _, _ in fits])
        self.scale_ = np.stack([scale for _, scale, _ in fits])
        self.converged_ = all(converged for _, _, converged in fits)
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
        mean = self.mean(weights)
        process_mean, process_sd = self.process_.predict(weights)
        return mean, np.hypot(process_sd, mean - process_mean)

    def mean(self, weights: FloatArray) -> FloatArray:
        """Compute the law alone: (n_rows, n_targets)."""
        require_fitted(self, "parameters_")
        shares = check_mixtures(weights, n_domains=self.parameters_.shape[1] - 4)
        values = [law(parameters, shares)[0] for parameters in self.parameters_]
        return np.asarray(self.scale_[:, 0] + self.scale_[:, 1] * np.stack(values, axis=1))

    def slopes(self, weights: FloatArray) -> FloatArray:
        """Compute the (n_rows, n_targets, n_domains) derivatives of the mean along each weight."""
        require_fitted(self, "parameters_")
        shares = check_mixtures(weights, n_domains=self.parameters_.shape[1] - 4)
        return np.stack(
            [
                spread * law_slopes(parameters, shares)
                for parameters, (_, spread) in zip(self.parameters_, self.scale_, strict=True)
            ],
            axis=1,
        )

    def to_json(self) -> dict[str, Json]:
        """Return settings and all that was learnt, as plain JSON."""
        require_fitted(self, "parameters_")
        return {
            "n_distilled": self.n_distilled,
            "process": self.process_.to_json(),
            "parameters": self.parameters_.tolist(),
            "scale": self.scale_.tolist(),
            "converged": self.converged_,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> Self:
        """Make a fitted model from `to_json`'s answer."""
        process = SharedGaussianProcess.from_json(cast(dict[str, Json], data["process"]))
        model = cls(own=process.own, n_distilled=cast(int, data["n_distilled"]))
        model.process_ = process
        model.outliers_ = process.outliers_
        model.parameters_ = np.asarray(data["parameters"], dtype=np.float64)
        model.scale_ = np.asarray(data["scale"], dtype=np.float64)
        model.converged_ = bool(data["converged"])
        return model

    def _fit_target(
        self, target: int, shares: FloatArray, mean: FloatArray, sd: FloatArray
    ) -> tuple[FloatArray, FloatArray, bool]:
        """Return parameters, scale, and whether the fit converged."""
        process = self.process_
        prior = distilled_prior(process.own_[target])
        whole = np.array([run for run in range(len(process.weights_))], dtype=np.int64)
        broken = [run for run, column in process.outliers_ if column == target]
        kept = np.setdiff1d(whole, broken)
        measured = process.losses_[kept, target]
        lowest, spread = float(measured.min()), float(np.ptp(measured))
        scale = np.array([lowest, spread])
        if spread <= 1e-12 * max(abs(lowest), 1e-300):
            return prior.mean, np.array([lowest, 0.0]), True
        rows = np.concatenate([kept, np.arange(len(whole), len(shares))])
        aims = (np.concatenate([measured, mean]) - lowest) / spread
        # Twice the process's own doubt: its errors go together, and the law is to keep its shape.
        doubt = 2.0 * np.hypot(sd / spread, NOISE)
        root = 1.0 / np.concatenate([np.full(len(kept), NOISE), doubt])
        solution, converged = _solve(shares[rows], aims, root, prior)
        return solution, scale, converged


def distilled_prior(own: FloatArray) -> LawPrior:
    """Give the prior of one target's law, for losses scaled to run from 0 to 1.

    Args:
        own: (n_domains,) True for the target's own domain.
    """
    counts_mean = np.where(own, 0.0, -3.0)
    counts_sd = np.where(own, 0.7, 1.5)
    return LawPrior(
        mean=np.concatenate([[-0.5, np.log(0.5), np.log(0.3), -5.0], counts_mean]),
        sd=np.concatenate([[1.0, 1.0, 0.7, 2.0], counts_sd]),
    )


def law_slopes(parameters: FloatArray, weights: FloatArray) -> FloatArray:
    """Compute the (n_rows, n_domains) derivatives of `effective_data.law` along the weights.

    Args:
        parameters: (4 + n_domains,) c, log k, log beta, log a0, log a_i.
        weights: (n_rows, n_domains) token shares; rows sum to 1.
    """
    # Along log a0 the law changes by (slope along effective data) times a0.
    offset = np.exp(np.clip(parameters[3], -20.0, 6.0))
    along_data = law(parameters, weights)[1][:, 3] / offset
    counts = np.exp(np.clip(parameters[4:], -20.0, 8.0))
    slopes: FloatArray = along_data[:, None] * counts
    return slopes


def _solve(
    weights: FloatArray, aims: FloatArray, root: FloatArray, prior: LawPrior
) -> tuple[FloatArray, bool]:
    """Minimise weighted misfit plus prior, in parameters scaled by the prior."""

    def residuals(scaled: FloatArray) -> FloatArray:
        misfit = law(prior.mean + prior.sd * scaled, weights)[0] - aims
        return np.concatenate([root * misfit, scaled])

    def jacobian(scaled: FloatArray) -> FloatArray:
        slopes = law(prior.mean + prior.sd * scaled, weights)[1]
        return np.vstack([root[:, None] * slopes * prior.sd, np.eye(len(scaled))])

    result = least_squares(
        residuals,
        np.zeros(len(prior.mean)),
        jac=jacobian,
        method="lm",
        ftol=_TOLERANCE,
        xtol=_TOLERANCE,
        max_nfev=_MAX_EVALUATIONS,
    )
    solution = prior.mean + prior.sd * np.asarray(result.x, dtype=np.float64)
    return solution, bool(result.success)


def _mixtures_about(weights: FloatArray, n: int, rng: np.random.Generator) -> FloatArray:
    """Draw mixtures about the mean of the measured ones, from near vertices to near the mean."""
    centre = normalise(weights.mean(axis=0) + 1e-4)
    strength = np.exp(rng.uniform(*np.log(_STRENGTHS), size=n))
    return sample_dirichlet(strength[:, None] * centre, n=n, rng=rng)
