"""Files in an object store, each under the name of its digest, and folders as lists of such names.

What is named by its content is never changed and never in conflict: two that write the same object
write the same bytes, and what another run left is either the same or has another name. The list of
a folder's files (its tree) is an object too and is written after them, so a tree that is there is
whole. Any fsspec URL serves; credentials are the business of its file system.
"""

import errno
import json
import logging
import posixpath
import re
import socket
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from cuvee import artifacts
from cuvee.artifacts import Json
from cuvee.errors import ArtifactError, ConfigError, CuveeError, MissingDependencyError

logger = logging.getLogger(__name__)

_MARK = "cuvee-store"
_OBJECTS = "objects"
_WHOLE_WRITES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory"}
"""Protocols of object stores, where an object appears whole or not at all; elsewhere it is written
aside and renamed, which would cost these a copy."""
_REQUESTS = 16
"""Files put into an object store at a time."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectStore:
    """Objects below a URL; opened by `open`."""

    url: str
    """As messages name it, without a password."""
    address: str
    """What another machine opens it by: as given, a path of this machine made whole."""
    filesystem: Any
    """Of fsspec."""
    root: str
    """The URL without its protocol."""

    @classmethod
    def open(cls, url: str) -> Self:
        """Find the file system of a URL; nothing is read or written yet.

        Args:
            url: Of fsspec; a path is one of this machine.

        Raises:
            ConfigError: There is no URL or no such protocol, or its file system cannot be made.
            MissingDependencyError: The package of the protocol is not installed.
        """
        protocol = url.partition("://")[0]
        if not url:
            raise ConfigError("--store is empty; give a URL such as s3://bucket/folder.")
        try:
            filesystem, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except ImportError as error:
            raise MissingDependencyError(
                f"{socket.gethostname()} cannot read {protocol}:// ({error}). Install that package "
                "on every node and on the machine of the command, or choose another --store."
            ) from error
        except ValueError as error:
            raise ConfigError(
                f"--store {_shown(url)!r} is no URL that fsspec knows ({error}). Give one such as "
                "s3://bucket/folder, gs://bucket/folder or file:///folder."
            ) from error
        except Exception as error:
            raise ConfigError(_said(_shown(url), "opened", error)) from error
        is_local = isinstance(filesystem, LocalFileSystem)
        whole = str(filesystem.unstrip_protocol(root)) if is_local else url
        return cls(
            url=_shown(whole).rstrip("/"),
            address=whole,
            filesystem=filesystem,
            root=root.rstrip("/"),
        )

    def check(self) -> None:
        """Write a small file, read it again, and ask for an object that is not there.

        Raises:
            ConfigError: The store cannot be reached, or may not be written or read.
        """
        mark = f"{self.root}/{_MARK}"
        try:
            self._make_folder(mark)
            self.filesystem.pipe_file(mark, b"objects by the SHA-256 of their content\n")
            self.filesystem.cat_file(mark)
            self._has(artifacts.digest_json("nothing"), 0)  # forbidden to who may not list
        except Exception as error:
            raise ConfigError(_said(self.url, "written and read", error)) from error

    def put(self, files: Mapping[str, tuple[Path, str]]) -> str:
        """Store files and the list of them, but for what is there.

        Args:
            files: By their names in the tree: the file and its SHA-256.

        Returns:
            The tree's digest.

        Raises:
            ArtifactError: The store cannot be written, or a file is not what its digest says.
        """
        listed: Json = {name: own for name, (_, own) in files.items()}
        tree, digest = artifacts.canonical_json(listed), artifacts.digest_json(listed)
        with _reaching(self.url, "written"):
            if self._has(digest, len(tree.encode())):
                return digest
            logger.info("storing %d files for tasks in %s", len(files), self.url)
            with ThreadPoolExecutor(_REQUESTS if self._writes_whole else 1) as pool:
                for _ in pool.map(self._put_file, files.values()):
                    pass
            self._write(digest, tree.encode())
        return digest

    def get(self, digest: str, folder: Path) -> dict[str, str]:
        """Copy a tree's files into a folder and check each.

        Args:
            digest: The tree's.
            folder: Receives them; made where it is not there.

        Returns:
            SHA-256 of every file, by name.

        Raises:
            ArtifactError: The store cannot be read, or an object is missing or damaged.
        """
        with _reaching(self.url, "read"):
            text = cast(bytes, self.filesystem.cat_file(self._place(digest)))
        files: dict[str, str] = {}
        if _is_json_object(text):
            files = json.loads(text)
        if artifacts.digest_json(files) != digest:
            raise ArtifactError(f"{self._object(digest)} is damaged; {_remedy(self.url)}.")
        if not all(_is_below(name) and _is_digest(own) for name, own in files.items()):
            raise ArtifactError(
                f"{self._object(digest)} is no list of files of a folder; {_remedy(self.url)}."
            )
        folder.mkdir(parents=True, exist_ok=True)
        copies = {name: folder / name for name in files}
        for parent in {path.parent for path in copies.values()}:
            parent.mkdir(parents=True, exist_ok=True)
        with _reaching(self.url, "read"):
            if files:
                self.filesystem.get(
                    [self._place(own) for own in files.values()],
                    [str(path) for path in copies.values()],
                )
        for name, own in files.items():
            if artifacts.digest_file(copies[name]) != own:
                raise ArtifactError(
                    f"{self._object(own)} is damaged: it is not the {name} that was stored; "
                    f"{_remedy(self.url)}."
                )
        return files

    @property
    def _writes_whole(self) -> bool:
        protocol = self.filesystem.protocol
        return not _WHOLE_WRITES.isdisjoint([protocol] if isinstance(protocol, str) else protocol)

    def _put_file(self, file: tuple[Path, str]) -> None:
        path, digest = file
        if self._has(digest, path.stat().st_size):
            return
        if artifacts.digest_file(path) != digest:
            raise ArtifactError(
                f"{path} changed since it was finished; delete its folder and run the same command "
                "again."
            )
        self._write(digest, path)

    def _place(self, digest: str) -> str:
        return f"{self.root}/{_OBJECTS}/{digest[:2]}/{digest}"

    def _object(self, digest: str) -> str:
        return f"{self.url}/{_OBJECTS}/{digest[:2]}/{digest}"

    def _has(self, digest: str, n_bytes: int) -> bool:
        """Tell whether an object is there; half of one is not where writes may be cut off."""
        try:
            return int(self.filesystem.info(self._place(digest))["size"] or 0) == n_bytes
        except FileNotFoundError:
            return False

    def _write(self, digest: str, content: Path | bytes) -> None:
        place = self._place(digest)
        aside = place if self._writes_whole else f"{place}.{uuid.uuid4().hex}"
        self._make_folder(aside)
        if isinstance(content, bytes):
            self.filesystem.pipe_file(aside, content)
        else:
            self.filesystem.put_file(str(content), aside)
        if aside != place:
            self.filesystem.mv(aside, place)

    def _make_folder(self, path: str) -> None:
        """Make the folder of a file; object stores have none, and may try to make a bucket."""
        if not self._writes_whole:
            self.filesystem.makedirs(posixpath.dirname(path), exist_ok=True)


def _is_json_object(text: bytes) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _is_below(name: str) -> bool:
    """Tell whether a name leads to a file of the folder it is looked up in."""
    return all(part not in ("", ".", "..") for part in name.split("/"))


def _is_digest(own: object) -> bool:
    return isinstance(own, str) and re.fullmatch("[0-9a-f]{64}", own) is not None


@contextmanager
def _reaching(url: str, what: str) -> Iterator[None]:
    """Say which store failed and where, whatever its file system raises."""
    try:
        yield
    except CuveeError:
        raise
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{socket.gethostname()} misses an object of the store {url} ({error}). Every node "
            f"must reach the same store; if it does, {_remedy(url)}."
        ) from error
    except Exception as error:
        if getattr(error, "errno", None) in _FULL:
            raise ArtifactError(
                f"no space is left on {socket.gethostname()} or in the store {url} ({error}); make "
                "room, then run the same command again."
            ) from error
        raise ArtifactError(_said(url, what, error)) from error


def _shown(url: str) -> str:
    """Return a URL without the name and password of who reads it."""
    user = r"(?<=://)[^/]*:[^/]*@"
    return re.sub(user, "", url)


def _said(url: str, what: str, error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return (
        f"the store {url} cannot be {what} from {socket.gethostname()} ({reason}). Correct --store "
        "or the credentials that fsspec takes, on every node; then run the same command again."
    )


def _remedy(url: str) -> str:
    return f"empty {url} and run the same command again, which stores anew what tasks need"
