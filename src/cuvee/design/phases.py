"""Mixtures that change once during a run: early and late weights, measured together.

A row holds the weights of both phases, each times its share of the run, one phase after the other
(`policy.mixture.column_names`). A domain's two columns add up to its share of the run, so supply
caps the sum, not the phases: a scarce domain can be kept for the end.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cuvee.arrays import FloatArray
from cuvee.design.dirichlet import DUPLICATE_DISTANCE, DesignConfig, sample_mixtures
from cuvee.design.own_domains import own_table
from cuvee.errors import ConfigError, InfeasibleError
from cuvee.policy.mixture import column_names
from cuvee.simplex import TOLERANCE, cap, check_weights, normalise
from cuvee.tables.design import Design

logger = logging.getLogger(__name__)

N_PHASES = 2
_LEAST_RUNS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class PhasesConfig(DesignConfig):
    """How the measured mixtures are chosen; each phase is drawn as the base says."""

    late_share: float = 0.25
    """Share of the run's tokens in the second phase, in (0, 1)."""
    same_share: float = 0.25
    """Share of the draws that keep one mixture through both phases, in [0, 1]: they tell what the
    order is worth."""

    def __post_init__(self) -> None:
        DesignConfig.__post_init__(self)
        if not 0.0 < self.late_share < 1.0:
            raise ConfigError(
                f"late_share is {self.late_share:g}; it must lie between 0 and 1. Use a design of "
                "one phase where there is no second."
            )
        if not 0.0 <= self.same_share <= 1.0:
            raise ConfigError(f"same_share is {self.same_share:g}; it must lie in [0, 1].")

    @property
    def shares(self) -> tuple[float, float]:
        """Shares of the run's tokens of both phases."""
        return 1.0 - self.late_share, self.late_share


def make_phases(
    domains: tuple[str, ...],
    prior: FloatArray,
    *,
    caps: FloatArray,
    own_domains: Mapping[str, tuple[str, ...]],
    config: PhasesConfig,
    rng: np.random.Generator,
) -> Design:
    """Lay out a sweep of two-phase mixtures.

    Fixed points are the natural and the uniform mixture through both phases, then for each target
    natural followed by its own domains, then the reverse. One equal to an earlier one is left out,
    and so are those beyond half of the runs, with a notice in the log. The rest is drawn: some of
    one mixture throughout, most of two independent ones.

    Args:
        domains: (n_domains,) names.
        prior: (n_domains,) natural weights; sum to 1.
        caps: (n_domains,) largest shares of the whole run.
        own_domains: For each target the domains that are of its own kind; may be empty.
        config: Number of runs, shares of the phases and the settings of the draws.
        rng: Source of the draws.

    Returns:
        ``config.n_runs`` mixtures: ``natural``, ``uniform``, ``late-<target>``, ...,
        ``early-<target>``, ..., ``same-000``, ..., ``change-000``, ...; columns are
        ``<domain>@1``, ..., ``<domain>@2``, ...

    Raises:
        ConfigError: A target's own domain is unknown, or there are fewer than 4 runs.
        InfeasibleError: The caps cannot be met.
    """
    check_weights(prior, n_domains=len(domains))
    if config.n_runs < _LEAST_RUNS:
        raise ConfigError(
            f"n_runs is {config.n_runs}; natural and uniform are always measured and two-phase "
            f"draws compared with them. Use n_runs >= {_LEAST_RUNS}."
        )
    points = _fixed_points(domains, prior, caps=caps, own_domains=own_domains, config=config)
    left_out = list(points)[config.n_runs // 2 :]
    if left_out:
        logger.info("half of the runs are draws: %s left out", ", ".join(left_out))
    points = {name: points[name] for name in points if name not in left_out}
    n_draws = config.n_runs - len(points)
    n_same = round(config.same_share * n_draws)
    draws = _draw(prior, n_same=n_same, n=n_draws, caps=caps, config=config, rng=rng)
    names = [f"same-{number:03d}" for number in range(n_same)]
    names += [f"change-{number:03d}" for number in range(n_draws - n_same)]
    return Design(
        run_ids=(*points, *names),
        kinds=tuple(name.split("-")[0] for name in (*points, *names)),
        domains=column_names(domains, N_PHASES),
        weights=np.concatenate([np.stack(list(points.values())), draws]),
    )


def join_phases(
    early: FloatArray, late: FloatArray, *, late_share: float, caps: FloatArray
) -> FloatArray:
    """Put the mixtures of two phases into rows that keep the caps of the whole run.

    Where the two together need more of a domain than there is, the excess goes to the others
    (`simplex.cap`); the late phase keeps its mixture as far as the run's totals allow.

    Args:
        early: (n_rows, n_domains) token shares of the first phase; rows sum to 1.
        late: (n_rows, n_domains) token shares of the second phase; rows sum to 1.
        late_share: Share of the run's tokens in the second phase, in (0, 1).
        caps: (n_domains,) largest shares of the whole run.

    Returns:
        (n_rows, 2 n_domains) weights times the phase's share: the first half of the columns sums to
        ``1 - late_share``, the second to ``late_share``.

    Raises:
        InfeasibleError: The caps sum to less than 1.
    """
    whole = cap((1.0 - late_share) * early + late_share * late, upper=caps)
    rows = [
        late_share * cap(weights, upper=total / late_share)
        for weights, total in zip(late, whole, strict=True)
    ]
    second = np.stack(rows)
    first = whole - second
    first[first < TOLERANCE] = 0.0
    first *= (1.0 - late_share) / first.sum(axis=1, keepdims=True)
    return np.hstack([first, second])


def _fixed_points(
    domains: tuple[str, ...],
    prior: FloatArray,
    *,
    caps: FloatArray,
    own_domains: Mapping[str, tuple[str, ...]],
    config: PhasesConfig,
) -> dict[str, FloatArray]:
    uniform = np.full(len(domains), 1.0 / len(domains))
    pairs = {"natural": (prior, prior), "uniform": (uniform, uniform)}
    owns: dict[str, FloatArray] = {}
    for target, inside in zip(own_domains, own_table(domains, own_domains), strict=True):
        if inside.any():
            own = normalise(np.where(inside, prior, 0.0))
            owns[target] = config.own_share * own + (1.0 - config.own_share) * prior
    pairs |= {f"late-{target}": (prior, own) for target, own in owns.items()}
    pairs |= {f"early-{target}": (own, prior) for target, own in owns.items()}
    points: dict[str, FloatArray] = {}
    for name, (early, late) in pairs.items():
        row = join_phases(early[None], late[None], late_share=config.late_share, caps=caps)[0]
        if all(np.abs(row - other).sum() > DUPLICATE_DISTANCE for other in points.values()):
            points[name] = row
    return points


def _draw(
    prior: FloatArray,
    *,
    n_same: int,
    n: int,
    caps: FloatArray,
    config: PhasesConfig,
    rng: np.random.Generator,
) -> FloatArray:
    """Draw rows of one mixture throughout, then rows of two."""

    def sample(n_rows: int, share: float) -> FloatArray:
        if n_rows == 0:
            return np.empty((0, len(prior)))
        room = np.minimum(caps / share, 1.0)
        return sample_mixtures(prior, n=n_rows, caps=room, config=config, rng=rng)

    early_share, late_share = config.shares
    same = sample(n_same, 1.0)
    early = np.concatenate([same, sample(n - n_same, early_share)])
    late = np.concatenate([same, sample(n - n_same, late_share)])
    rows = join_phases(early, late, late_share=late_share, caps=caps)
    if len(np.unique(rows.round(6), axis=0)) < n:
        raise InfeasibleError(
            f"the caps leave fewer distinct two-phase mixtures than the {n} wanted. Allow more "
            "epochs, lower the target token budget or measure fewer runs."
        )
    return rows
