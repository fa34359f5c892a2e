"""`cuvee run METHOD CONFIG`: the whole chain; the same command again resumes."""

import json
from typing import Annotated

import typer

from cuvee import artifacts
from cuvee.cli.options import (
    AsJson,
    ConfigFile,
    Executor,
    Out,
    Quiet,
    Settings,
    Store,
    Verbose,
    Workers,
    hands,
    n_workers,
    out_folder,
)
from cuvee.cli.progress import progress_bars
from cuvee.methods.job import Job
from cuvee.methods.table import method_named


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command()
    def run(
        method: Annotated[
            str, typer.Argument(help="One of regmix, mixing-laws, continual, quadmix, quad.")
        ],
        config: ConfigFile,
        out: Out = None,
        settings: Settings = None,
        workers: Workers = None,
        executor: Executor = "local",
        store: Store = None,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Print the plan and its cost; train nothing.")
        ] = False,
        as_json: AsJson = False,
        quiet: Quiet = False,
        verbose: Verbose = False,
    ) -> None:
        """Run a method from documents to the verdict."""
        chosen = method_named(method)
        loaded = chosen.load(config, tuple(settings or ()))
        folder = out_folder(out, config)
        if dry_run:
            plan = chosen.dry_run(loaded, Job(out=folder, workers=n_workers(workers)))
            typer.echo(json.dumps(plan, indent=1) if as_json else chosen.describe_plan(plan))
            return
        with (
            artifacts.locked(folder),
            hands(executor, workers, store=store, run=folder) as n_hands,
            progress_bars(shown=not quiet and not as_json) as progress,
        ):
            job = Job(out=folder, workers=n_hands, progress=progress)
            chosen.run(loaded, job)
        if as_json:
            typer.echo(json.dumps(chosen.summary(loaded, job), indent=1))
        else:
            typer.echo(chosen.describe(loaded, job))
