"""What a search cost: proxies trained, documents scored, and the arithmetic of both."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Self, cast

import numpy as np

from cuvee import artifacts, config
from cuvee.artifacts import Json
from cuvee.methods.influence_check import CHECK
from cuvee.methods.job import Job
from cuvee.methods.pool import Prepared
from cuvee.methods.quad_engine import ABOUT, tokens_read
from cuvee.methods.quad_study import INFLUENCE, QuadConfig, read_rounds
from cuvee.proxy.sizes import model_size

_RUNS = ("calibration/*/*", "sweep/*", "base/*", "estimates/*/runs/*", "influence-check/*/runs/*")
"""Folders of runs that a search trains; those that check or judge its answer are no part of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchCost:
    """What was spent until an answer stood, the pool's tokenising apart."""

    n_runs: int = 0
    """Models trained: calibrations, proxies, a base model."""
    trained_tokens: int = 0
    """Tokens those were trained on, together."""
    training_flops: float = 0.0
    """Of their training, forward and backward (`ModelSize.flops_per_token`)."""
    n_scored: int = 0
    """Documents whose gradient was computed."""
    scoring_flops: float = 0.0
    """Of scoring them and of what they are multiplied with, a token counted as one trained on."""
    n_labels: int = 0
    """Labels given to documents: quality scores and clusters; counted, but not in FLOPs."""

    @property
    def flops(self) -> float:
        """Floating-point operations of models, all together."""
        return self.training_flops + self.scoring_flops

    def to_json(self) -> dict[str, Json]:
        """Return the cost as plain JSON, the sum of FLOPs included."""
        plain: dict[str, Json] = dataclasses.asdict(self)
        return {**plain, "flops": self.flops}

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> Self:
        """Rebuild a cost from `to_json`."""
        return config.parse(cls, {key: value for key, value in data.items() if key != "flops"})


def training_cost(job: Job, *, vocabulary_size: int, n_labels: int = 0) -> SearchCost:
    """Add up the finished runs that a method's search has trained in its folder.

    Args:
        job: The method's own folder.
        vocabulary_size: Number of token ids.
        n_labels: Labels that were given to documents besides.
    """
    found = chain.from_iterable(job.out.glob(pattern) for pattern in _RUNS)
    runs = [_run(folder, vocabulary_size) for folder in found if artifacts.is_done(folder)]
    return SearchCost(
        n_runs=len(runs),
        trained_tokens=sum(n_tokens for n_tokens, _ in runs),
        training_flops=float(sum(n_tokens * flops for n_tokens, flops in runs)),
        n_labels=n_labels,
    )


def run_flops(size: str, *, n_tokens: int, vocabulary_size: int, context: int) -> float:
    """Return the FLOPs of training one model."""
    return float(n_tokens * model_size(size).flops_per_token(vocabulary_size, context))


def influence_cost(
    settings: QuadConfig, job: Job, prepared: Prepared, *, everything: bool = False
) -> SearchCost:
    """Return what Quad's search cost: its base model, the direction, and documents scored.

    Args:
        settings: Quad's config.
        job: Its folder, searched.
        prepared: The pool.
        everything: The cost if every document had been scored instead of what the bandit asked for.
    """
    store = prepared.store
    per_token = model_size(settings.proxy.size).flops_per_token(
        store.vocabulary_size, settings.proxy.context
    )
    lengths = store.n_tokens[store.side == 0].astype(np.int64)
    trained = training_cost(job, vocabulary_size=store.vocabulary_size, n_labels=len(store.keys))
    if everything:
        n_scored = len(lengths)
        scoring = float(np.minimum(lengths, settings.influence.document_tokens).sum()) * per_token
    else:
        last = read_rounds(job)[-1]
        n_scored, scoring = last.total_probes, last.total_flops
    n_checked, checked_tokens = _checked(job)
    return dataclasses.replace(
        trained,
        n_scored=n_scored + n_checked,
        scoring_flops=float(scoring + per_token * (checked_tokens + _direction_tokens(job))),
    )


def _checked(job: Job) -> tuple[int, int]:
    """Return documents and tokens whose gradients chose the curvature, where it was left open."""
    found = [
        cast(Mapping[str, int], artifacts.read_json(path))
        for path in job.out.glob(f"influence-check/*/result/{CHECK}")
    ]
    return sum(one["n_documents"] for one in found), sum(one["n_tokens"] for one in found)


def _direction_tokens(job: Job) -> int:
    """Count the tokens read for the direction, and for each that took its place later."""
    folders = [job.folder(INFLUENCE), *job.out.glob(f"estimates/*/{INFLUENCE}")]
    abouts = [
        cast(Mapping[str, Json], artifacts.read_json(one / ABOUT))
        for one in folders
        if artifacts.is_done(one)
    ]
    return sum(sum(tokens_read(about)) for about in abouts)


def _run(folder: Path, vocabulary_size: int) -> tuple[int, int]:
    """Return a finished run's tokens and FLOPs per token."""
    spec = cast(dict[str, Json], artifacts.read_json(folder / "spec.json"))
    result = cast(dict[str, Json], artifacts.read_json(folder / "result.json"))
    size, context = str(spec["size"]), int(cast(int, spec["context"]))
    per_token = model_size(size).flops_per_token(vocabulary_size, context)
    return int(cast(int, result["n_tokens"])), per_token
