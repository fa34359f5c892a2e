"""`cuvee search`: the best mixture, of a config's chain or by a predictor fitted on tables."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cuvee.cli import assignments
from cuvee.cli.options import (
    AsJson,
    Executor,
    Method,
    Quiet,
    Settings,
    Store,
    Verbose,
    Workers,
    hands,
    out_folder,
)
from cuvee.cli.progress import progress_bars
from cuvee.cli.stages import run_step
from cuvee.errors import ConfigError
from cuvee.methods.job import Job
from cuvee.methods.swarm_search import SwarmSearchConfig, search_tables
from cuvee.methods.swarm_text import describe_search
from cuvee.search.constraints import GroupBound

_MANY = list[str] | None


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command()
    def search(
        source: Annotated[
            Path,
            typer.Argument(
                help="YAML file of settings, or the folder of a predictor that `cuvee fit "
                "--weights` has made."
            ),
        ],
        objective: Annotated[
            _MANY,
            typer.Option("--objective", help="TARGET=WEIGHT; default: the fit's."),
        ] = None,
        cap: Annotated[_MANY, typer.Option("--cap", help="DOMAIN=SHARE at most.")] = None,
        bound: Annotated[_MANY, typer.Option("--bound", help="DOMAIN=LOW:HIGH shares.")] = None,
        floor: Annotated[
            _MANY, typer.Option("--floor", help="TARGET=LOSS that its prediction must not exceed.")
        ] = None,
        worse_by: Annotated[
            float | None,
            typer.Option(
                "--worse-by",
                help="Loss by which any target may get worse than at the mean of the measured "
                "mixtures.",
            ),
        ] = None,
        group: Annotated[
            _MANY,
            typer.Option("--group", help="DOMAIN,DOMAIN=LOW:HIGH shares of several together."),
        ] = None,
        freeze: Annotated[
            _MANY,
            typer.Option(
                "--freeze",
                help="DOMAIN,DOMAIN whose shares keep the ratios of the mean of the measured "
                "mixtures.",
            ),
        ] = None,
        kl: Annotated[
            float,
            typer.Option(
                "--kl",
                help="Loss added for each nat of KL divergence from the mean of the measured "
                "mixtures.",
            ),
        ] = 0.0,
        seed: Annotated[int, typer.Option("--seed", help="Seed of the simulated mixtures.")] = 1,
        out: Annotated[
            Path | None,
            typer.Option(
                "--out",
                help="Folder of the artefacts; default: the config's name + '-out'. With a "
                "predictor's folder: folder of the answer to write; needed.",
            ),
        ] = None,
        settings: Settings = None,
        workers: Workers = None,
        executor: Executor = "local",
        store: Store = None,
        method: Method = "regmix",
        as_json: AsJson = False,
        quiet: Quiet = False,
        verbose: Verbose = False,
    ) -> None:
        """Search for the mixture of least predicted loss."""
        limits = cap or bound or floor or group or freeze or worse_by is not None
        own_options = bool(objective or limits or kl or as_json or seed != 1)
        if not source.is_dir():
            if own_options:
                raise ConfigError(
                    "--objective, --cap, --bound, --floor, --worse-by, --group, --freeze, --kl, "
                    "--seed and --json belong to the folder of a predictor; with a config set "
                    "search.bounds and the like in it."
                )
            folder = out_folder(out, source)
            with (
                hands(executor, workers, store=store, run=folder) as n_hands,
                progress_bars(shown=not quiet) as progress,
            ):
                job = Job(out=folder, workers=n_hands, progress=progress)
                run_step("search", source, job, method=method, settings=tuple(settings or ()))
            return
        if out is None or settings:
            raise ConfigError(
                f"{source} is a folder: give --out for the answer, and no --set, which belongs to "
                "a config."
            )
        result = search_tables(
            source,
            settings=SwarmSearchConfig(
                objective=assignments.numbers("--objective", objective),
                caps=assignments.numbers("--cap", cap),
                bounds=assignments.ranges("--bound", bound),
                floors=assignments.numbers("--floor", floor),
                worse_by=worse_by,
                groups=tuple(
                    GroupBound(domains=tuple(names.split(",")), at_least=low, at_most=high)
                    for names, (low, high) in assignments.ranges("--group", group).items()
                ),
                frozen=tuple(tuple(names.split(",")) for names in freeze or ()),
                kl=kl,
                seed=seed,
            ),
            out=out,
        )
        typer.echo(json.dumps(result, indent=1) if as_json else describe_search(result))
