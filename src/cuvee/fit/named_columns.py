"""Own domains and objectives that a user states by the names of a table's columns."""

import difflib
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from cuvee.arrays import FloatArray
from cuvee.errors import ConfigError
from cuvee.fit.own_domains import match_own_domains
from cuvee.tables.swarm import Swarm


def own_columns(swarm: Swarm, named: Mapping[str, str]) -> tuple[int | None, ...]:
    """Return each target's own domain: as named, else by its name, else None.

    Args:
        swarm: Domains and targets.
        named: Own domain of some targets.

    Returns:
        (n_targets,) columns of ``weights``.

    Raises:
        ConfigError: A name is no target's or no domain's.
    """
    own = list(match_own_domains(swarm.domains, swarm.targets))
    for target, domain in named.items():
        _require_name(target, swarm.targets, "target")
        _require_name(domain, swarm.domains, "domain")
        own[swarm.targets.index(target)] = swarm.domains.index(domain)
    return tuple(own)


def objective_weights(targets: Sequence[str], named: Mapping[str, float]) -> FloatArray:
    """Return the (n_targets,) weights of the objective, summing to 1; by default all alike.

    Args:
        targets: Names of the targets.
        named: Weights of some of them, at least 0; the others get 0.

    Raises:
        ConfigError: A name is no target's, a weight is negative or not finite, or all are 0.
    """
    if not named:
        return np.full(len(targets), 1.0 / len(targets))
    for target, weight in named.items():
        _require_name(target, targets, "target")
        if not (np.isfinite(weight) and weight >= 0.0):
            raise ConfigError(
                f"objective weight of {target!r} is {weight:g}; weights must be at least 0."
            )
    weights = np.array([named.get(target, 0.0) for target in targets])
    if not weights.sum() > 0.0:
        raise ConfigError("the objective's weights are all 0; give one target a weight above 0.")
    return cast(FloatArray, weights / weights.sum())


def _require_name(name: str, names: Sequence[str], what: str) -> None:
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
        raise ConfigError(
            f"{name!r} is no {what} of the tables; their {what}s are {', '.join(names)}. Did you "
            f"mean {near[0]!r}?"
        )
