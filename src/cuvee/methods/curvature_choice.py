"""Which way of computing influence is used: ranks beside training's, and the cheapest of the best.

Ways whose agreement with training cannot be told from the best one's are as good for all that is
known, so that the cheapest of them is taken: none, diagonal, kfac, ekfac, refined, in this order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast

import numpy as np
from scipy.stats import rankdata

from cuvee.arrays import FloatArray
from cuvee.errors import ConfigError
from cuvee.fit.feature_models import mean_rank
from cuvee.methods.quad_engine import InfluenceConfig

KINDS = ("none", "diagonal", "kfac", "ekfac", "refined")
"""Ways of computing influence, the cheapest first; refined: ekfac and conjugate gradients."""
_BOOTSTRAP = 2000
_INTERVAL = (0.05, 0.95)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckConfig:
    """What a check compares, and how long it trains."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    n_clusters: int = 12
    """Clusters trained on, chosen by chance among those with documents enough."""
    n_tokens: int = 32_768
    """Tokens the model is continued on each."""
    n_seeds: int = 2
    """Runs of each cluster, on other documents' order."""
    n_probes: int = 20
    """Documents of each cluster that are scored."""
    where: tuple[str, ...] = ("attention", "mlp", "all")
    """Matrices whose influence is compared."""
    dampings: tuple[float, ...] = (0.01, 0.1, 1.0)
    """In units of each matrix's mean eigenvalue."""

    def __post_init__(self) -> None:
        if self.n_clusters < 4 or self.n_tokens < 1 or self.n_seeds < 1 or self.n_probes < 1:
            raise ConfigError(
                f"the check is of {self.n_clusters} clusters, {self.n_tokens} tokens, "
                f"{self.n_seeds} seeds and {self.n_probes} probes; they must be at least 4, 1, 1 "
                "and 1."
            )
        wrong = sorted(set(self.where) - {"attention", "mlp", "all"})
        if wrong or not self.where or not self.dampings or min(self.dampings) <= 0.0:
            raise ConfigError(
                f"where is {list(self.where)} and dampings {list(self.dampings)}; choose from "
                "attention, mlp and all, and numbers above 0, at least one of each."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class WayRank:
    """How well one way of computing influence ranks clusters."""

    name: str
    """``<where>/<curvature>`` and the damping where there is one."""
    rank: float
    """Spearman correlation of mean influence and the fall of the objective."""
    low: float
    """Lower end of its 90% interval over draws of the clusters."""
    high: float
    ahead: float
    """Rank above that of the plain inner product of the same matrices, or of attention's."""
    ahead_low: float
    """Lower end of that difference's 90% interval."""
    behind_low: float
    """Lower end of the 90% interval of the best way's rank less this one's: above 0, the best is
    surely better; 0 of the best itself."""


def compare_ways(
    scores: Mapping[str, FloatArray], falls: FloatArray, *, rng: np.random.Generator
) -> list[WayRank]:
    """Rank ways of computing influence by their agreement with training.

    Args:
        scores: (n_clusters,) mean influence by way, ``<where>/none`` among them.
        falls: (n_clusters,) falls of the objective, larger is better.
        rng: Draws clusters with replacement.

    Returns:
        The ways, best first.
    """
    draws = rng.integers(len(falls), size=(_BOOTSTRAP, len(falls)))
    measured = falls[draws]
    drawn = {name: _row_ranks(values[draws], measured) for name, values in scores.items()}
    ranks = {name: mean_rank(values, falls) for name, values in scores.items()}
    best = max(ranks, key=lambda name: ranks[name])
    found = []
    for name in scores:
        plain = f"{name.partition('/')[0]}/none"
        low, high = np.quantile(drawn[name], _INTERVAL)
        found.append(
            WayRank(
                name=name,
                rank=ranks[name],
                low=float(low),
                high=float(high),
                ahead=ranks[name] - ranks[plain],
                ahead_low=float(np.quantile(drawn[name] - drawn[plain], _INTERVAL[0])),
                behind_low=float(np.quantile(drawn[best] - drawn[name], _INTERVAL[0])),
            )
        )
    return sorted(found, key=lambda one: -one.rank)


def choose_way(found: Sequence[WayRank]) -> WayRank:
    """Choose the best way, or the cheapest of those that cannot be told from it.

    Args:
        found: From `compare_ways`, best first.

    Returns:
        Of equally cheap ones, which differ in damping or matrices, the one that ranks best.
    """
    alike = [one for one in found if one.behind_low <= 0.0]
    return min(alike, key=lambda one: KINDS.index(_parts(one.name)[1]))


def settings_of(name: str, settings: InfluenceConfig) -> InfluenceConfig:
    """Return settings with a way's matrices, curvature, damping and steps.

    Args:
        name: Of a `WayRank`.
        settings: All else; the steps are those of ``refined``.

    Example:
        >>> settings_of("mlp/kfac 0.1", InfluenceConfig(curvature="auto")).steps
        0
    """
    where, kind, damping = _parts(name)
    refined = kind == "refined"
    return replace(
        settings,
        where=cast(Literal["attention", "mlp", "all"], where),
        curvature=cast(Literal["none", "diagonal", "kfac", "ekfac"], "ekfac" if refined else kind),
        damping=settings.damping if damping is None else damping,
        steps=settings.steps if refined else 0,
    )


def describe_choice(found: Sequence[WayRank]) -> str:
    """Say in a sentence which way was chosen, and what was known of it."""
    chosen, best = choose_way(found), found[0]
    said = (
        f"Influence is computed by {chosen.name}: its ranks of clusters agree with those of short "
        f"training by {chosen.rank:.2f} (90% interval {chosen.low:.2f} to {chosen.high:.2f})"
    )
    if chosen is not best:
        return (
            f"{said}; {best.name} reached {best.rank:.2f}, which cannot be told apart, and costs "
            "more."
        )
    return f"{said}, the most of {len(found)} ways that were compared."


def describe_check(found: Sequence[WayRank]) -> str:
    """Write the comparison for people: a table, and what to set."""
    lines = [f"{'influence':<28} {'rank':>6} {'90% interval':>16} {'ahead of none':>14}"]
    lines += [
        f"{one.name:<28} {one.rank:>6.2f} {f'{one.low:.2f} to {one.high:.2f}':>16} "
        f"{one.ahead:>+14.2f}"
        for one in found
    ]
    best = found[0]
    surely = best.ahead_low > 0.0
    lines.append(
        f"{best.name} ranks clusters best"
        + (
            ", surely better than the plain inner product."
            if surely
            else "; it cannot be told apart from the plain inner product."
        )
    )
    return "\n".join(lines)


def _parts(name: str) -> tuple[str, str, float | None]:
    """Return matrices, kind and damping of a way."""
    where, _, rest = name.partition("/")
    kind, _, damping = rest.partition(" ")
    return where, kind, float(damping) if damping else None


def _row_ranks(predicted: FloatArray, measured: FloatArray) -> FloatArray:
    """Return Spearman's correlation of each row; 0 where one side is constant."""
    one, other = (rankdata(values, axis=1) for values in (predicted, measured))
    one, other = (values - values.mean(axis=1, keepdims=True) for values in (one, other))
    scale = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
    found: FloatArray = (one * other).sum(axis=1) / np.where(scale > 0.0, scale, 1.0)
    return found
