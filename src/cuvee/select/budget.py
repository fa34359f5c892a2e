"""Turn a mixture and a token budget into tokens and epochs per domain, or say why it cannot be."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from cuvee.arrays import FloatArray, IntArray
from cuvee.errors import ConfigError, InfeasibleError
from cuvee.policy.mixture import Mixture
from cuvee.tables.statistics import PoolStatistics

MAX_SHARD_BYTES = 1 << 30
"""A column of strings counts bytes in 31 bits; half of that leaves room for one long document."""
_RELATIVE_SLACK = 1e-9
"""Weights sum to 1 and meet their caps within this; it must not cost a mixture its selection."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectConfig:
    """How the selection is written."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    n_tokens: int | None = None
    """Tokens to write; None is the target token budget."""
    shard_bytes: int = 64 << 20
    """UTF-8 bytes of text a shard; each worker holds about four times as much in memory."""
    compression: Literal["zstd", "snappy", "gzip", "none"] = "zstd"
    """Of the Parquet shards."""

    def __post_init__(self) -> None:
        if self.n_tokens is not None and self.n_tokens < 1:
            raise ConfigError(f"n_tokens is {self.n_tokens}; it must be at least 1")
        if not 1 <= self.shard_bytes <= MAX_SHARD_BYTES:
            raise ConfigError(
                f"shard_bytes is {self.shard_bytes}; it must be from 1 to {MAX_SHARD_BYTES} (1 GiB)"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectionPlan:
    """What a selection will hold, per domain in the pool's order."""

    domains: tuple[str, ...]
    n_tokens: int
    """The token budget."""
    planned_tokens: IntArray
    """(n_domains,) tokens to write; they sum to the budget, less what rounding had put over a
    domain's epoch limit."""
    pool_tokens: IntArray
    """(n_domains,) tokens on the training side of the given pool."""
    phase_tokens: IntArray
    """(n_phases, n_domains) the planned tokens by phase of the mixture."""
    copies: IntArray | None = None
    """(n_documents,) of all documents, in the order of the token store, where a policy has drawn
    them; None takes whole documents in hash order up to the planned tokens."""

    @property
    def epochs(self) -> FloatArray:
        """(n_domains,) times the given pool's text of each domain is passed over."""
        return np.asarray(self.planned_tokens / self.pool_tokens, dtype=np.float64)


def plan(
    mixture: Mixture,
    statistics: PoolStatistics,
    *,
    n_tokens: int,
    max_epochs: FloatArray | float,
) -> SelectionPlan:
    """Plan the tokens of each domain.

    Epochs are counted over the text that is given, since that is what gets written, whatever more
    is declared as available elsewhere.

    Args:
        mixture: Shares of tokens; domains are matched by name.
        statistics: The pool's training side.
        n_tokens: Token budget of the selection.
        max_epochs: Most epochs of any domain, or (n_domains,) of each.

    Returns:
        The plan.

    Raises:
        ConfigError: The budget is below one token.
        DataError: The mixture gives weight to a domain that the pool does not have.
        InfeasibleError: A domain would be repeated more often than ``max_epochs`` allows.

    Example:
        >>> one = np.array([100])
        >>> pool = PoolStatistics(
        ...     domains=("a",), n_documents=one, n_bytes=one, n_tokens=one, available_tokens=one
        ... )
        >>> plan(Mixture.flat(["a"], [1.0]), pool, n_tokens=250, max_epochs=4).epochs
        array([2.5])
    """
    if n_tokens < 1:
        raise ConfigError(f"the selection's token budget is {n_tokens}; it must be at least 1.")
    bound = mixture.bind(statistics, n_tokens=n_tokens)
    limits = np.broadcast_to(np.asarray(max_epochs, dtype=np.float64), bound.quotas.shape)
    allowed = limits * statistics.n_tokens
    slack = 1.0 + _RELATIVE_SLACK * n_tokens
    if np.any(bound.quotas > allowed + slack):
        raise InfeasibleError(_too_many_epochs(bound.weights, statistics, limits, n_tokens))
    planned = np.minimum(bound.quotas, np.floor(allowed)).astype(np.int64)
    return SelectionPlan(
        domains=statistics.domains,
        n_tokens=n_tokens,
        planned_tokens=planned,
        pool_tokens=statistics.n_tokens,
        phase_tokens=_by_phase(mixture, statistics.domains, planned),
    )


def _too_many_epochs(
    weights: FloatArray, statistics: PoolStatistics, limits: FloatArray, n_tokens: int
) -> str:
    epochs = weights * n_tokens / statistics.n_tokens
    order = np.argsort(-epochs / limits, kind="stable")
    over = [int(i) for i in order if epochs[i] > limits[i]]
    worst = over[0]
    others = [repr(statistics.domains[i]) for i in over[1:]]
    given, available = int(statistics.n_tokens[worst]), int(statistics.available_tokens[worst])
    largest = int(limits[worst] * given / weights[worst])
    more = (
        f"the {available:,} tokens declared as available"
        if available > given
        else "more text of that domain"
    )
    return (
        f"domain {statistics.domains[worst]!r} needs {epochs[worst]:.2f} epochs "
        f"({weights[worst] * n_tokens:,.0f} tokens of the {given:,} given) but max_epochs is "
        f"{limits[worst]:g}{'; so do ' + ', '.join(others) if others else ''}. Raise max_epochs, "
        f"lower the selection's token budget from {n_tokens:,} to at most {largest:,}, or give the "
        f"pool {more}."
    )


def _by_phase(mixture: Mixture, domains: tuple[str, ...], planned: IntArray) -> IntArray:
    """Divide each domain's tokens among the phases, rounding the running sums."""
    wanted = np.zeros((len(mixture.phases), len(domains)))
    for row, phase in zip(wanted, mixture.phases, strict=True):
        named = dict(zip(mixture.domains, phase.weights, strict=True))
        row[:] = [phase.share * named.get(name, 0.0) for name in domains]
    running = np.cumsum(wanted, axis=0)
    shares = np.divide(running, running[-1], out=np.zeros_like(running), where=running[-1] > 0.0)
    ends = np.rint(shares * planned).astype(np.int64)
    tokens: IntArray = np.diff(ends, axis=0, prepend=np.zeros((1, len(domains)), dtype=np.int64))
    return tokens
