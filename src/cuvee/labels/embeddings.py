"""Documents as vectors: TF-IDF and SVD, a model from a local folder, any callable, or a column."""

import importlib
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import csr_array
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

from cuvee.arrays import IntArray
from cuvee.corpus.pool import Shard
from cuvee.corpus.streams import opened
from cuvee.errors import ArtifactError, ConfigError, DataError, MissingDependencyError
from cuvee.executors import one_thread
from cuvee.randomness import integer_seed

Vectors: TypeAlias = npt.NDArray[np.float32]
"""(n_documents, n_dimensions)"""
Kind: TypeAlias = Literal["tfidf", "sentence-transformers", "model2vec", "column", "proxy", "given"]
HANDED: tuple[Kind, ...] = ("proxy", "given")
"""Kinds whose embedder is handed in."""

_UNSPACED = r"\u3040-\u30ff\u3400-\u9fff"
WORD = rf"(?u)[{_UNSPACED}]{{1,2}}|[^\W{_UNSPACED}]{{2,}}"
"""What counts as a word: two letters or more; in Chinese and Japanese, which have no spaces between
words, one or two characters."""
_LOCAL_KINDS = ("sentence-transformers", "model2vec")
_ROWS_AT_ONCE = 4096


class Embedder(Protocol):
    """Turns texts into vectors; also a proxy's or any model's mean hidden states."""

    def __call__(self, texts: Sequence[str], /) -> Vectors:
        """Return the (n_documents, n_dimensions) vectors of texts, each from its own text alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingConfig:
    """How documents become vectors."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Kind = "tfidf"
    """tfidf: hashed words, TF-IDF, SVD. sentence-transformers, model2vec: a model at ``path``.
    column: numbers that the pool's Parquet files hold. proxy: mean last hidden states of the model
    that influence is computed at, in one process. given: a callable handed in by the code. Quad:
    bge-large-en-v1.5."""
    path: Path | None = None
    """Folder of a local model; nothing is downloaded."""
    column: str | None = None
    """Column of lists of numbers, for kind column."""
    n_dimensions: int = 64
    """Of the SVD. Models and columns have their own."""
    n_features: int = 2**16
    """Buckets of hashed words."""
    n_characters: int = 8192
    """Characters from the start of each document that are looked at."""

    def __post_init__(self) -> None:
        if (self.kind in _LOCAL_KINDS) != (self.path is not None):
            raise ConfigError(
                f"embedding kind is {self.kind!r} and path is {self.path}; give the path of a "
                f"local model exactly when the kind is {' or '.join(_LOCAL_KINDS)}."
            )
        if (self.kind == "column") != (self.column is not None):
            raise ConfigError(
                f"embedding kind is {self.kind!r} and column is {self.column!r}; name the column "
                "exactly when the kind is column."
            )
        for name, least in (("n_dimensions", 2), ("n_features", 256), ("n_characters", 16)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        if self.n_dimensions >= self.n_features:
            raise ConfigError(
                f"n_dimensions is {self.n_dimensions} and n_features {self.n_features}; there must "
                "be more features than dimensions."
            )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TfidfEmbedder:
    """Latent semantic analysis of hashed words.

    Term frequencies are damped to 1 + log tf and weighted by inverse document frequency; rows of
    length 1 are projected on the first right singular vectors of a sample's.

    Source: Deerwester et al., "Indexing by latent semantic analysis" (JASIS 41, 1990).
    """

    idf: Vectors
    """(n_features,)"""
    components: Vectors
    """(n_dimensions, n_features)"""
    n_characters: int

    @classmethod
    def fit(
        cls, texts: Sequence[str], config: EmbeddingConfig, *, rng: np.random.Generator
    ) -> tuple[Self, Vectors]:
        """Learn frequencies and directions from a sample.

        Args:
            texts: Their order matters to the last digits; give them in hash order.
            config: Sizes.
            rng: Source of the randomised SVD.

        Returns:
            The embedder and the (n_documents, n_dimensions) vectors it gives the texts.

        Raises:
            DataError: Fewer texts than dimensions hold a word.
        """
        counts = _counts(texts, config.n_features, config.n_characters)
        n_worded = int((np.diff(counts.indptr) > 0).sum())
        if n_worded <= config.n_dimensions:
            raise DataError(
                f"{n_worded} of {len(texts)} texts of the sample hold words; "
                f"{config.n_dimensions} dimensions need more texts than that. Lower n_dimensions, "
                "or raise n_sample."
            )
        transformer = TfidfTransformer(sublinear_tf=True).fit(counts)
        svd = TruncatedSVD(config.n_dimensions, random_state=integer_seed(rng))
        with one_thread():
            svd.fit(transformer.transform(counts))
        embedder = cls(
            idf=transformer.idf_.astype(np.float32),
            components=svd.components_.astype(np.float32),
            n_characters=config.n_characters,
        )
        return embedder, embedder._project(counts)

    def __call__(self, texts: Sequence[str], /) -> Vectors:
        """Return the (n_documents, n_dimensions) vectors; 0 where a text has no known word."""
        return self._project(_counts(texts, len(self.idf), self.n_characters))

    def _project(self, counts: csr_array) -> Vectors:
        weights = (1.0 + np.log(counts.data)) * self.idf[counts.indices]
        weighted = csr_array((weights, counts.indices, counts.indptr), shape=counts.shape)
        lengths = np.sqrt(np.asarray((weighted * weighted).sum(axis=1)).ravel())
        # Sparse times dense goes row by row: a vector does not depend on the texts beside it.
        found = np.asarray(weighted @ self.components.T, dtype=np.float32)
        return np.asarray(found / np.where(lengths > 0.0, lengths, 1.0)[:, None], dtype=np.float32)

    def save(self, path: Path) -> None:
        """Write the embedder as a numpy archive without objects."""
        np.savez(
            path, idf=self.idf, components=self.components, n_characters=np.array(self.n_characters)
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read an embedder; its vectors equal those of the one that was saved.

        Raises:
            ArtifactError: The file holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                return cls(
                    idf=archive["idf"],
                    components=archive["components"],
                    n_characters=int(archive["n_characters"]),
                )
        except (OSError, KeyError, ValueError) as error:
            raise ArtifactError(
                f"{path} is not an embedder ({error}). Delete its folder and cluster again."
            ) from error


def load_local_model(config: EmbeddingConfig) -> Embedder:
    """Load a sentence-transformers or model2vec model from its folder.

    Args:
        config: Kind and path.

    Raises:
        MissingDependencyError: The library is not installed.
        ArtifactError: The path is not a folder, or the library cannot load it.
    """
    assert config.path is not None, "checked by the config"
    name = config.kind.replace("-", "_")
    try:
        library = importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError(
            f"embedding kind {config.kind!r} needs {config.kind}, which is not installed. Run "
            "`pip install 'cuvee[embeddings]'`, or set kind to tfidf."
        ) from error
    if not config.path.is_dir():
        raise ArtifactError(
            f"{config.path} is not a folder; path must name a local {config.kind} model. Nothing "
            "is downloaded."
        )
    try:
        if config.kind == "model2vec":
            model = library.StaticModel.from_pretrained(str(config.path))
        else:
            model = library.SentenceTransformer(str(config.path), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(
            f"{config.path} cannot be loaded by {config.kind} ({error}). Give the folder of such a "
            "model."
        ) from error
    return _Encoding(model, config.n_characters)


@dataclass(frozen=True, slots=True)
class _Encoding:
    """A model with ``encode``, on the start of each text."""

    model: Any
    n_characters: int

    def __call__(self, texts: Sequence[str], /) -> Vectors:
        return np.asarray(
            self.model.encode([text[: self.n_characters] for text in texts]), dtype=np.float32
        )


def read_vectors(shard: Shard, column: str, wanted: Iterator[IntArray]) -> Iterator[Vectors]:
    """Read a column of lists of numbers, a few thousand rows at a time.

    Args:
        shard: A Parquet file.
        column: Its name.
        wanted: Arrays of rows, ascending within each and from one to the next.

    Yields:
        For every array the (n_rows, n_dimensions) vectors.

    Raises:
        DataError: The shard is no Parquet file, or the column is missing, holds something else, or
            lists of different lengths.
    """
    if shard.format != "parquet":
        raise DataError(
            f"shard {shard.url} is {shard.format}; embeddings by column need Parquet files. "
            "Convert it, or set embedding kind to tfidf."
        )
    with opened(shard.url) as source:
        file = pq.ParquetFile(source, pre_buffer=False)
        if column not in file.schema_arrow.names:
            raise DataError(
                f"shard {shard.url} has no column {column!r} (embeddings); its columns are "
                f"{', '.join(file.schema_arrow.names)}."
            )
        blocks = (
            _block(shard, column, batch.column(0))
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=[column], use_threads=False)
        )
        held, first = np.zeros((0, 0), dtype=np.float32), 0
        for rows in wanted:
            start = int(rows[0]) if len(rows) else first
            while len(rows) and first + len(held) <= rows[-1]:
                kept = max(0, first + len(held) - start)
                first += len(held) - kept
                fresh = next(blocks)
                if kept and held.shape[1] != fresh.shape[1]:
                    raise _uneven(shard, column)
                held = np.concatenate([held[len(held) - kept :], fresh]) if kept else fresh
            yield held[rows - first]


def units(vectors: npt.NDArray[np.floating]) -> Vectors:
    """Scale rows to length 1; rows of zeros stay so.

    Args:
        vectors: (n_documents, n_dimensions)

    Raises:
        DataError: A number is not finite.
    """
    wide = np.asarray(vectors, dtype=np.float64)
    lengths = np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    for row in np.flatnonzero(~np.isfinite(lengths))[:1]:
        raise DataError(
            f"the vector of document {int(row)} holds a number that is not finite; correct the "
            "embeddings."
        )
    return np.asarray(wide / np.where(lengths > 0.0, lengths, 1.0), dtype=np.float32)


def _counts(texts: Sequence[str], n_features: int, n_characters: int) -> csr_array:
    vectorizer = HashingVectorizer(
        n_features=n_features,
        token_pattern=WORD,
        alternate_sign=False,
        norm=None,
        dtype=np.float32,
    )
    starts = (unicodedata.normalize("NFKC", text[:n_characters]) for text in texts)
    counts = csr_array(vectorizer.transform(starts), dtype=np.float32)
    counts.sum_duplicates()
    return counts


def _block(shard: Shard, column: str, values: pa.Array) -> Vectors:
    kind = values.type
    is_list = (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
    if not is_list or not (
        pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)
    ):
        raise DataError(
            f"shard {shard.url}: column {column!r} holds {kind}; embeddings must be lists of "
            "numbers of one length."
        )
    flat = values.flatten()
    if values.null_count or flat.null_count or len(flat) % max(len(values), 1):
        raise _uneven(shard, column)
    if not pa.types.is_fixed_size_list(kind) and len(values):
        lengths = np.diff(values.offsets.to_numpy())
        if np.any(lengths != lengths[0]):
            raise _uneven(shard, column)
    found = flat.to_numpy(zero_copy_only=False).astype(np.float32)
    return np.asarray(found.reshape(len(values), -1))


def _uneven(shard: Shard, column: str) -> DataError:
    return DataError(
        f"shard {shard.url}: column {column!r} has missing numbers or lists of different lengths; "
        "every document needs a vector of the same length."
    )
