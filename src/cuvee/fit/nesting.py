"""From small runs to a large one: every mixture's loss at a stated size and token count.

- nested: a step law per mixture, size and target gives the loss at the horizon; a size law over
  sizes, pooled over mixtures, gives the loss at the target size (Data Mixing Laws,
  arXiv:2403.16952, step law, then size law).
- joint: one law in size and tokens, pooled over mixtures.

Both are checked where it can be done: fitted without the largest size, on the largest size. Where
the horizon lies beyond the runs' end, the check also goes without the last points, as many times
farther as the horizon is, so that the step laws are checked too.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from cuvee.arrays import BoolArray, FloatArray
from cuvee.errors import DataError
from cuvee.fit.crossval import rank_correlation
from cuvee.fit.pooled_law import fit_pooled_law
from cuvee.fit.scaling import MINIMUM_POINTS, fit_power_laws
from cuvee.tables.study import Study

_NORMAL_90 = 1.6448536269514722


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOutSize:
    """How far a law missed the largest size, fitted without it."""

    size: int
    """Parameters without embedding."""
    n: int
    """Mixtures times targets."""
    rmse: float
    bias: float
    """Mean of predicted minus measured."""
    coverage: float
    """Share inside the 90% intervals."""
    rank: float
    """Spearman correlation over mixtures, mean of the targets."""
    spread: float
    """Standard deviation of measured losses over mixtures, mean of the targets."""
    inflation: float
    """Factor, at least 1, that the standard deviations would have needed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Extrapolation:
    """Predicted losses of every mixture at one size and token count."""

    method: Literal["nested", "joint"]
    size: int
    n_tokens: int
    mean: FloatArray
    """(n_mixtures, n_targets)"""
    sd: FloatArray
    """(n_mixtures, n_targets) of a new run, inflated by what the held-out size showed."""
    exponents: FloatArray
    """(n_targets, n_axes) alpha, and beta of the joint law."""
    exponent_ranges: FloatArray
    """(n_targets, n_axes, 2) least and largest exponents of fits that leave one size out; equal to
    the exponents where there are only two sizes."""
    held_out: HeldOutSize | None
    """None where there are only two sizes."""
    outliers: tuple[tuple[int, int, int, int], ...]
    """(mixture, size, point, target) of losses far off their step law."""


def extrapolate(
    study: Study,
    *,
    size: int,
    n_tokens: int,
    method: Literal["auto", "nested", "joint"] = "auto",
    first_tokens: int = 0,
) -> Extrapolation:
    """Predict every mixture's losses at a size and a token count.

    Args:
        study: At least 2 sizes; 3 to check the law on the largest.
        size: Parameters without embedding.
        n_tokens: Tokens trained on.
        method: ``auto`` takes the one with the smaller error at the held-out size.
        first_tokens: Points before are left out: those of the warm-up, and the first steps, which
            no power law describes.

    Returns:
        The predictions, with the error at the largest size when it is held out.

    Raises:
        DataError: The study has too few sizes, or too few points for a step law.
    """
    study = _without_start(study, first_tokens)
    methods: tuple[Literal["nested", "joint"], ...] = ("nested", "joint")
    if method != "auto":
        methods = (method,)
    elif len(study.n_tokens) < MINIMUM_POINTS:
        methods = ("nested",)
    beyond = n_tokens / int(study.n_tokens[-1])
    checks = {one: _held_out(study, one, beyond=beyond) for one in methods}
    best = min(methods, key=lambda one: _error(checks[one]))
    mean, sd, exponents, outliers = _predict(study, best, size=size, n_tokens=n_tokens)
    held_out = checks[best]
    if held_out is not None:
        sd = sd * held_out.inflation
    return Extrapolation(
        method=best,
        size=size,
        n_tokens=n_tokens,
        mean=mean,
        sd=sd,
        exponents=exponents,
        exponent_ranges=_exponent_ranges(study, best, exponents),
        held_out=held_out,
        outliers=outliers,
    )


def _error(check: HeldOutSize | None) -> float:
    return 0.0 if check is None else check.rmse


def _without_start(study: Study, first_tokens: int) -> Study:
    kept = study.n_tokens >= first_tokens
    if not kept.any():
        raise DataError(
            f"first_tokens is {first_tokens:,}; the runs end at {study.n_tokens[-1]:,} tokens. "
            "Train longer, or leave out less."
        )
    return _points(study, kept)


def _points(study: Study, kept: BoolArray) -> Study:
    return replace(study, n_tokens=study.n_tokens[kept], losses=study.losses[:, :, kept])


def _held_out(
    study: Study, method: Literal["nested", "joint"], *, beyond: float
) -> HeldOutSize | None:
    """Fit without the largest size and predict it at its last point.

    Args:
        study: The study.
        method: The law.
        beyond: How many times farther than the runs' end the horizon is. Where it is farther, the
            last points are left out as well, if enough remain.
    """
    n_sizes = len(study.sizes)
    if n_sizes < 3:
        return None
    smaller = study.only(n_sizes=n_sizes - 1)
    early = study.n_tokens <= study.n_tokens[-1] / max(beyond, 1.0)
    if early.sum() >= MINIMUM_POINTS:
        smaller = _points(smaller, early)
    mean, sd, _, _ = _predict(
        smaller, method, size=int(study.sizes[-1]), n_tokens=int(study.n_tokens[-1])
    )
    measured = study.losses[:, -1, -1]
    errors = mean - measured
    ranks = [_rank(mean[:, one], measured[:, one]) for one in range(len(study.targets))]
    return HeldOutSize(
        size=int(study.sizes[-1]),
        n=errors.size,
        rmse=float(np.sqrt(np.mean(errors**2))),
        bias=float(errors.mean()),
        coverage=float(np.mean(np.abs(errors) <= _NORMAL_90 * sd)),
        rank=float(np.mean(ranks)),
        spread=float(measured.std(axis=0).mean()),
        inflation=max(1.0, float(np.quantile(np.abs(errors / sd), 0.9)) / _NORMAL_90),
    )


def _exponent_ranges(
    study: Study, method: Literal["nested", "joint"], exponents: FloatArray
) -> FloatArray:
    """Fit with each size left out in turn; the fit of all sizes counts too."""
    found = [exponents]
    n_sizes = len(study.sizes)
    for out in range(n_sizes if n_sizes > 2 else 0):
        kept = np.arange(n_sizes) != out
        rest = replace(study, sizes=study.sizes[kept], losses=study.losses[:, kept])
        at = {"size": int(rest.sizes[-1]), "n_tokens": int(rest.n_tokens[-1])}
        found.append(_predict(rest, method, **at)[2])
    every = np.stack(found)
    return np.stack([every.min(axis=0), every.max(axis=0)], axis=2)


def _rank(one: FloatArray, other: FloatArray) -> float:
    found = rank_correlation(one, other)
    return 0.0 if found is None else found


def _predict(
    study: Study, method: Literal["nested", "joint"], *, size: int, n_tokens: int
) -> tuple[FloatArray, FloatArray, FloatArray, tuple[tuple[int, int, int, int], ...]]:
    if len(study.sizes) < 2:
        raise DataError(
            f"the study has {len(study.sizes)} size; a size law needs at least 2, better 3. Name "
            "more sizes."
        )
    means, sds, exponents = [], [], []
    outliers: tuple[tuple[int, int, int, int], ...] = ()
    if method == "nested":
        at_horizon, doubt, outliers = _step_laws(study, n_tokens)
    for target in range(len(study.targets)):
        if method == "nested":
            law = fit_pooled_law([study.sizes.astype(np.float64)], at_horizon[:, :, target])
            mean, sd = law.predict(float(size))
            sd = np.hypot(sd, doubt[:, target])
        else:
            sizes, tokens = np.meshgrid(study.sizes, study.n_tokens, indexing="ij")
            losses = study.losses[..., target].reshape(len(study.mixture_ids), -1)
            law = fit_pooled_law(
                [sizes.ravel().astype(np.float64), tokens.ravel().astype(np.float64)], losses
            )
            mean, sd = law.predict(float(size), float(n_tokens))
        means.append(mean)
        sds.append(sd)
        exponents.append(law.exponents)
    return np.stack(means, axis=1), np.stack(sds, axis=1), np.stack(exponents), outliers


def _step_laws(
    study: Study, n_tokens: int
) -> tuple[FloatArray, FloatArray, tuple[tuple[int, int, int, int], ...]]:
    """Carry every run to the horizon.

    Returns:
        Losses (n_mixtures, n_sizes, n_targets), the step laws' doubt where they extrapolate
        (n_mixtures, n_targets), and points far off.
    """
    last = int(study.n_tokens[-1])
    shape = study.losses.shape
    if n_tokens == last:
        # Nothing to carry: the measurement itself is the best estimate of itself.
        return study.losses[:, :, -1], np.zeros((shape[0], shape[3])), ()
    if shape[2] < MINIMUM_POINTS:
        raise DataError(
            f"the runs have {shape[2]} points and end at {last:,} tokens; to predict "
            f"{n_tokens:,} tokens a step law needs at least {MINIMUM_POINTS}. Measure more points."
        )
    series = study.losses.transpose(0, 1, 3, 2).reshape(-1, shape[2])
    laws = fit_power_laws(study.n_tokens.astype(np.float64), series)
    mean, sd = laws.predict(float(n_tokens))
    carried = mean.reshape(shape[0], shape[1], shape[3])
    extra = np.sqrt(np.maximum(sd**2 - laws.residual_sd**2, 0.0))
    doubt = extra.reshape(shape[0], shape[1], shape[3])[:, -1]
    places = [np.unravel_index(one, (shape[0], shape[1], shape[3])) for one, _ in laws.outliers]
    points = [point for _, point in laws.outliers]
    outliers = tuple(
        (int(place[0]), int(place[1]), int(point), int(place[2]))
        for place, point in zip(places, points, strict=True)
    )
    return carried, doubt, outliers
