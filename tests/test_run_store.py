"""Tasks on nodes that see nothing of the run but a store: the same bytes, or one clear error."""

import errno
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import fsspec.implementations.memory
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cuvee import artifacts, executors
from cuvee.artifacts import Json
from cuvee.cli.options import hands
from cuvee.corpus.encoder import train_tokenizer
from cuvee.corpus.overlap import OverlapConfig, find_overlap
from cuvee.corpus.pool import PoolConfig
from cuvee.corpus.scan import scan_pool
from cuvee.corpus.store import TokenStore
from cuvee.corpus.tokens import TokensConfig, make_tokenizer, tokenise_pool
from cuvee.errors import ArtifactError, ConfigError, CuveeError, MissingDependencyError
from cuvee.executors import Task, run_tasks, running_on
from cuvee.export.exporter import ExportConfig
from cuvee.export.write import export_selection
from cuvee.labels.domain_cells import DomainColumns, write_domain_column
from cuvee.labels.passes import LabelPass, run_pass
from cuvee.policy.mixture import Mixture
from cuvee.policy.quality_curve import QualityCurve
from cuvee.proxy.stacking import StackChoice, shape_of
from cuvee.proxy.sweep import ProxyConfig, SweepInputs, train_all, training_spec
from cuvee.run_store import NODE_DIR, RunStore, node_folder, perform
from cuvee.select.budget import SelectConfig, plan
from cuvee.select.copies_table import CopiesConfig, write_copies
from cuvee.select.label_files import LabelFiles
from cuvee.select.write import SelectionSource, write_selection

DOMAINS = ("letters", "numbers")
WORDS = {"letters": list("abcdefghijkl"), "numbers": ["one", "two", "three", "four"]}
PROXY = ProxyConfig(
    size="0.1m",
    n_tokens=1024,
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
    given = documents.with_name("model.json")
    given.write_text(train_tokenizer(["one two"], vocabulary_size=257), encoding="utf-8")
    config = ExportConfig(to="megatron", context=32, root="/data", tokenizer=str(given))
    export_selection(out, out / "export" / "megatron", config, workers=workers)


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
    assert not any("model.json" in json.dumps(order) for order in cluster.orders)
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


def test_label_columns_and_overlap_leave_the_bytes_of_a_local_run(
    documents: Path, tmp_path: Path
) -> None:
    """Their tasks name all they read too, and read copies of it."""
    here, cluster = tmp_path / "here", nodes_apart(tmp_path)
    there = cluster.through.run
    pool = PoolConfig(shards=(str(documents),), validation_share=0.2)
    targets = {"letters": PoolConfig(shards=(str(documents / "letters.jsonl"),))}
    for out, workers in ((here, 0), (there, 2)):
        with running_on(cluster):
            index = scan_pool(pool, out, seed=1, workers=workers)
            job = LabelPass(
                column="edu", scorer="heuristics", model=None, shards=index.shards, pool=pool
            )
            scores = run_pass(job, out, workers=workers)
            columns = DomainColumns(
                scan=out / "corpus" / "scan", shards=index.shards, scores=scores, n_cells=2
            )
            cells = write_domain_column(columns, out, workers=workers)
            scan_pool(pool, out / "named", seed=1, workers=workers, labels=cells)
            overlap = OverlapConfig(n=5, shortest=5)
            find_overlap(pool, targets, out / "overlap", settings=overlap, workers=workers)
    assert digests(there) == digests(here)
    functions = {order["function"].partition(":")[2] for order in cluster.orders}
    assert functions == {"scan_shard", "label_shard", "name_shard", "overlap_shard"}


def scan(out: Path, documents: Path) -> None:
    """Scan the pool in tasks."""
    pool = PoolConfig(shards=(str(documents),), validation_share=0.2)
    scan_pool(pool, out, seed=1, workers=1)


def task_reading(run: Path, *, name: str = "scored", **spec: Json) -> Task:
    """Return a task that scores a shard by a model, a file of the run's, given in its spec."""
    return Task(
        function="cuvee.labels.passes:label_shard",
        spec={
            "shard": {"index": 0, "url": "", "name": "s", "format": "jsonl", "n_bytes": 1},
            "config": {"shards": ["x"]},
            "scorer": "heuristics",
            "model": None,
            "digest": "",
            "options": {},
            **spec,
        },
        folder=run / "labels" / name,
    )


def shard(documents: Path) -> dict[str, Json]:
    """Return a shard of the pool as plain data."""
    url = str(documents / "letters.jsonl")
    return {"index": 0, "url": url, "name": "letters", "format": "jsonl", "n_bytes": 1}


def test_a_command_that_was_killed_goes_on(documents: Path, tmp_path: Path) -> None:
    """Killed after a task, and again while files go up; what the store has is not sent again."""
    cluster = nodes_apart(tmp_path)
    out = cluster.through.run
    pool = PoolConfig(shards=(str(documents),), validation_share=0.2)

    def stop(n_done: int, total: int) -> None:
        raise KeyboardInterrupt

    with running_on(cluster), pytest.raises(KeyboardInterrupt):
        scan_pool(pool, out, seed=1, workers=1, on_progress=stop)
    with running_on(cluster):
        index = scan_pool(pool, out, seed=1, workers=1)
        tokenizer = make_tokenizer(TokensConfig(vocabulary_size=300), index, out, seed=1)
        written = 0

        def cut(*arguments: Any) -> None:
            nonlocal written
            written += 1
            if written == 2:
                raise KeyboardInterrupt

        objects = tmp_path / "store" / "objects"
        before = set(objects.rglob("*"))
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(fsspec.implementations.local.LocalFileSystem, "mv", cut)
            with pytest.raises(KeyboardInterrupt):
                tokenise_pool(index, out, tokenizer=tokenizer, workers=1)
        assert all(
            len(path.name) > 64 for path in set(objects.rglob("*")) - before if path.is_file()
        )
        tokenise_pool(index, out, tokenizer=tokenizer, workers=1)
    make_tokens(tmp_path / "here", documents, 0)
    assert digests(out) == digests(tmp_path / "here")
    assert len(cluster.made) == 4


def test_half_an_object_is_written_again(tmp_path: Path) -> None:
    """Where writes can be cut off, an object without its tree counts only at its full size."""
    through = nodes_apart(tmp_path).through
    path = tmp_path / "model"
    path.write_text("a model", encoding="utf-8")
    own = artifacts.digest_file(path)
    place = tmp_path / "store" / "objects" / own[:2] / own
    place.parent.mkdir(parents=True)
    place.write_text("a mo", encoding="utf-8")
    tree = through.store.put({"model": (path, own)})
    assert place.read_text(encoding="utf-8") == "a model"
    assert through.store.get(tree, tmp_path / "copy") == {"model": own}
    assert (tmp_path / "copy" / "model").read_text(encoding="utf-8") == "a model"


def test_objects_of_a_store_of_whole_writes(tmp_path: Path) -> None:
    """There nothing is written aside and renamed, which would cost a copy."""
    through = RunStore.open("memory://bucket/run", tmp_path / "run")
    (tmp_path / "a").write_bytes(b"1")
    own = artifacts.digest_file(tmp_path / "a")
    tree = through.store.put({"below/a": (tmp_path / "a", own)})
    through.store.get(tree, tmp_path / "copy")
    assert (tmp_path / "copy" / "below" / "a").read_bytes() == b"1"
    found = through.store.filesystem.find("/bucket/run")
    assert sorted(Path(name).name for name in found) == sorted([own, tree, "cuvee-store"])


def test_damage_is_noticed(documents: Path, tmp_path: Path) -> None:
    """An object that is another, or gone; and a file that changed since it was finished."""
    cluster = nodes_apart(tmp_path)
    out = cluster.through.run
    out.mkdir()
    model = out / "model.bin"
    model.write_text("a model", encoding="utf-8")
    task = task_reading(out, model=str(model), shard=shard(documents))
    own = artifacts.digest_file(model)
    place = tmp_path / "store" / "objects" / own[:2] / own
    with running_on(cluster):
        cluster.through.orders([task]).order(task)
        place.write_text("a m0del", encoding="utf-8")
        with pytest.raises(ArtifactError, match=r"is damaged: it is not the model\.bin .*; empty"):
            list(run_tasks([task], workers=1))
        place.unlink()
        with pytest.raises(
            ArtifactError, match=r"misses an object of the store .*; if it does, em"
        ):
            list(run_tasks([task], workers=1))
    (place.parent.parent).rename(tmp_path / "emptied")
    with running_on(cluster):
        list(run_tasks([task], workers=1))
    text = (tmp_path / "store" / "objects" / own[:2] / own).read_text(encoding="utf-8")
    assert text == "a model"
    scored = task.folder / "scores.parquet"
    scored.write_bytes(b"0")
    other = task_reading(out, name="other", shard=shard(documents), model=str(scored))
    (tmp_path / "store" / "objects").rename(tmp_path / "emptied-again")
    with running_on(cluster), pytest.raises(ArtifactError, match="changed since it was finished"):
        list(run_tasks([other], workers=1))


def test_what_comes_back_is_checked(documents: Path, tmp_path: Path) -> None:
    """A folder that is not what its manifest says does not get into the run's folder."""
    cluster = nodes_apart(tmp_path)
    out = cluster.through.run
    task = task_reading(out, shard=shard(documents))
    with running_on(cluster):
        list(run_tasks([task], workers=1))
    folder = tmp_path / "made"
    cluster.through.store.get(cluster.made[0][""], folder)
    manifest = json.loads((folder / artifacts.MANIFEST).read_text(encoding="utf-8"))
    manifest["seed"] = 1
    artifacts.write_json(folder / artifacts.MANIFEST, manifest)
    files = {path.name: (path, artifacts.digest_file(path)) for path in folder.iterdir()}
    made = {"": cluster.through.store.put(files)}
    other = task_reading(out, name="other")
    with pytest.raises(ArtifactError, match="is not what its manifest says; run the same command"):
        cluster.through.receive(other, made)
    assert [path.name for path in (out / "labels").iterdir()] == ["scored"]


def test_inputs_that_no_node_can_find(documents: Path, tmp_path: Path) -> None:
    """Documents in the run's folder, relative paths, and paths that would get into an artefact."""
    cluster = nodes_apart(tmp_path)
    out = cluster.through.run
    own = out / "pool" / "letters.jsonl"
    own.parent.mkdir(parents=True)
    own.write_bytes((documents / "letters.jsonl").read_bytes())
    with running_on(cluster):
        with pytest.raises(
            ConfigError, match=r"letters\.jsonl holds documents .* outside of --out"
        ):
            scan(out, own.parent)
        with pytest.MonkeyPatch.context() as patched:
            patched.chdir(documents.parent)
            for model in (f"{documents.name}/letters.jsonl", documents.name):
                with pytest.raises(ConfigError, match=f"reads '{model}', a path of the folder"):
                    list(run_tasks([task_reading(out, model=model)], workers=1))
        task = task_reading(out, shard=shard(documents), options={"path": str(own)})
        with pytest.raises(ArtifactError, match="scored names a file of the run's folder in its"):
            list(run_tasks([task], workers=1))
    assert not (out / "labels").exists()


def test_relative_folders_are_found(documents: Path, tmp_path: Path) -> None:
    """A run's folder given by its name alone; a folder of the name of a domain is no input."""
    (tmp_path / "letters").mkdir()
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tmp_path)
        cluster = nodes_apart(tmp_path)
        cluster.through = RunStore.open((tmp_path / "store").as_uri(), Path("run"))
        with running_on(cluster):
            make_tokens(Path("run"), documents, 1)
        inputs = [sorted(order["inputs"]) for order in cluster.orders]
    make_tokens(tmp_path / "here", documents, 0)
    assert digests(tmp_path / "run") == digests(tmp_path / "here")
    shards = [
        f"run/corpus/index/documents/0000{n}-{name}.parquet" for n, name in enumerate(DOMAINS)
    ]
    tokenizer = "run/tokenizer/tokenizer.json"
    assert sorted(inputs) == [[], [], *([one, tokenizer] for one in shards)]


def test_names_that_are_paths_too(tmp_path: Path) -> None:
    """Domains, columns and sides may be called like files that stand where the command starts."""
    (tmp_path / "pool").mkdir()
    lines = [
        json.dumps({"id": f"{n}-{domain}", "text": f"{n} one two three", "domain": domain})
        for n in range(40)
        for domain in ("letters", "run/corpus", "web/en")
    ]
    (tmp_path / "pool" / "all.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "web" / "en").mkdir(parents=True)
    for name in ("letters", "text", "train", "jsonl"):
        (tmp_path / name).touch()
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tmp_path)
        cluster = nodes_apart(tmp_path)
        cluster.through = RunStore.open((tmp_path / "store").as_uri(), Path("run"))
        with running_on(cluster):
            make_tokens(Path("run"), tmp_path / "pool", 1)
    make_tokens(tmp_path / "here", tmp_path / "pool", 0)
    assert digests(tmp_path / "run") == digests(tmp_path / "here")


@pytest.mark.parametrize("name", ["../../outside", "/outside", "a/../../outside", "", "a//b", "."])
def test_names_in_a_store_do_not_lead_out_of_a_folder(tmp_path: Path, name: str) -> None:
    """A list of files that somebody else put into the store is refused."""
    store = nodes_apart(tmp_path).through.store
    path = tmp_path / "file"
    path.write_text("text", encoding="utf-8")
    name = str(tmp_path / "outside") if name.startswith("/") else name
    tree = store.put({name: (path, artifacts.digest_file(path))})
    with pytest.raises(ArtifactError, match=f"{tree} is no list of files of a folder; empty"):
        store.get(tree, tmp_path / "below" / "copy")
    assert not (tmp_path / "outside").exists()
    assert not (tmp_path / "below").exists()


def test_lists_in_a_store_hold_digests(tmp_path: Path) -> None:
    """What stands for a digest in a list of files is not used as a path."""
    store = nodes_apart(tmp_path).through.store
    for own in ("../../secret", 1, None):
        listed: dict[str, Json] = {"a": own}
        tree = artifacts.digest_json(listed)
        store.filesystem.makedirs(f"{store.root}/objects/{tree[:2]}", exist_ok=True)
        place = f"{store.root}/objects/{tree[:2]}/{tree}"
        store.filesystem.pipe_file(place, artifacts.canonical_json(listed).encode())
        with pytest.raises(ArtifactError, match="is no list of files of a folder; empty"):
            store.get(tree, tmp_path / "copy")


class HostedFiles(fsspec.implementations.memory.MemoryFileSystem):  # type: ignore[misc]
    """Files of a machine that the URL names, as of sftp:// and abfs://."""

    protocol = "hosted"

    def __init__(self, host: str, **options: Any) -> None:
        """Remember the machine."""
        super().__init__(**options)
        self.host = host

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.partition("://")[2].partition("/")[2] if "://" in path else path

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, str]:
        return {"host": path.partition("://")[2].partition("/")[0].rpartition("@")[2]}


def test_nodes_open_the_machine_that_the_url_names(tmp_path: Path) -> None:
    """File systems drop the machine's name from a path; a message has no password."""
    fsspec.register_implementation("hosted", HostedFiles, clobber=True)
    through = RunStore.open("hosted://me:secret@server/run", tmp_path / "run")
    task = task_reading(tmp_path / "run", shard={})
    order = through.orders([task]).order(task)
    opened = type(through.store).open(str(order["store"]))
    assert (opened.filesystem.host, opened.root) == ("server", "/run")
    with pytest.raises(ArtifactError, match="misses an object") as raised:
        opened.get("0" * 64, tmp_path / "copy")
    assert "hosted://server/run" in str(raised.value)
    assert "secret" not in str(raised.value)
    with pytest.raises(ConfigError, match="nope://server/run' is no URL") as refused:
        RunStore.open("nope://me:secret@server/run", tmp_path / "run")
    assert "secret" not in str(refused.value)


def test_an_error_on_a_node_names_the_files_of_the_run(documents: Path, tmp_path: Path) -> None:
    """The node's own copy is not what can be mended."""
    cluster = nodes_apart(tmp_path)
    model = cluster.through.run / "model.json"
    model.parent.mkdir()
    model.write_text("{", encoding="utf-8")
    task = task_reading(
        cluster.through.run, model=str(model), scorer="classifier", shard=shard(documents)
    )
    with running_on(cluster), pytest.raises(CuveeError) as raised:
        list(run_tasks([task], workers=1))
    assert str(model) in str(raised.value)
    assert "node-1" not in str(raised.value)


def test_stores_that_cannot_be_used(tmp_path: Path) -> None:
    """Each is refused in one line before anything is done."""
    run = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"'nope://x' is no URL that fsspec knows"):
        RunStore.open("nope://x", run)
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, "s3fs", None)
        with pytest.raises(MissingDependencyError, match=r"cannot read s3:// \(.*s3fs"):
            RunStore.open("s3://bucket/run", run)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/store cannot be written and read from .*Correct"):
        RunStore.open((tmp_path / "file" / "store").as_uri(), run)
    with pytest.raises(ConfigError, match=r"--out \. has no name, and --store needs one"):
        RunStore.open(tmp_path.as_uri(), Path())
    with pytest.raises(ConfigError, match="--store is empty; give a URL"):
        RunStore.open("", run)
    with pytest.raises(ConfigError, match="--store is for --executor ray"):
        hands("local", 1, store=tmp_path.as_uri(), run=run).__enter__()


def test_workers_of_a_node_fetch_once(documents: Path, tmp_path: Path) -> None:
    """While one of them fetches an input, the others wait for it."""
    cluster = nodes_apart(tmp_path)
    out = cluster.through.run
    out.mkdir()
    (out / "model.bin").write_text("a model", encoding="utf-8")
    tasks = [
        task_reading(out, name=f"{n}", model=str(out / "model.bin"), shard=shard(documents))
        for n in range(4)
    ]
    orders = cluster.through.orders(tasks)
    sent = [orders.order(task) for task in tasks]
    fetched, start = [], threading.Barrier(4)
    get = type(cluster.through.store).get

    def counted(store: Any, digest: str, folder: Path) -> dict[str, str]:
        fetched.append(digest)
        return get(store, digest, folder)

    def work(order: dict[str, Json]) -> dict[str, str]:
        start.wait()
        return perform(order)

    with pytest.MonkeyPatch.context() as patched, ThreadPoolExecutor(4) as pool:
        patched.setenv(NODE_DIR, str(tmp_path / "node"))
        patched.setattr(type(cluster.through.store), "get", counted)
        made = list(pool.map(work, sent))
    assert len(fetched) == 1
    assert made == [made[0]] * 4


def test_what_a_lost_worker_has_left_is_removed(documents: Path, tmp_path: Path) -> None:
    """The next task of the node makes room, but leaves alone what another worker is making."""
    cluster = nodes_apart(tmp_path)
    tasks = [task_reading(cluster.through.run, name=one, shard=shard(documents)) for one in "ab"]
    orders = cluster.through.orders(tasks)
    sent = [orders.order(task) for task in tasks]
    lost = tmp_path / "node" / "work" / "of-the-lost"
    (lost / "a.partial").mkdir(parents=True)
    (lost / "a.partial" / "scores.parquet").write_bytes(b"half")
    call, made = executors.call, []

    def call_amid(task: Task) -> None:
        if task.folder.name == "a":
            made.append(perform(sent[1]))
            assert task.folder.parent.is_dir()
        call(task)

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(NODE_DIR, str(tmp_path / "node"))
        patched.setattr(executors, "call", call_amid)
        made.append(perform(sent[0]))
    assert made[0] == made[1]
    assert not list((tmp_path / "node" / "work").iterdir())


def test_documents_in_the_folder_of_a_node(documents: Path, tmp_path: Path) -> None:
    """The folder for copies may hold the pool too, whatever that is called there."""
    own = tmp_path / "node-1" / "inputs" / "letters.jsonl"
    own.parent.mkdir(parents=True)
    own.write_bytes((documents / "letters.jsonl").read_bytes())
    with running_on(nodes_apart(tmp_path)):
        scan(tmp_path / "run", own)
    scan(tmp_path / "here", own)
    assert digests(tmp_path / "run") == digests(tmp_path / "here")


def test_a_fetch_that_was_cut_off_is_begun_again(documents: Path, tmp_path: Path) -> None:
    """What a killed worker had copied of an input is not read."""
    cluster = nodes_apart(tmp_path)
    model = cluster.through.run / "model.bin"
    model.parent.mkdir()
    model.write_text("a model", encoding="utf-8")
    task = task_reading(cluster.through.run, model=str(model), shard=shard(documents))
    order = cluster.through.orders([task]).order(task)
    tree = artifacts.digest_json({"model.bin": artifacts.digest_file(model)})
    inputs = tmp_path / "node" / "inputs"
    for half in ("model.bin", "other.bin"):
        aside = inputs / f"{tree}-file.partial"
        aside.mkdir(parents=True, exist_ok=True)
        (aside / half).write_text("a mo", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(NODE_DIR, str(tmp_path / "node"))
        perform(order)
    assert [path.name for path in inputs.glob("*/*")] == ["model.bin"]
    assert (inputs / f"{tree}-file" / "model.bin").read_text(encoding="utf-8") == "a model"


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no fault of the store or of its credentials."""
    store = nodes_apart(tmp_path).through.store
    (tmp_path / "file").write_text("text", encoding="utf-8")
    own = artifacts.digest_file(tmp_path / "file")
    tree = store.put({"file": (tmp_path / "file", own)})

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fsspec.implementations.local.LocalFileSystem, "get", full)
    with pytest.raises(ArtifactError, match=r"^no space is left .*; make room") as raised:
        store.get(tree, tmp_path / "copy")
    assert "credentials" not in str(raised.value)


def test_the_folder_of_a_node_is_a_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative one would be another after each change of a worker's folder."""
    monkeypatch.setenv(NODE_DIR, "copies")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match=f"{NODE_DIR} on .* is 'copies'; give a whole path"):
        node_folder()
    assert not list(tmp_path.iterdir())


def test_the_folder_of_another_user_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below the system's folder for temporary files anyone may make one of our name."""
    user = os.getuid() + 1
    monkeypatch.delenv(NODE_DIR, raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("os.getuid", lambda: user)
    order = {"store": "memory://x", "inputs": {}, "members": []}
    with pytest.raises(ArtifactError, match=f"cuvee-{user} on .* is another user's; name a folder"):
        perform(order)
