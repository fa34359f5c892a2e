"""Mixture reuse: what a finished sweep still tells when the domains of the pool have changed.

Domains whose text is the same keep the inner ratios of the earlier optimum and become one virtual
domain; only mixtures of it and of the changed domains are measured anew, and expanded back. A run
made earlier stays evidence: the text that is gone since keeps a column of its own, at zero in every
mixture still to come.

Source: Olmix (arXiv:2602.12237), mixture reuse.
Deviation: there a new optimum is searched on the new runs alone; here the earlier runs stay in the
    fit beside them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from cuvee.arrays import BoolArray, FloatArray
from cuvee.artifacts import Json
from cuvee.design.dirichlet import DesignConfig, make_design
from cuvee.errors import DataError, InfeasibleError
from cuvee.simplex import TOLERANCE, cap, normalise
from cuvee.tables.design import Design

NOT_COMPARED = ("mixture", "subset_tokens", "device", "points", "checkpoints", "step")
"""Keys of a run's spec that may differ: what it was trained on is compared by domain, and the
others do not change its last losses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainChanges:
    """What became of each domain between two pools."""

    unchanged: tuple[str, ...]
    """Of both pools, with the same text."""
    revised: tuple[str, ...]
    """Of both pools, with other text."""
    added: tuple[str, ...]
    """Of the new pool only."""
    removed: tuple[str, ...]
    """Of the old pool only."""

    @property
    def changed(self) -> tuple[str, ...]:
        """Domains of the new pool that no earlier run was trained on, sorted."""
        return tuple(sorted((*self.revised, *self.added)))


def classify_domains(old: Mapping[str, str], new: Mapping[str, str]) -> DomainChanges:
    """Tell domains apart by name and fingerprint.

    A domain that was split is one removed and several added; one that was renamed, one removed and
    one added.

    Args:
        old: Fingerprint of each domain of the old pool.
        new: Fingerprint of each domain of the new pool.

    Example:
        >>> classify_domains({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "9", "d": "4"})
        DomainChanges(unchanged=('a',), revised=('b',), added=('d',), removed=('c',))
    """
    both = sorted(set(old) & set(new))
    return DomainChanges(
        unchanged=tuple(name for name in both if old[name] == new[name]),
        revised=tuple(name for name in both if old[name] != new[name]),
        added=tuple(sorted(set(new) - set(old))),
        removed=tuple(sorted(set(old) - set(new))),
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Collapse:
    """Mixtures in which the unchanged domains keep their inner ratios.

    The reduced mixture ``(v, c_1, ..., c_k)`` stands for ``v * inner + c``.
    """

    domains: tuple[str, ...]
    """(n_domains,) names of the whole mixture."""
    inner: FloatArray
    """(n_domains,) ratios inside the virtual domain, summing to 1; 0 for the changed domains."""
    changed: tuple[str, ...]
    """(n_changed,) domains with a share of their own."""

    @classmethod
    def about(
        cls, domains: tuple[str, ...], weights: FloatArray, *, changed: Collection[str]
    ) -> Self:
        """Freeze the ratios of all domains but the changed ones.

        Args:
            domains: (n_domains,) names.
            weights: (n_domains,) at least 0: a mixture whose ratios are kept; the changed domains'
                share in it does not count.
            changed: Domains whose share stays free.

        Raises:
            DataError: No domain is left to freeze, or those left have no share.
        """
        is_changed = np.isin(np.asarray(domains), np.asarray(sorted(changed), dtype=np.str_))
        kept = np.where(is_changed, 0.0, weights)
        if not kept.sum() > 0.0:
            raise DataError(
                "no unchanged domain has a share whose ratios could be kept; measure the whole "
                "pool anew, without reuse."
            )
        names = tuple(name for name, free in zip(domains, is_changed, strict=True) if free)
        return cls(domains=domains, inner=normalise(kept), changed=names)

    @property
    def reduced(self) -> tuple[str, ...]:
        """(1 + n_changed,) names of the reduced mixture, the virtual domain first."""
        virtual = "unchanged"
        while virtual in self.domains:
            virtual += "*"
        return (virtual, *self.changed)

    def expand(self, weights: FloatArray) -> FloatArray:
        """Return the (..., n_domains) mixtures that (..., 1 + n_changed) reduced ones stand for."""
        whole: FloatArray = weights[..., :1] * self.inner
        whole[..., self._is_changed] = weights[..., 1:]
        return whole

    def collapse(self, weights: FloatArray) -> FloatArray:
        """Add up the unchanged domains' shares: (..., n_domains) to (..., 1 + n_changed).

        Exact only where they stand in the frozen ratios.
        """
        free = weights[..., self._is_changed]
        together = weights[..., ~self._is_changed].sum(axis=-1, keepdims=True)
        return np.concatenate([together, free], axis=-1)

    def collapse_bounds(
        self, lower: FloatArray, upper: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Turn bounds of whole mixtures into bounds of reduced ones.

        The virtual domain may have ``min_i upper_i / inner_i`` and must have
        ``max_i lower_i / inner_i``.

        Args:
            lower: (n_domains,) least shares.
            upper: (n_domains,) largest shares.

        Returns:
            Least and largest shares, both (1 + n_changed,).

        Raises:
            InfeasibleError: A domain must have a share but has none inside the virtual domain.
        """
        frozen = self.inner > 0.0
        for position in np.flatnonzero((lower > TOLERANCE) & ~frozen & ~self._is_changed)[:1]:
            raise InfeasibleError(
                f"domain {self.domains[position]!r} must have at least {lower[position]:g}, but "
                "the mixture whose ratios are kept gives it none. Leave its bound out, or reuse "
                "nothing."
            )
        least = float((lower[frozen] / self.inner[frozen]).max())
        largest = min(1.0, float((upper[frozen] / self.inner[frozen]).min()))
        free = self._is_changed
        return np.concatenate([[least], lower[free]]), np.concatenate([[largest], upper[free]])

    @property
    def _is_changed(self) -> BoolArray:
        found: BoolArray = np.isin(
            np.asarray(self.domains), np.asarray(self.changed, dtype=np.str_)
        )
        return found


def design_changed(
    collapse: Collapse,
    prior: FloatArray,
    *,
    caps: FloatArray,
    own_domains: Mapping[str, tuple[str, ...]],
    config: DesignConfig,
    rng: np.random.Generator,
) -> Design:
    """Lay out the runs that changed domains need: the natural mixture, then frozen ratios.

    A whole design has ``n_runs`` for n_domains; the reduced one has as many in proportion to its
    own dimensions, and never fewer than its fixed points and two draws.

    Args:
        collapse: Which domains changed, and the ratios of the others.
        prior: (n_domains,) natural weights; sum to 1.
        caps: (n_domains,) largest shares.
        own_domains: For each target the domains of its own kind; only changed ones get a point.
        config: Runs of a whole design, and the settings of the draws.
        rng: Source of the draws.

    Returns:
        ``natural``, then mixtures in which the unchanged domains keep their ratios: ``even`` (half
        and half with one changed domain), ``own-<target>`` and ``draw-000``, ...

    Raises:
        InfeasibleError: The caps cannot be met with these ratios.
    """
    own = {
        target: changed
        for target, names in own_domains.items()
        if (changed := tuple(name for name in names if name in collapse.changed))
    }
    n_reduced, n_domains = 1 + len(collapse.changed), len(collapse.domains)
    needed = max(-(-config.n_runs * n_reduced // n_domains), 4 + len(own))
    _, limits = collapse.collapse_bounds(np.zeros(n_domains), caps)
    made = make_design(
        collapse.reduced,
        collapse.collapse(prior),
        caps=limits,
        own_domains=own,
        config=replace(config, n_runs=needed),
        rng=rng,
    )
    weights = collapse.expand(made.weights)
    weights[0] = cap(prior, upper=caps)
    # The names of the reduced space's fixed points would be read as those of the whole one.
    is_even = [name == "uniform" for name in made.run_ids]
    pairs = list(zip(made.run_ids, made.kinds, is_even, strict=True))
    return Design(
        run_ids=tuple("even" if even else name for name, _, even in pairs),
        kinds=tuple("draw" if even else kind for _, kind, even in pairs),
        domains=collapse.domains,
        weights=normalise(weights),
    )


def why_refused(
    spec: Mapping[str, Json],
    wanted: Mapping[str, Json],
    *,
    shares: Mapping[str, float],
    unchanged: Collection[str],
) -> str | None:
    """Say why an earlier run cannot stand beside new ones, or None where it can.

    Args:
        spec: All that decided the earlier run's result (spec.json of its folder).
        wanted: The same of a new run.
        shares: The earlier run's share of each domain.
        unchanged: Domains whose text is the same in both pools: of these the run must have drawn
            from a part of the same size.
    """
    for key in sorted((set(spec) | set(wanted)) - set(NOT_COMPARED)):
        if spec.get(key) != wanted.get(key):
            return f"{key} was {spec.get(key)}, and is {wanted.get(key)} here"
    for name in sorted(unchanged):
        before, now = (_subset(one, name) for one in (spec, wanted))
        if shares.get(name, 0.0) > 0.0 and before != now:
            return (
                f"drew from {_amount(before)} of domain {name!r}, and would from {_amount(now)} "
                "here"
            )
    return None


def _subset(spec: Mapping[str, Json], name: str) -> int | None:
    parts = spec.get("subset_tokens")
    found = parts.get(name) if isinstance(parts, Mapping) else None
    return found if isinstance(found, int) else None


def _amount(n_tokens: int | None) -> str:
    return "all" if n_tokens is None else f"{n_tokens:,} tokens"
