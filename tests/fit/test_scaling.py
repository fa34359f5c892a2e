"""Power laws with a floor: planted laws come back, intervals cover, far-off points are named."""

import numpy as np
import pytest

from cuvee.arrays import BoolArray, FloatArray
from cuvee.errors import DataError
from cuvee.fit.scaling import PowerLaws, constant_phase, fit_power_laws

TOKENS = np.linspace(0.1, 1.0, 30) * 1e9
NOISE = 0.005


def planted(n_series: int, *, noise: float = NOISE, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """Return parameters (E, B, log g) and noisy series."""
    rng = np.random.default_rng(seed)
    floor, amplitude = rng.uniform(1.5, 3.0, n_series), rng.uniform(0.2, 1.0, n_series)
    exponent = np.exp(rng.normal(np.log(0.5), 0.4, n_series))
    truth = np.stack([floor, amplitude, np.log(exponent)], axis=1)
    return truth, true_losses(truth, TOKENS) + noise * rng.standard_normal((n_series, len(TOKENS)))


def true_losses(truth: FloatArray, tokens: FloatArray) -> FloatArray:
    """Return (n_series, n_points) losses without noise."""
    floor, amplitude, log_exponent = truth.T[:, :, None]
    return np.asarray(floor + amplitude * (tokens / TOKENS[-1]) ** -np.exp(log_exponent))


def covered(laws: PowerLaws, truth: FloatArray) -> FloatArray:
    """Return the share of 90% intervals that hold E, B and log g."""
    found = np.stack([laws.floor, laws.amplitude, np.log(laws.exponent)], axis=1)
    sd = np.sqrt(np.diagonal(laws.covariance, axis1=1, axis2=2))
    return np.asarray((np.abs(found - truth) <= 1.645 * sd).mean(axis=0))


def test_planted_parameters_are_covered() -> None:
    """Floor, amplitude and exponent lie in nine of ten 90% intervals, give or take."""
    truth, losses = planted(600)
    shares = covered(fit_power_laws(TOKENS, losses), truth)
    assert np.all((shares >= 0.85) & (shares <= 0.95)), shares


@pytest.mark.parametrize("times", [1.0, 2.0, 4.0])
def test_new_points_are_covered(times: float) -> None:
    """At the end of the run and far beyond it."""
    truth, losses = planted(600, seed=1)
    mean, sd = fit_power_laws(TOKENS, losses).predict(times * TOKENS[-1])
    new = true_losses(truth, np.array([times * TOKENS[-1]]))[:, 0]
    new = new + NOISE * np.random.default_rng(9).standard_normal(len(new))
    assert 0.86 <= np.mean(np.abs(mean - new) <= 1.645 * sd) <= 0.95


def test_noiseless_laws_come_back() -> None:
    """Without noise the fit is the law."""
    truth, losses = planted(50, noise=0.0)
    laws = fit_power_laws(TOKENS, losses, width=100.0)
    np.testing.assert_allclose(laws.floor, truth[:, 0], rtol=0.02)
    np.testing.assert_allclose(laws.predict(TOKENS[-1])[0], losses[:, -1], rtol=1e-4)


def test_a_broken_point_is_named_and_moves_little() -> None:
    """One checkpoint far off does not carry the law away."""
    truth, losses = planted(20, seed=3)
    losses[4, 17] += 1.0
    laws = fit_power_laws(TOKENS, losses)
    assert (4, 17) in laws.outliers
    assert abs(laws.predict(TOKENS[-1])[0][4] - true_losses(truth, TOKENS[-1:])[4, 0]) < 0.02


def test_floor_and_amplitude_keep_their_bounds() -> None:
    """A rising series is a constant, a falling line without a floor has none."""
    rising = fit_power_laws(TOKENS, np.linspace(2.0, 2.5, 30)[None, :])
    assert rising.amplitude[0] == 0.0
    steep = fit_power_laws(TOKENS, (TOKENS[None, :] / TOKENS[-1]) ** -2.0)
    assert steep.floor[0] >= 0.0


def test_only_the_constant_phase_counts() -> None:
    """Points of the warm-up are left out; a decaying schedule is refused."""
    kept = constant_phase(np.array([10.0, 50.0, 100.0]), warmup_tokens=20.0, schedule="constant")
    np.testing.assert_array_equal(kept, [False, True, True])
    with pytest.raises(DataError, match="schedule is 'cosine'; points along a decaying"):
        constant_phase(np.array([1.0]), warmup_tokens=0.0, schedule="cosine")


def test_ends_of_decayed_runs_may_enter() -> None:
    """A run whose schedule had run out stands for itself."""
    kept = constant_phase(
        np.array([10.0, 20.0]), warmup_tokens=1.0, schedule="cosine", only_ends=True
    )
    np.testing.assert_array_equal(kept, [True, True])


def test_points_left_out_do_not_count() -> None:
    """The law of the kept points is the same whatever stands in the others, NaN included."""
    _, losses = planted(10, seed=4)
    kept = np.arange(len(TOKENS)) > 3
    spoilt = losses.copy()
    spoilt[:, :4] = np.nan
    masked, cut = (
        fit_power_laws(TOKENS, spoilt, kept=kept),
        fit_power_laws(TOKENS[4:], losses[:, 4:]),
    )
    np.testing.assert_allclose(masked.floor, cut.floor, rtol=1e-9)
    np.testing.assert_allclose(masked.covariance, cut.covariance, rtol=1e-6)


def test_scale_is_that_of_the_paper() -> None:
    """E + (D0 / D)^beta is the same law; one without a slope has D0 = 0."""
    _, losses = planted(5, seed=5)
    laws = fit_power_laws(TOKENS, np.vstack([losses, np.full((1, len(TOKENS)), 2.0)]))
    again = laws.floor + (laws.scale / 2e9) ** laws.exponent
    np.testing.assert_allclose(again, laws.predict(2e9)[0], rtol=1e-12)
    assert laws.scale[-1] == 0.0
    assert laws.converged.all()


def test_the_prior_helps_where_a_fifth_of_a_run_is_seen() -> None:
    """With few early points a free exponent predicts the end worse."""
    truth, losses = planted(200, noise=0.01, seed=6)
    errors = []
    for width in (0.5, 100.0):
        mean, _ = fit_power_laws(TOKENS[:6], losses[:, :6], width=width).predict(TOKENS[-1])
        errors.append(np.sqrt(np.mean((mean - true_losses(truth, TOKENS[-1:])[:, 0]) ** 2)))
    assert errors[0] < 0.9 * errors[1]


def test_long_waves_widen_the_intervals() -> None:
    """Where neighbours miss to the same side thirty points are fewer witnesses."""
    _, losses = planted(40, seed=7)
    wave = 3.0 * NOISE * np.sin(np.linspace(0.0, 15.0, len(TOKENS)))
    rng = np.random.default_rng(8)
    white = np.stack([rng.permutation(wave) for _ in losses])
    calm, waved = fit_power_laws(TOKENS, losses + white), fit_power_laws(TOKENS, losses + wave)
    ratio = np.sqrt(waved.covariance[:, 0, 0] / calm.covariance[:, 0, 0])
    assert np.median(ratio) > 1.5


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (np.array([True, True, False]), "at least 3 points; found 2"),
        (np.array([True, True]), r"kept has shape \(2,\)"),
    ],
)
def test_masks_that_leave_too_little_are_refused(kept: BoolArray, message: str) -> None:
    """A mask must fit the points and leave three."""
    with pytest.raises(DataError, match=message):
        fit_power_laws(np.array([1.0, 2.0, 3.0]), np.array([[3.0, 2.0, 1.9]]), kept=kept)


@pytest.mark.parametrize(
    ("tokens", "losses", "message"),
    [
        ([1.0, 2.0], [[3.0, 2.0]], "at least 3 points; found 2"),
        ([1.0, 3.0, 2.0], [[3.0, 2.0, 2.0]], "must be above 0 and rise"),
        ([1.0, 2.0, 3.0], [[3.0, np.nan, 2.0]], "loss of series 0 at point 1 is nan"),
        ([1.0, 2.0, 3.0], [[3.0, 2.0]], r"expected \(n_points,\)"),
    ],
)
def test_broken_series_are_refused(
    tokens: list[float], losses: list[list[float]], message: str
) -> None:
    """One message, naming what was found."""
    with pytest.raises(DataError, match=message):
        fit_power_laws(np.array(tokens), np.array(losses))
