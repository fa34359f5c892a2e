"""The scorers of label passes by name: from a batch of documents to columns of scores."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, TypeAlias, cast

import numpy as np

from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.corpus.rows import DocumentBatch
from cuvee.labels import heuristics
from cuvee.labels.ngrams import ImportanceRatio, ReferenceClassifier
from cuvee.randomness import document_keys

Scorer: TypeAlias = Literal["heuristics", "classifier", "importance", "dsir", "column"]
TextScorer: TypeAlias = Callable[[list[str]], FloatArray]
BatchScorer: TypeAlias = Callable[[DocumentBatch], Mapping[str, FloatArray]]

SCORE = "score"


def batch_scorer(name: Scorer, model: Path | None, options: Mapping[str, Json]) -> BatchScorer:
    """Make a scorer of whole batches.

    Args:
        name: Which.
        model: File of a learnt one.
        options: What else it is told.

    Returns:
        A function giving columns of (n_documents,), among them ``score``.
    """
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
        name: Which; not ``column`` or ``dsir``, which are about the pool's documents.
        model: File of a learnt one.
        options: What else it is told.

    Returns:
        A function giving (n_documents,) scores.
    """
    if name == "heuristics":
        return lambda texts: heuristics.score_columns(heuristics.measure_texts(texts))
    if name == "classifier":
        return ReferenceClassifier.load(Path(str(model))).score
    return ImportanceRatio.load(Path(str(model))).score


def _numbers(batch: DocumentBatch) -> dict[str, FloatArray]:
    assert batch.numbers is not None, "read with the column's name"
    return {SCORE: batch.numbers}


def _resampler(model: Path, seed: int) -> BatchScorer:
    ratio = ImportanceRatio.load(model)
    return lambda batch: {SCORE: ratio.resampled(batch.texts, document_keys(batch.ids), seed=seed)}


def _heuristics(batch: DocumentBatch) -> dict[str, FloatArray]:
    columns = heuristics.measure_texts(batch.texts)
    named = {name: columns[:, place] for place, name in enumerate(heuristics.COLUMNS)}
    return {
        SCORE: heuristics.score_columns(columns).astype(np.float32),
        **{name: values.astype(np.float32) for name, values in named.items()},
    }
