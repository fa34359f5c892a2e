"""Perplexity of documents under bigrams of a reference, straight from token ids."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from cuvee.arrays import FloatArray, IntArray, KeyArray
from cuvee.errors import DataError

_BUCKETS = 2**21
_MIX = (0.6, 0.35, 0.05)
"""Weights of bigram, unigram and uniform shares (Jelinek-Mercer interpolation)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BigramModel:
    """Shares of token pairs of a reference, hashed, mixed with shares of single tokens.

    Source: interpolated n-gram models as used to filter CCNet (arXiv:1911.00359, section 4.2), of
    order 2 and over the run's own tokens.
    """

    pairs: FloatArray
    """(n_buckets,) counts of hashed pairs."""
    single: FloatArray
    """(vocabulary_size,) counts."""

    @classmethod
    def fit(cls, ids: IntArray, *, vocabulary_size: int) -> Self:
        """Count a reference.

        Args:
            ids: (n_tokens,) documents one after the other.
            vocabulary_size: One more than the highest id.

        Raises:
            DataError: There are fewer than two tokens.
        """
        if len(ids) < 2:
            raise DataError(f"the reference has {len(ids)} tokens; its bigrams need at least 2.")
        buckets = _bucket(ids[:-1], ids[1:])
        return cls(
            pairs=np.bincount(buckets, minlength=_BUCKETS).astype(np.float64),
            single=np.bincount(ids, minlength=vocabulary_size).astype(np.float64),
        )

    def score(self, ids: IntArray, lengths: IntArray) -> FloatArray:
        """Return the (n_documents,) mean negative log likelihood, nats a token; smaller is better.

        Args:
            ids: (sum of lengths,) tokens of documents, one after the other.
            lengths: (n_documents,) at least 1; the first token of a document is judged by its
                share alone.
        """
        total = self.single.sum()
        share = self.single[ids] / total
        before = np.concatenate([[0], ids[:-1]])
        counts = self.single[before]
        pair = np.where(
            counts > 0.0, self.pairs[_bucket(before, ids)] / np.maximum(counts, 1.0), 0.0
        )
        starts = np.cumsum(lengths) - lengths
        pair[starts] = share[starts]
        likelihood = _MIX[0] * np.minimum(pair, 1.0) + _MIX[1] * share + _MIX[2] / len(self.single)
        losses: FloatArray = np.add.reduceat(-np.log(likelihood), starts) / lengths
        return losses


def _bucket(first: IntArray, second: IntArray) -> IntArray:
    with np.errstate(over="ignore"):
        mixed: KeyArray = first.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ second.astype(np.uint64)) * np.uint64(0xBF58476D1CE4E5B9)
    return (mixed >> np.uint64(43)).astype(np.int64)
