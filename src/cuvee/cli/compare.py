"""`cuvee compare CONFIG`: several methods and baselines on one pool, judged together."""

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


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command()
    def compare(
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
        """Search by several methods on one pool and judge all answers at equal seen tokens."""
        # Imported on demand: it brings torch.
        from cuvee.methods import compare as comparing
        from cuvee.methods import planning
        from cuvee.methods.compare_study import load_study

        study, folder = load_study(config, tuple(settings or ())), out_folder(out, config)
        if dry_run:
            plan = comparing.dry_run(study, Job(out=folder, workers=n_workers(workers)))
            typer.echo(json.dumps(plan, indent=1) if as_json else planning.describe(plan))
            return
        with (
            artifacts.locked(folder),
            hands(executor, workers, store=store, run=folder) as n_hands,
            progress_bars(shown=not quiet and not as_json) as progress,
        ):
            job = Job(out=folder, workers=n_hands, progress=progress)
            comparing.run(study, job)
        if as_json:
            typer.echo(json.dumps(comparing.as_json(job), indent=1))
        else:
            typer.echo(comparing.describe(job))
