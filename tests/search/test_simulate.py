"""Simulation finds planted optima within constraints and reports what is predicted there."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from cuvee.arrays import FloatArray
from cuvee.config import parse
from cuvee.errors import ConfigError, DataError
from cuvee.randomness import stream
from cuvee.search.constraints import Constraints
from cuvee.search.settings import SearchConfig
from cuvee.search.simulate import minimise

DOMAINS = ("books", "code", "essays", "web")
PRIOR = np.array([0.1, 0.2, 0.1, 0.6])
FREE = Constraints.from_bounds(DOMAINS, caps=np.ones(4), bounds={})
QUICK = SearchConfig(n_simulated=20_000, n_best=32)
PAPER = SearchConfig(n_simulated=20_000, n_best=32, temperature=1.0, strengths=(1.0,), refine=False)
BOTH = np.array([0.5, 0.5])


@dataclass
class Bowl:
    """Two targets, each a known quadratic of the weights."""

    centres: FloatArray
    domains: tuple[str, ...] = DOMAINS
    targets: tuple[str, ...] = ("qa", "essays")
    sds: tuple[float, float] = (0.03, 0.01)
    rows: list[int] = field(default_factory=list)

    def predict(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return squared distances to the centres."""
        self.rows.append(len(weights))
        distance = ((weights[:, None, :] - self.centres[None, :, :]) ** 2).sum(axis=2)
        return distance, np.broadcast_to(self.sds, distance.shape)


BOWL = Bowl(np.array([[0.5, 0.3, 0.1, 0.1], [0.3, 0.5, 0.1, 0.1]]))
BEST = np.array([0.4, 0.4, 0.1, 0.1])


def test_the_planted_optimum_is_found() -> None:
    """The minimum of the summed objective lies between the targets' own."""
    optimum = minimise(
        BOWL, BOTH, constraints=FREE, prior=PRIOR, config=QUICK, rng=stream(0, "search")
    )
    np.testing.assert_allclose(optimum.weights, BEST, atol=0.02)


def test_objective_weights_choose_the_target() -> None:
    """All weight on one target finds that target's optimum."""
    only_qa = np.array([1.0, 0.0])
    optimum = minimise(
        BOWL, only_qa, constraints=FREE, prior=PRIOR, config=QUICK, rng=stream(0, "search")
    )
    np.testing.assert_allclose(optimum.weights, BOWL.centres[0], atol=0.02)


def test_refinement_only_improves() -> None:
    """Further rounds end at or below the paper's answer, here clearly below."""
    bowl = Bowl(np.tile([[0.97, 0.01, 0.01, 0.01]], (2, 1)))
    values = [
        minimise(
            bowl, BOTH, constraints=FREE, prior=PRIOR, config=config, rng=stream(0, "search")
        ).predicted
        for config in (
            SearchConfig(n_simulated=2000, n_best=200, refine=False),
            SearchConfig(n_simulated=2000, n_best=200),
        )
    ]
    assert values[1] < 0.5 * values[0]


@pytest.mark.parametrize("config", [QUICK, PAPER])
def test_constraints_hold(config: SearchConfig) -> None:
    """With the planted optimum cut off, the best point on the boundary is found."""
    constraints = Constraints.from_bounds(
        DOMAINS, caps=np.array([0.2, 1.0, 1.0, 1.0]), bounds={"web": (0.3, 1.0)}
    )
    optimum = minimise(
        BOWL, BOTH, constraints=constraints, prior=PRIOR, config=config, rng=stream(0, "search")
    )
    weights = np.array(optimum.weights)
    assert constraints.satisfied(weights)
    # For a bowl the constrained optimum is the nearest point.
    np.testing.assert_allclose(weights, constraints.project(BEST), atol=0.03)


def test_predictions_are_those_at_the_answer() -> None:
    """Means, deviations and interval are recomputed here from the answer."""
    weights = np.array([0.75, 0.25])
    optimum = minimise(
        BOWL, weights, constraints=FREE, prior=PRIOR, config=QUICK, rng=stream(0, "search")
    )
    mean, _ = BOWL.predict(np.array([optimum.weights]))
    np.testing.assert_allclose(optimum.target_means, mean[0])
    assert optimum.predicted == pytest.approx(float(mean[0] @ weights))
    # Fully correlated errors: deviations add up.
    assert optimum.predicted_sd == pytest.approx(0.75 * 0.03 + 0.25 * 0.01)
    low, high = optimum.interval
    assert (high - low) / 2 == pytest.approx(1.6448536 * optimum.predicted_sd)
    assert (high + low) / 2 == pytest.approx(optimum.predicted)
    assert optimum.targets == ("qa", "essays")


def test_domains_are_matched_by_name() -> None:
    """A predictor fitted on another order of columns gives the same answer."""
    order = [2, 0, 3, 1]
    turned = Bowl(BOWL.centres[:, order], domains=tuple(DOMAINS[position] for position in order))
    answers = [
        minimise(
            bowl, BOTH, constraints=FREE, prior=PRIOR, config=QUICK, rng=stream(0, "search")
        ).weights
        for bowl in (BOWL, turned)
    ]
    np.testing.assert_allclose(answers[0], answers[1])


def test_answer_follows_the_stream() -> None:
    """The same stream gives the same answer."""
    answers = [
        minimise(BOWL, BOTH, constraints=FREE, prior=PRIOR, config=QUICK, rng=stream(5, "search"))
        for _ in range(2)
    ]
    assert answers[0] == answers[1]


def test_draws_are_predicted_in_chunks() -> None:
    """Memory does not grow with the number of draws."""
    bowl = Bowl(BOWL.centres)
    minimise(bowl, BOTH, constraints=FREE, prior=PRIOR, config=PAPER, rng=stream(0, "search"))
    assert sum(bowl.rows) == 20_000 + 1
    assert max(bowl.rows) <= 8192


def test_a_single_possible_mixture_is_returned() -> None:
    """Constraints that pin one point need no draws."""
    constraints = Constraints.from_bounds(DOMAINS, caps=PRIOR, bounds={})
    optimum = minimise(
        BOWL, BOTH, constraints=constraints, prior=PRIOR, config=QUICK, rng=stream(0, "search")
    )
    np.testing.assert_allclose(optimum.weights, PRIOR, atol=1e-9)
    assert optimum.n_simulated == 0


def test_other_domains_are_refused() -> None:
    """The message has both lists."""
    bowl = Bowl(BOWL.centres, domains=("books", "code", "essays", "news"))
    with pytest.raises(DataError, match=r"predictor knows .*news.*constraints have .*web"):
        minimise(bowl, BOTH, constraints=FREE, prior=PRIOR, config=QUICK, rng=stream(0, "search"))


def test_nan_predictions_are_refused() -> None:
    """The target is named."""
    bowl = Bowl(BOWL.centres, sds=(0.1, np.nan))
    with pytest.raises(DataError, match="for target 'essays'; predictions must be finite"):
        minimise(bowl, BOTH, constraints=FREE, prior=PRIOR, config=QUICK, rng=stream(0, "search"))


def test_objective_weights_sum_to_one() -> None:
    """An objective of another sum is refused."""
    with pytest.raises(DataError, match="sums to 2"):
        minimise(
            BOWL, np.ones(2), constraints=FREE, prior=PRIOR, config=QUICK, rng=stream(0, "search")
        )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n_best": 0}, "n_best is 0"),
        ({"n_simulated": 10}, "n_best is 128 and n_simulated 10"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"strengths": []}, r"strengths are \[\]"),
        ({"strengths": [1.0, 0.0]}, "strengths are"),
    ],
)
def test_config_refuses_settings_out_of_range(setting: dict[str, object], message: str) -> None:
    """Every setting has its range."""
    with pytest.raises(ConfigError, match=message):
        parse(SearchConfig, setting)  # type: ignore[arg-type]


def test_config_reads_bounds_by_name() -> None:
    """Bounds come from a config file as pairs."""
    config = parse(SearchConfig, {"bounds": {"code": [0.1, 0.5]}})
    assert config.bounds == {"code": (0.1, 0.5)}
