"""`cuvee duplicates CONFIG`: exact and near-duplicates of every document of a pool."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cuvee.cli.options import (
    AsJson,
    Executor,
    Quiet,
    Settings,
    Store,
    Verbose,
    Workers,
    hands,
)
from cuvee.cli.progress import progress_bars
from cuvee.corpus.minhash import NearDuplicatesConfig
from cuvee.methods.duplicates import count_duplicates, describe_duplicates
from cuvee.methods.job import Job
from cuvee.methods.overlap import load_compared


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command()
    def duplicates(
        config: Annotated[
            Path,
            typer.Argument(help="YAML file of any method, or one of a pool alone: pool is read."),
        ],
        n: Annotated[int, typer.Option("--n", min=1, help="Words in a run of words.")] = 5,
        threshold: Annotated[
            float,
            typer.Option(
                "--threshold",
                help="Least share of common runs that makes two documents duplicates.",
            ),
        ] = 0.8,
        out: Annotated[
            Path | None,
            typer.Option(
                "--out", help="Folder of the artefacts; default: the config's name + '-duplicates'."
            ),
        ] = None,
        settings: Settings = None,
        workers: Workers = None,
        executor: Executor = "local",
        store: Store = None,
        as_json: AsJson = False,
        quiet: Quiet = False,
        verbose: Verbose = False,
    ) -> None:
        """Count the exact and near-duplicates of every document of a pool by MinHash."""
        wanted = NearDuplicatesConfig(n=n, threshold=threshold)
        pool = load_compared(config, tuple(settings or ())).pool
        place = out if out is not None else Path(f"{config.stem}-duplicates")
        with (
            hands(executor, workers, store=store, run=place) as n_hands,
            progress_bars(shown=not quiet and not as_json) as progress,
        ):
            job = Job(out=place, workers=n_hands, progress=progress)
            found = count_duplicates(pool, job, settings=wanted)
        typer.echo(
            json.dumps(found, indent=1) if as_json else describe_duplicates(found, str(place))
        )
