"""One command's place of work: its folder, its guard against another config, its progress."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

import yaml

from cuvee import artifacts, config
from cuvee.artifacts import Json
from cuvee.errors import ArtifactError, ConfigError

logger = logging.getLogger(__name__)

Progress: TypeAlias = Callable[[str, int, int, str], None]
"""Called with stage, tasks done, tasks in all and a note such as the best loss so far."""

_CONFIG = "config.yaml"


def silent(stage: str, done: int, total: int, note: str) -> None:
    """Show no progress."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Where a method works and with how many hands."""

    out: Path
    """Folder of all artefacts."""
    workers: int
    """Worker processes; 0 works in this one."""
    progress: Progress = silent

    def folder(self, *parts: str) -> Path:
        """Return the folder of one stage."""
        return self.out.joinpath(*parts)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; the seconds go to timing.json in the job's folder."""
        started = time.perf_counter()
        logger.info("%s: started", name)
        yield
        seconds = time.perf_counter() - started
        path = self.out / artifacts.TIMING
        before = cast(dict[str, float], artifacts.read_json(path)) if path.exists() else {}
        total = round(before.get(name, 0.0) + seconds, 3)
        artifacts.write_json(path, {**before, name: total})
        logger.info("%s: finished in %.1f s", name, seconds)


@contextmanager
def claimed(out: Path, settings: object) -> Iterator[None]:
    """Claim a folder for the first stage; if that ends with nothing finished, let go of it again.

    So a mistake found at once, such as a misspelt path, can be corrected under the same --out.

    Raises:
        ArtifactError: As `claim`.
    """
    is_new = claim(out, settings)
    try:
        yield
    except BaseException:
        if is_new and next(out.rglob(artifacts.DONE), None) is None:
            (out / _CONFIG).unlink(missing_ok=True)
            _remove_empty_folders(out)
        raise


def claim(out: Path, settings: object) -> bool:
    """Tie a folder to a config, or check that it is tied to this one.

    Args:
        out: The folder; made if absent.
        settings: The resolved config.

    Returns:
        True where the folder was not tied before.

    Raises:
        ArtifactError: The folder was made with another config; the message names the keys. A key
            younger than the folder counts as one that stood at its default.
    """
    path = out / _CONFIG
    text = config.dump_yaml(settings)
    if path.exists():
        before = _with_defaults(yaml.safe_load(path.read_text(encoding="utf-8")), settings)
        keys = config.differing_keys(before, yaml.safe_load(text))
        if keys:
            raise ArtifactError(
                f"{out} was made with another config; different keys: {', '.join(keys)}. Choose "
                "another --out, or restore these keys."
            )
        return False
    out.mkdir(parents=True, exist_ok=True)
    strangers = sorted(one.name for one in out.iterdir() if one.name != artifacts.LOCK)
    if strangers:
        raise ArtifactError(
            f"{out} holds files that cuvee did not make ({', '.join(strangers[:3])}); choose an "
            "empty or new --out."
        )
    artifacts.write_text(path, text)
    return True


def _with_defaults(before: Json, settings: object) -> Json:
    """Give keys that a config written by an older version lacks what they stand at by default."""
    try:
        return config.dump(config.parse(type(settings), cast(Mapping[str, Json], before)))
    except ConfigError:
        return before  # a key that is gone since: compared as it stands


def _remove_empty_folders(folder: Path) -> None:
    for one in sorted(folder.rglob("*"), reverse=True):
        if one.is_dir() and next(one.iterdir(), None) is None:
            one.rmdir()
