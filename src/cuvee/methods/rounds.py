"""Runs chosen as they come in: measure a batch, fit, propose the next, stop in time."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import cast

import numpy as np

from cuvee import artifacts, config
from cuvee.artifacts import Json
from cuvee.design.sequential import (
    Regret,
    SequentialConfig,
    draw_candidates,
    expected_regret,
    propose_next,
    should_stop,
)
from cuvee.executors import one_thread
from cuvee.fit.models import make_model
from cuvee.fit.predictor_files import NamedPredictor
from cuvee.methods import fitting, measure
from cuvee.methods.job import Job
from cuvee.methods.pool import Prepared
from cuvee.proxy.spec import TrainingSpec
from cuvee.randomness import stream
from cuvee.search.constraints import Constraints
from cuvee.tables.design import Design, read_design, write_design
from cuvee.tables.runs import Runs

FOLDER = "rounds"
_DESIGN = "design.parquet"
_REGRET = "regret.json"


def measure_in_rounds(
    job: Job,
    specs_of: Callable[[Design], Mapping[str, TrainingSpec]],
    *,
    prepared: Prepared,
    constraints: Constraints,
    model: str,
    settings: SequentialConfig,
    most_runs: int,
    seed: int,
) -> tuple[Design, Runs]:
    """Train batch after batch until another is not worth its runs.

    Every round is an artefact, so that a resumed command goes the same way.

    Args:
        job: Where and with how many workers.
        specs_of: Describes the runs of a design.
        prepared: The objective and the own domains.
        constraints: What proposed mixtures must keep.
        model: Key of `fit.models.MODELS`.
        settings: Batch size and when to stop.
        most_runs: At most so many runs in all.
        seed: The command's seed.

    Returns:
        The whole design, and its runs.
    """
    design, number = read_design(job.folder("design") / _DESIGN), 0
    while True:
        specs = specs_of(design)
        runs = measure.measure(job, "train proxies", specs, job.folder("sweep"), prepared)
        folder = job.folder(FOLDER, f"{number:03d}")
        if not artifacts.is_done(folder):
            room = most_runs - len(design.run_ids)
            rngs = [stream(seed, "rounds", purpose, number) for purpose in ("fit", "candidates")]
            following = design
            with one_thread():
                predictor = _fit(runs, prepared, model, rngs[0])
                candidates = draw_candidates(
                    predictor,
                    prepared.objective,
                    prior=prepared.statistics.natural,
                    move=constraints.project,
                    config=settings,
                    rng=rngs[1],
                )
                regret = expected_regret(
                    predictor,
                    prepared.objective,
                    measured=runs.weights[~runs.diverged],
                    candidates=candidates,
                )
                if room >= settings.batch_size and not should_stop(regret, settings):
                    following = propose_next(
                        predictor,
                        prepared.objective,
                        measured=design.weights,
                        candidates=candidates,
                        config=settings,
                    ).append_to(design)
            _write(folder, following, regret, settings=settings, seed=seed, runs=specs, job=job)
        following = read_design(folder / _DESIGN)
        if len(following.run_ids) == len(design.run_ids):
            return design, runs
        design, number = following, number + 1


def last_design(job: Job, start: Design) -> Design:
    """Return the design after all rounds, or its start where there were none."""
    folder = job.folder(FOLDER)
    done = sorted(path for path in folder.glob("*") if artifacts.is_done(path))
    return read_design(done[-1] / _DESIGN) if done else start


def regrets(job: Job) -> list[dict[str, Json]]:
    """Return what each round expected of further runs, in order."""
    done = sorted(path for path in job.folder(FOLDER).glob("*") if artifacts.is_done(path))
    return [cast(dict[str, Json], artifacts.read_json(path / _REGRET)) for path in done]


def _fit(runs: Runs, prepared: Prepared, model: str, rng: np.random.Generator) -> NamedPredictor:
    kept = ~runs.diverged
    fitted = make_model(model, own=fitting.own_columns(prepared)).fit(
        runs.weights[kept], measure.objective_losses(runs, prepared)[kept], rng=rng
    )
    return NamedPredictor(
        model=fitted, name=model, domains=runs.domains, targets=prepared.objective_names
    )


def _write(
    folder: Path,
    design: Design,
    regret: Regret,
    *,
    settings: SequentialConfig,
    seed: int,
    runs: Mapping[str, TrainingSpec],
    job: Job,
) -> None:
    inputs = {run_id: artifacts.digest_of(job.folder("sweep", run_id)) for run_id in runs}
    with artifacts.writing(
        folder, stage="train", settings=config.dump(settings), seed=seed, inputs=inputs
    ) as aside:
        write_design(aside / _DESIGN, design)
        plain = {**asdict(regret), "n_runs": len(runs), "n_next": len(design.run_ids) - len(runs)}
        artifacts.write_json(aside / _REGRET, cast(Json, plain))
