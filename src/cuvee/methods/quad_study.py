"""What the stages of Quad share: its settings, the clustered pool, the model, scores, rounds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, cast

import numpy as np
import pyarrow as pa

from cuvee import artifacts, config
from cuvee.arrays import FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.corpus.read import PoolConfig
from cuvee.corpus.scan import read_index
from cuvee.corpus.tokens import TokensConfig
from cuvee.errors import ConfigError
from cuvee.executors import run_tasks
from cuvee.influence import LayerVector
from cuvee.labels.cluster_pass import sample_documents
from cuvee.labels.clusters import ClusterConfig, ClusterModel, fit_clusters
from cuvee.labels.embeddings import Embedder
from cuvee.labels.passes import SCORE, ColumnTasks, align, read_column, run_column
from cuvee.methods import judging, measure
from cuvee.methods.base_model import BaseConfig, base_model
from cuvee.methods.curvature_choice import CheckConfig
from cuvee.methods.job import Job, claimed
from cuvee.methods.pool import Prepared, TargetsConfig, given_tokens, open_prepared
from cuvee.methods.proxy_embedding import ProxyEmbedder
from cuvee.methods.quad_engine import DIRECTION, Checkpoint, InfluenceConfig, score_documents
from cuvee.policy.mixture import Mixture
from cuvee.proxy.machine import gpu_share
from cuvee.proxy.sweep import ProxyConfig
from cuvee.randomness import stream
from cuvee.search.arms import ClusteredPool
from cuvee.search.bandit import Probe
from cuvee.search.bandit_config import BanditConfig
from cuvee.search.bandit_log import Round
from cuvee.search.strategies import STRATEGIES, Strategy
from cuvee.select.budget import SelectConfig
from cuvee.simplex import normalise
from cuvee.validate.compare import ValidateConfig

COPIES, ROUND = "copies.npy", "round.json"
INFLUENCE = "influence"
_CLUSTER = "cluster"


@dataclass(frozen=True, kw_only=True, slots=True)
class QuadConfig:
    """All settings of `cuvee run quad`."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    pool: PoolConfig
    """The documents to choose from."""
    targets: TargetsConfig
    """What the model is to be good at."""
    target_tokens: int
    """Token budget of the selection, in the real pool."""
    validate: ValidateConfig
    """How training is continued to judge; its size is the proxy's."""
    preset: Literal["default", "paper"] = "default"
    """paper: the released settings wherever the file is silent."""
    seed: int = 1
    """Every random choice follows from it."""
    tokens: TokensConfig = field(default_factory=TokensConfig)
    proxy: ProxyConfig = field(default_factory=lambda: ProxyConfig(repetition_matched=False))
    """Size of the model that influence is computed at, and how it is trained."""
    base: BaseConfig = field(default_factory=BaseConfig)
    """That model: a checkpoint, or trained here."""
    clusters: ClusterConfig = field(default_factory=ClusterConfig)
    influence: InfluenceConfig = field(default_factory=InfluenceConfig)
    check: CheckConfig = field(default_factory=CheckConfig)
    """The short training that influence.curvature auto goes by; of its matrices those of
    influence.where alone."""
    bandit: BanditConfig = field(default_factory=BanditConfig)
    rivals: tuple[Strategy, ...] = ("random", "uniform")
    """Selections of the same budget that are judged too. top-influence scores every document."""
    select: SelectConfig = field(default_factory=SelectConfig)

    def __post_init__(self) -> None:
        if self.target_tokens < 1:
            raise ConfigError(f"target_tokens is {self.target_tokens}; it must be at least 1.")
        if self.proxy.repetition_matched:
            raise ConfigError(
                "proxy.repetition_matched is true, but quad continues training on whole documents; "
                "set it to false."
            )
        if self.validate.size != self.proxy.size:
            raise ConfigError(
                f"validate.size is {self.validate.size} and proxy.size {self.proxy.size}; training "
                "is continued from the model that influence was computed at, so they must be equal."
            )
        judging.larger(self.proxy, self.validate)


def open_stores(settings: QuadConfig, job: Job) -> Prepared:
    """Open what `label` has made."""
    with claimed(job.out, settings):
        return open_prepared(job, settings.pool, settings.targets)


def base_checkpoint(settings: QuadConfig, job: Job, prepared: Prepared) -> Path:
    """Return the weights that influence is computed at; trained once where none are given."""
    statistics = prepared.statistics
    shares = settings.base.mixture
    weights: FloatArray = statistics.natural
    if shares:
        unknown = sorted(set(shares) - set(statistics.domains))
        if unknown:
            raise ConfigError(
                f"base.mixture names {unknown[0]!r}, which is not a domain; domains are "
                f"{', '.join(statistics.domains)}."
            )
        weights = normalise(np.array([shares.get(name, 0.0) for name in statistics.domains]))
    return base_model(
        job,
        settings.base,
        proxy=settings.proxy,
        mixture=Mixture.flat(statistics.domains, weights),
        prepared=prepared,
        seed=settings.seed,
    )


def checkpoint(settings: QuadConfig, job: Job, prepared: Prepared) -> Checkpoint:
    """Return the model that influence is computed at, and how it is run on this machine."""
    inputs = measure.sweep_inputs(job, prepared, settings.proxy, target_tokens=0)
    return Checkpoint(
        path=str(base_checkpoint(settings, job, prepared)),
        size=settings.proxy.size,
        context=settings.proxy.context,
        precision=inputs.precision,
        device=inputs.device,
    )


def make_probe(settings: QuadConfig, job: Job, prepared: Prepared, place: IntArray) -> Probe:
    """Return what scores documents of the clustered pool.

    Args:
        settings: The config.
        job: Where.
        prepared: The pool.
        place: (n,) positions in the store of the clustered pool's documents.
    """
    model = checkpoint(settings, job, prepared).open(prepared.store)
    direction = LayerVector.load(
        artifacts.require(job.folder(INFLUENCE), made_by="cuvee fit") / DIRECTION
    )

    def probe(documents: IntArray) -> FloatArray:
        own = place[documents]
        return score_documents(model, direction, settings.influence, prepared.store, own)

    return probe


def score_pool(settings: QuadConfig, job: Job, prepared: Prepared) -> FloatArray:
    """Score every document of the pool, a task a shard; the label column ``influence``.

    Returns:
        (n_documents,) in the order of the store.
    """
    index, store = read_index(job.out), prepared.store
    model = checkpoint(settings, job, prepared)
    folder = run_column(
        ColumnTasks(
            column=INFLUENCE,
            function="cuvee.methods.quad_engine:score_shard",
            spec={
                "store": str(job.folder("tokens")),
                "influence": str(job.folder(INFLUENCE)),
                "checkpoint": config.dump(model),
                "settings": config.dump(settings.influence),
            },
            shards=index.shards,
            settings={"column": INFLUENCE, "scorer": INFLUENCE},
            gpus=gpu_share(model.device),
        ),
        job.out,
        run=lambda tasks: run_tasks(tasks, workers=job.workers),
        on_progress=lambda done, total: job.progress("score the pool", done, total, ""),
    )
    return _aligned(prepared, read_column(folder, store.shards), SCORE)


def clustered_pool(job: Job, prepared: Prepared) -> tuple[ClusteredPool, IntArray]:
    """Return the training documents with their clusters, and their positions in the store."""
    store = prepared.store
    place = np.flatnonzero(store.side == 0)
    folder = artifacts.require(job.folder("labels", _CLUSTER), made_by="cuvee label")
    cluster = _aligned(prepared, read_column(folder, store.shards, _CLUSTER), _CLUSTER)
    model = ClusterModel.load(artifacts.require(job.folder("clusters"), made_by="cuvee label"))
    pool = ClusteredPool(
        keys=store.keys[place],
        cluster=cluster[place].astype(np.int64),
        n_tokens=store.n_tokens[place].astype(np.int64),
        n_clusters=len(model.names),
    )
    return pool, place


def mixture_of(prepared: Prepared, copies: IntArray) -> Mixture:
    """Return the shares of the tokens of documents taken."""
    store = prepared.store
    tokens = np.bincount(
        store.domain,
        weights=copies.astype(np.float64) * store.n_tokens,
        minlength=len(store.domains),
    )
    return Mixture.flat(store.domains, normalise(tokens))


def read_rounds(job: Job) -> list[Round]:
    """Read the rounds played so far, in order."""
    folder = job.folder("rounds")
    done = sorted(path for path in folder.glob("*") if artifacts.is_done(path))
    return [
        Round.from_json(cast(Mapping[str, Json], artifacts.read_json(path / ROUND)))
        for path in done
    ]


def read_copies(job: Job) -> IntArray:
    """Read the (n_documents,) copies the search ended with."""
    folder = artifacts.require(job.folder("optimum"), made_by="cuvee search")
    return np.asarray(np.load(folder / COPIES, allow_pickle=False), dtype=np.int64)


def proxy_embedder(settings: QuadConfig, job: Job, prepared: Prepared) -> Embedder | None:
    """Return the model that influence is computed at as an embedder, where the config asks for it.

    It is trained now where it is to be trained here.
    """
    embedding = settings.clusters.embedding
    if embedding.kind != "proxy":
        return None
    return ProxyEmbedder(
        checkpoint(settings, job, prepared),
        prepared.store,
        job.folder("tokenizer") / "tokenizer.json",
        n_characters=embedding.n_characters,
        seed=settings.seed,
    )


def learn_clusters(
    settings: QuadConfig, job: Job, folder: Path, *, embedder: Embedder | None = None
) -> None:
    """Learn the clusters from a sample of the pool; see `proxy_embedder`."""
    chosen = settings.clusters
    sample = sample_documents(
        read_index(job.out),
        chosen.embedding,
        n_documents=chosen.n_sample,
        seed=settings.seed,
        embedder=embedder,
    )
    model = fit_clusters(
        sample.texts, chosen, rng=stream(settings.seed, "clusters"), vectors=sample.vectors
    )
    with artifacts.writing(
        folder,
        stage="label",
        settings=config.dump(chosen),
        seed=settings.seed,
        inputs={"corpus": artifacts.digest_of(job.folder("corpus", "index"))},
    ) as aside:
        model.save(aside)


def influence_folder(job: Job, estimate: int) -> Path:
    """Return the folder of a direction: the first's, 0, or that of a later estimate."""
    if estimate == 0:
        return job.folder(INFLUENCE)
    return job.folder("estimates", f"{estimate:03d}", INFLUENCE)


def write_round(settings: QuadConfig, job: Job, played: Round) -> None:
    """Write a round as an artefact, so that the search can go on after it."""
    with artifacts.writing(
        job.folder("rounds", f"{played.number:05d}"),
        stage="search",
        settings=config.dump(settings.bandit),
        seed=settings.seed,
        inputs={
            INFLUENCE: artifacts.digest_of(influence_folder(job, played.estimate)),
            f"labels/{_CLUSTER}": artifacts.digest_of(job.folder("labels", _CLUSTER)),
        },
    ) as aside:
        artifacts.write_json(aside / ROUND, played.to_json())


def rival_files(settings: QuadConfig, job: Job, prepared: Prepared) -> dict[str, Path]:
    """Choose documents by every simpler rule, once; return the files of copies."""
    pool, place = clustered_pool(job, prepared)
    budget = given_tokens(prepared, settings.target_tokens)
    files: dict[str, Path] = {}
    for name in settings.rivals:
        folder = job.folder("rivals", name)
        files[name] = folder / COPIES
        if artifacts.is_done(folder):
            continue
        probe = make_probe(settings, job, prepared, place)
        if name == "top-influence":
            everything = score_pool(settings, job, prepared)[place]
            probe = everything.__getitem__
        taken = STRATEGIES[name](
            pool, probe, n_tokens=budget, n_probes=settings.bandit.n_probes, seed=settings.seed
        )
        copies = np.zeros(len(prepared.store.keys), dtype=np.uint8)
        copies[place] = taken
        inputs = {"clusters": artifacts.digest_of(job.folder("clusters"))}
        with artifacts.writing(
            folder, stage="search", settings={"strategy": name}, seed=settings.seed, inputs=inputs
        ) as aside:
            np.save(aside / COPIES, copies)
    return files


def _aligned(prepared: Prepared, tables: Mapping[str, pa.Table], column: str) -> FloatArray:
    store = prepared.store
    values = np.empty(len(store.keys))
    for number, shard in enumerate(store.shards):
        own = store.shard == number
        values[own] = align(tables[shard], store.keys[own], column=column)
    return values
