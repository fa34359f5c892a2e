"""How the errors of a predictor's targets move together: what the interval of their sum needs."""

from collections.abc import Sequence

import numpy as np

from cuvee.arrays import FloatArray

_TOGETHER = 0.1
"""Weight of the bound, errors that are all alike, in the estimate: few runs cannot exclude it."""


def error_correlation(errors: Sequence[FloatArray]) -> FloatArray:
    """Estimate the correlation of held-out errors over targets.

    Args:
        errors: Blocks of (n_runs, n_targets) held-out errors, each divided by its predicted
            standard deviation.

    Returns:
        (n_targets, n_targets) correlation about zero, nine tenths as seen and one tenth the bound
        of errors that are all alike.
    """
    rows = np.vstack(errors)
    second = rows.T @ rows
    scale = np.sqrt(np.maximum(np.diag(second), 1e-300))
    seen = second / np.outer(scale, scale)
    np.fill_diagonal(seen, 1.0)
    correlation: FloatArray = (1.0 - _TOGETHER) * seen + _TOGETHER
    return correlation
