"""Clusters: planted subjects found, tiny ones merged, names harmless, the same in any layout."""

import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import adjusted_rand_score

from cuvee.corpus.index import PoolIndex
from cuvee.corpus.pool import PoolConfig
from cuvee.corpus.scan import scan_pool
from cuvee.errors import ArtifactError, ConfigError, DataError, MissingDependencyError
from cuvee.labels.cluster_pass import ClusterPass, run_cluster_pass, sample_documents
from cuvee.labels.clusters import ClusterConfig, ClusterModel, fit_clusters, spherical_kmeans
from cuvee.labels.embeddings import EmbeddingConfig, TfidfEmbedder, Vectors, load_local_model, units
from cuvee.labels.passes import read_column
from cuvee.randomness import stream

_SUBJECTS = {
    "law": ["court", "appeal", "judge", "statute", "evidence", "verdict", "counsel", "clause"],
    "food": ["flour", "butter", "oven", "sugar", "whisk", "bake", "dough", "salt"],
    "sea": ["harbour", "sail", "anchor", "tide", "vessel", "captain", "deck", "wave"],
    "code": ["function", "compile", "variable", "pointer", "integer", "loop", "string", "array"],
}
_COMMON = ["the", "and", "with", "for", "that", "from", "this", "was"]
_EMBEDDING = EmbeddingConfig(n_dimensions=8, n_features=4096)
_CONFIG = ClusterConfig(n_clusters=4, n_sample=400, min_documents=5, embedding=_EMBEDDING)


def _texts(n: int, seed: int = 0) -> tuple[list[str], list[int]]:
    rng = np.random.default_rng(seed)
    subjects = rng.integers(0, len(_SUBJECTS), n)
    words = list(_SUBJECTS.values())
    texts = [
        " ".join(rng.choice(words[subject] + _COMMON, size=30)) + f" {place}"
        for place, subject in enumerate(subjects)
    ]
    return texts, subjects.tolist()


def _fit(texts: Sequence[str], config: ClusterConfig = _CONFIG) -> ClusterModel:
    return fit_clusters(texts, config, rng=stream(0, "clusters"))


def test_subjects_are_found_and_named(tmp_path: Path) -> None:
    """Documents never fitted fall in their subject's cluster, which bears its words."""
    texts, _ = _texts(200)
    model = _fit(texts)
    fresh, subjects = _texts(100, seed=1)
    assert model.embedder is not None
    cluster, cosine = model.assign(model.embedder(fresh))
    assert adjusted_rand_score(subjects, cluster) > 0.95
    assert cosine.min() > 0.3
    for place, name in enumerate(model.names):
        subject = subjects[int(np.flatnonzero(cluster == place)[0])]
        assert set(name.split(", ")) <= set(list(_SUBJECTS.values())[subject])
    model.save(tmp_path)
    again = ClusterModel.load(tmp_path)
    assert again.names == model.names
    assert again.embedder is not None
    for one, other in zip(again.assign(again.embedder(fresh)), (cluster, cosine), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_cluster_does_not_depend_on_the_documents_beside() -> None:
    """Bit for bit: alone, in another order, in another batch."""
    texts, _ = _texts(300)
    model = _fit(texts)
    assert model.embedder is not None
    fresh, _ = _texts(77, seed=2)
    cluster, cosine = model.assign(model.embedder(fresh))
    order = np.random.default_rng(3).permutation(77)
    turned = model.assign(model.embedder([fresh[place] for place in order]))
    np.testing.assert_array_equal(turned[0], cluster[order])
    np.testing.assert_array_equal(turned[1], cosine[order])
    for place in (0, 76):
        alone = model.assign(model.embedder([fresh[place]]))
        assert (alone[0][0], alone[1][0]) == (cluster[place], cosine[place])


def test_centres_are_mean_directions_and_each_document_is_at_its_nearest() -> None:
    """A fixed point of spherical k-means, better than Euclidean centres by mean cosine."""
    rng = np.random.default_rng(0)
    spread = np.repeat([0.1, 1.5], 4)[:, None]
    middles = units(rng.normal(size=(8, 12)))
    points = units(
        (middles[:, None] + spread[:, None] * rng.normal(size=(8, 200, 12))).reshape(-1, 12)
    )
    centres = spherical_kmeans(points, n_clusters=8, rng=stream(0, "x"))
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1.0, atol=1e-6)
    cluster = (points @ centres.T).argmax(axis=1)
    means = units(np.stack([points[cluster == place].sum(axis=0) for place in range(8)]))
    assert np.sum(means * centres, axis=1).min() > 0.99
    again = spherical_kmeans(points, n_clusters=8, rng=stream(0, "x"))
    np.testing.assert_array_equal(again, centres)


def test_tiny_clusters_are_merged() -> None:
    """Far more clusters asked for than subjects: all that remain have the minimum."""
    texts, _ = _texts(200)
    model = _fit(
        texts, ClusterConfig(n_clusters=30, n_sample=400, min_documents=12, embedding=_EMBEDDING)
    )
    assert 4 <= len(model.centres) < 30
    assert model.n_sample.min() >= 12
    assert model.n_sample.sum() == 200
    assert len(set(model.names)) == len(model.names)


def test_fitted_texts_have_the_vectors_they_get_later() -> None:
    """Bit for bit, so that a document of the sample is in the cluster it was counted in."""
    texts, _ = _texts(50)
    embedder, vectors = TfidfEmbedder.fit(texts, _EMBEDDING, rng=stream(0, "x"))
    np.testing.assert_array_equal(embedder(texts[3:9]), vectors[3:9])


def test_copies_and_wordless_documents_are_no_trouble() -> None:
    """Far fewer distinct texts than clusters, and some without a word."""
    texts = [*(_texts(12)[0] * 20), *(["..."] * 30)]
    model = _fit(
        texts, ClusterConfig(n_clusters=30, n_sample=300, min_documents=6, embedding=_EMBEDDING)
    )
    assert model.n_sample.min() >= 6
    assert model.embedder is not None
    cluster, cosine = model.assign(model.embedder(["?!", *texts[:12]]))
    assert (cluster[0], cosine[0]) == (0, 0.0)
    assert cosine[1:].min() > 0.5


def test_names_of_hostile_text_are_letters() -> None:
    """Markup, control and direction characters, endless words: nothing of it is in a name."""
    bad = "<script>alert('x')</script> \x07bell\u202eoverride\u2066 \x1b[31mred " + "w" * 300
    texts = [f"{text} {bad}" for text in _texts(60)[0]]
    names = _fit(texts).names
    assert all(name.isprintable() and len(name) < 170 for name in names)
    assert not set("<>()[]\u202e\u2066\x1b\x07'") & set("".join(names))
    wordless = fit_clusters(
        ["1 2 3"] * 40,
        _CONFIG,
        rng=stream(0, "x"),
        vectors=np.random.default_rng(0).normal(size=(40, 3)),
    )
    assert set(wordless.names) <= {f"cluster {place}" for place in range(4)}


def test_text_without_spaces_has_words() -> None:
    """Chinese documents share pairs of characters, not whole sentences."""
    rng = np.random.default_rng(0)
    words = (
        ["\u5317\u4eac", "\u4e0a\u6d77", "\u57ce\u5e02"],
        ["\u6570\u5b66", "\u51fd\u6570", "\u65b9\u7a0b"],
    )
    subjects = rng.integers(0, 2, 60)
    texts = ["".join(rng.choice(words[subject], size=20)) for subject in subjects]
    embedding = EmbeddingConfig(n_dimensions=2, n_features=4096)
    model = _fit(texts, ClusterConfig(n_clusters=2, n_sample=60, embedding=embedding))
    assert model.embedder is not None
    cluster, _ = model.assign(model.embedder(texts))
    assert adjusted_rand_score(subjects, cluster) == 1.0
    assert {frozenset(name.split(", ")) for name in model.names} == {
        frozenset(one) for one in words
    }


def _write(folder: Path, texts: Sequence[str], order: Sequence[int], sizes: Sequence[int]) -> None:
    folder.mkdir()
    vectors = np.random.default_rng(5).normal(size=(len(texts), 6)).astype(np.float32)
    start = 0
    for number, size in enumerate(sizes):
        rows = list(order[start : start + size])
        start += size
        table = pa.table(
            {
                "id": [f"d{row}" for row in rows],
                "text": [texts[row] for row in rows],
                "domain": ["web"] * len(rows),
                "vector": pa.array(vectors[rows].tolist(), pa.list_(pa.float32())),
            }
        )
        pq.write_table(table, folder / f"part{number}.parquet", row_group_size=50)


def _embed(texts: Sequence[str]) -> Vectors:
    words = [word for some in _SUBJECTS.values() for word in some]
    return np.array([[text.count(word) for word in words] for text in texts], dtype=np.float32)


def _scanned(out: Path) -> tuple[PoolConfig, PoolIndex]:
    pool = PoolConfig(shards=(str(out / "pool"),), validation_share=0.1)
    return pool, scan_pool(pool, out, seed=3, workers=0)


def _label(out: Path, embedding: EmbeddingConfig) -> tuple[ClusterModel, dict[int, int], int]:
    """Cluster and assign a pool; return the model, clusters by key, and the sample's size."""
    pool, index = _scanned(out)
    embedder = _embed if embedding.kind == "given" else None
    sample = sample_documents(index, embedding, n_documents=120, seed=3, embedder=embedder)
    config = ClusterConfig(n_clusters=4, n_sample=120, min_documents=5, embedding=embedding)
    model = fit_clusters(sample.texts, config, rng=stream(3, "clusters"), vectors=sample.vectors)
    (out / "model").mkdir()
    model.save(out / "model")
    job = ClusterPass(model=out / "model", embedding=embedding, shards=index.shards, pool=pool)
    folder = run_cluster_pass(job, out, workers=0, embedder=embedder)
    assert run_cluster_pass(job, out, workers=0, embedder=embedder) == folder
    tables = read_column(folder, [shard.name for shard in index.shards], "cluster").values()
    found = {
        key: cluster
        for table in tables
        for key, cluster in zip(table["key"].to_pylist(), table["cluster"].to_pylist(), strict=True)
    }
    return model, found, len(sample.keys)


@pytest.mark.parametrize(
    "embedding",
    [_EMBEDDING, EmbeddingConfig(kind="column", column="vector"), EmbeddingConfig(kind="given")],
    ids=["tfidf", "column", "given"],
)
def test_layout_does_not_matter(tmp_path: Path, embedding: EmbeddingConfig) -> None:
    """Other files, another order: the same centres, the same cluster for every document."""
    texts, subjects = _texts(300)
    orders = (range(300), np.random.default_rng(1).permutation(300).tolist())
    found = []
    for place, (order, sizes) in enumerate(zip(orders, ([300], [7, 0, 193, 100]), strict=True)):
        out = tmp_path / str(place)
        out.mkdir()
        _write(out / "pool", texts, order, sizes)
        found.append(_label(out, embedding))
    (one, first, n_sample), (other, second, _) = found
    assert n_sample == 120
    assert len(first) == 300
    np.testing.assert_array_equal(one.centres, other.centres)
    assert one.names == other.names
    assert first == second
    if embedding.kind != "column":
        assert len(set(first.values())) == len(set(subjects))


def test_workers_give_the_same_labels(tmp_path: Path) -> None:
    """A spawned process assigns as this one does."""
    texts, _ = _texts(120)
    _write(tmp_path / "pool", texts, range(120), [60, 60])
    pool, index = _scanned(tmp_path)
    model = _fit(texts)
    (tmp_path / "model").mkdir()
    model.save(tmp_path / "model")
    job = ClusterPass(
        model=tmp_path / "model", embedding=_EMBEDDING, shards=index.shards, pool=pool
    )
    names = [shard.name for shard in index.shards]
    one = read_column(run_cluster_pass(job, tmp_path / "one", workers=0), names, "cluster")
    two = read_column(run_cluster_pass(job, tmp_path / "two", workers=1), names, "cluster")
    assert one == two


def test_local_models_are_loaded_from_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Missing library, missing folder, then a library's model on the starts of texts."""
    config = EmbeddingConfig(kind="model2vec", path=tmp_path, n_characters=16)
    monkeypatch.setitem(sys.modules, "model2vec", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'cuvee\[embeddings\]'"):
        load_local_model(config)

    class _Lengths:
        @classmethod
        def from_pretrained(cls, path: str) -> "_Lengths":
            assert path == str(tmp_path)
            return cls()

        def encode(self, texts: list[str]) -> list[list[float]]:
            return [[float(len(text)), 1.0] for text in texts]

    library = types.ModuleType("model2vec")
    library.StaticModel = _Lengths  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "model2vec", library)
    found = load_local_model(config)(["abc", "x" * 99])
    np.testing.assert_array_equal(found, np.array([[3, 1], [16, 1]], dtype=np.float32))
    with pytest.raises(ArtifactError, match="is not a folder"):
        load_local_model(EmbeddingConfig(kind="model2vec", path=tmp_path / "no"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EmbeddingConfig(kind="model2vec"), "give the path of a local model"),
        (lambda: EmbeddingConfig(column="x"), "name the column exactly when"),
        (lambda: EmbeddingConfig(n_dimensions=1), "n_dimensions is 1"),
        (lambda: EmbeddingConfig(n_dimensions=300, n_features=256), "more features than"),
        (lambda: ClusterConfig(n_clusters=1), "n_clusters is 1"),
        (lambda: ClusterConfig(n_clusters=100, n_sample=500), "n_sample is 500"),
        (lambda: _fit(["one text"] * 3), "the sample has 3 documents"),
        (lambda: _fit(["one text"] * 6 + [". !"] * 9), "6 of 15 texts"),
        (
            lambda: fit_clusters(
                ["a b"] * 20, _CONFIG, rng=stream(0, "x"), vectors=np.ones((3, 2))
            ),
            "3 vectors for 20 texts",
        ),
        (lambda: units(np.array([[1.0, np.nan]])), "not finite"),
        (lambda: _fit(_texts(99)[0]).assign(np.ones((2, 3))), "8 dimensions"),
        (lambda: TfidfEmbedder.load(Path("nowhere.npz")), "is not an embedder"),
    ],
)
def test_bad_settings_and_samples_are_refused(make: Callable[[], object], message: str) -> None:
    """One clear message each."""
    with pytest.raises((ConfigError, DataError, ArtifactError), match=message):
        make()


def test_bad_columns_are_refused(tmp_path: Path) -> None:
    """A column that is missing, of words, or uneven; a folder that is no model."""
    texts, _ = _texts(20)
    _write(tmp_path / "pool", texts, range(20), [20])
    uneven = [[1.0, 2.0]] * 19 + [[1.0]]
    table = pq.read_table(tmp_path / "pool" / "part0.parquet")
    pq.write_table(
        table.append_column("uneven", pa.array(uneven)), tmp_path / "pool" / "part0.parquet"
    )
    _, index = _scanned(tmp_path)
    for column, message in (
        ("nowhere", "no column 'nowhere'"),
        ("text", "lists of numbers"),
        ("uneven", "lists of different lengths"),
    ):
        with pytest.raises(DataError, match=message):
            sample_documents(
                index, EmbeddingConfig(kind="column", column=column), n_documents=9, seed=0
            )
    with pytest.raises(ConfigError, match="an embedder is not given"):
        sample_documents(index, EmbeddingConfig(kind="given"), n_documents=9, seed=0)
    (tmp_path / "clusters.json").write_text('{"names": [], "own_embedder": false}')
    with pytest.raises(ArtifactError, match="does not hold clusters"):
        ClusterModel.load(tmp_path)
