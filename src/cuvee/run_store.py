"""Run tasks where nothing is shared but an object store.

The command's machine keeps the run's folder. Before a task starts, what its spec names of that
folder is put into the store; the node copies it to a folder of its own, runs the task on the copies
and puts into the store what it made, which the command then takes into the run's folder, checked.
The store holds nothing that the run's folder lacks but what is on its way, so it may be emptied
between two commands. Only names, settings and digests go from process to process.
"""

import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

from cuvee import artifacts, executors
from cuvee.artifacts import Json
from cuvee.errors import ArtifactError, ConfigError, CuveeError
from cuvee.executors import Task
from cuvee.object_store import ObjectStore

NODE_DIR = "CUVEE_NODE_DIR"
"""Variable that names a node's folder for copies; without it, one below the system's for temporary
files."""
_INPUTS, _WORK = "inputs", "work"
_HELD = ".held"
"""File in a task's folder that its worker holds as long as it lives."""
_BESIDE = ("", ".passes", ".pieces")
"""Ends of the names of the run's folder and of those that stand beside it while it is made."""
_DOCUMENTS = ("url", "files")
"""Keys of a spec that name documents: nodes read them where they stand."""
_PATHS = {
    *_DOCUMENTS,
    *("documents", "labels", "named", "scan", "scores", "tokenizer"),  # of a pool
    *("index", "part", "store"),  # of an export
    *("counted", "divided", "ranks", "request", "scale", "scattered", "taken"),  # of a selection
    *("influence", "model", "path"),  # of scorers
    *("base", "copies", "pool", "quality", "targets"),  # of a training run
}
"""Keys of a spec that name files; what stands under others may be called like a file and is none.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStore:
    """A store that tasks of one run exchange their files through."""

    store: ObjectStore
    run: Path
    """The run's folder, on the command's machine."""

    @classmethod
    def open(cls, url: str, run: Path) -> Self:
        """Open a store, and find out at once whether it can be written and read.

        Args:
            url: Any fsspec URL that this machine and all nodes reach.
            run: The run's folder.

        Raises:
            ConfigError: The URL is none, or the store cannot be reached, written and read; or the
                run's folder has no name.
            MissingDependencyError: The package of the URL's protocol is not installed.
        """
        if not run.name:
            raise ConfigError(
                f"--out {run} has no name, and --store needs one to tell the run's own files from "
                "others; give the folder's whole path."
            )
        store = ObjectStore.open(url)
        store.check()
        return cls(store=store, run=run)

    def orders(self, tasks: Sequence[Task]) -> "Orders":
        """Return what makes the orders of a list of tasks."""
        common = Path(os.path.commonpath([task.folder.parent for task in tasks]))
        beside = [self.run.with_name(self.run.name + end) for end in _BESIDE]
        roots = {
            str(spelled)
            for root in (*beside, common)
            for spelled in (root, root.absolute(), root.resolve())
            if spelled.name
        }
        return Orders(store=self.store, roots=tuple(sorted(roots)))

    def receive(self, task: Task, made: Mapping[str, str]) -> None:
        """Take what a node has made into the run's folder.

        Args:
            task: The task.
            made: As returned by `perform`.

        Raises:
            ArtifactError: The store cannot be read, or holds something else than was made.
        """
        for name, digest in made.items():
            folder = task.folder / name
            if not artifacts.is_done(folder):
                known: dict[str, str] = {}
                with artifacts.receiving(folder, known=known) as aside:
                    known.update(self.store.get(digest, aside))


@dataclass(frozen=True, kw_only=True, slots=True)
class Orders:
    """Makes the orders of one list of tasks; what several of them read is put away once."""

    store: ObjectStore
    roots: tuple[str, ...]
    """Folders whose files go through the store, in each spelling."""
    _sent: dict[str, str] = field(default_factory=dict)

    def order(self, task: Task) -> dict[str, Json]:
        """Store what a task reads, and describe the task for a node.

        Args:
            task: What it reads is finished and does not change.

        Returns:
            The argument of `perform`.

        Raises:
            ConfigError: The spec names documents in the run's folder, or a path that no node can
                find.
            ArtifactError: The store cannot be written.
        """
        inputs: dict[str, Json] = {}
        for key, text in _strings(task.spec):
            if key not in _PATHS:
                continue
            if self._is_own(text) and text not in inputs and os.path.exists(text):
                if key in _DOCUMENTS:
                    raise ConfigError(
                        f"{text} holds documents and stands in the run's folder, which the nodes "
                        "do not see; with --store give the pool, targets and labels as URLs, or "
                        "as paths outside of --out that every node has."
                    )
                inputs[text] = {"tree": self._send(Path(text)), "is_file": Path(text).is_file()}
            elif not self._is_own(text):
                _check_absolute(text)
        return {
            "function": task.function,
            "spec": task.spec,
            "name": task.folder.name,
            "members": task.members,
            "store": self.store.address,
            "inputs": inputs,
        }

    def _is_own(self, text: str) -> bool:
        return any(text.startswith(root + os.sep) for root in self.roots)

    def _send(self, path: Path) -> str:
        if str(path) not in self._sent:
            self._sent[str(path)] = self.store.put(_tree(path))
        return self._sent[str(path)]


def perform(order: Mapping[str, Json]) -> dict[str, str]:
    """Run a task on this node, on copies of what it reads.

    Args:
        order: Of `Orders.order`.

    Returns:
        Trees in the store: of each of the task's members, or of its folder under the name ``""``.

    Raises:
        CuveeError: What the task raised.
        ArtifactError: The store cannot be read or written here, or the task has written a path of
            this node into its manifest.
    """
    given = cast(dict[str, Any], order)
    store, node = ObjectStore.open(given["store"]), node_folder()
    places = {
        text: str(_fetched(store, node, Path(text).name, **one))
        for text, one in given["inputs"].items()
    }
    members = tuple(given["members"])
    with _workplace(node / _WORK) as work:
        task = Task(
            function=given["function"],
            spec=cast(Mapping[str, Json], _replaced(given["spec"], places)),
            folder=work / given["name"],
            members=members,
        )
        with _told_of(places):
            executors.call(task)
        made = {}
        for name in members or ("",):
            _check_portable(task.folder / name, (str(work), *places.values()))
            made[name] = store.put(_tree(task.folder / name))
    return made


@contextmanager
def _told_of(places: Mapping[str, str]) -> Iterator[None]:
    """Name the run's files in errors, not the copies: those are what can be mended."""
    try:
        yield
    except CuveeError as error:
        message = str(error)
        for text, place in places.items():
            message = message.replace(place, text)
        raise type(error)(message) from error


def node_folder() -> Path:
    """Return this node's folder for copies, made where it is not there.

    Raises:
        ArtifactError: Another user has made it, or the variable holds no whole path.
    """
    given = os.environ.get(NODE_DIR)
    if given and not os.path.isabs(given):
        raise ArtifactError(
            f"{NODE_DIR} on {socket.gethostname()} is {given!r}; give a whole path where "
            "`ray start` is called."
        )
    root = Path(given or Path(tempfile.gettempdir()) / f"cuvee-{os.getuid()}").absolute()
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not given and root.stat().st_uid != os.getuid():
        raise ArtifactError(
            f"{root} on {socket.gethostname()} is another user's; name a folder for the copies of "
            f"this node in the variable {NODE_DIR}."
        )
    for name in (_INPUTS, _WORK):
        (root / name).mkdir(exist_ok=True)
    return root


def _fetched(store: ObjectStore, node: Path, name: str, *, tree: str, is_file: bool) -> Path:
    """Return a copy of an input, fetched where this node has none.

    One worker fetches and the others of the node wait, so that nothing is fetched twice.
    """
    folder = node / _INPUTS / (f"{tree}-file" if is_file else tree)
    if not folder.is_dir():
        with _alone(folder.with_name(folder.name + ".lock")):
            if not folder.is_dir():
                aside = folder.with_name(folder.name + ".partial")
                shutil.rmtree(aside, ignore_errors=True)  # of a worker that was lost
                store.get(tree, aside if is_file else aside / name)
                aside.rename(folder)
    (found,) = folder.iterdir()  # under another name where two folders hold the same
    return found


@contextmanager
def _workplace(root: Path) -> Iterator[Path]:
    """Make a folder for one task, and remove those of workers that were lost."""
    with ExitStack() as held:
        with _alone(root.with_name(root.name + ".lock")):
            for one in root.iterdir():
                with suppress(OSError), _alone(one / _HELD, wait=False):
                    shutil.rmtree(one, ignore_errors=True)
            own = Path(tempfile.mkdtemp(dir=root))
            held.enter_context(_alone(own / _HELD))
        try:
            yield own
        finally:
            shutil.rmtree(own, ignore_errors=True)


@contextmanager
def _alone(lock: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock that the system takes back from a process that dies.

    Raises:
        BlockingIOError: Another holds it, and this one does not wait.
    """
    with lock.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def _tree(path: Path) -> dict[str, tuple[Path, str]]:
    """List the files of a folder, or a file, with their digests; those of manifests stand."""
    if path.is_file():
        own = _finished_digests(path.parent).get(path.name) or artifacts.digest_file(path)
        return {path.name: (path, own)}
    known: dict[str, str] = {}
    files: dict[str, Path] = {}
    for parent, folders, names in os.walk(path):
        folders[:] = sorted(one for one in folders if not one.endswith(".partial"))
        below = Path(parent).relative_to(path)
        for name, own in _finished_digests(Path(parent)).items():
            known[(below / name).as_posix()] = own
        for name in names:
            files[(below / name).as_posix()] = Path(parent) / name
    return {
        name: (file, known.get(name) or artifacts.digest_file(file))
        for name, file in sorted(files.items())
    }


def _finished_digests(folder: Path) -> dict[str, str]:
    if not artifacts.is_done(folder):
        return {}
    manifest = cast(Mapping[str, Any], artifacts.read_json(folder / artifacts.MANIFEST))
    return dict(manifest["files"])


def _strings(value: Json, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield all strings of a spec, each with the key that it, or its list, stands under."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from _strings(one, name)
    elif isinstance(value, Sequence):
        for one in value:
            yield from _strings(one, key)


def _replaced(value: Json, places: Mapping[str, str], key: str = "") -> Json:
    if isinstance(value, str):
        return places.get(value, value) if key in _PATHS else value
    if isinstance(value, Mapping):
        return {name: _replaced(one, places, name) for name, one in value.items()}
    if isinstance(value, Sequence):
        return [_replaced(one, places, key) for one in value]
    return value


def _check_absolute(text: str) -> None:
    """Refuse what is a path of the folder the command was started in."""
    if os.path.exists(text) and not os.path.isabs(text):
        raise ConfigError(
            f"a task reads {text!r}, a path of the folder this command was started in, which "
            "nodes do not have; with --store give a URL, or a whole path that every node has."
        )


def _check_portable(folder: Path, places: Sequence[str]) -> None:
    manifest = folder / artifacts.MANIFEST
    text = manifest.read_text(encoding="utf-8")
    if any(place in text for place in places):
        raise ArtifactError(
            f"{folder.name} names a file of the run's folder in its settings, so it would be "
            "another where nodes have other paths; move that file out of --out to a path that "
            "every node has, or leave --store out."
        )
