"""Which curvature ranks clusters as training does: short probes beside influence, with intervals.

The model's training is continued for a little on each of some clusters; the fall of the targets'
loss is what an arm of the bandit really pays. Mean influence of a few documents of each cluster,
under every curvature and damping, is set beside it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np

from cuvee import artifacts
from cuvee.arrays import FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.errors import ConfigError, DataError
from cuvee.fit.feature_models import mean_rank
from cuvee.influence import CausalModel, LayerVector, influences
from cuvee.influence.model import Where
from cuvee.methods import measure
from cuvee.methods.job import Job
from cuvee.methods.pool import Prepared
from cuvee.methods.quad_engine import (
    InfluenceConfig,
    curvature_sample,
    fit_curvature,
    one_torch_thread,
    read_start,
    reference_gradient,
)
from cuvee.methods.quad_study import (
    COPIES,
    QuadConfig,
    base_checkpoint,
    checkpoint,
    clustered_pool,
    mixture_of,
)
from cuvee.proxy.spec import TrainingSpec
from cuvee.proxy.sweep import training_spec
from cuvee.randomness import integer_seed, stream
from cuvee.search.arms import ClusteredPool, DocumentQueues
from cuvee.tables.runs import read_trajectory

CHECK = "check.json"
_KINDS: tuple[Literal["diagonal", "kfac", "ekfac"], ...] = ("diagonal", "kfac", "ekfac")
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
class Agreement:
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


def check_influence(
    settings: QuadConfig, check: CheckConfig, job: Job, prepared: Prepared
) -> list[Agreement]:
    """Train on clusters, score their documents in every way, and compare.

    Args:
        settings: The config of `cuvee run quad`.
        check: What is compared.
        job: A folder that is labelled.
        prepared: Its pool and targets.

    Returns:
        The ways, best first.

    Raises:
        DataError: Too few clusters have documents enough.
    """
    # Other settings are another check: neither its runs nor its answer may be taken for this one's.
    name = artifacts.digest_json(asdict(check))[:12]
    folder = job.folder("influence-check", name, "result")
    if artifacts.is_done(folder):
        known = cast(list[dict[str, Any]], artifacts.read_json(folder / CHECK))
        return [Agreement(**one) for one in known]
    pool, place = clustered_pool(job, prepared)
    clusters = _choose(pool, check, settings.seed)
    falls = _train(settings, check, job, prepared, pool, place, clusters, folder.parent)
    scores = _score(settings, check, job, prepared, pool, place, clusters)
    found = compare_ways(scores, falls.mean(axis=1), rng=stream(settings.seed, "check", "draws"))
    with artifacts.writing(
        folder,
        stage="fit",
        settings=asdict(check),
        seed=settings.seed,
        inputs={"clusters": artifacts.digest_of(job.folder("clusters"))},
    ) as aside:
        artifacts.write_json(aside / CHECK, [cast(Json, asdict(one)) for one in found])
    return found


def compare_ways(
    scores: Mapping[str, FloatArray], falls: FloatArray, *, rng: np.random.Generator
) -> list[Agreement]:
    """Rank ways of computing influence by their agreement with training.

    Args:
        scores: (n_clusters,) mean influence by way, ``<where>/none`` among them.
        falls: (n_clusters,) falls of the objective, larger is better.
        rng: Draws clusters with replacement.

    Returns:
        The ways, best first.
    """
    draws = rng.integers(len(falls), size=(_BOOTSTRAP, len(falls)))

    def ranks(name: str) -> FloatArray:
        return np.array([mean_rank(scores[name][rows], falls[rows]) for rows in draws])

    drawn = {name: ranks(name) for name in scores}
    found = []
    for name, values in scores.items():
        plain = f"{name.partition('/')[0]}/none"
        apart = drawn[name] - drawn[plain]
        low, high = np.quantile(drawn[name], _INTERVAL)
        rank = mean_rank(values, falls)
        found.append(
            Agreement(
                name=name,
                rank=rank,
                low=float(low),
                high=float(high),
                ahead=rank - mean_rank(scores[plain], falls),
                ahead_low=float(np.quantile(apart, _INTERVAL[0])),
            )
        )
    return sorted(found, key=lambda one: -one.rank)


def describe_check(found: list[Agreement]) -> str:
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


def _choose(pool: ClusteredPool, check: CheckConfig, seed: int) -> IntArray:
    """Choose clusters by chance among those with probes and text enough."""
    enough = np.flatnonzero(
        (pool.count() >= 2 * check.n_probes) & (pool.tokens() >= check.n_tokens // 4)
    )
    if len(enough) < 4:
        raise DataError(
            f"{len(enough)} clusters have {2 * check.n_probes} documents and "
            f"{check.n_tokens // 4:,} tokens; a check needs 4. Lower n_probes or n_tokens, or make "
            "fewer clusters."
        )
    n = min(check.n_clusters, len(enough))
    chosen = stream(seed, "check", "clusters").choice(enough, size=n, replace=False)
    return np.sort(chosen)


def _train(
    settings: QuadConfig,
    check: CheckConfig,
    job: Job,
    prepared: Prepared,
    pool: ClusteredPool,
    place: IntArray,
    clusters: IntArray,
    out: Path,
) -> FloatArray:
    """Return the (n_clusters, n_seeds) falls of the objective on the search half."""
    base = base_checkpoint(settings, job, prepared)
    inputs = measure.sweep_inputs(job, prepared, settings.proxy, target_tokens=0)
    proxy = replace(settings.proxy, n_tokens=check.n_tokens, points=(1.0,), checkpoints="none")
    rate = measure.learning_rate(job, prepared, settings.proxy, inputs, seed=settings.seed)
    folder = out / "copies"
    folder.mkdir(parents=True, exist_ok=True)
    specs: dict[str, TrainingSpec] = {}
    for cluster in clusters.tolist():
        copies = np.zeros(len(prepared.store.keys), dtype=np.int64)
        copies[place[pool.cluster == cluster]] = 1
        path = folder / f"{cluster:05d}-{COPIES}"
        np.save(path, copies.astype(np.uint8))
        for number in range(check.n_seeds):
            spec = training_spec(
                proxy,
                inputs,
                mixture_of(prepared, copies),
                seed=settings.seed,
                run_seed=integer_seed(stream(settings.seed, "check", "run", number)),
                learning_rate=rate,
            )
            name = f"cluster-{cluster:05d}-seed{number}"
            specs[name] = replace(spec, base=str(base), copies=str(path), points=(0.0, 1.0))
    sweep = out / "runs"
    measure.measure(job, "train on clusters", specs, sweep, prepared)
    falls = []
    for name in specs:
        curve = read_trajectory(sweep / name / "trajectory.parquet")
        columns = [curve.targets.index(one) for one in prepared.objective_names]
        losses = curve.losses_bpb[:, columns] @ prepared.objective
        falls.append(float(losses[0] - losses[-1]))
    return np.array(falls).reshape(len(clusters), check.n_seeds)


def _score(
    settings: QuadConfig,
    check: CheckConfig,
    job: Job,
    prepared: Prepared,
    pool: ClusteredPool,
    place: IntArray,
    clusters: IntArray,
) -> dict[str, FloatArray]:
    """Return the (n_clusters,) mean influence of probed documents by way of computing it."""
    model = checkpoint(settings, job, prepared).open(prepared.store)
    queues = DocumentQueues(pool, seed=settings.seed, purpose="probe")
    probes = [queues.take(int(cluster), check.n_probes) for cluster in clusters]
    store = prepared.store
    texts = [
        read_start(store, int(one), settings.influence) for one in place[np.concatenate(probes)]
    ]
    of_cluster = np.repeat(np.arange(len(clusters)), [len(one) for one in probes])
    found: dict[str, FloatArray] = {}
    total = len(check.where)
    with one_torch_thread():
        for number, where in enumerate(check.where):
            job.progress("compare curvatures", number, total, where)
            chosen = replace(settings.influence, where=where)  # type: ignore[arg-type]
            named = dict(_directions(model, chosen, check, prepared, settings.seed))
            rows = np.array(
                list(
                    influences(
                        model, list(named.values()), texts, normalise=settings.influence.normalise
                    )
                )
            )
            sums = np.array([np.bincount(of_cluster, weights=column) for column in rows.T])
            means = sums / np.bincount(of_cluster)
            found |= dict(zip(named, means, strict=True))
        job.progress("compare curvatures", total, total, "")
    return found


def _directions(
    model: CausalModel,
    settings: InfluenceConfig,
    check: CheckConfig,
    prepared: Prepared,
    seed: int,
) -> Iterator[tuple[str, LayerVector]]:
    """Give the directions of every curvature and damping for one choice of matrices."""
    where: Where = settings.where
    gradient = reference_gradient(model, settings, prepared, seed=seed)
    yield f"{where}/none", gradient
    sample, few = curvature_sample(settings, prepared, seed=seed)
    for kind in _KINDS:
        factors = fit_curvature(model, where, kind, sample, seed=seed)
        for damping in check.dampings:
            yield f"{where}/{kind} {damping:g}", factors.solve(gradient, damping=damping)
    if settings.steps:
        for damping in check.dampings:
            refined = factors.solve(gradient, damping=damping, steps=settings.steps, sample=few)
            yield f"{where}/refined {damping:g}", refined
