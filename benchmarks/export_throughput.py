"""How fast a mixture is selected and exported on one core, beside a plain copy by pyarrow.

``python -m benchmarks.export_throughput [--quick] [--corpus DIR] [--repeat N] [--json FILE]``

The pool is the corpus of ``../shared/data`` (or ``--pool``, a folder of Parquet files), labelled
and tokenised before the clock starts; with ``--repeat N`` it is written N times with fresh ids, and
tokens of a text met before are remembered. Half of all tokens (``--share``) are selected at shares
tempered away from the natural ones, then exported in every format of ``--formats``. Beside them
stand plain copies by pyarrow that read and write as much: ``copy_pool`` reads every batch of the
pool and writes as large a part of it as is selected, ``copy_selection`` copies the selection's
files, both zstd as the selection is; neither hashes, shuffles, checks or reads again what it wrote.
Each is taken in a process of its own held to one core. Ratios are of seconds of CPU time, so that
what else runs on the machine hardly counts; above 1 is faster than the copy:
``select_vs_arrow_copy`` is selecting beside ``copy_pool``, ``export_<format>_vs_arrow_copy``
exporting beside ``copy_selection``, and ``select_and_export_vs_arrow_copy`` both beside both, in
the first format. ``mb_per_cpu_s`` and ``mb_per_s`` are MB of the selection's UTF-8 text a second of
CPU time and of the clock, of ``copy_pool`` and ``select`` too; ``peak_mb`` is a process's largest
memory.
"""

import argparse
import hashlib
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.make_pool import CORPUS
from cuvee import artifacts
from cuvee.corpus import tokens
from cuvee.corpus.encoder import Encoder
from cuvee.corpus.pool import PoolConfig
from cuvee.corpus.scan import read_index, scan_pool
from cuvee.corpus.store import TokenStore
from cuvee.corpus.tokens import TokensConfig, make_tokenizer, tokenise_pool
from cuvee.executors import usable_cores
from cuvee.export.exporter import ExportConfig
from cuvee.export.formats import EXPORTERS
from cuvee.export.write import export_selection
from cuvee.policy.mixture import Mixture
from cuvee.select.budget import SelectConfig, plan
from cuvee.select.write import Selection, SelectionSource, write_selection
from cuvee.simplex import temper

ROOT = Path(__file__).resolve().parents[1]
SEED = 0
FORMATS = ("megatron", "huggingface")
_QUICK_BYTES = 8_000_000
_TEMPERATURE = 2.0
_COLUMNS = ("id", "text", "domain", "copy")

Figures = dict[str, float]


def main() -> None:
    """Read the command line; measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="8 MB of the pool, one round")
    parser.add_argument("--json", type=Path, help="file the result is written to")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="folder of Parquet files")
    parser.add_argument("--pool", type=Path, help="a larger pool, instead of the corpus")
    parser.add_argument("--repeat", type=int, default=1, help="times the pool is written")
    parser.add_argument("--share", type=float, default=0.5, help="of its tokens, selected")
    parser.add_argument("--rounds", type=int, default=3, help="times each is measured")
    parser.add_argument(
        "--formats", nargs="+", choices=sorted(EXPORTERS), default=list(FORMATS), help="exported"
    )
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(_measure_here(options.measure, options.work)))
        return
    with tempfile.TemporaryDirectory() as name:
        source = options.pool or options.corpus
        result = measure(
            Path(name),
            source,
            options.formats,
            quick=options.quick,
            repeat=options.repeat,
            share=options.share,
            n_rounds=1 if options.quick else options.rounds,
        )
    for section, values in result.items():
        print(section)
        for key, value in values.items():
            print(
                f"  {key:<36} {value:>14,.2f}" if isinstance(value, float) else f"  {key}: {value}"
            )
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measure(
    work: Path,
    source: Path,
    formats: Sequence[str],
    *,
    quick: bool,
    repeat: int = 1,
    share: float = 0.5,
    n_rounds: int = 3,
) -> dict[str, Mapping[str, object]]:
    """Take all measurements.

    Args:
        work: Empty folder for all files.
        source: Folder of Parquet files with columns id, text and domain.
        formats: Exported, each by itself.
        quick: Take little text.
        repeat: Times the pool is written, with fresh ids.
        share: Of the pool's tokens, selected.
        n_rounds: Times each is measured.

    Returns:
        ``ratios``, ``figures`` and ``conditions``.
    """
    pool = source
    if quick:
        pool = work / "pool"
        _write_sample(source, pool)
    if repeat > 1:
        _write_repeated(pool, work / "repeated", repeat)
        pool = work / "repeated"
    (work / "pool.txt").write_text(str(pool.resolve()))
    (work / "share.txt").write_text(str(share))
    n_pool_bytes = _run("prepare", work)["n_bytes"]
    names = ["select", "copy_pool", "copy_selection", *(f"export:{name}" for name in formats)]
    rounds: dict[str, list[Figures]] = {name: [] for name in names}
    for _ in range(n_rounds):
        for name in names:
            rounds[name].append(_run(name, work))
    selection = Selection.read(work / "run" / "selection")
    megabytes = int(selection.n_bytes.sum()) / 1e6
    seconds, clock = (
        {name: statistics.median(one[key] for one in found) for name, found in rounds.items()}
        for key in ("cpu_seconds", "seconds")
    )
    figures: Figures = {
        "selected_mb": megabytes,
        "pool_mb": n_pool_bytes / 1e6,
        **{f"{name.replace(':', '_')}_mb_per_cpu_s": megabytes / seconds[name] for name in names},
        **{f"{name.replace(':', '_')}_mb_per_s": megabytes / clock[name] for name in names},
        **{
            f"{name.replace(':', '_')}_peak_mb": max(one["peak_mb"] for one in found)
            for name, found in rounds.items()
        },
        "largest_epochs": float(selection.epochs.max()),
    }
    first = f"export:{formats[0]}"
    both = seconds["select"] + seconds[first]
    copies = seconds["copy_pool"] + seconds["copy_selection"]
    ratios: Figures = {
        "select_vs_arrow_copy": seconds["copy_pool"] / seconds["select"],
        "select_and_export_vs_arrow_copy": copies / both,
        **{
            f"export_{name}_vs_arrow_copy": seconds["copy_selection"] / seconds[f"export:{name}"]
            for name in formats
        },
    }
    return {
        "ratios": {name: round(value, 4) for name, value in ratios.items()},
        "figures": {name: round(value, 4) for name, value in figures.items()},
        "conditions": {
            "formats": list(formats),
            "rounds": n_rounds,
            "repeat": repeat,
            "share": share,
            "quick": quick,
            "shards": selection.n_shards,
            "cores": usable_cores(),
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "pyarrow": version("pyarrow"),
        },
    }


def _write_sample(source: Path, pool: Path) -> None:
    """Write some of every file."""
    pool.mkdir()
    files = sorted(source.glob("*.parquet"))
    total = sum(path.stat().st_size for path in files)
    for path in files:
        with pq.ParquetFile(path) as file:
            n_bytes = sum(
                file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)
            )
            share = min(1.0, path.stat().st_size / total * _QUICK_BYTES / n_bytes)
            n_rows = max(20, int(share * file.metadata.num_rows))
            batch = next(file.iter_batches(n_rows, columns=["id", "text", "domain"]))
        pq.write_table(pa.Table.from_batches([batch]), pool / path.name)


def _write_repeated(source: Path, pool: Path, repeat: int) -> None:
    """Write every file so many times, each time with other ids."""
    pool.mkdir()
    for path in sorted(source.glob("*.parquet")):
        table = pq.read_table(path, columns=["id", "text", "domain"])
        for number in range(repeat):
            ids = pc.binary_join_element_wise(table["id"].cast(pa.string()), str(number), "~")
            fresh = table.set_column(0, "id", ids)
            pq.write_table(fresh, pool / f"{path.stem}-{number:03d}.parquet", compression="zstd")


class _Remembering(Encoder):
    """Encodes a text once; each document still is read, matched and written."""

    known: ClassVar[dict[bytes, bytes]] = {}

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """Return the ids of texts, as `Encoder.encode`."""
        keys = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self.known}
        self.known.update(zip(new, super().encode(list(new.values())), strict=True))
        return [self.known[key] for key in keys]


def _pool(work: Path) -> PoolConfig:
    return PoolConfig(shards=((work / "pool.txt").read_text(),))


def _share(work: Path) -> float:
    return float((work / "share.txt").read_text())


def _prepare(work: Path) -> Figures:
    """Label and tokenise, in a process of its own: a child's peak is at least its parent's."""
    run = work / "run"
    index = scan_pool(_pool(work), run, seed=SEED, workers=usable_cores())
    tokenizer = make_tokenizer(TokensConfig(), index, run, seed=SEED)
    tokens.Encoder = _Remembering
    tokenise_pool(index, run, tokenizer=tokenizer, workers=0)
    return {"n_bytes": float(sum(int(one.sum()) for one in index.n_bytes.values()))}


def _select(work: Path) -> None:
    """Select as a run does."""
    run = work / "run"
    store = TokenStore.open(run / "tokens")
    statistics_ = store.statistics()
    natural = statistics_.n_tokens / statistics_.n_tokens.sum()
    mixture = Mixture.flat(store.domains, tuple(temper(natural, _TEMPERATURE).tolist()))
    n_tokens = int(_share(work) * statistics_.n_tokens.sum())
    write_selection(
        run / "selection",
        mixture,
        plan(mixture, statistics_, n_tokens=n_tokens, max_epochs=1e9),
        source=SelectionSource(
            pool=_pool(work),
            tokens=run / "tokens",
            tokenizer=artifacts.digest_of(run / "tokenizer"),
            fingerprint=read_index(run).fingerprint,
        ),
        settings=SelectConfig(),
        seed=SEED,
    )


def _copy_pool(work: Path) -> None:
    """Read the pool by pyarrow alone, and write as large a part as is selected."""
    files = sorted(Path((work / "pool.txt").read_text()).glob("*.parquet"))
    _copy(files, work / "copied", share=_share(work))


def _copy_selection(work: Path) -> None:
    """Copy the selection's files by pyarrow alone."""
    _copy(sorted((work / "run" / "selection").glob("part-*.parquet")), work / "copied", share=1.0)


def _copy(files: Sequence[Path], folder: Path, *, share: float) -> None:
    folder.mkdir()
    for path in files:
        with pq.ParquetFile(path) as file:
            columns = [name for name in _COLUMNS if name in file.schema_arrow.names]
            schema = pa.schema([file.schema_arrow.field(name) for name in columns])
            with pq.ParquetWriter(folder / path.name, schema, compression="zstd") as writer:
                for batch in file.iter_batches(columns=columns):
                    writer.write_batch(batch.slice(0, round(share * batch.num_rows)))


def _export(work: Path, to: str) -> None:
    """Export by this process alone."""
    export_selection(work / "run", work / "exported", ExportConfig(to=to), workers=0)


def _measure_here(measurement: str, work: Path) -> Figures:
    """Take one measurement in this process."""
    if measurement == "prepare":
        return _prepare(work)
    kind, _, to = measurement.partition(":")
    for folder in (work / "copied", work / "exported"):
        shutil.rmtree(folder, ignore_errors=True)
    if kind == "select":
        shutil.rmtree(work / "run" / "selection", ignore_errors=True)
    steps: Mapping[str, Callable[[], None]] = {
        "select": lambda: _select(work),
        "copy_pool": lambda: _copy_pool(work),
        "copy_selection": lambda: _copy_selection(work),
        "export": lambda: _export(work, to),
    }
    started, cpu = time.perf_counter(), time.process_time()
    steps[kind]()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    unit = 1 if sys.platform == "darwin" else 1024  # KiB on Linux, bytes on macOS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": peak}


def _run(measurement: str, work: Path) -> Figures:
    """Take one measurement in a process of its own, on one core and thread."""
    threads = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    command = [sys.executable, "-m", "benchmarks.export_throughput", "--measure", measurement]
    done = subprocess.run(
        [*command, "--work", str(work)],
        cwd=ROOT,
        env={**os.environ, **dict.fromkeys(threads, "1"), "TOKENIZERS_PARALLELISM": "false"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        preexec_fn=None if measurement == "prepare" else _hold_to_one_core,
    )
    if done.returncode != 0:
        raise SystemExit(f"measurement {measurement!r} failed with status {done.returncode}.")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def _hold_to_one_core() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


if __name__ == "__main__":
    main()
