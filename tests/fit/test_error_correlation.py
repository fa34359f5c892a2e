"""The interval of a sum of targets: from errors that move together as they were seen to."""

import numpy as np
import pytest

from cuvee.fit.error_correlation import error_correlation
from cuvee.fit.linear import LinearMixture
from cuvee.fit.predictor_files import NamedPredictor
from cuvee.tables.predictor import objective_sd


@pytest.mark.parametrize("together", [0.0, 0.5, 1.0])
def test_intervals_of_a_sum_hold_whatever_the_correlation(together: float) -> None:
    """Planted errors of 13 targets, seen on 32 runs: about nine in ten new sums are inside."""
    rng = np.random.default_rng(3)
    n_targets, weights = 13, np.full(13, 1.0 / 13.0)
    true = (1.0 - together) * np.eye(n_targets) + together
    draw = np.linalg.cholesky(true + 1e-9 * np.eye(n_targets))
    sd = rng.uniform(0.5, 2.0, size=n_targets)
    inside, bound = [], []
    for _ in range(60):
        seen = rng.normal(size=(32, n_targets)) @ draw.T
        new = (rng.normal(size=(50, n_targets)) @ draw.T) * sd
        predictor = NamedPredictor(
            model=LinearMixture(),
            name="linear",
            domains=(),
            targets=(),
            error_correlation=error_correlation([seen]),
        )
        width = 1.645 * objective_sd(predictor, np.tile(sd, (50, 1)), weights)
        inside.append(np.mean(np.abs(new @ weights) <= width))
        bound.append(np.mean(np.abs(new @ weights) <= 1.645 * (sd @ weights)))
    assert np.mean(inside) >= 0.85
    assert np.mean(inside) <= np.mean(bound)
    if together < 1.0:
        width = float(objective_sd(predictor, sd[None, :], weights)[0])
        assert width < 0.9 * float(sd @ weights)


def test_unknown_correlation_is_the_bound() -> None:
    """Errors that are all alike give the widest interval."""
    predictor = NamedPredictor(model=LinearMixture(), name="linear", domains=(), targets=())
    sd = np.array([[1.0, 2.0]])
    assert objective_sd(predictor, sd, np.array([0.5, 0.5]))[0] == pytest.approx(1.5)
