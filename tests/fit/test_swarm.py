"""From somebody's tables to a predictor, and from a predictor to a table."""

import csv
from pathlib import Path

import numpy as np
import pytest

from cuvee import artifacts
from cuvee.arrays import FloatArray
from cuvee.errors import ArtifactError, ConfigError
from cuvee.fit.linear import LinearMixture
from cuvee.fit.predictor_files import load_predictor
from cuvee.fit.swarm import (
    MEAN_OF_TARGETS,
    SwarmFit,
    SwarmFitConfig,
    fit_swarm,
    predict_swarm,
    read_fitted_runs,
)
from cuvee.tables.swarm import Swarm, match_runs, read_losses_csv, read_weights_csv

DOMAINS = ["train_web", "train_code", "train_books"]
TARGETS = ["metric/code_val_loss", "qa"]
LINEAR = SwarmFitConfig(model="linear")
OTHER_SEED = SwarmFitConfig(model="linear", seed=2)


def _write(path: Path, header: list[str], ids: list[int], values: FloatArray) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["index", *header])
        writer.writerows([name, *row] for name, row in zip(ids, values.tolist(), strict=True))
    return path


def _swarm(folder: Path, n_runs: int = 14) -> Swarm:
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(3), size=n_runs).round(3)
    losses = weights @ np.array([[2.0, 1.0], [1.0, 4.0], [2.5, 2.0]])
    ids = list(range(1, n_runs + 1))
    return match_runs(
        read_weights_csv(_write(folder / "weights.csv", DOMAINS, ids, weights)),
        read_losses_csv(_write(folder / "losses.csv", TARGETS, ids[::-1], losses[::-1])),
    )


def _fit(
    folder: Path, out: str = "fitted", n_runs: int = 14, config: SwarmFitConfig = LINEAR
) -> SwarmFit:
    return fit_swarm(
        _swarm(folder, n_runs), config=config, out=folder / out, inputs={"weights": "0"}
    )


def test_fit_reports_scores_beside_a_baseline(tmp_path: Path) -> None:
    """One row a target and one of their mean; own domains found by name."""
    result = _fit(tmp_path)
    assert result.n_runs == 14
    assert result.own == {"metric/code_val_loss": "train_code", "qa": None}
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
    one, two, three = (
        _fit(tmp_path, "one"),
        _fit(tmp_path, "two"),
        _fit(tmp_path, "three", config=OTHER_SEED),
    )
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
        _fit(tmp_path, config=OTHER_SEED)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ArtifactError, match="is no finished predictor; give --out an empty"):
        _fit(tmp_path, "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_three_runs_are_fitted_without_scores(tmp_path: Path) -> None:
    """Too few to leave some out, enough for a line."""
    assert _fit(tmp_path, n_runs=3).scores == ()


def test_auto_takes_the_winner_and_keeps_the_leaderboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses linear in the weights: the line wins; the same command again reads what it wrote."""
    quick = dict.fromkeys(("effective-data-power", "linear"))
    monkeypatch.setattr("cuvee.fit.leaderboard.MODELS", quick)
    config = SwarmFitConfig(model="auto", objective={"qa": 2.0})
    result, again = (_fit(tmp_path, n_runs=6, config=config) for _ in range(2))
    assert result.model == load_predictor(result.folder).name == "linear"
    board = result.leaderboard
    assert board is not None
    assert (board["winner"], board["n_repeats"]) == ("linear", 5)
    assert board["objective"] == {"metric/code_val_loss": 0.0, "qa": 1.0}
    assert result.scores[-1].target == "objective"
    assert "linear" in result.seconds
    assert again.reused
    assert (again.leaderboard, again.scores) == (board, result.scores)
    assert "seconds" not in (result.folder / "leaderboard.json").read_text(encoding="utf-8")
    manifest = artifacts.read_json(result.folder / artifacts.MANIFEST)
    assert isinstance(manifest, dict)
    assert "timing.json" not in manifest["files"]


def test_outliers_are_named_by_run_and_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A robust model's pairs of numbers become an id and a name; they are kept in the folder."""
    monkeypatch.setattr(LinearMixture, "outliers_", ((0, 1), (4, 0), (4, 1)), raising=False)
    for result in (_fit(tmp_path), _fit(tmp_path)):
        assert result.notices[-2:] == (
            "run 1 is far from the fit on qa and counts less there",
            "run 5 is far from the fit on metric/code_val_loss, qa and counts less there",
        )


def test_fitted_runs_are_kept(tmp_path: Path) -> None:
    """The folder holds the mixtures and losses it was made of, and their ids."""
    swarm = _swarm(tmp_path)
    folder = _fit(tmp_path).folder
    kept = read_fitted_runs(folder)
    assert kept is not None
    assert (kept.ids, kept.domains, kept.targets) == (swarm.ids, tuple(DOMAINS), tuple(TARGETS))
    np.testing.assert_array_equal(kept.weights, swarm.weights)
    np.testing.assert_array_equal(kept.losses, swarm.losses)
    rows = artifacts.read_json(folder / "rows.json")
    assert isinstance(rows, dict)
    assert (rows["run_ids"], rows["chosen"]) == ([str(n) for n in range(1, 15)], None)
    assert read_fitted_runs(tmp_path) is None


def test_unknown_model_leaves_no_folder(tmp_path: Path) -> None:
    """Errors come before anything is written."""
    with pytest.raises(ConfigError, match="model 'best' is unknown"):
        SwarmFitConfig(model="best")
    with pytest.raises(ConfigError, match="is no target"):
        _fit(tmp_path, "f", config=SwarmFitConfig(model="linear", own={"x": "train_web"}))
    assert not (tmp_path / "f").exists()
