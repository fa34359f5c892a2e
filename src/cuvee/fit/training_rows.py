"""What every predictor checks at its door before it fits or predicts."""

import numpy as np
import numpy.typing as npt

from cuvee.arrays import FloatArray
from cuvee.errors import ConfigError, DataError, NotFittedError
from cuvee.simplex import check_weights

MINIMUM_RUNS = 2


def check_training_rows(
    weights: npt.ArrayLike,
    losses: npt.ArrayLike,
    *,
    own: tuple[int | None, ...] | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Refuse runs that no predictor can learn from.

    Args:
        weights: (n_runs, n_domains) token shares; rows sum to 1.
        losses: (n_runs, n_targets) finite.
        own: (n_targets,) column of each target's own domain, None where it has none.

    Returns:
        Weights and losses as float64.

    Raises:
        DataError: Shapes disagree, a value is not finite, weights leave the simplex, or there are
            fewer than 2 runs.
        ConfigError: ``own`` names another number of targets or a column that does not exist.
    """
    shares = np.asarray(weights, dtype=np.float64)
    measured = np.asarray(losses, dtype=np.float64)
    if shares.ndim != 2 or measured.ndim != 2 or len(shares) != len(measured):
        raise DataError(
            f"weights have shape {shares.shape} and losses {measured.shape}; expected (n_runs, "
            "n_domains) and (n_runs, n_targets) with the same runs in the same order."
        )
    if len(shares) < MINIMUM_RUNS or 0 in (shares.shape[1], measured.shape[1]):
        raise DataError(
            f"{len(shares)} runs with {shares.shape[1]} domains and {measured.shape[1]} targets; a "
            f"fit needs at least {MINIMUM_RUNS} runs, 1 domain and 1 target. Measure more mixtures."
        )
    check_weights(shares, n_domains=shares.shape[1])
    for row, column in np.argwhere(~np.isfinite(measured))[:1]:
        raise DataError(
            f"losses row {row} column {column} is {measured[row, column]}; losses must be finite. "
            "Leave diverged runs out of the fit."
        )
    _check_own(own, n_domains=shares.shape[1], n_targets=measured.shape[1])
    return shares, measured


def check_mixtures(weights: npt.ArrayLike, *, n_domains: int) -> FloatArray:
    """Refuse mixtures that a predictor of ``n_domains`` domains cannot be asked about.

    Args:
        weights: (n_rows, n_domains) token shares; rows sum to 1.
        n_domains: Number of domains the predictor was fitted on.

    Returns:
        The weights as float64.

    Raises:
        DataError: The shape is another, or a row leaves the simplex.
    """
    shares = np.asarray(weights, dtype=np.float64)
    if shares.ndim != 2:
        raise DataError(
            f"weights have shape {shares.shape}; expected (n_rows, {n_domains}). Pass one mixture "
            "as weights[None, :]."
        )
    check_weights(shares, n_domains=n_domains)
    return shares


def require_fitted(model: object, attribute: str) -> None:
    """Refuse to use a predictor before its fit.

    Raises:
        NotFittedError: The attribute that `fit` sets is missing.
    """
    if not hasattr(model, attribute):
        raise NotFittedError(
            f"{type(model).__name__} is not fitted; call fit(weights, losses, rng=rng) first."
        )


def own_of(own: tuple[int | None, ...] | None, target: int) -> int | None:
    """Return the column of a target's own domain, None where it is unknown."""
    return None if own is None else own[target]


def _check_own(own: tuple[int | None, ...] | None, *, n_domains: int, n_targets: int) -> None:
    if own is None:
        return
    if len(own) != n_targets:
        raise ConfigError(
            f"own has {len(own)} entries for {n_targets} targets; give one column or None a target."
        )
    for target, column in enumerate(own):
        if column is not None and not 0 <= column < n_domains:
            raise ConfigError(
                f"own of target {target} is column {column}; columns go from 0 to {n_domains - 1}."
            )
