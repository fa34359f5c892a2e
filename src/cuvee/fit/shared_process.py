"""Gaussian processes that share what they learn about the domains: the best with few runs."""

import logging
from collections.abc import Callable, Mapping
from typing import Self, cast

import numpy as np
from threadpoolctl import threadpool_limits

from cuvee.arrays import BoolArray, FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.errors import ConfigError
from cuvee.fit.own_domains import detect_own_domains
from cuvee.fit.shared_kernel import Covariances, invert
from cuvee.fit.shared_prior import Layout, log_posterior_slopes
from cuvee.fit.training_rows import check_mixtures, check_training_rows, require_fitted

logger = logging.getLogger(__name__)

STEPS = 150
"""Steps of Adam from the prior's centre to the maximum of the posterior."""
STEPS_FROM_MAXIMUM = 40
"""Steps of a further member that starts at the first one's maximum."""
_FEW_RUNS = 32
"""Up to so many runs every member starts at its own prior's centre."""
_MEMBER_RUNS = 256
"""Members times runs at most: with many runs the posterior is narrow, and members are dear."""
_LEARNING_RATE = 0.08
_DISTRUST = 1e6
_FEWEST_TO_SCREEN = 7
_BROKEN = 2.0
"""A run is left out when missed by more than so many ranges of the others' middle four fifths."""
_BROKEN_FEW = 8.0
"""That factor grows by ``8 / n_runs``: on RegMix's runs at most 1 sound run in 1000 is left out."""
_CHUNK_ENTRIES = 1 << 15
"""Covariances worked on at a time: what they need stays in the processor's cache."""
_CHANGES = 256
"""Rows whose changes are computed together: their covariance is held, so memory is its square."""


class SharedGaussianProcess:
    """Predict all targets by Gaussian processes whose hyper-parameters are pooled.

    The kernel (`fit.shared_kernel.Covariances`) adds a Matern part and a linear part on the
    logarithm of shares to a part linear in shares. How long, steep and noisy it is for one target
    and one domain is a sum of what is common to all, to the domain and to the pair, all with normal
    priors (`fit.shared_prior.Layout`), so that sixteen runs say something about every pair. The
    hyper-parameters are the maximum of the posterior, found by Adam; several such fits, whose
    priors are shifted by draws from the prior and their opposites, are averaged, and their
    disagreement is added to the variance. The standard deviation is that of a new run.

    A measurement that the others miss by far is left out of its target and logged.

    Args:
        own: (n_targets,) column of each target's own domain, None where it has none. None for all:
            own domains are detected where there are 12 runs or more.
        n_members: Fits that are averaged; from 33 runs on fewer, so that members times runs stay
            within 256.
        max_learning_runs: Hyper-parameters are learnt on at most so many runs, chosen by chance;
            the processes are then conditioned on all.

    Attributes:
        hyper_: (n_members, n_hyper) as `fit.shared_prior.Layout` lays them out.
        weights_: (n_runs, n_domains) the runs' mixtures.
        losses_: (n_runs, n_targets) their losses.
        own_: (n_targets, n_domains) True for own domains, given or detected.
        outliers_: (run, target) pairs left out.
        converged_: Always True: the number of steps is fixed.
    """

    def __init__(
        self,
        *,
        own: tuple[int | None, ...] | None = None,
        n_members: int = 8,
        max_learning_runs: int = 128,
    ) -> None:
        if n_members < 1 or max_learning_runs < 2:
            raise ConfigError(
                f"n_members is {n_members} and max_learning_runs {max_learning_runs}; they must be "
                "at least 1 and 2."
            )
        self.own = own
        self.n_members = n_members
        self.max_learning_runs = max_learning_runs

    def fit(self, weights: FloatArray, losses: FloatArray, *, rng: np.random.Generator) -> Self:
        """Learn from measured runs.

        Args:
            weights: (n_runs, n_domains) token shares; rows sum to 1.
            losses: (n_runs, n_targets) finite.
            rng: Shifts the members' priors; chooses the runs to learn on where there are many.

        Returns:
            The same object, fitted.

        Raises:
            DataError: The runs are not what they must be.
            ConfigError: ``own`` does not fit the runs.
        """
        self.weights_, self.losses_ = check_training_rows(weights, losses, own=self.own)
        self.own_ = self._own_domains()
        self._broken: BoolArray = np.zeros(self.losses_.T.shape, dtype=np.bool_)
        layout = Layout.of(self.own_)
        chosen = _choose(len(self.weights_), self.max_learning_runs, rng)
        self.converged_ = True
        with threadpool_limits(limits=1):
            self._screen(layout.mean)
            self.hyper_ = self._learn(layout, chosen, rng)
            self._condition()
        self.outliers_ = tuple((int(run), int(target)) for target, run in np.argwhere(self._broken))
        for run, target in self.outliers_:
            logger.warning(
                "target %d: run %d is far from what all other runs say and is left out", target, run
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
        require_fitted(self, "hyper_")
        shares = check_mixtures(weights, n_domains=self.weights_.shape[1])
        mean = np.empty((len(shares), self.losses_.shape[1]))
        sd = np.empty_like(mean)
        with threadpool_limits(limits=1):
            size = max(16, _CHUNK_ENTRIES // self.losses_.size)
            for start in range(0, len(shares), size):
                rows = slice(start, start + size)
                means, variances = zip(
                    *(member.predict(shares[rows]) for member in self._members), strict=True
                )
                centre = np.mean(means, axis=0)
                spread = np.sqrt(np.mean(variances, axis=0) + np.var(means, axis=0))
                mean[rows] = (self._mean[:, None] + self._spread[:, None] * centre).T
                sd[rows] = (self._spread[:, None] * spread).T
        return mean, sd

    def change(self, weights: FloatArray, base: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Predict how the expected losses change from one mixture to others.

        Neighbouring mixtures err alike, so a change is surer than the difference of two
        predictions taken singly: ``Var = k(a, a) + k(b, b) - 2 k(a, b) - d' K^-1 d`` with
        ``d = k(a, R) - k(b, R)`` over the runs R; a run's own noise is left out.

        Args:
            weights: (n_rows, n_domains) token shares; rows sum to 1.
            base: (n_domains,) token shares of the mixture compared with.

        Returns:
            Mean and standard deviation of the change, both (n_rows, n_targets).

        Raises:
            NotFittedError: `fit` was not called.
            DataError: The weights are not mixtures of the fitted domains.
        """
        require_fitted(self, "hyper_")
        shares = check_mixtures(weights, n_domains=self.weights_.shape[1])
        start = check_mixtures(base[None], n_domains=self.weights_.shape[1])
        parts = [
            self._change(shares[first : first + _CHANGES], start)
            for first in range(0, len(shares), _CHANGES)
        ]
        mean, sd = (np.concatenate(part) for part in zip(*parts, strict=True))
        return mean, sd

    def _change(self, shares: FloatArray, start: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Do so for few enough rows that a covariance among them fits."""
        with threadpool_limits(limits=1):
            means, variances = zip(
                *(member.change(shares, start) for member in self._members), strict=True
            )
        spread = np.sqrt(np.mean(variances, axis=0) + np.var(means, axis=0))
        scale = self._spread[:, None]
        return (scale * np.mean(means, axis=0)).T, (scale * spread).T

    def to_json(self) -> dict[str, Json]:
        """Return settings and all that was learnt, as plain JSON."""
        require_fitted(self, "hyper_")
        return {
            "own": None if self.own is None else list(self.own),
            "n_members": self.n_members,
            "max_learning_runs": self.max_learning_runs,
            "weights": self.weights_.tolist(),
            "losses": self.losses_.tolist(),
            "own_domains": [[int(one) for one in row.nonzero()[0]] for row in self.own_],
            "hyper": self.hyper_.tolist(),
            "outliers": [list(pair) for pair in self.outliers_],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> Self:
        """Make a fitted model from `to_json`'s answer."""
        own = cast(list[int | None] | None, data["own"])
        model = cls(
            own=None if own is None else tuple(own),
            n_members=cast(int, data["n_members"]),
            max_learning_runs=cast(int, data["max_learning_runs"]),
        )
        model.weights_ = np.asarray(data["weights"], dtype=np.float64)
        model.losses_ = np.asarray(data["losses"], dtype=np.float64)
        model.hyper_ = np.asarray(data["hyper"], dtype=np.float64)
        model.own_ = np.zeros((model.losses_.shape[1], model.weights_.shape[1]), dtype=np.bool_)
        for target, columns in enumerate(cast(list[list[int]], data["own_domains"])):
            model.own_[target, columns] = True
        pairs = cast(list[list[int]], data["outliers"])
        model.outliers_ = tuple((run, target) for run, target in pairs)
        model._broken = np.zeros(model.losses_.T.shape, dtype=np.bool_)
        for run, target in model.outliers_:
            model._broken[target, run] = True
        model.converged_ = True
        with threadpool_limits(limits=1):
            model._condition()
        return model

    def _own_domains(self) -> BoolArray:
        own = self.own
        if own is None:
            own = detect_own_domains(self.weights_, self.losses_)
        member: BoolArray = np.zeros(
            (self.losses_.shape[1], self.weights_.shape[1]), dtype=np.bool_
        )
        for target, column in enumerate(own):
            if column is not None:
                member[target, column] = True
        return member

    def _screen(self, hyper: FloatArray) -> None:
        """Mark runs that the others miss by far, the outermost of each target first.

        One at a time: a broken run makes its neighbours look broken too.
        """
        layout, n_runs = Layout.of(self.own_), len(self.weights_)
        targets = np.arange(len(self.own_))
        far = _BROKEN * (1.0 + _BROKEN_FEW / n_runs)
        for _ in range(max(n_runs // 10, int(n_runs >= _FEWEST_TO_SCREEN))):
            self._standardise()
            member = _Member(layout.covariances(hyper[None]), self)
            others = np.where(self._broken, np.nan, self.standardised)
            middle = np.nanmedian(others, axis=1)
            worst = np.nanargmax(np.abs(others - middle[:, None]), axis=1)
            missed, value = np.abs(member.left_out())[targets, worst], others[targets, worst]
            others[targets, worst] = np.nan
            low, high = np.nanquantile(others, [0.1, 0.9], axis=1)
            reach = far * np.maximum(high - low, 1e-9)
            # A run may be missed for want of others like it; a broken one also stands out itself.
            apart = np.maximum(low - value, value - high) > reach / 2.0
            found = (missed > reach) & apart
            if not found.any():
                break
            self._broken[found, worst[found]] = True
        self._standardise()

    def _standardise(self) -> None:
        values = np.where(self._broken, np.nan, self.losses_.T)
        self._mean = np.nanmean(values, axis=1)
        spread = np.nanstd(values, axis=1)
        constant = spread <= 1e-12 * np.maximum(np.abs(self._mean), 1e-300)
        self._spread = np.where(constant, 0.0, spread)
        scale = np.where(constant, 1.0, spread)
        self.standardised = np.where(
            self._broken | constant[:, None],
            0.0,
            (self.losses_.T - self._mean[:, None]) / scale[:, None],
        )
        self.distrust = np.where(self._broken, _DISTRUST, 0.0)

    def _learn(self, layout: Layout, chosen: IntArray, rng: np.random.Generator) -> FloatArray:
        weights = self.weights_[chosen]
        losses, distrust = self.standardised[:, chosen], self.distrust[:, chosen]
        n_members = max(1, min(self.n_members, _MEMBER_RUNS // len(self.weights_)))
        half = layout.sd * rng.standard_normal(((n_members + 1) // 2, len(layout.sd)))
        # In pairs of opposite shifts: their mean is then the prior's own.
        shifts = np.concatenate([half, -half])[:n_members]
        few = len(chosen) <= _FEW_RUNS and n_members > 1
        if not few:
            shifts[0] = 0.0
        centres = layout.mean + shifts

        def climb(start: FloatArray, centre: FloatArray, n_steps: int) -> FloatArray:
            def slope(hyper: FloatArray) -> FloatArray:
                return log_posterior_slopes(
                    layout, hyper, weights, losses, centre=centre, distrust=distrust
                )

            return _adam(start, slope, n_steps=n_steps)

        if few:
            return climb(centres, centres, STEPS)
        first = climb(centres[:1], centres[:1], STEPS)
        others = np.repeat(first, n_members - 1, axis=0)
        if n_members > 1:
            # With many runs the maximum is sharp: a shifted prior moves it little.
            others = climb(others, centres[1:], STEPS_FROM_MAXIMUM)
        return np.vstack([first, others])

    def _condition(self) -> None:
        self._standardise()
        layout = Layout.of(self.own_)
        self._members = [_Member(layout.covariances(hyper[None]), self) for hyper in self.hyper_]


class _Member:
    """One set of hyper-parameters, conditioned on the runs."""

    def __init__(self, functions: Covariances, model: SharedGaussianProcess) -> None:
        self._functions = functions
        self._weights = model.weights_
        self._features = functions.features(model.weights_)
        self._inverse = invert(functions.of_runs(self._features, self._weights, model.distrust))
        self._solved = (self._inverse @ model.standardised[:, :, None])[:, :, 0]

    def predict(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return mean and variance of new runs, both (n_targets, n_rows), standardised."""
        features = self._functions.features(weights)
        covariance = self._functions.between(features, weights, self._features, self._weights)
        mean = (covariance @ self._solved[:, :, None])[:, :, 0]
        explained = np.einsum("jrn,jrn->jr", covariance @ self._inverse, covariance)
        variance = self._functions.variance(features, weights) - explained
        return mean, np.maximum(variance, self._functions.noise_variance[:, None])

    def change(self, weights: FloatArray, base: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return mean and variance of changes from a base, (n_targets, n_rows), standardised."""
        between = self._functions.between
        (one, ones), (other, others) = (
            (self._functions.features(shares), shares) for shares in (weights, base)
        )
        apart = between(one, ones, self._features, self._weights)
        apart = apart - between(other, others, self._features, self._weights)
        mean = (apart @ self._solved[:, :, None])[:, :, 0]
        prior = (
            np.diagonal(between(one, ones, one, ones), axis1=1, axis2=2)
            + between(other, others, other, others)[:, 0]
            - 2.0 * between(one, ones, other, others)[:, :, 0]
        )
        explained = np.einsum("jrn,jrn->jr", apart @ self._inverse, apart)
        return mean, np.maximum(prior - explained, 0.0)

    def left_out(self) -> FloatArray:
        """Return the (n_targets, n_runs) misses of each run when it is left out."""
        misses: FloatArray = self._solved / np.diagonal(self._inverse, axis1=1, axis2=2)
        return misses


def _adam(
    start: FloatArray, slope: Callable[[FloatArray], FloatArray], *, n_steps: int
) -> FloatArray:
    """Climb from a start; the rate falls to three tenths after three fifths of the steps."""
    point, first, second = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for step in range(1, n_steps + 1):
        along = slope(point)
        first = 0.9 * first + 0.1 * along
        second = 0.999 * second + 0.001 * along**2
        rate = _LEARNING_RATE if step <= 0.6 * n_steps else 0.3 * _LEARNING_RATE
        scale = np.sqrt(second / (1.0 - 0.999**step)) + 1e-8
        point = point + rate * first / (1.0 - 0.9**step) / scale
    return point


def _choose(n_runs: int, limit: int, rng: np.random.Generator) -> IntArray:
    if n_runs <= limit:
        return np.arange(n_runs)
    return np.sort(rng.choice(n_runs, size=limit, replace=False))
