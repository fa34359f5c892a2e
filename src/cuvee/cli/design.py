"""`cuvee design`: the mixtures to be measured, of a config's chain or next for a predictor."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cuvee.cli import assignments
from cuvee.cli.options import (
    AsJson,
    Executor,
    Method,
    Out,
    Quiet,
    Settings,
    Verbose,
    Workers,
    hands,
    out_folder,
)
from cuvee.cli.progress import progress_bars
from cuvee.cli.stages import run_step
from cuvee.errors import ConfigError
from cuvee.methods.job import Job
from cuvee.methods.swarm_next import describe_next, propose_tables


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command()
    def design(
        source: Annotated[
            Path,
            typer.Argument(
                help="YAML file of settings, or with --next the folder of a predictor that `cuvee "
                "fit --weights` has made."
            ),
        ],
        following: Annotated[
            int | None,
            typer.Option("--next", min=1, help="Propose so many mixtures to be measured next."),
        ] = None,
        objective: Annotated[
            list[str] | None,
            typer.Option("--objective", help="TARGET=WEIGHT; default: that of the fit."),
        ] = None,
        cap: Annotated[
            list[str] | None, typer.Option("--cap", help="DOMAIN=SHARE at most.")
        ] = None,
        seed: Annotated[int, typer.Option("--seed", help="Of the candidates.")] = 1,
        out: Out = None,
        settings: Settings = None,
        workers: Workers = None,
        executor: Executor = "local",
        method: Method = "regmix",
        as_json: AsJson = False,
        quiet: Quiet = False,
        verbose: Verbose = False,
    ) -> None:
        """Choose the mixtures to be measured."""
        if following is None:
            if source.is_dir() or objective or cap or as_json:
                raise ConfigError(
                    "a predictor's folder, --objective, --cap and --json go with --next N; without "
                    "it give a config file."
                )
            with hands(executor, workers) as n_hands, progress_bars(shown=not quiet) as progress:
                job = Job(out=out_folder(out, source), workers=n_hands, progress=progress)
                run_step("design", source, job, method=method, settings=tuple(settings or ()))
            return
        if not source.is_dir() or out is None:
            raise ConfigError(
                f"--next proposes mixtures by a predictor: give its folder (found {source}) and "
                "--out, the table to write."
            )
        result = propose_tables(
            source,
            n=following,
            objective=assignments.numbers("--objective", objective),
            caps=assignments.numbers("--cap", cap),
            out_csv=out,
            seed=seed,
        )
        typer.echo(json.dumps(result, indent=1) if as_json else describe_next(result))
