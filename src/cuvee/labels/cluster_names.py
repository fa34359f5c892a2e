"""Names of clusters: the words that set each apart from the others."""

import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import CountVectorizer

from cuvee.labels.embeddings import WORD

_CHARACTERS = 2000
"""Of each text; a sample's beginnings tell its subjects."""
_VOCABULARY = 50_000
_COMMON = 0.2
"""Words in more than this share of texts name nothing, unless a cluster is nearly as large."""
_ROOM = 1.25
_RARE = 3
"""Texts a word must be in."""
_LETTERS = (3, 20)
_TERMS = 3
_MOST_TERMS = 8


def name_clusters(
    texts: Sequence[str], cluster: npt.NDArray[np.integer], *, n_clusters: int
) -> tuple[str, ...]:
    """Name each cluster by the words that are frequent in it and rare elsewhere.

        weight of word t in cluster c = tf(t, c) log(1 + A / tf(t))

    with tf(t, c) the word's share of the cluster's words, tf(t) its count in all clusters and A the
    mean number of words of a cluster.

    Args:
        texts: (n_documents,) of a sample; only their first 2,000 characters are looked at.
        cluster: (n_documents,) clusters.
        n_clusters: How many there are.

    Returns:
        (n_clusters,) unique names of printable letters: three words, or more where that is needed
        to tell two apart; ``cluster 7`` where no word is to be had.

    Source: Grootendorst, "BERTopic" (arXiv:2203.05794), equation of c-TF-IDF in section 3.3.
    """
    starts = [unicodedata.normalize("NFKC", text[:_CHARACTERS]) for text in texts]
    sizes = np.bincount(np.asarray(cluster), minlength=n_clusters) / max(len(texts), 1)
    rare = min(_RARE, len(texts))
    common = max(_COMMON, _ROOM * float(sizes.max()), rare / max(len(texts), 1))
    vectorizer = CountVectorizer(
        token_pattern=WORD,
        max_features=_VOCABULARY,
        min_df=rare,
        max_df=min(common, 1.0),
        dtype=np.float64,
    )
    try:
        counts = csr_array(vectorizer.fit_transform(starts))
    except ValueError:  # scikit-learn's word for: no word is frequent enough, none rare enough
        return tuple(f"cluster {place}" for place in range(n_clusters))
    words = vectorizer.get_feature_names_out()
    allowed = np.flatnonzero([_is_safe(word) for word in words])
    members = csr_array(
        (np.ones(len(texts)), (np.asarray(cluster), np.arange(len(texts)))),
        shape=(n_clusters, len(texts)),
    )
    by_cluster = csr_array(members @ counts[:, allowed])
    return _unique([words[allowed[best]].tolist() for best in _best_columns(by_cluster)])


def _best_columns(by_cluster: csr_array) -> list[npt.NDArray[np.intp]]:
    """Return the columns of the heaviest words of each row, heaviest first."""
    total = np.asarray(by_cluster.sum(axis=0)).ravel()
    per_cluster = np.asarray(by_cluster.sum(axis=1)).ravel()
    rarity = np.log1p(per_cluster.mean() / np.maximum(total, 1.0))
    found = []
    for row in range(by_cluster.shape[0]):
        start, end = by_cluster.indptr[row : row + 2]
        columns = by_cluster.indices[start:end]
        weights = by_cluster.data[start:end] * rarity[columns]
        # Ties go to the earlier column, which is the word first by alphabet.
        order = np.lexsort((columns, -weights))[:_MOST_TERMS]
        found.append(columns[order].astype(np.intp))
    return found


def _unique(terms: Sequence[Sequence[str]]) -> tuple[str, ...]:
    names: list[str] = []
    taken: set[str] = set()
    for place, words in enumerate(terms):
        tries = [", ".join(words[:n]) for n in range(_TERMS, _MOST_TERMS + 1) if words]
        name = next((one for one in tries if one not in taken), f"cluster {place}")
        taken.add(name)
        names.append(name)
    return tuple(names)


def _is_safe(word: str) -> bool:
    """Tell whether a word of somebody's text may stand in a table: letters, not too many."""
    return (
        (_LETTERS[0] if word.isascii() else 2) <= len(word) <= _LETTERS[1]
        and word.isprintable()
        and all(unicodedata.category(letter)[0] in "LM" for letter in word)
    )
