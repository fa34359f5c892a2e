"""Criteria that are not learnt here, through the command line on the tiny pool."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import json as json_reader

from cuvee.corpus.scan import read_index
from cuvee.corpus.store import TokenStore
from cuvee.randomness import document_keys

pytestmark = pytest.mark.timeout(120)


def _scored(source: Path, folder: Path) -> dict[str, float | None]:
    """Write the pool anew with a column meta.edu; every tenth document has none."""
    folder.mkdir()
    known: dict[str, float | None] = {}
    rng = np.random.default_rng(0)
    for path in sorted((source / "pool").iterdir()):
        whole = pq.read_table(path) if path.suffix == ".parquet" else json_reader.read_json(path)
        numbers = [None if k % 10 == 3 else float(rng.normal()) for k in range(whole.num_rows)]
        known.update(zip(whole["id"].to_pylist(), numbers, strict=True))
        column = pa.array([{"edu": one} for one in numbers])
        pq.write_table(whole.append_column("meta", column), folder / f"{path.stem}.parquet")
    return known


def _label(
    settings: dict[str, object],
    tmp_path: Path,
    cuvee: Callable[..., Any],
    write: Callable[..., Any],
) -> tuple[Any, Path]:
    for name in ("design", "search"):
        settings.pop(name, None)
    settings["curves"] = {"n_runs": 14}
    config = write(tmp_path / "quadmix.yaml", settings)
    out = tmp_path / "out"
    return cuvee("label", config, "--method", "quadmix", "--out", out, "--workers", 0), out


def test_a_column_of_the_shards_is_a_criterion(
    settings: dict[str, object],
    source: Path,
    tmp_path: Path,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    cuvee: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Ranks follow the numbers, missing ones stand with the worst, and both doubts are told."""
    known = _scored(source, tmp_path / "pool")
    settings["pool"] = {"shards": [str(tmp_path / "pool")], "validation_share": 0.1}
    settings["criteria"] = {
        "edu": {"kind": "column", "column": "meta.edu", "larger_is_better": True}
    }
    ended, out = _label(settings, tmp_path, cuvee, write_config)
    assert ended.status == 0, ended.stderr
    told = caplog.text
    assert "27 of 270 documents have no number in column 'meta.edu'" in told
    assert "its direction cannot be checked" in told
    checks = json.loads((out / "quality" / "checks.json").read_text(encoding="utf-8"))
    assert checks == {"edu": {"auc": None, "missing": 0.1, "reference": None}}
    ranks = np.load(out / "quality" / "normalised.npy")[:, 0]
    shards = sorted((out / "tokens").glob("0*/documents.parquet"))
    keys = np.concatenate([pq.read_table(one)["key"].to_numpy() for one in shards])
    index = [pq.read_table(path) for path in sorted((out / "corpus" / "scan").glob("*/doc*"))]
    name_of = {
        key: name
        for table in index
        for key, name in zip(table["key"].to_pylist(), table["id"].to_pylist(), strict=True)
    }
    numbers = np.array([known[name_of[key]] for key in keys.tolist()], dtype=np.float64)
    missing = np.isnan(numbers)
    order = np.argsort(-numbers[~missing])
    assert np.all(np.diff(ranks[~missing][order]) >= 0.0)
    assert np.all(ranks[missing] == ranks[~missing].max())


def test_direction_is_checked_where_targets_have_the_column(
    settings: dict[str, object],
    source: Path,
    tmp_path: Path,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    cuvee: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Targets that hold the pool's worst numbers: the wrong way round is told."""
    _scored(source, tmp_path / "pool")
    lines = (source / "targets" / "code.jsonl").read_text(encoding="utf-8").splitlines()
    records = [{**json.loads(line), "meta": {"edu": -9.0}} for line in lines]
    (tmp_path / "code.jsonl").write_text(
        "".join(json.dumps(one) + "\n" for one in records), encoding="utf-8"
    )
    settings["pool"] = {"shards": [str(tmp_path / "pool")], "validation_share": 0.1}
    settings["targets"] = {
        "sets": {
            "code": {"shards": [str(tmp_path / "code.jsonl")]},
            "letters": {"shards": [str(source / "targets" / "letters.jsonl")]},
        }
    }
    settings["criteria"] = {
        "edu": {"kind": "column", "column": "meta.edu", "larger_is_better": True}
    }
    ended, out = _label(settings, tmp_path, cuvee, write_config)
    assert ended.status == 0, ended.stderr
    assert "larger_is_better the right way round" in caplog.text
    checks = json.loads((out / "quality" / "checks.json").read_text(encoding="utf-8"))
    assert checks["edu"]["reference"] > 0.9


class _Letters:
    """Stands for a fastText model: the share of words with an a in them."""

    def get_labels(self) -> list[str]:
        """Return the only label."""
        return ["__label__hq"]

    def predict(self, lines: Sequence[str], k: int) -> tuple[list[Any], list[Any]]:
        """Return the label's probability for each line."""
        shares = [[float(np.mean(["a" in word for word in one.split()]))] for one in lines]
        return [self.get_labels() for _ in lines], shares


def test_a_model_on_this_machine_is_a_criterion(
    settings: dict[str, object],
    tmp_path: Path,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    cuvee: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its scores stand in the label column, the reference is scored too, and the file is named."""
    fake = SimpleNamespace(load_model=lambda path: _Letters())
    monkeypatch.setitem(sys.modules, "fasttext", fake)
    model = tmp_path / "model.bin"
    model.write_bytes(b"weights")
    settings["criteria"] = {"hq": {"kind": "fasttext", "model": str(model), "label": "hq"}}
    ended, out = _label(settings, tmp_path, cuvee, write_config)
    assert ended.status == 0, ended.stderr
    checks = json.loads((out / "quality" / "checks.json").read_text(encoding="utf-8"))
    assert 0.0 < checks["hq"]["reference"] < 1.0
    scores = {
        path.stem: pq.read_table(path)["score"].to_numpy()
        for path in (out / "labels" / "hq").glob("*.parquet")
    }
    means = {name.split("-")[1]: values.mean() for name, values in scores.items()}
    assert max(means, key=lambda name: means[name]) == "letters"
    assert sum(map(len, scores.values())) == 270


def test_influence_of_few_documents_is_a_criterion(
    settings: dict[str, object],
    source: Path,
    tmp_path: Path,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    cuvee: Callable[..., Any],
) -> None:
    """Learnt from every other document's score: all are ranked by it, and the check is told."""
    known: dict[str, float] = {}
    for path in sorted((source / "pool").iterdir()):
        whole = pq.read_table(path) if path.suffix == ".parquet" else json_reader.read_json(path)
        for name, text in zip(whole["id"].to_pylist(), whole["text"].to_pylist(), strict=True):
            known[name] = float(np.mean(["a" in word for word in text.split()]))
    names = sorted(known)[::2]
    scores = tmp_path / "scores.parquet"
    table = {"key": document_keys(names), "score": [known[name] for name in names]}
    pq.write_table(pa.table(table), scores)
    settings["criteria"] = {"quad": {"kind": "influence", "folder": str(scores)}}
    ended, out = _label(settings, tmp_path, cuvee, write_config)
    assert ended.status == 0, ended.stderr
    checks = json.loads((out / "quality" / "checks.json").read_text(encoding="utf-8"))
    assert checks["quad"]["spearman"] > 0.8
    assert 0.0 < checks["quad"]["reference"] < 1.0
    labels = pa.concat_tables(
        [pq.read_table(path) for path in sorted((out / "labels" / "quad").glob("*.parquet"))]
    )
    found = dict(zip(labels["key"].to_pylist(), labels["score"].to_pylist(), strict=True))
    others = sorted(set(known) - set(names))
    pairs = np.array(
        [
            (found[key], known[name])
            for key, name in zip(document_keys(others).tolist(), others, strict=True)
        ]
    )
    assert np.corrcoef(pairs.T.argsort().argsort())[0, 1] > 0.8


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        ({"kind": "influence"}, "of kind 'influence' needs folder; give it."),
        ({"kind": "influence", "folder": "none"}, "none holds no scores"),
        ({"kind": "column", "column": "edu"}, "of kind 'column' needs larger_is_better; give it."),
        ({"kind": "column", "larger_is_better": True}, "of kind 'column' needs column; give it."),
        (
            {"kind": "heuristics", "column": "edu"},
            "column is a setting of criteria of kind column, not of 'heuristics'; leave it out.",
        ),
        (
            {"kind": "column", "column": "edu", "larger_is_better": True},
            "has no column 'edu'; its columns are id, text, domain.",
        ),
        ({"kind": "fasttext", "model": "m.bin"}, "of kind 'fasttext' needs label; give it."),
        (
            {"kind": "ask-llm", "model": "m", "prompt": "Is it good?"},
            "prompt has no {text}; put it where the document is to stand.",
        ),
        (
            {"kind": "hf-classifier", "model": "m", "max_tokens": 0},
            "max_tokens is 0; it must be at least 1.",
        ),
    ],
)
def test_bad_criteria_are_refused(
    criterion: dict[str, object],
    message: str,
    settings: dict[str, object],
    tmp_path: Path,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    cuvee: Callable[..., Any],
) -> None:
    """One clear message."""
    settings["criteria"] = {"edu": criterion}
    ended, _ = _label(settings, tmp_path, cuvee, write_config)
    assert ended.status == 1
    assert message in " ".join(ended.stderr.split())


def test_listed_documents_are_never_tokenised(
    settings: dict[str, object],
    source: Path,
    tmp_path: Path,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    cuvee: Callable[..., Any],
) -> None:
    """The store that designs, proxies and selections are made from does not hold them."""
    ids = pq.read_table(source / "pool" / "animals.parquet")["id"].to_pylist()[::2]
    pq.write_table(pa.table({"id": ids}), tmp_path / "gone.parquet")
    pool = {"shards": [str(source / "pool")], "validation_share": 0.1}
    settings["pool"] = {**pool, "exclude": [str(tmp_path / "gone.parquet")]}
    config = write_config(tmp_path / "regmix.yaml", settings)
    ended = cuvee("label", config, "--out", tmp_path / "out", "--workers", 0, "-q")
    assert ended.status == 0, ended.stderr
    store = TokenStore.open(tmp_path / "out" / "tokens")
    assert len(store.keys) == 270 - 60
    assert not np.isin(store.keys, document_keys(ids)).any()
    assert read_index(tmp_path / "out").n_excluded == 60


def test_labels_of_another_run_are_a_criterion(
    settings: dict[str, object],
    tmp_path: Path,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    cuvee: Callable[..., Any],
) -> None:
    """A column made there ranks as it does there; a folder that is none is refused."""
    settings["criteria"] = {"clean": {"kind": "heuristics"}}
    (tmp_path / "first").mkdir()
    first, made = _label(dict(settings), tmp_path / "first", cuvee, write_config)
    assert first.status == 0, first.stderr
    for name in ("design", "search"):
        settings.pop(name, None)
    folder = str(made / "labels" / "clean")
    settings["criteria"] = {"taken": {"kind": "labels", "folder": folder}}
    ended, out = _label(dict(settings), tmp_path, cuvee, write_config)
    assert ended.status == 0, ended.stderr
    ranks = [np.load(one / "quality" / "normalised.npy") for one in (made, out)]
    np.testing.assert_array_equal(ranks[0], ranks[1])
    settings["criteria"] = {"taken": {"kind": "labels", "folder": str(tmp_path / "none")}}
    (tmp_path / "second").mkdir()
    refused, _ = _label(dict(settings), tmp_path / "second", cuvee, write_config)
    assert refused.status == 1
    assert "cuvee influence score" in refused.stderr
