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
from cuvee.fit.nesting import extrapolate
from cuvee.fit.swarm import SwarmFitConfig, fit_swarm, predict_swarm
from cuvee.methods.job import Progress, silent
from cuvee.randomness import stream
from cuvee.tables.broken_runs import leave_out_broken
from cuvee.tables.study import read_study_csv
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


@dataclass(frozen=True, kw_only=True, slots=True)
class CarryConfig:
    """Where the losses of a study, runs of several sizes, are carried to before they are fitted."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    size: int
    """Parameters without embedding."""
    n_tokens: int
    """Tokens trained on."""
    tokens_per_step: int | None = None
    """Tokens of a step, where the table of losses counts steps."""
    first_tokens: int = 0
    """Losses before are left out: those of the warm-up."""

    def __post_init__(self) -> None:
        for name, value in (("--at-size", self.size), ("--at-tokens", self.n_tokens)):
            if value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1.")
        if self.tokens_per_step is not None and self.tokens_per_step < 1:
            raise ConfigError(
                f"--tokens-per-step is {self.tokens_per_step}; it must be at least 1."
            )


def carry(
    weights_csv: Path, losses_csv: Path, settings: CarryConfig
) -> tuple[Swarm, dict[str, Json]]:
    """Read a study and predict each mixture's losses at one size and token count.

    Args:
        weights_csv: One row a mixture.
        losses_csv: One row a mixture, size and token count; see `tables.study.read_study_csv`.
        settings: Where to.

    Returns:
        The predicted losses as a swarm, and how they were carried: law, sizes, error at the largest
        size when it was held out, median standard deviation.

    Raises:
        DataError: The tables are no study, or it has too few sizes or points.
    """
    study = read_study_csv(weights_csv, losses_csv, tokens_per_step=settings.tokens_per_step)
    found = extrapolate(
        study,
        size=settings.size,
        n_tokens=settings.n_tokens,
        first_tokens=settings.first_tokens,
    )
    swarm = Swarm(
        ids=study.mixture_ids,
        domains=study.domains,
        targets=study.targets,
        weights=study.weights,
        losses=found.mean,
        notices=study.notices,
    )
    return swarm, {
        "law": found.method,
        "size": found.size,
        "n_tokens": found.n_tokens,
        "sizes": study.sizes.tolist(),
        "points": study.n_tokens.tolist(),
        "sd": float(np.median(found.sd)),
        "exponents": found.exponents.tolist(),
        "exponent_ranges": found.exponent_ranges.tolist(),
        "held_out": None if found.held_out is None else asdict(found.held_out),
    }


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
    at: CarryConfig | None = None,
    progress: Progress = silent,
) -> dict[str, Json]:
    """Fit a predictor on two CSV tables and cross-validate it.

    Args:
        weights: CSV of mixtures.
        losses: CSV of losses.
        settings: Model, objective, own domains and seed.
        out: The predictor's folder.
        rows: Which runs; None: all.
        at: Where the losses of a study are carried to first; None: each row is one finished run.
        progress: Told how far it is.

    Returns:
        Model, runs, domains, targets, notices, scores by target and, for model auto, the
        leaderboard.
    """
    with artifacts.locked(out.parent), one_thread():
        carried: dict[str, Json] | None = None
        if at is None:
            swarm = read_swarm(weights, losses)
        else:
            swarm, carried = carry(weights, losses, at)
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
            carried=None if at is None else config.dump(at),
            on_progress=lambda done, total, note: progress("cross-validate", done, total, note),
        )
    return {
        "folder": str(result.folder),
        "model": result.model,
        "n_runs": result.n_runs,
        "n_domains": len(result.domains),
        "rows": chosen,
        "carried": carried,
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
