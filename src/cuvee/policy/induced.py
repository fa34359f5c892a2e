"""What a quality curve makes of a pool: the tokens of each domain it takes, and their quality."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from cuvee.arrays import FloatArray, IntArray, KeyArray
from cuvee.policy.quality_curve import QualityCurve
from cuvee.policy.ranks import merge_scores, token_ranks
from cuvee.randomness import hash64


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolSample:
    """Documents that stand for a pool: all of them, or some of each domain chosen by hash."""

    domains: tuple[str, ...]
    domain: IntArray
    """(n_documents,) positions in ``domains``."""
    n_tokens: IntArray
    """(n_documents,) lengths."""
    normalised: FloatArray
    """(n_documents, n_criteria) criteria on one scale, smaller is better."""
    pool_tokens: IntArray
    """(n_domains,) tokens of the whole pool."""

    @classmethod
    def choose(
        cls,
        domains: Sequence[str],
        *,
        keys: KeyArray,
        domain: IntArray,
        n_tokens: IntArray,
        normalised: FloatArray,
        most: int,
        seed: int,
    ) -> Self:
        """Take at most ``most`` documents of each domain, in hash order.

        Args:
            domains: (n_domains,) names.
            keys: (n_documents,) of the pool's documents.
            domain: (n_documents,) positions in ``domains``.
            n_tokens: (n_documents,) lengths.
            normalised: (n_documents, n_criteria) criteria on one scale.
            most: Documents of a domain.
            seed: The run's seed.
        """
        order = np.lexsort((hash64(seed, "sample", keys), domain))
        start = np.searchsorted(domain[order], np.arange(len(domains)))
        place = np.arange(len(order)) - start[domain[order]]
        kept = order[place < most]
        return cls(
            domains=tuple(domains),
            domain=np.asarray(domain[kept], dtype=np.int64),
            n_tokens=np.asarray(n_tokens[kept], dtype=np.int64),
            normalised=np.asarray(normalised[kept], dtype=np.float64),
            pool_tokens=np.bincount(domain, weights=n_tokens, minlength=len(domains)).astype(
                np.int64
            ),
        )

    def induce(self, curve: QualityCurve) -> "Induced":
        """Compute what a curve takes, in expectation."""
        merged = merge_scores(self.normalised, self.domain, curve.merge)
        ranks = token_ranks(merged, self.n_tokens, self.domain)
        copies = curve.copies(ranks, self.domain)
        sampled = self._sum(self.n_tokens.astype(np.float64))
        scale = self.pool_tokens / np.maximum(sampled, 1.0)
        weight = copies * self.n_tokens * scale[self.domain]
        tokens = self._sum(weight)
        unique = np.minimum(copies, 1.0) * self.n_tokens * scale[self.domain]
        quality = np.stack(
            [self._sum(weight * column) for column in self.normalised.T],
            axis=1,
        )
        return Induced(
            tokens=tokens,
            unique_tokens=self._sum(unique),
            quality=quality / np.maximum(tokens, 1e-300)[:, None],
        )

    def _sum(self, values: FloatArray) -> FloatArray:
        sums = np.bincount(self.domain, weights=values, minlength=len(self.domains))
        return np.asarray(sums, dtype=np.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Induced:
    """Expected contents of a sample of the pool."""

    tokens: FloatArray
    """(n_domains,) tokens, repeated ones counted each time."""
    unique_tokens: FloatArray
    """(n_domains,) tokens of documents taken at least once, in expectation."""
    quality: FloatArray
    """(n_domains, n_criteria) token-weighted mean of each criterion, smaller is better."""

    @property
    def shares(self) -> FloatArray:
        """(n_domains,) shares of the tokens; sum to 1, or all 0 where nothing is taken."""
        shares: FloatArray = self.tokens / max(float(self.tokens.sum()), 1e-300)
        return shares

    def features(self, *, by_domain: bool) -> FloatArray:
        """Return what a regression of losses is told.

        Args:
            by_domain: Tell quality of each domain, not of all tokens together: more to learn from
                the same runs, needed where a criterion means other things in other domains.

        Returns:
            (n_domains + n_criteria + 1,), or (n_domains + n_domains n_criteria + 1,) by domain:
            square roots of the shares, which spread small ones; how much better than the pool's
            middle the tokens are by each criterion, by domain times its share; log of the tokens.
        """
        mass = self.shares[:, None] * (0.5 - self.quality)
        better = mass.ravel() if by_domain else mass.sum(axis=0)
        total = np.log(max(float(self.tokens.sum()), 1.0))
        return np.concatenate([np.sqrt(self.shares), better, [total]])
