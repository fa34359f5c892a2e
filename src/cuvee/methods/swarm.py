"""Begin with a swarm somebody already ran: tables of weights and losses."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import cast

from cuvee import artifacts
from cuvee.artifacts import Json
from cuvee.executors import one_thread
from cuvee.fit.swarm import fit_swarm, predict_swarm


def fit_tables(weights: Path, losses: Path, *, model: str, out: Path, seed: int) -> dict[str, Json]:
    """Fit a predictor on two CSV tables and cross-validate it.

    Returns:
        Model, runs, domains, targets, notices, and scores by target.
    """
    with artifacts.locked(out.parent), one_thread():
        result = fit_swarm(weights, losses, model=model, out=out, seed=seed)
    return {
        "folder": str(result.folder),
        "model": result.model,
        "n_runs": result.n_runs,
        "n_domains": len(result.domains),
        "converged": result.converged,
        "reused": result.reused,
        "notices": list(result.notices),
        "scores": [asdict(score) for score in result.scores],
    }


def describe_fit(result: Mapping[str, Json]) -> str:
    """Write a fit's figures as a table for people."""
    scores = cast(list[dict[str, Json]], result["scores"])
    lines = [f"{result['model']} on {result['n_runs']} runs of {result['n_domains']} domains"]
    lines += [f"note: {notice}" for notice in cast(list[str], result["notices"])]
    width = max([6, *(len(str(score["target"])) for score in scores)])
    lines.append(
        f"{'target':<{width}}  {'rank':>6}  {'rmse':>8}  {'of mean':>8}  {'coverage':>8}  "
        f"{'regret':>8}  {'by chance':>9}"
    )
    for score in scores:
        rank = "-" if score["rank"] is None else f"{score['rank']:.3f}"
        lines.append(
            f"{score['target']!s:<{width}}  {rank:>6}  {score['rmse']:>8.4f}  "
            f"{score['baseline_rmse']:>8.4f}  {score['coverage']:>8.2f}  "
            f"{score['regret']:>8.4f}  {score['baseline_regret']:>9.4f}"
        )
    lines.append("held-out folds; rank: Spearman; of mean: error of predicting the mean")
    lines.append(f"predictor: {result['folder']}")
    return "\n".join(lines)


def predict_table(folder: Path, weights: Path, out: Path) -> int:
    """Predict a CSV table of mixtures; a run's folder stands for its predictor.

    Returns:
        Number of mixtures.
    """
    inner = folder / "predictor"
    chosen = inner if not artifacts.is_done(folder) and artifacts.is_done(inner) else folder
    with one_thread():
        return predict_swarm(chosen, weights, out)
