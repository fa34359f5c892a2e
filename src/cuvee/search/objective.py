"""What a search makes small: predicted losses times weights, a pull, floors on single targets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from cuvee.arrays import FloatArray, IntArray
from cuvee.errors import ConfigError, DataError, InfeasibleError
from cuvee.simplex import check_weights
from cuvee.tables.optimum import Optimum
from cuvee.tables.predictor import MeanPredictions, NamedPredictions, objective_sd

NORMAL_90 = 1.6448536269514722
"""Half width of a 90% interval in standard deviations."""
MISSED = 1e-6
"""Loss by which a floor may be missed: far less than any measurement tells apart."""
_LEAST_SHARE = 1e-12
_PENALTY = 1e3
"""Objective for each unit of loss by which a floor is missed, where mixtures are simulated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What is asked of a mixture beside a low objective."""

    floors: Mapping[str, float] | None = None
    """Largest predicted loss of some targets, by name, in the unit of the fitted losses."""
    kl: float = 0.0
    """Strength of the pull towards the reference: added for each nat of KL(r || reference)."""
    reference: FloatArray | None = None
    """(n_domains,) mixture pulled towards; needed where ``kl`` is above 0."""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.kl) and self.kl >= 0.0):
            raise ConfigError(f"kl is {self.kl:g}; it must be at least 0.")


PLAIN = Terms()
"""Nothing beside a low objective."""


def no_worse(predictor: NamedPredictions, reference: FloatArray, *, by: float) -> dict[str, float]:
    """Demand that no target is worse than at a reference mixture by more than so much.

    Args:
        predictor: Fitted.
        reference: (n_domains,) mixture in the order of the predictor's domains.
        by: Loss that may be lost, in the unit of the fitted losses, at least 0.

    Returns:
        A floor for each target, for `Terms`.
    """
    mean, _ = predictor.predict(np.asarray(reference, dtype=np.float64)[None, :])
    return {name: float(value) + by for name, value in zip(predictor.targets, mean[0], strict=True)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """``sum_t w_t L_t(r) + kl KL(r || reference)`` of weights in the constraints' order."""

    predictor: NamedPredictions
    domains: tuple[str, ...]
    columns: IntArray
    """(n_domains,) place of each of the predictor's domains."""
    weights: FloatArray
    """(n_targets,) at least 0, sum to 1."""
    floors: FloatArray
    """(n_targets,) largest losses; infinite where there is no floor."""
    kl: float
    reference: FloatArray
    """(n_domains,) above 0."""

    @classmethod
    def match(
        cls,
        predictor: NamedPredictions,
        weights: FloatArray,
        domains: tuple[str, ...],
        terms: Terms,
    ) -> Self:
        """Match a predictor's domains and targets by name.

        Raises:
            ConfigError: A floor names an unknown target.
            DataError: The domains differ, the weights are no shares, or a pull has no reference.
        """
        check_weights(weights, n_domains=len(predictor.targets))
        if sorted(domains) != sorted(predictor.domains):
            raise DataError(
                f"the predictor knows domains {', '.join(predictor.domains)}; the constraints have "
                f"{', '.join(domains)}. Search over the domains the predictor was fitted on."
            )
        floors = np.full(len(predictor.targets), np.inf)
        for name, most in (terms.floors or {}).items():
            if name not in predictor.targets:
                raise ConfigError(
                    f"a floor names {name!r}, which is no target; targets are "
                    f"{', '.join(predictor.targets)}."
                )
            floors[predictor.targets.index(name)] = most
        if terms.kl > 0.0 and (terms.reference is None or len(terms.reference) != len(domains)):
            raise DataError(
                "a pull of the mixture (kl) needs a reference with a share for every domain, such "
                "as the natural mixture."
            )
        even = np.full(len(domains), 1.0 / len(domains))
        reference = even if terms.reference is None else terms.reference
        return cls(
            predictor=predictor,
            domains=domains,
            columns=np.array([domains.index(name) for name in predictor.domains], dtype=np.int64),
            weights=np.asarray(weights, dtype=np.float64),
            floors=floors,
            kl=terms.kl,
            reference=np.maximum(np.asarray(reference, dtype=np.float64), _LEAST_SHARE),
        )

    def predict(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Predict mean and standard deviation, both (n_rows, n_targets).

        Raises:
            DataError: A prediction is not finite.
        """
        mean, sd = self.predictor.predict(weights[:, self.columns])
        for row, column in np.argwhere(~(np.isfinite(mean) & np.isfinite(sd)))[:1]:
            raise DataError(
                f"the predictor returns {mean[row, column]} +- {sd[row, column]} for target "
                f"{self.predictor.targets[column]!r}; predictions must be finite. Fit it again, or "
                "fit another model."
            )
        return mean, sd

    def means(self, weights: FloatArray) -> FloatArray:
        """Predict the (n_rows, n_targets) means, without deviations where that is faster.

        Raises:
            DataError: A prediction is not finite.
        """
        if isinstance(self.predictor, MeanPredictions):
            mean = self.predictor.mean(weights[:, self.columns])
            if np.all(np.isfinite(mean)):
                return mean
        return self.predict(weights)[0]

    def divergence(self, weights: FloatArray) -> FloatArray:
        """Compute KL(r || reference) of (n_rows, n_domains) mixtures, in nats."""
        ratio = np.maximum(weights, _LEAST_SHARE) / self.reference
        divergence: FloatArray = np.sum(weights * np.log(ratio), axis=1)
        return divergence

    def values(self, weights: FloatArray, *, penalty: bool = False) -> FloatArray:
        """Compute the (n_rows,) objective, with a price on missed floors if asked for."""
        mean = self.means(weights)
        values: FloatArray = mean @ self.weights
        if self.kl > 0.0:
            values = values + self.kl * self.divergence(weights)
        if penalty:
            values = values + _PENALTY * np.maximum(mean - self.floors, 0.0).sum(axis=1)
        return values

    def refuse_missed(self, weights: FloatArray) -> None:
        """Refuse a simulation's (n_domains,) answer that misses a floor.

        Raises:
            InfeasibleError: It does; the message says how near the floor was come.
        """
        if np.all(np.isinf(self.floors)):
            return
        mean = self.predict(weights[None, :])[0][0]
        for column in np.flatnonzero(mean - self.floors > 1e3 * MISSED)[:1]:
            raise InfeasibleError(
                f"no mixture was found whose predicted loss of {self.predictor.targets[column]!r} "
                f"is at most {self.floors[column]:g}; the nearest has {mean[column]:.4f}. Raise "
                "this floor, or leave out another constraint."
            )

    def describe(self, weights: FloatArray, *, n_simulated: int, n_best: int) -> Optimum:
        """Predict an answer itself.

        Args:
            weights: (n_domains,) the answer.
            n_simulated: Mixtures drawn and predicted in all.
            n_best: Best mixtures averaged.

        Returns:
            The answer with predictions, without the pull; the objective's standard deviation is
            that of `tables.predictor.objective_sd`.
        """
        mean, sd = self.predict(weights[None, :])
        value = float(mean[0] @ self.weights)
        spread = float(objective_sd(self.predictor, sd, self.weights)[0])
        return Optimum(
            domains=self.domains,
            weights=tuple(weights.tolist()),
            targets=self.predictor.targets,
            objective_weights=tuple(self.weights.tolist()),
            predicted=value,
            predicted_sd=spread,
            interval=(value - NORMAL_90 * spread, value + NORMAL_90 * spread),
            target_means=tuple(mean[0].tolist()),
            target_sds=tuple(sd[0].tolist()),
            n_simulated=n_simulated,
            n_best=n_best,
        )
