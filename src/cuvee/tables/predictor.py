"""What a predictor of losses can do: the seam between fitting and searching."""

from collections.abc import Mapping
from typing import Protocol, Self, runtime_checkable

import numpy as np

from cuvee.arrays import FloatArray
from cuvee.artifacts import Json


class Predictor(Protocol):
    """A model of losses as a function of mixture weights, one function a target.

    Settings go to the constructor by keyword; what is learnt stands in attributes ending in
    ``_``. Domains and targets are columns here; `NamedPredictions` knows their names.
    """

    converged_: bool
    """False where the fit stopped before it was done; a warning has then been given."""

    def fit(self, weights: FloatArray, losses: FloatArray, *, rng: np.random.Generator) -> Self:
        """Learn from measured runs.

        Args:
            weights: (n_runs, n_domains) token shares; rows sum to 1.
            losses: (n_runs, n_targets) finite.
            rng: Source of folds, starts and samples.

        Returns:
            The same object, fitted.
        """
        ...

    def predict(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Predict the losses of mixtures.

        Args:
            weights: (n_rows, n_domains) token shares; rows sum to 1.

        Returns:
            Mean and standard deviation, both (n_rows, n_targets), in the unit of the fitted losses.
        """
        ...

    def to_json(self) -> dict[str, Json]:
        """Return the settings and all that was learnt, as plain JSON."""
        ...

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> Self:
        """Make a fitted model from the answer of `to_json`."""
        ...


class NamedPredictions(Protocol):
    """A fitted model with the names of its columns: all that a search needs."""

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the columns of ``weights``."""
        ...

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the columns of the predictions."""
        ...

    def predict(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Predict the losses of mixtures, as `Predictor.predict` does."""
        ...


@runtime_checkable
class PairedPredictions(NamedPredictions, Protocol):
    """Predictions that know how their errors at two mixtures go together."""

    def change(self, weights: FloatArray, base: FloatArray) -> tuple[FloatArray, FloatArray | None]:
        """Predict how the expected losses change from one mixture to others.

        Args:
            weights: (n_rows, n_domains) token shares; rows sum to 1.
            base: (n_domains,) token shares of the mixture compared with.

        Returns:
            Mean and standard deviation of the change, both (n_rows, n_targets); None instead of the
            latter where it is not known.
        """
        ...


@runtime_checkable
class MeanPredictions(NamedPredictions, Protocol):
    """Predictions whose means are known without their deviations."""

    def mean(self, weights: FloatArray) -> FloatArray:
        """Predict the (n_rows, n_targets) losses of mixtures."""
        ...


class SmoothPredictions(NamedPredictions, Protocol):
    """Predictions whose means are convex in the weights, with their derivatives."""

    def slopes(self, weights: FloatArray) -> FloatArray:
        """Compute the derivatives of the means along the weights.

        Args:
            weights: (n_rows, n_domains) token shares; rows sum to 1.

        Returns:
            (n_rows, n_targets, n_domains) derivatives, in the losses' unit.
        """
        ...


def objective_sd(
    predictor: NamedPredictions, sd: FloatArray, objective_weights: FloatArray
) -> FloatArray:
    """Compute the standard deviation of a weighted sum of targets.

    Args:
        predictor: Its ``error_correlation``, (n_targets, n_targets), says how errors of the targets
            move together; where it has none they are taken to be all alike, the largest it can be.
        sd: (n_rows, n_targets) standard deviations it predicted.
        objective_weights: (n_targets,) at least 0.

    Returns:
        (n_rows,) standard deviations.
    """
    parts = sd * objective_weights
    correlation: FloatArray | None = getattr(predictor, "error_correlation", None)
    if correlation is None:
        together: FloatArray = parts.sum(axis=1)
        return together
    variance: FloatArray = np.einsum("nt,tu,nu->n", parts, correlation, parts)
    return np.sqrt(np.maximum(variance, 0.0))
