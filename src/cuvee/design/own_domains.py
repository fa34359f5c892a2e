"""Targets' own domains by name, as rows of a table."""

from collections.abc import Mapping

import numpy as np

from cuvee.arrays import BoolArray
from cuvee.errors import ConfigError


def own_table(domains: tuple[str, ...], own_domains: Mapping[str, tuple[str, ...]]) -> BoolArray:
    """Mark which domains are of each target's own kind.

    Args:
        domains: (n_domains,) names.
        own_domains: For each target the domains that are of its own kind; may be empty.

    Returns:
        (n_targets, n_domains) True for own domains, targets in the order of the mapping.

    Raises:
        ConfigError: A target names a domain that is not there.

    Example:
        >>> own_table(("code", "web"), {"qa": (), "programs": ("code",)}).tolist()
        [[False, False], [True, False]]
    """
    own = np.zeros((len(own_domains), len(domains)), dtype=np.bool_)
    for row, (target, names) in enumerate(own_domains.items()):
        for name in names:
            if name not in domains:
                raise ConfigError(
                    f"target {target!r} names own domain {name!r}, which the pool does not have; "
                    f"its domains are {', '.join(domains)}."
                )
            own[row, domains.index(name)] = True
    return own
