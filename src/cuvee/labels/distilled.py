"""Influence distilled to words: a regressor scores a whole pool from a few scored documents."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from scipy.stats import rankdata, spearmanr
from sklearn.linear_model import Ridge
from sklearn.model_selection import train_test_split

from cuvee.arrays import FloatArray, IntArray
from cuvee.errors import ArtifactError, DataError
from cuvee.labels.ngrams import hashed_ngrams
from cuvee.randomness import integer_seed

_FEATURES = 2**18
_PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0)
_LEAST_TEXTS = 50
_HELD_OUT = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class DistilledInfluence:
    """Rank of a document's influence among others', by ridge regression on hashed n-grams.

    Source: MATES (arXiv:2406.06046), section 3.2: a small model fitted to influence probed on few
        documents scores the pool. Deviation: a linear model of n-grams in place of BERT, and ranks
        in place of the scores themselves, whose few extremes would decide a least-squares fit.
    """

    weights: FloatArray
    """(n_features,)"""
    bias: float
    spearman: float
    """Rank correlation with the influence of documents not fitted."""
    n_texts: int
    """Documents fitted and held out."""

    @classmethod
    def fit(cls, texts: Sequence[str], scores: FloatArray, *, rng: np.random.Generator) -> Self:
        """Learn influence from text.

        A fifth of the documents is held out; the penalty is chosen on a fifth of the others, before
        the held-out ones are looked at. The last fit is on all.

        Args:
            texts: (n_documents,) scored ones.
            scores: (n_documents,) their influence, larger is better.
            rng: Chooses what is held out.

        Raises:
            DataError: Fewer than 50 texts, or scores that are not one finite number each.
        """
        scores = np.asarray(scores, dtype=np.float64)
        if scores.shape != (len(texts),) or not np.isfinite(scores).all():
            raise DataError(
                f"there are scores of shape {scores.shape} for {len(texts)} texts, or some are not "
                "finite; give one finite score each."
            )
        if len(texts) < _LEAST_TEXTS:
            raise DataError(
                f"{len(texts)} documents are scored; influence is learnt from at least "
                f"{_LEAST_TEXTS}. Score more, by `cuvee influence score` or more probes."
            )
        ranks = (rankdata(scores) - 0.5) / len(scores)
        features = hashed_ngrams(texts, _FEATURES, norm="l2")
        seen, unseen = _halved(np.arange(len(texts)), rng)
        fitted, tried = _halved(seen, rng)

        def agreement(penalty: float, fit: IntArray, held: IntArray) -> float:
            model = _ridge(penalty).fit(features[fit], ranks[fit])
            return _rank_correlation(model.predict(features[held]), scores[held])

        best = max(_PENALTIES, key=lambda penalty: agreement(penalty, fitted, tried))
        spearman = agreement(best, seen, unseen)
        final = _ridge(best).fit(features, ranks)
        return cls(
            weights=np.asarray(final.coef_, dtype=np.float64),
            bias=float(final.intercept_),
            spearman=spearman,
            n_texts=len(texts),
        )

    def score(self, texts: Sequence[str]) -> FloatArray:
        """Return the (n_documents,) expected ranks, about 0 to 1; larger is better."""
        features = hashed_ngrams(texts, len(self.weights), norm="l2")
        return np.asarray(features @ self.weights + self.bias, dtype=np.float64)

    def save(self, path: Path) -> None:
        """Write the model as a numpy archive without objects."""
        rest = [self.bias, self.spearman, float(self.n_texts)]
        np.savez_compressed(path, influence=self.weights.astype(np.float32), rest=rest)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a model; its scores equal those of the one that was saved to float32's precision.

        Raises:
            ArtifactError: The file holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                weights, rest = archive["influence"], archive["rest"]
        except (OSError, KeyError, ValueError) as error:
            raise ArtifactError(
                f"{path} is not a model of influence ({error}). Delete its folder and run the "
                "label stage again."
            ) from error
        bias, spearman, n_texts = rest.tolist()
        return cls(
            weights=weights.astype(np.float64),
            bias=bias,
            spearman=spearman,
            n_texts=int(n_texts),
        )


def _ridge(penalty: float) -> Ridge:
    return Ridge(alpha=penalty, solver="sparse_cg", tol=1e-6)


def _halved(places: IntArray, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    one, other = train_test_split(places, test_size=_HELD_OUT, random_state=integer_seed(rng))
    return one, other


def _rank_correlation(predicted: FloatArray, measured: FloatArray) -> float:
    if np.ptp(predicted) == 0.0 or np.ptp(measured) == 0.0:
        return 0.0
    return float(spearmanr(predicted, measured).statistic)
