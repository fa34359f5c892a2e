"""From somebody's tables to a predictor, and from a predictor to a table."""

import csv
from pathlib import Path

import numpy as np
import pytest

from cuvee import artifacts
from cuvee.arrays import FloatArray
from cuvee.errors import ArtifactError, ConfigError, DataError
from cuvee.fit.predictor_files import load_predictor
from cuvee.fit.swarm import MEAN_OF_TARGETS, SwarmFit, fit_swarm, predict_swarm

DOMAINS = ["train_web", "train_code", "train_books"]
TARGETS = ["metric/code_val_loss", "qa"]


def _write(path: Path, header: list[str], ids: list[int], values: FloatArray) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["index", *header])
        writer.writerows([name, *row] for name, row in zip(ids, values.tolist(), strict=True))
    return path


def _tables(folder: Path, n_runs: int = 14) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(3), size=n_runs).round(3)
    losses = weights @ np.array([[2.0, 1.0], [1.0, 4.0], [2.5, 2.0]])
    ids = list(range(1, n_runs + 1))
    losses_csv = _write(folder / "losses.csv", TARGETS, ids[::-1], losses[::-1])
    return _write(folder / "weights.csv", DOMAINS, ids, weights), losses_csv


def _fit(folder: Path, out: str = "fitted", seed: int = 1) -> SwarmFit:
    return fit_swarm(*_tables(folder), model="linear", out=folder / out, seed=seed)


def test_fit_reports_scores_beside_a_baseline(tmp_path: Path) -> None:
    """One row a target and one of their mean; own domains found by name."""
    result = _fit(tmp_path)
    assert (result.n_runs, result.own) == (14, (1, None))
    assert [score.target for score in result.scores] == [*TARGETS, MEAN_OF_TARGETS]
    for score in result.scores:
        assert score.rank is not None
        assert score.rank > 0.99
        assert score.rmse < 0.05 * score.baseline_rmse
        assert score.regret <= score.baseline_regret
    assert "rescaled to 1" in result.notices[0]
    assert load_predictor(result.folder).domains == tuple(DOMAINS)


def test_predictions_follow_names_and_rows(tmp_path: Path) -> None:
    """Columns in another order; rows come out as they went in."""
    folder = _fit(tmp_path).folder
    table = _write(
        tmp_path / "new.csv",
        ["train_books", "train_web", "train_code"],
        [9, 4],
        np.array([[0.0, 1.0, 0.0], [0.5, 0.25, 0.25]]),
    )
    assert predict_swarm(folder, table, tmp_path / "p.csv") == 2
    rows = list(csv.reader((tmp_path / "p.csv").read_text(encoding="utf-8").splitlines()))
    assert rows[0] == ["index", *TARGETS, *(f"{name}_sd" for name in TARGETS)]
    assert [row[0] for row in rows[1:]] == ["9", "4"]
    predicted = np.array([[float(cell) for cell in row[1:3]] for row in rows[1:]])
    np.testing.assert_allclose(predicted, [[2.0, 1.0], [2.0, 2.25]], atol=0.01)


def test_same_tables_and_seed_give_the_same_bytes(tmp_path: Path) -> None:
    """Two folders of one digest; another seed is another artefact."""
    one, two, three = _fit(tmp_path, "one"), _fit(tmp_path, "two"), _fit(tmp_path, "three", seed=2)
    assert artifacts.digest_of(one.folder) == artifacts.digest_of(two.folder)
    assert artifacts.digest_of(one.folder) != artifacts.digest_of(three.folder)


def test_finished_folder_is_reused(tmp_path: Path) -> None:
    """The same command again does nothing and says the same."""
    first, again = _fit(tmp_path), _fit(tmp_path)
    assert (first.reused, again.reused) == (False, True)
    assert first.scores == again.scores


def test_folder_of_other_making_is_refused(tmp_path: Path) -> None:
    """Another seed or model under the same name, or somebody's files."""
    _fit(tmp_path)
    with pytest.raises(ArtifactError, match="was made with other seed; delete it"):
        _fit(tmp_path, seed=2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ArtifactError, match="is no finished predictor; give --out an empty"):
        _fit(tmp_path, "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_three_runs_are_fitted_without_scores(tmp_path: Path) -> None:
    """Too few to leave some out, enough for a line."""
    weights, losses = _tables(tmp_path, n_runs=3)
    result = fit_swarm(weights, losses, model="linear", out=tmp_path / "f", seed=1)
    assert result.scores == ()


def test_unknown_model_and_bad_tables_leave_no_folder(tmp_path: Path) -> None:
    """Errors come before anything is written."""
    weights, losses = _tables(tmp_path)
    with pytest.raises(ConfigError, match="model 'best' is unknown"):
        fit_swarm(weights, losses, model="best", out=tmp_path / "f", seed=1)
    with pytest.raises(DataError, match="does not exist"):
        fit_swarm(weights, tmp_path / "no.csv", model="linear", out=tmp_path / "f", seed=1)
    assert not (tmp_path / "f").exists()
