"""What a mixture must keep: a lower and an upper share for each domain."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from cuvee.arrays import BoolArray, FloatArray, IntArray
from cuvee.errors import ConfigError, InfeasibleError
from cuvee.simplex import TOLERANCE, project


@dataclass(frozen=True, kw_only=True, slots=True)
class Constraints:
    """Bounds on mixture weights that at least one mixture keeps.

    Raises:
        InfeasibleError: No mixture keeps the bounds; the message names a smallest set of domains
            whose bounds conflict.
    """

    domains: tuple[str, ...]
    lower: FloatArray
    """(n_domains,) least shares, at least 0."""
    upper: FloatArray
    """(n_domains,) largest shares, at most 1."""

    def __post_init__(self) -> None:
        _check_feasible(self.domains, self.lower, self.upper)

    @classmethod
    def from_bounds(
        cls,
        domains: tuple[str, ...],
        *,
        caps: FloatArray,
        bounds: Mapping[str, tuple[float, float]],
    ) -> Self:
        """Join the caps of supply with bounds by name; the tighter one holds.

        Args:
            domains: (n_domains,) names.
            caps: (n_domains,) largest shares, from `simplex.supply_caps`.
            bounds: Least and largest share of some domains, both in [0, 1].

        Raises:
            ConfigError: A bound names an unknown domain or is not within [0, 1].
            InfeasibleError: No mixture keeps them all.
        """
        lower = np.zeros(len(domains))
        upper = np.minimum(caps, 1.0)
        for name, (least, largest) in bounds.items():
            if name not in domains:
                raise ConfigError(
                    f"bounds name domain {name!r}, which the pool does not have; its domains are "
                    f"{', '.join(domains)}."
                )
            if not (0.0 <= least <= 1.0 and 0.0 <= largest <= 1.0):
                raise ConfigError(
                    f"bounds of domain {name!r} are {least:g} to {largest:g}; shares lie in [0, 1]."
                )
            position = domains.index(name)
            lower[position] = least
            upper[position] = min(upper[position], largest)
        return cls(domains=domains, lower=lower, upper=upper)

    def project(self, weights: FloatArray) -> FloatArray:
        """Return the nearest weights that keep the bounds, for each row."""
        return project(weights, lower=self.lower, upper=self.upper)

    def satisfied(self, weights: FloatArray) -> BoolArray:
        """Tell which rows keep the bounds, within `simplex.TOLERANCE`."""
        inside = (weights >= self.lower - TOLERANCE) & (weights <= self.upper + TOLERANCE)
        return np.asarray(np.all(inside, axis=-1), dtype=np.bool_)

    def only_point(self) -> FloatArray | None:
        """Return the one mixture that keeps the bounds, or None where there are more."""
        free = int(np.count_nonzero(self.upper - self.lower > TOLERANCE))
        room_below = 1.0 - float(self.lower.sum())
        room_above = float(self.upper.sum()) - 1.0
        if free > 1 and min(room_below, room_above) > TOLERANCE:
            return None
        return self.project((self.lower + self.upper) / 2.0)


def _check_feasible(domains: tuple[str, ...], lower: FloatArray, upper: FloatArray) -> None:
    for position in np.flatnonzero(~(lower <= upper))[:1]:
        raise InfeasibleError(
            f"domain {domains[position]!r} must have at least {lower[position]:g} but can have at "
            f"most {upper[position]:g} (bounds and supply together). Lower its least share, or "
            "allow it more epochs."
        )
    if lower.sum() > 1.0 + TOLERANCE:
        order = np.argsort(-lower, kind="stable")
        needed = int(np.argmax(np.cumsum(lower[order]) > 1.0 + TOLERANCE)) + 1
        conflict = np.sort(order[:needed])
        raise InfeasibleError(
            f"least shares conflict: {_listed(domains, lower, conflict)} sum to "
            f"{lower[conflict].sum():.6g}; they must sum to at most 1. Lower one of them."
        )
    if upper.sum() < 1.0 - TOLERANCE:
        # With any one of them lifted to 1 there would be a mixture, so the whole set is smallest.
        everything = np.arange(len(domains))
        raise InfeasibleError(
            f"largest shares conflict: {_listed(domains, upper, everything)} sum to "
            f"{upper.sum():.6g}; they must sum to at least 1. Raise a bound, allow more epochs, "
            "lower the target token budget or add text."
        )


def _listed(domains: tuple[str, ...], values: FloatArray, positions: IntArray) -> str:
    return ", ".join(f"{domains[position]} {values[position]:.4g}" for position in positions)
