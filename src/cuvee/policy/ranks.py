"""Quality ranks: several criteria on one scale, merged by domain, ranked by tokens.

Everywhere here **smaller is better**, as in the paper; `Normaliser` turns criteria round that are
larger for better documents.

Source: QuaDMix (arXiv:2504.16511), equations 1 and 2.
"""

from dataclasses import dataclass
from typing import Literal, Self, TypeAlias

import numpy as np

from cuvee.arrays import FloatArray, IntArray
from cuvee.errors import DataError

Normalisation: TypeAlias = Literal["rank", "zscore", "minmax", "floor-rank"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Normaliser:
    """The scale of one criterion, learnt from scores of the pool or of a sample of it."""

    method: Normalisation
    larger_is_better: bool
    knots: FloatArray
    """(n_knots,) rising turned scores for ranks; centre and width, or lowest and range, else."""
    below: FloatArray
    """(n_knots,) share of scores below each knot, ties counted half; empty where ranks are not
    used."""
    floor: float
    """Turned score that everything above is set to with ``floor-rank``; infinite otherwise."""

    @classmethod
    def fit(
        cls,
        scores: FloatArray,
        *,
        larger_is_better: bool,
        method: Normalisation = "rank",
        floor_share: float = 0.5,
    ) -> Self:
        """Learn the scale.

        Args:
            scores: (n_documents,) raw scores of one criterion, finite.
            larger_is_better: Direction of the raw scores.
            method: ``rank``: average rank in [0, 1]; ``zscore``; ``minmax``; ``floor-rank``: ranks
                with the worst scores set to one value first, for criteria whose mass is nearly all
                bad.
            floor_share: Share of the scores, the worst, that become one value with ``floor-rank``.

        Raises:
            DataError: A score is not finite, or there is none.
        """
        for row in np.flatnonzero(~np.isfinite(scores))[:1]:
            raise DataError(
                f"score of document {row} is {scores[row]}; every document needs a finite score. "
                "Make the label column again."
            )
        if not len(scores):
            raise DataError("there is no score to learn a criterion's scale from.")
        turned = np.asarray(-scores if larger_is_better else scores, dtype=np.float64)
        floor = np.inf
        if method == "zscore":
            knots = np.array([turned.mean(), max(float(turned.std()), 1e-300)])
            below = np.empty(0)
        elif method == "minmax":
            knots = np.array([turned.min(), max(float(np.ptp(turned)), 1e-300)])
            below = np.empty(0)
        else:
            if method == "floor-rank":
                floor = float(np.quantile(turned, 1.0 - floor_share, method="higher"))
                turned = np.minimum(turned, floor)
            knots, counts = np.unique(turned, return_counts=True)
            below = (np.cumsum(counts) - 0.5 * counts) / len(turned)
        return cls(
            method=method,
            larger_is_better=larger_is_better,
            knots=knots,
            below=np.asarray(below, dtype=np.float64),
            floor=floor,
        )

    def transform(self, scores: FloatArray) -> FloatArray:
        """Put raw scores on the scale.

        Args:
            scores: (n_documents,) of the same criterion.

        Returns:
            (n_documents,) smaller is better; in [0, 1] but for ``zscore``, and for ``minmax`` where
            a score lies outside those learnt from.
        """
        turned = np.asarray(-scores if self.larger_is_better else scores, dtype=np.float64)
        if self.method in ("zscore", "minmax"):
            scaled: FloatArray = (turned - self.knots[0]) / self.knots[1]
            return scaled
        return np.interp(np.minimum(turned, self.floor), self.knots, self.below)


def merge_scores(normalised: FloatArray, domain: IntArray, merge: FloatArray) -> FloatArray:
    """Merge the criteria with each domain's weights (equation 1).

    Args:
        normalised: (n_documents, n_criteria) from `Normaliser.transform`.
        domain: (n_documents,) index of each document's domain.
        merge: (n_domains, n_criteria) at least 0, rows sum to 1.

    Returns:
        (n_documents,) merged quality, smaller is better.
    """
    merged: FloatArray = np.einsum("nc,nc->n", normalised, merge[domain])
    return merged


def token_ranks(merged: FloatArray, n_tokens: IntArray, domain: IntArray) -> FloatArray:
    """Rank documents within their domains by tokens (equation 2), exactly.

    Args:
        merged: (n_documents,) merged quality, smaller is better.
        n_tokens: (n_documents,) at least 1.
        domain: (n_documents,) index of the domain.

    Returns:
        (n_documents,) share of the domain's tokens in documents that are as good or better, the
        document itself included: in (0, 1], the worst exactly 1. Equal qualities share one rank.
    """
    order = np.lexsort((merged, domain))
    sorted_domain, sorted_merged = domain[order], merged[order]
    running = np.cumsum(n_tokens[order])
    last = np.ones(len(order), dtype=np.bool_)
    last[:-1] = (sorted_domain[1:] != sorted_domain[:-1]) | (
        sorted_merged[1:] != sorted_merged[:-1]
    )
    ends = np.flatnonzero(last)
    reached = running[ends[np.searchsorted(ends, np.arange(len(order)))]]
    final = np.ones(len(order), dtype=np.bool_)
    final[:-1] = sorted_domain[1:] != sorted_domain[:-1]
    closes = np.flatnonzero(final)
    place = np.searchsorted(closes, np.arange(len(order)))
    before = np.concatenate([[0], running[closes][:-1]])[place]
    ranks = np.empty(len(order))
    ranks[order] = (reached - before) / (running[closes][place] - before)
    return ranks


@dataclass(frozen=True, kw_only=True, slots=True)
class RankTables:
    """Merged quality to token rank, one table a domain, for pools that stream."""

    edges: tuple[FloatArray, ...]
    """By domain: (n_knots,) rising merged qualities."""
    reached: tuple[FloatArray, ...]
    """By domain: (n_knots,) share of tokens at most that; the last is 1."""

    @classmethod
    def of_documents(
        cls, merged: FloatArray, n_tokens: IntArray, domain: IntArray, *, n_domains: int
    ) -> Self:
        """Make exact tables of all documents, or estimates of a sample of them.

        Args:
            merged: (n_documents,) merged quality, smaller is better.
            n_tokens: (n_documents,) lengths.
            domain: (n_documents,) index of the domain.
            n_domains: Number of domains; one without documents ranks everything 1.
        """
        edges, reached = [], []
        for index in range(n_domains):
            own = domain == index
            values, place = np.unique(merged[own], return_inverse=True)
            tokens = np.bincount(place, weights=n_tokens[own], minlength=len(values))
            edges.append(values)
            reached.append(np.cumsum(tokens) / max(float(tokens.sum()), 1.0))
        return cls(edges=tuple(edges), reached=tuple(reached))

    @classmethod
    def of_histograms(cls, tokens: IntArray, *, low: float, high: float) -> Self:
        """Make tables of token histograms over equal bins of the merged quality.

        Histograms of integers add up in any order to the same tables.

        Args:
            tokens: (n_domains, n_bins) tokens in each bin.
            low: Lower edge of the first bin.
            high: Upper edge of the last.
        """
        n_bins = tokens.shape[1]
        tops = low + (high - low) * np.arange(1, n_bins + 1) / n_bins
        totals = np.maximum(tokens.sum(axis=1, keepdims=True), 1)
        shares = np.cumsum(tokens, axis=1) / totals
        return cls(edges=tuple(tops for _ in tokens), reached=tuple(shares))

    @property
    def error(self) -> FloatArray:
        """(n_domains,) largest step between two knots: how far a rank can be off."""
        return np.array([float(np.diff(one, prepend=0.0).max(initial=0.0)) for one in self.reached])

    def ranks(self, merged: FloatArray, domain: IntArray) -> FloatArray:
        """Look up token ranks.

        Args:
            merged: (n_documents,) merged quality.
            domain: (n_documents,) index of the domain.

        Returns:
            (n_documents,) ranks in [0, 1]; a quality worse than all known ranks 1.
        """
        ranks = np.ones(len(merged))
        for index in np.unique(domain):
            own = domain == index
            edges, reached = self.edges[index], self.reached[index]
            if len(edges):
                place = np.searchsorted(edges, merged[own], side="left")
                ranks[own] = np.append(reached, 1.0)[place]
        return ranks
