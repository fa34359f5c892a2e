"""How fast documents are divided into clusters, and how good the clusters are beside others'.

``python -m benchmarks.clusters_scale [--quick] [--documents N] [--clusters K] --json FILE``

Real text is cut into as many pieces as there are to be documents. Clusters are learnt on a sample
from TF-IDF and SVD, then every document is assigned by two single-threaded processes, from reading
its text to the label column on disk. On the same vectors of the sample, on one thread, spherical
k-means stands beside scikit-learn's and, where it is installed, faiss's; quality is the mean cosine
of documents to their nearest centre, on the sample and on documents not in it.
"""

import argparse
import importlib
import json
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.cluster import KMeans, MiniBatchKMeans

from benchmarks.make_pool import CORPUS
from cuvee.corpus.pool import PoolConfig
from cuvee.corpus.scan import scan_pool
from cuvee.executors import one_thread, usable_cores
from cuvee.labels.cluster_pass import ClusterPass, run_cluster_pass, sample_documents
from cuvee.labels.clusters import ClusterConfig, ClusterModel, fit_clusters, spherical_kmeans
from cuvee.labels.embeddings import EmbeddingConfig, Vectors, units
from cuvee.randomness import stream

SEED = 0
WORKERS = 2
_SHARDS = 8
_LENGTHS = (200, 2000)
_HELD_OUT = 0.2

Figures = dict[str, float]
T = TypeVar("T")


def main() -> None:
    """Read the command line; measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10,000 documents, 100 clusters")
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--sample", type=int, default=50_000, help="documents learnt from")
    parser.add_argument("--characters", type=int, help="of a document; as the corpus allows")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="folder of Parquet files")
    parser.add_argument("--json", type=Path, help="file the result is written to")
    options = parser.parse_args()
    n_documents = 10_000 if options.quick else options.documents
    config = ClusterConfig(
        n_clusters=100 if options.quick else options.clusters,
        n_sample=5_000 if options.quick else min(options.sample, n_documents),
        min_documents=5,
    )
    with tempfile.TemporaryDirectory() as name:
        result = measure(Path(name), options.corpus, config, n_documents, options.characters)
    print_table(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measure(
    work: Path, corpus: Path, config: ClusterConfig, n_documents: int, length: int | None
) -> dict[str, Mapping[str, object]]:
    """Take all measurements.

    Args:
        work: Empty folder for all files.
        corpus: Folder of Parquet files with a column text.
        config: Number of clusters and size of the sample.
        n_documents: Of the pool.
        length: Characters of a document; None: 200 to 2,000, as the corpus allows.

    Returns:
        ``figures``, ``kmeans`` by name, and ``conditions``.
    """
    n_bytes = write_pieces(work / "pool", corpus, n_documents, length)
    pool = PoolConfig(shards=(str(work / "pool"),), validation_share=0.0)
    seconds: Figures = {}
    index = _timed(seconds, "scan", lambda: scan_pool(pool, work, seed=SEED, workers=WORKERS))
    sample = _timed(
        seconds,
        "sample",
        lambda: sample_documents(index, EmbeddingConfig(), n_documents=config.n_sample, seed=SEED),
    )
    with one_thread():
        model = _timed(
            seconds,
            "fit",
            lambda: fit_clusters(sample.texts, config, rng=stream(SEED, "clusters")),
        )
    (work / "model").mkdir()
    model.save(work / "model")
    job = ClusterPass(
        model=work / "model", embedding=config.embedding, shards=index.shards, pool=pool
    )
    memory: Figures = {}
    with _watched(memory):
        _timed(seconds, "assign", lambda: run_cluster_pass(job, work, workers=WORKERS))
    figures = {
        **{f"{name}_s": value for name, value in seconds.items()},
        "documents_per_s": n_documents / seconds["assign"],
        "megabytes_per_s": n_bytes / 1e6 / seconds["assign"],
        **memory,
        "clusters": len(model.centres),
    }
    return {
        "figures": {name: round(value, 3) for name, value in figures.items()},
        "kmeans": compare_kmeans(model, sample.texts, config),
        "conditions": {
            "n_documents": n_documents,
            "n_bytes": n_bytes,
            "n_clusters": config.n_clusters,
            "n_sample": len(sample.keys),
            "n_dimensions": config.embedding.n_dimensions,
            "workers": WORKERS,
            "cores": usable_cores(),
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "scikit-learn": version("scikit-learn"),
        },
    }


def compare_kmeans(
    model: ClusterModel, texts: list[str], config: ClusterConfig
) -> dict[str, Figures]:
    """Cluster the same vectors by every algorithm at hand.

    Args:
        model: Holds the embedder.
        texts: The sample; its last fifth is not fitted.
        config: Number of clusters.

    Returns:
        By algorithm: seconds, and mean cosine on fitted and on other documents.
    """
    assert model.embedder is not None, "made from TF-IDF"
    vectors = units(model.embedder(texts))
    n_fitted = int((1.0 - _HELD_OUT) * len(vectors))
    fitted, other = vectors[:n_fitted], vectors[n_fitted:]
    algorithms: dict[str, Callable[[], Vectors]] = {
        "cuvee spherical": lambda: spherical_kmeans(
            fitted, n_clusters=config.n_clusters, rng=stream(SEED, "clusters")
        ),
        "scikit-learn MiniBatchKMeans": lambda: (
            MiniBatchKMeans(config.n_clusters, batch_size=4096, n_init=1, random_state=SEED)
            .fit(fitted)
            .cluster_centers_
        ),
        "scikit-learn KMeans": lambda: (
            KMeans(config.n_clusters, n_init=1, max_iter=50, random_state=SEED)
            .fit(fitted)
            .cluster_centers_
        ),
        **_faiss(fitted, config.n_clusters),
    }
    found = {}
    for name, algorithm in algorithms.items():
        seconds: Figures = {}
        with one_thread():
            centres = units(_timed(seconds, "fit", algorithm))
        found[name] = {
            "seconds": round(seconds["fit"], 2),
            "cosine_fitted": round(_mean_cosine(fitted, centres), 4),
            "cosine_other": round(_mean_cosine(other, centres), 4),
        }
    return found


def write_pieces(folder: Path, corpus: Path, n_documents: int, length: int | None) -> int:
    """Cut the corpus into pieces of equal length and write them as shards.

    Args:
        folder: Where the shards are written.
        corpus: Folder of Parquet files.
        n_documents: Pieces; where the corpus is too small for them, its text comes again under
            other ids.
        length: Characters of a piece; None: 200 to 2,000, as the corpus allows.

    Returns:
        Bytes of text written.

    Raises:
        SystemExit: The corpus has no Parquet files.
    """
    files = sorted(corpus.glob("*.parquet"))
    if not files:
        raise SystemExit(f"{corpus} holds no .parquet files; give a folder of them by --corpus.")
    if length is None:
        n_characters = sum(len(text) for text in _texts(files))
        length = min(max(_LENGTHS[0], -(-n_characters // n_documents)), _LENGTHS[1])
    pieces = _pieces(files, length)
    folder.mkdir(parents=True)
    n_bytes = 0
    for shard, places in enumerate(np.array_split(np.arange(n_documents), _SHARDS)):
        texts = [next(pieces) for _ in places]
        n_bytes += sum(len(text.encode()) for text in texts)
        table = pa.table(
            {
                "id": [f"piece-{place}" for place in places.tolist()],
                "text": texts,
                "domain": ["pieces"] * len(texts),
            }
        )
        pq.write_table(table, folder / f"part{shard}.parquet", compression="zstd")
    return n_bytes


def print_table(result: Mapping[str, Mapping[str, object]]) -> None:
    """Print the result for people."""
    for section, values in result.items():
        print(section)
        for name, value in values.items():
            shown = f"{value:,.2f}" if isinstance(value, float) else value
            print(f"  {name:32} {shown}")


def _texts(files: list[Path]) -> Iterator[str]:
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(256, columns=["text"]):
            yield from batch.column(0).to_pylist()


def _pieces(files: list[Path], length: int) -> Iterator[str]:
    """Yield pieces without end; a document's short end is joined to the next document."""
    held = ""
    while True:
        for text in _texts(files):
            held += text
            while len(held) >= length:
                piece, held = held[:length], held[length:]
                if piece.strip():
                    yield piece


def _faiss(fitted: Vectors, n_clusters: int) -> dict[str, Callable[[], Vectors]]:
    try:
        faiss = importlib.import_module("faiss")
    except ImportError:
        return {}

    def run() -> Vectors:
        model = faiss.Kmeans(
            fitted.shape[1],
            n_clusters,
            niter=25,
            spherical=True,
            seed=1,
            max_points_per_centroid=10**6,
        )
        model.train(fitted)
        return np.asarray(model.centroids)

    faiss.omp_set_num_threads(1)
    return {"faiss spherical": run}


def _mean_cosine(points: Vectors, centres: Vectors) -> float:
    best = [
        (part @ centres.T).max(axis=1) for part in np.array_split(points, 1 + len(points) // 8192)
    ]
    return float(np.concatenate(best).mean())


def _timed(seconds: Figures, name: str, work: Callable[[], T]) -> T:
    start = time.perf_counter()
    found = work()
    seconds[name] = time.perf_counter() - start
    return found


@contextmanager
def _watched(figures: Figures) -> Iterator[None]:
    """Note the largest memory of this process and all its workers together, ten times a second."""
    process, over = psutil.Process(), threading.Event()
    figures["all_peak_mb"] = 0.0

    def watch() -> None:
        while not over.wait(0.1):
            family = [process, *process.children(recursive=True)]
            with suppress(psutil.NoSuchProcess):
                total = sum(each.memory_info().rss for each in family) / 1e6
                figures["all_peak_mb"] = max(figures["all_peak_mb"], total)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


if __name__ == "__main__":
    main()
