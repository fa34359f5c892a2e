"""Regressions on features: what they find, the error they state, what they refuse."""

import numpy as np
import pytest

from cuvee.errors import DataError
from cuvee.fit.feature_models import REGRESSIONS, FeatureModel, Regression, held_out, mean_rank
from cuvee.randomness import stream


def _planted(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.uniform(size=(n, 6))
    smooth = np.sin(2.0 * features[:, 0]) + 0.5 * features[:, 1]
    losses = np.stack([smooth, 2.0 - features[:, 2]], axis=1)
    return features, losses + 0.02 * rng.standard_normal(losses.shape)


@pytest.mark.parametrize("kind", REGRESSIONS)
def test_new_rows_are_ranked_and_the_error_is_honest(kind: Regression) -> None:
    """Rank correlation above .9 for both targets; the stated error is near the true one."""
    model = FeatureModel.fit(*_planted(96, 0), kind=kind, rng=stream(1, "fit"))
    features, losses = _planted(300, 1)
    mean, sd = model.predict(features)
    for column in range(2):
        assert mean_rank(mean[:, column], losses[:, column]) > 0.9
    true = np.sqrt(np.mean((mean - losses) ** 2, axis=0))
    assert (model.error < 2.5 * true).all()
    assert (true < 2.0 * model.error).all()
    assert (sd >= model.error - 1e-12).all()


def test_held_out_predictions_do_not_see_their_run() -> None:
    """Losses without any relation to the features cannot be ranked."""
    rng = np.random.default_rng(3)
    features, losses = rng.uniform(size=(80, 4)), rng.standard_normal((80, 1))
    predicted = held_out(features, losses, kind="linear", rng=stream(1, "folds"))
    assert abs(mean_rank(predicted[:, 0], losses[:, 0])) < 0.3
    assert mean_rank(np.zeros(5), np.arange(5.0)) == 0.0


def test_bad_rows_are_refused() -> None:
    """Too few, not finite, not together."""
    features, losses = _planted(20, 0)
    for rows, columns, words in (
        (features[:5], losses[:5], "at least 8"),
        (features, losses[:10], "same runs"),
        (np.where(features > 0.9, np.nan, features), losses, "not finite"),
    ):
        with pytest.raises(DataError, match=words):
            FeatureModel.fit(rows, columns, kind="linear", rng=stream(1, "fit"))
