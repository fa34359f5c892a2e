"""Studies: written and read, by us or by others, and refused where a run is missing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from cuvee.errors import DataError
from cuvee.tables.study import Study, read_study, read_study_csv, write_study


@pytest.fixture
def study() -> Study:
    """Three mixtures, two sizes, four points, two targets."""
    rng = np.random.default_rng(0)
    return Study(
        mixture_ids=("m0", "m1", "m2"),
        domains=("code", "web"),
        weights=rng.dirichlet(np.ones(2), size=3),
        sizes=np.array([100, 200]),
        n_tokens=np.array([10, 20, 30, 40]),
        targets=("qa", "maths"),
        losses=rng.uniform(2.0, 3.0, size=(3, 2, 4, 2)),
    )


def test_written_and_read(study: Study, tmp_path: Path) -> None:
    """Nothing is lost."""
    write_study(tmp_path / "study.parquet", study)
    again = read_study(tmp_path / "study.parquet")
    assert (again.mixture_ids, again.domains, again.targets) == (
        study.mixture_ids,
        study.domains,
        study.targets,
    )
    np.testing.assert_array_equal(again.losses, study.losses)
    np.testing.assert_array_equal(again.weights, study.weights)


def test_a_csv_in_any_order_is_read(study: Study, tmp_path: Path) -> None:
    """Other people's tables of size and token columns."""
    write_study(tmp_path / "study.parquet", study)
    table = pq.read_table(tmp_path / "study.parquet")
    shuffled = table.take(np.random.default_rng(1).permutation(table.num_rows))
    csv.write_csv(shuffled, tmp_path / "study.csv")
    np.testing.assert_allclose(read_study(tmp_path / "study.csv").losses, study.losses)


def test_a_missing_run_is_named(study: Study, tmp_path: Path) -> None:
    """A law needs every mixture at every size."""
    write_study(tmp_path / "study.parquet", study)
    table = pq.read_table(tmp_path / "study.parquet")
    pq.write_table(table.slice(0, table.num_rows - 1), tmp_path / "short.parquet")
    with pytest.raises(DataError, match="0 rows for mixture 'm2', 200 parameters and 40 tokens"):
        read_study(tmp_path / "short.parquet")


def test_missing_columns_are_named(study: Study, tmp_path: Path) -> None:
    """The message says what a study needs."""
    write_study(tmp_path / "study.parquet", study)
    table = pq.read_table(tmp_path / "study.parquet").drop_columns(["parameters"])
    pq.write_table(table, tmp_path / "none.parquet")
    with pytest.raises(DataError, match="a study needs mixture, parameters, n_tokens"):
        read_study(tmp_path / "none.parquet")


def test_losses_that_are_not_finite_are_refused(study: Study) -> None:
    """The run is named."""
    losses = study.losses.copy()
    losses[1, 0, 2, 1] = np.nan
    with pytest.raises(DataError, match="mixture 'm1' at 100 parameters has no loss on 'maths'"):
        replace(study, losses=losses)


WEIGHTS = "index,code,web\n7,0.5,0.496\nb,0.25,0.75\nc,0,1\n"
LOSSES = (
    "maths,size,step,index,qa\n"
    "3.0,70K,10,7,2.0\n2.9,70K,20,7,1.9\n2.8,0.2M,10,7,1.8\n2.7,200000,20,7,1.7\n"
    "3.5,70K,10,b,2.5\n3.4,70K,20,b,2.4\n3.3,0.2M,20,b,2.3\n3.2,0.2M,10,b,2.2\n"
)


def _pair(folder: Path, weights: str = WEIGHTS, losses: str = LOSSES) -> tuple[Path, Path]:
    (folder / "weights.csv").write_text(weights, encoding="utf-8")
    (folder / "losses.csv").write_text(losses, encoding="utf-8")
    return folder / "weights.csv", folder / "losses.csv"


def test_tables_of_others_are_matched_by_name(tmp_path: Path) -> None:
    """Columns and rows in any order, sizes in any unit, steps counted in tokens."""
    study = read_study_csv(*_pair(tmp_path), tokens_per_step=100)
    assert study.mixture_ids == ("7", "b")
    assert study.sizes.tolist() == [70_000, 200_000]
    assert study.n_tokens.tolist() == [1_000, 2_000]
    assert study.targets == ("maths", "qa")
    np.testing.assert_array_equal(
        study.losses[..., 0], [[[3.0, 2.9], [2.8, 2.7]], [[3.5, 3.4], [3.2, 3.3]]]
    )
    np.testing.assert_allclose(study.weights.sum(axis=1), 1.0, rtol=0.0, atol=1e-12)
    assert "1 of 3 rows summed" in study.notices[0]
    assert "1 mixtures (c) lack weights or a size" in study.notices[1]


def test_points_not_in_every_run_are_left_out(tmp_path: Path) -> None:
    """What remains is a full grid, and the reader is told."""
    study = read_study_csv(
        *_pair(tmp_path, losses=LOSSES + "3.1,0.2M,30,b,2.1\n"), tokens_per_step=100
    )
    assert study.losses.shape == (2, 2, 2, 2)
    assert "1 token counts are not in every run" in study.notices[-1]


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (LOSSES + "3.0,70K,10,7,2.0\n", "row 10 repeats mixture '7' at 70000 parameters and 1000"),
        (LOSSES + "3.0,70K,30,7,nan\n", "row 10, column 'qa' is 'nan'; expected a finite number"),
        (
            LOSSES + "3.0,-1,30,7,2.0\n",
            "row 10, column 'size' is '-1'; expected a finite .* above 0",
        ),
        (LOSSES + "3.0,70K,30,7\n", "row 10 has 4 cells, not 5"),
        (LOSSES.replace("size", "width"), "no column named parameters or n_parameters"),
        (LOSSES.replace("index", "who"), "no column named mixture or index"),
        (LOSSES.replace("step", "when"), "no column named step or steps"),
        (LOSSES.replace("maths", "qa"), "found column 'qa' twice"),
        ("", "no column named mixture"),
        (LOSSES.replace(",7,", ",x,").replace(",b,", ",y,"), "have 0 mixtures in common"),
    ],
)
def test_broken_tables_of_others_are_refused(tmp_path: Path, losses: str, message: str) -> None:
    """One message that names row and column, or what is missing."""
    with pytest.raises(DataError, match=message):
        read_study_csv(*_pair(tmp_path, losses=losses), tokens_per_step=100)


def test_steps_need_their_tokens(tmp_path: Path) -> None:
    """A step may have any number of tokens."""
    with pytest.raises(DataError, match=r"counts steps \(column 'step'\); say how many tokens"):
        read_study_csv(*_pair(tmp_path))


def test_absent_tables_are_refused(tmp_path: Path) -> None:
    """The path is named."""
    weights, _ = _pair(tmp_path)
    with pytest.raises(DataError, match=r"losses table .*none\.csv"):
        read_study_csv(weights, tmp_path / "none.csv")
