"""Intervals of any predictor from refits on parts of the runs, without trust in its own errors."""

import math
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from cuvee.arrays import FloatArray, IntArray
from cuvee.errors import ConfigError
from cuvee.fit.crossval import cross_validate
from cuvee.fit.training_rows import check_mixtures, check_training_rows
from cuvee.tables.predictor import Predictor

BootstrapKind = Literal["residual", "pairs"]
N_SAMPLES = 100
"""Refits of a bootstrap, unless the caller says otherwise."""
_OUT_OF_SAMPLE = 0.632
"""Part of the held-out errors in the variance of a new run's error (Efron's .632 estimate)."""
_N_FOLDS = 10


def jackknife_plus(
    make_model: Callable[[], Predictor],
    weights: FloatArray,
    losses: FloatArray,
    new_weights: FloatArray,
    *,
    coverage: float = 0.9,
    folds: IntArray | None = None,
    rng: np.random.Generator,
) -> tuple[FloatArray, FloatArray]:
    """Give the jackknife+ intervals of new runs.

    With ``R_i = |y_i - m_{-i}(x_i)|`` of the model fitted without run i, the lower end is the
    ``floor(a (n + 1))``-th least of ``m_{-i}(x) - R_i`` and the upper end the
    ``ceil((1 - a)(n + 1))``-th least of ``m_{-i}(x) + R_i``, ``a = 1 - coverage``. For runs that
    are exchangeable with the new one the interval holds at least ``2 coverage - 1`` whatever the
    model is, and about ``coverage`` where it is stable. With folds it is CV+: fewer fits, and runs
    of one mixture can be left out together.

    Args:
        make_model: Makes an unfitted predictor; called once for each fold.
        weights: (n_runs, n_domains) token shares; rows sum to 1.
        losses: (n_runs, n_targets) finite.
        new_weights: (n_rows, n_domains) token shares; rows sum to 1.
        coverage: Share of new runs that the interval should hold, between 0 and 1.
        folds: (n_runs,) number of the fold each run is left out with, as `assign_folds` gives;
            None: each run alone.
        rng: Handed to the fits.

    Returns:
        Lower and upper ends, both (n_rows, n_targets), in the losses' unit.

    Raises:
        ConfigError: The coverage is out of its range or takes more runs, or the folds are not one
            number a run.
        DataError: The runs or the new weights are not what they must be.

    Source: Barber, Candes, Ramdas, Tibshirani (2021), Predictive inference with the jackknife+,
        Annals of Statistics 49(1): jackknife+ and its K-fold form CV+.
    """
    shares, measured = check_training_rows(weights, losses)
    asked = check_mixtures(new_weights, n_domains=shares.shape[1])
    n_runs = len(shares)
    low, high = _ranks(n_runs, coverage)
    groups = np.arange(n_runs) if folds is None else _check_folds(folds, n_runs)
    centre = np.empty((n_runs, len(asked), measured.shape[1]))
    reach = np.empty_like(measured)
    for group in np.unique(groups):
        out = groups == group
        model = make_model().fit(shares[~out], measured[~out], rng=rng)
        mean = model.predict(np.vstack([asked, shares[out]]))[0]
        centre[out] = mean[: len(asked)]
        reach[out] = np.abs(measured[out] - mean[len(asked) :])
    lower = np.partition(centre - reach[:, None, :], low, axis=0)[low]
    upper = np.partition(centre + reach[:, None, :], high, axis=0)[high]
    return lower, upper


def bootstrap(
    make_model: Callable[[], Predictor],
    weights: FloatArray,
    losses: FloatArray,
    new_weights: FloatArray,
    *,
    coverage: float = 0.9,
    kind: BootstrapKind = "pairs",
    n_samples: int = N_SAMPLES,
    rng: np.random.Generator,
) -> tuple[FloatArray, FloatArray]:
    """Give the bootstrap's intervals of new runs.

    The model is refitted to ``n_samples`` draws of as many runs: with replacement (``pairs``), or
    the same mixtures with losses ``m(x_i) + e*`` (``residual``, which keeps the design but takes
    the errors to be alike everywhere). The interval holds the middle of ``m*(x) + e*``. The errors
    e* are the held-out ones, centred and scaled so that their variance is .368 times the fitted
    runs' and .632 times the held-out runs': those of fitted runs alone would be too small.

    Args:
        make_model: Makes an unfitted predictor; called ``n_samples`` times and 11 times more.
        weights: (n_runs, n_domains) token shares; rows sum to 1.
        losses: (n_runs, n_targets) finite.
        new_weights: (n_rows, n_domains) token shares; rows sum to 1.
        coverage: Share of new runs that the interval should hold, between 0 and 1.
        kind: What is drawn.
        n_samples: At least 2.
        rng: Draws; handed to the fits.

    Returns:
        Lower and upper ends, both (n_rows, n_targets), in the losses' unit.

    Raises:
        ConfigError: A setting is out of its range, or there are fewer than 4 runs.
        DataError: The runs or the new weights are not what they must be.

    Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, sections 9.5 and 17.7.
    """
    _check_bootstrap(coverage, kind, n_samples)
    shares, measured = check_training_rows(weights, losses)
    asked = check_mixtures(new_weights, n_domains=shares.shape[1])
    n_runs = len(shares)
    fitted = make_model().fit(shares, measured, rng=rng).predict(shares)[0]
    errors = _errors(make_model, shares, measured, fitted, rng)
    draws = np.empty((n_samples, len(asked), measured.shape[1]))
    for sample in range(n_samples):
        rows = _draw_rows(n_runs, rng)
        if kind == "pairs":
            model = make_model().fit(shares[rows], measured[rows], rng=rng)
        else:
            model = make_model().fit(shares, fitted + errors[rows], rng=rng)
        draws[sample] = model.predict(asked)[0]
    return _middle(draws, errors, coverage)


def _ranks(n_runs: int, coverage: float) -> tuple[int, int]:
    """Return the places, from 0, of the lower and upper ends among n sorted values."""
    _check_coverage(coverage)
    # The slack keeps .1 x 30 from counting as more, or less, than 3.
    low = math.floor((1.0 - coverage) * (n_runs + 1) + 1e-9)
    if low < 1:
        needed = math.ceil(1.0 / (1.0 - coverage) - 1e-9) - 1
        raise ConfigError(
            f"coverage {coverage:g} takes at least {needed} runs, but there are {n_runs}; measure "
            "more or ask for less coverage."
        )
    return low - 1, n_runs - low


def _check_coverage(coverage: float) -> None:
    if not 0.0 < coverage < 1.0:
        raise ConfigError(f"coverage is {coverage:g}; it must lie between 0 and 1.")


def _check_folds(folds: IntArray, n_runs: int) -> IntArray:
    if folds.shape != (n_runs,) or len(np.unique(folds)) < 2:
        raise ConfigError(
            f"folds have shape {folds.shape} and {len(np.unique(folds))} numbers; give one number "
            f"for each of the {n_runs} runs, at least 2 different ones."
        )
    return folds


def _check_bootstrap(coverage: float, kind: str, n_samples: int) -> None:
    _check_coverage(coverage)
    if kind not in get_args(BootstrapKind):
        raise ConfigError(f"kind is {kind!r}; choose one of {', '.join(get_args(BootstrapKind))}.")
    if n_samples < 2:
        raise ConfigError(f"n_samples is {n_samples}; it must be at least 2.")


def _draw_rows(n_runs: int, rng: np.random.Generator) -> IntArray:
    """Draw rows with replacement, again while all are the same one."""
    rows = rng.integers(n_runs, size=n_runs)
    while np.all(rows == rows[0]):
        rows = rng.integers(n_runs, size=n_runs)
    return rows


def _middle(
    draws: FloatArray, errors: FloatArray, coverage: float
) -> tuple[FloatArray, FloatArray]:
    """Return the ends of the middle of (n_samples, n_rows, n_targets) refits plus errors.

    Each refit meets every error once: all pairs, no chance in the last step.
    """
    tail = (1.0 - coverage) / 2.0
    ends = np.empty((2, *draws.shape[1:]))
    for row in range(draws.shape[1]):
        outcomes = (draws[:, None, row, :] + errors).reshape(-1, draws.shape[2])
        ends[:, row] = np.quantile(outcomes, [tail, 1.0 - tail], axis=0)
    return ends[0], ends[1]


def _errors(
    make_model: Callable[[], Predictor],
    shares: FloatArray,
    measured: FloatArray,
    fitted: FloatArray,
    rng: np.random.Generator,
) -> FloatArray:
    """Return (n_runs, n_targets) errors of new runs: held out, centred, scaled to .632's size."""
    held_out = cross_validate(make_model, shares, measured, n_folds=_N_FOLDS, rng=rng)
    errors = measured - held_out.mean
    outside = np.mean(errors**2, axis=0)
    inside = np.mean((measured - fitted) ** 2, axis=0)
    variance = _OUT_OF_SAMPLE * outside + (1.0 - _OUT_OF_SAMPLE) * inside
    centred = errors - errors.mean(axis=0)
    size = np.sqrt(np.mean(centred**2, axis=0))
    scaled: FloatArray = centred * np.sqrt(variance) / np.where(size > 0.0, size, 1.0)
    return scaled
