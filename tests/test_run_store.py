"""Tasks on nodes that see nothing of the run but a store: the same bytes, or one clear error."""

import json
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cuvee import artifacts
from cuvee.artifacts import Json
from cuvee.cli.options import hands
from cuvee.corpus.pool import PoolConfig
from cuvee.corpus.scan import scan_pool
from cuvee.corpus.store import TokenStore
from cuvee.corpus.tokens import TokensConfig, make_tokenizer, tokenise_pool
from cuvee.errors import ArtifactError, ConfigError, CuveeError, MissingDependencyError
from cuvee.executors import Task, run_tasks, running_on
from cuvee.export.exporter import ExportConfig
from cuvee.export.write import export_selection
from cuvee.policy.mixture import Mixture
from cuvee.policy.quality_curve import QualityCurve
from cuvee.proxy.stacking import StackChoice, shape_of
from cuvee.proxy.sweep import ProxyConfig, SweepInputs, train_all, training_spec
from cuvee.run_store import NODE_DIR, RunStore, perform
from cuvee.select.budget import SelectConfig, plan
from cuvee.select.copies_table import CopiesConfig, write_copies
from cuvee.select.label_files import LabelFiles
from cuvee.select.write import SelectionSource, write_selection

DOMAINS = ("letters", "numbers")
WORDS = {"letters": list("abcdefghijkl"), "numbers": ["one", "two", "three", "four"]}
PROXY = ProxyConfig(
    size="0.1m",
    n_tokens=4096,
    context=32,
    batch_tokens=512,
    domain_evaluation_tokens=256,
    repetition_matched=False,
    learning_rate=4e-3,
)


@dataclass(kw_only=True)
class NodesApart:
    """Nodes in this process: each with a folder of its own, and no sight of the run's."""

    through: RunStore
    nodes: Sequence[Path]
    n_gpus: int = 0
    orders: list[dict[str, Any]] = field(default_factory=list)
    made: list[dict[str, str]] = field(default_factory=list)

    def run(self, tasks: Sequence[Task], *, workers: int) -> Iterator[Task]:
        """Run tasks one after another, each on the next node."""
        orders = self.through.orders(tasks)
        for task in tasks:
            order = json.loads(json.dumps(orders.order(task)))
            node = self.nodes[len(self.orders) % len(self.nodes)]
            self.orders.append(order)
            self.made.append(self._on(node, order))
            self.through.receive(task, self.made[-1])
            yield task

    def _on(self, node: Path, order: dict[str, Any]) -> dict[str, str]:
        run, hidden = self.through.run, self.through.run.with_name("hidden")
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv(NODE_DIR, str(node))
            if run.exists():
                run.rename(hidden)
            try:
                return json.loads(json.dumps(perform(order)))  # type: ignore[no-any-return]
            finally:
                if hidden.exists():
                    hidden.rename(run)


def nodes_apart(folder: Path) -> NodesApart:
    """Return two nodes and a store, and the folder ``run`` beside them."""
    store = RunStore.open((folder / "store").as_uri(), folder / "run")
    return NodesApart(through=store, nodes=[folder / "node-1", folder / "node-2"])


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a pool that every node sees."""
    folder = tmp_path_factory.mktemp("pool")
    rng = np.random.default_rng(0)
    for domain in DOMAINS:
        lines = [
            json.dumps(
                {"id": f"{domain}-{n}", "text": " ".join(rng.choice(WORDS[domain], 150))}
                | {"domain": domain}
            )
            for n in range(60)
        ]
        (folder / f"{domain}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> LabelFiles:
    """Write a labelled pool of a few row groups."""
    rng, n = np.random.default_rng(0), 4000
    table = pa.table(
        {
            "id": [f"document-{number}" for number in range(n)],
            "domain": rng.choice(DOMAINS, n),
            "n_tokens": rng.integers(1, 1000, n).astype(np.int32),
            "edu": rng.normal(size=n).astype(np.float32),
        }
    )
    path = tmp_path_factory.mktemp("labels") / "labels.parquet"
    pq.write_table(table, path, row_group_size=n // 4)
    return LabelFiles(files=(str(path),), criteria=("edu",))


def make_tokens(out: Path, documents: Path, workers: int) -> TokenStore:
    """Scan and tokenise the pool."""
    index = scan_pool(
        PoolConfig(shards=(str(documents),), validation_share=0.2), out, seed=1, workers=workers
    )
    tokenizer = make_tokenizer(TokensConfig(vocabulary_size=300), index, out, seed=1)
    return tokenise_pool(index, out, tokenizer=tokenizer, workers=workers)


def train(out: Path, tokens: TokenStore, workers: int) -> None:
    """Train two runs alone and two as a stack."""
    inputs = SweepInputs(
        pool=out / "tokens",
        targets=None,
        statistics=tokens.statistics(),
        target_tokens=100_000,
        precision="float32",
        device="cpu",
        step="explicit",
    )
    specs = {
        f"{number:02d}": training_spec(
            PROXY,
            inputs,
            Mixture.flat(DOMAINS, (share, 1.0 - share)),
            seed=1,
            run_seed=number,
            learning_rate=4e-3,
        )
        for number, share in enumerate((0.1, 0.4, 0.6, 0.9))
    }
    train_all({name: specs[name] for name in ("00", "01")}, out / "sweep", workers=workers)
    stack = {name: specs[name] for name in ("02", "03")}
    choice = {shape_of(specs["02"]): StackChoice(members=2, compiled=False)}
    train_all(stack, out / "sweep", workers=workers, stacks=choice)


def ship(out: Path, documents: Path, tokens: TokenStore, workers: int) -> None:
    """Write a selection and export it."""
    mixture = Mixture.flat(DOMAINS, (0.3, 0.7))
    write_selection(
        out / "selection",
        mixture,
        plan(mixture, tokens.statistics(), n_tokens=8000, max_epochs=9.0),
        source=SelectionSource(
            pool=PoolConfig(shards=(str(documents),)),
            tokens=out / "tokens",
            tokenizer=artifacts.digest_of(out / "tokenizer"),
            fingerprint="f",
        ),
        settings=SelectConfig(shard_bytes=8 << 10),
        seed=1,
        workers=workers,
    )
    config = ExportConfig(to="olmo", context=32, root="/data")
    export_selection(out, out / "export" / "olmo", config, workers=workers)


def draw(out: Path, labels: LabelFiles, workers: int) -> None:
    """Draw copies in passes over label files."""
    curve = QualityCurve(
        domains=DOMAINS,
        criteria=("edu",),
        merge=np.ones((2, 1)),
        steepness=np.array([20.0, 2.0]),
        threshold=np.array([0.3, 0.6]),
        exponent=np.array([1.0, 0.5]),
        base=np.array([0.01, 0.0]),
    )
    settings = CopiesConfig(in_memory_rows=0)
    write_copies(out, [curve], labels=labels, settings=settings, seed=3, workers=workers)


def digests(out: Path) -> dict[str, str]:
    """Return the digests of all artefacts."""
    return {
        mark.parent.relative_to(out).as_posix(): mark.read_text(encoding="utf-8")
        for mark in sorted(out.rglob(artifacts.DONE))
    }


def test_all_kinds_of_tasks_leave_the_bytes_of_a_local_run(
    documents: Path, labels: LabelFiles, tmp_path: Path
) -> None:
    """No task reads what its spec does not name, and no path gets into an artefact."""
    here, cluster = tmp_path / "here", nodes_apart(tmp_path)
    there = cluster.through.run
    for out, workers in ((here, 0), (there, 2)):
        with running_on(cluster):
            tokens = make_tokens(out, documents, workers)
            train(out, tokens, workers)
            ship(out, documents, tokens, workers)
            draw(out / "copies", labels, workers)
    assert digests(there) == digests(here)
    assert {"corpus/scan", "tokens", "sweep", "export", "copies"} <= {
        name if name in ("tokens", "copies") else name.rpartition("/")[0] for name in digests(here)
    }
    functions = {order["function"].partition(":")[2] for order in cluster.orders}
    assert functions == {
        *("scan_shard", "tokenise_shard", "train_proxy", "train_stack", "make_piece"),
        *("scatter_copies", "write_shard", "count_scores", "count_tokens", "draw_part"),
    }
    assert not list(tmp_path.glob("node-*/work/*"))
    assert not list(tmp_path.rglob("*.partial"))
