"""LitData and LitGPT: chunks for ``TokensLoader``, mixed as they stand, or combined by weights.

Source: Lightning-AI/litdata, src/litdata/streaming/writer.py and item_loader.py.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from cuvee import artifacts
from cuvee.arrays import IntArray
from cuvee.artifacts import Json
from cuvee.errors import DataError
from cuvee.export.exporter import (
    Content,
    ExportConfig,
    FileSet,
    Layout,
    Place,
    by_phase,
    phase_suffix,
)
from cuvee.export.samples import PackedSamples, SampleArray, filled_note, n_filled, n_samples
from cuvee.export.tokens_file import document_lengths

_INT32 = 16
"""Position of int32 in LitData's list of types, where a later name of a type wins."""
_LEAF = '[1, {"type": null, "context": null, "children_spec": []}]'
"""A tensor alone, as PyTorch writes the shape of nested data."""
_SNIPPET = '''"""Stream the sets by their weights, with litdata."""

from litdata import CombinedStreamingDataset, StreamingDataset, TokensLoader

BLOCK = {block}  # LitGPT reads a sequence and the token after it
WEIGHTS = {weights}


def make_dataset(root={root!r}):
    """Return the sets, drawn from by weights; an epoch ends with the first set that does."""
    sets = [
        StreamingDataset(f"{{root}}/data/{{name}}", item_loader=TokensLoader(BLOCK), shuffle=True)
        for name in WEIGHTS
    ]
    return CombinedStreamingDataset(
        sets, weights=list(WEIGHTS.values()), seed=0, iterate_over_all=False
    )
'''


@dataclass(frozen=True, slots=True)
class Lit:
    """A folder of chunks a set; LitGPT reads one folder without weights, so mixed comes first."""

    name: str = "litdata"
    title: str = "LitData, LitGPT"
    content: Content = "tokens"
    layouts: tuple[Layout, ...] = ("mixed", "domains")
    max_sets: int | None = None

    def smallest(self, config: ExportConfig) -> int:
        """A block is one sequence and the token after it."""
        return config.context + 1

    def check(self, place: Place) -> None:
        """Take any path."""

    @contextmanager
    def writer(self, folder: Path, files: FileSet, place: Place) -> Iterator[PackedSamples]:
        """Write ``data/<set>/chunk-0-*.bin`` and ``index.json``."""
        name = f"data/{files.name}"
        (folder / name).mkdir(parents=True)
        chunks: list[Json] = []
        packed = PackedSamples(
            place,
            length=place.config.context + 1,
            name_of=lambda number: f"{name}/{_basename(number)}",
            write=lambda number, samples: chunks.append(
                _write_chunk(folder / name / _basename(number), samples)
            ),
        )
        with closing(packed):
            yield packed
        config: Json = {
            "chunk_bytes": min(place.config.file_bytes, 64 << 20),
            "chunk_size": None,
            "compression": None,
            "data_format": [f"no_header_tensor:{_INT32}"],
            "data_spec": _LEAF,
            "encryption": None,
            "item_loader": "TokensLoader",
        }
        text = json.dumps({"chunks": chunks, "config": config}, sort_keys=True)
        artifacts.write_text(folder / name / "index.json", text)

    def describe(self, folder: Path, sets: Sequence[FileSet], place: Place) -> Mapping[str, Json]:
        """Write ``dataset.py`` where there is something to mix."""
        block = place.config.context + 1
        if place.layout == "domains":
            for phase, own in enumerate(by_phase(sets, place)):
                samples = {one.name: n_samples(one.n_tokens, block) for one in own}
                total = sum(samples.values())
                weights = {name: number / total for name, number in samples.items()}
                text = _SNIPPET.format(block=block, weights=weights, root=place.root)
                artifacts.write_text(folder / f"dataset{phase_suffix(phase, place)}.py", text)
            usage = f"make_dataset of {place.root}/dataset{phase_suffix(0, place)}.py"
        else:
            usage = (
                f"litgpt pretrain --data LitData --data.data_path {place.root}/data/{sets[0].name}"
            )
        filled = {one.name: n_filled(one.n_tokens, block) for one in sets}
        return {
            "dtype": "int32",
            "block": block,
            "filled_tokens": filled,
            "notes": filled_note(filled),
            "usage": usage,
        }

    def lengths(self, folder: Path, files: FileSet, place: Place) -> Iterator[IntArray]:
        """Read all chunks of the index again."""
        tokens = _tokens(folder / "data" / files.name, place.config.context + 1)
        yield from document_lengths(tokens, files, place)


def _basename(number: int) -> str:
    return f"chunk-0-{number}.bin"


def _write_chunk(path: Path, samples: SampleArray) -> Json:
    """Write a chunk of a single item: number of items, its bounds, its tokens; return its entry."""
    content = samples.astype("<i4", copy=False).tobytes()
    head = np.array([1, 12, 12 + len(content)], dtype="<u4")
    with path.open("wb") as file:
        file.write(head.tobytes())
        file.write(content)
    return {
        "chunk_bytes": len(content),
        "chunk_size": 1,
        "dim": int(samples.size),
        "filename": path.name,
    }


def _tokens(folder: Path, block: int) -> Iterator[np.ndarray[Any, np.dtype[np.int32]]]:
    index = cast(dict[str, Any], artifacts.read_json(folder / "index.json"))
    for entry in index["chunks"]:
        path = folder / entry["filename"]
        found = np.fromfile(path, dtype="<i4", offset=4 * (entry["chunk_size"] + 2))
        if len(found) != entry["dim"] or len(found) % block:
            raise DataError(f"{path} is not what its index.json says. Export again.")
        yield found
