"""From documents to token stores: the pool and the target sets, shared by all methods."""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, cast

import numpy as np

from cuvee import artifacts
from cuvee.arrays import FloatArray
from cuvee.corpus.decoder import one_tokenizer
from cuvee.corpus.read import PoolConfig, list_shards
from cuvee.corpus.scan import read_index, scan_pool, scan_targets
from cuvee.corpus.store import TokenStore
from cuvee.corpus.tasks import TaskConfig, check_tasks
from cuvee.corpus.tokens import TokensConfig, make_tokenizer, tokenise_pool
from cuvee.errors import ConfigError, DataError
from cuvee.methods.domains import PoolDomainsConfig, label_pool_domains
from cuvee.methods.job import Job
from cuvee.tables.statistics import PoolStatistics

logger = logging.getLogger(__name__)

RESERVED_TARGETS = ("total", "objective")
"""Names of the weighted sum of all targets in tables and in the report."""
FITTED_OBJECTIVE = "objective.json"
"""Beside a predictor: weights of the targets that were found with it."""
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetsConfig:
    """Texts the model is to be good at: their loss is the objective."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    sets: Mapping[str, PoolConfig] = field(default_factory=dict)
    """Target sets by name; each is read like a pool, all its documents belonging to the target."""
    tasks: Mapping[str, TaskConfig] = field(default_factory=dict)
    """Downstream tasks by name: the right answers' loss is the target, and accuracy is measured."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Weight of each target in the objective; empty weighs all the same."""
    own_domains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Domains of the pool of a target's own kind; a target left out gets the nearest domain."""

    def __post_init__(self) -> None:
        if not self.sets and not self.tasks:
            raise ConfigError("sets is empty; name at least one target, or leave targets out.")
        for name in (*self.sets, *self.tasks):
            _check_target_name(name)
        twice = sorted(set(self.sets) & set(self.tasks))
        if twice:
            raise ConfigError(
                f"target {twice[0]!r} is both in sets and in tasks; choose another name."
            )
        for key, names in (("weights", self.weights), ("own_domains", self.own_domains)):
            unknown = sorted(set(names) - set(self.pools))
            if unknown:
                raise ConfigError(
                    f"{key} names {unknown[0]!r}, which is not a target; targets are "
                    f"{', '.join(sorted(self.pools))}."
                )
        for name, weight in self.weights.items():
            if not weight >= 0:
                raise ConfigError(f"weight of target {name!r} is {weight}; it must be at least 0.")
        if self.weights and not sum(self.weights.values()) > 0:
            raise ConfigError("weights are all 0; give at least one target a weight.")

    @property
    def pools(self) -> dict[str, PoolConfig]:
        """How every target's texts are read; a task's are its questions with right answers."""
        return {**self.sets, **{name: task.as_pool() for name, task in self.tasks.items()}}


def _check_target_name(name: str) -> None:
    """Refuse a name that cannot be part of a run's folder, or that stands for all targets."""
    if name in RESERVED_TARGETS:
        raise ConfigError(
            f"target name {name!r} stands for all targets together; choose another name."
        )
    if not _SAFE_NAME.fullmatch(name):
        raise ConfigError(
            f"target name {name!r} cannot be part of a folder's name; use 1 to 64 letters, "
            "digits, '.', '_' or '-', the first a letter or digit."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """The pool and the targets, labelled and tokenised."""

    store: TokenStore
    targets: TokenStore | None
    statistics: PoolStatistics
    own_domains: Mapping[str, tuple[str, ...]]
    """By objective name (`objective_names`), the domains of its own kind."""
    objective: FloatArray
    """(n_targets,) weights of `objective_names`; sum to 1."""

    @property
    def objective_names(self) -> tuple[str, ...]:
        """Names of the evaluation sets the objective is made of."""
        if self.targets is None:
            return tuple(f"domain/{name}" for name in self.store.domains)
        return tuple(f"target/{name}" for name in self.targets.domains)


def prepare(
    job: Job,
    pool: PoolConfig,
    targets: TargetsConfig | None,
    tokens: TokensConfig,
    *,
    seed: int,
    domains: PoolDomainsConfig | None = None,
) -> Prepared:
    """Read, split, index and tokenise pool and targets; finished parts are not made again.

    Args:
        job: Where and with how many workers.
        pool: The pool's config.
        targets: The target sets; None takes the domains' own validation text as objective.
        tokens: Tokenizer settings.
        seed: The run's seed.
        domains: What the pool's domains are; None: as they are read.

    Returns:
        The opened stores.

    Raises:
        ConfigError: Token files, or they and the config, are of different tokenizers.
    """
    for name, one in (targets.pools if targets else {}).items():
        list_shards(one, domain=name)  # a target that is not there is no reason to read the pool
    check_tasks(targets.tasks if targets else {})
    tokens = replace(tokens, tokenizer=_given_tokenizer(pool, targets, tokens))
    with job.stage("label"):
        index = scan_pool(
            pool,
            job.out,
            seed=seed,
            workers=job.workers,
            on_progress=_bar(job, "label pool"),
            labels=label_pool_domains(job, pool, domains, seed=seed) if domains else None,
        )
        if targets is not None:
            target_index = scan_targets(
                targets.pools,
                job.out,
                seed=seed,
                workers=job.workers,
                on_progress=_bar(job, "label targets"),
            )
    with job.stage("tokens"):
        tokenizer = make_tokenizer(tokens, index, job.out, seed=seed)
        tokenise_pool(
            index,
            job.out,
            tokenizer=tokenizer,
            workers=job.workers,
            on_progress=_bar(job, "tokenise pool"),
        )
        if targets is not None:
            tokenise_pool(
                target_index,
                job.folder("targets"),
                tokenizer=tokenizer,
                workers=job.workers,
                on_progress=_bar(job, "tokenise targets"),
            )
    return open_prepared(job, pool, targets)


def _given_tokenizer(
    pool: PoolConfig, targets: TargetsConfig | None, tokens: TokensConfig
) -> str | None:
    """Return the path of the tokenizer the run reads with; None: one is to be trained.

    Raises:
        ConfigError: Token files, or they and the config, are of different tokenizers.
    """
    configs = (pool, *(targets.pools.values() if targets else ()))
    paths = (tokens.tokenizer, *(one.tokenizer for one in configs))
    return one_tokenizer([path for path in paths if path is not None])


def open_prepared(job: Job, pool: PoolConfig, targets: TargetsConfig | None) -> Prepared:
    """Open what `prepare` has made.

    Raises:
        ArtifactError: It is not finished.
        DataError: A name in the config is not a domain or a target, or a domain has too little
            validation text.
    """
    store = TokenStore.open(job.folder("tokens"))
    target_store = TokenStore.open(job.folder("targets", "tokens")) if targets else None
    names = target_store.domains if target_store else store.domains
    _check_validation(store, is_objective=targets is None)
    return Prepared(
        store=store,
        targets=target_store,
        statistics=store.statistics(pool.available_tokens),
        own_domains=_own_domains(job, store, targets, names),
        objective=_objective(job, targets, names),
    )


def _check_validation(store: TokenStore, *, is_objective: bool) -> None:
    """Refuse a domain that could not be measured; an objective's needs text for both halves."""
    needed = 2 if is_objective else 1
    counts = np.bincount(store.domain[store.side == 1], minlength=len(store.domains))
    for name, count in zip(store.domains, counts, strict=True):
        if count < needed:
            raise DataError(
                f"domain {name!r} has {count} validation documents; it needs at least {needed}. "
                "Give it more documents, raise pool.validation_share, or merge it with another "
                "domain."
            )
        if is_objective and name in RESERVED_TARGETS:
            raise DataError(
                f"domain {name!r} bears the name that stands for all targets together; without "
                "targets the domains are the targets. Rename the domain, or give targets."
            )


def _bar(job: Job, stage: str) -> Callable[[int, int], None]:
    return lambda done, total: job.progress(stage, done, total, "")


def _objective(job: Job, targets: TargetsConfig | None, names: tuple[str, ...]) -> FloatArray:
    fitted = job.folder("predictor", FITTED_OBJECTIVE)
    if fitted.exists():
        found = cast(dict[str, dict[str, float]], artifacts.read_json(fitted))["weights"]
        return np.array([found[f"target/{name}"] for name in names], dtype=np.float64)
    given = dict(targets.weights) if targets else {}
    weights = np.array([given.get(name, 0.0 if given else 1.0) for name in names])
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def _own_domains(
    job: Job, store: TokenStore, targets: TargetsConfig | None, names: tuple[str, ...]
) -> dict[str, tuple[str, ...]]:
    """Take own domains from the config, else the domain with the nearest descriptor."""
    if targets is None:
        return {f"domain/{name}": (name,) for name in names}
    nearest = _nearest_domains(job, names)
    own = {}
    for name in names:
        given = tuple(targets.own_domains.get(name, ()))
        missing = sorted(set(given) - set(store.domains))
        if missing:
            raise DataError(
                f"targets.own_domains.{name} names {missing[0]!r}, which is not a domain of the "
                f"pool; domains are {', '.join(store.domains)}."
            )
        own[f"target/{name}"] = given or (nearest[name],)
    return own


def _nearest_domains(job: Job, targets: tuple[str, ...]) -> dict[str, str]:
    """Name the domain with the largest cosine of mean hashed n-grams to each target."""
    domains, rows = _descriptors(read_index(job.out).folder)
    names, columns = _descriptors(read_index(job.out, "targets").folder)
    cosine = dict(zip(names, columns @ rows.T, strict=True))
    return {name: domains[int(np.argmax(cosine[name]))] for name in targets}


def _descriptors(index: Path) -> tuple[list[str], FloatArray]:
    data = cast(dict[str, dict[str, list[float]]], artifacts.read_json(index / "descriptors.json"))
    vectors = np.array([one["mean_ngrams"] for one in data.values()], dtype=np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return list(data), vectors / np.maximum(lengths, np.finfo(np.float64).tiny)


def given_tokens(prepared: Prepared, budget: int) -> int:
    """Return the tokens of the given text that stand for a budget of the real pool."""
    statistics = prepared.statistics
    share = budget / int(statistics.available_tokens.sum())
    return round(min(share, 1.0) * int(statistics.n_tokens.sum()))
