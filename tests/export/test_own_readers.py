"""Exports opened by the trainers' own packages, where they are installed.

None of them is installed in the gate. docs/experiments.md has the versions these tests passed with.
"""

import json
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

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


def test_olmo_reads_what_was_written(made: Any, export: Any, readers: Any) -> None:
    """The mixture builds, and its instances are the sequences of every file, ends of files apart.

    What export.json notes as unread is what OLMo-core leaves out, and no more.
    """
    package = pytest.importorskip("olmo_core.data", reason="ai2-olmo-core is not installed")
    from olmo_core.data.source_mixture import SourceMixtureDatasetConfig, SourceMixtureList

    folder, context, end = export("olmo"), 32, made.encoder.end_of_text
    (requested,) = json.loads((folder / "export.json").read_text())["facts"]["requested_tokens"]
    sources = SourceMixtureList.from_yaml(str(folder / "source_mixture.yaml"))
    dataset = package.NumpyFSLDatasetConfig.from_src_mix(
        SourceMixtureDatasetConfig(
            source_list=sources,
            requested_tokens=requested,
            global_batch_size=context,
            render_tables=False,
            quiet=True,
        ),
        sequence_length=context,
        tokenizer=package.TokenizerConfig(vocab_size=300, eos_token_id=end, pad_token_id=end),
        dtype=package.NumpyDatasetDType.uint16,
        work_dir=str(folder.parent / "work"),
        include_instance_metadata=False,
    ).build()
    dataset.prepare()
    found = sorted(tuple(row["input_ids"].tolist()) for row in dataset)
    plain = []
    for path in (path for one in sources.sources for path in one.paths):
        ids = np.memmap(path, dtype=np.uint16, mode="r")
        plain += [tuple(row) for row in ids[: len(ids) // context * context].reshape(-1, context)]
    assert found == sorted(plain)
    n_tokens = sum(made.realised.values())
    (note,) = json.loads((folder / "export.json").read_text())["notes"]
    assert note.endswith(f"and not read: {1 - len(found) * context / n_tokens:.4%} of tokens")


def test_streaming_reads_what_was_written(made: Any, export: Any, readers: Any) -> None:
    """StreamingDataset of MosaicML chooses every sample of every stream once an epoch."""
    package = pytest.importorskip("streaming", reason="mosaicml-streaming is not installed")
    folder = export("mds")
    streams = yaml.safe_load((folder / "streams.yaml").read_text())["train_loader"]["dataset"]
    length, end, found = streams["max_seq_len"], made.encoder.end_of_text, Counter[str]()
    plain, samples = readers["mds"](folder, end), Counter[bytes]()
    for name, one in streams["streams"].items():
        own = package.StreamingDataset(
            streams=[package.Stream(**one)], batch_size=1, shuffle=False, num_canonical_nodes=1
        )
        rows = [row["tokens"] for row in own]
        samples.update(row.tobytes() for row in rows)
        ids = np.concatenate(rows).tolist()
        stream = [token for document in plain[name] for token in document]
        assert ids == stream + [end] * (len(ids) - len(stream))
        assert 0 <= len(ids) - len(stream) < length
        found[name] = len(stream)
    assert found.total() == sum(made.realised.values())
    whole = package.StreamingDataset(
        streams=[package.Stream(**one) for one in streams["streams"].values()],
        batch_size=1,
        shuffle=True,
    )
    assert Counter(row["tokens"].tobytes() for row in whole) == samples


def test_torchtitan_reads_what_was_written(made: Any, export: Any) -> None:
    """The recipe registers every set; a document of n tokens gives n - 1 pairs to learn from."""
    package = pytest.importorskip(
        "torchtitan.hf_datasets.text_datasets", reason="torchtitan is not installed"
    )
    from torchtitan.components.tokenizer import HuggingFaceTokenizer

    folder = export("torchtitan")
    recipe = runpy.run_path(str(folder / "dataloader.py"))
    tokenizer = HuggingFaceTokenizer(tokenizer_path=str(folder / "tokenizer"))
    assert tokenizer.eos_id == made.encoder.end_of_text
    about = json.loads((folder / "domains.json").read_text())["sets"]
    assert set(recipe["WEIGHTS"]) == set(about)
    for name, one in about.items():
        rows = list(package.HuggingFaceTextDataset(name, None, tokenizer, seq_len=1))
        n_documents = sum(made.mixture["domains"][domain]["copies"] for domain in one["domains"])
        assert sum(len(labels) for _, labels in rows) + n_documents == one["tokens"]
    loader = recipe["dataloader"].build(
        dp_world_size=1, dp_rank=0, tokenizer=tokenizer, seq_len=32, local_batch_size=2
    )
    taken, _ = next(iter(loader))
    assert taken["input"].shape == (2, 32)


@pytest.mark.parametrize("layout", ["mixed", "domains"])
def test_llama_factory_reads_what_was_written(layout: str, made: Any, export: Any) -> None:
    """Its own settings give every document once, mixed or interleaved; packed, no batch more."""
    package = pytest.importorskip("llamafactory.data", reason="llamafactory is not installed")
    from llamafactory.hparams import get_train_args
    from transformers import AutoTokenizer

    folder = export("llama-factory", layout=layout)
    settings = yaml.safe_load((folder / "train.yaml").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    own = {
        "model_name_or_path": "none",
        "finetuning_type": "full",
        "do_train": True,
        "output_dir": str(folder.parent / "trained"),
        "max_steps": 1,
    }

    def read(**changed: Any) -> list[tuple[int, ...]]:
        model, data, training, _, _ = get_train_args({**own, **settings, **changed})
        found = package.get_dataset(None, model, data, training, settings["stage"], tokenizer)
        return [tuple(row["input_ids"]) for row in found["train_dataset"]]

    assert Counter(read(packing=False, cutoff_len=1 << 20)) == Counter(
        tuple(made.ids(str(row["text"]))) for row in made.rows
    )
    packed = read()
    assert {len(one) for one in packed} == {settings["cutoff_len"]}
    left = sum(made.realised.values()) - sum(map(len, packed))
    assert 0 <= left < settings["cutoff_len"]


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
