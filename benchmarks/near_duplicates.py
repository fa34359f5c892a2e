"""Near-duplicates: which planted ones are found, what else is, and how fast.

``python -m benchmarks.near_duplicates [--quick] [--data DIR] [--json FILE]``

The pool is the corpus of ``../shared/data`` (4 of its 16 domains with ``--quick``). Of one document
in 20 a changed copy is planted: 0.2 to 4 of 100 words are replaced, evenly spread over the copies.
The truth is the exact share of common runs of 5 words. ``recall_090`` is the share of planted pairs
of a true share of at least 0.9 that are both called near-duplicates, ``recall_080`` of at least 0.8
(the threshold; signatures of 128 numbers tell a share to about 0.03). ``precision`` is the share of
documents called near-duplicates (in groups of up to 50) that truly share 0.7 of their runs with
another. MB of UTF-8 text a second, one core: ``mb_per_second`` of ours, reading and grouping
included; ``signing_ratio`` is that over datasketch as its manual shows it, SHA-1 of every run of a
document, without reading.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasketch import MinHash
from threadpoolctl import threadpool_limits

from cuvee.corpus.minhash import NearDuplicatesConfig
from cuvee.corpus.near_duplicates import LABELS, find_near_duplicates
from cuvee.corpus.pool import PoolConfig

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
QUICK = ("biomedical", "dialogue", "forum_qa", "recipes")
SETTINGS = NearDuplicatesConfig()
EVERY = 20
PEER_BYTES = 4_000_000
LARGEST_CHECKED = 50


def main() -> None:
    """Read the command line; measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="4 of the 16 domains")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of corpus/")
    parser.add_argument("--json", type=Path, help="file the result is written to")
    options = parser.parse_args()
    with threadpool_limits(limits=1), tempfile.TemporaryDirectory() as folder:
        result = measure(options.data, Path(folder), quick=options.quick)
    for name, value in result["figures"].items():
        print(f"{name:20} {value:12.6g}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measure(data: Path, folder: Path, *, quick: bool) -> dict[str, dict[str, float]]:
    """Plant, count, and compare; ``figures`` and ``conditions``."""
    shards = sorted((data / "corpus").glob("*.parquet"))
    texts = plant([path for path in shards if not quick or path.stem in QUICK], folder / "pool")
    n_bytes = sum(len(text.encode("utf-8")) for text in texts.values())
    began = time.process_time()
    found = find_near_duplicates(
        PoolConfig(shards=(str(folder / "pool"),)), folder / "out", settings=SETTINGS, workers=0
    )
    seconds = time.process_time() - began
    near = {
        row["id"]: row["n_near"]
        for path in sorted((found / LABELS).glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    }
    pairs = [(name, name.removesuffix("#copy")) for name in texts if name.endswith("#copy")]
    truth = np.array([share(texts[one], texts[other]) for one, other in pairs])
    both = np.array([near[one] > 1 and near[other] > 1 for one, other in pairs])
    rate = n_bytes / seconds / 1e6
    figures = {
        "documents": float(len(texts)),
        "mb": n_bytes / 1e6,
        "planted": float(len(pairs)),
        "recall_090": float(both[truth >= 0.9].mean()),
        "recall_080": float(both[truth >= 0.8].mean()),
        "found_below_070": float(both[truth < 0.7].mean()) if (truth < 0.7).any() else 0.0,
        "precision": precision(texts, near),
        "mb_per_second": rate,
        "signing_ratio": rate / peer(texts),
    }
    conditions = {"quick": float(quick), "every": float(EVERY)}
    return {"figures": figures, "conditions": conditions}


def plant(shards: list[Path], folder: Path) -> dict[str, str]:
    """Write the shards with changed copies of one document in 20; return all texts by id."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    texts: dict[str, str] = {}
    for path in shards:
        table = pq.read_table(path, columns=["id", "text", "domain"])
        records = table.to_pylist()
        for record in records[::EVERY]:
            words = record["text"].split()
            changes = rng.random(len(words)) < rng.uniform(0.002, 0.04)
            copy = [
                f"q{place}" if one else word
                for place, (word, one) in enumerate(zip(words, changes.tolist(), strict=True))
            ]
            records.append({**record, "id": f"{record['id']}#copy", "text": " ".join(copy)})
        texts |= {record["id"]: record["text"] for record in records}
        pq.write_table(pa.Table.from_pylist(records), folder / path.name)
    return texts


def share(one: str, other: str) -> float:
    """Return the share of common runs of words among those of either text."""
    left, right = runs(one), runs(other)
    return len(left & right) / max(1, len(left | right))


def runs(text: str) -> set[str]:
    """Return a text's runs of words."""
    words = "".join(char if char.isalnum() or char.isspace() else "" for char in text).lower()
    parts = words.split()
    return {" ".join(parts[i : i + SETTINGS.n]) for i in range(max(1, len(parts) - SETTINGS.n + 1))}


def precision(texts: dict[str, str], near: dict[str, int]) -> float:
    """Return the share of near-duplicates that share 0.7 of their runs with another document.

    Candidates are the documents with which one shares a run that is in at most 50 documents.
    """
    wanted = [name for name, size in near.items() if 1 < size <= LARGEST_CHECKED]
    own = {name: runs(texts[name]) for name in wanted}
    where: dict[str, list[str]] = defaultdict(list)
    for name, found in own.items():
        for run in found:
            where[run].append(name)
    good = 0
    for name, found in own.items():
        others = {
            other for run in found if len(where[run]) <= LARGEST_CHECKED for other in where[run]
        } - {name}
        good += any(len(found & own[one]) >= 0.7 * len(found | own[one]) for one in others)
    return good / max(1, len(wanted))


def peer(texts: dict[str, str]) -> float:
    """Return the MB a second that datasketch signs as its manual shows."""
    began, n_bytes = time.process_time(), 0
    for text in texts.values():
        made = MinHash(num_perm=SETTINGS.n_hashes)
        made.update_batch([run.encode("utf-8") for run in runs(text)])
        n_bytes += len(text.encode("utf-8"))
        if n_bytes > PEER_BYTES:
            break
    return n_bytes / (time.process_time() - began) / 1e6


if __name__ == "__main__":
    main()
