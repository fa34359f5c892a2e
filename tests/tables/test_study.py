"""Studies: written and read, by us or by others, and refused where a run is missing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from cuvee.errors import DataError
from cuvee.tables.study import Study, read_study, write_study


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
