"""Begin with a swarm somebody already ran: tables of weights and losses."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from cuvee import artifacts, config
from cuvee.arrays import IntArray
from cuvee.artifacts import Json
from cuvee.design.optimal import i_optimal_rows
from cuvee.errors import ConfigError
from cuvee.executors import one_thread
from cuvee.fit.named_columns import own_columns
from cuvee.fit.swarm import SwarmFitConfig, fit_swarm, predict_swarm
from cuvee.methods.job import Progress, silent
from cuvee.randomness import stream
from cuvee.tables.broken_runs import leave_out_broken
from cuvee.tables.swarm import Swarm, match_runs, read_losses_csv, read_weights_csv

CANDIDATE_SHARE = 0.75
"""Share of the runs, drawn by the row seed, among which a designed choice is made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowsConfig:
    """Which of a table's runs are fitted: how good a fit is with fewer of them."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    n: int
    """Number of runs."""
    seed: int = 1
    """Of the choice."""
    design: Literal["random", "i-optimal"] = "random"
    """i-optimal: those that tell most about the default predictor's prior, out of three quarters of
    the runs drawn at random."""

    def __post_init__(self) -> None:
        if self.n < 2:
            raise ConfigError(f"--rows is {self.n}; a fit needs at least 2 runs.")
        if self.design not in ("random", "i-optimal"):
            raise ConfigError(f"--row-design is {self.design!r}; choose random or i-optimal.")


def read_swarm(weights_csv: Path, losses_csv: Path) -> Swarm:
    """Read a swarm from its two tables and leave out runs that broke.

    Args:
        weights_csv: Read by `tables.swarm.read_weights_csv`.
        losses_csv: Read by `tables.swarm.read_losses_csv`.

    Returns:
        The runs that stand in both tables; what was put right is in ``notices``.

    Raises:
        DataError: The tables are not what they must be, or do not belong together.
    """
    return leave_out_broken(match_runs(read_weights_csv(weights_csv), read_losses_csv(losses_csv)))


def choose_rows(swarm: Swarm, rows: RowsConfig, *, own: tuple[int | None, ...]) -> IntArray:
    """Choose runs without looking at their losses.

    Args:
        swarm: All runs.
        rows: How many and how.
        own: (n_targets,) column of each target's own domain.

    Returns:
        (n,) row numbers, ascending.

    Raises:
        ConfigError: More runs are asked for than there are to choose from.
    """
    designed = rows.design == "i-optimal"
    n_runs = len(swarm.ids)
    n_candidates = round(CANDIDATE_SHARE * n_runs) if designed else n_runs
    if rows.n > n_candidates:
        raise ConfigError(
            f"--rows is {rows.n}, but {rows.design} rows are chosen among {n_candidates} of the "
            f"tables' {n_runs} runs. Ask for at most {n_candidates}."
        )
    rng = stream(rows.seed, "rows", rows.design)
    if not designed:
        return np.sort(rng.choice(n_runs, size=rows.n, replace=False)).astype(np.int64)
    candidates = np.sort(rng.choice(n_runs, size=n_candidates, replace=False))
    return np.sort(
        i_optimal_rows(swarm.weights, n=rows.n, own_columns=own, candidates=candidates, rng=rng)
    )


def fit_tables(
    weights: Path,
    losses: Path,
    *,
    settings: SwarmFitConfig,
    out: Path,
    rows: RowsConfig | None = None,
    progress: Progress = silent,
) -> dict[str, Json]:
    """Fit a predictor on two CSV tables and cross-validate it.

    Args:
        weights: CSV of mixtures.
        losses: CSV of losses.
        settings: Model, objective, own domains and seed.
        out: The predictor's folder.
        rows: Which runs; None: all.
        progress: Told how far it is.

    Returns:
        Model, runs, domains, targets, notices, scores by target and, for model auto, the
        leaderboard.
    """
    with artifacts.locked(out.parent), one_thread():
        swarm = read_swarm(weights, losses)
        chosen: dict[str, Json] | None = None
        if rows is not None:
            taken = choose_rows(swarm, rows, own=own_columns(swarm, settings.own))
            chosen = {**config.dump(rows), "out_of": len(swarm.ids)}
            swarm = swarm.take(taken)
        result = fit_swarm(
            swarm,
            config=settings,
            out=out,
            inputs={
                "weights": artifacts.digest_file(weights),
                "losses": artifacts.digest_file(losses),
            },
            chosen=chosen,
            on_progress=lambda done, total, note: progress("cross-validate", done, total, note),
        )
    return {
        "folder": str(result.folder),
        "model": result.model,
        "n_runs": result.n_runs,
        "n_domains": len(result.domains),
        "rows": chosen,
        "own": dict(result.own),
        "own_detected": result.own_detected,
        "converged": result.converged,
        "reused": result.reused,
        "notices": list(result.notices),
        "scores": [asdict(score) for score in result.scores],
        "leaderboard": result.leaderboard,
        "seconds": dict(result.seconds),
    }


def predict_table(folder: Path, weights: Path, out: Path) -> int:
    """Predict a CSV table of mixtures; a run's folder stands for its predictor.

    Returns:
        Number of mixtures.
    """
    with one_thread():
        return predict_swarm(predictor_folder(folder), weights, out)


def predictor_folder(folder: Path) -> Path:
    """Return the folder that holds the predictor: the folder itself, or that of a run below it."""
    inner = folder / "predictor"
    return inner if not artifacts.is_done(folder) and artifacts.is_done(inner) else folder
