"""The traps of real swarm tables."""

from pathlib import Path

import numpy as np
import pytest

from cuvee.errors import DataError
from cuvee.tables.swarm import (
    match_runs,
    read_losses_csv,
    read_weights_csv,
    write_predictions_csv,
)


def _file(folder: Path, text: str, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def _pair(folder: Path, weights: str, losses: str) -> tuple[Path, Path]:
    return _file(folder, weights, "weights.csv"), _file(folder, losses, "losses.csv")


def test_rounded_rows_are_rescaled_with_a_notice(tmp_path: Path) -> None:
    """Sums of .996 and 1.003 become 1; nothing else moves."""
    table = read_weights_csv(_file(tmp_path, "index,a,b\n1,0.5,0.496\n2,0.5,0.503\n3,0.5,0.5\n"))
    np.testing.assert_allclose(table.values.sum(axis=1), 1.0, rtol=0.0, atol=1e-15)
    np.testing.assert_array_equal(table.values[2], [0.5, 0.5])
    assert len(table.notices) == 1
    assert "2 of 3 rows summed to 0.996 to 1.003" in table.notices[0]


def test_exact_rows_give_no_notice(tmp_path: Path) -> None:
    """Nothing was put right, so nothing is said."""
    assert read_weights_csv(_file(tmp_path, "index,a,b\n1,0.25,0.75\n2,0,1\n")).notices == ()


def test_sum_beyond_rounding_is_refused_by_row(tmp_path: Path) -> None:
    """A default mixture that sums to 1.02 is no rounding."""
    path = _file(tmp_path, "index,a,b\n1,0.5,0.5\n17,0.52,0.5\n")
    with pytest.raises(DataError, match=r"row 17 sums to 1\.02; rows must sum to 1"):
        read_weights_csv(path)


def test_negative_share_is_refused(tmp_path: Path) -> None:
    """The message names row and column."""
    with pytest.raises(DataError, match=r"row 1, column 'b' is -0\.1"):
        read_weights_csv(_file(tmp_path, "index,a,b\n1,1.1,-0.1\n"))


@pytest.mark.parametrize("cell", ["", "nan", "inf", "n/a"])
def test_missing_number_is_refused_by_row_and_column(tmp_path: Path, cell: str) -> None:
    """NaN, infinity, blanks and words are no losses."""
    path = _file(tmp_path, f"index,x,y\n1,2.0,3.0\n2,2.5,{cell}\n")
    with pytest.raises(DataError, match=r"row 2 \(line 3\), column 'y' is .* expected a finite"):
        read_losses_csv(path)


@pytest.mark.parametrize("repeated", ["2", "2.0", "02"])
def test_repeated_id_is_refused(tmp_path: Path, repeated: str) -> None:
    """One id, one row, in whatever spelling."""
    path = _file(tmp_path, f"index,a\n1,1\n2,1\n{repeated},1\n")
    with pytest.raises(DataError, match="run 2 stands in more than one row"):
        read_weights_csv(path)


def test_repeated_column_is_refused(tmp_path: Path) -> None:
    """Columns are matched by name, so names must be unique."""
    with pytest.raises(DataError, match="found column 'a' twice"):
        read_weights_csv(_file(tmp_path, "index,a,a\n1,0.5,0.5\n"))


def test_table_without_index_is_refused(tmp_path: Path) -> None:
    """Rows are never matched by position."""
    with pytest.raises(DataError, match="no column named index or run_id or run or id or name"):
        read_weights_csv(_file(tmp_path, "a,b\n0.5,0.5\n"))


def test_table_without_numbers_is_refused(tmp_path: Path) -> None:
    """An index alone is no table."""
    with pytest.raises(DataError, match="found no column but index"):
        read_weights_csv(_file(tmp_path, "index\n1\n"))


def test_ragged_line_is_refused(tmp_path: Path) -> None:
    """A missing cell would shift all that follow."""
    with pytest.raises(DataError, match="line 3 has 2 cells, the header 3"):
        read_weights_csv(_file(tmp_path, "index,a,b\n1,0.5,0.5\n2,1\n"))


def test_unreadable_tables_are_refused(tmp_path: Path) -> None:
    """Missing, empty and foreign files each say what they are."""
    with pytest.raises(DataError, match="does not exist"):
        read_weights_csv(tmp_path / "none.csv")
    with pytest.raises(DataError, match="has 1 lines; expected a header and at least one row"):
        read_losses_csv(_file(tmp_path, "index,a\n"))
    (tmp_path / "binary.csv").write_bytes(b"index,a\n1,\xff\xfe\n")
    with pytest.raises(DataError, match="not CSV in UTF-8"):
        read_losses_csv(tmp_path / "binary.csv")


def test_byte_order_mark_and_blank_lines_are_read(tmp_path: Path) -> None:
    """As spreadsheets write them."""
    table = read_weights_csv(_file(tmp_path, "\ufeffindex,a\r\n1,1\r\n\r\n"))
    assert table.ids == ("1",)


def test_metadata_columns_are_no_domains(tmp_path: Path) -> None:
    """Olmix's tables carry run, name and an unnamed pandas index."""
    table = read_weights_csv(_file(tmp_path, ",run,name,index,a,b\n0,x1,mix-1,5,0.5,0.5\n"))
    assert (table.ids, table.columns) == (("5",), ("a", "b"))


def test_runs_are_matched_by_id(tmp_path: Path) -> None:
    """Another order of rows and another spelling of ids change nothing."""
    weights, losses = _pair(
        tmp_path, "index,a,b\n1,1,0\n2,0,1\n3,0.5,0.5\n", "index,x\n3.0,0.3\n1.0,0.1\n2.0,0.2\n"
    )
    swarm = match_runs(read_weights_csv(weights), read_losses_csv(losses))
    np.testing.assert_array_equal(swarm.losses[:, 0], [0.1, 0.2, 0.3])
    assert swarm.ids == ("1", "2", "3")


def test_runs_of_one_table_only_are_left_out_with_a_notice(tmp_path: Path) -> None:
    """Unfinished runs have no loss yet."""
    weights, losses = _pair(tmp_path, "index,a\n1,1\n2,1\n3,1\n", "index,x\n2,0.2\n9,0.9\n")
    swarm = match_runs(read_weights_csv(weights), read_losses_csv(losses))
    assert swarm.ids == ("2",)
    assert [notice.split(": ")[1][:6] for notice in swarm.notices] == ["2 runs", "1 runs"]


def test_ids_counted_from_zero_and_one_are_refused(tmp_path: Path) -> None:
    """Joined by id, every run would get its neighbour's loss."""
    weights, losses = _pair(tmp_path, "index,a\n0,1\n1,1\n2,1\n", "index,x\n1,0.1\n2,0.2\n3,0.3\n")
    with pytest.raises(DataError, match=r"run ids start at 0 in .* and at 1 in"):
        match_runs(read_weights_csv(weights), read_losses_csv(losses))


@pytest.mark.parametrize(
    ("weights", "losses", "n_alone"),
    [((0, 1, 2, 3), (1, 2, 3), 1), ((0, 1, 2, 3), (1, 2, 4), 3), ((1, 2), (0, 1, 2, 3), 2)],
    ids=["first run missing", "a gap", "counted from 1 in the weights"],
)
def test_ids_that_overlap_in_part_are_not_shifted_silently(
    tmp_path: Path, weights: tuple[int, ...], losses: tuple[int, ...], n_alone: int
) -> None:
    """Runs 0 to 3 beside runs 1 to 3: nobody can tell whether the same id is the same run."""
    pair = _pair(
        tmp_path,
        "index,a\n" + "".join(f"{name},1\n" for name in weights),
        "index,x\n" + "".join(f"{name},0.5\n" for name in losses),
    )
    message = rf"run ids start at \d in .* and {n_alone} runs are in one table only.*Number both"
    with pytest.raises(DataError, match=message):
        match_runs(read_weights_csv(pair[0]), read_losses_csv(pair[1]))


def test_finished_runs_among_planned_ones_are_no_shift(tmp_path: Path) -> None:
    """Runs 1 and 3 of 0 to 3 have a loss: the others are not finished yet."""
    weights, losses = _pair(tmp_path, "index,a\n0,1\n1,1\n2,1\n3,1\n", "index,x\n1,0.1\n3,0.3\n")
    assert match_runs(read_weights_csv(weights), read_losses_csv(losses)).ids == ("1", "3")


def test_tables_are_joined_by_an_id_column_that_both_have(tmp_path: Path) -> None:
    """Each table numbers its rows, but the runs' names stand in both."""
    weights, losses = _pair(
        tmp_path,
        "index,run,a,b\n0,x,1,0\n1,y,0,1\n2,z,0.5,0.5\n",
        "run,name,metric\nz,mix-3,0.3\nx,mix-1,0.1\ny,mix-2,0.2\n",
    )
    swarm = match_runs(read_weights_csv(weights), read_losses_csv(losses))
    assert (swarm.ids, swarm.targets) == (("x", "y", "z"), ("metric",))
    np.testing.assert_array_equal(swarm.losses[:, 0], [0.1, 0.2, 0.3])


def test_id_columns_that_disagree_are_refused(tmp_path: Path) -> None:
    """Olmix's tables carry index, run and name: a row number must not win over a name."""
    weights, losses = _pair(
        tmp_path,
        ",run,name,index,a\n0,x,m-0,0,1\n1,y,m-1,1,1\n",
        ",run,name,index,q\n0,x,m-0,0,2\n1,z,m-2,1,3\n",
    )
    with pytest.raises(
        DataError, match=r"run 1 of .* has run 'y', but 'z' in .*pair the runs diff"
    ):
        match_runs(read_weights_csv(weights), read_losses_csv(losses))


def test_shared_id_column_must_be_unique(tmp_path: Path) -> None:
    """The join is by name, and one name stands for two runs."""
    weights, losses = _pair(tmp_path, "index,name,a\n0,m,1\n1,m,1\n", "name,x\nm,1\nn,2\n")
    with pytest.raises(DataError, match=r"weights\.csv: run m stands in more than one row"):
        match_runs(read_weights_csv(weights), read_losses_csv(losses))


def test_columns_keep_their_names_in_any_order(tmp_path: Path) -> None:
    """Domains without a loss column and losses without a domain are kept; zeros are shares."""
    weights, losses = _pair(
        tmp_path, "a,index,b,c\n1,1,0,0\n0,2,0.5,0.5\n", "qa,c_loss,index\n7,5,1\n8,6,2\n"
    )
    swarm = match_runs(read_weights_csv(weights), read_losses_csv(losses))
    assert (swarm.domains, swarm.targets) == (("a", "b", "c"), ("qa", "c_loss"))
    np.testing.assert_array_equal(swarm.losses, [[7.0, 5.0], [8.0, 6.0]])
    np.testing.assert_array_equal(swarm.weights[0], [1.0, 0.0, 0.0])
    assert swarm.notices == ()


def test_runs_are_taken_with_their_losses(tmp_path: Path) -> None:
    """Rows of ids, weights and losses stay together."""
    weights, losses = _pair(tmp_path, "index,a,b\n7,1,0\n8,0,1\n", "index,x\n7,0.7\n8,0.8\n")
    taken = match_runs(read_weights_csv(weights), read_losses_csv(losses)).take(np.array([1]))
    assert (taken.ids, taken.weights.tolist(), taken.losses.tolist()) == (
        ("8",),
        [[0.0, 1.0]],
        [[0.8]],
    )


def test_tables_without_common_run_are_refused(tmp_path: Path) -> None:
    """The message shows an id of each."""
    weights, losses = _pair(tmp_path, "index,a\nm1,1\n", "index,x\nr1,0.1\n")
    with pytest.raises(DataError, match=r"share no run id \(ids m1, ... and r1"):
        match_runs(read_weights_csv(weights), read_losses_csv(losses))


def test_repeated_mixture_is_kept_with_a_notice(tmp_path: Path) -> None:
    """Two runs of one mixture tell the noise."""
    weights, losses = _pair(tmp_path, "index,a,b\n1,1,0\n2,1,0\n", "index,x\n1,0.1\n2,0.2\n")
    swarm = match_runs(read_weights_csv(weights), read_losses_csv(losses))
    assert len(swarm.ids) == 2
    assert "1 runs repeat the mixture of another run (2 that of 1)" in swarm.notices[0]
    assert swarm.notices[0].endswith("they share a fold")


def test_predictions_have_means_then_errors_in_input_order(tmp_path: Path) -> None:
    """The columns the command line promises, numbers exact."""
    path = tmp_path / "below" / "p.csv"
    mean, sd = np.array([[0.1, 2.0], [1 / 3, 4.0]]), np.array([[0.5, 0.25], [0.125, 1.0]])
    write_predictions_csv(path, ["7", "3"], ("x", "metric/y, z"), mean, sd)
    assert path.read_text(encoding="utf-8").splitlines() == [
        'index,x,"metric/y, z",x_sd,"metric/y, z_sd"',
        "7,0.1,2.0,0.5,0.25",
        "3,0.3333333333333333,4.0,0.125,1.0",
    ]
