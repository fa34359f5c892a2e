"""The laws drawn in the report are those of the run, against planted ones."""

import numpy as np
import pytest

from cuvee.fit.nesting import extrapolate
from cuvee.methods import law_pictures, studies
from cuvee.methods.continued import Curves
from cuvee.methods.job import Job
from cuvee.tables.study import Study

OBJECTIVE = np.array([0.5, 0.5])
SIZES = ("0.03m", "0.05m", "0.1m")


def planted() -> Study:
    """Eight mixtures at three sizes and four points, by one joint law with a little noise."""
    rng = np.random.default_rng(0)
    sizes, tokens = np.array([30_000, 50_000, 100_000]), np.array([1, 2, 3, 4]) * 100_000
    floor = 2.0 + rng.random((8, 1, 1, 2))
    size_part = (0.4 + 0.2 * rng.random((8, 1, 1, 2))) * (sizes / 1e5)[None, :, None, None] ** -0.3
    token_part = 0.5 * (tokens / 4e5)[None, None, :, None] ** -0.5
    losses = floor + size_part + token_part + 0.002 * rng.standard_normal((8, 3, 4, 2))
    return Study(
        mixture_ids=tuple(f"mix-{number}" for number in range(8)),
        domains=("a", "b"),
        weights=rng.dirichlet(np.ones(2), size=8),
        sizes=sizes,
        n_tokens=tokens,
        targets=("x", "y"),
        losses=losses,
    )


@pytest.fixture(name="job", params=["joint", "nested"], scope="module")
def _job(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Job:
    job = Job(out=tmp_path_factory.mktemp("laws"), workers=0)
    runs = job.folder("runs")
    runs.mkdir()
    (runs / "done").write_text("0" * 64)
    found = extrapolate(planted(), size=400_000, n_tokens=800_000, method=request.param)
    studies.write(job, planted(), found, settings={}, seed=1)
    return job


def test_lines_end_in_the_stored_predictions(job: Job) -> None:
    """The size law drawn again passes through what the run predicted, best mixture first."""
    found = law_pictures.scaling(job, sizes=SIZES, objective=OBJECTIVE)
    assert found.size_laws
    for law in found.size_laws:
        assert law.curve[-1] == pytest.approx(law.predicted, rel=1e-6)
        assert law.low < law.predicted < law.high
        assert law.measured is None
    predicted = [law.predicted for law in found.size_laws]
    assert predicted == sorted(predicted)


def test_step_laws_leave_the_noise(job: Job) -> None:
    """On planted laws the residuals are as small as the noise, and lines reach the horizon."""
    found = law_pictures.scaling(job, sizes=SIZES, objective=OBJECTIVE)
    assert found.step_rmse is not None
    assert found.step_rmse < 0.005
    for law in found.step_laws:
        np.testing.assert_allclose(law.fitted, law.losses, atol=0.01)
        assert law.curve_tokens[-1] == pytest.approx(800_000)


def continued(*, n_horizons: int) -> Curves:
    """Continued runs by a planted law of the share, which meets the base at 0.5."""
    rng = np.random.default_rng(1)
    shares = np.repeat(np.linspace(0.0, 0.9, 8), 2)
    old = 2.4 + 0.05 * np.exp(2.5 * shares)[:, None] + 0.001 * rng.standard_normal((16, n_horizons))
    new = 2.0 + 0.4 * np.exp(-2.0 * shares)[:, None] + 0.001 * rng.standard_normal((16, n_horizons))
    return Curves(
        shares=shares,
        n_tokens=100_000 * np.arange(1, n_horizons + 1),
        old=old,
        new=new,
        base_old=2.4 + 0.05 * float(np.exp(1.25)),
        base_new=2.5,
    )


def test_band_meets_the_base_where_the_interval_ends() -> None:
    """The picture's band and the critical share's interval are the same statement."""
    found = law_pictures.shares(continued(n_horizons=1), new_domains=("c",), checks=[])
    curve = found.curves[0]
    assert curve.critical is not None
    share, low, high = curve.critical
    assert low < share < high
    assert share == pytest.approx(0.5, abs=0.02)
    for end, band in ((low, curve.high), (high, curve.low)):
        assert np.interp(end, curve.curve_shares, band) == pytest.approx(curve.base, abs=1e-3)


def test_longest_horizon_comes_first_and_the_shortest_last() -> None:
    """Old and new domains at the end, and the old ones at the first horizon."""
    checks = [{"share": 0.5, "old": 2.6, "new": 2.1}]
    found = law_pictures.shares(continued(n_horizons=3), new_domains=("c",), checks=checks)
    assert [curve.title.split(",")[0] for curve in found.curves] == [
        "original domains",
        "new domains",
        "original domains",
    ]
    assert "300k" in found.curves[0].title
    assert "100k" in found.curves[2].title
    np.testing.assert_array_equal(found.curves[0].checks, [[0.5, 2.6]])
    np.testing.assert_array_equal(found.curves[1].checks, [[0.5, 2.1]])


def test_law_is_not_drawn_where_it_does_not_hold() -> None:
    """Without any of the new domains their loss is of another kind: the line begins after it."""
    curves = continued(n_horizons=1)
    curves.new[curves.shares == 0.0] += 1.0
    new = law_pictures.shares(curves, new_domains=("c",), checks=[]).curves[1]
    assert new.curve_shares[0] == pytest.approx(np.unique(curves.shares)[1])
    assert (new.losses[curves.shares == 0.0] > 3.0).all()
