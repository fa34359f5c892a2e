"""Runs whose losses are no measurements of their mixtures."""

import numpy as np

from cuvee.arrays import FloatArray
from cuvee.tables.broken_runs import leave_out_broken
from cuvee.tables.swarm import Swarm


def _swarm(losses: FloatArray) -> Swarm:
    n_runs, n_targets = losses.shape
    return Swarm(
        ids=tuple(f"run-{row}" for row in range(n_runs)),
        domains=("a",),
        targets=tuple("xyz"[:n_targets]),
        weights=np.ones((n_runs, 1)),
        losses=losses,
        notices=("first",),
    )


def _losses(n_targets: int = 2) -> FloatArray:
    return 3.0 + 0.1 * np.random.default_rng(0).normal(size=(12, n_targets))


def test_good_runs_stay_without_a_word() -> None:
    """Ordinary scatter is no reason to say anything."""
    swarm = leave_out_broken(_swarm(_losses()))
    assert (len(swarm.ids), swarm.notices) == (12, ("first",))


def test_diverged_run_is_left_out_and_named() -> None:
    """Far from the others on every target, above or below: a crash may have written 0."""
    losses = _losses()
    losses[4], losses[7] = (11.0, 12.0), (0.0, 0.0)
    swarm = leave_out_broken(_swarm(losses))
    assert len(swarm.ids) == 10
    assert not {"run-4", "run-7"} & set(swarm.ids)
    assert "run run-4 is left out: it diverged or broke (far from" in swarm.notices[1]
    assert "such as y: 12, median" in swarm.notices[1]
    assert "run run-7 is left out" in swarm.notices[2]


def test_one_strange_loss_is_kept_and_named() -> None:
    """A mixture without code may be bad at code only."""
    losses = _losses()
    losses[4, 1] = 9.0
    swarm = leave_out_broken(_swarm(losses))
    assert len(swarm.ids) == 12
    assert (
        "run run-4 is kept; look at it (far from all others on 1 targets, such as y: 9"
        in (swarm.notices[1])
    )


def test_repeats_of_one_mixture_do_not_make_others_broken() -> None:
    """Most runs gauge the noise: what differs from them is no less a measurement."""
    losses = np.full((12, 2), 3.0) + 0.001 * np.random.default_rng(0).normal(size=(12, 2))
    losses[:3] += 0.5
    assert leave_out_broken(_swarm(losses)).notices == ("first",)


def test_few_runs_and_constant_losses_are_left_alone() -> None:
    """Nothing can be called far from three others, nor from no spread at all."""
    few = _losses()[:4]
    few[0] = 100.0
    assert len(leave_out_broken(_swarm(few)).ids) == 4
    constant = np.full((12, 1), 2.0)
    constant[0] = 100.0
    assert len(leave_out_broken(_swarm(constant)).ids) == 12
