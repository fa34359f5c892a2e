"""Small runs lead to large ones: what is left out, what is checked, and by how much it missed."""

import numpy as np
import pytest

from cuvee.arrays import FloatArray
from cuvee.errors import DataError
from cuvee.fit.nesting import extrapolate
from cuvee.tables.study import Study

SIZES = np.array([50_000, 100_000, 200_000, 400_000])
TOKENS = np.linspace(0.125, 1.0, 8) * 1e6
NOISE = 0.004


def _true(parts: FloatArray, size: float, tokens: FloatArray) -> FloatArray:
    """Return the (n_mixtures, n_points) losses without noise."""
    floor, by_size, by_tokens = parts.T[:, :, None]
    return np.asarray(floor + by_size * (size / 4e5) ** -0.35 + by_tokens * (tokens / 1e6) ** -0.5)


def _planted(seed: int, n_mixtures: int = 12) -> tuple[FloatArray, Study]:
    rng = np.random.default_rng(seed)
    parts = np.column_stack(
        [
            rng.normal(2.5, 0.3, n_mixtures),
            rng.normal(0.4, 0.08, n_mixtures),
            rng.normal(0.3, 0.05, n_mixtures),
        ]
    )
    losses = np.stack([_true(parts, size, TOKENS) for size in SIZES], axis=1)
    losses = losses + NOISE * rng.standard_normal((n_mixtures, len(SIZES), 1))
    losses = losses + 0.002 * rng.standard_normal(losses.shape)
    study = Study(
        mixture_ids=tuple(f"m{place}" for place in range(n_mixtures)),
        domains=("a", "b"),
        weights=rng.dirichlet(np.ones(2), size=n_mixtures),
        sizes=SIZES,
        n_tokens=TOKENS.astype(np.int64),
        targets=("t",),
        losses=losses[..., None],
    )
    return parts, study


@pytest.mark.parametrize("method", ["nested", "joint"])
def test_four_times_the_size_and_twice_the_tokens_is_covered(method: str) -> None:
    """From four sizes, both laws cover new runs at 90%, and keep the order of mixtures."""
    inside = []
    for seed in range(3):
        parts, study = _planted(seed)
        found = extrapolate(study, size=1_600_000, n_tokens=2_000_000, method=method)  # type: ignore[arg-type]
        noise = NOISE * np.random.default_rng(99 + seed).standard_normal(len(parts))
        new = _true(parts, 1.6e6, np.array([2e6]))[:, 0] + noise
        inside.append(np.abs(found.mean[:, 0] - new) <= 1.645 * found.sd[:, 0])
        assert np.corrcoef(found.mean[:, 0], new)[0, 1] > 0.95
    assert 0.8 <= np.mean(inside) <= 1.0


def test_the_check_goes_as_far_beyond_as_the_horizon() -> None:
    """Twice the tokens are checked without the second half of the runs."""
    _, study = _planted(4)
    near = extrapolate(study, size=800_000, n_tokens=1_000_000, method="nested").held_out
    far = extrapolate(study, size=800_000, n_tokens=2_000_000, method="nested").held_out
    assert near is not None
    assert far is not None
    late = study.losses.copy()
    late[:, :-1, 4:] += 1.0
    spoilt = Study(
        mixture_ids=study.mixture_ids,
        domains=study.domains,
        weights=study.weights,
        sizes=study.sizes,
        n_tokens=study.n_tokens,
        targets=study.targets,
        losses=late,
    )
    unseen = extrapolate(spoilt, size=800_000, n_tokens=2_000_000, method="nested").held_out
    assert unseen == far
    assert near != far


def test_first_points_are_left_out() -> None:
    """A warm-up that follows no law does not matter once it is left out."""
    _, study = _planted(5)
    study.losses[:, :, :2] += 2.0
    whole, cut = (
        extrapolate(study, size=800_000, n_tokens=2_000_000, method="joint", first_tokens=first)
        for first in (0, 300_000)
    )
    assert whole.held_out is not None
    assert cut.held_out is not None
    assert cut.held_out.rmse < 0.2 * whole.held_out.rmse
    assert cut.held_out.rmse < 0.05


def test_outliers_are_named_by_mixture_size_point_and_target() -> None:
    """A broken checkpoint is found where it was planted."""
    _, study = _planted(6)
    study.losses[3, 2, 5, 0] += 0.5
    found = extrapolate(study, size=800_000, n_tokens=2_000_000, method="nested")
    assert (3, 2, 5, 0) in found.outliers


def test_misses_widen_the_intervals() -> None:
    """Where the largest size is missed by more than was said, later intervals say so."""
    _, study = _planted(7)
    before = extrapolate(study, size=1_600_000, n_tokens=1_000_000, method="nested")
    study.losses[:, -1] += 0.3 * np.random.default_rng(0).standard_normal((12, 1, 1))
    after = extrapolate(study, size=1_600_000, n_tokens=1_000_000, method="nested")
    assert before.held_out is not None
    assert after.held_out is not None
    assert after.held_out.inflation > 2.0 * before.held_out.inflation
    assert after.sd.mean() > 2.0 * before.sd.mean()


def test_two_sizes_leave_no_check() -> None:
    """Nothing is claimed that was not checked."""
    _, study = _planted(8)
    assert extrapolate(study.only(n_sizes=2), size=800_000, n_tokens=1_000_000).held_out is None


def test_leaving_out_the_whole_run_is_refused() -> None:
    """The message says where the runs end."""
    _, study = _planted(9)
    with pytest.raises(DataError, match="first_tokens is 9,000,000; the runs end at 1,000,000"):
        extrapolate(study, size=800_000, n_tokens=1_000_000, first_tokens=9_000_000)


def test_exponents_are_fitted_again_without_each_size() -> None:
    """On a planted law the ranges hold the exponent fitted on all sizes, and the true one."""
    rng = np.random.default_rng(5)
    sizes, tokens = np.array([1e6, 2e6, 4e6, 8e6]), np.array([1e7, 2e7, 4e7, 8e7, 1.6e8])
    floors = 2.0 + rng.uniform(0.0, 0.4, size=12)
    law = 3.0 * (sizes[:, None] / 1e6) ** -0.35 + 2.0 * (tokens[None, :] / 1e7) ** -0.5
    losses = floors[:, None, None] + law[None] + 0.002 * rng.standard_normal((12, 4, 5))
    study = Study(
        mixture_ids=tuple(f"m{place}" for place in range(12)),
        domains=("a", "b", "c"),
        weights=rng.dirichlet(np.ones(3), size=12),
        sizes=sizes.astype(np.int64),
        n_tokens=tokens.astype(np.int64),
        targets=("t",),
        losses=losses[..., None],
    )
    found = extrapolate(study, size=32_000_000, n_tokens=160_000_000, method="nested")
    low, high = found.exponent_ranges[0, 0]
    assert low <= found.exponents[0, 0] <= high
    assert low < 0.35 < high
    assert high - low < 0.3
