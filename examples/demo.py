"""Run the whole chain on text that is at hand, and say what it took.

Without arguments the pool is gathered from this machine's own Python installation
(`cuvee.corpus.harvest`) and examples/demo.yaml is run. With --corpus (and --targets) it runs on
your folders of Parquet or JSONL, by examples/corpus.yaml where those are the folders it names.
"""

import argparse
import gzip
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import yaml
import zstandard

HERE = Path(__file__).parent
SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst")


class PeakMemory:
    """Largest resident memory of this process and all its children, sampled twice a second.

    Resident pages that processes share are counted once for each: the sum is an upper bound.
    """

    def __init__(self) -> None:
        self.n_bytes = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while the block runs."""
        done = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(done,), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    def _watch(self, done: threading.Event) -> None:
        while not done.wait(0.5):
            root = psutil.Process()
            total = 0
            for process in (root, *root.children(recursive=True)):
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    continue
            self.n_bytes = max(self.n_bytes, total)


def main() -> int:
    """Run the demo; return the exit status."""
    arguments = _arguments()
    peak = PeakMemory()
    started = time.perf_counter()
    with peak.watching():
        status = subprocess.call(_command(arguments))
    minutes = (time.perf_counter() - started) / 60
    if status == 0:
        sys.stdout.write(
            f"demo: {minutes:.1f} min after set-up; peak memory of all its processes "
            f"{peak.n_bytes / 2**30:.2f} GiB; {psutil.cpu_count()} cores\n"
        )
    return status


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo-out"))
    parser.add_argument("--corpus", type=Path, help="folder of Parquet or JSONL: the pool")
    parser.add_argument("--targets", type=Path, help="folder of Parquet or JSONL: the target sets")
    return parser.parse_args()


def _command(arguments: argparse.Namespace) -> list[str]:
    command = [sys.executable, "-m", "cuvee", "run", "regmix"]
    if arguments.corpus is None:
        if arguments.targets is not None:
            raise SystemExit("demo: --targets needs --corpus; give both or neither.")
        config, settings = HERE / "demo.yaml", _harvested(arguments.out)
    elif _is_example(arguments.corpus, arguments.targets):
        config, settings = HERE / "corpus.yaml", {}
    else:
        config, settings = HERE / "demo.yaml", _own_folders(arguments.corpus, arguments.targets)
    command += [str(config), "--out", str(arguments.out / "run")]
    for key, value in settings.items():
        command += ["--set", f"{key}={json.dumps(value)}"]
    return command


def _harvested(out: Path) -> dict[str, object]:
    """Gather the pool from this machine, as a process of its own so that its memory is returned."""
    source = out / "source"
    code = (
        "import sys; from pathlib import Path; from cuvee.corpus.harvest import harvest; "
        "print(harvest(Path(sys.argv[1])))"
    )
    subprocess.check_call([sys.executable, "-c", code, str(source)])
    return {
        "pool.shards": [str(source / "pool")],
        **{
            f"targets.sets.{path.stem}.shards": [str(path)]
            for path in sorted((source / "targets").glob("*.parquet"))
        },
    }


def _is_example(corpus: Path, targets: Path | None) -> bool:
    settings = yaml.safe_load((HERE / "corpus.yaml").read_text(encoding="utf-8"))
    named = {Path(shard).resolve() for shard in settings["pool"]["shards"]}
    folders = {
        Path(shard).resolve().parent
        for one in settings["targets"]["sets"].values()
        for shard in one["shards"]
    }
    return targets is not None and named == {corpus.resolve()} and folders == {targets.resolve()}


def _own_folders(corpus: Path, targets: Path | None) -> dict[str, object]:
    """Find out how the folders' files are laid out; each file of targets is one target set."""
    settings: dict[str, object] = {
        "pool.shards": [str(corpus)],
        "proxy.repetition_matched": False,
        "target_tokens": None,
        **{f"pool.{key}": value for key, value in _layout(corpus).items()},
        "targets": None,
    }
    if targets is not None:
        sets = {}
        for path in _files(targets):
            layout = _layout(path)
            sets[path.name.split(".")[0]] = {
                "shards": [str(path)],
                "id": layout["id"],
                "group": layout["group"],
            }
        settings["targets"] = {"sets": sets}
    return settings


def _files(folder: Path) -> list[Path]:
    files = [path for path in sorted(folder.rglob("*")) if path.name.endswith(SUFFIXES)]
    if not files:
        raise SystemExit(f"demo: no file ending in {', '.join(SUFFIXES)} below {folder}.")
    return files


def _layout(place: Path) -> dict[str, object]:
    """Guess columns from the first file: id and domain where they are there."""
    first = place if place.is_file() else _files(place)[0]
    columns = _columns(first)
    has_domain = "domain" in columns
    return {
        "id": "id" if "id" in columns else None,
        "domain_from": "column" if has_domain else "file",
        "group": "group" if "group" in columns else None,
    }


def _columns(path: Path) -> set[str]:
    if path.name.endswith(".parquet"):
        return set(pq.read_schema(path).names)
    if path.name.endswith(".gz"):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return set(json.loads(file.readline()))
    if path.name.endswith(".zst"):
        with zstandard.open(path, "rt", encoding="utf-8") as file:
            return set(json.loads(file.readline()))
    with path.open(encoding="utf-8") as file:
        return set(json.loads(file.readline()))


if __name__ == "__main__":
    sys.exit(main())
