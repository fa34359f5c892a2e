"""The law that a process has taught: convex, tame far from the runs."""

import numpy as np
from scipy.optimize import approx_fprime

from cuvee.arrays import FloatArray
from cuvee.fit.distilled_law import DistilledLaw, law_slopes
from cuvee.fit.effective_data import law


def _runs(n_runs: int = 16) -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(3)
    weights = rng.dirichlet(np.full(4, 0.6), size=n_runs)
    counts = np.array([[1.0, 0.2, 0.05, 0.0], [0.1, 1.0, 0.02, 0.0]])
    losses = 2.0 + 0.4 * (0.02 + weights @ counts.T) ** -0.3
    return weights, losses + 0.005 * rng.standard_normal(losses.shape)


def test_slopes_are_the_derivatives_of_the_mean() -> None:
    """Along every weight, for every target."""
    weights, losses = _runs()
    model = DistilledLaw(own=(0, 1)).fit(weights, losses, rng=np.random.default_rng(0))
    point = np.array([0.4, 0.3, 0.2, 0.1])
    slopes = model.slopes(point[None, :])
    assert slopes.shape == (1, 2, 4)
    for target, parameters in enumerate(model.parameters_):
        numeric = approx_fprime(point, lambda w, p=parameters: law(p, w[None, :])[0][0], 1e-7)
        np.testing.assert_allclose(slopes[0, target], model.scale_[target, 1] * numeric, rtol=1e-4)
        np.testing.assert_allclose(law_slopes(parameters, point[None, :])[0], numeric, rtol=1e-4)


def test_mean_is_convex() -> None:
    """Between any two mixtures the law lies below the straight line."""
    weights, losses = _runs()
    model = DistilledLaw(own=(0, 1)).fit(weights, losses, rng=np.random.default_rng(0))
    ends = np.random.default_rng(1).dirichlet(np.ones(4), size=(2, 200))
    middle = model.mean(ends.mean(axis=0))
    assert (middle <= (model.mean(ends[0]) + model.mean(ends[1])) / 2.0 + 1e-12).all()


def test_constant_losses_stay_constant() -> None:
    """A target that no mixture moves is predicted as it is."""
    weights, losses = _runs()
    losses[:, 1] = 3.0
    model = DistilledLaw(own=(0, 1)).fit(weights, losses, rng=np.random.default_rng(0))
    np.testing.assert_allclose(model.mean(weights)[:, 1], 3.0)
    assert (model.slopes(weights)[:, 1] == 0.0).all()
