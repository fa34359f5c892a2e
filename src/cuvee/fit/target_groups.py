"""Combine many targets by groups: each standardised, groups weighed by how well they are predicted.

The mean over many tasks is flat: where one rises another falls, and tasks that no mixture moves add
noise alone. Tasks of one kind are therefore averaged in units of their own spread, and a group
counts as much as its order over mixtures can be predicted.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.errors import ConfigError, CuveeWarning, DataError
from cuvee.fit.crossval import rank_correlation


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetGroup:
    """One group in the objective."""

    name: str
    targets: tuple[str, ...]
    rank: float
    """Spearman correlation of its predicted and measured score over runs that were held out; 0
    where either is constant."""
    weight: float
    """Its part of the objective, in standard deviations of its score; all sum to 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupedObjective:
    """Targets combined by groups."""

    groups: tuple[TargetGroup, ...]
    weights: FloatArray
    """(n_targets,) of the losses themselves, so that their weighted sum orders mixtures as the
    groups' weighted scores do; at least 0, sum to 1."""

    def to_json(self, targets: Sequence[str]) -> dict[str, Json]:
        """Return it as plain JSON data, weights by target."""
        return {
            "weights": dict(zip(targets, self.weights.tolist(), strict=True)),
            "groups": [asdict(group) for group in self.groups],
        }


def check_groups(groups: Mapping[str, Sequence[str]], targets: Sequence[str]) -> None:
    """Refuse groups that are no division of the targets.

    Args:
        groups: Names of targets by group.
        targets: All targets.

    Raises:
        ConfigError: A target is unknown, in two groups or in none, or a group is empty.
    """
    members = [name for group in groups.values() for name in group]
    unknown = sorted(set(members) - set(targets))
    twice = sorted({name for name in members if members.count(name) > 1})
    left = sorted(set(targets) - set(members))
    empty = [name for name, group in groups.items() if not group]
    for found, what in (
        (unknown, "is not a target"),
        (twice, "stands in more than one group"),
        (left, "stands in no group"),
        (empty, "is an empty group"),
    ):
        if found:
            raise ConfigError(
                f"target_groups: {found[0]!r} {what}; put each of {', '.join(sorted(targets))} in "
                "exactly one group."
            )


def group_targets(
    losses: FloatArray,
    predicted: FloatArray,
    *,
    targets: Sequence[str],
    groups: Mapping[str, Sequence[str]],
) -> GroupedObjective:
    """Combine targets by groups.

    z_t = (L_t - mean_t) / sd_t over the runs; a group's score is s_g = mean_{t in g} z_t / sd_g,
    with sd_g that of the mean over the runs; the objective is sum_g w_g s_g with w_g proportional
    to max(0, rho_g), the rank correlation of s_g with the same of held-out predictions. As scores
    are linear in losses, it is a weighted sum of these: c_t proportional to w_g / (n_g sd_g sd_t).

    Args:
        losses: (n_runs, n_targets) measured, finite.
        predicted: (n_runs, n_targets) of each run by a model that has not seen it.
        targets: (n_targets,) names.
        groups: Names of targets by group; each target in exactly one.

    Returns:
        Weights of groups and of targets; with a warning equal weights where no group is predicted.

    Raises:
        ConfigError: As `check_groups`.
        DataError: A loss or a group's score is the same in all runs.
    """
    check_groups(groups, targets)
    spread = losses.std(axis=0, ddof=1)
    _check_spread(spread, targets, "loss of target")
    member = np.array([[name in group for name in targets] for group in groups.values()])
    shares = member / member.sum(axis=1, keepdims=True) / spread
    scores, guessed = losses @ shares.T, predicted @ shares.T
    group_spread = scores.std(axis=0, ddof=1)
    _check_spread(group_spread, tuple(groups), "score of target group")
    found = [rank_correlation(guessed[:, g], scores[:, g]) for g in range(len(groups))]
    ranks = np.array([0.0 if rank is None else rank for rank in found])
    part = np.maximum(ranks, 0.0)
    if not part.any():
        warnings.warn(
            "no group of targets is predicted better than by chance; all groups weigh the same. "
            "Measure more runs, or change target_groups.",
            CuveeWarning,
            stacklevel=2,
        )
        part = np.ones(len(part))
    part = part / part.sum()
    weights = (part / group_spread) @ shares
    return GroupedObjective(
        groups=tuple(
            TargetGroup(name=name, targets=tuple(own), rank=float(rank), weight=float(weight))
            for (name, own), rank, weight in zip(groups.items(), ranks, part, strict=True)
        ),
        weights=np.asarray(weights / weights.sum(), dtype=np.float64),
    )


def _check_spread(spread: FloatArray, names: Sequence[str], what: str) -> None:
    still = np.flatnonzero(~(spread > 0.0))
    if len(still):
        raise DataError(
            f"{what} {names[still[0]]!r} is the same in all runs, so that it cannot be "
            "standardised; leave it out of the targets, or measure more runs."
        )
