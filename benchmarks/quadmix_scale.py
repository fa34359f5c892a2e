"""QuaDMix at scale: labels to copies, thousands of vectors on a pool, and labelling itself.

``python -m benchmarks.quadmix_scale [--quick] [--rows N] [--corpus DIR] --json FILE``

Three parts. Synthetic labels of 10^8 documents (5 10^6 with ``--quick``; seconds are then scaled)
in Parquet files become a table of copies with one worker a core, files in the page cache, their
generation not counted; memory is the largest sum of the resident sets of all processes. Ranks are
compared with exact ones in the domains that fit. 3,000 vectors are evaluated on a pool of a million
documents through its hash-chosen sample, and some of them on the whole pool. Each scorer labels the
same text on one core, beside datatrove's filters where datatrove is installed.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.corpus_throughput import write_text
from benchmarks.make_pool import CORPUS
from cuvee.arrays import FloatArray, IntArray
from cuvee.artifacts import write_json
from cuvee.corpus.pool import PoolConfig
from cuvee.corpus.scan import scan_pool
from cuvee.corpus.tokens import TokensConfig, make_tokenizer, tokenise_pool
from cuvee.design.quality_prior import QualityPriorConfig, draw_vectors
from cuvee.executors import one_thread, usable_cores
from cuvee.labels.heuristics import measure_texts, score_columns
from cuvee.labels.ngrams import ImportanceRatio, ReferenceClassifier
from cuvee.labels.perplexity import BigramModel
from cuvee.policy.induced import Induced, PoolSample
from cuvee.policy.quality_curve import QualityCurve
from cuvee.policy.ranks import Normaliser, merge_scores, token_ranks
from cuvee.policy.streamed_ranks import (
    Cells,
    StreamedScale,
    merged_cells,
    score_cells,
    score_codes,
    token_shares,
)
from cuvee.randomness import document_keys
from cuvee.select.copies_table import CopiesConfig, write_copies
from cuvee.select.label_files import LabelFiles, describe, read_labels

ROOT = Path(__file__).resolve().parents[1]
SEED = 0
N_DOMAINS, SKEW = 26, 1000.0
CRITERIA = ("classifier", "importance", "clean")
DOMAINS = tuple(f"domain-{place:02d}" for place in range(N_DOMAINS))
PAPER_PRIOR = QualityPriorConfig(steepness="linear", largest_threshold=0.1)
"""Algorithm 1's: about 5% of the documents are taken."""
_FULL_ROWS, _QUICK_ROWS = 100_000_000, 5_000_000
_FILE_ROWS = 1_562_500
_CHECKED_ROWS = 25_000_000
_POOL_ROWS, _N_VECTORS, _EXACT_VECTORS = 1_000_000, 3000, 12
_SAMPLES = (500, 5000)
_QUICK_BYTES, _FULL_BYTES = 3_000_000, 16_000_000
_ROUNDS = 3
_SAMPLE_SECONDS = 0.1

Figures = dict[str, float]


def main() -> None:
    """Read the command line; measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="5e6 rows; within two minutes")
    parser.add_argument("--rows", type=int, help="another number of rows")
    parser.add_argument("--json", type=Path, help="file the result is written to")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="folder of Parquet files")
    parser.add_argument("--parts", default="copies,vectors,labelling", help=argparse.SUPPRESS)
    options = parser.parse_args()
    n_rows = options.rows or (_QUICK_ROWS if options.quick else _FULL_ROWS)
    load = os.getloadavg()[0]
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for part in options.parts.split(","):
            if part == "copies":
                figures |= copies(work, n_rows)
            elif part == "vectors":
                figures |= vectors()
            else:
                n_bytes = _QUICK_BYTES if options.quick else _FULL_BYTES
                figures |= labelling(work, options.corpus, n_bytes)
    result = {
        "figures": {key: float(f"{value:.4g}") for key, value in figures.items()},
        "conditions": {
            "n_rows": n_rows,
            "n_domains": N_DOMAINS,
            "skew": SKEW,
            "cores": usable_cores(),
            "load_before": load,
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "datatrove": _datatrove(),
            **{name: version(name) for name in ("numpy", "pyarrow")},
        },
    }
    print_table(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def print_table(result: Mapping[str, Mapping[str, object]]) -> None:
    """Print figures and conditions, a line each."""
    for part, values in result.items():
        print(part)
        for name, value in values.items():
            print(f"  {name:44} {value}")


def copies(work: Path, n_rows: int) -> Figures:
    """Measure labels to copies: seconds, memory and the error of ranks."""
    folder = work / "labels"
    folder.mkdir()
    n_files = max(4, round(n_rows / _FILE_ROWS))
    ends = np.linspace(0, n_rows, n_files + 1).astype(np.int64).tolist()
    with ProcessPoolExecutor(usable_cores(), mp_context=get_context("spawn")) as pool:
        written = [
            pool.submit(write_labels, folder / f"{number:03d}.parquet", number, first, end - first)
            for number, (first, end) in enumerate(pairwise(ends))
        ]
        for one in written:
            one.result()
    labels = label_files(folder)
    for path in labels.files:
        Path(path).read_bytes()  # the page cache
    write_json(work / "curve.json", search_curve().to_json())
    timed, resident = _in_own_processes(work)
    made = timed["n_taken"]
    return {
        "seconds_per_1e8": timed["seconds"] * 1e8 / n_rows,
        "seconds": timed["seconds"],
        "core_seconds_per_1e8": timed["core_seconds"] * 1e8 / n_rows,
        "load": os.getloadavg()[0],
        "resident_gb": resident,
        "documents_taken": made,
        **{f"seconds_{name}": timed[name] for name in timed if name.startswith("pass_")},
        "rank_error_bound": timed["rank_error"],
        **rank_errors(labels, search_curve(), n_rows),
    }


def search_curve() -> QualityCurve:
    """Return a curve drawn from the prior."""
    rng = np.random.default_rng(SEED)
    vector = draw_vectors(PAPER_PRIOR, n=1, n_domains=N_DOMAINS, n_criteria=len(CRITERIA), rng=rng)[
        0
    ]
    return QualityCurve.of_vector(DOMAINS, CRITERIA, vector)


def label_files(folder: Path) -> LabelFiles:
    """Return the synthetic labels of a folder."""
    files = tuple(str(path) for path in sorted(folder.glob("*.parquet")))
    return LabelFiles(files=files, criteria=CRITERIA)


def draw_labels(rng: np.random.Generator, n: int) -> tuple[IntArray, IntArray, list[FloatArray]]:
    """Draw domains of 1000:1, lengths, and three scores that agree in part.

    The first is crowded near 0 as a classifier's, the second has long tails, and three in ten of
    the third are one value, as with rules of thumb that are counted.
    """
    shares = SKEW ** -np.linspace(0.0, 1.0, N_DOMAINS)
    domain = rng.choice(N_DOMAINS, n, p=shares / shares.sum()).astype(np.int64)
    quality = rng.standard_normal(n) + 0.05 * (domain - N_DOMAINS / 2)
    noise = rng.standard_normal((3, n))
    scores = [
        1.0 / (1.0 + np.exp(6.0 - 2.0 * (quality + noise[0]))),
        -1.0 + 0.4 * (quality + noise[1]),
        np.minimum(0.7 * (quality + noise[2]) - 0.5, 0.0) + 0.0,
    ]
    n_tokens = np.exp(rng.normal(6.3, 1.0, n)).astype(np.int64) + 1
    return domain, n_tokens, scores


def write_labels(path: Path, number: int, first: int, n: int) -> None:
    """Write one file of labels, ids of 16 bytes."""
    domain, n_tokens, scores = draw_labels(np.random.default_rng([SEED, number]), n)
    digits = np.frombuffer(
        "".join(f"{value:02x}" for value in range(256)).encode(), dtype=np.uint16
    )
    mixed = (np.arange(first, first + n, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)).view(
        np.uint8
    )
    offsets = np.arange(n + 1, dtype=np.int32) * 16
    ids = pa.Array.from_buffers(
        pa.string(), n, [None, pa.py_buffer(offsets), pa.py_buffer(digits[mixed])]
    )
    table = pa.table(
        {
            "id": ids,
            "domain": pa.DictionaryArray.from_arrays(domain.astype(np.int8), list(DOMAINS)),
            "n_tokens": n_tokens.astype(np.int32),
            **{
                name: column.astype(np.float32)
                for name, column in zip(CRITERIA, scores, strict=True)
            },
        }
    )
    pq.write_table(table, path, use_dictionary=["domain"])


def time_copies(work: Path) -> Figures:
    """Run the selection on the files of a folder."""
    curve = QualityCurve.from_json(json.loads((work / "curve.json").read_text()))
    labels = label_files(work / "labels")
    started: dict[str, float] = {}
    ended: dict[str, float] = {}

    def note(name: str, done: int, total: int) -> None:
        started.setdefault(name, time.perf_counter())
        ended[name] = time.perf_counter()

    begun = time.perf_counter()
    made = write_copies(
        work / "copies",
        [curve],
        labels=labels,
        settings=CopiesConfig(in_memory_rows=0),
        seed=SEED,
        workers=usable_cores(),
        on_progress=note,
    )
    seconds = time.perf_counter() - begun
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "seconds": seconds,
        "core_seconds": sum(one.ru_utime + one.ru_stime for one in used),
        "n_taken": made.n_taken,
        "rank_error": made.rank_error,
        **{f"pass_{name}": ended[name] - started[name] for name in started},
    }


def _in_own_processes(work: Path) -> tuple[Figures, float]:
    """Return the figures and the largest sum of resident sets, GB."""
    # Not a module: workers import the main one again, and this one is heavy.
    code = (
        "import json, sys; from pathlib import Path; from benchmarks.quadmix_scale import "
        "time_copies; print(json.dumps(time_copies(Path(sys.argv[1]))))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(work)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    whole, largest = psutil.Process(process.pid), 0
    while process.poll() is None:
        resident = 0
        for one in (whole, *_children(whole)):
            try:
                resident += one.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        largest = max(largest, resident)
        time.sleep(_SAMPLE_SECONDS)
    if process.returncode or process.stdout is None:
        raise SystemExit("the selection failed; its message stands above.")
    return json.loads(process.stdout.read().splitlines()[-1]), largest / 1e9


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def rank_errors(labels: LabelFiles, curve: QualityCurve, n_rows: int) -> Figures:
    """Compare streamed ranks with exact ones in the domains that fit, the smallest first."""
    parts, _ = describe(labels)

    whole = [np.empty(n_rows, dtype=np.float32) for _ in CRITERIA]
    domain, n_tokens = np.empty(n_rows, dtype=np.int8), np.empty(n_rows, dtype=np.int32)
    first = 0
    for batch in read_labels(labels, parts, domains=DOMAINS):
        rows = slice(first, first + len(batch.domain))
        domain[rows], n_tokens[rows] = batch.domain, batch.n_tokens
        for column, scores in zip(whole, batch.scores, strict=True):
            column[rows] = scores
        first = rows.stop
    sizes = np.bincount(domain, minlength=N_DOMAINS)
    order = np.argsort(sizes)
    checked = order[np.cumsum(sizes[order]) <= _CHECKED_ROWS]
    rows = np.flatnonzero(np.isin(domain, checked))
    some, tokens = domain[rows].astype(np.int64), n_tokens[rows].astype(np.int64)
    exact = np.stack([_exact_scale(column, rows) for column in whole], axis=1)
    ranks = token_ranks(merge_scores(exact, some, curve.merge), tokens, some)
    scale = StreamedScale.of_counts(*_score_counts(whole), larger_is_better=labels.larger_is_better)
    codes = scale.merge([column[rows] for column in whole], some, curve.merge)
    finer = merged_cells(N_DOMAINS).heavy(
        _token_counts(merged_cells(N_DOMAINS), some, codes, tokens)
    )
    counts = _token_counts(finer, some, codes, tokens)
    shares = token_shares(finer, counts)
    error = np.abs(shares[finer.place(some, codes)] - ranks)
    sums = np.bincount(some, weights=tokens, minlength=N_DOMAINS)
    return {
        "rank_error": float(error.max()),
        "rank_error_mean": float(error.mean()),
        "largest_document_share": float((tokens / sums[some]).max()),
        "rank_error_domains": len(checked),
        "rank_error_documents": len(rows),
    }


def _exact_scale(column: np.ndarray, rows: IntArray) -> FloatArray:
    scale = Normaliser.fit(column.astype(np.float64), larger_is_better=True)
    return scale.transform(column[rows].astype(np.float64))


def _score_counts(whole: Sequence[np.ndarray]) -> tuple[Cells, IntArray]:
    cells = score_cells(len(whole))

    def counted(cells: Cells) -> IntArray:
        counts = np.zeros(cells.size, dtype=np.int64)
        for place, column in enumerate(whole):
            for some in np.array_split(column, max(1, len(column) // 1_000_000)):
                counts += np.bincount(cells.place(place, score_codes(some)), minlength=cells.size)
        return counts

    finer = cells.heavy(counted(cells))
    return finer, counted(finer)


def _token_counts(cells: Cells, domain: IntArray, codes: np.ndarray, tokens: IntArray) -> IntArray:
    sums = np.bincount(cells.place(domain, codes), weights=tokens, minlength=cells.size)
    return sums.astype(np.int64)


def vectors() -> Figures:
    """Time 3,000 vectors on a pool of a million documents; compare some with the whole pool."""
    rng = np.random.default_rng(SEED)
    domain, n_tokens, scores = draw_labels(rng, _POOL_ROWS)
    scales = [Normaliser.fit(column, larger_is_better=True) for column in scores]
    normalised = np.stack(
        [scale.transform(column) for scale, column in zip(scales, scores, strict=True)], axis=1
    )
    keys = document_keys(str(number) for number in range(_POOL_ROWS))
    drawn = draw_vectors(
        PAPER_PRIOR,
        n=_N_VECTORS,
        n_domains=N_DOMAINS,
        n_criteria=len(CRITERIA),
        rng=rng,
    )
    curves = [QualityCurve.of_vector(DOMAINS, CRITERIA, vector) for vector in drawn]

    def sampled(most: int) -> PoolSample:
        return PoolSample.choose(
            DOMAINS,
            keys=keys,
            domain=domain,
            n_tokens=n_tokens,
            normalised=normalised,
            most=most,
            seed=SEED,
        )

    figures: Figures = {}
    with one_thread():
        whole = sampled(_POOL_ROWS)
        exact = [whole.induce(curve) for curve in curves[:_EXACT_VECTORS]]
        for most in _SAMPLES:
            timed = most == _SAMPLES[0]
            started = time.perf_counter()
            sample = sampled(most)
            found = [sample.induce(curve) for curve in (curves if timed else curves[: len(exact)])]
            if timed:
                figures["seconds_3000_vectors_1m"] = time.perf_counter() - started
            figures |= content_errors(found, exact, most)
    return figures


def content_errors(found: Sequence[Induced], exact: Sequence[Induced], most: int) -> Figures:
    """Compare contents of a sample with those of the whole pool: shares, tokens and quality."""
    pairs = list(zip(found, exact, strict=False))
    shares = np.stack([np.abs(one.shares - other.shares) for one, other in pairs])
    tokens = [abs(one.tokens.sum() / other.tokens.sum() - 1.0) for one, other in pairs]
    quality = [np.abs(one.quality - other.quality).mean() for one, other in pairs]
    return {
        f"share_error_mean_{most}": float(shares.mean()),
        f"share_error_largest_{most}": float(shares.max()),
        f"token_error_mean_{most}": float(np.mean(tokens)),
        f"quality_error_mean_{most}": float(np.mean(quality)),
    }


def labelling(work: Path, corpus: Path, n_bytes: int) -> Figures:
    """Time every scorer on the same text, on one core; MB of text a second."""
    n_bytes, _, _ = write_text(work, corpus, n_bytes)
    texts = pq.read_table(work / "text.parquet", columns=["text"])["text"].to_pylist()
    rng = np.random.default_rng(SEED)
    with one_thread():
        pool, out = PoolConfig(shards=(str(work / "text.parquet"),)), work / "scan"
        index = scan_pool(pool, out, seed=SEED, workers=0)
        make_tokenizer(TokensConfig(sample_bytes=1_000_000), index, out, seed=SEED)
        store = tokenise_pool(index, out, tokenizer=out / "tokenizer", workers=0)
        ids = np.concatenate(
            [store.read(place, 0, int(size)) for place, size in enumerate(store.n_tokens)]
        ).astype(np.int64)
        half = texts[: len(texts) // 2]
        classifier = ReferenceClassifier.fit(half[::4], half[1::4], rng=rng)
        ratio = ImportanceRatio.fit(half[::4], half[1::4], rng=rng)
        bigrams = BigramModel.fit(ids, vocabulary_size=store.vocabulary_size)
        scorers: dict[str, Callable[[], object]] = {
            "heuristics": lambda: score_columns(measure_texts(texts)),
            "classifier": lambda: classifier.score(texts),
            "importance": lambda: ratio.score(texts),
            "perplexity": lambda: bigrams.score(ids, store.n_tokens),
        }
        figures = {
            f"{name}_mb_per_s": n_bytes / 1e6 / _median_seconds(call)
            for name, call in scorers.items()
        }
        if _datatrove() != "not installed":
            theirs = n_bytes / 1e6 / _median_seconds(lambda: datatrove_filters(texts))
            figures["datatrove_filters_mb_per_s"] = theirs
            figures["heuristics_vs_datatrove"] = figures["heuristics_mb_per_s"] / theirs
        else:
            print("datatrove is not installed: no heuristics_vs_datatrove", file=sys.stderr)
    return figures


def datatrove_filters(texts: Sequence[str]) -> int:
    """Run datatrove's four heuristic filters on every text; returns how many pass all."""
    from datatrove.data import Document
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    filters = [
        GopherQualityFilter(),
        GopherRepetitionFilter(),
        C4QualityFilter(filter_no_terminal_punct=False),
        FineWebQualityFilter(),
    ]
    passed = 0
    for number, text in enumerate(texts):
        # Every filter sees every document, as every column is computed of every document.
        kept = [one.filter(Document(text=text, id=str(number))) for one in filters]
        passed += all(answer is True for answer in kept)
    return passed


def _datatrove() -> str:
    return version("datatrove") if find_spec("datatrove") else "not installed"


def _median_seconds(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
