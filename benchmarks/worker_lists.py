"""What lists of tasks gain when they share workers, and what memory the workers hold meanwhile.

``python -m benchmarks.worker_lists [--lists N] [--workers N] [--size NAME] [--json FILE]``

A small pool of ``../shared/data`` is labelled and tokenised before the clock starts. Then ``scan``
reads it, a task a shard, and ``train`` trains two proxies, in lists one after the other: each with
workers of its own (``own``) and all inside one `worker_pool` (``shared``). Seconds are of the
clock; ``ratio`` above 1 is the gain. ``held_mb`` is the memory of the largest worker that no file
backs after each list, ``idle_cpu_seconds`` what all workers use in two seconds without a task.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmarks.make_pool import CORPUS
from cuvee.corpus.pool import PoolConfig
from cuvee.corpus.scan import scan_pool
from cuvee.corpus.store import TokenStore
from cuvee.corpus.tokens import TokensConfig, make_tokenizer, tokenise_pool
from cuvee.executors import worker_pool
from cuvee.policy.mixture import Mixture
from cuvee.proxy.spec import TrainingSpec
from cuvee.proxy.sweep import ProxyConfig, SweepInputs, train_all, training_spec

_SHARDS = ("dialogue", "recipes", "forum_qa")
_IDLE_SECONDS = 2.0


def main() -> None:
    """Read the command line; measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lists", type=int, default=6, help="lists of each kind")
    parser.add_argument("--workers", type=int, default=2, help="worker processes")
    parser.add_argument("--size", default="0.1m", help="size of the proxies")
    parser.add_argument("--tokens", type=int, default=16_384, help="tokens of each proxy")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="folder of Parquet files")
    parser.add_argument("--json", type=Path, help="file the result is written to")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        config = PoolConfig(shards=tuple(str(options.corpus / f"{one}.parquet") for one in _SHARDS))
        spec = _prepare(config, work / "run", size=options.size, n_tokens=options.tokens)

        def scan(folder: Path) -> None:
            scan_pool(config, folder, seed=0, workers=options.workers)

        def train(folder: Path) -> None:
            train_all({"one": spec, "two": spec}, folder, workers=options.workers)

        result = {
            kind: _compare(run, work / kind, n_lists=options.lists, workers=options.workers)
            for kind, run in (("scan", scan), ("train", train))
        }
    text = json.dumps(result, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


def _prepare(config: PoolConfig, root: Path, *, size: str, n_tokens: int) -> TrainingSpec:
    index = scan_pool(config, root, seed=0, workers=0)
    tokenizer = make_tokenizer(TokensConfig(vocabulary_size=2048), index, root, seed=0)
    tokenise_pool(index, root, tokenizer=tokenizer, workers=0)
    statistics = TokenStore.open(root / "tokens").statistics()
    proxy = ProxyConfig(
        size=size, n_tokens=n_tokens, context=128, batch_tokens=1024, repetition_matched=False
    )
    inputs = SweepInputs(
        pool=root / "tokens",
        targets=None,
        statistics=statistics,
        target_tokens=n_tokens,
        precision="float32",
        device="cpu",
        step="explicit",
    )
    mixture = Mixture.flat(statistics.domains, statistics.natural)
    return training_spec(proxy, inputs, mixture, seed=0, run_seed=0, learning_rate=1e-3)


def _compare(
    run: Callable[[Path], None], work: Path, *, n_lists: int, workers: int
) -> dict[str, object]:
    own = [_seconds(run, work / "own" / str(number)) for number in range(n_lists)]
    shared: list[float] = []
    held: list[float] = []
    with worker_pool(workers):
        for number in range(n_lists):
            shared.append(_seconds(run, work / "shared" / str(number)))
            memory = [one.memory_info() for one in psutil.Process().children()]
            held.append(round(max(one.rss - one.shared for one in memory) / 1e6, 1))
        before = _cpu_seconds()
        time.sleep(_IDLE_SECONDS)
        idle = round(_cpu_seconds() - before, 3)
    return {
        "own_seconds": [round(seconds, 2) for seconds in own],
        "shared_seconds": [round(seconds, 2) for seconds in shared],
        "ratio": round(sum(own) / sum(shared), 2),
        "held_mb": held,
        "idle_cpu_seconds": idle,
    }


def _seconds(run: Callable[[Path], None], folder: Path) -> float:
    started = time.perf_counter()
    run(folder)
    return time.perf_counter() - started


def _cpu_seconds() -> float:
    """Return the CPU seconds of the workers so far; those that have ended count nothing."""
    times = [one.cpu_times() for one in psutil.Process().children()]
    return float(sum(one.user + one.system for one in times))


if __name__ == "__main__":
    main()
