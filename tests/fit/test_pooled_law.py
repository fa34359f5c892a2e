"""Size laws that lean on one another: coverage four times beyond the largest size."""

import numpy as np
import pytest

from cuvee.arrays import FloatArray
from cuvee.errors import DataError
from cuvee.fit.nesting import extrapolate
from cuvee.fit.pooled_law import fit_pooled_law
from cuvee.tables.study import Study

SIZES = np.array([1e5, 2e5, 4e5])
TOKENS = np.array([0.25, 0.5, 0.75, 1.0]) * 1e6
NOISE = 0.01


class Planted:
    """Mixtures that follow one joint law."""

    def __init__(self, seed: int, n_mixtures: int = 16) -> None:
        self.rng = np.random.default_rng(seed)
        self.alpha = float(np.exp(self.rng.normal(np.log(0.3), 0.3)))
        self.floor = self.rng.normal(3.0, 0.4, n_mixtures)
        self.by_size = self.rng.normal(0.4, 0.1, n_mixtures)
        self.by_tokens = self.rng.normal(0.3, 0.05, n_mixtures)

    def true(self, size: float, tokens: float) -> FloatArray:
        """Return the (n_mixtures,) losses without noise."""
        return np.asarray(
            self.floor
            + self.by_size * (size / SIZES[-1]) ** -self.alpha
            + self.by_tokens * (tokens / TOKENS[-1]) ** -0.5
        )

    def run(self, size: float) -> FloatArray:
        """Return the (n_mixtures, n_points) losses along runs of one size."""
        noise = NOISE * self.rng.standard_normal((len(self.floor), 1))
        points = 0.002 * self.rng.standard_normal((len(self.floor), len(TOKENS)))
        return np.stack([self.true(size, one) for one in TOKENS], axis=1) + noise + points

    def study(self) -> Study:
        """Return a study of one target."""
        losses = np.stack([self.run(size) for size in SIZES], axis=1)[..., None]
        n = len(self.floor)
        return Study(
            mixture_ids=tuple(f"m{place}" for place in range(n)),
            domains=("a", "b"),
            weights=self.rng.dirichlet(np.ones(2), size=n),
            sizes=SIZES.astype(np.int64),
            n_tokens=TOKENS.astype(np.int64),
            targets=("t",),
            losses=losses,
        )


def test_sizes_beyond_are_covered() -> None:
    """A size law of three sizes, pooled over mixtures, covers runs of four times the largest."""
    inside = []
    for seed in range(20):
        planted = Planted(seed)
        losses = np.stack([planted.run(size)[:, -1] for size in SIZES], axis=1)
        mean, sd = fit_pooled_law([SIZES], losses).predict(4 * SIZES[-1])
        inside.append(np.abs(mean - planted.run(4 * SIZES[-1])[:, -1]) <= 1.645 * sd)
    assert 0.82 <= np.mean(inside) <= 0.95


@pytest.mark.parametrize("method", ["nested", "joint"])
def test_studies_lead_to_new_sizes(method: str) -> None:
    """Both ways keep the order of mixtures and cover new runs, and say how they did without one."""
    inside, ranks = [], []
    for seed in range(2):
        planted = Planted(100 + seed)
        found = extrapolate(planted.study(), size=1_600_000, n_tokens=1_000_000, method=method)  # type: ignore[arg-type]
        new = planted.run(1.6e6)[:, -1]
        inside.append(np.abs(found.mean[:, 0] - new) <= 1.645 * found.sd[:, 0])
        ranks.append(np.corrcoef(found.mean[:, 0], new)[0, 1])
        assert found.held_out is not None
        assert found.held_out.size == 400_000
        assert found.held_out.n == 16
    assert 0.75 <= np.mean(inside) <= 1.0
    assert min(ranks) > 0.95


def test_a_longer_horizon_has_lower_losses_and_more_doubt() -> None:
    """Beyond the runs' end a step law carries the losses on."""
    study = Planted(5).study()
    now = extrapolate(study, size=1_600_000, n_tokens=1_000_000, method="nested")
    later = extrapolate(study, size=1_600_000, n_tokens=4_000_000, method="nested")
    assert (later.mean < now.mean).all()
    assert later.sd.mean() > now.sd.mean()


def test_auto_takes_the_smaller_held_out_error() -> None:
    """The choice is made on the largest size, never on the target."""
    study = Planted(6).study()
    found = {
        method: extrapolate(study, size=1_600_000, n_tokens=1_000_000, method=method)  # type: ignore[arg-type]
        for method in ("nested", "joint", "auto")
    }
    errors = {name: one.held_out.rmse for name, one in found.items() if one.held_out is not None}
    assert errors["auto"] == min(errors["nested"], errors["joint"])


def test_one_size_is_refused() -> None:
    """There is no size law of one size."""
    with pytest.raises(DataError, match="1 size; a size law needs at least 2"):
        extrapolate(Planted(1).study().only(n_sizes=1), size=1_600_000, n_tokens=1_000_000)
