"""What curves take of a pool; and everything once, each criterion's best and their union."""

from collections.abc import Mapping, Sequence

import numpy as np

from cuvee.arrays import FloatArray, IntArray
from cuvee.corpus.store import TokenStore
from cuvee.policy.mixture import Mixture
from cuvee.policy.quality_curve import QualityCurve, pool_copies
from cuvee.policy.ranks import token_ranks
from cuvee.policy.sampling import discard, draw_copies
from cuvee.simplex import normalise

NATURAL = "natural"
UNION = "union-of-tops"
_HALVINGS = 30


def natural_curve(domains: tuple[str, ...], criteria: tuple[str, ...]) -> QualityCurve:
    """Return the curve that takes every document once."""
    return _curve(domains, criteria, np.full(len(criteria), 1.0 / len(criteria)), 1.0)


def top_curve(
    store: TokenStore, normalised: FloatArray, criteria: tuple[str, ...], column: int, n_tokens: int
) -> QualityCurve:
    """Return the curve that takes the pool's best documents by one criterion, whatever the domain.

    Documents of equal score are taken together, so that it may take more; a run or a selection then
    keeps an even part.

    Args:
        store: The pool.
        normalised: (n_documents, n_criteria) criteria on one scale, smaller is better.
        criteria: (n_criteria,) names.
        column: Which criterion.
        n_tokens: Tokens to take.
    """
    train = np.flatnonzero(store.side == 0)
    scores, tokens = normalised[train, column], store.n_tokens[train]
    order = np.lexsort((store.keys[train], scores))
    before = np.cumsum(tokens[order]) - tokens[order]
    taken = order[before < n_tokens]
    domain: IntArray = store.domain[train].astype(np.int64)
    ranks = token_ranks(np.asarray(scores, dtype=np.float64), tokens, domain)
    threshold = np.zeros(len(store.domains))
    np.maximum.at(threshold, domain[taken], ranks[taken])
    merge = np.zeros(len(criteria))
    merge[column] = 1.0
    return _curve(store.domains, criteria, merge, threshold)


def union_of_tops(
    store: TokenStore, normalised: FloatArray, criteria: tuple[str, ...], n_tokens: int
) -> tuple[QualityCurve, ...]:
    """Return the best by each criterion, so many of each that their union has the tokens."""
    low, high = 0.0, float(n_tokens)
    train = np.flatnonzero(store.side == 0)
    domain: IntArray = store.domain[train].astype(np.int64)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        curves = top_curves(store, normalised, criteria, round(middle))
        copies = pool_copies(
            curves, normalised=normalised[train], n_tokens=store.n_tokens[train], domain=domain
        )
        if float((copies * store.n_tokens[train]).sum()) > n_tokens:
            high = middle
        else:
            low = middle
        if high - low < 1e-3 * n_tokens:
            break
    # Ties at the top of one criterion may hold more than the budget; a run keeps an even part.
    least = n_tokens // len(criteria)
    return top_curves(store, normalised, criteria, round(low) or least)


def baselines(
    store: TokenStore, normalised: FloatArray, criteria: tuple[str, ...], n_tokens: int
) -> Mapping[str, tuple[QualityCurve, ...]]:
    """Return what a chosen curve must beat at equal tokens, by name."""
    tops = top_curves(store, normalised, criteria, n_tokens)
    named: dict[str, tuple[QualityCurve, ...]] = {
        NATURAL: (natural_curve(store.domains, criteria),)
    }
    named |= {f"top-{name}": (curve,) for name, curve in zip(criteria, tops, strict=True)}
    if len(criteria) > 1:
        named[UNION] = union_of_tops(store, normalised, criteria, n_tokens)
    return named


def expected_mixture(
    store: TokenStore, normalised: FloatArray, some: Sequence[QualityCurve]
) -> Mixture:
    """Return the shares of the tokens that a curve, or a union of several, is expected to take.

    Raises:
        DataError: It takes nothing.
    """
    return Mixture.flat(store.domains, normalise(expected_tokens(store, normalised, some)))


def expected_tokens(
    store: TokenStore, normalised: FloatArray, some: Sequence[QualityCurve]
) -> FloatArray:
    """Return the (n_domains,) tokens that a curve, or a union of several, is expected to take."""
    train = np.flatnonzero(store.side == 0)
    domain: IntArray = store.domain[train].astype(np.int64)
    copies = pool_copies(
        some, normalised=normalised[train], n_tokens=store.n_tokens[train], domain=domain
    )
    tokens = np.bincount(
        domain, weights=copies * store.n_tokens[train], minlength=len(store.domains)
    )
    return np.asarray(tokens, dtype=np.float64)


def draw_sample(
    store: TokenStore,
    normalised: FloatArray,
    some: Sequence[QualityCurve],
    *,
    n_tokens: int,
    seed: int,
) -> IntArray:
    """Draw the copies of every document and discard evenly what is beyond a token budget.

    Args:
        store: The pool.
        normalised: (n_documents, n_criteria) criteria on one scale, smaller is better.
        some: A curve, or several whose union is taken.
        n_tokens: The budget.
        seed: The run's seed.

    Returns:
        (n_documents,) copies; none of documents held out.
    """
    train = np.flatnonzero(store.side == 0)
    expected = pool_copies(
        some,
        normalised=normalised[train],
        n_tokens=store.n_tokens[train],
        domain=store.domain[train].astype(np.int64),
    )
    copies = np.zeros(len(store.keys), dtype=np.int64)
    drawn = draw_copies(expected, store.keys[train], seed=seed)
    copies[train] = discard(
        drawn, store.n_tokens[train], store.keys[train], quota=n_tokens, seed=seed
    )
    return copies


def top_curves(
    store: TokenStore, normalised: FloatArray, criteria: tuple[str, ...], n_tokens: int
) -> tuple[QualityCurve, ...]:
    """Return the curve of `top_curve` for each criterion."""
    return tuple(
        top_curve(store, normalised, criteria, column, n_tokens) for column in range(len(criteria))
    )


def _curve(
    domains: tuple[str, ...],
    criteria: tuple[str, ...],
    merge: FloatArray,
    threshold: FloatArray | float,
) -> QualityCurve:
    n_domains = len(domains)
    return QualityCurve(
        domains=domains,
        criteria=criteria,
        merge=np.tile(merge, (n_domains, 1)),
        steepness=np.ones(n_domains),
        threshold=np.broadcast_to(np.asarray(threshold, dtype=np.float64), (n_domains,)).copy(),
        exponent=np.zeros(n_domains),
        base=np.zeros(n_domains),
    )
