"""Name a smallest set of constraints that no mixture keeps together."""

from collections.abc import Callable, Sequence
from typing import TypeVar

_Member = TypeVar("_Member")


def smallest_conflict(
    members: Sequence[_Member], conflicts: Callable[[Sequence[_Member]], bool]
) -> list[_Member]:
    """Drop members of a conflict until none can be dropped.

    Deletion filter: each member is left out once, and for good if the rest still conflict.

    Args:
        members: A set that conflicts.
        conflicts: Tells whether a set does; supersets of a conflict must conflict too.

    Returns:
        Members in the given order that conflict, and do not without any one of them.

    Source: Chinneck and Dravnieks, Locating minimal infeasible constraint sets in linear programs,
    ORSA Journal on Computing 3 (1991), deletion filtering.
    """
    kept = list(members)
    place = 0
    while place < len(kept):
        rest = kept[:place] + kept[place + 1 :]
        if conflicts(rest):
            kept = rest
        else:
            place += 1
    return kept
