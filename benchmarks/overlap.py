"""Overlap of a pool with target sets: what is planted is found, what is not is not, and how fast.

``python -m benchmarks.overlap [--quick] [--data DIR] [--json FILE]``

The pool is the corpus of ``../shared/data``, the targets its four reference sets. In one document
of a hundred (1 of 20 with ``--quick``) a run of 13 to 60 words of a target is planted, in capitals
and with marks around its words. ``exact`` compares every run with a set of strings in plain Python:
it says which documents overlap, and is the peer in speed. ``recall`` is the share of planted
documents that are found, ``missed`` and ``false`` are pairs of document and target that only one of
the two names, as shares of documents. MB of UTF-8 text of the pool a second of CPU time, one core;
ours includes reading, the peer's does not; ``table_seconds`` is the time for the targets' table.
"""

import argparse
import json
import sys
import tempfile
import time
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from cuvee.corpus.overlap import DOCUMENTS, OverlapConfig, find_overlap
from cuvee.corpus.pool import PoolConfig
from cuvee.corpus.run_table import make_table

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
N = 13
QUICK = ("biomedical", "dialogue", "forum_qa", "recipes")
Pair = tuple[str, str]


def main() -> None:
    """Read the command line; measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="4 of the 16 domains")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of corpus/ and reference/")
    parser.add_argument("--json", type=Path, help="file the result is written to")
    options = parser.parse_args()
    with threadpool_limits(limits=1), tempfile.TemporaryDirectory() as folder:
        result = measure(options.data, Path(folder), quick=options.quick)
    for name, value in result["figures"].items():
        print(f"{name:20} {value:12.6g}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measure(data: Path, folder: Path, *, quick: bool) -> dict[str, dict[str, float]]:
    """Plant, look for overlap in both ways, and compare; ``figures`` and ``conditions``."""
    targets = {path.stem: path for path in sorted((data / "reference").glob("*.parquet"))}
    texts = {name: pq.read_table(path)["text"].to_pylist() for name, path in targets.items()}
    shards = sorted((data / "corpus").glob("*.parquet"))
    wanted = [path for path in shards if not quick or path.stem in QUICK]
    planted = plant(wanted, texts, folder / "pool", every=20 if quick else 100)
    sets = {name: PoolConfig(shards=(str(path),)) for name, path in targets.items()}
    started = time.process_time()
    make_table(sets, folder / "out" / "targets", n=N, shortest=OverlapConfig(n=N).shortest)
    table_seconds = time.process_time() - started
    started = time.process_time()
    found_in = find_overlap(
        PoolConfig(shards=(str(folder / "pool"),)),
        sets,
        folder / "out",
        settings=OverlapConfig(n=N),
        workers=0,
    )
    seconds = time.process_time() - started
    rows = pq.read_table(found_in / DOCUMENTS).to_pylist()
    found = {(row["id"], row["target"]): row["n_matching"] for row in rows}
    exact, n_documents, n_bytes, exact_seconds = compare_exactly(folder / "pool", texts)
    return {
        "figures": {
            "recall": len(planted & set(found)) / len(planted),
            "missed": len(set(exact) - set(found)) / n_documents,
            "false": len(set(found) - set(exact)) / n_documents,
            "other_counts": sum(found.get(pair) != n for pair, n in exact.items()),
            "table_seconds": table_seconds,
            "mb_per_second": n_bytes / 1e6 / seconds,
            "exact_mb_per_second": n_bytes / 1e6 / exact_seconds,
            "ratio": exact_seconds / seconds,
        },
        "conditions": {
            "n_documents": n_documents,
            "n_planted": len(planted),
            "n_overlapping": len(exact),
            "megabytes": n_bytes / 1e6,
        },
    }


def plant(
    shards: Iterable[Path], texts: dict[str, list[str]], folder: Path, *, every: int
) -> set[Pair]:
    """Copy shards, with runs of words of the targets put into some documents."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    planted: set[Pair] = set()
    for path in shards:
        table = pq.read_table(path, columns=["id", "text", "domain"])
        ids, pool = table["id"].to_pylist(), table["text"].to_pylist()
        for place in range(0, len(pool), every):
            name = str(rng.choice(list(texts)))
            words = words_of(texts[name][int(rng.integers(len(texts[name])))])
            if len(words) < N:
                continue
            length = int(rng.integers(N, min(len(words), 60) + 1))
            first = int(rng.integers(len(words) - length + 1))
            run = " ".join(f"({word.upper()})," for word in words[first : first + length])
            if words_of(run) != words[first : first + length]:
                continue  # a letter whose capital has another small one
            half = pool[place].find(" ", len(pool[place]) // 2)
            half = half if half >= 0 else len(pool[place])
            pool[place] = f"{pool[place][:half]} {run} {pool[place][half:]}"
            planted.add((ids[place], name))
        columns = {"id": ids, "text": pool, "domain": table["domain"]}
        pq.write_table(pa.table(columns), folder / path.name)
    return planted


def compare_exactly(
    folder: Path, texts: dict[str, list[str]]
) -> tuple[dict[Pair, int], int, int, float]:
    """Count shared runs as strings; also documents, bytes of text and seconds of CPU time."""
    targets: dict[str, set[str]] = defaultdict(set)
    for name, own in texts.items():
        for text in own:
            targets[name].update(runs_of(text))
    everything = set().union(*targets.values())
    pairs: dict[Pair, int] = defaultdict(int)
    n_documents, n_bytes, seconds = 0, 0, 0.0
    for path in sorted(folder.iterdir()):
        table = pq.read_table(path, columns=["id", "text"])
        started = time.process_time()
        for key, text in zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True):
            n_documents += 1
            n_bytes += len(text.encode("utf-8"))
            for run in runs_of(text):
                if run in everything:
                    for name in (one for one in targets if run in targets[one]):
                        pairs[key, name] += 1
        seconds += time.process_time() - started
    return dict(pairs), n_documents, n_bytes, seconds


def runs_of(text: str) -> Iterable[str]:
    """Return all runs of words of a text."""
    words = words_of(text)
    return (" ".join(words[first : first + N]) for first in range(len(words) - N + 1))


def words_of(text: str) -> list[str]:
    """Lowercase, remove punctuation, part at white space: by the definition, slowly."""
    return text.translate(TABLE).split()


def translation() -> dict[int, str | None]:
    """Say what becomes of each code point that does not stay as it is."""
    table: dict[int, str | None] = {}
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        if char.isspace():
            table[code] = " "
        elif unicodedata.category(char)[0] in "PSC":
            table[code] = None
        elif len(char.lower()) == 1 and char.lower() != char:
            table[code] = char.lower()
    return table


TABLE = translation()

if __name__ == "__main__":
    main()
