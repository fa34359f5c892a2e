"""Where axes begin and end, and which numbers stand along them."""

import numpy as np
from matplotlib.axis import Axis
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from cuvee.arrays import FloatArray
from cuvee.report.numbers import MINUS, quantity


def limits(values: FloatArray, margin: float = 0.05) -> tuple[float, float]:
    """Return the range of the finite values with a margin, never of width zero."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    room = margin * (high - low) or 0.05 * abs(low) or 1.0
    return low - room, high + room


def even_ticks(*axes: Axis) -> None:
    """Set a few round ticks, all written with the same decimals and without an offset."""
    for axis in axes:
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        formatter = ScalarFormatter(useOffset=False)
        formatter.set_scientific(False)
        axis.set_major_formatter(formatter)


def rank_ticks(n_runs: int) -> list[int]:
    """Return positions, from 0, of the ranks to be written: 1 and at most eight round ones.

    Example:
        >>> rank_ticks(31)
        [0, 4, 9, 14, 19, 24, 29]
    """
    steps = [factor * 10**power for power in range(10) for factor in (1, 2, 5)]
    step = next(step for step in steps if n_runs <= 8 * step)
    return sorted({0, *range(step - 1, n_runs, step)})


def log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers for a logarithmic axis, closer where the axis is short.

    Example:
        >>> log_ticks(20_000, 2_000_000)
        [30000.0, 100000.0, 300000.0, 1000000.0]
    """
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    factors = (1, 3) if high > 30 * low else (1, 2, 5)
    ticks = [factor * 10.0**decade for decade in decades for factor in factors]
    return [tick for tick in ticks if low <= tick <= high]


def short_quantity(value: float) -> str:
    """Write a round number of tokens without idle zeros.

    Example:
        >>> short_quantity(3_000_000), short_quantity(50)
        ('3M', '50')
    """
    text = quantity(value)
    return text if text[-1].isdigit() else f"{float(text[:-1]):g}{text[-1]}"


def signed(value: float, _: int | None = None) -> str:
    """Write a tick with its sign; the second argument is matplotlib's position.

    Example:
        >>> signed(-0.1), signed(0.05), signed(0.0)
        ('−0.1', '+0.05', '0')
    """
    return f"{value:+.3g}".replace("-", MINUS) if abs(value) > 1e-12 else "0"
