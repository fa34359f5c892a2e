"""How fast text is labelled and tokenised on one core, beside ``datasets.map``.

``python -m benchmarks.corpus_throughput [--quick] [--corpus DIR] [--pool DIR] --json FILE``

Both tokenise the same Parquet file with the same tokenizer, from reading it to ids on disk, each in
its own single-threaded process held to one core, in turns; the ratio is that of the median seconds.
Imports are not counted. Ids are compared and must be equal. ``--pool`` also labels and tokenises a
whole pool (`benchmarks.make_pool`) with one worker per core and reports the largest worker.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.make_pool import CORPUS
from cuvee.corpus.pool import PoolConfig
from cuvee.corpus.scan import read_index, scan_pool
from cuvee.corpus.tokens import TokensConfig, make_tokenizer, tokenise_pool
from cuvee.executors import usable_cores

ROOT = Path(__file__).resolve().parents[1]
SEED = 0
_QUICK_BYTES, _FULL_BYTES = 3_000_000, 32_000_000
_ROUNDS = 3
_MAP_ROWS = 1000  # the default batch of datasets.map

Figures = dict[str, float]


def main() -> None:
    """Read the command line; measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 MB of text; within a minute")
    parser.add_argument("--json", type=Path, help="file the result is written to")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="folder of Parquet files")
    parser.add_argument("--pool", type=Path, help="also label and tokenise this whole pool")
    parser.add_argument("--measure", choices=sorted(MEASUREMENTS), help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--turn", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(MEASUREMENTS[options.measure](options.work, options.turn)))
        return
    with tempfile.TemporaryDirectory() as name:
        result = measure(Path(name), options.corpus, options.pool, quick=options.quick)
    print_table(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measure(
    work: Path, corpus: Path, pool: Path | None, *, quick: bool
) -> dict[str, Mapping[str, object]]:
    """Take all measurements.

    Args:
        work: Empty folder for all files.
        corpus: Folder of Parquet files; the standard library's source where it is absent.
        pool: Folder of a whole pool, or None.
        quick: Take little text.

    Returns:
        ``ratios``, ``figures`` and ``conditions``.
    """
    n_bytes, n_documents, origin = write_text(work, corpus, _QUICK_BYTES if quick else _FULL_BYTES)
    label = _median([_run("label", work, turn) for turn in range(1 if quick else _ROUNDS)])
    _run("tokenizer", work)
    ours, theirs = [], []
    for turn in range(_ROUNDS):
        theirs.append(_run("datasets", work, turn))
        ours.append(_run("tokenise", work, turn))
    if len({each["ids"] for each in (*ours, *theirs)}) != 1:
        raise SystemExit("datasets.map and cuvee made different ids; the speeds mean nothing.")
    tokenise, peer = _median(ours), _median(theirs)
    megabytes = n_bytes / 1e6
    figures = {
        "tokenise_mb_per_s_per_core": megabytes / tokenise["seconds"],
        "datasets_mb_per_s_per_core": megabytes / peer["seconds"],
        "label_mb_per_s_per_core": megabytes / label["seconds"],
        "tokenise_mb_per_cpu_s": megabytes / tokenise["cpu_seconds"],
        "datasets_mb_per_cpu_s": megabytes / peer["cpu_seconds"],
        "label_mb_per_cpu_s": megabytes / label["cpu_seconds"],
        "tokenise_peak_mb": tokenise["peak_mb"],
        "datasets_peak_mb": peer["peak_mb"],
        "label_peak_mb": label["peak_mb"],
        "bytes_per_token": n_bytes / tokenise["n_tokens"],
    }
    if pool is not None:
        figures |= _measure_pool(work, pool)
    return {
        "ratios": {"tokenise_vs_datasets": peer["seconds"] / tokenise["seconds"]},
        "figures": {name: round(value, 4) for name, value in figures.items()},
        "conditions": {
            "text": origin,
            "n_bytes": n_bytes,
            "n_documents": n_documents,
            "rounds": _ROUNDS,
            "quick": quick,
            "pool": pool is not None,
            "cores": usable_cores(),
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            **{name: version(name) for name in ("tokenizers", "datasets", "pyarrow")},
        },
    }


def print_table(result: Mapping[str, Mapping[str, object]]) -> None:
    """Print the result for people."""
    for section, values in result.items():
        print(section)
        for name, value in values.items():
            shown = f"{value:,.2f}" if isinstance(value, float) else value
            print(f"  {name:<34} {shown:>14}" if section != "conditions" else f"  {name}: {shown}")


def write_text(work: Path, corpus: Path, n_bytes: int) -> tuple[int, int, str]:
    """Write the text all measurements use, ``text.parquet``: some of every domain, none twice.

    Args:
        work: Folder.
        corpus: Folder of Parquet files with columns id, text and domain.
        n_bytes: About how much text.

    Returns:
        Its bytes, its documents, and where it comes from.
    """
    files = sorted(corpus.glob("*.parquet"))
    rows: list[tuple[str, str, str]] = []
    seen: set[str] = set()
    sources = [_corpus_rows(path) for path in files] or [_library_rows()]
    weights = [path.stat().st_size for path in files] or [1]
    total = 0
    for source, weight in zip(sources, weights, strict=True):
        room = n_bytes * weight / sum(weights)
        for row in source:
            if room <= 0:
                break
            if row[1] not in seen:
                seen.add(row[1])
                rows.append(row)
                size = len(row[1].encode("utf-8"))
                room -= size
                total += size
    table = pa.table(dict(zip(("id", "text", "domain"), zip(*rows, strict=True), strict=True)))
    pq.write_table(table, work / "text.parquet", row_group_size=2000, compression="zstd")
    origin = f"Parquet files of {corpus.name}" if files else "source of the standard library"
    return total, len(rows), origin


def _corpus_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    columns = ["id", "text", "domain"]
    for batch in pq.ParquetFile(path).iter_batches(256, columns=columns):
        yield from zip(*(batch.column(name).to_pylist() for name in columns), strict=True)


def _library_rows() -> Iterator[tuple[str, str, str]]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        text = path.read_text(encoding="utf-8", errors="ignore").replace("\0", "")
        name = path.relative_to(root).as_posix()
        if text.strip() and "site-packages" not in name:
            yield name, text, "tests" if "/test" in f"/{name}" else "code"


def _label(work: Path, turn: int) -> Figures:
    """Label the text."""
    with _Clock() as clock:
        pool = PoolConfig(shards=(str(work / "text.parquet"),))
        scan_pool(pool, work / f"label-{turn}", seed=SEED, workers=0)
    return clock.figures()


def _tokenizer(work: Path, _: int) -> Figures:
    """Train the tokenizer."""
    index = read_index(work / "label-0")
    with _Clock() as clock:
        make_tokenizer(TokensConfig(sample_bytes=2_000_000), index, work, seed=SEED)
    return clock.figures()


def _tokenise(work: Path, turn: int) -> Figures:
    """Tokenise the labelled text as a run does."""
    out = work / f"tokens-{turn}"
    with _Clock() as clock:
        index = read_index(work / "label-0")
        store = tokenise_pool(index, out, tokenizer=work / "tokenizer", workers=0)
    figures = clock.figures()
    ids = hashlib.sha256()
    for document, length in enumerate(store.n_tokens.tolist()):
        ids.update(store.read(document, 0, length - 1).astype("<u4").tobytes())
    return {**figures, "ids": _number(ids), "n_tokens": int(store.n_tokens.sum())}


def _datasets(work: Path, turn: int) -> Figures:
    """Tokenise the same text by ``datasets.map``, as its documentation shows it."""
    import datasets
    from tokenizers import Tokenizer

    with _Clock() as clock:
        tokenizer = Tokenizer.from_file(str(work / "tokenizer" / "tokenizer.json"))
        text = datasets.load_dataset(
            "parquet",
            data_files=str(work / "text.parquet"),
            split="train",
            columns=["text"],
            cache_dir=str(work / f"datasets-{turn}"),
        )
        tokens = text.map(
            lambda rows: {
                "ids": [
                    each.ids
                    for each in tokenizer.encode_batch_fast(rows["text"], add_special_tokens=False)
                ]
            },
            batched=True,
            batch_size=_MAP_ROWS,
            remove_columns=["text"],
        )
    figures = clock.figures()
    ids = hashlib.sha256()
    for row in tokens.with_format("numpy"):
        ids.update(np.asarray(row["ids"]).astype("<u4").tobytes())
    return {**figures, "ids": _number(ids)}


def _pool_label(work: Path, _: int) -> Figures:
    """Label a whole pool with one worker per core."""
    pool = PoolConfig(shards=((work / "pool").read_text(),))
    with _Clock() as clock:
        index = scan_pool(pool, work / "pool-out", seed=SEED, workers=usable_cores())
    n_bytes = sum(int(sizes.sum()) for sizes in index.n_bytes.values())
    return {**clock.figures(), "n_bytes": n_bytes, "workers": usable_cores()}


def _pool_tokenizer(work: Path, _: int) -> Figures:
    """Train the tokenizer of a labelled pool, in a process of its own.

    A worker's peak is at least what its parent held when it started it.
    """
    out = work / "pool-out"
    with _Clock() as clock:
        make_tokenizer(TokensConfig(), read_index(out), out, seed=SEED)
    return clock.figures()


def _pool_tokenise(work: Path, _: int) -> Figures:
    """Tokenise a labelled pool with one worker per core."""
    out = work / "pool-out"
    with _Clock() as clock:
        index = read_index(out)
        store = tokenise_pool(index, out, tokenizer=out / "tokenizer", workers=usable_cores())
    return {
        **clock.figures(),
        "n_bytes": int(store.n_bytes.sum()),
        "workers": usable_cores(),
    }


MEASUREMENTS: Mapping[str, Callable[[Path, int], Figures]] = {
    "label": _label,
    "tokenizer": _tokenizer,
    "tokenise": _tokenise,
    "datasets": _datasets,
    "pool_label": _pool_label,
    "pool_tokenizer": _pool_tokenizer,
    "pool_tokenise": _pool_tokenise,
}


class _Clock:
    """Wall-clock and processor seconds of a block, and peak memory."""

    def __enter__(self) -> "_Clock":
        self._started = time.perf_counter()
        self._cpu = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self._seconds = time.perf_counter() - self._started
        self._cpu = time.process_time() - self._cpu

    def figures(self) -> Figures:
        """Return what was measured, the workers' shares once they have ended."""
        for worker in multiprocessing.active_children():
            worker.join()
        own = resource.getrusage(resource.RUSAGE_SELF)
        workers = resource.getrusage(resource.RUSAGE_CHILDREN)
        unit = 1 if sys.platform == "darwin" else 1024  # KiB on Linux, bytes on macOS
        return {
            "seconds": self._seconds,
            "cpu_seconds": self._cpu,
            "peak_mb": own.ru_maxrss * unit / 1e6,
            "workers_cpu_seconds": workers.ru_utime + workers.ru_stime,
            "worker_peak_mb": workers.ru_maxrss * unit / 1e6,
        }


def _run(measurement: str, work: Path, turn: int = 0) -> Figures:
    """Take one measurement in a process of its own; all but a pool's on one core and thread."""
    command = [sys.executable, "-m", "benchmarks.corpus_throughput", "--measure", measurement]
    on_one_core = not measurement.startswith("pool")
    threads = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {
        **os.environ,
        **(dict.fromkeys(threads, "1") if on_one_core else {}),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(work / "hf"),
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    done = subprocess.run(
        [*command, "--work", str(work), "--turn", str(turn)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        preexec_fn=_hold_to_one_core if on_one_core else None,
    )
    if done.returncode != 0:
        raise SystemExit(f"measurement {measurement!r} failed with status {done.returncode}.")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def _hold_to_one_core() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def _measure_pool(work: Path, pool: Path) -> Figures:
    (work / "pool").write_text(str(pool.resolve()))
    figures: Figures = {}
    for measurement in ("pool_label", "pool_tokenizer", "pool_tokenise"):
        found = _run(measurement, work)
        if measurement == "pool_tokenizer":
            figures["pool_tokenizer_seconds"] = found["seconds"]
            figures["pool_tokenizer_peak_mb"] = found["peak_mb"]
            continue
        per_core = found["n_bytes"] / 1e6 / found["seconds"] / found["workers"]
        figures |= {
            f"{measurement}_gb": found["n_bytes"] / 1e9,
            f"{measurement}_seconds": found["seconds"],
            f"{measurement}_mb_per_s_per_core": per_core,
            f"{measurement}_mb_per_cpu_s": found["n_bytes"] / 1e6 / found["workers_cpu_seconds"],
            f"{measurement}_worker_peak_mb": found["worker_peak_mb"],
            f"{measurement}_parent_peak_mb": found["peak_mb"],
        }
    return figures


def _median(rounds: list[Figures]) -> Figures:
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


def _number(digest: "hashlib._Hash") -> int:
    return int.from_bytes(digest.digest()[:6], "big")


if __name__ == "__main__":
    main()
