"""Targets that are mixtures of validation domains, their composition known or learnt."""

from collections.abc import Mapping
from typing import Self, cast, overload

import numpy as np
from scipy.special import softmax
from scipy.stats import chi2

from cuvee.arrays import FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.errors import ConfigError, DataError
from cuvee.fit.convex_laws import ConvexLaw, ExponentialMixingLaw
from cuvee.fit.effective_data import LawPrior
from cuvee.fit.law_fit import FittedLaw, fit_law, solve_law
from cuvee.simplex import TOLERANCE
from cuvee.tables.predictor import NamedPredictions, SmoothPredictions

MAX_COMPONENTS = 3
"""Latent domains of a target at most, unless the caller says otherwise."""
_N_FOLDS = 5
_GAIN = 0.1
"""Share of the leave-out error that another latent domain must save."""
_STEPS = (-4.0, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 4.0)
"""How far the halves of a component are moved apart to start with; the priors of halves differ."""
_N_DIRECTIONS = 2
_N_STARTS = 2
_LIMIT = 0.9
"""Confidence of the upper limit of a composed target's variance."""


class CompositionLaw(ConvexLaw):
    """Predict each target as a sum over latent domains, ``sum_k s_k (c_k + exp(t_k . r))``.

    s lies on the simplex and is learnt. On the simplex of r the paper's b_k is a constant added to
    all of t_k; of the floors only ``c = sum_k s_k c_k`` matters. Parameters of a target: c, the
    logarithms of s up to a constant, t_1 to t_K. For one target the data tell c and each
    ``s_k exp(t_k . r)``, not s_k alone: that is the prior's word. With one component this is
    `ExponentialMixingLaw`. The mean is convex in the weights.

    The number of components grows while leaving folds of mixtures out says that it pays. Another
    component starts as half of one that is there, moved apart along the direction in which the
    misfits curve most; there are no random starts.

    Args:
        max_components: At least 1.

    Source: Data Mixing Laws (arXiv:2403.16952), implicit domain aggregation. Deviation: least
    squares with a prior, where the paper trains a small network and boosts it.
    """

    def __init__(self, *, max_components: int = MAX_COMPONENTS) -> None:
        if max_components < 1:
            raise ConfigError(f"max_components is {max_components}; it must be at least 1.")
        self.max_components = max_components

    @property
    def compositions_(self) -> tuple[FloatArray, ...]:
        """Each target's (n_components,) shares of latent domains, the prior leaning to equal."""
        return tuple(_unpack(one, self.n_domains_)[0] for one in self.parameters_)

    @staticmethod
    def prior(n_domains: int, n_components: int = 1) -> LawPrior:
        """Give the prior; of one component `ExponentialMixingLaw`'s.

        Of several, the first has mild effects and the others steep ones, shares are about equal.
        Chosen on runs of RegMix's 512 that were not fitted; its test runs were not looked at.
        """
        one = ExponentialMixingLaw.prior(n_domains)
        if n_components == 1:
            return LawPrior(mean=np.insert(one.mean, 1, 0.0), sd=np.insert(one.sd, 1, 1.0))
        n_steep = n_domains * (n_components - 1)
        return LawPrior(
            mean=np.concatenate(
                [one.mean[:1], np.zeros(n_components), np.full(n_domains * n_components, -2.0)]
            ),
            sd=np.concatenate(
                [one.sd[:1], np.ones(n_components), np.full(n_domains, 2.0), np.full(n_steep, 4.0)]
            ),
        )

    @staticmethod
    def law(parameters: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Compute ``c + sum_k s_k exp(t_k . r)`` and its derivatives along c, log s and t."""
        shares, terms, _ = _terms(parameters, weights)
        value = terms.sum(axis=1)
        along_logits = terms - value[:, None] * shares
        along_effects = terms[:, :, None] * weights[:, None, :]
        return parameters[0] + value, np.column_stack(
            [np.ones(len(value)), along_logits, along_effects.reshape(len(value), -1)]
        )

    @staticmethod
    def along_weights(parameters: FloatArray, weights: FloatArray) -> FloatArray:
        """Compute ``sum_k s_k t_k exp(t_k . r)``."""
        _, terms, effects = _terms(parameters, weights)
        slopes: FloatArray = terms @ effects
        return slopes

    def fit_target(self, weights: FloatArray, losses: FloatArray) -> FittedLaw:
        """Fit one target, with as many components as leaving folds out supports.

        Args:
            weights: (n_runs, n_domains) token shares; rows sum to 1.
            losses: (n_runs,) finite.
        """
        n_domains = weights.shape[1]
        best = fit_law(self.law, self.prior(n_domains), weights, losses)
        folds = _folds(weights)
        if n_domains == 1 or best.scale[1] == 0.0 or len(np.unique(folds)) < _N_FOLDS:
            return best
        scaled = (losses - best.scale[0]) / best.scale[1]
        trust = best.trust
        error = self._leave_out_error(best, weights, scaled, folds, trust)
        for n_components in range(2, self.max_components + 1):
            prior = self.prior(n_domains, n_components)
            start = self._split_start(best, prior, weights, scaled)
            other = fit_law(self.law, prior, weights, losses, start=start)
            other_error = self._leave_out_error(other, weights, scaled, folds, trust)
            if other_error > (1.0 - _GAIN) * error:
                break
            best, error = other, other_error
        return best

    def to_json(self) -> dict[str, Json]:
        """Return settings and all that was learnt, as plain JSON."""
        return super().to_json() | {"max_components": self.max_components}

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> Self:
        """Make a fitted model from `to_json`'s answer."""
        model = super().from_json(data)
        model.max_components = cast(int, data["max_components"])
        return model

    def _leave_out_error(
        self,
        fitted: FittedLaw,
        weights: FloatArray,
        scaled: FloatArray,
        folds: IntArray,
        trust: FloatArray,
    ) -> float:
        """Return the mean squared error of runs left out, weighed by trust in the runs."""
        prior = self.prior(weights.shape[1], _n_components(fitted.parameters, weights.shape[1]))
        errors = np.empty_like(scaled)
        for fold in np.unique(folds):
            out = folds == fold
            precision = np.where(out, 0.0, fitted.trust) / fitted.noise**2
            found = solve_law(
                self.law, prior, fitted.parameters, weights, scaled, precision=precision
            )
            errors[out] = scaled[out] - self.law(found.parameters, weights[out])[0]
        return float(trust @ errors**2 / trust.sum())

    def _split_start(
        self, fitted: FittedLaw, prior: LawPrior, weights: FloatArray, scaled: FloatArray
    ) -> FloatArray:
        """Split each component in turn; solve from the best splits and return the best solution."""
        precision = fitted.trust / fitted.noise**2

        def cost(parameters: FloatArray) -> float:
            misfit = self.law(parameters, weights)[0] - scaled
            offset = (parameters - prior.mean) / prior.sd
            return float(precision @ misfit**2 + offset @ offset)

        shares, terms, _ = _terms(fitted.parameters, weights)
        misfit = precision * (scaled - self.law(fitted.parameters, weights)[0])
        starts = []
        for component in range(len(shares)):
            # Moved apart by d, halves add half of term (d . r)^2: what the misfits curve along.
            curving = (weights.T * (misfit * terms[:, component])) @ weights
            for direction in np.linalg.eigh(curving)[1].T[-_N_DIRECTIONS:]:
                splits = [
                    _split(fitted.parameters, weights.shape[1], component, step * direction)
                    for step in _STEPS
                ]
                starts.append(min(splits, key=cost))
        solutions = [
            solve_law(self.law, prior, start, weights, scaled, precision=precision)
            for start in sorted(starts, key=cost)[:_N_STARTS]
        ]
        return min(solutions, key=lambda one: one.cost).parameters


class ComposedPredictions:
    """Predictions of targets that are known mixtures of a predictor's targets.

    ``L(r) = sum_i s_i L_i(r)``: every component is predicted by its own law. The errors of the
    components go together to an unknown extent; ``sd(L) <= sum_i s_i sd_i`` whatever it is, and
    that bound is the answer unless held-out errors say better.

    Args:
        predictor: Fitted, of the components.
        targets: Names of the composed targets.
        compositions: (len(targets), n_components) shares of the components; rows sum to 1.
        errors: (n_runs, n_components) held-out errors in standard deviations, or None.

    Source: Data Mixing Laws (arXiv:2403.16952), explicit domain aggregation.
    """

    def __init__(
        self,
        predictor: NamedPredictions,
        *,
        targets: tuple[str, ...],
        compositions: FloatArray,
        errors: FloatArray | None = None,
    ) -> None:
        self._predictor = predictor
        self._targets = targets
        self._compositions = compositions
        self._errors = errors

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the columns of ``weights``."""
        return self._predictor.domains

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the composed targets."""
        return self._targets

    def predict(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Predict the losses of mixtures.

        With held-out errors e in standard deviations, the variance is the upper 90% limit
        ``(n / chi2_{n, .1}) mean_n (sum_i s_i sd_i e_ni)^2``, at most the bound's, in which
        components that err by more than their standard deviations are widened.

        Args:
            weights: (n_rows, n_domains) token shares; rows sum to 1.

        Returns:
            Mean and standard deviation of a new run, both (n_rows, len(targets)).
        """
        mean, sd = self._predictor.predict(weights)
        composed = mean @ self._compositions.T
        if self._errors is None:
            return composed, sd @ self._compositions.T
        n_runs = len(self._errors)
        moments = self._errors.T @ self._errors / n_runs
        parts = sd[:, None, :] * self._compositions
        limit = np.einsum("rti,ij,rtj->rt", parts, moments, parts, optimize=True)
        limit *= n_runs / chi2.ppf(1.0 - _LIMIT, n_runs)
        bound = parts @ np.maximum(np.sqrt(np.diag(moments)), 1.0)
        return composed, np.minimum(np.sqrt(np.maximum(limit, 0.0)), bound)


class ComposedSmoothPredictions(ComposedPredictions):
    """`ComposedPredictions` of components whose means are convex, so that theirs are too."""

    _predictor: SmoothPredictions

    def slopes(self, weights: FloatArray) -> FloatArray:
        """Compute the derivatives of the means along the weights.

        Args:
            weights: (n_rows, n_domains) token shares; rows sum to 1.

        Returns:
            (n_rows, len(targets), n_domains) derivatives, in the losses' unit.
        """
        slopes: FloatArray = self._compositions @ self._predictor.slopes(weights)
        return slopes


@overload
def compose(
    predictor: SmoothPredictions,
    compositions: Mapping[str, Mapping[str, float]],
    *,
    errors: FloatArray | None = None,
) -> ComposedSmoothPredictions: ...


@overload
def compose(
    predictor: NamedPredictions,
    compositions: Mapping[str, Mapping[str, float]],
    *,
    errors: FloatArray | None = None,
) -> ComposedPredictions: ...


def compose(
    predictor: NamedPredictions,
    compositions: Mapping[str, Mapping[str, float]],
    *,
    errors: FloatArray | None = None,
) -> ComposedPredictions:
    """Predict mixtures of validation domains from laws of the domains themselves.

    Args:
        predictor: Any fitted predictor with named columns.
        compositions: By name of a composed target, the shares of the measured targets in it: at
            least 0, summing to 1 (tolerance of `cuvee.simplex`); those not named have none.
        errors: (n_runs, n_targets) held-out errors of the predictor's targets divided by their
            predicted standard deviations, as (measured - mean) / sd of a `CrossValidation`; None:
            the components' errors are taken to move together.

    Returns:
        The composed predictions; with slopes where the predictor has them.

    Raises:
        ConfigError: There is no composition, it names a target that was not measured, or its shares
            are not what they must be.
        DataError: The errors have another shape or are not finite.
    """
    if not compositions:
        raise ConfigError("compositions is empty; give at least one target its shares.")
    rows = [_shares(name, one, predictor.targets) for name, one in compositions.items()]
    if errors is not None:
        _check_errors(errors, n_targets=len(predictor.targets))
    kind = ComposedSmoothPredictions if hasattr(predictor, "slopes") else ComposedPredictions
    return kind(predictor, targets=tuple(compositions), compositions=np.stack(rows), errors=errors)


def _shares(name: str, composition: Mapping[str, float], targets: tuple[str, ...]) -> FloatArray:
    """Return the (n_targets,) shares of a composition."""
    unknown = [target for target in composition if target not in targets]
    if unknown:
        raise ConfigError(
            f"composition {name!r} names {unknown[0]!r}, which was not measured; the targets are "
            f"{', '.join(targets)}."
        )
    shares = np.array([composition.get(target, 0.0) for target in targets], dtype=np.float64)
    if not (np.all(shares >= 0.0) and abs(shares.sum() - 1.0) <= TOLERANCE):
        raise ConfigError(
            f"composition {name!r} has shares {list(composition.values())}; they must be at least "
            f"0 and sum to 1 (tolerance {TOLERANCE:g}). Rescale them."
        )
    return shares


def _check_errors(errors: FloatArray, *, n_targets: int) -> None:
    if errors.ndim != 2 or len(errors) == 0 or errors.shape[1] != n_targets:
        raise DataError(
            f"errors have shape {errors.shape}; expected (n_runs, {n_targets}) with at least 1 run."
        )
    for row, column in np.argwhere(~np.isfinite(errors))[:1]:
        raise DataError(
            f"errors row {row} column {column} is {errors[row, column]}; errors must be finite. "
            "Leave targets without a standard deviation out."
        )


def _n_components(parameters: FloatArray, n_domains: int) -> int:
    return (len(parameters) - 1) // (n_domains + 1)


def _unpack(parameters: FloatArray, n_domains: int) -> tuple[FloatArray, FloatArray]:
    """Return (n_components,) shares and (n_components, n_domains) effects."""
    n_components = _n_components(parameters, n_domains)
    shares = np.asarray(softmax(parameters[1 : 1 + n_components]), dtype=np.float64)
    return shares, parameters[1 + n_components :].reshape(n_components, n_domains)


def _terms(
    parameters: FloatArray, weights: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return shares, (n_rows, n_components) ``s_k exp(t_k . r)`` and effects t."""
    shares, effects = _unpack(parameters, weights.shape[1])
    return shares, shares * np.exp(np.clip(weights @ effects.T, -30.0, 30.0)), effects


def _split(parameters: FloatArray, n_domains: int, component: int, apart: FloatArray) -> FloatArray:
    """Put two halves of a component, moved apart, in its place."""
    n_components = _n_components(parameters, n_domains)
    logits = parameters[1 : 1 + n_components].copy()
    effects = parameters[1 + n_components :].reshape(n_components, n_domains).copy()
    logits[component] -= np.log(2.0)
    half = effects[component] - apart
    effects[component] += apart
    logits = np.append(logits, logits[component])
    return np.concatenate([parameters[:1], logits - logits.mean(), effects.ravel(), half])


def _folds(weights: FloatArray) -> IntArray:
    """Deal mixtures out to folds in the order of the runs, equal mixtures to one fold."""
    _, first, mixture = np.unique(weights.round(9), axis=0, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    return np.asarray(order[mixture.reshape(-1)] % _N_FOLDS, dtype=np.int64)
