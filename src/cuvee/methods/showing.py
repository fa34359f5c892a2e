"""Read any artefact as plain data, for people and for other programs."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq

from cuvee import artifacts
from cuvee.artifacts import Json
from cuvee.errors import ArtifactError
from cuvee.methods.swarm_text import leaderboard_lines

_MANIFEST_KEYS = ("stage", "format_version", "seed")
_ANSWERS = ("verdict.json", "optimum.json", "mixture.json", "export.json")
"""Files shown with their stage, since they are what it was run for."""
_LEADERBOARD = "leaderboard.json"
_CELL = 40


def read_artifact(path: Path, *, rows: int) -> dict[str, Json]:
    """Read a run's folder, a stage's folder, a Parquet or a JSON file.

    Args:
        path: What to read.
        rows: Most rows of a table.

    Returns:
        For a file its ``content`` or its ``columns``, ``n_rows`` and first ``rows``; for a stage
        its manifest and files, and its answer or leaderboard; for another folder the stages in it
        and whether each is done.

    Raises:
        ArtifactError: There is nothing to show there.
    """
    if path.is_dir():
        return _stage(path) if artifacts.is_done(path) else _folder(path)
    if path.suffix == ".parquet" and path.is_file():
        return _table(path, rows)
    if path.suffix == ".json" and path.is_file():
        return {"path": str(path), "content": artifacts.read_json(path)}
    raise ArtifactError(
        f"{path} is no artefact; show a folder of cuvee's, a .parquet or a .json file."
    )


def describe(found: Mapping[str, Json]) -> str:
    """Write what `read_artifact` found as text; control characters are escaped."""
    if "rows" in found:
        return _describe_table(found)
    lines: list[str] = []
    _outline({key: found[key] for key in found if key != "leaderboard"}, lines, depth=0)
    if "leaderboard" in found:
        board = cast(Mapping[str, Json], found["leaderboard"])
        lines += ["", *map(_escape, leaderboard_lines(board))]
    return "\n".join(lines)


def _folder(path: Path) -> dict[str, Json]:
    stages: dict[str, Json] = {
        one.relative_to(path).as_posix(): "done" if artifacts.is_done(one) else "unfinished"
        for one in sorted(path.iterdir())
        if one.is_dir() and not one.name.startswith(".")
    }
    if not stages:
        raise ArtifactError(f"{path} holds no artefact; give the --out folder of a run.")
    for name in stages:
        inner = [one for one in sorted((path / name).iterdir()) if one.is_dir()]
        if stages[name] == "unfinished" and inner:
            n_done = sum(artifacts.is_done(one) for one in inner)
            stages[name] = f"{n_done} of {len(inner)} parts done"
    return {"path": str(path), "stages": stages}


def _stage(path: Path) -> dict[str, Json]:
    manifest = cast(dict[str, Json], artifacts.read_json(path / artifacts.MANIFEST))
    found: dict[str, Json] = {
        "path": str(path),
        **{key: manifest[key] for key in _MANIFEST_KEYS},
        "digest": artifacts.digest_of(path),
        "files": sorted(cast(Mapping[str, str], manifest["files"])),
        "settings": manifest["settings"],
    }
    found |= {name: artifacts.read_json(path / name) for name in _ANSWERS if (path / name).exists()}
    if (path / _LEADERBOARD).exists():
        found["leaderboard"] = artifacts.read_json(path / _LEADERBOARD)
    return found


def _table(path: Path, rows: int) -> dict[str, Json]:
    try:
        with pq.ParquetFile(path) as file:
            n_rows = file.metadata.num_rows
            first = next(file.iter_batches(batch_size=rows), None)
            names = list(file.schema_arrow.names)
    except pa.ArrowInvalid as error:
        raise ArtifactError(f"{path} is not a Parquet file: {error}.") from error
    records = [] if first is None else first.to_pylist()
    return {
        "path": str(path),
        "n_rows": n_rows,
        "columns": names,
        "rows": [{key: _plain(value) for key, value in row.items()} for row in records],
    }


def _plain(value: object) -> Json:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def _describe_table(found: Mapping[str, Json]) -> str:
    columns = cast(Sequence[str], found["columns"])
    rows = cast(Sequence[Mapping[str, Json]], found["rows"])
    cells = [[_cell(row[name]) for name in columns] for row in rows]
    widths = [
        max(len(_cell(name)), *(len(row[place]) for row in cells), 0)
        for place, name in enumerate(columns)
    ]
    lines = [
        "  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True))
        for line in [[_cell(name) for name in columns], *cells]
    ]
    return "\n".join([*lines, f"{len(rows)} of {found['n_rows']} rows"])


def _cell(value: Json) -> str:
    text = f"{value:.5g}" if isinstance(value, float) else _escape(str(value))
    return text if len(text) <= _CELL else text[: _CELL - 3] + "..."


def _outline(node: Json, lines: list[str], *, depth: int) -> None:
    indent = "  " * depth
    if isinstance(node, Mapping):
        for key, value in node.items():
            if isinstance(value, (Mapping, list)) and value:
                lines.append(f"{indent}{_escape(key)}:")
                _outline(value, lines, depth=depth + 1)
            else:
                lines.append(f"{indent}{_escape(key)}: {_escape(str(value))}")
    elif isinstance(node, list):
        for value in node:
            if isinstance(value, (Mapping, list)):
                lines.append(f"{indent}-")
                _outline(value, lines, depth=depth + 1)
            else:
                lines.append(f"{indent}- {_escape(str(value))}")
    else:
        lines.append(f"{indent}{_escape(str(node))}")


def _escape(text: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
