"""Broken CSV tables, predictors and artefacts: exact messages, and nothing half-written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cuvee import artifacts

WEIGHTS = "index,web,code\n1,0.5,0.5\n2,0.25,0.75\n3,1,0\n4,0,1\n"
LOSSES = "index,qa\n1,3.5\n2,3.25\n3,4\n4,3\n"


@pytest.mark.parametrize(
    ("weights", "losses", "message"),
    [
        (
            WEIGHTS.replace("0.25,0.75", "0.25,0.70"),
            LOSSES,
            "ROOT/w.csv: row 2 sums to 0.95; rows must sum to 1 (rounding up to 0.005 is "
            "rescaled). Correct the row or remove it.",
        ),
        (
            WEIGHTS,
            LOSSES.replace("3.25", "nan"),
            "ROOT/l.csv: row 2 (line 3), column 'qa' is 'nan'; expected a finite number. Correct "
            "the row or remove it.",
        ),
        (
            WEIGHTS + "2,0.25,0.75\n",
            LOSSES,
            "ROOT/w.csv: run 2 stands in more than one row. Keep one row a run.",
        ),
        (
            WEIGHTS,
            LOSSES + "4,3.1\n",
            "ROOT/l.csv: run 4 stands in more than one row. Keep one row a run.",
        ),
        (
            WEIGHTS,
            "index,qa\na,3.5\nb,3.25\n",
            "ROOT/w.csv and ROOT/l.csv share no run id (ids 1, ... and a, ...). Give both tables "
            "the same ids.",
        ),
        (
            WEIGHTS,
            LOSSES + "0,3.1\n",
            "run ids start at 1 in ROOT/w.csv and at 0 in ROOT/l.csv, and 1 runs are in one table "
            "only, so the same id may name different runs. Number both tables alike; if they are, "
            "leave those runs out of both.",
        ),
        (
            WEIGHTS.replace("1,0.5,0.5", "1,0.51,0.51"),
            LOSSES,
            "ROOT/w.csv: row 1 sums to 1.02; rows must sum to 1 (rounding up to 0.005 is "
            "rescaled). Correct the row or remove it.",
        ),
        (
            WEIGHTS,
            None,
            "losses table ROOT/l.csv does not exist. Give the path of a CSV file.",
        ),
        (
            WEIGHTS.replace("index", "number"),
            LOSSES,
            "ROOT/w.csv: the header has no column named index or run_id or run or id or name "
            "(found number, web, code, ...). Add an index column that names each run.",
        ),
    ],
    ids=[
        "shares far from 1",
        "NaN in losses",
        "duplicate rows of weights",
        "duplicate rows of losses",
        "no common index",
        "runs counted from 0 and from 1",
        "default mixture of 1.02",
        "no losses",
        "no index",
    ],
)
def test_broken_tables_are_refused(
    weights: str,
    losses: str | None,
    message: str,
    tmp_path: Path,
    cuvee: Callable[..., Any],
) -> None:
    """Tables of somebody else's runs: the message names file, row and column."""
    (tmp_path / "w.csv").write_text(weights, encoding="utf-8")
    if losses is not None:
        (tmp_path / "l.csv").write_text(losses, encoding="utf-8")
    before = sorted(tmp_path.iterdir())
    ended = cuvee(
        "fit",
        *("--weights", tmp_path / "w.csv", "--losses", tmp_path / "l.csv"),
        *("--out", tmp_path / "fit"),
    )
    assert ended.stderr == f"cuvee: {message.replace('ROOT', str(tmp_path))}\n"
    assert (ended.status, ended.stdout) == (1, "")
    assert sorted(tmp_path.iterdir()) == before


@pytest.fixture
def predictor(tmp_path: Path, cuvee: Callable[..., Any]) -> Path:
    """A linear predictor fitted on four runs."""
    for name, content in (("w.csv", WEIGHTS), ("l.csv", LOSSES)):
        (tmp_path / name).write_text(content, encoding="utf-8")
    ended = cuvee(
        "fit",
        *("--weights", tmp_path / "w.csv", "--losses", tmp_path / "l.csv"),
        *("--out", tmp_path / "fit", "--model", "linear"),
    )
    assert ended.status == 0, ended.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fit", "l.csv", "w.csv"]
    return tmp_path / "fit"


def test_predict_refuses_a_missing_domain(
    predictor: Path, tmp_path: Path, cuvee: Callable[..., Any]
) -> None:
    """Domains are matched by name; one that is not there is not taken for 0."""
    (tmp_path / "w.csv").write_text("index,web\n1,1\n", encoding="utf-8")
    ended = cuvee("predict", predictor, "--weights", tmp_path / "w.csv", "--out", tmp_path / "p")
    assert ended.stderr == (
        "cuvee: weights have no column for domain 'code' (1 missing); the predictor was fitted on "
        "web, code. Add the column, with zeros if the domain is not used.\n"
    )
    assert ended.status == 1
    assert not (tmp_path / "p").exists()


def test_predict_refuses_a_folder_without_a_predictor(
    tmp_path: Path, cuvee: Callable[..., Any]
) -> None:
    """The message names the verb that makes one."""
    (tmp_path / "w.csv").write_text(WEIGHTS, encoding="utf-8")
    ended = cuvee("predict", tmp_path, "--weights", tmp_path / "w.csv", "--out", tmp_path / "p")
    assert ended.stderr == (f"cuvee: {tmp_path} is missing or unfinished; run `cuvee fit` first.\n")
    assert ended.status == 1
    assert not (tmp_path / "p").exists()


def test_predict_does_not_replace_a_folder(
    predictor: Path, tmp_path: Path, cuvee: Callable[..., Any]
) -> None:
    """What the file system refuses is one message too, and no part of the file remains."""
    (tmp_path / "p.csv").mkdir()
    before = sorted(tmp_path.iterdir())
    ended = cuvee(
        "predict", predictor, "--weights", tmp_path / "w.csv", "--out", tmp_path / "p.csv"
    )
    assert ended.stderr == f"cuvee: Is a directory: {tmp_path / 'p.csv'}.\n"
    assert ended.status == 1
    assert sorted(tmp_path.iterdir()) == before


def test_fit_refuses_another_making(
    predictor: Path, tmp_path: Path, cuvee: Callable[..., Any]
) -> None:
    """A finished predictor is not written over by one of another model."""
    digest = artifacts.digest_of(predictor)
    ended = cuvee(
        "fit",
        *("--weights", tmp_path / "w.csv", "--losses", tmp_path / "l.csv"),
        *("--out", predictor, "--model", "boosted-trees"),
    )
    assert ended.stderr == (
        f"cuvee: {predictor} was made with other settings; delete it or give another --out.\n"
    )
    assert ended.status == 1
    assert artifacts.digest_of(predictor) == digest


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"x", "ROOT/a.txt is no artefact; show a folder of cuvee's, a .parquet or a "),
        ("a.json", b"{", "ROOT/a.json is not valid JSON (Expecting property name enclosed in "),
        ("a.parquet", b"PAR1", "ROOT/a.parquet is not a Parquet file: Parquet file size is 4 "),
    ],
)
def test_show_refuses_what_is_no_artefact(
    name: str, content: bytes, message: str, tmp_path: Path, cuvee: Callable[..., Any]
) -> None:
    """A file of another kind, or a damaged one, is named."""
    (tmp_path / name).write_bytes(content)
    ended = cuvee("show", tmp_path / name)
    assert ended.stderr.startswith(f"cuvee: {message.replace('ROOT', str(tmp_path))}")
    assert ended.stderr.count("\n") == 1
    assert (ended.status, ended.stdout) == (1, "")


def test_show_refuses_an_empty_folder(tmp_path: Path, cuvee: Callable[..., Any]) -> None:
    """A folder without artefacts is named with what to give."""
    ended = cuvee("show", tmp_path)
    assert ended.stderr == (
        f"cuvee: {tmp_path} holds no artefact; give the --out folder of a run.\n"
    )
    assert ended.status == 1
