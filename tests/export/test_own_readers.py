"""Exports opened by the trainers' own packages, where they are installed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.filterwarnings("ignore")  # the packages' own


def test_megatron_reads_what_was_written(made: Any, export: Any, readers: Any) -> None:
    """IndexedDataset gives every document of every prefix of the blend."""
    package = pytest.importorskip(
        "megatron.core.datasets.indexed_dataset", reason="megatron-core is not installed"
    )
    folder = export("megatron")
    found = {
        Path(prefix).name: [one.tolist() for one in package.IndexedDataset(prefix)]
        for prefix in (folder / "blend.txt").read_text().split()[1::2]
    }
    _check(found, made, readers["megatron"](folder, made.encoder.end_of_text))


def test_litdata_reads_what_was_written(made: Any, export: Any, readers: Any) -> None:
    """StreamingDataset gives every block of every set, in any order."""
    package = pytest.importorskip("litdata", reason="litdata is not installed")
    folder = export("litdata")
    block = 33
    found = {}
    for own in sorted((folder / "data").iterdir()):
        loader = package.TokensLoader(block_size=block)
        blocks = package.StreamingDataset(str(own), item_loader=loader, drop_last=False)
        found[own.name] = sorted(tuple(one.tolist()) for one in blocks)
    plain = _litdata_blocks(folder, block)
    assert found == plain
    documents = readers["litdata"](folder, made.encoder.end_of_text)
    assert set(found) == set(documents)


def test_nanotron_reads_what_was_written(made: Any, export: Any, readers: Any) -> None:
    """Datatrove's DatatroveFolderDataset gives the tokens of every set in their order."""
    package = pytest.importorskip("datatrove.utils.dataset", reason="datatrove is not installed")
    folder = export("nanotron", file_bytes=1 << 20)  # sequences do not cross files
    documents = readers["nanotron"](folder, made.encoder.end_of_text)
    for name, own in documents.items():
        (path,) = folder.glob(f"**/{name}")
        rows = package.DatatroveFolderDataset(str(path), seq_len=32)
        read = np.concatenate([np.asarray(one["input_ids"]) for one in rows])
        stream = [token for document in own for token in document]
        assert read.tolist() == stream[: len(read)]
        assert 0 <= len(stream) - len(read) < 33


def _litdata_blocks(folder: Path, block: int) -> dict[str, list[tuple[int, ...]]]:
    """Cut the chunks by their layout."""
    found: dict[str, list[tuple[int, ...]]] = {}
    for own in sorted((folder / "data").iterdir()):
        rows = found.setdefault(own.name, [])
        for chunk in json.loads((own / "index.json").read_text())["chunks"]:
            offset = (1 + chunk["chunk_size"] + 1) * 4
            content = np.memmap(own / chunk["filename"], mode="r", offset=offset)
            for number in range(chunk["dim"] // block):
                start = 4 * number * block
                rows.append(tuple(np.frombuffer(content, "<i4", block, start).tolist()))
        rows.sort()
    return found


def _check(found: dict[str, list[Any]], made: Any, plain: dict[str, list[Any]]) -> None:
    """Hold what a package read against the reader written from the layout, and mixture.json."""
    assert {name: sorted(own) for name, own in found.items()} == {
        name: sorted(own) for name, own in plain.items()
    }
    n_tokens = sum(len(one) for own in found.values() for one in own)
    assert n_tokens == sum(made.realised.values())
