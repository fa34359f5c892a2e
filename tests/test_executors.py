"""Task lists: the same folders from any number of workers, and after any interruption."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from cuvee import artifacts, executors
from cuvee.config import dump
from cuvee.corpus.pool import PoolConfig, list_shards
from cuvee.errors import ArtifactError, DataError
from cuvee.executors import Task, run_tasks, usable_cores, worker_pool

N_SHARDS = 6
PATIENCE = 30.0
"""Seconds to wait for what takes well under one on an idle machine."""


def write_pool(folder: Path, *, n_documents: int) -> PoolConfig:
    """Write a pool of small JSONL shards."""
    folder.mkdir()
    for shard in range(N_SHARDS):
        rows = (
            {
                "id": f"{shard}-{number}",
                "text": f"Document {number} of {shard}. " * 20,
                "domain": "d",
            }
            for number in range(n_documents)
        )
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{shard}.jsonl").write_text(lines, encoding="utf-8")
    return PoolConfig(shards=(str(folder),))


def scan_tasks(config: PoolConfig, out: Path) -> list[Task]:
    """Make the label pass's tasks, one a shard."""
    return [
        Task(
            function="cuvee.corpus.scan:scan_shard",
            spec={"shard": dump(shard), "config": dump(config)},
            folder=out / shard.name,
            cost=shard.n_bytes,
        )
        for shard in list_shards(config)
    ]


def digests(tasks: Sequence[Task]) -> list[str]:
    """Return the digests of finished tasks, in order."""
    return [artifacts.digest_of(task.folder) for task in tasks]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> PoolConfig:
    """Give a pool that is scanned in an instant."""
    return write_pool(tmp_path_factory.mktemp("pool") / "pool", n_documents=20)


def test_results_do_not_depend_on_workers(pool: PoolConfig, tmp_path: Path) -> None:
    """This process and two workers leave the same bytes."""
    results = []
    for workers in (0, 2):
        tasks = scan_tasks(pool, tmp_path / str(workers))
        finished = list(run_tasks(tasks, workers=workers))
        assert sorted(task.folder for task in finished) == [task.folder for task in tasks]
        results.append(digests(tasks))
    assert results[0] == results[1]


def test_finished_tasks_are_not_run_again(pool: PoolConfig, tmp_path: Path) -> None:
    """A finished folder is yielded at once and not touched."""
    tasks = scan_tasks(pool, tmp_path)
    first = next(run_tasks(tasks, workers=0))
    before = (first.folder / artifacts.DONE).stat().st_mtime_ns
    assert next(run_tasks(tasks, workers=0)) == first
    assert len(list(run_tasks(tasks, workers=0))) == N_SHARDS
    assert (first.folder / artifacts.DONE).stat().st_mtime_ns == before


def test_the_longest_task_starts_first(pool: PoolConfig, tmp_path: Path) -> None:
    """Tasks run in order of falling cost."""
    tasks = [
        Task(function=task.function, spec=task.spec, folder=task.folder, cost=float(cost))
        for cost, task in enumerate(scan_tasks(pool, tmp_path))
    ]
    assert list(run_tasks(tasks, workers=0)) == tasks[::-1]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_task_is_raised(pool: PoolConfig, tmp_path: Path, workers: int) -> None:
    """A task's own error arrives with its message; finished folders stay."""
    tasks = scan_tasks(pool, tmp_path / "out")
    shard = dict(tasks[0].spec["shard"])  # type: ignore[arg-type]
    missing = {**shard, "url": str(tmp_path / "gone.jsonl")}
    broken = Task(
        function=tasks[0].function, spec={**tasks[0].spec, "shard": missing}, folder=tmp_path / "x"
    )
    with pytest.raises(DataError, match=r"gone\.jsonl"):
        list(run_tasks([*tasks[1:], broken], workers=workers))
    assert not artifacts.is_done(tmp_path / "x")
    assert artifacts.is_done(tasks[1].folder)


def test_only_functions_of_cuvee_are_called(tmp_path: Path) -> None:
    """A task that names other code is refused."""
    task = Task(function="os:system", spec={}, folder=tmp_path / "x")
    with pytest.raises(ArtifactError, match="'os:system' is not part of cuvee"):
        list(run_tasks([task], workers=0))


def test_a_task_must_finish_its_folder(tmp_path: Path) -> None:
    """Returning without an artefact is an error, not a finished task."""
    task = Task(function="cuvee.config:differing_keys", spec={}, folder=tmp_path / "x")
    with pytest.raises(ArtifactError, match=r"differing_keys returned but .*x is not finished"):
        list(run_tasks([task], workers=0))


def test_a_device_has_one_task_at_a_time(tmp_path: Path) -> None:
    """Tasks of a device wait for each other, others do not."""
    devices = ["cuda:0", "cuda:0", None, "cuda:1", None]
    tasks = [
        Task(function="x:y", spec={}, folder=tmp_path / str(number), device=device)
        for number, device in enumerate(devices)
    ]

    class Pool:
        """Takes tasks and does nothing."""

        def submit(self, *_: object) -> "Future[None]":
            """Return a future of its own."""
            return Future()

    queue, waiting = list(tasks), {}  # type: ignore[var-annotated]
    executors._hand_in(queue, Pool(), waiting)  # type: ignore[arg-type]
    assert list(waiting.values()) == [tasks[0], tasks[2], tasks[3], tasks[4]]
    executors._hand_in(queue, Pool(), waiting)  # type: ignore[arg-type]
    assert queue == [tasks[1]]
    del waiting[next(iter(waiting))]
    executors._hand_in(queue, Pool(), waiting)  # type: ignore[arg-type]
    assert queue == []
    assert tasks[1] in waiting.values()


def test_children_are_single_threaded_and_the_parent_is_not_changed(
    pool: PoolConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thread variables are set for the workers only."""
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("RAYON_NUM_THREADS", raising=False)
    running = run_tasks(scan_tasks(pool, tmp_path), workers=1)
    next(running)
    children = [child.environ() for child in psutil.Process().children()]
    assert [one["RAYON_NUM_THREADS"] for one in children if "RAYON_NUM_THREADS" in one]
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "RAYON_NUM_THREADS" not in os.environ
    assert len(list(running)) == N_SHARDS - 1


def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    """After kill -9 the workers end too, and the same task list finishes with the same bytes."""
    config = write_pool(tmp_path / "pool", n_documents=1500)
    (tmp_path / "config.json").write_text(json.dumps(dump(config)), encoding="utf-8")
    tasks, fresh = scan_tasks(config, tmp_path / "killed"), scan_tasks(config, tmp_path / "fresh")
    command = [sys.executable, str(Path(__file__)), str(tmp_path)]
    with subprocess.Popen(command) as process:
        wait_for(lambda: any(artifacts.is_done(task.folder) for task in tasks))
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
    assert children
    wait_for(lambda: not any(is_running(child) for child in children))
    assert len(list(run_tasks(tasks, workers=2))) == N_SHARDS
    assert len(list(run_tasks(fresh, workers=0))) == N_SHARDS
    assert digests(tasks) == digests(fresh)
    assert not list((tmp_path / "killed").glob("*.partial"))


def test_a_killed_worker_is_reported(tmp_path: Path) -> None:
    """When the system kills a worker, the message says what most often was the cause."""
    config = write_pool(tmp_path / "pool", n_documents=1500)
    before = worker_processes()
    running = run_tasks(scan_tasks(config, tmp_path / "out"), workers=1)
    next(running)
    (worker,) = worker_processes() - before
    worker.kill()
    with pytest.raises(ArtifactError, match="a worker process was killed from outside"):
        list(running)


def test_lists_share_workers_that_end_with_the_block(pool: PoolConfig, tmp_path: Path) -> None:
    """Later lists find the workers of earlier ones, more join them, and the bytes are the same."""
    fresh = scan_tasks(pool, tmp_path / "fresh")
    list(run_tasks(fresh, workers=0))
    with worker_pool(2):
        first = scan_tasks(pool, tmp_path / "first")
        list(run_tasks(first[:1], workers=2))
        early = worker_processes()
        list(run_tasks(first[1:], workers=2))
        later = worker_processes()
        second = scan_tasks(pool, tmp_path / "second")
        list(run_tasks(second, workers=2))
        assert worker_processes() == later
    assert len(early) == 1
    assert len(later) == 2
    assert early < later
    assert digests(first) == digests(second) == digests(fresh)
    assert not any(is_running(worker) for worker in later)


def test_lists_that_may_not_share_have_workers_of_their_own(
    pool: PoolConfig, tmp_path: Path
) -> None:
    """A list with fewer workers than are kept, and one begun while another is under way."""
    with worker_pool(2):
        list(run_tasks(scan_tasks(pool, tmp_path / "first"), workers=2))
        kept = worker_processes()
        outer = run_tasks(scan_tasks(pool, tmp_path / "outer"), workers=2)
        next(outer)
        inner = run_tasks(scan_tasks(pool, tmp_path / "inner"), workers=2)
        next(inner)
        assert worker_processes() > kept
        assert len(list(inner)) == len(list(outer)) == N_SHARDS - 1
        wait_for(lambda: len(worker_processes()) == 2)
        kept = worker_processes()
        narrow = run_tasks(scan_tasks(pool, tmp_path / "narrow"), workers=1)
        next(narrow)
        assert len(worker_processes() - kept) == 1
        assert len(list(narrow)) == N_SHARDS - 1
    wait_for(lambda: not worker_processes())


@pytest.mark.parametrize("case", ["a task raises", "a list is left", "memory is short"])
def test_workers_are_not_kept_after(
    case: str, pool: PoolConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They end with such a list, and the next one starts others."""
    tasks = scan_tasks(pool, tmp_path / "first")
    with worker_pool(1):
        if case == "a task raises":
            broken = Task(function="os:system", spec={}, folder=tmp_path / "x")
            with pytest.raises(ArtifactError, match="not part of cuvee"):
                list(run_tasks([*tasks, broken], workers=1))
        elif case == "a list is left":
            assert next(run_tasks(tasks, workers=1)) in tasks
        else:
            monkeypatch.setattr(executors, "KEPT_BYTES", 2**20)
            list(run_tasks(tasks, workers=1))
        before = worker_processes()
        wait_for(lambda: not any(is_running(worker) for worker in before))
        assert len(list(run_tasks(tasks, workers=1))) == N_SHARDS


def test_workers_killed_while_idle_are_replaced(pool: PoolConfig, tmp_path: Path) -> None:
    """No task was lost with them, so the next list begins with others."""
    tasks, others = (scan_tasks(pool, tmp_path / name) for name in ("tasks", "others"))
    with worker_pool(1):
        list(run_tasks(tasks, workers=1))
        for worker in worker_processes():
            worker.kill()
        wait_for(lambda: not worker_processes())
        assert len(list(run_tasks(others, workers=1))) == N_SHARDS
    assert digests(tasks) == digests(others)


def test_kept_workers_follow_the_working_folder(
    pool: PoolConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative folder means the same to a worker as to the command."""
    with worker_pool(1):
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            monkeypatch.chdir(tmp_path / name)
            list(run_tasks(scan_tasks(pool, Path("out")), workers=1))
    one, two = (scan_tasks(pool, tmp_path / name / "out") for name in ("one", "two"))
    assert digests(one) == digests(two)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_idle_workers_end_with_the_command(
    end: signal.Signals, pool: PoolConfig, tmp_path: Path
) -> None:
    """Kill and Ctrl-C leave no worker behind, and idle workers say nothing of their end."""
    (tmp_path / "config.json").write_text(json.dumps(dump(pool)), encoding="utf-8")
    command = [sys.executable, str(Path(__file__)), str(tmp_path), "stay"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        wait_for((tmp_path / "idle").exists)
        children = psutil.Process(process.pid).children(recursive=True)
        if end == signal.SIGINT:
            os.killpg(process.pid, end)  # as a terminal does
        else:
            process.send_signal(end)
        assert process.stderr is not None
        said = process.stderr.read()
    assert len(children) >= 2
    wait_for(lambda: not any(is_running(child) for child in children))
    assert said.count("Traceback") == (end == signal.SIGINT)  # the command's own


def test_the_memory_of_a_worker_is_its_own_and_a_gpu_counts_without_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Large arrays count, libraries do not; one that has opened a GPU is never kept."""
    before = executors._held_bytes()
    array = np.ones(2**24)
    assert executors._held_bytes() - before == pytest.approx(array.nbytes, rel=0.1)
    opened = SimpleNamespace(cuda=SimpleNamespace(is_initialized=lambda: True))
    monkeypatch.setitem(sys.modules, "torch", opened)
    assert executors._held_bytes() > executors.KEPT_BYTES


def test_usable_cores_is_at_least_one() -> None:
    """There is always a core to run on."""
    assert usable_cores() >= 1


def worker_processes() -> set[psutil.Process]:
    """Return the workers that this process has started and that are still there."""
    return {
        child
        for child in psutil.Process().children()
        if is_running(child)
        and "spawn_main" in " ".join(child.cmdline())
        and "resource_tracker" not in " ".join(child.cmdline())
    }


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, for a bounded time."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def is_running(process: psutil.Process) -> bool:
    """Tell whether a process still works; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def main() -> None:
    """Run the task list of a folder; the part of a test that gets killed."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    folder = Path(sys.argv[1])
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = PoolConfig(shards=tuple(settings["shards"]))
    with worker_pool(2):
        list(run_tasks(scan_tasks(config, folder / "killed"), workers=2))
        if sys.argv[2:] == ["stay"]:
            (folder / "idle").touch()
            time.sleep(PATIENCE)


if __name__ == "__main__":
    main()
