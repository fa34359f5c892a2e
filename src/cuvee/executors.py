"""Run a list of tasks in this process, on a pool of single-threaded workers, or on a cluster.

A task is a function named in the code of cuvee, a JSON spec and the folder it must leave finished.
Its folder is its only result, so a task list can be killed at any moment and run again, here or
elsewhere. Clusters register themselves by `running_on`; `ray_executor` is the one there is.
Starting a worker that imports torch takes seconds, so lists inside a `worker_pool` share workers.
"""

import ctypes
import importlib
import logging
import math
import multiprocessing
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for_any
from pathlib import Path
from typing import Protocol

from threadpoolctl import threadpool_limits

from cuvee import artifacts
from cuvee.artifacts import Json
from cuvee.errors import ArtifactError

logger = logging.getLogger(__name__)

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "RAYON_NUM_THREADS",
)
KEPT_BYTES = 2**30
"""Memory, files apart, from which a worker is not kept for another list (`worker_pool`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One unit of work."""

    function: str
    """``package.module:name`` inside cuvee; called as ``name(spec, folder)``."""
    spec: Mapping[str, Json]
    """All the function needs, as JSON."""
    folder: Path
    """The folder the function leaves finished (`artifacts.writing`)."""
    cost: float = 1.0
    """Expected work in any unit; the longest task starts first."""
    members: tuple[str, ...] = ()
    """Names below ``folder`` of the folders the function leaves finished, where it makes several;
    ``folder`` itself is then none of them."""
    device: str | None = None
    """A device that no other task may use meanwhile; on a cluster it takes a whole GPU."""
    gpus: float = 0.0
    """Share of a GPU, 0 to 1, that it needs where GPUs are handed out, on a cluster; here tasks
    that name no device share what there is."""

    @property
    def is_done(self) -> bool:
        """Whether all that the task makes is finished."""
        folders = [self.folder / name for name in self.members] or [self.folder]
        return all(artifacts.is_done(one) for one in folders)


class Cluster(Protocol):
    """Machines that take tasks in place of this machine's worker processes."""

    @property
    def n_gpus(self) -> int:
        """GPUs of all machines."""
        ...

    def run(self, tasks: Sequence[Task], *, workers: int) -> Iterator[Task]:
        """Run unfinished tasks, at most `workers` at a time, the first ones first.

        Yields:
            Every task when it is finished, in order of completion.
        """
        ...


_CLUSTER: ContextVar[Cluster | None] = ContextVar("cluster", default=None)


@contextmanager
def running_on(cluster: Cluster) -> Iterator[None]:
    """Send the tasks of this block to a cluster, but for those that run in this process."""
    before = _CLUSTER.set(cluster)
    try:
        yield
    finally:
        _CLUSTER.reset(before)


def cluster_gpus() -> int | None:
    """Return the number of the cluster's GPUs; None where tasks run on this machine."""
    cluster = _CLUSTER.get()
    return None if cluster is None else cluster.n_gpus


@contextmanager
def worker_pool(workers: int) -> Iterator[None]:
    """Let the task lists of this block share their worker processes.

    Without it every list starts workers of its own. Shared ones start when a list first needs them,
    with the environment variables of that moment, and end with the block, with a list that does not
    come to its end, and with a list that left one of them with a GPU or more than `KEPT_BYTES` of
    memory; the next list then starts new ones.

    Args:
        workers: How many are kept at most. A list that may use fewer and has more tasks than that
            starts workers of its own, as does a list begun while another is under way.
    """
    kept = _KeptPool(workers)
    before = _KEPT.set(kept)
    try:
        yield
    finally:
        _KEPT.reset(before)
        kept.close()


class _KeptPool:
    """Idle worker processes between one list of tasks and the next."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._idle: ProcessPoolExecutor | None = None
        self._is_open = True

    def suits(self, n_tasks: int, workers: int) -> bool:
        """Tell whether no more than `workers` of so many tasks would run at a time."""
        return workers == self._workers or n_tasks <= min(workers, self._workers)

    def take(self) -> ProcessPoolExecutor:
        """Return the pool; a new one where there is none, another list has it or a worker died."""
        pool, self._idle = self._idle, None
        return pool if pool is not None and _is_whole(pool) else _start_pool(self._workers)

    def give_back(self, pool: ProcessPoolExecutor) -> None:
        """Keep a pool whose tasks are all done, unless there is one or the block has ended."""
        if self._is_open and self._idle is None:
            self._idle = pool
        else:
            pool.shutdown(wait=False)

    def close(self) -> None:
        """End the workers and wait until they have ended; they are idle."""
        self._is_open = False
        pool, self._idle = self._idle, None
        if pool is not None:
            pool.shutdown()


_KEPT: ContextVar[_KeptPool | None] = ContextVar("kept", default=None)


def run_tasks(tasks: Sequence[Task], *, workers: int) -> Iterator[Task]:
    """Run all unfinished tasks, yielding each as it is found finished.

    Args:
        tasks: Any order; finished ones are yielded at once, the others start longest first.
        workers: 0 runs in this process; otherwise the number of spawned single-threaded processes,
            or of tasks at a time on the cluster (`running_on`).

    Yields:
        Every task, in order of completion.

    Raises:
        CuveeError: What a task raised; the others are cancelled, finished folders stay.
        ArtifactError: A worker was killed from outside (out of memory, for one), or a task returned
            without finishing its folder.
    """
    pending: list[Task] = []
    for task in tasks:
        if task.is_done:
            yield task
        else:
            pending.append(task)
    pending.sort(key=lambda task: -task.cost)
    cluster = _CLUSTER.get()
    if workers == 0:
        for task in pending:
            call(task)
            yield task
    elif pending and cluster is not None:
        yield from cluster.run(pending, workers=workers)
    elif pending:
        yield from _run_pool(pending, min(workers, len(pending)))


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep linear algebra in this process on one thread: sums then do not depend on the cores."""
    with threadpool_limits(limits=1):
        yield


def usable_cores() -> int:
    """Count the cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run_pool(tasks: Sequence[Task], workers: int) -> Iterator[Task]:
    kept = _KEPT.get()
    if kept is not None and not kept.suits(len(tasks), workers):
        kept = None
    pool = kept.take() if kept else _start_pool(min(workers, len(tasks)))
    waiting: dict[Future[float], Task] = {}
    queue, held, is_finished = list(tasks), 0.0, False
    try:
        _hand_in(queue, pool, waiting)
        while waiting:
            finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                held = max(held, future.result())
                task = waiting.pop(future)
                _hand_in(queue, pool, waiting)
                yield task
        is_finished = True
    except BrokenProcessPool as error:
        raise ArtifactError(
            f"a worker process was killed from outside; {len(waiting) + len(queue)} of "
            f"{len(tasks)} tasks are left. Most often memory ran out: use fewer workers, then "
            "run the same command again."
        ) from error
    finally:
        if kept and is_finished and held <= KEPT_BYTES:
            kept.give_back(pool)
        else:
            pool.shutdown(wait=False, cancel_futures=True)


def _start_pool(workers: int) -> ProcessPoolExecutor:
    """Return a pool that starts a worker whenever a task finds all others busy."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_prepare_worker)


def _is_whole(pool: ProcessPoolExecutor) -> bool:
    """Tell whether no worker was killed while it was idle; the pool ends if one was."""
    try:
        with _single_threaded_children():
            pool.submit(_held_bytes).result()
    except BrokenProcessPool:
        pool.shutdown(wait=False)
        return False
    return True


def _hand_in(
    queue: list[Task], pool: ProcessPoolExecutor, waiting: dict[Future[float], Task]
) -> None:
    """Move tasks from the queue to the pool, at most one for each device."""
    busy = {task.device for task in waiting.values()} - {None}
    with _single_threaded_children():  # workers start while tasks are handed in, not later
        for task in list(queue):
            if task.device not in busy:
                waiting[pool.submit(_work, task, os.getcwd())] = task
                queue.remove(task)
                busy |= {task.device} - {None}


def call(task: Task) -> None:
    """Run a task in this process.

    Raises:
        CuveeError: What the task raised.
        ArtifactError: Its function is not cuvee's, or left the folder unfinished.
    """
    module, _, name = task.function.partition(":")
    if not module.startswith("cuvee."):
        raise ArtifactError(f"task function {task.function!r} is not part of cuvee.")
    function: Callable[[Mapping[str, Json], Path], None] = getattr(
        importlib.import_module(module), name
    )
    function(task.spec, task.folder)
    if not task.is_done:
        raise ArtifactError(
            f"{task.function} returned but {task.folder} is not finished; it must fill the folder "
            "inside artifacts.writing()."
        )


@contextmanager
def _single_threaded_children() -> Iterator[None]:
    """Set the thread variables while children start; OpenMP reads them at load time only."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _work(task: Task, working_folder: str) -> float:
    """Run a task in a worker, which may be older than the command's working folder.

    Returns:
        The memory that the worker holds afterwards (`_held_bytes`).
    """
    os.chdir(working_folder)
    with _interruptible():
        call(task)
    return _held_bytes()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C raise inside a task, which then cleans up, unless the command ignores it."""
    before = signal.getsignal(signal.SIGINT)
    if before == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _held_bytes() -> float:
    """Return the memory of this process that no file backs; infinity once it has opened a GPU.

    Memory of a GPU is measured and filled by other workers. Where there is no /proc, 0.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return math.inf
    try:
        resident, of_files = Path("/proc/self/statm").read_text(encoding="ascii").split()[1:3]
    except OSError:
        return 0.0
    return float((int(resident) - int(of_files)) * os.sysconf("SC_PAGE_SIZE"))


def _prepare_worker() -> None:
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # an idle worker ends without a traceback
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()


def _end_with_parent() -> None:
    """End this worker when the command dies, kill -9 included.

    Without this a worker would go on through the tasks already handed to it, and the same command
    run again would write the same folders beside it.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_any([parent.sentinel])
        os._exit(1)


def keep_freed_memory() -> None:
    """Keep freed memory in the process.

    Page faults on fresh buffers cost a small model half its time. M_MMAP_MAX=0, M_TRIM_THRESHOLD
    and M_TOP_PAD of glibc's mallopt; elsewhere nothing is done.
    """
    if platform.system() == "Linux" and platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        settings = ((-4, 0), (-1, 2**31 - 1), (-2, 2**26))
        if not all(mallopt(option, value) == 1 for option, value in settings):
            logger.warning("mallopt refused a setting; training may be slower")
