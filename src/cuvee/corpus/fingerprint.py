"""Tell pools apart by their content, and describe each domain by a few numbers."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from cuvee.arrays import FloatArray, IntArray, KeyArray
from cuvee.randomness import document_keys, hash64

N_FEATURES = 256
SAMPLE_DOCUMENTS = 256
SAMPLE_CHARACTERS = 2000
_SEED = 0  # descriptors of one text are equal whatever the run's seed


def text_keys(texts: Iterable[str]) -> tuple[KeyArray, KeyArray]:
    """Hash texts to 128 bits, by which exact duplicates are found.

    Args:
        texts: (n_documents,) valid Unicode.

    Returns:
        High and low words of each text's BLAKE2b-128, each (n_documents,).
    """
    digests = b"".join(
        hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest() for text in texts
    )
    words = np.frombuffer(digests, dtype="<u8").astype(np.uint64).reshape(-1, 2)
    return words[:, 0].copy(), words[:, 1].copy()


class ContentDigest:
    """SHA-256 of a pool's documents, each a text key and a domain, in sorted order.

    Neither the documents' ids nor how they are laid out in shards enters it.
    """

    def __init__(self, domains: Sequence[str]) -> None:
        """Begin with no documents.

        Args:
            domains: (n_domains,) sorted names.
        """
        self._domain_keys = document_keys(domains)
        self._digest = hashlib.sha256()

    def add(self, high: KeyArray, low: KeyArray, domain: IntArray) -> None:
        """Add documents that sort after all that were added before.

        Args:
            high: (n_documents,) high words of their text keys.
            low: (n_documents,) low words.
            domain: (n_documents,) positions in ``domains``.
        """
        order = np.lexsort((domain, low, high))
        records = np.column_stack([high, low, self._domain_keys[domain]])[order]
        self._digest.update(records.astype("<u8").tobytes())

    def hexdigest(self) -> str:
        """Return the fingerprint, 64 hexadecimal digits."""
        return self._digest.hexdigest()


class SideDigests:
    """SHA-256 of each domain's texts on each side, by which a domain is known in another pool.

    Like `ContentDigest` it is of sorted text keys. A domain's two digests follow from its own texts
    and from nothing else of the pool, but for validation texts that another domain trains on.
    """

    def __init__(self, n_domains: int, n_sides: int) -> None:
        """Begin with no documents.

        Args:
            n_domains: Domains of the pool.
            n_sides: Sides that have a digest, the first ones.
        """
        self._n_sides = n_sides
        self._digests = [hashlib.sha256() for _ in range(n_domains * n_sides)]

    def add(self, high: KeyArray, low: KeyArray, domain: IntArray, side: IntArray) -> None:
        """Add documents in order of their text keys, behind all that were added before.

        Args:
            high: (n_documents,) high words of their text keys, ascending.
            low: (n_documents,) low words, ascending where high words are equal.
            domain: (n_documents,) positions of their domains.
            side: (n_documents,) positions of their sides; documents of further sides are left out.
        """
        kept = side < self._n_sides
        cell = domain[kept] * self._n_sides + side[kept]
        order = np.argsort(cell, kind="stable")
        records = np.column_stack([high, low])[kept][order].astype("<u8")
        cells, first = np.unique(cell[order], return_index=True)
        for code, part in zip(cells.tolist(), np.split(records, first[1:]), strict=True):
            self._digests[code].update(part.tobytes())

    def hexdigests(self) -> list[list[str]]:
        """Return the (n_domains, n_sides) fingerprints, 64 hexadecimal digits each."""
        found = [one.hexdigest() for one in self._digests]
        return [
            found[start : start + self._n_sides] for start in range(0, len(found), self._n_sides)
        ]


class DomainSamples:
    """Texts of each domain, chosen by hash: the same ones however the pool is laid out and merged.

    Keeps the beginnings of the `SAMPLE_DOCUMENTS` distinct texts with the lowest hash values.
    """

    def __init__(self) -> None:
        self._texts: dict[str, dict[tuple[int, int, int], str]] = {}

    def add(
        self, domains: Sequence[str], high: KeyArray, low: KeyArray, texts: Sequence[str]
    ) -> None:
        """Offer documents.

        Args:
            domains: (n_documents,) domain names.
            high: (n_documents,) high words of their text keys.
            low: (n_documents,) low words.
            texts: (n_documents,) texts, or their first `SAMPLE_CHARACTERS` characters.
        """
        ranks = hash64(_SEED, "sample", low, part=high)
        columns = zip(domains, ranks.tolist(), high.tolist(), low.tolist(), texts, strict=True)
        for domain, rank, first, second, text in columns:
            kept = self._texts.setdefault(domain, {})
            kept[rank, first, second] = text[:SAMPLE_CHARACTERS]
            if len(kept) >= 2 * SAMPLE_DOCUMENTS:
                self._texts[domain] = _lowest(kept)

    def rows(self) -> list[dict[str, str | int]]:
        """List what was kept, by domain and hash: domain, text_key_high, text_key_low, text."""
        return [
            {"domain": domain, "text_key_high": high, "text_key_low": low, "text": text}
            for domain in sorted(self._texts)
            for (_, high, low), text in _lowest(self._texts[domain]).items()
        ]


def mean_ngrams(samples: DomainSamples, domains: Sequence[str]) -> FloatArray:
    """Average the hashed word 1- and 2-gram vectors of each domain's sample.

    Args:
        samples: Texts by domain.
        domains: (n_domains,) names, all of the sample's among them.

    Returns:
        (n_domains, 256) means of vectors of Euclidean length 1; zeros for a domain without sample.
    """
    # Imported here, for the workers that scan shards need only the rest of this module.
    from sklearn.feature_extraction.text import HashingVectorizer

    vectoriser = HashingVectorizer(n_features=N_FEATURES, ngram_range=(1, 2), norm="l2")
    texts: dict[str, list[str]] = {domain: [] for domain in domains}
    for row in samples.rows():
        texts[str(row["domain"])].append(str(row["text"]))
    means = np.zeros((len(domains), N_FEATURES))
    for index, domain in enumerate(domains):
        if texts[domain]:
            vectors = vectoriser.transform(texts[domain])
            means[index] = np.asarray(vectors.mean(axis=0), dtype=np.float64).ravel()
    return means


def _lowest(texts: dict[tuple[int, int, int], str]) -> dict[tuple[int, int, int], str]:
    return dict(sorted(texts.items())[:SAMPLE_DOCUMENTS])
