"""What each trainer stumbles over: weights, units, paths, limits and the files' own layout."""

import ast
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from tokenizers import Tokenizer

from cuvee.errors import ConfigError
from cuvee.export.exported import Exported
from cuvee.export.exporter import ExportConfig
from cuvee.export.megatron import Megatron
from cuvee.export.selection import SelectionFiles
from cuvee.export.sets import divide
from cuvee.export.write import export_selection


def shares(made: Any) -> dict[str, float]:
    """Return shares of tokens by set, from mixture.json."""
    total = sum(made.realised.values())
    return {name: tokens / total for name, tokens in made.realised.items()}


def by_name(folder: Path, values: dict[str, float]) -> dict[str, float]:
    """Return values by set under the domain's name."""
    sets = json.loads((folder / "domains.json").read_text())["sets"]
    return {sets[name]["domains"][0]: value for name, value in values.items()}


def test_megatron_blend_has_positive_weights_and_prefixes(made: Any, export: Any) -> None:
    """The list reads as weights and prefixes: as get_blend_from_list takes it apart."""
    folder = export("megatron")
    words = (folder / "blend.txt").read_text().split()
    assert len(words) % 2 == 0
    weights = dict(
        zip([Path(word).name for word in words[1::2]], map(float, words[::2]), strict=True)
    )
    assert by_name(folder, weights) == shares(made)
    for prefix in words[1::2]:
        with pytest.raises(ValueError, match="could not convert"):
            float(prefix)
        assert Path(f"{prefix}.bin").exists()
    splits = json.loads((folder / "blend.json").read_text())
    assert splits == {"train": words, "valid": None, "test": None}


def test_megatron_keeps_ids_as_it_reads_them(made: Any, export: Any) -> None:
    """Below 65,500 ids are uint16, from there int32, as Megatron's own choice is."""
    folder = export("megatron")
    (index, *_) = sorted((folder / "data").glob("*.idx"))
    assert index.read_bytes()[17] == 8
    assert json.loads((folder / "export.json").read_text())["facts"]["dtype"] == "uint16"


@pytest.mark.parametrize(("size", "code"), [(65_499, 8), (65_500, 4), (65_536, 4), (70_000, 4)])
def test_megatron_index_of_any_vocabulary(size: int, code: int, tmp_path: Path) -> None:
    """Ids of every vocabulary come back, the largest included."""
    import pyarrow as pa

    from cuvee.export.exporter import Chunk, FileSet, Place

    place = Place(
        config=ExportConfig(to="megatron"),
        layout="domains",
        root=str(tmp_path),
        domains=("code",),
        vocabulary_size=size,
        end_of_text=size - 1,
        n_phases=1,
        phase_shares=(1.0,),
    )
    ids = np.array([5, size - 2, size - 1, 7, size - 1], dtype=place.dtype)
    rows = pa.table({"n_tokens": [3, 2]})
    files = FileSet(name="code", phase=0, domains=(0,), n_documents=2, n_tokens=5)
    megatron = Megatron()
    with megatron.writer(tmp_path, files, place) as writer:
        assert writer.add(Chunk(rows=rows, ids=ids)).row.tolist() == [0, 1]
    assert (tmp_path / "data" / "code.idx").read_bytes()[17] == code
    dtype = {8: np.uint16, 4: np.int32}[code]
    assert np.fromfile(tmp_path / "data" / "code.bin", dtype=dtype).tolist() == ids.tolist()
    lengths = list(megatron.lengths(tmp_path, files, place))
    assert np.concatenate(lengths).tolist() == [3, 2]


def test_megatron_refuses_white_space_in_paths(made: Any, tmp_path: Path) -> None:
    """A path that the list would be split at is refused, unless the trainer sees another one."""
    dest = tmp_path / "a folder"
    with pytest.raises(ConfigError, match=r"white space.*Choose another --dest, or give --root"):
        export_selection(made.out, dest, ExportConfig(to="megatron", context=32), workers=0)
    config = ExportConfig(to="megatron", context=32, root="/data/mix/")
    export_selection(made.out, dest, config, workers=0)
    words = (dest / "blend.txt").read_text().split()
    assert all(word.startswith("/data/mix/data/") for word in words[1::2])


def test_more_domains_than_a_trainer_blends_are_merged(made: Any) -> None:
    """The smallest share a set, which is said; nothing is dropped."""
    selection = SelectionFiles.open(made.out)
    division = divide(
        selection,
        Megatron(max_sets=3),
        ExportConfig(to="megatron", context=32),
        tokens=selection.realised_tokens,
    )
    assert len(division.sets) == 3
    merged = division.sets[-1]
    assert merged.name == "merged"
    smallest = sorted(made.realised, key=made.realised.__getitem__)[:2]
    assert sorted(selection.domains[code] for code in merged.domains) == sorted(smallest)
    assert "beyond 3 domains" in division.notes[-1]
    codes = sorted(code for one in division.sets for code in one.domains)
    assert codes == list(range(len(selection.domains)))


def test_olmo_sources_pass_their_own_checks(made: Any, export: Any) -> None:
    """Ratios sum to 1 and no source is asked for more than it has: what build() refuses."""
    folder = export("olmo")
    content = yaml.safe_load((folder / "source_mixture.yaml").read_text())
    assert list(content) == ["sources"]
    facts = json.loads((folder / "export.json").read_text())["facts"]
    (requested,) = facts["requested_tokens"]
    ratios = {one["source_name"]: one["target_ratio"] for one in content["sources"]}
    assert np.allclose(sum(ratios.values()), 1.0)
    assert by_name(folder, ratios) == pytest.approx(shares(made))
    for one in content["sources"]:
        population = sum(np.memmap(path, dtype=np.uint16).size for path in one["paths"])
        assert 0 < one["target_ratio"] <= 1
        assert one["max_repetition_ratio"] >= 1
        assert int(requested * one["target_ratio"]) <= int(
            population * one["max_source_fraction"] * one["max_repetition_ratio"]
        )
    assert requested > sum(made.realised.values()) - 10
    assert any(len(one["paths"]) > 1 for one in content["sources"])
    sizes = [
        np.memmap(path, dtype=np.uint16).size for one in content["sources"] for path in one["paths"]
    ]
    unread = sum(size % 32 for size in sizes) / sum(sizes)
    (note,) = Exported.read(folder).notes
    assert note.endswith(f"and not read: {unread:.4%} of tokens")


def test_patterns_in_paths_are_refused(made: Any, tmp_path: Path) -> None:
    """OLMo-core and torchtitan take * for a pattern."""
    for to in ("olmo", "torchtitan"):
        config = ExportConfig(to=to, context=32, root="/data/*")
        with pytest.raises(ConfigError, match="takes for a pattern"):
            export_selection(made.out, tmp_path / to, config, workers=0)


def test_mds_streams_choose_each_sample_once(made: Any, export: Any) -> None:
    """By counts an epoch is exact; by proportions the shares are those of samples."""
    folder = export("mds")
    exact = yaml.safe_load((folder / "streams.yaml").read_text())["train_loader"]["dataset"]
    shared = yaml.safe_load((folder / "streams-proportion.yaml").read_text())["train_loader"]
    filled = json.loads((folder / "export.json").read_text())["facts"]["filled_tokens"]
    chosen = {name: one["choose"] for name, one in exact["streams"].items()}
    for one in Exported.read(folder).sets:
        assert chosen[one.name] * 32 == one.n_tokens + filled[one.name]
        assert filled[one.name] < 32
    (note,) = Exported.read(folder).notes
    assert note == f"filling the last sample of each set: {sum(filled.values()):,} end-of-text"
    total = sum(chosen.values())
    for name, one in shared["dataset"]["streams"].items():
        assert one["proportion"] == chosen[name] / total
        assert "choose" not in one
        assert "repeat" not in one
    assert shared["dataset"]["epoch_size"] == total


@pytest.mark.parametrize("to", ["mds", "litdata"])
def test_packed_lineage_names_the_first_sample(to: str, made: Any, export: Any) -> None:
    """A document's first tokens stand in the sample that lineage names."""
    folder = export(to, layout="mixed")
    length = 32 if to == "mds" else 33
    text = {row["id"]: str(row["text"]) for row in made.rows}
    lines = pq.read_table(folder / "lineage.parquet").to_pylist()
    assert len({line["file"] for line in lines}) > 1
    for line in lines:
        content = (folder / line["file"]).read_bytes()
        n_samples = int(np.frombuffer(content, "<u4", count=1)[0])
        place = 4 + 4 * line["row"] if to == "mds" else 4
        start = int(np.frombuffer(content, "<u4", count=1, offset=place)[0])
        start += 0 if to == "mds" else 4 * length * line["row"]
        sample = np.frombuffer(content, "<i4", count=length, offset=start).tolist()
        ids = made.ids(text[line["id"]])
        places = [place for place in range(length) if sample[place] == ids[0]]
        assert any(sample[p : p + len(ids)] == ids[: length - p] for p in places), n_samples


def test_nanotron_stages_are_lists_of_one_length(made: Any, export: Any, select: Any) -> None:
    """Folders and weights are two lists, as the config class has them; phases begin at steps."""
    folder = export("nanotron")
    (stage,) = yaml.safe_load((folder / "data_stages.yaml").read_text())["data_stages"]
    assert stage["start_training_step"] == 1
    dataset = stage["data"]["dataset"]
    names = [Path(one).name for one in dataset["dataset_folder"]]
    weights = dict(zip(names, dataset["dataset_weights"], strict=True))
    assert by_name(folder, weights) == pytest.approx(shares(made))
    run = select((0.5, 0.2, 0.2, 0.1), (0.0, 0.3, 0.3, 0.4))
    with pytest.raises(ConfigError, match="Give --batch-tokens"):
        export("nanotron", run=run, name="phases")
    folder = export("nanotron", run=run, name="phases", batch_tokens=100)
    stages = yaml.safe_load((folder / "data_stages.yaml").read_text())["data_stages"]
    first = sum(one.n_tokens for one in Exported.read(folder).sets if one.phase == 0)
    assert [one["start_training_step"] for one in stages] == [1, 1 + round(first / 100)]


def test_hugging_face_loads_every_configuration(made: Any, export: Any) -> None:
    """The datasets package itself reads the card; `all` is one epoch, counted by its rows."""
    folder = export("huggingface")
    rows = list(datasets.load_dataset(str(folder), "all", split="train", streaming=True))
    tokens: dict[str, int] = dict.fromkeys(made.realised, 0)
    for row in rows:
        assert len(made.ids(row["text"])) == row["n_tokens"]
        tokens[row["domain"]] += row["n_tokens"]
    assert tokens == made.realised


def test_the_hugging_face_loader_interleaves_once(made: Any, export: Any) -> None:
    """load.py runs, draws rows by shares of rows, and ends with every row read once."""
    folder = export("huggingface")
    names: dict[str, Any] = {}
    exec(compile((folder / "load.py").read_text(), "load.py", "exec"), names)
    rows = [row["text"] for row in names["load"](seed=1)]
    assert sorted(rows) == sorted(str(row["text"]) for row in made.rows)
    total = len(made.rows)
    expected = {name: int(one["copies"]) / total for name, one in made.mixture["domains"].items()}
    assert by_name(folder, names["PROBABILITIES"]) == pytest.approx(expected)


def test_llama_factory_converts_shares_to_rows(made: Any, export: Any) -> None:
    """Data sets are named in dataset_info.json; probabilities are of rows, not of tokens."""
    folder = export("llama-factory", layout="domains")
    settings = yaml.safe_load((folder / "train.yaml").read_text())
    listed = json.loads((folder / "dataset_info.json").read_text())
    names = settings["dataset"].split(",")
    assert set(names) == set(listed)
    for one in listed.values():
        assert one["columns"] == {"prompt": "text"}
        assert list((folder / one["file_name"]).glob("*.jsonl"))
    shares = [float(share) for share in settings["interleave_probs"].split(",")]
    copies = {name: one["copies"] for name, one in made.mixture["domains"].items()}
    found = by_name(folder, dict(zip(names, shares, strict=True)))
    assert found == pytest.approx({name: n / sum(copies.values()) for name, n in copies.items()})
    mixed = export("llama-factory", name="mixed")
    settings = yaml.safe_load((mixed / "train.yaml").read_text())
    assert settings["dataset"] == "all"
    assert "interleave_probs" not in settings


def test_a_stream_of_llama_factory_is_not_empty(made: Any, export: Any) -> None:
    """It cuts files into as many streams as there are workers, 0 unless told otherwise."""
    for layout in ("domains", "mixed"):
        folder = export("llama-factory", layout=layout, name=layout)
        settings = yaml.safe_load((folder / "train.yaml").read_text())
        assert settings.get("streaming", False) == (layout == "domains")
        assert not settings.get("streaming") or settings["dataloader_num_workers"] >= 1
        (note,) = Exported.read(folder).notes
        n_sequences = sum(made.realised.values()) // 32
        assert f"all is {n_sequences:,} sequences" in note


def test_the_tokenizer_is_opened_with_its_end_of_text(made: Any, export: Any) -> None:
    """Trainers that tokenise text learn what ends a document from the tokenizer's folder."""
    folder = export("torchtitan") / "tokenizer"
    about = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.token_to_id(about["eos_token"]) == made.encoder.end_of_text


@pytest.mark.parametrize(
    ("to", "file", "constant"),
    [("torchtitan", "dataloader.py", "WEIGHTS"), ("litdata", "dataset.py", "WEIGHTS")],
)
def test_recipes_are_python_with_token_shares(
    to: str, file: str, constant: str, made: Any, export: Any
) -> None:
    """The generated modules parse, hold no user's text, and weigh sets by shares of tokens."""
    folder = export(to, layout="domains")
    tree = ast.parse((folder / file).read_text())
    values = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and not isinstance(node.value, ast.Call)
    }
    tolerance = 0.02 if to == "litdata" else 1e-12  # LitData draws whole samples
    assert by_name(folder, values[constant]) == pytest.approx(shares(made), abs=tolerance)
    text = (folder / file).read_text()
    assert all(name not in text for name in made.realised if "/" in name)
