"""What a run will cost."""

import math

import pytest

from cuvee.methods.planning import Part
from cuvee.proxy.sweep import ProxyConfig


@pytest.mark.parametrize(
    ("n_runs", "start_runs", "batch_size", "lists"),
    [
        (32, math.inf, 4, [32]),
        (32, 16, 4, [16, 4, 4, 4, 4]),
        (30, 16, 4, [16, 4, 4, 4, 2]),
        (12, 16, 4, [12]),
        (96, 48, 16, [48, 16, 16, 16]),
    ],
)
def test_runs_come_in_lists(
    n_runs: int, start_runs: float, batch_size: int, lists: list[float]
) -> None:
    """A first list, then batches until all runs are in one."""
    part = Part(
        name="sweep",
        n_runs=n_runs,
        proxy=ProxyConfig(),
        start_runs=start_runs,
        batch_size=batch_size,
    )
    assert part.lists == lists
    assert sum(part.lists) == n_runs
