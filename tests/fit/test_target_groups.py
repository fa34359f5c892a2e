"""Targets by groups: scores and weights by hand, and what is refused."""

import numpy as np
import pytest
from scipy.stats import spearmanr, zscore

from cuvee.arrays import FloatArray
from cuvee.errors import ConfigError, CuveeWarning, DataError
from cuvee.fit.target_groups import GroupedObjective, group_targets
from cuvee.randomness import stream

TARGETS = ("sums", "proofs", "facts")
GROUPS = {"maths": ("sums", "proofs"), "knowledge": ("facts",)}
RTOL = 1e-12
"""Rounding of float64 sums of a few dozen terms."""


def sweep(n_runs: int = 40) -> tuple[FloatArray, FloatArray]:
    """Make losses of very different spreads and predictions of which the last is poor."""
    rng = stream(3, "sweep")
    losses = rng.standard_normal((n_runs, 3)) * [0.01, 1.0, 100.0] + [1.0, 5.0, 300.0]
    noise = rng.standard_normal((n_runs, 3)) * [0.002, 0.2, 200.0]
    return losses, losses + noise


def grouped(losses: FloatArray, predicted: FloatArray) -> GroupedObjective:
    """Combine the targets by the groups of these tests."""
    return group_targets(losses, predicted, targets=TARGETS, groups=GROUPS)


def test_the_weighted_sum_is_that_of_the_groups_scores() -> None:
    """The objective in losses is the objective in scores but for a factor and a constant."""
    losses, predicted = sweep()
    found = grouped(losses, predicted)
    z = zscore(losses, ddof=1)
    scores = zscore(np.column_stack([z[:, :2].mean(axis=1), z[:, 2]]), ddof=1)
    by_groups = scores @ [group.weight for group in found.groups]
    by_losses = losses @ found.weights
    assert np.corrcoef(by_groups, by_losses)[0, 1] == pytest.approx(1.0, rel=RTOL)
    assert found.weights.sum() == pytest.approx(1.0, rel=RTOL)


def test_groups_weigh_as_they_are_predicted() -> None:
    """Weights are in proportion to the held-out rank correlations of the scores."""
    losses, predicted = sweep()
    found = grouped(losses, predicted)
    scale = losses.std(axis=0, ddof=1)
    maths = spearmanr((predicted / scale)[:, :2].mean(axis=1), (losses / scale)[:, :2].mean(axis=1))
    facts = spearmanr(predicted[:, 2], losses[:, 2])
    ranks = [group.rank for group in found.groups]
    assert ranks == pytest.approx([maths.statistic, facts.statistic], rel=1e-9)
    assert [group.weight for group in found.groups] == pytest.approx(
        [rank / sum(ranks) for rank in ranks], rel=RTOL
    )
    assert ranks[0] > 0.9 > ranks[1] > 0


def test_the_unit_of_a_loss_does_not_matter() -> None:
    """A target in other units gets a weight in other units: the order of mixtures stays."""
    losses, predicted = sweep()
    units = np.array([1.0, 1000.0, 0.1])
    one, other = grouped(losses, predicted), grouped(losses * units, predicted * units)
    first, second = losses @ one.weights, (losses * units) @ other.weights
    assert np.corrcoef(first, second)[0, 1] == pytest.approx(1.0, rel=RTOL)


def test_a_group_predicted_backwards_counts_for_nothing() -> None:
    """A negative rank correlation gives no weight."""
    losses, predicted = sweep()
    predicted[:, 2] = -losses[:, 2]
    found = grouped(losses, predicted)
    assert [group.weight for group in found.groups] == [1.0, 0.0]
    assert found.weights[2] == 0.0


def test_without_any_prediction_groups_weigh_the_same() -> None:
    """Constant predictions order nothing; that is said."""
    losses, predicted = sweep()
    with pytest.warns(CuveeWarning, match="no group of targets is predicted better than by chance"):
        found = grouped(losses, np.zeros_like(predicted))
    assert [group.weight for group in found.groups] == [0.5, 0.5]


def test_it_is_written_by_name() -> None:
    """JSON has each target's weight and each group's figures."""
    found = grouped(*sweep())
    plain = found.to_json(TARGETS)
    assert plain["weights"] == dict(zip(TARGETS, found.weights.tolist(), strict=True))


@pytest.mark.parametrize(
    ("groups", "fault"),
    [
        ({"a": ("sums", "proofs", "fact")}, "'fact' is not a target"),
        ({"a": ("sums", "proofs"), "b": ("sums", "facts")}, "'sums' stands in more than one group"),
        ({"a": ("sums", "proofs")}, "'facts' stands in no group"),
        ({"a": TARGETS, "b": ()}, "'b' is an empty group"),
    ],
)
def test_groups_must_divide_the_targets(groups: dict[str, tuple[str, ...]], fault: str) -> None:
    """The message names what is wrong and the targets."""
    losses, predicted = sweep()
    with pytest.raises(ConfigError) as caught:
        group_targets(losses, predicted, targets=TARGETS, groups=groups)
    assert str(caught.value) == (
        f"target_groups: {fault}; put each of facts, proofs, sums in exactly one group."
    )


def test_a_constant_loss_is_refused() -> None:
    """What no run moves cannot be standardised."""
    losses, predicted = sweep()
    losses[:, 1] = 2.0
    with pytest.raises(DataError, match=r"loss of target 'proofs' is the same in all runs"):
        grouped(losses, predicted)
