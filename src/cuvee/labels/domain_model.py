"""A classifier of domains on hashed n-grams, and how often it is right.

Source: the domain labels of QuaDMix (arXiv:2504.16511, section 3.1) come from one classifier.
Deviation: logistic regression on hashed n-grams of the pool's own domains in place of a pretrained
model of 26 fixed ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from cuvee.arrays import FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.errors import ArtifactError, DataError
from cuvee.labels.ngrams import hashed_ngrams

OTHER = "other"
_FEATURES = 2**16
_LEAST_TEXTS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainClassifier:
    """Probabilities of domains by logistic regression on hashed n-grams."""

    names: tuple[str, ...]
    """(n_domains,) sorted."""
    weights: FloatArray
    """(n_domains, n_features)"""
    bias: FloatArray
    """(n_domains,)"""

    @classmethod
    def fit(cls, texts: Mapping[str, Sequence[str]]) -> Self:
        """Learn to tell domains apart; each counts the same, whatever its number of texts.

        Args:
            texts: By domain, texts of it.

        Raises:
            DataError: There are fewer than two domains, or one has fewer than 5 texts.
        """
        if len(texts) < 2:
            raise DataError(
                f"there are {len(texts)} domains with documents; a classifier needs at least 2."
            )
        for name, own in texts.items():
            if len(own) < _LEAST_TEXTS:
                raise DataError(
                    f"domain {name!r} has {len(own)} texts to learn from; it needs at least "
                    f"{_LEAST_TEXTS}. Give it more, or leave it out."
                )
        names = tuple(sorted(texts))
        features = hashed_ngrams(
            [one for name in names for one in texts[name]], _FEATURES, norm="l2"
        )
        codes = np.repeat(np.arange(len(names)), [len(texts[name]) for name in names])
        model = LogisticRegression(C=10.0, class_weight="balanced", max_iter=100, tol=1e-3)
        model.fit(features, codes)
        weights, bias = np.asarray(model.coef_), np.asarray(model.intercept_)
        if len(names) == 2:  # one row of log odds: those of the first domain are 0
            weights = np.vstack([np.zeros_like(weights), weights])
            bias = np.concatenate([[0.0], bias])
        return cls(names=names, weights=weights.astype(np.float32), bias=bias)

    def probabilities(self, texts: Sequence[str]) -> FloatArray:
        """Return (n_documents, n_domains) probabilities; rows sum to 1."""
        features = hashed_ngrams(texts, self.weights.shape[1], norm="l2")
        scores = np.asarray(features @ self.weights.T, dtype=np.float64) + self.bias
        shares: FloatArray = softmax(scores, axis=1)
        return shares

    def predict(self, texts: Sequence[str], *, threshold: float) -> tuple[list[str], FloatArray]:
        """Name the likeliest domains.

        Args:
            texts: (n_documents,)
            threshold: Least probability; below it the name is `OTHER`.

        Returns:
            (n_documents,) names, and (n_documents,) probabilities of the likeliest domains.
        """
        shares = self.probabilities(texts)
        best, likely = shares.argmax(axis=1), shares.max(axis=1)
        named = zip(best.tolist(), likely.tolist(), strict=True)
        return [self.names[place] if p >= threshold else OTHER for place, p in named], likely

    def save(self, path: Path) -> None:
        """Write the model as a numpy archive without objects."""
        np.savez_compressed(path, names=np.array(self.names), weights=self.weights, bias=self.bias)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a model.

        Raises:
            ArtifactError: The file holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                names, weights, bias = (archive[name] for name in ("names", "weights", "bias"))
        except (OSError, KeyError, ValueError) as error:
            raise ArtifactError(
                f"{path} is not a classifier of domains ({error}). Delete its folder and label "
                "the domains again."
            ) from error
        return cls(names=tuple(names.tolist()), weights=weights, bias=bias)


def judge_domains(
    model: DomainClassifier, texts: Mapping[str, Sequence[str]], *, threshold: float
) -> dict[str, Json]:
    """Compare predicted domains with known ones.

    Args:
        model: A classifier.
        texts: By domain, texts of it that were not learnt from.
        threshold: As for `DomainClassifier.predict`.

    Returns:
        ``n_documents``, ``accuracy``, ``macro_f1`` (mean over domains), ``other`` (share below the
        threshold, counted as wrong), and by domain its ``n_documents``, ``recall`` and ``f1``.

    Raises:
        DataError: There is no text.
    """
    known = [name for name, own in texts.items() for _ in own]
    if not known:
        raise DataError("there is no text to judge domains on. Raise pool.validation_share.")
    found, _ = model.predict([one for own in texts.values() for one in own], threshold=threshold)
    codes = {name: code for code, name in enumerate([*model.names, OTHER])}
    truth: IntArray = np.array([codes[name] for name in known])
    guess: IntArray = np.array([codes[name] for name in found])
    judged = [codes[name] for name in sorted(set(known))]
    f1 = f1_score(truth, guess, labels=judged, average=None, zero_division=0.0)
    return {
        "n_documents": len(known),
        "accuracy": float((truth == guess).mean()),
        "macro_f1": float(np.mean(f1)),
        "other": float((guess == codes[OTHER]).mean()),
        "domains": {
            name: {
                "n_documents": int((truth == codes[name]).sum()),
                "recall": float((guess == truth)[truth == codes[name]].mean()),
                "f1": float(score),
            }
            for name, score in zip(sorted(set(known)), f1, strict=True)
        },
    }
