"""What a law misses, split into what mixtures, runs and points have of their own.

The misfit of point p of run j of mixture i is

    e_ijp = u_i . z_p + v_j + w_p

with a mixture's own coefficients u_i of given functions z (its level and slopes), a run's v_j and a
point's w_p, all normal about 0. Thirty points of one run then tell little more than one of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy.linalg import cho_solve, solve_triangular
from scipy.optimize import minimize

from cuvee.arrays import FloatArray, IntArray

LEAST_NOISE = 1e-4
_HUBER = 2.0
OUTLIER = _HUBER / 5.0
"""Weight below which a point is named: more than five standard deviations off."""
_NOISE_WIDTH = 1.5
"""How far the log of each may be off."""
_MAX_ITERATIONS = 30

Factors: TypeAlias = Sequence[tuple[IntArray, FloatArray]]
"""Rows of each mixture, and the Cholesky factor of their misfits' covariance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Groups:
    """Which rows of a table belong together."""

    mixture: IntArray
    """(n_rows,) number of each row's mixture."""
    run: IntArray
    """(n_rows,) number of each row's run: a mixture at one size."""
    by_mixture: tuple[IntArray, ...]
    """(n_mixtures,) row numbers of each mixture."""

    @classmethod
    def of(cls, mixture: IntArray, sizes: FloatArray) -> "Groups":
        """Group rows by (n_rows,) number of the mixture and (n_rows,) size."""
        pairs = np.column_stack([mixture.astype(np.float64), sizes])
        run = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)
        return cls(
            mixture=mixture,
            run=run.astype(np.int64),
            by_mixture=tuple(
                np.flatnonzero(mixture == one) for one in range(int(mixture.max()) + 1)
            ),
        )


def factorise(groups: Groups, bases: FloatArray, noise: FloatArray, trust: FloatArray) -> Factors:
    """Factorise the covariance of each mixture's misfits.

    Args:
        groups: Rows of mixtures and runs.
        bases: (n_rows, n_own) values of z.
        noise: (n_own + 2,) standard deviations of u, v and w.
        trust: (n_rows,) in (0, 1], by which a point's precision is multiplied.
    """
    factors = []
    n_own = bases.shape[1]
    for taken in groups.by_mixture:
        own, run = bases[taken] * noise[:n_own], groups.run[taken]
        covariance = own @ own.T + noise[n_own] ** 2 * (run[:, None] == run)
        covariance[np.diag_indices_from(covariance)] += noise[n_own + 1] ** 2 / trust[taken]
        factors.append((taken, np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)))
    return factors


def whiten(factors: Factors, values: FloatArray) -> FloatArray:
    """Multiply (n_rows, ...) values by the inverse factors: misfits become independent, of sd 1."""
    whitened = np.empty_like(values)
    for taken, factor in factors:
        whitened[taken] = solve_triangular(factor, values[taken], lower=True)
    return whitened


def split_misfit(
    groups: Groups,
    bases: FloatArray,
    misfit: FloatArray,
    trust: FloatArray,
    *,
    start: FloatArray,
    expected: FloatArray,
    learnt: float,
) -> FloatArray:
    """Estimate the standard deviations of u, v and w by maximum likelihood with a weak prior.

    Args:
        groups: Rows of mixtures and runs.
        bases: (n_rows, n_own) values of z.
        misfit: (n_rows,) measured minus fitted.
        trust: (n_rows,) weights of the points.
        start: (n_own + 2,) where the search begins.
        expected: (n_own + 2,) centre of their prior; its log may be off by 1.5.
        learnt: Parameters that were fitted. They describe mixtures rather than points, so each
            mixture's mean misfit counts for what it would be had it not been fitted, at most twice.

    Returns:
        (n_own + 2,) standard deviations.
    """
    n_mixtures = len(groups.by_mixture)
    mean = np.bincount(groups.mixture, misfit) / np.bincount(groups.mixture)
    unfitted = np.sqrt(n_mixtures / max(n_mixtures - learnt, 0.25 * n_mixtures))
    misfit = misfit + (unfitted - 1.0) * mean[groups.mixture]
    centre = np.log(expected)

    def cost(logs: FloatArray) -> tuple[float, FloatArray]:
        pull = (logs - centre) / _NOISE_WIDTH
        total, gradient = 0.5 * float(pull @ pull), pull / _NOISE_WIDTH
        noise = np.exp(logs)
        for taken, factor in factorise(groups, bases, noise, trust):
            inverse = cho_solve((factor, True), np.eye(len(taken)))
            pulled = inverse @ misfit[taken]
            total += float(np.log(np.diag(factor)).sum() + 0.5 * pulled @ misfit[taken])
            along = inverse - np.outer(pulled, pulled)
            own, run = bases[taken], groups.run[taken]
            gradient[:-2] += noise[:-2] ** 2 * np.sum(own * (along @ own), axis=0)
            gradient[-2] += noise[-2] ** 2 * np.sum(along[run[:, None] == run])
            gradient[-1] += noise[-1] ** 2 * np.sum(np.diag(along) / trust[taken])
        return total, gradient

    found = minimize(
        cost,
        np.log(start),
        jac=True,
        method="L-BFGS-B",
        bounds=[(np.log(LEAST_NOISE), 0.0)] * len(start),
        options={"maxiter": _MAX_ITERATIONS},
    )
    return np.asarray(np.exp(found.x), dtype=np.float64)


def own_misfits(
    bases: FloatArray,
    misfit: FloatArray,
    jacobian: FloatArray,
    noise: FloatArray,
    factors: Factors,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Guess each mixture's u, drawn to 0 as far as it is uncertain.

    Args:
        bases: (n_rows, n_own) values of z.
        misfit: (n_rows,) measured minus fitted.
        jacobian: (n_rows, n_parameters) of the law.
        noise: (n_own + 2,) standard deviations.
        factors: From `factorise`.

    Returns:
        (n_mixtures, n_own) guesses, (n_mixtures, n_own, n_own) their covariance were the law known,
        and (n_mixtures, n_own, n_parameters) how far a guess gives way when the law moves.
    """
    guesses, covariances, pulls = [], [], []
    prior = noise[: bases.shape[1]] ** 2
    for taken, factor in factors:
        base, pulled, law = (
            solve_triangular(factor, values[taken], lower=True)
            for values in (bases, misfit, jacobian)
        )
        guesses.append(prior * (base.T @ pulled))
        covariances.append(np.diag(prior) - prior[:, None] * (base.T @ base) * prior)
        pulls.append(prior[:, None] * (base.T @ law))
    return np.stack(guesses), np.stack(covariances), np.stack(pulls)


def trust_points(groups: Groups, misfit: FloatArray) -> FloatArray:
    """Weigh points down that lie far from the median of their run, as Huber does.

    Args:
        groups: Rows of mixtures and runs.
        misfit: (n_rows,) measured minus fitted, without the mixture's own part.

    Returns:
        (n_rows,) weights in (0, 1]; those of points to be named are below `OUTLIER`.
    """
    apart = np.empty_like(misfit)
    for run in range(int(groups.run.max()) + 1):
        taken = groups.run == run
        apart[taken] = np.abs(misfit[taken] - np.median(misfit[taken]))
    scale = max(1.4826 * float(np.median(apart)), LEAST_NOISE)
    return np.asarray(np.minimum(1.0, _HUBER * scale / np.maximum(apart, 1e-300)))
