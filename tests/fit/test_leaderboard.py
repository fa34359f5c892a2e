"""All models on the same held-out runs."""

import warnings
from collections.abc import Mapping
from typing import Self

import numpy as np
import pytest

from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.errors import ConfigError, CuveeWarning, DataError
from cuvee.fit import leaderboard, models
from cuvee.fit.leaderboard import Standing, choose, compare_models, hold_out
from cuvee.fit.linear import LinearMixture
from cuvee.tables.predictor import Predictor
from cuvee.tables.swarm import Swarm

SLOPES = np.array([[2.0, 1.0], [3.0, 4.0], [2.5, 2.0]])
ALIKE = np.array([0.5, 0.5])


class Refusing(LinearMixture):
    """A model that cannot be fitted to anything."""

    def fit(self, weights: FloatArray, losses: FloatArray, *, rng: np.random.Generator) -> Self:
        """Refuse."""
        raise DataError("these runs are not to my taste.")


class Doubting(LinearMixture):
    """A model that warns at each fit."""

    def fit(self, weights: FloatArray, losses: FloatArray, *, rng: np.random.Generator) -> Self:
        """Warn, and fit."""
        warnings.warn("it stopped early", CuveeWarning, stacklevel=2)
        return super().fit(weights, losses, rng=rng)


class Constant(LinearMixture):
    """A model that predicts the mean of what it was fitted on."""

    def fit(self, weights: FloatArray, losses: FloatArray, *, rng: np.random.Generator) -> Self:
        """Remember the mean."""
        self.mean_ = losses.mean(axis=0)
        return self

    def predict(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Predict the mean."""
        return np.tile(self.mean_, (len(weights), 1)), np.ones((len(weights), 2))

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> Self:
        """Refuse: nothing reads it back here."""
        raise NotImplementedError


def _swarm(n_runs: int = 20) -> Swarm:
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(3), size=n_runs)
    return Swarm(
        ids=tuple(f"r{row}" for row in range(n_runs)),
        domains=("a", "b", "c"),
        targets=("x", "y"),
        weights=weights,
        losses=weights @ SLOPES + 0.01 * rng.normal(size=(n_runs, 2)),
        notices=(),
    )


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of models as small as it can be."""
    table: dict[str, type[Predictor]] = {
        "constant": Constant,
        "linear": LinearMixture,
        "doubting": Doubting,
        "refusing": Refusing,
    }
    monkeypatch.setattr(models, "MODELS", table)
    monkeypatch.setattr(leaderboard, "MODELS", table)


NAMES = ("doubting", "refusing", "constant", "linear")


@pytest.mark.usefixtures("known")
def test_models_are_ranked_beside_the_baselines() -> None:
    """The best first, one that fails last with its reason; ties go to the simpler."""
    board, held_out, seconds = compare_models(
        _swarm(), own=None, objective=ALIKE, seed=1, models=NAMES
    )
    assert [one.name for one in board.models][2:] == ["constant", "refusing"]
    by_name = {one.name: one for one in (*board.models, *board.baselines)}
    assert by_name["refusing"].failure == "these runs are not to my taste."
    assert by_name["doubting"].n_warnings == 5 * board.n_repeats
    assert by_name["linear"].n_warnings == 0
    assert by_name["doubting"].rmse == by_name["linear"].rmse
    assert board.winner == "linear"
    mean = by_name["mean of other folds"]
    assert (mean.rank, mean.rmse) == (None, pytest.approx(by_name["constant"].rmse))
    nearest = by_name["nearest measured mixture"]
    assert nearest.rank is not None
    assert nearest.rank > 0.5
    assert nearest.coverage is None
    assert set(seconds) == set(NAMES)
    assert len(held_out.validations) == board.n_repeats == 3


@pytest.mark.usefixtures("known")
def test_leaderboard_is_plain_json_without_seconds() -> None:
    """Equal runs and seed give equal text; time is kept apart."""
    one, other = (
        compare_models(_swarm(), own=None, objective=ALIKE, seed=1, models=NAMES)[0].to_json()
        for _ in range(2)
    )
    assert one == other
    assert "seconds" not in str(one)
    assert one["objective"] == {"x": 0.5, "y": 0.5}


@pytest.mark.usefixtures("known")
def test_fixed_choices_are_the_measured_runs_nearest_to_them() -> None:
    """Uniform over the own domain of x alone is the corner of b."""
    swarm = _swarm()
    board, _, _ = compare_models(
        swarm, own=(1, None), objective=np.array([1.0, 0.0]), seed=1, models=("linear",)
    )
    picks = {one.name: one for one in board.picks}
    assert list(picks) == ["mean of the measured", "uniform", "uniform-own"]
    row = int(np.argmax(swarm.weights[:, 1]))
    assert picks["uniform-own"].run == f"r{row}"
    assert picks["uniform-own"].distance == pytest.approx(1.0 - swarm.weights[row, 1])
    regret = swarm.losses[row, 0] - swarm.losses[:, 0].min()
    assert picks["uniform-own"].regret == pytest.approx(regret)


@pytest.mark.usefixtures("known")
def test_progress_counts_cross_validations() -> None:
    """From none to all, the model at work as a note."""
    told: list[tuple[int, int, str]] = []
    compare_models(
        _swarm(),
        own=None,
        objective=ALIKE,
        seed=1,
        models=("linear", "constant"),
        on_progress=lambda done, total, note: told.append((done, total, note)),
    )
    assert told == [(0, 6, "linear"), (3, 6, "constant"), (6, 6, "")]


@pytest.mark.usefixtures("known")
def test_all_models_are_asked_about_the_same_runs() -> None:
    """Folds depend on seed and repeat alone."""
    swarm = _swarm(8)
    one = hold_out("linear", swarm, own=None, seed=1)
    other = hold_out("constant", swarm, own=None, seed=1)
    assert len(one.validations) == 5
    for mine, yours in zip(one.validations, other.validations, strict=True):
        np.testing.assert_array_equal(mine.folds, yours.folds)
    assert any(
        not np.array_equal(one.validations[0].folds, later.folds) for later in one.validations[1:]
    )


@pytest.mark.parametrize(
    ("errors", "winner"),
    [
        ({"linear": 1.0, "ensemble": 0.99}, "linear"),
        ({"linear": 1.03, "ensemble": 1.0}, "ensemble"),
        ({"boosted-trees": 1.0, "ensemble": 1.01}, "ensemble"),
        ({"boosted-trees": 1.0, "ensemble": 1.1}, "boosted-trees"),
        ({"linear": None, "ensemble": 5.0}, "ensemble"),
    ],
)
def test_ties_go_to_the_simpler(errors: dict[str, float | None], winner: str) -> None:
    """Within 2% the first of the models' list wins, trees last of all."""
    assert choose([Standing(name=name, rmse=rmse) for name, rmse in errors.items()]) == winner


def test_too_few_runs_or_no_model_is_refused() -> None:
    """Both are one message with a remedy."""
    with pytest.raises(ConfigError, match="compares models on held-out runs, but there are 3 runs"):
        compare_models(_swarm(3), own=None, objective=ALIKE, seed=1)
    with pytest.raises(
        ConfigError, match=r"no model can be fitted to these runs \(a: bad; b: worse"
    ):
        choose([Standing(name="a", failure="bad"), Standing(name="b", failure="worse")])
