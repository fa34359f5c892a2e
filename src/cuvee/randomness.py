"""Seeds become generators, and documents hash values: the only two sources of chance."""

import hashlib
from collections import deque
from collections.abc import Iterable
from itertools import islice, repeat
from typing import Literal, TypeAlias

import numpy as np

from cuvee.arrays import KeyArray

Purpose: TypeAlias = Literal[
    "split",
    "subset",
    "copies",
    "order",
    "discard",
    "sample",
    "half",
    "probe",
    "resample",
    "duplicates",
]
_MASK = (1 << 64) - 1
_AT_ONCE = 512
"""States of a hash held at once: they stay in the processor's second cache."""


def stream(seed: int, *key: str | int) -> np.random.Generator:
    """Make the random generator of one stage or run.

    Streams of different keys are independent, so neither order, worker count nor resumption changes
    a result.

    Args:
        seed: The run's seed, from config or command line.
        key: Words and numbers naming the user of the stream, as ``"design"`` or ``"proxy", 3``.

    Returns:
        A generator that depends on nothing but ``seed`` and ``key``.

    Example:
        >>> int(stream(1, "design").integers(100)) == int(stream(1, "design").integers(100))
        True
    """
    words = [int(word) for word in _words(seed, *key)]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def integer_seed(rng: np.random.Generator) -> int:
    """Draw a seed for a library that takes only integers, in [0, 2**31)."""
    return int(rng.integers(2**31))


def document_keys(ids: Iterable[str]) -> KeyArray:
    """Hash document ids to 64-bit keys, the identity every later decision is made on.

    Args:
        ids: (n_documents,) document ids, any valid Unicode.

    Returns:
        (n_documents,) first 8 bytes of each id's BLAKE2b, little endian.
    """
    return keys_of_bytes(map(str.encode, ids))


def keys_of_bytes(ids: Iterable[bytes]) -> KeyArray:
    """Hash ids that are UTF-8 already, which spares long tables their decoding.

    Args:
        ids: (n_documents,) as `document_keys` would encode them.

    Returns:
        (n_documents,) the same keys.
    """
    # Copying a state is faster than making one, and map than a loop: half the time of the obvious.
    kind, begun = hashlib.blake2b, hashlib.blake2b(digest_size=8)
    rest, digests = iter(ids), []
    while texts := list(islice(rest, _AT_ONCE)):
        states = list(map(kind.copy, repeat(begun, len(texts))))
        deque(map(kind.update, states, texts), maxlen=0)
        digests.append(b"".join(map(kind.digest, states)))
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def hash64(seed: int, purpose: Purpose, keys: KeyArray, *, part: KeyArray | int = 0) -> KeyArray:
    """Give each document its uniform 64-bit value for one purpose.

    Purposes are independent of each other: each has its own pair of secret words, between which the
    key passes twice through the SplitMix64 finaliser.

    Args:
        seed: The run's seed.
        purpose: What the value decides.
        keys: (n_documents,) from `document_keys`.
        part: Distinguishes several values of one document: window or epoch number.

    Returns:
        (n_documents,) uniform on [0, 2**64); compare it with integers only (`share_threshold`).

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014),
        as mixed by the reference SplitMix64 (variant 13 constants).
    """
    before, after = _words(seed, "hash64", purpose)[:2]
    extra = np.asarray(part, dtype=np.uint64)
    with np.errstate(over="ignore"):
        mixed = _finalise(keys ^ before)
        return _finalise(mixed + _finalise(extra + np.uint64(0x9E3779B97F4A7C15)) + after)


def share_threshold(share: float) -> int:
    """Return the integer below which a share of all 64-bit values lies.

    Args:
        share: In [0, 1].

    Example:
        >>> share_threshold(0.5) == 2**63
        True
    """
    return min(int(share * 2.0**64), _MASK)


def _words(*key: str | int) -> KeyArray:
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    return np.frombuffer(hashlib.sha256(text.encode("utf-8")).digest(), dtype="<u8").astype(
        np.uint64
    )


def _finalise(x: KeyArray) -> KeyArray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
