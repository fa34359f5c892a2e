"""The sampler: which documents are taken, how often and in which order.

All chance about documents comes from `hash64` of their keys, so that nothing depends on the layout
of files, on the number of workers or on restarts. What is taken (``copies``) and the order it comes
in (``order``) are independent; a shared hash would put the part-taken domains at the front.
"""

import numpy as np

from cuvee.arrays import BoolArray, FloatArray, IntArray, KeyArray
from cuvee.errors import DataError
from cuvee.randomness import Purpose, hash64


def document_order(
    keys: KeyArray, *, seed: int, purpose: Purpose = "order", epoch: int = 0
) -> IntArray:
    """Sort documents by their hash for one purpose.

    Args:
        keys: (n_documents,) unique keys from `document_keys`.
        seed: The run's seed.
        purpose: What the order is for.
        epoch: Number of the pass over the documents; each has an order of its own.

    Returns:
        (n_documents,) positions in ``keys``, first to last.
    """
    # The hash is a bijection of the key, so unique keys cannot tie.
    order = np.argsort(hash64(seed, purpose, keys, part=epoch), kind="stable")
    return order.astype(np.int64)


def take_quota(keys: KeyArray, n_tokens: IntArray, *, quota: int, seed: int) -> IntArray:
    """Take whole documents of one domain until a token quota is reached.

    Every document comes ``quota // total`` times; for the remainder, documents are taken in hash
    order. The last one is kept whole, so the tokens taken exceed the quota by less than one
    document. A larger quota takes every document at least as often as a smaller one.

    Args:
        keys: (n_documents,) unique keys of the domain's documents.
        n_tokens: (n_documents,) lengths.
        quota: Tokens to reach, at least 0.
        seed: The run's seed.

    Returns:
        (n_documents,) copies of each document.

    Raises:
        DataError: The quota is negative, or positive where the documents have no tokens.
    """
    epochs, rest = _split_quota(n_tokens, quota)
    taken = _reach(keys, n_tokens, quota=rest, seed=seed, purpose="copies")
    return epochs + taken.astype(np.int64)


def subset(keys: KeyArray, n_tokens: IntArray, *, quota: int, seed: int) -> BoolArray:
    """Choose the documents that stand for a domain where only part of it may be seen.

    Args:
        keys: (n_documents,) unique keys of the domain's documents.
        n_tokens: (n_documents,) lengths.
        quota: Tokens to reach; all documents are chosen when they hold no more.
        seed: The run's seed.

    Returns:
        (n_documents,) True where chosen; the last one is kept whole. A larger quota contains a
        smaller one's subset.

    Raises:
        DataError: The quota is negative.
    """
    if quota < 0:
        raise DataError(f"quota is {quota} tokens; it must be at least 0.")
    return _reach(keys, n_tokens, quota=quota, seed=seed, purpose="subset")


def draw_copies(expected: FloatArray, keys: KeyArray, *, seed: int) -> IntArray:
    """Round expected copies to whole ones: ``floor(s) + (u < s - floor(s))``.

    Args:
        expected: (n_documents,) expected copies s, finite and at least 0.
        keys: (n_documents,) keys; each gives its u by hash.
        seed: The run's seed.

    Returns:
        (n_documents,) copies, whose mean over seeds is ``expected``.

    Raises:
        DataError: An expected value is negative or not finite.
    """
    for row in np.flatnonzero(~(np.isfinite(expected) & (expected >= 0.0)))[:1]:
        raise DataError(
            f"expected copies of document {row} are {expected[row]}; they must be finite and at "
            "least 0."
        )
    whole = np.floor(expected)
    # A float below 1 times 2**64 is below 2**64, so it always fits.
    threshold = ((expected - whole) * 2.0**64).astype(np.uint64)
    drawn = hash64(seed, "copies", keys) < threshold
    return whole.astype(np.int64) + drawn.astype(np.int64)


def discard(
    copies: IntArray, n_tokens: IntArray, keys: KeyArray, *, quota: int, seed: int
) -> IntArray:
    """Leave documents out, any as likely as another, until a token budget is met.

    Scaling expected copies instead would bend the curve they come from at whole numbers.

    Args:
        copies: (n_documents,) drawn.
        n_tokens: (n_documents,) lengths.
        keys: (n_documents,) unique keys.
        quota: Tokens to keep, at least 0.
        seed: The run's seed.

    Returns:
        (n_documents,) copies; a document keeps all of its own or none, and the last is kept whole.
        All of them where they hold no more tokens than the quota.
    """
    order = document_order(keys, seed=seed, purpose="discard")
    tokens = (copies * n_tokens)[order]
    before = np.cumsum(tokens) - tokens
    kept = np.zeros(len(copies), dtype=np.int64)
    kept[order] = np.where(before < quota, copies[order], 0)
    return kept


def interleave(counts: IntArray, rng: np.random.Generator) -> IntArray:
    """Spread each domain's sequences evenly over a run.

    Sequence j of domain i stands at time ``(j + u_i) / n_i`` with one uniform ``u_i`` a domain, so
    any part of the run holds each domain in its share, within about one sequence.

    Args:
        counts: (n_domains,) sequences of each domain.
        rng: Source of the offsets u.

    Returns:
        (sum of counts,) domain of each sequence in training order.
    """
    domain = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    first = np.cumsum(counts) - counts
    within = np.arange(len(domain)) - first[domain]
    offsets = rng.random(len(counts))
    times = (within + offsets[domain]) / np.asarray(counts, dtype=np.float64)[domain]
    ordered: IntArray = domain[np.argsort(times, kind="stable")]
    return ordered


def _split_quota(n_tokens: IntArray, quota: int) -> tuple[int, int]:
    total = int(n_tokens.sum())
    if quota < 0:
        raise DataError(f"quota is {quota} tokens; it must be at least 0.")
    if quota > 0 and total <= 0:
        raise DataError(
            f"quota is {quota} tokens, but the domain has none. Give it documents or weight 0."
        )
    return (quota // total, quota % total) if total > 0 else (0, 0)


def _reach(
    keys: KeyArray, n_tokens: IntArray, *, quota: int, seed: int, purpose: Purpose
) -> BoolArray:
    order = document_order(keys, seed=seed, purpose=purpose)
    before = np.cumsum(n_tokens[order]) - n_tokens[order]
    chosen = np.zeros(len(keys), dtype=np.bool_)
    chosen[order] = before < quota
    return chosen
