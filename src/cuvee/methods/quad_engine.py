"""Influence of a pool's documents on the targets: the direction once, then a float a document."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from cuvee import artifacts, config
from cuvee.arrays import FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.corpus.store import TokenStore
from cuvee.errors import ConfigError
from cuvee.influence import (
    CausalModel,
    DiagonalFisher,
    KroneckerFactors,
    LayerVector,
    gradient,
    influence,
)
from cuvee.influence.model import Where
from cuvee.labels.passes import SCORE, SCORES
from cuvee.methods.pool import Prepared
from cuvee.policy.sampling import document_order
from cuvee.proxy.model import ProxyModel, load_weights
from cuvee.proxy.sizes import model_size
from cuvee.randomness import stream

DIRECTION, FACTORS, ABOUT = "direction.safetensors", "factors.safetensors", "influence.json"
CHOICE = "choice"
"""Key of `ABOUT` under which a choice of curvature is told; no target is asked there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InfluenceConfig:
    """How the influence of a document on the targets is computed."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    where: Literal["attention", "mlp", "all"] = "all"
    """Matrices whose gradients and curvature count. Quad: attention and MLP, which is all; its
    released code: MLP alone."""
    curvature: Literal["auto", "none", "diagonal", "kfac", "ekfac"] = "ekfac"
    """none: the inner product of gradients. diagonal: of every weight by itself. kfac: a Kronecker
    product a matrix. ekfac: its eigenvalues corrected. auto: curvature, damping and whether there
    are steps, by short training on some clusters (``check``). Quad's code: ekfac."""
    damping: float = 0.1
    """In units of each matrix's mean eigenvalue, above 0. Quad's code: 0.001, absolute."""
    steps: int = 5
    """Conjugate gradients on the Gauss-Newton matrix, preconditioned by the factors. Quad: 0."""
    factor_tokens: int = 200_000
    """Tokens of the pool that the curvature is fitted on."""
    refine_tokens: int = 20_000
    """Tokens of the pool that each step of conjugate gradients reads."""
    reference_tokens: int = 200_000
    """Tokens of each target's search half, at most."""
    document_tokens: int = 2048
    """First tokens of a document that are scored. Quad's code: 20,480."""
    normalise: Literal["sum", "mean", "cosine"] = "mean"
    """Of a document's score over its tokens; sums rank by length. Quad's code: cosine."""

    def __post_init__(self) -> None:
        if not self.damping > 0.0 or self.steps < 0:
            raise ConfigError(
                f"damping is {self.damping:g} and steps {self.steps}; they must be above 0, and at "
                "least 0."
            )
        if self.curvature == "none" and self.steps > 0:
            raise ConfigError(
                f"steps is {self.steps}, but curvature none has nothing to refine; set steps to 0."
            )
        for name in ("factor_tokens", "refine_tokens", "reference_tokens", "document_tokens"):
            if getattr(self, name) < 2:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 2.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A proxy's weights, and how they are run."""

    path: str
    """A safetensors file of a run."""
    size: str
    """Of the model, such as ``0.1m``."""
    context: int
    """Longest sequence."""
    precision: Literal["float32", "bfloat16"]
    """Of products."""
    device: str

    def open(self, store: TokenStore) -> CausalModel:
        """Load the model as the influence engine sees it.

        Args:
            store: The pool, whose tokenizer the model was trained with.

        Raises:
            DataError: The file is of another size or vocabulary.
        """
        module = ProxyModel(
            model_size(self.size),
            vocabulary_size=store.vocabulary_size,
            context=self.context,
            generator=torch.Generator().manual_seed(0),
        )
        load_weights(module, Path(self.path))
        module.to(torch.device(self.device))
        return CausalModel(
            module=module,
            hidden=module.hidden,
            head=module.head,
            context=self.context,
            start=store.end_of_text,
            tokenizer=store.tokenizer,
            precision="bfloat16" if self.precision == "bfloat16" else "own",
            plain_attention=True,
        )


def find_direction(
    model: CausalModel,
    settings: InfluenceConfig,
    prepared: Prepared,
    folder: Path,
    *,
    seed: int,
    choice: Json = None,
) -> None:
    """Compute what documents' gradients are multiplied with, and write it with what it came from.

    The reference gradient is the objective's: every target's mean gradient by its weight, of its
    search half. The curvature is that of the pool's own text.

    Args:
        model: At the weights that are to be improved.
        settings: Curvature, not auto; damping, sizes.
        prepared: Pool and targets.
        folder: Receives the direction, the factors and what is told of them.
        seed: The run's seed.
        choice: How the curvature was chosen, where it was; is told with the rest.

    Raises:
        ConfigError: There are no targets.
    """
    assert settings.curvature != "auto", "chosen before"
    about: dict[str, Json] = {} if choice is None else {CHOICE: choice}
    total = reference_gradient(model, settings, prepared, seed=seed, about=about)
    direction = total
    if settings.curvature != "none":
        sample, few = curvature_sample(settings, prepared, seed=seed)
        factors = fit_curvature(model, settings.where, settings.curvature, sample, seed=seed)
        direction = factors.solve(total, damping=settings.damping, steps=settings.steps, sample=few)
        factors.save(folder / FACTORS)
        about["refinement"] = {"tokens": settings.steps * sum(map(len, few))}
        cosine = total.dot(direction) / max(total.norm * direction.norm, 1e-300)
        about["curvature"] = {"tokens": sum(map(len, sample)), "cosine_with_gradient": cosine}
    direction.save(folder / DIRECTION)
    artifacts.write_json(folder / ABOUT, about)


def tokens_read(about: Mapping[str, Json]) -> list[int]:
    """Return the tokens read for a direction: by target, for its curvature, and refining it.

    Args:
        about: What `find_direction` tells in `ABOUT`.
    """
    parts = (cast(Mapping[str, int], part) for name, part in about.items() if name != CHOICE)
    return [part["tokens"] for part in parts]


def reference_gradient(
    model: CausalModel,
    settings: InfluenceConfig,
    prepared: Prepared,
    *,
    seed: int,
    about: dict[str, Json] | None = None,
) -> LayerVector:
    """Compute the objective's gradient on the targets' search half.

    Args:
        model: At the weights that are to be improved.
        settings: Which matrices, how many tokens.
        prepared: The targets.
        seed: The run's seed.
        about: Receives tokens and norm by target.

    Raises:
        ConfigError: There are no targets.
    """
    targets = prepared.targets
    if targets is None:
        raise ConfigError("quad needs targets: influence is on their loss. Give targets.sets.")
    total: LayerVector | None = None
    for place, name in enumerate(targets.domains):
        weight = float(prepared.objective[prepared.objective_names.index(f"target/{name}")])
        if weight == 0.0:
            continue
        own = np.flatnonzero((targets.domain == place) & (targets.side == 0))
        texts = _first(targets, own, settings.reference_tokens, settings, seed)
        found = gradient(model, texts, where=settings.where)
        total = _plus(total, found, weight)
        if about is not None:
            about[name] = {"tokens": sum(map(len, texts)), "norm": found.norm}
    assert total is not None, "weights sum to 1"
    return total


def curvature_sample(
    settings: InfluenceConfig, prepared: Prepared, *, seed: int
) -> tuple[list[IntArray], list[IntArray]]:
    """Read the pool's documents that the factors are fitted on, and those that refine them."""
    store = prepared.store
    pool = np.flatnonzero(store.side == 0)
    return (
        _first(store, pool, settings.factor_tokens, settings, seed),
        _first(store, pool, settings.refine_tokens, settings, seed),
    )


def fit_curvature(
    model: CausalModel,
    where: Where,
    curvature: Literal["diagonal", "kfac", "ekfac"],
    sample: list[IntArray],
    *,
    seed: int,
) -> KroneckerFactors:
    """Fit the curvature of a kind on a sample, all kinds with the same labels.

    Args:
        model: At the weights that are to be improved.
        where: Which matrices.
        curvature: The kind.
        sample: Token ids of the pool's documents.
        seed: The run's seed.
    """
    factors: KroneckerFactors = (
        DiagonalFisher(model, where)
        if curvature == "diagonal"
        else KroneckerFactors(model, where, corrected=curvature == "ekfac")
    )
    return factors.fit(sample, rng=stream(seed, "influence", "labels"))


def score_documents(
    model: CausalModel,
    direction: LayerVector,
    settings: InfluenceConfig,
    store: TokenStore,
    documents: IntArray,
) -> FloatArray:
    """Score documents of the pool by their first tokens.

    Args:
        model: At the weights the direction was computed at.
        direction: From `find_direction`.
        settings: As there.
        store: The pool.
        documents: (n,) positions in the store.

    Returns:
        (n,) influence on the objective: by how much a step on the document lowers it, to first
        order and per unit of the rate; higher is better.
    """
    texts = (read_start(store, int(one), settings) for one in documents)
    with one_torch_thread():
        scores = influence(model, direction, texts, normalise=settings.normalise)
        return np.fromiter(scores, dtype=np.float64, count=len(documents))


def score_shard(spec: Mapping[str, Json], folder: Path) -> None:
    """Score all documents of one shard; a task of `executors`.

    Args:
        spec: ``shard``, ``store``, ``influence`` (folder of the direction), ``checkpoint`` and
            ``settings``, as plain data.
        folder: The part's artefact folder.
    """
    store = TokenStore.open(Path(cast(str, spec["store"])))
    checkpoint = config.parse(Checkpoint, cast(Mapping[str, Json], spec["checkpoint"]))
    model = checkpoint.open(store)
    origin = Path(cast(str, spec["influence"]))
    settings = config.parse(InfluenceConfig, cast(Mapping[str, Json], spec["settings"]))
    name = cast(Mapping[str, str], spec["shard"])["name"]
    own = np.flatnonzero(store.shard == store.shards.index(name))
    with artifacts.writing(
        folder,
        stage="label",
        settings={"shard": name, "scorer": "influence"},
        seed=0,
        inputs={"influence": artifacts.digest_of(origin)},
    ) as aside:
        direction = LayerVector.load(origin / DIRECTION)
        scores = score_documents(model, direction, settings, store, own)
        table = pa.table({"key": store.keys[own], SCORE: scores.astype(np.float32)})
        pq.write_table(table, aside / SCORES, compression="zstd")


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Keep torch on one thread, so that sums do not depend on the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _first(
    store: TokenStore, documents: IntArray, n_tokens: int, settings: InfluenceConfig, seed: int
) -> list[IntArray]:
    """Read documents in hash order until they have so many tokens."""
    order = documents[document_order(store.keys[documents], seed=seed, purpose="sample")]
    lengths = np.minimum(store.n_tokens[order], settings.document_tokens)
    n_taken = int(np.searchsorted(np.cumsum(lengths), n_tokens)) + 1
    return [read_start(store, int(one), settings) for one in order[:n_taken]]


def read_start(store: TokenStore, document: int, settings: InfluenceConfig) -> IntArray:
    """Read the first tokens of a document, as many as are scored."""
    n_tokens = min(int(store.n_tokens[document]), settings.document_tokens)
    return store.read(document, 0, n_tokens).astype(np.int64)


def _plus(total: LayerVector | None, more: LayerVector, weight: float) -> LayerVector:
    scaled = [weight * value for value in more.values.values()]
    if total is None:
        return more.with_values(scaled)
    sums = zip(total.values.values(), scaled, strict=True)
    return total.with_values(one + other for one, other in sums)
