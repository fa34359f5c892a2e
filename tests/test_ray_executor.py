"""Tasks on a Ray cluster of three nodes: what is lost is done again, and nothing else changes."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cuvee import artifacts, executors, ray_executor
from cuvee.cli.options import hands
from cuvee.corpus.pool import PoolConfig
from cuvee.corpus.scan import scan_pool
from cuvee.corpus.store import TokenStore
from cuvee.corpus.tokens import TokensConfig, make_tokenizer, tokenise_pool
from cuvee.errors import ArtifactError, ConfigError, DataError, MissingDependencyError
from cuvee.executors import Task, run_tasks
from cuvee.policy.mixture import Mixture
from cuvee.policy.quality_curve import QualityCurve
from cuvee.proxy.machine import choose_device, stack_devices
from cuvee.proxy.spec import TrainingSpec
from cuvee.proxy.sweep import ProxyConfig, SweepInputs, train_all, training_spec
from cuvee.ray_executor import RayCluster, on_ray
from cuvee.run_store import NODE_DIR, RunStore
from cuvee.select import copies_table
from cuvee.select.budget import SelectConfig, plan
from cuvee.select.copies_table import CopiesConfig, write_copies
from cuvee.select.label_files import LabelFiles
from cuvee.select.write import SelectionSource, write_selection

PATIENCE = 60.0
"""Seconds to wait for what takes a few on an idle machine."""
DOMAINS = ("letters", "numbers")
QUICK_TO_NOTICE = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 3,
}
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
PROXY = ProxyConfig(
    size="0.1m",
    n_tokens=16_384,
    context=32,
    batch_tokens=512,
    points=(0.5, 1.0),
    domain_evaluation_tokens=256,
    repetition_matched=False,
    learning_rate=4e-3,
)


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder below which each node has one for its copies."""
    return tmp_path_factory.mktemp("nodes")


@pytest.fixture(scope="module")
def nodes(copies: Path) -> Iterator[Any]:
    """Give three nodes on this machine, a processor each."""
    pytest.importorskip("ray", reason="the extra cuvee[ray]")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(NODE_DIR, str(copies / "0"))
        cluster = Cluster(
            initialize_head=True, head_node_args={**NODE, "_system_config": QUICK_TO_NOTICE}
        )
        for number in (1, 2):
            cluster.add_node(**NODE, env_vars={NODE_DIR: str(copies / str(number))})
        yield cluster
        cluster.shutdown()


@pytest.fixture(scope="module")
def ray(nodes: Any) -> Iterator[RayCluster]:
    """Connect to them, as ``--executor ray:HOST:PORT`` does."""
    with on_ray(nodes.address) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainingSpec]:
    """Describe a small sweep on a real token store."""
    folder = tmp_path_factory.mktemp("run")
    shards = folder / "pool"
    shards.mkdir()
    rng = np.random.default_rng(0)
    words = {"letters": list("abcdefghijkl"), "numbers": ["one", "two", "three", "four"]}
    for domain in DOMAINS:
        rows = (
            {
                "id": f"{domain}-{n}",
                "text": " ".join(rng.choice(words[domain], 150)),
                "domain": domain,
            }
            for n in range(60)
        )
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (shards / f"{domain}.jsonl").write_text(lines, encoding="utf-8")
    index = scan_pool(
        PoolConfig(shards=(str(shards),), validation_share=0.2), folder, seed=1, workers=0
    )
    tokenizer = make_tokenizer(TokensConfig(vocabulary_size=300), index, folder, seed=1)
    tokenise_pool(index, folder, tokenizer=tokenizer, workers=0)
    inputs = SweepInputs(
        pool=folder / "tokens",
        targets=None,
        statistics=TokenStore.open(folder / "tokens").statistics(),
        target_tokens=100_000,
        precision="float32",
        device="cpu",
        step="explicit",
    )
    return {
        f"{number:02d}": training_spec(
            PROXY,
            inputs,
            Mixture.flat(DOMAINS, (share, 1.0 - share)),
            seed=1,
            run_seed=number,
            learning_rate=4e-3,
        )
        for number, share in enumerate(np.linspace(0.1, 0.9, 7).tolist())
    }


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> LabelFiles:
    """Write a labelled pool of a few row groups."""
    rng, n = np.random.default_rng(0), 60_000
    table = pa.table(
        {
            "id": [f"document-{number}" for number in range(n)],
            "domain": rng.choice(DOMAINS, n),
            "n_tokens": rng.integers(1, 1000, n).astype(np.int32),
            "edu": rng.normal(size=n).astype(np.float32),
        }
    )
    path = tmp_path_factory.mktemp("labels") / "labels.parquet"
    pq.write_table(table, path, row_group_size=n // 8)
    return LabelFiles(files=(str(path),), criteria=("edu",))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SelectionSource:
    """Scan and tokenise a pool of a dozen shards of some megabytes."""
    folder = tmp_path_factory.mktemp("selected")
    rng = np.random.default_rng(0)
    words = np.array(["alpha", "beta", "gamma", "delta", "one", "two", "three", "four"])
    (folder / "pool").mkdir()
    for number in range(12):
        texts = [" ".join(row) for row in rng.choice(words, (4_000, 100)).tolist()]
        rows = {
            "id": [f"{number}-{row}" for row in range(len(texts))],
            "text": texts,
            "domain": rng.choice(DOMAINS, len(texts)),
        }
        pq.write_table(pa.table(rows), folder / "pool" / f"{number:02d}.parquet")
    pool = PoolConfig(shards=(str(folder / "pool"),), validation_share=0.1)
    index = scan_pool(pool, folder, seed=1, workers=0)
    tokenizer = make_tokenizer(TokensConfig(vocabulary_size=300), index, folder, seed=1)
    tokenise_pool(index, folder, tokenizer=tokenizer, workers=0)
    return SelectionSource(
        pool=pool,
        tokens=folder / "tokens",
        tokenizer=artifacts.digest_of(tokenizer),
        fingerprint=index.fingerprint,
    )


def workers_at(function: str) -> list[psutil.Process]:
    """Find the worker processes that run a function now; Ray gives them the task's name."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if child.cmdline()[:1] and f"ray::{function}" in child.cmdline()[0]:
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


@contextmanager
def losses(nodes: Any, function: str) -> Iterator[Callable[..., None]]:
    """Give a callback whose first call takes away a node, then two workers at a function.

    Afterwards another node stands in the place of the lost one.
    """
    killed: set[int] = set()

    def kill() -> None:
        end = time.monotonic() + PATIENCE
        while len(killed) < 2 and time.monotonic() < end:
            for worker in workers_at(function)[:1]:
                if worker.pid not in killed:
                    worker.kill()
                    killed.add(worker.pid)
            time.sleep(0.1)

    killer = threading.Thread(target=kill)

    def lose() -> None:
        if killer.ident is None:
            nodes.remove_node(nodes.list_all_nodes()[-1], allow_graceful=False)
            killer.start()

    yield lose
    killer.join()
    assert len(killed) == 2
    nodes.add_node(**NODE)
    nodes.wait_for_nodes()


def digests(folder: Path, names: Sequence[str]) -> list[str]:
    """Return the digests of finished folders."""
    return [artifacts.digest_of(folder / name) for name in names]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
def test_a_sweep_survives_a_node_and_two_workers(
    specs: dict[str, TrainingSpec], nodes: Any, ray: RayCluster, tmp_path: Path
) -> None:
    """Every run is there in the end, with the bytes of a sweep in this process."""
    done: list[str] = []
    with losses(nodes, "cuvee.proxy.train:train_proxy") as lose:
        train_all(
            specs,
            tmp_path / "ray",
            workers=3,
            on_done=lambda name: (done.append(name), lose()),  # type: ignore[func-returns-value]
        )
    assert sorted(done) == sorted(specs)
    train_all(specs, tmp_path / "local", workers=0)
    assert digests(tmp_path / "ray", list(specs)) == digests(tmp_path / "local", list(specs))
    assert sorted(path.name for path in (tmp_path / "ray").iterdir()) == sorted(specs)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
def test_nodes_that_share_only_a_store(
    specs: dict[str, TrainingSpec], nodes: Any, ray: RayCluster, copies: Path, tmp_path: Path
) -> None:
    """A sweep on their own copies, a node and two workers lost, has the bytes of a local one."""
    pool = Path(specs["00"].pool)
    store = RunStore.open((tmp_path / "store").as_uri(), pool.parent)
    there = pool.parent / "sweep"
    with (
        losses(nodes, "cuvee.proxy.train:train_proxy") as lose,
        on_ray(nodes.address, store=store),
    ):
        train_all(specs, there, workers=3, on_done=lambda name: lose())
    train_all(specs, tmp_path / "local", workers=0)
    assert digests(there, list(specs)) == digests(tmp_path / "local", list(specs))
    read = artifacts.digest_of(pool)
    found = [path.read_text(encoding="utf-8").strip() for path in copies.glob("*/inputs/*/*/done")]
    assert len(found) >= 2
    assert set(found) == {read}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
def test_a_selection_survives_a_node_and_two_workers(
    source: SelectionSource, nodes: Any, ray: RayCluster, tmp_path: Path
) -> None:
    """Text is read and written by tasks of three nodes to the bytes of this process's."""
    mixture = Mixture.flat(DOMAINS, (0.7, 0.3))
    store = TokenStore.open(source.tokens).statistics()

    def choose(folder: Path, workers: int, on_task: Callable[..., None]) -> str:
        write_selection(
            folder,
            mixture,
            plan(mixture, store, n_tokens=int(0.5 * store.n_tokens.sum()), max_epochs=1e9),
            source=source,
            settings=SelectConfig(shard_bytes=1 << 20),
            seed=1,
            workers=workers,
            on_progress=lambda step, n_done, total: on_task() if n_done else None,
        )
        return artifacts.digest_of(folder)

    with losses(nodes, "cuvee.select.shard_tasks:") as lose:
        made = choose(tmp_path / "ray", 3, lose)
    assert made == choose(tmp_path / "local", 0, lambda: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["local", "ray"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
def test_copies_survive_a_node_and_two_workers(
    labels: LabelFiles,
    nodes: Any,
    ray: RayCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The copies drawn have the bytes of those drawn in this process."""
    monkeypatch.setattr(copies_table, "_n_parts", lambda n_rows: 8)
    curve = QualityCurve(
        domains=DOMAINS,
        criteria=("edu",),
        merge=np.ones((2, 1)),
        steepness=np.array([20.0, 2.0]),
        threshold=np.array([0.3, 0.6]),
        exponent=np.array([1.0, 0.5]),
        base=np.array([0.01, 0.0]),
    )

    def draw(folder: Path, workers: int, on_part: Callable[..., None]) -> str:
        write_copies(
            folder,
            [curve],
            labels=labels,
            settings=CopiesConfig(in_memory_rows=0),
            seed=3,
            workers=workers,
            on_progress=lambda name, n_done, total: on_part() if n_done > 1 else None,
        )
        return artifacts.digest_of(folder)

    with losses(nodes, "cuvee.select.copies_passes:") as lose:
        made = draw(tmp_path / "ray", 3, lose)
    assert made == draw(tmp_path / "local", 0, lambda: None)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
def test_errors_of_tasks_and_nodes_arrive_as_they_are(
    ray: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task's own error is raised; a node without the folder is named, as are missing GPUs."""
    spec = {"shard": {"name": "x", "url": str(tmp_path / "gone.jsonl"), "n_bytes": 1}}
    missing = Task(
        function="cuvee.corpus.scan:scan_shard",
        spec={**spec, "config": {"shards": ["x"]}},
        folder=tmp_path / "out" / "x",
    )
    with pytest.raises((DataError, ConfigError)):
        list(run_tasks([missing], workers=1))
    assert not (tmp_path / "out").exists()
    on_card = Task(function="cuvee.x:y", spec={}, folder=tmp_path / "y", device="cuda:0")
    with pytest.raises(ConfigError, match="no node of the Ray cluster has one"):
        list(run_tasks([on_card], workers=1))

    @contextmanager
    def elsewhere(folder: Path) -> Iterator[str]:
        yield "a word that is not in the file the node finds"

    monkeypatch.setattr(ray_executor, "_marked", elsewhere)
    with pytest.raises(ArtifactError, match=r"does not see .*that all nodes share"):
        list(run_tasks([missing], workers=1))


def test_what_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray not installed, and executors that do not exist or cannot do as asked."""
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "ray", None)
        with pytest.raises(MissingDependencyError, match=r"pip install 'cuvee\[ray\]'"), on_ray():
            pass
    for executor in ("slurm", "ray:", "local:2"):
        with pytest.raises(ConfigError, match="is unknown; give local, ray"), hands(executor, None):
            pass
    with pytest.raises(ConfigError, match="leave one of them out"), hands("ray", 0):
        pass
    with hands("local", 3) as n:
        assert n == 3


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999", "nowhere"])
def test_an_address_without_a_cluster(address: str) -> None:
    """It is found out at once, not after Ray's minute."""
    with pytest.raises(ConfigError, match=rf"no Ray cluster at {address} \("):
        ray_executor._connect(None, address, None)


def test_on_a_cluster_its_gpus_count(tmp_path: Path) -> None:
    """A machine without a card may lead a sweep on cards; a stack takes a whole one."""

    class Cards:
        """Has GPUs and does nothing."""

        def __init__(self, n_gpus: int) -> None:
            self.n_gpus = n_gpus

        def run(self, tasks: Sequence[Task], *, workers: int) -> Iterator[Task]:
            """Call every task done."""
            yield from tasks

    before = executors.cluster_gpus()
    with executors.running_on(Cards(2)):
        assert choose_device("auto") == "cuda"
        assert stack_devices(choose_device("cuda")) == ("cuda:0", "cuda:0")
        with pytest.raises(ConfigError, match="'cuda:1' cannot be used on a cluster with 2 GPUs"):
            choose_device("cuda:1")
        task = Task(function="cuvee.x:y", spec={}, folder=tmp_path / "x")
        assert list(run_tasks([task], workers=1)) == [task]
    with executors.running_on(Cards(0)):
        assert choose_device("auto") == "cpu"
    assert executors.cluster_gpus() == before
