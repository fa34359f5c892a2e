"""Fingerprints and descriptors depend on content alone."""

import hashlib

import numpy as np

from cuvee.corpus.fingerprint import (
    SAMPLE_CHARACTERS,
    SAMPLE_DOCUMENTS,
    ContentDigest,
    DomainSamples,
    mean_ngrams,
    text_keys,
)

N = 1500


def test_text_keys_are_halves_of_blake2b() -> None:
    """Equal texts and only they have equal keys."""
    high, low = text_keys(["é", "b", "é"])
    expected = hashlib.blake2b("é".encode(), digest_size=16).digest()
    assert high[0].tobytes() + low[0].tobytes() == expected
    assert (high[0], low[0]) == (high[2], low[2])
    assert high[0] != high[1]


def test_digest_tells_texts_and_domains() -> None:
    """Another text, another domain or one document more changes it."""
    high, low = text_keys(["a", "b"])

    def digest(domain: list[int], n: int = 2) -> str:
        content = ContentDigest(["books", "web"])
        content.add(high[:n], low[:n], np.array(domain[:n], dtype=np.int64))
        return content.hexdigest()

    assert digest([0, 1]) == digest([0, 1])
    assert len({digest([0, 1]), digest([1, 0]), digest([0, 1], 1), digest([], 0)}) == 4


def test_sample_does_not_depend_on_order_or_merging() -> None:
    """The same texts are kept in one go and merged from parts."""
    texts = [f"text {k % 1000} " + "x" * SAMPLE_CHARACTERS for k in range(N)]
    domains = ["web" if k % 3 else "books" for k in range(N)]
    high, low = text_keys(texts)
    whole, merged = DomainSamples(), DomainSamples()
    whole.add(domains, high, low, texts)
    for part in np.array_split(np.random.default_rng(0).permutation(N), 5):
        piece = DomainSamples()
        piece.add([domains[k] for k in part], high[part], low[part], [texts[k] for k in part])
        rows = piece.rows()
        merged.add(
            [str(row["domain"]) for row in rows],
            np.array([row["text_key_high"] for row in rows], dtype=np.uint64),
            np.array([row["text_key_low"] for row in rows], dtype=np.uint64),
            [str(row["text"]) for row in rows],
        )
    assert merged.rows() == whole.rows()
    kept = [row["text"] for row in whole.rows() if row["domain"] == "web"]
    assert len(kept) == len(set(kept)) == SAMPLE_DOCUMENTS
    assert {len(str(text)) for text in kept} == {SAMPLE_CHARACTERS}


def test_mean_ngrams_are_nearest_for_like_texts() -> None:
    """Domains of one vocabulary have a larger cosine than others; no sample gives zeros."""
    texts = ["the cat sat on the mat", "a cat on a mat sat", "int main return zero", "return int"]
    domains = ["pets", "animals", "code", "c"]
    samples = DomainSamples()
    samples.add(domains, *text_keys(texts), texts)
    means = mean_ngrams(samples, [*domains, "none"])
    assert means.shape == (5, 256)
    assert not means[4].any()
    cosine = means @ means.T
    assert cosine[0, 1] > cosine[0, 2]
    assert cosine[2, 3] > cosine[1, 3]
