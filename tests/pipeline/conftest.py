"""A tiny pool of made-up sentences, and the real command line run on it."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

WORDS: Mapping[str, str] = {
    "animals": "the cat saw a dog and the dog saw a bird that sang to the cat in the tree",
    "numbers": "one two three four five six seven eight nine ten plus minus equals less than",
    "code": "def return if else for in while x = y + z ( ) : print range len None True",
    "letters": "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi",
}
"""Domain to its words: four languages that have little in common."""
DOCUMENTS: Mapping[str, int] = {"animals": 120, "numbers": 80, "code": 40, "letters": 30}
TARGETS = ("code", "letters")
NOT_COMPARED = ("timing.json", ".lock")
"""What may differ between two makings of one run, besides logs."""


def documents(domain: str, n_documents: int, seed: int) -> list[dict[str, str]]:
    """Make up documents of 20 to 120 words."""
    rng = np.random.default_rng(seed)
    words = WORDS[domain].split()
    return [
        {
            "id": f"{domain}-{seed}-{number}",
            "text": " ".join(rng.choice(words, size=int(rng.integers(20, 120)))),
            "domain": domain,
        }
        for number in range(n_documents)
    ]


def tiny_quad(settings: dict[str, object]) -> dict[str, object]:
    """Turn the settings of a run into those of a tiny `run quad`."""
    for name in ("design", "search", "max_epochs", "domain_epochs", "fit"):
        settings.pop(name, None)
    proxy = cast(dict[str, object], settings["proxy"])
    proxy.update({"size": "0.03m", "repetition_matched": False})
    proxy.pop("min_subset_tokens", None)
    cast(dict[str, object], settings["validate"]).update({"n_seeds": 1, "size": "0.03m"})
    settings["target_tokens"] = 6000
    settings["base"] = {"n_tokens": 4096}
    settings["clusters"] = {
        "n_clusters": 6,
        "min_documents": 4,
        "embedding": {"n_dimensions": 8, "n_features": 1024},
    }
    settings["influence"] = {
        "factor_tokens": 600,
        "refine_tokens": 200,
        "reference_tokens": 400,
        "document_tokens": 32,
        "steps": 1,
    }
    settings["bandit"] = {"n_probes": 3, "n_arms": 2}
    settings["rivals"] = ["random", "top-influence"]
    return settings


def write_jsonl(path: Path, records: Sequence[Mapping[str, object]]) -> None:
    """Write records as JSON lines, compressed where the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(record) + "\n" for record in records).encode("utf-8")
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def write_parquet(path: Path, records: Sequence[Mapping[str, object]]) -> None:
    """Write records as a Parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([dict(record) for record in records]), path)


def write_source(root: Path) -> None:
    """Write the pool, Parquet and JSON lines mixed, and two target sets."""
    made = {
        name: documents(name, n, seed) for seed, (name, n) in enumerate(sorted(DOCUMENTS.items()))
    }
    write_parquet(root / "pool" / "animals.parquet", made["animals"])
    write_parquet(root / "pool" / "numbers.parquet", made["numbers"])
    write_jsonl(root / "pool" / "code.jsonl", made["code"])
    write_jsonl(root / "pool" / "letters.jsonl.gz", made["letters"])
    for seed, name in enumerate(TARGETS, start=100):
        write_jsonl(root / "targets" / f"{name}.jsonl", documents(name, 12, seed))


def tiny_settings(root: Path) -> dict[str, object]:
    """Return settings with which the whole chain takes seconds."""
    shape = {"context": 32, "batch_tokens": 512, "points": [0.5, 1.0]}
    measured = {"evaluation_tokens": 256, "domain_evaluation_tokens": 128}
    return {
        "pool": {"shards": [str(root / "pool")], "validation_share": 0.1},
        "targets": {
            "sets": {
                name: {"shards": [str(root / "targets" / f"{name}.jsonl")]} for name in TARGETS
            },
            "own_domains": {"code": ["code"]},
        },
        "target_tokens": 16_384,
        "tokens": {"vocabulary_size": 300, "sample_bytes": 50_000},
        "design": {"n_runs": 8, "oversample": 20},
        "proxy": {
            "n_tokens": 8_192,
            "learning_rate": 4e-3,
            "min_subset_tokens": 256,
            **shape,
            **measured,
        },
        "search": {"n_simulated": 2_000, "n_best": 32},
        "validate": {
            "size": "0.2m",
            "n_tokens": 8_192,
            "n_seeds": 2,
            "learning_rate": 4e-3,
            "points": [0.5, 1.0],
        },
    }


def write_config(path: Path, settings: Mapping[str, object]) -> Path:
    """Write settings as YAML."""
    path.write_text(yaml.safe_dump(dict(settings), sort_keys=False), encoding="utf-8")
    return path


def contents(folder: Path) -> dict[str, str]:
    """Return the digest of every file below a folder that every making of it must share."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in NOT_COMPARED and path.suffix != ".log"
    }


def start(*arguments: object) -> "subprocess.Popen[str]":
    """Start the command line as a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "cuvee", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"},
        start_new_session=True,
    )


@dataclass(frozen=True)
class TinyRun:
    """A finished run of the whole chain."""

    config: Path
    out: Path
    stdout: str
    seconds: float
    """How long it took."""
    contents: Mapping[str, str]
    """Digests of its files (`contents`)."""


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the pool and the targets."""
    root = tmp_path_factory.mktemp("source")
    write_source(root)
    return root


@pytest.fixture(scope="session")
def tiny_config(source: Path) -> Path:
    """The tiny config file."""
    return write_config(source / "tiny.yaml", tiny_settings(source))


@pytest.fixture(scope="session")
def finished(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """`cuvee run regmix` on the tiny pool, with two workers, to its end."""
    out = tmp_path_factory.mktemp("finished") / "out"
    started = time.perf_counter()
    process = start("run", "regmix", tiny_config, "--out", out, "--workers", 2, "-q")
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    return TinyRun(tiny_config, out, stdout, time.perf_counter() - started, contents(out))


@pytest.fixture
def settings(source: Path) -> dict[str, object]:
    """Settings of the tiny run, to be changed."""
    return tiny_settings(source)


@pytest.fixture(name="write_config")
def config_writer() -> Callable[[Path, Mapping[str, object]], Path]:
    """Give the function that writes settings as YAML."""
    return write_config


@pytest.fixture(name="contents", scope="session")
def digests() -> Callable[[Path], dict[str, str]]:
    """Give the function that digests what every making of a run must share."""
    return contents


@pytest.fixture(name="start", scope="session")
def starter() -> Callable[..., "subprocess.Popen[str]"]:
    """Give the function that starts the command line as a process group."""
    return start
