"""What a mixture must keep: shares of domains and of groups, inner ratios, phases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np

from cuvee.arrays import BoolArray, FloatArray, IntArray
from cuvee.errors import ConfigError, InfeasibleError
from cuvee.policy.mixture import column_names
from cuvee.search.conflicts import smallest_conflict
from cuvee.search.polytope import Polytope, Row, is_feasible
from cuvee.simplex import TOLERANCE, normalise, project


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupBound:
    """Least and largest share of several domains together."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    domains: tuple[str, ...]
    """Names; each of the pool."""
    at_least: float = 0.0
    """Least share of all of them together, in [0, 1]."""
    at_most: float = 1.0
    """Largest share of all of them together, in [0, 1]."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.at_least <= self.at_most <= 1.0:
            raise ConfigError(
                f"the bounds of {' + '.join(self.domains)} are {self.at_least:g} to "
                f"{self.at_most:g}; they must ascend within [0, 1]."
            )
        if not self.domains or len(set(self.domains)) < len(self.domains):
            raise ConfigError(
                f"a group's bounds name the domains {list(self.domains)}; name at least one, each "
                "once."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Constraints:
    """Linear limits on mixture weights that at least one mixture keeps.

    Raises:
        InfeasibleError: No mixture keeps the limits; the message names a smallest set of them that
            conflict.
    """

    domains: tuple[str, ...]
    """(n_columns,) domains; with several phases ``<domain>@<phase>``, phase by phase."""
    lower: FloatArray
    """(n_columns,) least shares, at least 0."""
    upper: FloatArray
    """(n_columns,) largest shares, at most 1."""
    rows: tuple[Row, ...] = ()
    """Further limits."""
    phases: tuple[float, ...] = (1.0,)
    """Shares of the run of its phases; each phase's columns sum to its share."""
    region: Polytope | None = field(init=False, repr=False, compare=False, default=None)
    """The limits as a polytope, where they are more than bounds on columns."""

    def __post_init__(self) -> None:
        if not self.rows and len(self.phases) == 1:
            _check_feasible(self.domains, self.lower, self.upper)
            return
        region = Polytope.of(self.system())
        if region is None:
            raise InfeasibleError(_name_conflict(self))
        object.__setattr__(self, "region", region)

    @classmethod
    def from_bounds(
        cls,
        domains: tuple[str, ...],
        *,
        caps: FloatArray,
        bounds: Mapping[str, tuple[float, float]],
        groups: Sequence[GroupBound] = (),
        frozen: Sequence[Sequence[str]] = (),
        reference: FloatArray | None = None,
        phases: tuple[float, ...] = (1.0,),
    ) -> Self:
        """Join the caps of supply with bounds by name; the tighter one holds.

        With several phases, caps and bounds hold for the whole run and frozen ratios in each phase.

        Args:
            domains: (n_domains,) names.
            caps: (n_domains,) largest shares, from `simplex.supply_caps`.
            bounds: Least and largest share of some domains, both in [0, 1].
            groups: Least and largest shares of several domains together.
            frozen: Groups of domains whose shares keep the ratios they have in ``reference``.
            reference: (n_domains,) mixture; needed where there are frozen groups.
            phases: (n_phases,) shares of the run; sum to 1.

        Raises:
            ConfigError: A bound names an unknown domain or is not within [0, 1], a frozen group
                has no ratio to keep, or a domain is in two of them.
            InfeasibleError: No mixture keeps them all.
        """
        lower, upper = _joined(domains, caps, bounds)
        rows = [_group_row(domains, one) for one in groups]
        ratios = _frozen_rows(domains, frozen, reference)
        if len(phases) == 1:
            return cls(domains=domains, lower=lower, upper=upper, rows=(*rows, *ratios))
        n_domains, n_phases = len(domains), len(phases)
        rows += _bound_rows(domains, lower, upper)
        whole = [
            Row(
                text=row.text,
                coefficients=np.tile(row.coefficients, n_phases),
                lower=row.lower,
                upper=row.upper,
            )
            for row in rows
        ]
        parts = [
            Row(
                text=f"{row.text} in phase {phase + 1}",
                coefficients=np.concatenate(
                    [row.coefficients * (phase == other) for other in range(n_phases)]
                ),
                lower=row.lower,
                upper=row.upper,
            )
            for row in ratios
            for phase in range(n_phases)
        ]
        return cls(
            domains=column_names(domains, n_phases),
            lower=np.zeros(n_domains * n_phases),
            upper=np.repeat(np.asarray(phases), n_domains),
            rows=(*whole, *parts),
            phases=phases,
        )

    @property
    def sums(self) -> FloatArray:
        """(n_phases, n_columns) ones in the columns of each phase."""
        n_phases = len(self.phases)
        ones = np.ones(len(self.domains) // n_phases)
        return np.asarray(np.kron(np.eye(n_phases), ones), dtype=np.float64)

    def system(self) -> tuple[Row, ...]:
        """Return all limits as rows: sums of phases, bounds of columns, further rows."""
        sums = [
            Row(text="", coefficients=row, lower=share, upper=share)
            for row, share in zip(self.sums, self.phases, strict=True)
        ]
        nothing_below = [
            Row(text="", coefficients=column, lower=0.0) for column in np.eye(len(self.domains))
        ]
        return (
            *sums,
            *nothing_below,
            *_bound_rows(self.domains, self.lower, self.upper),
            *self.rows,
        )

    def project(self, weights: FloatArray) -> FloatArray:
        """Move each row to weights that keep the limits.

        Where only columns are bounded it is the nearest; with further rows or phases, the phases
        are scaled to their shares and moved as `Polytope.move_in` does.
        """
        if self.region is None:
            return project(weights, lower=self.lower, upper=self.upper)
        rows = np.atleast_2d(np.maximum(weights, 0.0))
        inner = self.region.move_in(self._scaled(rows))
        return self._scaled(inner).reshape(np.shape(weights))

    def satisfied(self, weights: FloatArray) -> BoolArray:
        """Tell which rows keep the limits, within `simplex.TOLERANCE`."""
        if self.region is not None:
            return self.region.keeps(weights)
        inside = (weights >= self.lower - TOLERANCE) & (weights <= self.upper + TOLERANCE)
        return np.asarray(np.all(inside, axis=-1), dtype=np.bool_)

    def only_point(self) -> FloatArray | None:
        """Return the one mixture that keeps the limits, or None where there are more."""
        if self.region is not None:
            wide = float(np.ptp(self.region.reach, axis=1).max()) > TOLERANCE
            return None if wide else self.project(self.region.inside)
        free = int(np.count_nonzero(self.upper - self.lower > TOLERANCE))
        room_below = 1.0 - float(self.lower.sum())
        room_above = float(self.upper.sum()) - 1.0
        if free > 1 and min(room_below, room_above) > TOLERANCE:
            return None
        return self.project((self.lower + self.upper) / 2.0)

    def _scaled(self, rows: FloatArray) -> FloatArray:
        """Scale each phase of (n_rows, n_columns) values to its share."""
        blocks = rows.reshape(len(rows), len(self.phases), len(self.domains) // len(self.phases))
        shares = np.asarray(self.phases)[None, :, None]
        empty = blocks.sum(axis=2, keepdims=True) <= 0.0
        scaled: FloatArray = normalise(np.where(empty, 1.0, blocks)) * shares
        return scaled.reshape(rows.shape)


def _joined(
    domains: tuple[str, ...], caps: FloatArray, bounds: Mapping[str, tuple[float, float]]
) -> tuple[FloatArray, FloatArray]:
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
    return lower, upper


def _positions(domains: tuple[str, ...], names: Sequence[str], what: str) -> list[int]:
    for name in names:
        if name not in domains:
            raise ConfigError(
                f"{what} names domain {name!r}, which the pool does not have; its domains are "
                f"{', '.join(domains)}."
            )
    return [domains.index(name) for name in names]


def _group_row(domains: tuple[str, ...], bound: GroupBound) -> Row:
    coefficients = np.zeros(len(domains))
    coefficients[_positions(domains, bound.domains, "a group's bounds")] = 1.0
    return Row(
        text=f"{bound.at_least:g} to {bound.at_most:g} of {' + '.join(bound.domains)}",
        coefficients=coefficients,
        lower=bound.at_least,
        upper=bound.at_most,
    )


def _frozen_rows(
    domains: tuple[str, ...], frozen: Sequence[Sequence[str]], reference: FloatArray | None
) -> list[Row]:
    rows: list[Row] = []
    seen: set[str] = set()
    for group in frozen:
        positions = _positions(domains, group, "a frozen group")
        twice = sorted(name for name in set(group) if name in seen or list(group).count(name) > 1)
        if twice:
            raise ConfigError(
                f"domain {twice[0]!r} stands twice in the frozen groups; name each domain once."
            )
        seen.update(group)
        shares = np.zeros(len(group)) if reference is None else reference[positions]
        if not shares.sum() > 0.0:
            raise ConfigError(
                f"the frozen group {' + '.join(group)} has no text in the reference mixture, so "
                "there is no ratio to keep. Give a reference with shares for it."
            )
        ratios = normalise(shares)
        text = f"{' : '.join(group)} as {' : '.join(f'{ratio:.3g}' for ratio in ratios)}"
        for position, ratio in zip(positions[1:], ratios[1:], strict=True):
            coefficients = np.zeros(len(domains))
            coefficients[positions] = -ratio
            coefficients[position] += 1.0
            rows.append(Row(text=text, coefficients=coefficients, lower=0.0, upper=0.0))
    return rows


def _bound_rows(domains: tuple[str, ...], lower: FloatArray, upper: FloatArray) -> list[Row]:
    rows = []
    for column, name in enumerate(domains):
        unit = np.zeros(len(domains))
        unit[column] = 1.0
        if lower[column] > 0.0:
            rows.append(
                Row(
                    text=f"at least {lower[column]:.4g} of {name}",
                    coefficients=unit,
                    lower=float(lower[column]),
                )
            )
        if upper[column] < 1.0:
            rows.append(
                Row(
                    text=f"at most {upper[column]:.4g} of {name}",
                    coefficients=unit,
                    upper=float(upper[column]),
                )
            )
    return rows


def _name_conflict(constraints: Constraints) -> str:
    system = constraints.system()
    always = [row for row in system if not row.text]
    # The equations of one frozen group are set or lifted together.
    texts = list(dict.fromkeys(row.text for row in system if row.text))
    found = smallest_conflict(
        texts,
        lambda some: not is_feasible([*always, *(row for row in system if row.text in set(some))]),
    )
    if len(found) == 1:
        return f"no mixture keeps this constraint: {found[0]}. Loosen it."
    return (
        f"constraints conflict: {'; '.join(found)}. No mixture keeps them together, and without "
        "any one of them there is one; loosen one of them."
    )


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
