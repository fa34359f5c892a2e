"""The files that every chain of methods hands from arrow to arrow: design, runs, optimum."""

from cuvee import artifacts, config
from cuvee.methods import rounds
from cuvee.methods.job import Job
from cuvee.tables.design import Design, read_design, write_design
from cuvee.tables.optimum import Optimum, read_optimum, write_optimum
from cuvee.tables.runs import Runs, read_runs
from cuvee.tables.sensitivity import Sensitivity, write_sensitivity

OPTIMUM = "optimum.json"
ONE_PHASE = "one_phase.json"
PRICES = "prices.json"
SENSITIVITY = "sensitivity.json"


def write_made_design(job: Job, made: Design, *, settings: object, seed: int) -> None:
    """Write the design as an artefact."""
    with artifacts.writing(
        job.folder("design"),
        stage="design",
        settings=config.dump(settings),
        seed=seed,
        inputs={"tokens": artifacts.digest_of(job.folder("tokens"))},
    ) as aside:
        write_design(aside / "design.parquet", made)


def read_made_design(job: Job) -> Design:
    """Read the finished design, with what its rounds have added."""
    folder = artifacts.require(job.folder("design"), made_by="cuvee design")
    return rounds.last_design(job, read_design(folder / "design.parquet"))


def read_measured(job: Job) -> Runs:
    """Read the finished table of runs."""
    folder = artifacts.require(job.folder("runs"), made_by="cuvee train")
    return read_runs(folder / "runs.parquet")


def write_found(
    job: Job,
    optimum: Optimum,
    sensitivity: Sensitivity,
    *,
    settings: object,
    seed: int,
    one_phase: Optimum | None = None,
    prices: tuple[str, ...] = (),
) -> None:
    """Write the search's answer and what surrounds it, beside the best mixture without phases.

    ``prices`` are sentences on what the bounds cost.
    """
    with artifacts.writing(
        job.folder("optimum"),
        stage="search",
        settings=config.dump(settings),
        seed=seed,
        inputs={"predictor": artifacts.digest_of(job.folder("predictor"))},
    ) as aside:
        write_optimum(aside / OPTIMUM, optimum)
        write_sensitivity(aside / SENSITIVITY, sensitivity)
        if one_phase is not None:
            write_optimum(aside / ONE_PHASE, one_phase)
        if prices:
            artifacts.write_json(aside / PRICES, list(prices))


def read_found(job: Job) -> Optimum:
    """Read the finished search's answer."""
    folder = artifacts.require(job.folder("optimum"), made_by="cuvee search")
    return read_optimum(folder / OPTIMUM)
