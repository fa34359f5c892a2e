"""What a bandit starts from: budgets that can be kept, what clusters may give, neighbours."""

import numpy as np
import numpy.typing as npt

from cuvee.errors import ConfigError, InfeasibleError
from cuvee.search.arms import ClusteredPool, DocumentQueues, Neighbours
from cuvee.search.bandit_config import BanditConfig


def supply_of(
    pool: ClusteredPool, config: BanditConfig, *, n_tokens: int, seed: int
) -> DocumentQueues:
    """Queue what every cluster may give.

    Args:
        pool: Documents and clusters.
        config: Its ``max_share``.
        n_tokens: The budget.
        seed: The run's seed.

    Raises:
        InfeasibleError: A share that was asked for leaves fewer tokens than the budget.
    """
    share = config.max_share or 0.5 + 0.5 * n_tokens / int(pool.n_tokens.sum())
    queues = DocumentQueues(pool, seed=seed, purpose="copies", share=share)
    allowed = int(queues.tokens_left.sum())
    if allowed >= n_tokens:
        return queues
    if config.max_share is None:
        return DocumentQueues(pool, seed=seed, purpose="copies")
    raise InfeasibleError(
        f"max_share {config.max_share:g} leaves {allowed:,} tokens, fewer than the budget of "
        f"{n_tokens:,}. Raise it, or lower the budget."
    )


def neighbours_of(
    pool: ClusteredPool, config: BanditConfig, centres: npt.NDArray[np.floating] | None
) -> Neighbours | None:
    """Weigh neighbours, where they are asked for.

    Args:
        pool: Clusters.
        config: Its ``neighbour_radius``.
        centres: (n_clusters, n_dimensions) of the clusters.

    Raises:
        ConfigError: There are no centres, or too few.
    """
    if config.neighbour_radius is None:
        return None
    if centres is None or len(centres) != pool.n_clusters:
        raise ConfigError(
            f"neighbour_radius is {config.neighbour_radius:g} but there are "
            f"{'no' if centres is None else len(centres)} centres for {pool.n_clusters} clusters; "
            "cluster by embeddings, or set it to null."
        )
    return Neighbours.of_centres(centres, radius=config.neighbour_radius)


def check_feasible(pool: ClusteredPool, config: BanditConfig, n_tokens: int) -> None:
    """Refuse a budget of tokens or of probes that cannot be kept.

    Args:
        pool: Documents and clusters.
        config: Its ``max_probes`` and ``n_refreshes``.
        n_tokens: The budget.

    Raises:
        InfeasibleError: The pool holds fewer tokens, or there are too few probes for one pull of
            every cluster and estimate.
    """
    available = int(pool.n_tokens.sum())
    if not 0 < n_tokens <= available:
        raise InfeasibleError(
            f"the token budget is {n_tokens:,}; it must be at least 1 and at most the pool's "
            f"{available:,} tokens. A bandit takes no document twice."
        )
    first = int(np.minimum(pool.count(), config.n_probes).sum())
    times = config.n_refreshes + 1
    if config.max_probes is not None and config.max_probes < times * first:
        anew = f", {times} times" if times > 1 else ""
        raise InfeasibleError(
            f"max_probes is {config.max_probes:,}, but one pull of each of {pool.n_clusters:,} "
            f"clusters scores {first:,} documents{anew}. Raise it, or use fewer clusters or probes."
        )
