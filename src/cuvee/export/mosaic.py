"""MosaicML Streaming and llm-foundry: MDS shards of packed samples, and streams to mix.

Samples are packed here, since llm-foundry cuts off whatever is longer than a sequence.

Source: mosaicml/streaming, streaming/base/format/mds/writer.py; llm-foundry, data/text_data.py.
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
from cuvee.config import to_yaml
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

_SPLIT = "train"
_SIZE_LIMIT = 1 << 26


@dataclass(frozen=True, slots=True)
class Mosaic:
    """A stream a set, of samples of one length; as many samples of each are chosen as it has."""

    name: str = "mds"
    title: str = "MosaicML Streaming, llm-foundry"
    content: Content = "tokens"
    layouts: tuple[Layout, ...] = ("domains", "mixed")
    max_sets: int | None = None

    def smallest(self, config: ExportConfig) -> int:
        """A stream has at least a whole sample."""
        return config.context

    def check(self, place: Place) -> None:
        """Take any path."""

    @contextmanager
    def writer(self, folder: Path, files: FileSet, place: Place) -> Iterator[PackedSamples]:
        """Write ``data/<set>/train/shard.*.mds`` and ``index.json``."""
        name = f"data/{files.name}/{_SPLIT}"
        (folder / name).mkdir(parents=True)
        shards: list[Json] = []
        config = _shard_config(place.config.context)
        packed = PackedSamples(
            place,
            length=place.config.context,
            name_of=lambda number: f"{name}/{_basename(number)}",
            write=lambda number, samples: shards.append(
                _write_shard(folder / name / _basename(number), samples, config)
            ),
        )
        with closing(packed):
            yield packed
        text = json.dumps({"version": 2, "shards": shards}, sort_keys=True)
        artifacts.write_text(folder / name / "index.json", text)

    def describe(self, folder: Path, sets: Sequence[FileSet], place: Place) -> Mapping[str, Json]:
        """Write ``streams.yaml``, of exact counts, and ``streams-proportion.yaml``, of shares.

        A stream's share of samples is its share of tokens, all samples being of one length. By
        proportions a stream may get one sample more or fewer: they are rounded at random.
        """
        length = place.config.context
        for phase, own in enumerate(by_phase(sets, place)):
            samples = [n_samples(one.n_tokens, length) for one in own]
            total = sum(samples)
            chosen: list[dict[str, Json]] = [{"choose": number} for number in samples]
            shares: list[dict[str, Json]] = [{"proportion": number / total} for number in samples]
            suffix = phase_suffix(phase, place)
            _write_streams(folder / f"streams{suffix}.yaml", own, chosen, place, {})
            _write_streams(
                folder / f"streams-proportion{suffix}.yaml",
                own,
                shares,
                place,
                {"epoch_size": total},
            )
        filled = {one.name: n_filled(one.n_tokens, length) for one in sets}
        return {
            "dtype": "int32",
            "filled_tokens": filled,
            "notes": filled_note(filled),
            "usage": f"train_loader of {place.root}/streams{phase_suffix(0, place)}.yaml",
        }

    def lengths(self, folder: Path, files: FileSet, place: Place) -> Iterator[IntArray]:
        """Read all shards of the index again."""
        own = folder / "data" / files.name / _SPLIT
        yield from document_lengths(_tokens(own, place.config.context), files, place)


def _write_streams(
    path: Path,
    sets: Sequence[FileSet],
    mixed: Sequence[Mapping[str, Json]],
    place: Place,
    more: Mapping[str, Json],
) -> None:
    streams: dict[str, Json] = {
        one.name: {
            "local": f"{place.root}/data/{one.name}",
            "remote": None,
            "split": _SPLIT,
            **share,
        }
        for one, share in zip(sets, mixed, strict=True)
    }
    dataset: dict[str, Json] = {
        "streams": streams,
        "max_seq_len": place.config.context,
        "batching_method": "stratified",
        "eos_token_id": place.end_of_text,
        **more,
    }
    artifacts.write_text(path, to_yaml({"train_loader": {"dataset": dataset}}))


def _basename(number: int) -> str:
    return f"shard.{number:05d}.mds"


def _shard_config(length: int) -> dict[str, Json]:
    return {
        "column_encodings": [f"ndarray:int32:{length}"],
        "column_names": ["tokens"],
        "column_sizes": [4 * length],
        "compression": None,
        "format": "mds",
        "hashes": [],
        "size_limit": _SIZE_LIMIT,
        "version": 2,
    }


def _write_shard(path: Path, samples: SampleArray, config: Mapping[str, Json]) -> Json:
    """Write number of samples, their offsets, the config and the samples; return the entry."""
    head = json.dumps(config, sort_keys=True).encode("utf-8")
    first = 4 + 4 * (len(samples) + 1) + len(head)
    offsets = first + np.arange(len(samples) + 1, dtype=np.int64) * samples.shape[1] * 4
    with path.open("wb") as file:
        file.write(np.uint32(len(samples)).tobytes())
        file.write(offsets.astype("<u4").tobytes())
        file.write(head)
        file.write(samples.astype("<i4", copy=False).tobytes())
    return {
        **config,
        "raw_data": {"basename": path.name, "bytes": int(offsets[-1]), "hashes": {}},
        "samples": len(samples),
        "zip_data": None,
    }


def _tokens(folder: Path, length: int) -> Iterator[np.ndarray[Any, np.dtype[np.int32]]]:
    index = cast(dict[str, Any], artifacts.read_json(folder / "index.json"))
    for entry in index["shards"]:
        path = folder / entry["raw_data"]["basename"]
        number, size = entry["samples"], 4 * length
        shard = np.memmap(path, dtype=np.uint8, mode="r")
        if len(shard) != entry["raw_data"]["bytes"] or shard[:4].view("<u4")[0] != number:
            raise DataError(f"{path} is not what its index.json says. Export again.")
        offsets = shard[4 : 4 + 4 * (number + 1)].view("<u4").astype(np.int64)
        if np.any(np.diff(offsets) != size) or offsets[-1] != len(shard):
            raise DataError(f"{path} is not what its index.json says. Export again.")
        yield np.frombuffer(shard[int(offsets[0]) :].tobytes(), dtype="<i4")
