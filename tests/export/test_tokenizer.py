"""Exports in the tokens of another tokenizer: the same documents, counted and encoded anew."""

import ast
import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from cuvee import artifacts
from cuvee.corpus.encoder import END_OF_TEXT, Encoder, train_tokenizer
from cuvee.errors import ArtifactError, ConfigError, DataError, InfeasibleError
from cuvee.export.exported import Exported
from cuvee.export.exporter import ExportConfig
from cuvee.export.formats import EXPORTERS
from cuvee.export.pieces import DomainCounts
from cuvee.export.reread import check_encoded
from cuvee.export.selection import SelectionFiles
from cuvee.export.write import export_selection
from cuvee.simplex import normalise

FORMATS = list(EXPORTERS)
TOKENS = [name for name, one in EXPORTERS.items() if one.content == "tokens"]
EACH = [
    *((to, "coarse") for to in FORMATS),
    *((to, "foreign") for to in ("megatron", "mds", "huggingface")),
    *((to, "wide") for to in ("megatron", "olmo", "nanotron")),
]
SHARES = (0.4, 0.3, 0.1, 0.2)


def digests(folder: Path) -> dict[str, str]:
    """Return the digest of every file."""
    return {
        path.relative_to(folder).as_posix(): artifacts.digest_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def widened(content: str, size: int) -> str:
    """Give a tokenizer ids that no text is encoded as, up to a vocabulary of ``size``."""
    data = json.loads(content)
    vocabulary = data["model"]["vocab"]
    vocabulary |= {f"unused-{number}": number for number in range(len(vocabulary), size)}
    return json.dumps(data)


def foreign() -> str:
    """Return a byte-level BPE of another make that has no end-of-text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: number for number, symbol in enumerate(alphabet)}
    merges = [("t", "h"), ("th", "e"), ("a", "t")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return str(tokenizer.to_str())


@pytest.fixture(scope="module")
def given_tokenizers(made: Any, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Give tokenizers: one of fewer tokens, one of more, a wide one, one of another make."""
    folder = tmp_path_factory.mktemp("tokenizers")
    texts = [str(row["text"]) for row in made.rows]
    contents = {
        "coarse": train_tokenizer(texts, vocabulary_size=500),
        "fine": train_tokenizer(texts[:1], vocabulary_size=257),
        "wide": widened(train_tokenizer(texts, vocabulary_size=400), 66_000),
        "foreign": foreign(),
    }
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(content, encoding="utf-8")
    return {name: folder / f"{name}.json" for name in contents}


def tokens_by_domain(run: Any, tokenizer: Path) -> dict[str, int]:
    """Count the selection's tokens with a tokenizer, one end-of-text a copy."""
    encoder = Encoder(tokenizer)
    counted = Counter({name: 0 for name in run.mixture["domains"]})
    for row in run.rows:
        (ids,) = encoder.encode([str(row["text"])])
        counted[str(row["domain"])] += len(ids) // encoder.dtype.itemsize + 1
    return dict(counted)


def decoded(tokenizer: Path, documents: Sequence[Sequence[int]]) -> list[str]:
    """Turn documents back into text, their end-of-text left out."""
    found = Tokenizer.from_file(str(tokenizer))
    return list(found.decode_batch([list(ids[:-1]) for ids in documents]))


def check_decoded(run: Any, folder: Path, to: str, readers: Any) -> None:
    """Hold an export of one phase against the selection's text, document by document."""
    held = folder / "tokenizer" / "tokenizer.json"
    encoder, exported = Encoder(held), Exported.read(folder)
    found = readers[to](folder, encoder.end_of_text)
    about = json.loads((folder / "domains.json").read_text())["sets"]
    set_of = {domain: name for name, one in about.items() for domain in one["domains"]}
    expected: dict[str, Counter[str]] = {name: Counter() for name in about}
    for row in run.rows:
        expected[set_of[str(row["domain"])]][str(row["text"])] += 1
    for name, documents in found.items():
        if EXPORTERS[to].content == "tokens":
            assert sum(map(len, documents)) == about[name]["tokens"]
            assert all(ids[-1] == encoder.end_of_text for ids in documents)
            documents = decoded(held, documents)
        assert Counter(documents) == expected[name]
    counted = tokens_by_domain(run, held)
    assert dict(zip(exported.domains, exported.realised_tokens.tolist(), strict=True)) == counted
    for name, one in about.items():
        assert one["tokens"] == sum(counted[domain] for domain in one["domains"]), name
    lines = pq.read_table(folder / "lineage.parquet", columns=["domain", "n_tokens"]).to_pylist()
    listed = Counter({name: 0 for name in counted})
    for line in lines:
        listed[line["domain"]] += line["n_tokens"]
    assert dict(listed) == counted


@pytest.mark.parametrize(("to", "name"), EACH)
def test_documents_decode_to_the_selection_and_counts_are_the_tokenizers(
    to: str, name: str, select: Any, export: Any, given_tokenizers: Any, readers: Any
) -> None:
    """Every document is encoded by the tokenizer given, whose ids and file the export has."""
    # Each part's worker reads the tokenizer: one part is enough of the wide one.
    run = select(SHARES, shard_bytes=1 << 20 if name == "wide" else 8 << 10)
    folder = export(to, run=run, tokenizer=str(given_tokenizers[name]))
    check_decoded(run, folder, to, readers)
    about = json.loads((folder / "export.json").read_text())
    encoder = Encoder(folder / "tokenizer" / "tokenizer.json")
    assert about["vocabulary_size"] == encoder.vocabulary_size
    assert about["end_of_text"] == encoder.end_of_text
    held = json.loads((folder / "tokenizer" / "tokenizer_config.json").read_text())
    assert held["eos_token"] == END_OF_TEXT
    if name == "wide":
        assert np.dtype(about["facts"]["dtype"]).itemsize == 4


@pytest.mark.parametrize("to", TOKENS)
@settings(
    max_examples=3,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    weights=st.lists(
        st.one_of(st.just(0.0), st.floats(1e-6, 1e-2), st.floats(0.01, 1.0)),
        min_size=4,
        max_size=4,
    ).filter(lambda weights: sum(weights) > 0.0),
    context=st.sampled_from([1, 64, 300, 900]),
    name=st.sampled_from(["coarse", "fine", "foreign"]),
)
def test_any_mixture_arrives_in_another_tokenizers_tokens(
    to: str,
    weights: list[float],
    context: int,
    name: str,
    select: Any,
    given_tokenizers: Any,
    readers: Any,
    tmp_path: Path,
) -> None:
    """Sets are those of the tokens in the files: none below a sequence, or all are too few."""
    run = select(tuple(normalise(weights).tolist()), n_tokens=1_500)
    config = ExportConfig(
        to=to, layout="domains", context=context, tokenizer=str(given_tokenizers[name])
    )
    dest, smallest = tmp_path / "export", EXPORTERS[to].smallest(config)
    try:
        export_selection(run.out, dest, config, workers=0)
    except InfeasibleError:
        # An end-of-text added later stands for one token as any other does.
        shutil.rmtree(dest.with_name("export.pieces"))
        if name != "foreign":
            assert sum(tokens_by_domain(run, given_tokenizers[name]).values()) < smallest
        return
    check_decoded(run, dest, to, readers)
    assert all(one.n_tokens >= smallest for one in Exported.read(dest).sets)
    shutil.rmtree(dest)


def test_too_few_and_enough_are_by_the_given_tokenizers_tokens(
    made: Any, export: Any, given_tokenizers: Any, tmp_path: Path
) -> None:
    """What the run's tokens would allow may be too few, and what they would refuse enough."""
    own = sum(made.realised.values())
    fewer = sum(tokens_by_domain(made, given_tokenizers["coarse"]).values())
    more = sum(tokens_by_domain(made, given_tokenizers["fine"]).values())
    assert fewer < own < more
    with pytest.raises(InfeasibleError, match=f"holds {fewer:,} tokens, but olmo reads sequences"):
        export("olmo", context=fewer + 1, tokenizer=str(given_tokenizers["coarse"]))
    assert not (tmp_path / "olmo").exists()
    with pytest.raises(InfeasibleError, match=f"holds {own:,} tokens"):
        export("olmo", context=own + 1)
    folder = export("olmo", context=own + 1, tokenizer=str(given_tokenizers["fine"]))
    assert Exported.read(folder).realised_tokens.sum() == more


def test_a_domain_that_becomes_too_small_is_merged(
    made: Any, export: Any, given_tokenizers: Any, readers: Any
) -> None:
    """Sets are decided by the tokens in the files, and keep the selection's order."""
    path = given_tokenizers["coarse"]
    counted, tokens = tokens_by_domain(made, path), made.realised
    smallest = min(counted, key=lambda name: counted[name])
    context = tokens[smallest]
    assert counted[smallest] < context < min(n for name, n in tokens.items() if name != smallest)
    assert len(Exported.read(export("olmo", name="own", context=context)).sets) == len(counted)
    folder = export("olmo", context=context, tokenizer=str(path))
    check_decoded(made, folder, "olmo", readers)
    exported = Exported.read(folder)
    merged = exported.sets[-1]
    assert merged.name == "merged"
    names = {exported.domains[code] for code in merged.domains}
    assert smallest in names
    assert merged.n_tokens == sum(counted[name] for name in names) >= context
    documents = readers["olmo"](folder, Encoder(path).end_of_text)["merged"]
    held = [str(row["text"]) for row in made.rows if row["domain"] in names]
    assert decoded(path, documents) == held


def test_weights_are_shares_of_the_tokens_in_the_files(
    made: Any, export: Any, given_tokenizers: Any
) -> None:
    """One epoch by the weights reads everything once, whatever the shares in the run's tokens."""
    path = given_tokenizers["fine"]
    counted = tokens_by_domain(made, path)
    total = sum(counted.values())
    expected = sorted(one / total for one in counted.values())
    config = {"tokenizer": str(path), "layout": "domains"}
    text = (export("torchtitan", **config) / "dataloader.py").read_text()
    (weights,) = (
        ast.literal_eval(node.value)
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "WEIGHTS"
    )
    assert sorted(weights.values()) == pytest.approx(expected)
    assert expected != pytest.approx(
        sorted(n / sum(counted.values()) for n in made.realised.values())
    )
    olmo = yaml.safe_load((export("olmo", **config) / "source_mixture.yaml").read_text())
    assert sorted(one["target_ratio"] for one in olmo["sources"]) == pytest.approx(expected)
    card = (export("huggingface", **config) / "README.md").read_text()
    assert all(f"| {n} | {n / total:.6f} |" in card for n in counted.values())


def test_the_change_of_shares_is_said(made: Any, export: Any, given_tokenizers: Any) -> None:
    """Planned, selected and realised shares stand together; notes name the largest difference."""
    path = given_tokenizers["fine"]
    folder = export("olmo", tokenizer=str(path))
    about = json.loads((folder / "export.json").read_text())
    counted, total = tokens_by_domain(made, path), sum(made.realised.values())
    assert about["is_own_tokenizer"] is False
    assert about["domains"] == Exported.read(folder).to_json()["domains"]
    moved = {}
    for name, one in about["domains"].items():
        assert one["selection_tokens"] == made.realised[name]
        assert one["selection_share"] == pytest.approx(made.realised[name] / total)
        assert one["realised_tokens"] == counted[name]
        assert one["realised_share"] == pytest.approx(counted[name] / sum(counted.values()))
        moved[name] = one["realised_share"] - made.mixture["domains"][name]["planned_share"]
    farthest = max(moved, key=lambda name: abs(moved[name]))
    (note,) = [one for one in about["notes"] if one.startswith("counted with another tokenizer")]
    assert f"{sum(counted.values()):,} tokens, by the run's {total:,}" in note
    assert f"that of {farthest!r} is farthest" in note
    assert f"by {100 * moved[farthest]:+.2f} points" in note
    assert not [one for one in about["notes"] if "was added" in one]
    own = json.loads((export("olmo", name="own") / "export.json").read_text())
    assert own["is_own_tokenizer"] is True
    assert not [one for one in own["notes"] if "tokenizer" in one]


def test_an_end_of_text_that_was_added_is_said(export: Any, given_tokenizers: Any) -> None:
    """The trainer's vocabulary then has one id more."""
    path = given_tokenizers["foreign"]
    n_ids = Tokenizer.from_file(str(path)).get_vocab_size()
    about = json.loads((export("megatron", tokenizer=str(path)) / "export.json").read_text())
    assert (about["end_of_text"], about["vocabulary_size"]) == (n_ids, n_ids + 1)
    (note,) = [one for one in about["notes"] if "was added" in one]
    assert f"{END_OF_TEXT!r} was added as id {n_ids}, and the model needs {n_ids + 1} ids" in note


def test_a_finished_export_of_another_tokenizer_is_refused(
    export: Any, given_tokenizers: Any, tmp_path: Path
) -> None:
    """It is the tokenizer that counts, not its path."""
    folder = export("olmo", tokenizer=str(given_tokenizers["coarse"]))
    before = digests(folder)
    shutil.copyfile(given_tokenizers["coarse"], tmp_path / "copied.json")
    export("olmo", tokenizer=str(tmp_path / "copied.json"))
    assert digests(folder) == before
    for other in (str(given_tokenizers["fine"]), None):
        with pytest.raises(ArtifactError, match=r"exported with another tokenizer\. Choose"):
            export("olmo", tokenizer=other)


@pytest.mark.parametrize("to", ["megatron", "huggingface"])
def test_the_runs_own_tokenizer_given_by_path_is_the_runs_own(
    to: str, made: Any, export: Any
) -> None:
    """Nothing is encoded again, and the bytes are those of no --tokenizer."""
    own = str(made.out / "tokenizer" / "tokenizer.json")
    without = export(to, name="without", root="/x")
    assert digests(export(to, name="with", root="/x", tokenizer=own)) == digests(without)


def test_workers_and_a_second_time_make_the_same_bytes(
    made: Any, export: Any, given_tokenizers: Any, tmp_path: Path
) -> None:
    """Neither processes nor the folder's name get into the files."""
    path = str(given_tokenizers["foreign"])
    one = digests(export("megatron", name="one", root="/x", tokenizer=path))
    assert digests(export("megatron", name="again", root="/x", tokenizer=path)) == one
    config = ExportConfig(to="megatron", context=32, file_bytes=4 << 10, root="/x", tokenizer=path)
    export_selection(made.out, tmp_path / "two", config, workers=2)
    assert digests(tmp_path / "two") == one


def test_a_stopped_export_goes_on_with_its_own_tokenizers_pieces(
    made: Any, export: Any, given_tokenizers: Any, tmp_path: Path
) -> None:
    """Finished parts stay; those of one tokenizer are not taken for those of another."""
    coarse, fine = (str(given_tokenizers[name]) for name in ("coarse", "fine"))
    whole = digests(export("olmo", name="whole", root="/x", tokenizer=coarse))
    dest = tmp_path / "stopped"

    class Stopped(Exception):
        """The test's own."""

    def stop(name: str, done: int, total: int) -> None:
        if (name, done) == ("write", 1):
            raise Stopped

    def call(tokenizer: str, on_progress: Callable[[str, int, int], None]) -> None:
        config = ExportConfig(
            to="olmo", context=32, file_bytes=4 << 10, root="/x", tokenizer=tokenizer
        )
        export_selection(made.out, dest, config, workers=0, on_progress=on_progress)

    def pieces() -> dict[Path, int]:
        waiting = dest.with_name("stopped.pieces")
        return {path: path.stat().st_mtime_ns for path in waiting.rglob("piece.json")}

    with pytest.raises(Stopped):
        call(coarse, stop)
    first = pieces()
    with pytest.raises(Stopped):
        call(fine, stop)
    assert len(pieces()) == 2 * len(first)
    with pytest.raises(Stopped):
        call(coarse, stop)
    assert len(pieces()) == 2 * len(first)
    assert first.items() <= pieces().items()
    call(coarse, lambda name, done, total: None)
    assert digests(dest) == whole
    assert not dest.with_name("stopped.pieces").exists()


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("n_tokens", r"tokens in the export, but [\d,]+ of what was encoded\. Export again"),
        ("n_copies", r"documents in the export, but [\d,]+ in the selection's mixture.json"),
        ("n_bytes", r"bytes of text in the export, but [\d,]+ in the selection's mixture.json"),
    ],
)
def test_other_documents_than_selected_are_an_error(column: str, message: str, made: Any) -> None:
    """Tokens are held against those encoded, documents and bytes against mixture.json."""
    selection = SelectionFiles.open(made.out)
    tokens = np.array([5, 6, 7, 8])
    right = {"n_tokens": tokens, "n_copies": selection.n_copies, "n_bytes": selection.n_bytes}
    check_encoded(tokens, DomainCounts(**right), selection)
    wrong = {**right, column: right[column] + np.array([0, 1, 0, 0])}
    with pytest.raises(DataError, match=rf"domain {selection.domains[1]!r} has [\d,]+ {message}"):
        check_encoded(tokens, DomainCounts(**wrong), selection)


def test_a_selection_whose_text_changed_is_refused(
    select: Any, export: Any, given_tokenizers: Any, tmp_path: Path
) -> None:
    """A part with a letter too many is an error by its bytes, and nothing is left."""
    run = select(SHARES, n_tokens=4_500)
    part = next(iter(sorted((run.out / "selection").glob("part-*.parquet"))))
    original, table = part.read_bytes(), pq.read_table(part)
    texts: Sequence[str] = [f"{table['text'][0].as_py()}!", *table["text"].to_pylist()[1:]]
    pq.write_table(table.set_column(table.column_names.index("text"), "text", [texts]), part)
    try:
        with pytest.raises(DataError, match="bytes of text in the export, but"):
            export("olmo", run=run, tokenizer=str(given_tokenizers["coarse"]))
    finally:
        part.write_bytes(original)
    assert not (tmp_path / "olmo").exists()


def test_what_is_no_tokenizer_is_refused(export: Any, tmp_path: Path) -> None:
    """One line says what was found and what is wanted, before anything is written."""
    (tmp_path / "other.json").write_text("{}")
    for path, message in (
        (tmp_path / "none.json", r"none\.json does not exist\. Give the path of a tokenizer\.json"),
        (tmp_path / "other.json", r"other\.json cannot be read: .*Give a tokenizer\.json file"),
        (tmp_path, r"Give the path of a tokenizer\.json"),
    ):
        with pytest.raises(ConfigError, match=message) as found:
            export("olmo", tokenizer=str(path))
        assert "\n" not in str(found.value)
    assert [path.name for path in tmp_path.iterdir()] == ["other.json"]
