"""Scores against a reference by hashed n-grams of words: a classifier and an importance ratio."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from scipy.sparse import csr_matrix
from scipy.special import expit
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from cuvee.arrays import FloatArray, KeyArray
from cuvee.errors import ArtifactError, DataError
from cuvee.randomness import hash64, integer_seed

_CLASSIFIER_FEATURES = 2**18
_RATIO_FEATURES = 10_000
"""Buckets of hashed unigrams and bigrams. DSIR: 10,000."""
_LEAST_TEXTS = 20
_HELD_OUT = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceClassifier:
    """Probability that a text is of the reference, by logistic regression on hashed n-grams.

    Source: the classifier of DCLM (arXiv:2406.11794, section 4.4), positives a reference set and
    negatives the pool. Deviation: logistic regression in place of fastText.
    """

    weights: FloatArray
    """(n_features,)"""
    bias: float
    auc: float
    """Area under the curve on texts not fitted: .5 is chance."""

    @classmethod
    def fit(
        cls, reference: Sequence[str], pool: Sequence[str], *, rng: np.random.Generator
    ) -> Self:
        """Learn to tell the reference from the pool.

        Args:
            reference: Positive texts.
            pool: Negative texts: a sample of the pool.
            rng: Chooses the held-out fifth.

        Raises:
            DataError: Either side has fewer than 20 texts.
        """
        _check_texts(reference, pool)
        features = hashed_ngrams([*reference, *pool], _CLASSIFIER_FEATURES, norm="l2")
        labels = np.concatenate([np.ones(len(reference)), np.zeros(len(pool))])
        seen, unseen = train_test_split(
            np.arange(len(labels)),
            test_size=_HELD_OUT,
            stratify=labels,
            random_state=integer_seed(rng),
        )
        trial = _fit(features[seen], labels[seen])
        auc = roc_auc_score(labels[unseen], trial.decision_function(features[unseen]))
        final = _fit(features, labels)
        return cls(
            weights=np.asarray(final.coef_[0], dtype=np.float64),
            bias=float(final.intercept_[0]),
            auc=float(auc),
        )

    def score(self, texts: Sequence[str]) -> FloatArray:
        """Return the (n_documents,) probabilities; larger is better."""
        features = hashed_ngrams(texts, len(self.weights), norm="l2")
        probability: FloatArray = expit(features @ self.weights + self.bias)
        return probability

    def save(self, path: Path) -> None:
        """Write the model as a numpy archive without objects."""
        np.savez_compressed(
            path, weights=self.weights.astype(np.float32), rest=[self.bias, self.auc]
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a model; its scores equal those of the one that was saved to float32's precision.

        Raises:
            ArtifactError: The file holds something else.
        """
        arrays = _load(path, ("weights", "rest"))
        bias, auc = arrays["rest"].tolist()
        return cls(weights=arrays["weights"].astype(np.float64), bias=bias, auc=auc)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportanceRatio:
    """Log ratio of a text's likelihood under the reference and the pool, bags of hashed n-grams.

    Source: DSIR (arXiv:2302.03169, section 4). Deviation: the mean over a text's n-grams by
    default, since the sum ranks by length.
    """

    log_ratio: FloatArray
    """(n_features,) of each bucket."""
    auc: float
    """Area under the curve of telling reference from pool on texts not fitted."""

    @classmethod
    def fit(
        cls, reference: Sequence[str], pool: Sequence[str], *, rng: np.random.Generator
    ) -> Self:
        """Count the n-grams of both sides.

        Args:
            reference: Texts of the target distribution.
            pool: A sample of the raw distribution.
            rng: Chooses the held-out fifth.

        Raises:
            DataError: Either side has fewer than 20 texts.
        """
        _check_texts(reference, pool)
        features = hashed_ngrams([*reference, *pool], _RATIO_FEATURES, norm=None)
        labels = np.concatenate([np.ones(len(reference)), np.zeros(len(pool))])
        held = rng.random(len(labels)) < _HELD_OUT
        seen = _log_ratio(features[~held], labels[~held])
        auc = (
            roc_auc_score(labels[held], _mean(features[held], seen)) if _both(labels[held]) else 0.5
        )
        return cls(log_ratio=_log_ratio(features, labels), auc=float(auc))

    def score(self, texts: Sequence[str]) -> FloatArray:
        """Return the (n_documents,) mean log ratios in nats an n-gram; larger is better."""
        return _mean(hashed_ngrams(texts, len(self.log_ratio), norm=None), self.log_ratio)

    def resampled(self, texts: Sequence[str], keys: KeyArray, *, seed: int) -> FloatArray:
        """Return (n_documents,) scores whose largest are a sample drawn by importance.

        The sum of a text's log ratios plus a Gumbel variable by hash: taking the k largest is
        drawing k texts without replacement, each with odds of its importance.

        Args:
            texts: (n_documents,) texts.
            keys: (n_documents,) of the documents.
            seed: The run's seed.

        Source: DSIR (arXiv:2302.03169), section 3, resampling by the Gumbel top-k trick.
        """
        features = hashed_ngrams(texts, len(self.log_ratio), norm=None)
        uniform = (hash64(seed, "resample", keys).astype(np.float64) + 0.5) / 2.0**64
        gumbel = -np.log(-np.log(np.clip(uniform, 1e-300, 1.0 - 1e-16)))
        return np.asarray(features @ self.log_ratio, dtype=np.float64) + gumbel

    def save(self, path: Path) -> None:
        """Write the model as a numpy archive without objects."""
        np.savez_compressed(path, log_ratio=self.log_ratio, rest=[self.auc])

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a model.

        Raises:
            ArtifactError: The file holds something else.
        """
        arrays = _load(path, ("log_ratio", "rest"))
        return cls(log_ratio=arrays["log_ratio"], auc=float(arrays["rest"][0]))


def _fit(features: csr_matrix, labels: FloatArray) -> LogisticRegression:
    model = LogisticRegression(C=10.0, class_weight="balanced", max_iter=200, solver="liblinear")
    return model.fit(features, labels)


def hashed_ngrams(texts: Sequence[str], n_features: int, *, norm: str | None) -> csr_matrix:
    """Count hashed words and pairs of words.

    Args:
        texts: (n_documents,)
        n_features: Buckets.
        norm: ``l2`` for rows of length 1; None for counts.

    Returns:
        (n_documents, n_features) sparse.
    """
    vectorizer = HashingVectorizer(
        n_features=n_features, ngram_range=(1, 2), alternate_sign=False, norm=norm
    )
    return csr_matrix(vectorizer.transform(texts))


def _log_ratio(features: csr_matrix, labels: FloatArray) -> FloatArray:
    shares = []
    for side in (1.0, 0.0):
        counts = np.asarray(features[labels == side].sum(axis=0), dtype=np.float64).ravel() + 1.0
        shares.append(counts / counts.sum())
    ratio: FloatArray = np.log(shares[0] / shares[1])
    return ratio


def _mean(features: csr_matrix, log_ratio: FloatArray) -> FloatArray:
    n_grams = np.maximum(np.asarray(features.sum(axis=1), dtype=np.float64).ravel(), 1.0)
    mean: FloatArray = np.asarray(features @ log_ratio, dtype=np.float64) / n_grams
    return mean


def _both(labels: FloatArray) -> bool:
    return bool(labels.any() and not labels.all())


def _check_texts(reference: Sequence[str], pool: Sequence[str]) -> None:
    for name, texts in (("reference", reference), ("pool", pool)):
        if len(texts) < _LEAST_TEXTS:
            raise DataError(
                f"the {name} has {len(texts)} texts; a criterion learnt from them needs at least "
                f"{_LEAST_TEXTS}. Give more, or leave the criterion out."
            )


def _load(path: Path, names: tuple[str, ...]) -> dict[str, FloatArray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except (OSError, KeyError, ValueError) as error:
        raise ArtifactError(
            f"{path} is not a model of this criterion ({error}). Delete its folder and run the "
            "label stage again."
        ) from error
