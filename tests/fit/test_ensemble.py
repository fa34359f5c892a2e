"""The mean of process and law."""

import numpy as np

from cuvee.fit.ensemble import Ensemble


def test_disagreement_widens_the_interval() -> None:
    """Mean of both means; variance of the process plus the square of half their difference."""
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(3), size=12)
    losses = 3.0 - 0.3 * np.log(weights[:, :1] + 0.05) + 0.2 * weights[:, 1:2] ** 2
    model = Ensemble(own=(0,)).fit(weights, losses, rng=np.random.default_rng(1))
    new = np.vstack([rng.dirichlet(np.ones(3), size=5), np.eye(3)])
    mean, sd = model.predict(new)
    (process, process_sd), (law, _) = model.process_.predict(new), model.law_.predict(new)
    np.testing.assert_allclose(mean, (process + law) / 2.0, rtol=1e-12)
    np.testing.assert_allclose(sd**2, process_sd**2 + ((process - law) / 2.0) ** 2, rtol=1e-12)
    assert model.process_.own == model.law_.own == (0,)
