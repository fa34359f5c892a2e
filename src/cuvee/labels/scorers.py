"""The scorers of label passes by name: from a batch of documents to columns of scores."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.corpus.rows import DocumentBatch
from cuvee.labels import heuristics
from cuvee.labels.distilled import DistilledInfluence
from cuvee.labels.domain_model import DomainClassifier
from cuvee.labels.ngrams import ImportanceRatio, ReferenceClassifier
from cuvee.randomness import document_keys

Scorer: TypeAlias = Literal[
    "heuristics",
    "classifier",
    "importance",
    "dsir",
    "column",
    "influence",
    "domain",
    "hf-classifier",
    "fasttext",
    "ask-llm",
]
TextScorer: TypeAlias = Callable[[list[str]], FloatArray]
Columns: TypeAlias = Mapping[str, npt.NDArray[Any] | Sequence[str]]
BatchScorer: TypeAlias = Callable[[DocumentBatch], Columns]

SCORE = "score"


def batch_scorer(name: Scorer, model: Path | None, options: Mapping[str, Json]) -> BatchScorer:
    """Make a scorer of whole batches.

    Args:
        name: Which.
        model: File of a learnt one.
        options: What else it is told.

    Returns:
        A function giving columns of (n_documents,): ``score``, and for ``domain`` instead of it
        ``domain``, ``probability`` and ``predicted``.
    """
    if name == "domain":
        return partial(_domains, DomainClassifier.load(Path(str(model))), options)
    if name == "column":
        return _numbers
    if name == "heuristics":
        return _heuristics
    if name == "dsir":
        return _resampler(Path(str(model)), int(cast(int, options["seed"])))
    score = text_scorer(name, model, options)
    return lambda batch: {SCORE: score(batch.texts).astype(np.float32)}


def text_scorer(name: Scorer, model: Path | None, options: Mapping[str, Json]) -> TextScorer:
    """Make a scorer of texts that are not in the pool, such as a reference's.

    Args:
        name: Which; not ``column``, ``domain`` or ``dsir``, which are about documents of the pool.
        model: File or folder of a learnt one.
        options: What else it is told.

    Returns:
        A function giving (n_documents,) scores.
    """
    path = Path(str(model))
    if name == "heuristics":
        return lambda texts: heuristics.score_columns(heuristics.measure_texts(texts))
    if name == "classifier":
        return ReferenceClassifier.load(path).score
    if name == "importance":
        return ImportanceRatio.load(path).score
    if name == "influence":
        return DistilledInfluence.load(path).score
    return _local_scorer(
        name,
        path,
        cast("str | None", options.get("label")),
        cast("str | None", options.get("prompt")),
        cast("int | None", options.get("max_tokens")),
    )


@lru_cache(maxsize=1)
def _local_scorer(
    name: str, path: Path, label: str | None, prompt: str | None, max_tokens: int | None
) -> TextScorer:
    """Load a model once a process, not once a shard; torch is imported for these alone."""
    from cuvee.labels.local_models import AskLlm, FastTextModel, HfClassifier

    if name == "fasttext":
        return FastTextModel.load(path, label=label or "").score
    if name == "ask-llm":
        return AskLlm.load(path, prompt=prompt or "", max_tokens=max_tokens).score
    return HfClassifier.load(path, label=label, max_tokens=max_tokens).score


def _numbers(batch: DocumentBatch) -> Columns:
    assert batch.numbers is not None, "read with the column's name"
    return {SCORE: batch.numbers}


def _resampler(model: Path, seed: int) -> BatchScorer:
    ratio = ImportanceRatio.load(model)
    return lambda batch: {SCORE: ratio.resampled(batch.texts, document_keys(batch.ids), seed=seed)}


def _domains(model: DomainClassifier, options: Mapping[str, Json], batch: DocumentBatch) -> Columns:
    """Keep the domains documents have, and predict those they lack."""
    lacking = np.array([name == options["missing"] for name in batch.domains], dtype=np.bool_)
    domains, probability = list(batch.domains), np.ones(len(batch.domains), dtype=np.float32)
    places = np.flatnonzero(lacking)
    if len(places):
        names, probability[places] = model.predict(
            [batch.texts[place] for place in places.tolist()],
            threshold=cast(float, options["threshold"]),
        )
        for place, name in zip(places.tolist(), names, strict=True):
            domains[place] = name
    return {"domain": domains, "probability": probability, "predicted": lacking}


def _heuristics(batch: DocumentBatch) -> Columns:
    columns = heuristics.measure_texts(batch.texts)
    named = {name: columns[:, place] for place, name in enumerate(heuristics.COLUMNS)}
    return {
        SCORE: heuristics.score_columns(columns).astype(np.float32),
        **{name: values.astype(np.float32) for name, values in named.items()},
    }
