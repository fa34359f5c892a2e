"""A stage's folder: written aside, described by a manifest, complete when it bears its name.

A folder is filled under ``<name>.<writer>.partial`` and renamed when done, so a killed job leaves
nothing that looks finished; the same command removes the remains and goes on. Each writer has a
name of its own: a worker that a cluster gave up for lost may still write, and must not meet the one
that took its place. Wall-clock figures go to ``timing.json`` and logs to ``*.log``: neither is part
of the artefact's digest.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, TypeAlias, cast

from cuvee.errors import ArtifactError

Json: TypeAlias = bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"] | None

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
DONE = "done"
TIMING = "timing.json"
_MARKS = (MANIFEST, DONE)
LOCK = ".lock"
_PATIENCE = 5.0
"""Seconds in which one who comes or goes has let go of the lock."""
_MOMENT = 0.02
_PARTIAL = ".partial"
_WRITER_DIGITS = 12


def canonical_json(value: Json) -> str:
    """Write JSON with sorted keys and no NaN, so that equal values are equal text.

    Raises:
        ValueError: A number is NaN or infinite.
    """
    return json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False, indent=1) + "\n"


def digest_json(value: Json) -> str:
    """Return the SHA-256 of a JSON value, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode("utf-8")).hexdigest()


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Json) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, canonical_json(value))


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    aside = path.with_name(path.name + _PARTIAL)
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> Json:
    """Read a JSON file.

    Raises:
        ArtifactError: The file is missing or not JSON.
    """
    try:
        value: Json = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} does not exist; run the stage that writes it.") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"{path} is not valid JSON ({error}). Delete its folder and run the command again."
        ) from error
    return value


@contextmanager
def writing(
    folder: Path,
    *,
    stage: str,
    settings: Json,
    seed: int,
    inputs: Mapping[str, str],
    known: Mapping[str, str] | None = None,
) -> Iterator[Path]:
    """Fill a stage's folder; on success it appears under its own name, complete.

    Args:
        folder: Where the artefact will stand. Must not be finished yet.
        stage: The stage's name, a verb of the command line.
        settings: What the artefact depends on, as JSON.
        seed: The run's seed.
        inputs: Digests of the artefacts read, by name.
        known: SHA-256 of files that need not be read again, by path below the folder; may be filled
            inside the block.

    Yields:
        The folder to write into, ``<folder>.<writer>.partial``, empty.

    Raises:
        ArtifactError: The folder is already finished, or holds files that are no artefact; or
            another writer took this one's place and did not make the same.
    """
    with _aside_of(folder) as (aside, own):
        yield aside
        manifest: dict[str, Json] = {
            "format_version": FORMAT_VERSION,
            "stage": stage,
            "settings": settings,
            "seed": seed,
            "inputs": dict(inputs),
            "files": file_digests(aside, known or {}),
        }
        write_json(aside / MANIFEST, manifest)
        (aside / DONE).write_text(digest_json(manifest) + "\n", encoding="utf-8")
        _finish(aside, own, folder, digest=digest_json(manifest))


@contextmanager
def receiving(folder: Path, *, known: Mapping[str, str]) -> Iterator[Path]:
    """Take over an artefact that was finished elsewhere; it appears under its name, checked.

    Args:
        folder: Where the artefact will stand. Must not be finished yet.
        known: SHA-256 of files that need not be read again, as of `writing`.

    Yields:
        The folder to copy it into, done mark and all, ``<folder>.<writer>.partial``, empty.

    Raises:
        ArtifactError: As of `writing`; or the copy is not what its manifest and its mark say.
    """
    with _aside_of(folder) as (aside, own):
        yield aside
        manifest = cast(Mapping[str, Json], read_json(aside / MANIFEST))
        made = {name: one for name, one in file_digests(aside, known).items() if name not in _MARKS}
        if manifest.get("files") != made or digest_json(manifest) != digest_of(aside):
            raise ArtifactError(
                f"what came for {folder} is not what its manifest says; run the same command again."
            )
        _finish(aside, own, folder, digest=digest_json(manifest))


def file_digests(folder: Path, known: Mapping[str, str]) -> dict[str, str]:
    """Return the SHA-256 of an artefact's files by path below it, without timings and logs.

    Args:
        folder: Any folder.
        known: Digests of files that need not be read.
    """
    names = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != TIMING and path.suffix != ".log"
    }
    return {name: known.get(name) or digest_file(path) for name, path in names.items()}


def is_done(folder: Path) -> bool:
    """Tell whether a stage's folder is complete."""
    return (folder / DONE).is_file()


def digest_of(folder: Path) -> str:
    """Return the digest of a finished artefact: settings, seed, inputs and files.

    Raises:
        ArtifactError: The folder is not finished.
    """
    try:
        return (folder / DONE).read_text(encoding="utf-8").strip()
    except FileNotFoundError as error:
        raise ArtifactError(f"{folder} is not finished; run the stage that writes it.") from error


def require(folder: Path, *, made_by: str) -> Path:
    """Return a finished stage's folder.

    Args:
        folder: The stage's folder.
        made_by: The command that makes it, for the message.

    Raises:
        ArtifactError: It is not finished.
    """
    if not is_done(folder):
        raise ArtifactError(f"{folder} is missing or unfinished; run `{made_by}` first.")
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process, so that two commands never write the same artefacts.

    Nothing remains of the lock, nor of a folder that was made for it and stayed empty.

    Raises:
        ArtifactError: Another process holds it, or a part of it; or it is a file.
    """
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ArtifactError(f"{folder} is not a folder; choose another --out.") from error
    try:
        with _held(folder / LOCK, what=str(folder)):
            yield
    finally:
        if is_new and folder.exists() and next(folder.iterdir(), None) is None:
            folder.rmdir()


@contextmanager
def locked_part(folder: Path, *, part: str, division: str) -> Iterator[None]:
    """Hold one part of a folder's work; others may hold its other parts meanwhile.

    Args:
        folder: The folder.
        part: Name of the part, as part of a file's name.
        division: What the parts are of, in words; parts of two divisions are never held at once.

    Raises:
        ArtifactError: Another process holds the part, the whole folder, or a part of another
            division.
    """
    with (
        _held_together(folder / LOCK, holders=division),
        _held(folder / f"{LOCK}-{part}", what=f"{part} of {folder}"),
    ):
        yield


@contextmanager
def _held(lock: Path, *, what: str) -> Iterator[None]:
    """Hold a lock file alone, and remove it in the end."""
    while True:
        with lock.open("a+", encoding="utf-8") as file:
            if not _take(file, fcntl.LOCK_EX):
                raise _in_use(what, file)
            if _is_at(lock, file):
                _say(file, f"process {os.getpid()}")
                try:
                    yield
                finally:
                    lock.unlink(missing_ok=True)
                return


@contextmanager
def _held_together(lock: Path, *, holders: str) -> Iterator[None]:
    """Hold a lock file beside others that say the same of themselves; the last one removes it.

    The file names its holders. It is written only by one who holds it alone, so what is read while
    it is held together stands.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        with lock.open("a+", encoding="utf-8") as file:
            if _take(file, fcntl.LOCK_EX) and _is_at(lock, file):
                _say(file, holders)
            if _take(file, fcntl.LOCK_SH) and _is_at(lock, file):
                if _said(file) != holders:
                    raise _in_use(str(lock.parent), file)
                try:
                    yield
                finally:
                    if _take(file, fcntl.LOCK_EX):
                        lock.unlink(missing_ok=True)
                return
            # Somebody holds it alone: a whole command, or for a moment one who comes or goes.
            if time.monotonic() > deadline:
                raise _in_use(str(lock.parent), file)
        time.sleep(_MOMENT)


def _take(file: TextIO, kind: int) -> bool:
    """Lock a file now or not at all; a lock of the other kind that this process had on it is lost.

    So whoever takes both kinds in turn must look again who holds the file.
    """
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _say(file: TextIO, holder: str) -> None:
    file.truncate(0)
    file.write(holder)
    file.flush()


def _said(file: TextIO) -> str:
    file.seek(0)
    return file.read().strip()


def _in_use(what: str, file: TextIO) -> ArtifactError:
    return ArtifactError(
        f"{what} is in use by {_said(file) or 'another process'}; wait for it, stop it, or choose "
        "another --out."
    )


def _is_at(path: Path, file: TextIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


@contextmanager
def _aside_of(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Make the folder that this writer fills, and remove it should anything fail."""
    _check_free(folder)
    _remove_remains(folder)
    aside = _own_aside(folder)
    aside.mkdir(parents=True)
    try:
        yield aside, aside.stat()
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _check_free(folder: Path) -> None:
    """Refuse to write over anything: a folder of ours bears its own name only when finished."""
    if is_done(folder):
        raise ArtifactError(f"{folder} is already finished; delete it to make it again.")
    if folder.exists() and not (folder.is_dir() and next(folder.iterdir(), None) is None):
        raise ArtifactError(
            f"{folder} exists and is not a finished artefact; cuvee writes over nothing. "
            "Choose another --out, or delete it if it is not needed."
        )


def _own_aside(folder: Path) -> Path:
    writer = uuid.uuid4().hex[:_WRITER_DIGITS]
    return folder.with_name(f"{folder.name}.{writer}{_PARTIAL}")


def _remove_remains(folder: Path) -> None:
    """Remove what earlier writers left, each under a name first that its writer does not know.

    Should one of them live, it then fails instead of finishing a folder that is half removed.
    """
    if not folder.parent.is_dir():
        return
    ours = re.compile(
        re.escape(folder.name) + rf"(\.[0-9a-f]{{{_WRITER_DIGITS}}})?" + re.escape(_PARTIAL)
    )
    for one in [path for path in folder.parent.iterdir() if ours.fullmatch(path.name)]:
        away = _own_aside(folder)
        try:
            one.rename(away)
        except FileNotFoundError:  # its writer has just finished or failed
            continue
        shutil.rmtree(away)


def _finish(aside: Path, own: os.stat_result, folder: Path, *, digest: str) -> None:
    """Give a folder its name, unless another writer did so before."""
    try:
        if not os.path.samestat(own, aside.stat()):
            raise FileNotFoundError(aside)
        aside.replace(folder)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        if is_done(folder) and digest_of(folder) == digest:
            return
        raise ArtifactError(
            f"{folder} was being written by another process as well ({error}); run the same "
            "command again when that one has ended."
        ) from error
