"""How the errors of a predictor's targets move together: what the interval of their sum needs."""

from collections.abc import Sequence

import numpy as np

from cuvee.arrays import FloatArray

_TOGETHER = 0.1
"""Weight of the bound, errors that are all alike, in the estimate: few runs cannot exclude it."""

_FAR = 5.0
"""Standard deviations beyond which an error counts as this: one broken run, or a model that claims
no doubt at all, must not decide."""


def error_correlation(errors: Sequence[FloatArray]) -> FloatArray:
    """Estimate the correlation of held-out errors over targets.

    Args:
        errors: Blocks of (n_runs, n_targets) held-out errors, each divided by its predicted
            standard deviation.

    Returns:
        (n_targets, n_targets) correlation about zero, nine tenths as seen and one tenth the bound
        of errors that are all alike.
    """
    rows = np.clip(np.vstack(errors), -_FAR, _FAR)
    second = rows.T @ rows
    scale = np.sqrt(np.maximum(np.diag(second), 1e-300))
    seen = second / np.outer(scale, scale)
    np.fill_diagonal(seen, 1.0)
    correlation: FloatArray = (1.0 - _TOGETHER) * seen + _TOGETHER
    return correlation
