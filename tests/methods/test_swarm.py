"""Which runs of a table are fitted, and what is said of the fit."""

import numpy as np
import pytest

from cuvee.errors import ConfigError
from cuvee.methods.swarm import RowsConfig, choose_rows
from cuvee.methods.swarm_text import leaderboard_lines
from cuvee.tables.swarm import Swarm

OWN = (0, 1)


def _swarm(n_runs: int = 40) -> Swarm:
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(4), size=n_runs)
    return Swarm(
        ids=tuple(map(str, range(n_runs))),
        domains=("a", "b", "c", "d"),
        targets=("x", "y"),
        weights=weights,
        losses=weights[:, :2],
        notices=(),
    )


@pytest.mark.parametrize("design", ["random", "i-optimal"])
def test_rows_follow_their_seed(design: str) -> None:
    """Distinct rows, ascending; the same seed the same rows, another seed others."""
    one, again, other = (
        choose_rows(_swarm(), RowsConfig(n=8, seed=seed, design=design), own=OWN)  # type: ignore[arg-type]
        for seed in (1, 1, 2)
    )
    assert len(set(one.tolist())) == 8
    assert one.tolist() == sorted(one.tolist()) == again.tolist()
    assert one.tolist() != other.tolist()


def test_designed_rows_come_from_three_quarters() -> None:
    """So that seeds differ: at most 30 of 40 can be chosen."""
    assert len(choose_rows(_swarm(), RowsConfig(n=30, design="i-optimal"), own=OWN)) == 30
    with pytest.raises(
        ConfigError, match=r"--rows is 31, but i-optimal rows are chosen among 30 of"
    ):
        choose_rows(_swarm(), RowsConfig(n=31, design="i-optimal"), own=OWN)


def test_more_rows_than_runs_are_refused() -> None:
    """All runs may be asked for, not more."""
    rows = choose_rows(_swarm(), RowsConfig(n=40), own=OWN)
    assert rows.tolist() == list(range(40))
    with pytest.raises(ConfigError, match="at most 40"):
        choose_rows(_swarm(), RowsConfig(n=41), own=OWN)
    with pytest.raises(ConfigError, match="--rows is 1; a fit needs at least 2"):
        RowsConfig(n=1)
    with pytest.raises(ConfigError, match="--row-design is 'best'; choose random or i-optimal"):
        RowsConfig(n=8, design="best")  # type: ignore[arg-type]


def test_leaderboard_says_what_was_chosen_and_why() -> None:
    """Figures, a failure's reason, warnings and the rule each have a place."""
    none = {"rank": None, "regret": None, "coverage": None}
    none |= {"targets_rank": None, "targets_coverage": None, "failure": None}
    none |= {"targets_jackknife": None}
    board = {
        "winner": "linear",
        "models": [
            {**none, "name": "linear", "rmse": 0.5, "rank": 0.75, "n_warnings": 2},
            {**none, "name": "law", "rmse": None, "n_warnings": 0, "failure": "too few"},
        ],
        "baselines": [{**none, "name": "mean", "rmse": 1.0, "n_warnings": 0}],
        "picks": [{"name": "uniform", "run": "r7", "distance": 0.25, "regret": 0.125}],
        "n_runs": 9,
        "n_folds": 5,
        "n_repeats": 4,
        "rule": "least error",
    }
    lines = leaderboard_lines(board, {"linear": 1.25})  # type: ignore[arg-type]
    assert lines[1].split()[:4] == ["linear", "0.7500", "0.5000", "-"]
    assert lines[1].endswith("1.2 <- chosen (2 warnings)")
    assert lines[2].endswith("- not fitted: too few")
    assert lines[4] == "uniform: run r7, 25% of tokens away, has regret 0.1250"
    assert lines[-1] == "chosen by: least error"
    assert "seconds" in lines[0]
    assert "seconds" not in leaderboard_lines(board)[0]  # type: ignore[arg-type]
