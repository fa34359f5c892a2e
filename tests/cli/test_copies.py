"""`cuvee copies`: a curve file and labels in a folder, to ids and copies."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cuvee import artifacts
from cuvee.policy.quality_curve import QualityCurve


@pytest.fixture
def curve(tmp_path: Path) -> Path:
    """A curve that takes the better half of the one domain."""
    half = QualityCurve.of_vector(["web"], ["edu"], [1.0, 1.0, 0.5, 0.0, 0.0])
    artifacts.write_json(tmp_path / "curve.json", half.to_json())
    return tmp_path / "curve.json"


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """A folder of two files, 100 documents of equal length."""
    folder = tmp_path / "labels"
    folder.mkdir()
    for part in range(2):
        numbers = np.arange(50) + 50 * part
        table = pa.table(
            {
                "name": [f"d{number}" for number in numbers],
                "domain": ["web"] * 50,
                "n_tokens": np.full(50, 10),
                "edu": numbers / 100.0,
            }
        )
        pq.write_table(table, folder / f"{part}.parquet")
    return folder


@pytest.mark.parametrize("rows", [0, 1000])
@pytest.mark.parametrize("smaller", [True, False])
def test_copies_of_the_better_half(
    rows: int, smaller: bool, curve: Path, labels: Path, tmp_path: Path, cuvee: Callable[..., Any]
) -> None:
    """In memory and streamed, in either direction; said on standard output."""
    out = tmp_path / "out"
    turned = ("--smaller", "edu") if smaller else ()
    arguments = ("--curve", curve, "--out", out, "--id", "name", "--in-memory-rows", rows, "-q")
    ended = cuvee("copies", labels, *arguments, *turned, "--workers", 0)
    assert (ended.status, ended.stderr) == (0, "")
    assert "50 of 100 documents taken, 50 copies, 500 tokens" in ended.stdout
    taken = pa.concat_tables(pq.read_table(one) for one in out.glob("part-*.parquet"))
    numbers = range(50) if smaller else range(50, 100)
    assert sorted(taken["id"].to_pylist()) == sorted(f"d{number}" for number in numbers)


def test_a_folder_without_labels_is_refused(
    curve: Path, tmp_path: Path, cuvee: Callable[..., Any]
) -> None:
    """One clear message."""
    (tmp_path / "empty").mkdir()
    ended = cuvee("copies", tmp_path / "empty", "--curve", curve, "--out", tmp_path / "out", "-q")
    assert ended.status == 1
    assert "holds no Parquet file" in ended.stderr
