"""What a bandit did, round by round: all that is needed to go on, or to tell of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, cast

from cuvee.artifacts import Json
from cuvee.errors import DataError

_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Pull:
    """One arm of one round."""

    cluster: int
    score: float | None
    """Upper confidence score it was chosen by; None for a first pull, which needs none."""
    rewards: tuple[float, ...]
    """Scores of the documents probed, in the order they were drawn."""
    probe_tokens: int
    """Tokens of those documents."""
    mean: float
    """Of all the cluster's probes so far."""
    accepted: bool
    n_documents: int
    """Taken for the selection."""
    n_tokens: int
    """Tokens of the documents taken."""

    def to_json(self) -> dict[str, Json]:
        """Return the pull as plain JSON."""
        return {
            "cluster": self.cluster,
            "score": self.score,
            "rewards": list(self.rewards),
            "probe_tokens": self.probe_tokens,
            "mean": self.mean,
            "accepted": self.accepted,
            "n_documents": self.n_documents,
            "n_tokens": self.n_tokens,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> Self:
        """Make a pull from the answer of `to_json`."""
        values = dict(data)
        rewards = tuple(float(one) for one in cast(Sequence[float], values.pop("rewards")))
        return cls(rewards=rewards, **values)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What one round chose, learnt and took; totals are those at its end."""

    number: int
    """From 1."""
    survey: bool
    """A round of first pulls: clusters are probed and nothing is taken."""
    exploration: float
    """alpha, in the unit of rewards."""
    threshold: float | None
    """Mean reward a cluster had to have; None: every cluster pulled was accepted."""
    pulls: tuple[Pull, ...]
    total_probes: int
    """Documents scored so far."""
    total_tokens: int
    """Tokens taken so far."""
    total_flops: float
    """Spent on probes so far."""
    regret: float
    """Estimate of `arms.regret_per_token` so far, from means shrunk by their doubt."""
    estimate: int = 0
    """How often rewards had been estimated anew."""

    def to_json(self) -> dict[str, Json]:
        """Return the round as plain JSON; floats come back exactly."""
        return {
            "number": self.number,
            "estimate": self.estimate,
            "survey": self.survey,
            "exploration": self.exploration,
            "threshold": self.threshold,
            "pulls": [pull.to_json() for pull in self.pulls],
            "total_probes": self.total_probes,
            "total_tokens": self.total_tokens,
            "total_flops": self.total_flops,
            "regret": self.regret,
        }

    def matches(self, other: "Round") -> bool:
        """Tell whether two rounds are the same: choices exactly, numbers up to rounding.

        Another processor may add in another order; that is no other round.
        """
        return _alike(self.to_json(), other.to_json())

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> Self:
        """Make a round from the answer of `to_json`.

        Raises:
            DataError: A key is missing, unknown or of another kind.
        """
        try:
            values = dict(data)
            pulls = cast(Sequence[Mapping[str, Json]], values.pop("pulls"))
            return cls(pulls=tuple(Pull.from_json(one) for one in pulls), **values)  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"a round of the bandit's log is not in the expected form ({error!r}). Delete the "
                "search's folder and run it again."
            ) from error


def _alike(one: Json, other: Json) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=_ROUNDING, abs_tol=_ROUNDING)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return set(one) == set(other) and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    return one == other
