"""The power law in effective data, taught by a Gaussian process where nothing was measured."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, cast

import numpy as np
from threadpoolctl import threadpool_limits

from cuvee.arrays import BoolArray, FloatArray
from cuvee.artifacts import Json
from cuvee.errors import ConfigError
from cuvee.fit.effective_data import LawPrior, law, law_slopes
from cuvee.fit.shared_process import SharedGaussianProcess
from cuvee.fit.training_rows import check_mixtures, require_fitted
from cuvee.simplex import normalise, sample_dirichlet

logger = logging.getLogger(__name__)

NOISE = 0.03
"""Expected misfit of a measured run, in units of the losses' range."""
DOUBT = 1.5
"""A lesson's standard deviation over the process's own: the process's errors go together."""
MAX_STEPS = 200
"""Steps of the fit before it counts as not converged."""
_LOG_STRENGTHS = (math.log(0.5), math.log(16.0))
"""Concentrations of the mixtures the process is asked about."""
_LARGEST_STEP = 1.5
_LOOK_BACK = 10
_TOLERANCE = 1e-3
"""The fit has settled when the last ten steps together gained no more than this share."""
_ROWS = 4096


class DistilledLaw:
    """Predict each target as ``c + k (a0 + sum_i a_i r_i)^(-beta)``, all but c positive.

    A `SharedGaussianProcess` is fitted to the runs; the law is then fitted to the runs and to what
    the process says of mixtures nobody measured, each weighed by how sure it is. So the law keeps
    its shape, which carries over to other scales, and does not run away where there are few runs.
    Its mean is convex in the weights. The variance is the process's for a new run, plus the square
    of the difference between the two.

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
        self, *, own: tuple[int | None, ...] | None = None, n_distilled: int = 400
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
        process = SharedGaussianProcess(own=self.own).fit(weights, losses, rng=rng)
        return self.fit_process(process, rng=rng)

    def fit_process(self, process: SharedGaussianProcess, *, rng: np.random.Generator) -> Self:
        """Learn from a fitted process and its runs.

        Args:
            process: Fitted; kept, not copied.
            rng: Draws the mixtures it is asked about.

        Returns:
            The same object, fitted.
        """
        self.process_ = process
        self.outliers_ = process.outliers_
        asked = _mixtures_about(process.weights_, self.n_distilled, rng)
        lessons = _lessons(process, asked)
        with threadpool_limits(limits=1):
            self.parameters_, converged = _fit_laws(lessons, distilled_prior(process.own_))
        self.scale_ = lessons.scale
        self.converged_ = bool(converged.all())
        for target in np.flatnonzero(~converged):
            logger.warning("target %d: the distilled law's fit stopped early", target)
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
        told, sd = self.process_.predict(weights)
        return mean, np.hypot(sd, mean - told)

    def mean(self, weights: FloatArray) -> FloatArray:
        """Compute the law alone.

        Args:
            weights: (n_rows, n_domains) token shares; rows sum to 1.

        Returns:
            (n_rows, n_targets) losses.

        Raises:
            NotFittedError: `fit` was not called.
            DataError: The weights are not mixtures of the fitted domains.
        """
        require_fitted(self, "parameters_")
        shares = check_mixtures(weights, n_domains=self.parameters_.shape[1] - 4)
        values = np.empty((len(self.parameters_), len(shares)))
        for start in range(0, len(shares), _ROWS):
            rows = slice(start, start + _ROWS)
            values[:, rows] = law(self.parameters_, shares[rows])[0]
        return np.asarray((self.scale_[:, :1] + self.scale_[:, 1:] * values).T)

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
        shares = check_mixtures(weights, n_domains=self.parameters_.shape[1] - 4)
        scaled = self.scale_[:, 1, None, None] * law_slopes(self.parameters_, shares)
        return np.ascontiguousarray(scaled.transpose(1, 0, 2))

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


def distilled_prior(own: BoolArray) -> LawPrior:
    """Give the prior of the laws, for losses scaled to run from 0 to 1.

    Args:
        own: (n_targets, n_domains) True for a target's own domain.

    Returns:
        Centres and widths, each (n_targets, 4 + n_domains).
    """
    n_targets = len(own)
    shape = np.tile([[-0.5, np.log(0.5), np.log(0.3), -5.0]], (n_targets, 1))
    widths = np.tile([[1.0, 1.0, 0.7, 2.0]], (n_targets, 1))
    return LawPrior(
        mean=np.hstack([shape, np.where(own, 0.0, -3.0)]),
        sd=np.hstack([widths, np.where(own, 0.7, 1.5)]),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Lessons:
    """What the laws are fitted to: the runs, then what the process says."""

    shares: FloatArray
    """(n_rows, n_domains) mixtures."""
    aims: FloatArray
    """(n_targets, n_rows) losses, scaled."""
    precision: FloatArray
    """(n_targets, n_rows) inverse variances; 0 for what does not count."""
    scale: FloatArray
    """(n_targets, 2) least loss and range; range 0 if all losses are equal."""


def _lessons(process: SharedGaussianProcess, asked: FloatArray) -> _Lessons:
    mean, sd = process.predict(asked)
    losses = process.losses_.T
    kept = np.ones(losses.shape, dtype=np.bool_)
    for run, target in process.outliers_:
        kept[target, run] = False
    lowest = np.where(kept, losses, np.inf).min(axis=1)
    spread = np.where(kept, losses, -np.inf).max(axis=1) - lowest
    constant = spread <= 1e-12 * np.maximum(np.abs(lowest), 1e-300)
    divisor = np.where(constant, 1.0, spread)[:, None]
    told = 1.0 / (DOUBT**2 * ((sd.T / divisor) ** 2 + NOISE**2))
    precision = np.hstack([kept / NOISE**2, told])
    precision[constant] = 0.0
    return _Lessons(
        shares=np.vstack([process.weights_, asked]),
        aims=(np.hstack([losses, mean.T]) - lowest[:, None]) / divisor,
        precision=precision,
        scale=np.column_stack([lowest, np.where(constant, 0.0, spread)]),
    )


def _fit_laws(lessons: _Lessons, prior: LawPrior) -> tuple[FloatArray, BoolArray]:
    """Minimise weighted misfit plus prior by Levenberg and Marquardt, all targets at once.

    Parameters are scaled by the prior: its part of the normal equations is the unit matrix.

    Returns:
        (n_targets, 4 + n_domains) parameters; (n_targets,) whether they have settled.
    """
    n_targets, n_parameters = prior.mean.shape
    parameters, damping = prior.mean.copy(), np.full(n_targets, 1e-2)
    diagonal = np.arange(n_parameters)
    cost, normal, gradient = _normal_equations(parameters, lessons, prior)
    costs, settled = [cost], np.zeros(n_targets, dtype=np.bool_)
    while len(costs) <= MAX_STEPS and not settled.all():
        damped = normal.copy()
        damped[:, diagonal, diagonal] *= 1.0 + damping[:, None]
        step = np.linalg.solve(damped, gradient[:, :, None])[:, :, 0]
        trial = parameters - np.clip(prior.sd * step, -_LARGEST_STEP, _LARGEST_STEP)
        found = _normal_equations(trial, lessons, prior)
        better = found[0] < cost
        damping = np.where(better, 0.3 * damping, np.minimum(4.0 * damping, 1e9))
        parameters = np.where(better[:, None], trial, parameters)
        cost = np.where(better, found[0], cost)
        normal = np.where(better[:, None, None], found[1], normal)
        gradient = np.where(better[:, None], found[2], gradient)
        costs.append(cost)
        settled = costs[-1 - min(_LOOK_BACK, len(costs) - 1)] - cost <= _TOLERANCE * cost
    return parameters, settled


def _normal_equations(
    parameters: FloatArray, lessons: _Lessons, prior: LawPrior
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return cost, normal matrix and half the gradient, by target, in scaled parameters."""
    values, jacobian = law(parameters, lessons.shares)
    jacobian *= prior.sd[:, None, :]
    misfit, offset = values - lessons.aims, (parameters - prior.mean) / prior.sd
    weighted = lessons.precision * misfit
    cost = (weighted * misfit).sum(axis=1) + (offset**2).sum(axis=1)
    scaled = (lessons.precision[:, :, None] * jacobian).transpose(0, 2, 1)
    normal = scaled @ jacobian + np.eye(parameters.shape[1])
    gradient = (weighted[:, None, :] @ jacobian)[:, 0] + offset
    return cost, normal, gradient


def _mixtures_about(weights: FloatArray, n: int, rng: np.random.Generator) -> FloatArray:
    """Draw mixtures about the mean of the measured ones, from near vertices to near the mean."""
    centre = normalise(weights.mean(axis=0) + 1e-4)
    strength = np.exp(rng.uniform(*_LOG_STRENGTHS, size=n))
    return sample_dirichlet(strength[:, None] * centre, n=n, rng=rng)
