"""Run task lists on a Ray cluster: one that runs already, or one started on this machine.

Only a task's function name, JSON spec and paths travel; what it reads and leaves stays in files.
Either every node sees the folder of the run, and the folder the command was started in, under the
same paths, or nodes take and leave files in an object store (`run_store`). Ray gives the task of a
lost worker or node to another one: a folder is written aside and renamed (`artifacts.writing`), so
it does not matter how far the lost one came.
"""

import functools
import importlib
import importlib.metadata
import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

from cuvee import executors, run_store
from cuvee.artifacts import Json
from cuvee.errors import ArtifactError, ConfigError, CuveeError, MissingDependencyError
from cuvee.executors import THREAD_VARIABLES, Task
from cuvee.run_store import RunStore

logger = logging.getLogger(__name__)

_LOSSES = 10
"""Workers a task may lose before it is held to be what kills them."""
_MARK = ".ray"
"""File in the run's folder, with a word of the command's: nodes that can read it share it."""
_OBJECT_STORE_BYTES = 100 * 2**20
"""Of a cluster started here; Ray's least is 75 MiB, and nothing of ours is kept in it."""
_REACH_SECONDS = 10.0
_PATIENCE_SECONDS = 60.0
"""How long a finished folder may take to be seen here (caches of network file systems), and how
long the cluster may be without a processor before that is said."""


_Order: TypeAlias = Callable[[Task], dict[str, Json]]
"""Describes a task for a node."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RayCluster:
    """A Ray cluster this process is connected to; made by `on_ray`."""

    ray: Any
    """The module."""
    store: RunStore | None = None
    """What tasks exchange files through; None: a file system that all nodes share."""

    @property
    def n_cpus(self) -> int:
        """Processors of all nodes, as Ray was told."""
        return int(self.ray.cluster_resources().get("CPU", 0))

    @property
    def n_gpus(self) -> int:
        """GPUs of all nodes, as Ray was told."""
        return int(self.ray.cluster_resources().get("GPU", 0))

    def run(self, tasks: Sequence[Task], *, workers: int) -> Iterator[Task]:
        """Run unfinished tasks, at most `workers` at a time, the first ones first.

        Yields:
            Every task when it is finished, in order of completion.

        Raises:
            CuveeError: What a task raised; no other is begun, finished folders stay.
            ConfigError: A task needs a GPU and no node has one.
            ArtifactError: A node does not see the run's folder or the store, or has another version
                of cuvee; or a task was lost too often.
        """
        if self.n_gpus == 0 and any(_gpus(task) for task in tasks):
            raise ConfigError(
                "a task needs a GPU and no node of the Ray cluster has one. Set proxy.device: cpu, "
                "or add a node with GPUs (`ray start --num-gpus N`)."
            )
        queue = list(reversed(tasks))
        waiting: dict[Any, Task] = {}
        with self._orders(tasks) as order:
            while queue or waiting:
                self._fill(waiting, queue, order, workers)
                for ref in self._wait(list(waiting)):
                    task = waiting.pop(ref)
                    made = self._result(ref, task)
                    self._fill(waiting, queue, order, workers)
                    if self.store is not None:
                        self.store.receive(task, json.loads(made))
                    _await_sight(task)
                    yield task
        # After an error nothing is cancelled: Ray 2.60 aborts this process where a task ends while
        # it is cancelled. Those under way end by themselves or with the connection; those that have
        # not begun find the word gone or, with a store, do no harm.

    @contextmanager
    def _orders(self, tasks: Sequence[Task]) -> Iterator[_Order]:
        """Give what describes a task for a node."""
        if self.store is not None:
            yield self.store.orders(tasks).order
            return
        run = _common_folder(tasks)
        with _marked(run) as word:
            yield lambda task: {
                "function": task.function,
                "spec": task.spec,
                "folder": str(task.folder),
                "members": task.members,
                "working_folder": str(Path.cwd()),
                "run": str(run),
                "word": word,
            }

    def _fill(
        self, waiting: dict[Any, Task], queue: list[Task], order: _Order, workers: int
    ) -> None:
        while queue and len(waiting) < workers:
            task = queue.pop()
            waiting[self._hand_in(task, order(task))] = task

    def _hand_in(self, task: Task, order: dict[str, Json]) -> Any:
        remote = self.ray.remote(_work).options(
            num_cpus=1,
            num_gpus=_gpus(task),
            max_retries=_LOSSES,
            retry_exceptions=False,
            scheduling_strategy="SPREAD",
            name=f"{task.function} {task.folder.name}",
        )
        version = importlib.metadata.version("cuvee")
        return remote.remote(json.dumps({**order, "version": version}))

    def _wait(self, refs: list[Any]) -> list[Any]:
        """Wait for the first to end, saying so where no node is left to work."""
        while True:
            ready, _ = self.ray.wait(refs, num_returns=1, timeout=_PATIENCE_SECONDS)
            if ready:
                return list(ready)
            if self.n_cpus == 0:
                logger.warning("the Ray cluster has no node left with a processor; waiting for one")

    def _result(self, ref: Any, task: Task) -> str:
        try:
            return str(self.ray.get(ref))
        except self.ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, CuveeError | OSError):
                raise error.cause from error
            if "No module named 'cuvee'" in str(error):
                raise ArtifactError(
                    "a node of the Ray cluster has no cuvee; install it there, in the Python that "
                    "`ray start` runs in."
                ) from error
            raise
        except self.ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[0]
            raise ArtifactError(
                f"{task.folder}: its task was given up ({reason}) after up to {_LOSSES} lost "
                "workers. Most often memory ran out: let Ray run fewer tasks on a node (`ray start "
                "--num-cpus N`), then run the same command again."
            ) from error


@contextmanager
def on_ray(
    address: str | None = None, *, workers: int | None = None, store: RunStore | None = None
) -> Iterator[RayCluster]:
    """Send the tasks of this block to Ray.

    Args:
        address: ``HOST:PORT`` of a cluster; ``auto`` for the one running on this machine. None
            takes the variable RAY_ADDRESS, and without it starts a cluster on this machine, which
            ends with the block.
        workers: Processors of a cluster started here; None gives all.
        store: What tasks exchange files through (`RunStore.open`); None where all nodes share a
            file system.

    Yields:
        The cluster.

    Raises:
        MissingDependencyError: Ray is not installed.
        ConfigError: No cluster at the address, or one without processors.
    """
    ray = _import_ray()
    is_ours = not ray.is_initialized()
    if is_ours:
        _connect(ray, address or os.environ.get("RAY_ADDRESS") or "local", workers)
    cluster = RayCluster(ray=ray, store=store)
    try:
        if cluster.n_cpus == 0:
            raise ConfigError(
                "the Ray cluster has no processors; start nodes that have "
                "(`ray start --address HOST:PORT --num-cpus N`)."
            )
        with executors.running_on(cluster):
            yield cluster
    finally:
        if is_ours:
            ray.shutdown()


def _import_ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise MissingDependencyError(
            "Ray is not installed; install it with pip install 'cuvee[ray]', or use "
            "--executor local."
        ) from error


def _connect(ray: Any, address: str, workers: int | None) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            address="local",
            num_cpus=workers or executors.usable_cores(),
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            **quiet,
        )
        return
    _check_reachable(address)
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ConfigError(_unreachable(address, reason)) from error


def _check_reachable(address: str) -> None:
    """Find out at once what Ray tells after a minute of trying."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdigit():
        if address == "auto":
            return
        raise ConfigError(_unreachable(address, "it is not HOST:PORT"))
    try:
        socket.create_connection((host, int(port)), timeout=_REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(_unreachable(address, str(error))) from error


def _unreachable(address: str, reason: str) -> str:
    return (
        f"no Ray cluster at {address} ({reason}). Give HOST:PORT as `ray start --head` prints it, "
        "auto for the cluster on this machine, or none to start one here."
    )


def _gpus(task: Task) -> float:
    return 1.0 if task.device is not None else task.gpus


def _common_folder(tasks: Sequence[Task]) -> Path:
    return Path(os.path.commonpath([task.folder.parent.absolute() for task in tasks]))


@contextmanager
def _marked(folder: Path) -> Iterator[str]:
    """Leave a word in a file that only nodes with this file system can read."""
    mark, word = folder / _MARK, uuid.uuid4().hex
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(word, encoding="utf-8")
    try:
        yield word
    finally:
        mark.unlink(missing_ok=True)
        for one in made:
            with suppress(OSError):  # not empty: what was wanted
                one.rmdir()


def _await_sight(task: Task) -> None:
    """Wait until what a node has finished is seen here; network file systems may lag."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while not task.is_done:
        if time.monotonic() > end:
            raise ArtifactError(
                f"a node of the Ray cluster finished {task.folder}, but it is not seen here. The "
                "folder must be on a file system that all nodes share; choose another --out."
            )
        os.listdir(task.folder.parent)  # makes the system ask the server again
        time.sleep(0.1)


def _work(order: str) -> str:
    """Run one task on a node of the cluster; return what it has put into the store, as JSON."""
    given: dict[str, Any] = json.loads(order)
    _check_version(given)
    _prepare_worker()
    if "store" in given:
        os.chdir(run_store.node_folder())
        with executors.one_thread():
            return json.dumps(run_store.perform(given))
    _check_sight(given)
    os.chdir(given["working_folder"])
    task = Task(
        function=given["function"],
        spec=cast(Mapping[str, Json], given["spec"]),
        folder=Path(given["folder"]),
        members=tuple(given["members"]),
    )
    if not task.is_done:  # by a worker that was lost before it could say so
        _call(task)
    return "{}"


def _call(task: Task) -> None:
    try:
        with executors.one_thread():
            executors.call(task)
    except CuveeError:
        if not task.is_done:
            raise


def _check_version(given: Mapping[str, Any]) -> None:
    version = importlib.metadata.version("cuvee")
    if version != given["version"]:
        raise ArtifactError(
            f"node {socket.gethostname()} of the Ray cluster has cuvee {version}, this machine "
            f"{given['version']}; install the same version on all."
        )


def _check_sight(given: Mapping[str, Any]) -> None:
    run, here = Path(given["run"]), Path(given["working_folder"])
    if _word_in(run) != given["word"] or not here.is_dir():
        raise ArtifactError(
            f"node {socket.gethostname()} of the Ray cluster does not see "
            f"{run if here.is_dir() else here}. Tasks exchange files: put --out, the pool and the "
            "folder the command is started in on a file system that all nodes share under one "
            "path, or give --store."
        )


def _word_in(folder: Path) -> str | None:
    try:
        return (folder / _MARK).read_text(encoding="utf-8")
    except OSError:
        return None


@functools.cache
def _prepare_worker() -> None:
    """Make this process, once, what a worker of the local pool is: one thread, memory kept.

    Libraries loaded from here on read the variables; `executors.one_thread` holds the others.
    """
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    executors.keep_freed_memory()
