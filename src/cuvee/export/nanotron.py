"""nanotron: ``.ds`` tokens as datatrove writes them, and the stages of a config.

Source: datatrove, pipeline/tokens/tokenizer.py; nanotron, config/config.py (NanosetDatasetsArgs).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from cuvee import artifacts
from cuvee.arrays import IntArray
from cuvee.artifacts import Json
from cuvee.config import to_yaml
from cuvee.errors import ConfigError, DataError
from cuvee.export.cutting import TokenFiles, files_of, read_files, unread_note
from cuvee.export.exporter import (
    Content,
    ExportConfig,
    FileSet,
    Layout,
    Place,
    by_phase,
    token_shares,
)
from cuvee.export.tokens_file import document_lengths


@dataclass(frozen=True, slots=True)
class Nanotron:
    """A folder of token files a set; folders and weights as two lists, which is what is read."""

    name: str = "nanotron"
    title: str = "nanotron"
    content: Content = "tokens"
    layouts: tuple[Layout, ...] = ("domains", "mixed")
    max_sets: int | None = None

    def smallest(self, config: ExportConfig) -> int:
        """A sample is one sequence and the token after it."""
        return config.context + 1

    def check(self, place: Place) -> None:
        """Refuse phases without a batch: nanotron begins them at steps."""
        if place.n_phases > 1 and place.config.batch_tokens is None:
            raise ConfigError(
                f"the selection has {place.n_phases} phases and nanotron begins each at a step. "
                "Give --batch-tokens, the tokens of a training step."
            )

    @contextmanager
    def writer(self, folder: Path, files: FileSet, place: Place) -> Iterator[TokenFiles]:
        """Write ``data/<set>/part-*.ds``, ``.ds.index`` and ``.ds.metadata``."""
        tokenizer = f"{place.root}/tokenizer"
        writer = TokenFiles(
            folder,
            f"data/{files.name}",
            suffix=".ds",
            dtype=place.dtype,
            file_bytes=place.config.file_bytes,
            on_close=partial(_write_sides, tokenizer=tokenizer, size=place.dtype.itemsize),
        )
        with closing(writer):
            yield writer

    def describe(self, folder: Path, sets: Sequence[FileSet], place: Place) -> Mapping[str, Json]:
        """Write ``data_stages.yaml``, to be put into a training config."""
        stages: list[Json] = []
        before = 0
        for phase, own in enumerate(by_phase(sets, place)):
            step = 1 if phase == 0 else 1 + round(before / (place.config.batch_tokens or 1))
            stages.append(
                data_stage(
                    phase,
                    step,
                    folders=[f"{place.root}/data/{one.name}" for one in own],
                    shares=token_shares(own),
                    tokenizer=f"{place.root}/tokenizer",
                    vocabulary_size=place.vocabulary_size,
                )
            )
            before += sum(one.n_tokens for one in own)
        artifacts.write_text(folder / "data_stages.yaml", to_yaml({"data_stages": stages}))
        sample_bytes = (place.config.context + 1) * place.dtype.itemsize
        return {
            "dtype": place.dtype.name,
            "notes": unread_note(folder, sets, ".ds", sample_bytes),
            "usage": f"data_stages of {place.root}/data_stages.yaml in the training config",
        }

    def lengths(self, folder: Path, files: FileSet, place: Place) -> Iterator[IntArray]:
        """Read tokens and index again; both must tell the same documents."""
        paths = files_of(folder, f"data/{files.name}", ".ds")
        listed = np.concatenate([_read_index(path) for path in paths])
        done = 0
        for found in document_lengths(read_files(paths, place.dtype), files, place):
            if not np.array_equal(listed[done : done + len(found)], found):
                raise DataError(f"set {files.name!r} and its .ds.index differ. Export again.")
            done += len(found)
            yield found


def data_stage(
    phase: int,
    step: int,
    *,
    folders: Sequence[str],
    shares: Sequence[float],
    tokenizer: str,
    vocabulary_size: int,
) -> dict[str, Json]:
    """Return one entry of ``data_stages``.

    Args:
        phase: Its number, from 0.
        step: Training step at which it begins, from 1.
        folders: (n_sets,) folders of token files.
        shares: (n_sets,) token shares; sum to 1.
        tokenizer: Path of the tokenizer's folder.
        vocabulary_size: One more than the highest id; up to 65,536 ids take two bytes.
    """
    dataset: dict[str, Json] = {
        "dataset_folder": list(folders),
        "dataset_weights": list(shares),
        "tokenizer_name": tokenizer,
        "vocab_size": vocabulary_size,
        "token_size_in_bytes": 2 if vocabulary_size <= 1 << 16 else 4,
    }
    return {
        "name": f"phase {phase + 1}",
        "start_training_step": step,
        "data": {"dataset": dataset, "num_loading_workers": 1, "seed": 0},
    }


def _read_index(path: Path) -> IntArray:
    ends = np.fromfile(f"{path}.index", dtype="<u8").astype(np.int64)
    lengths: IntArray = np.diff(ends, prepend=0)
    return lengths


def _write_sides(path: Path, lengths: IntArray, *, tokenizer: str, size: int) -> None:
    """Write the documents' ends, and what the tokens are of and how many."""
    np.cumsum(lengths).astype("<u8").tofile(f"{path}.index")
    total = int(lengths.sum())
    text = f"{tokenizer}|{size}\n{total}\n{_in_words(total)}"
    artifacts.write_text(path.with_name(path.name + ".metadata"), text)


def _in_words(n_tokens: int) -> str:
    for unit, name in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "K")):
        if n_tokens >= unit:
            return f"{n_tokens / unit:.2f} {name}T"
    return f"{n_tokens} T"
