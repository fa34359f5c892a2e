"""`cuvee overlap CONFIG`: the documents of a pool that share runs of words with target sets."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cuvee.cli import assignments
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
from cuvee.corpus.overlap import OverlapConfig
from cuvee.methods.job import Job
from cuvee.methods.overlap import check_overlap, describe_overlap, load_compared


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command()
    def overlap(
        config: Annotated[
            Path,
            typer.Argument(
                help="YAML file of any method, or one of a pool alone: pool and targets are read."
            ),
        ],
        target: Annotated[
            list[str] | None,
            typer.Option(
                "--target", help="NAME=PATH of another text set: a file, folder, glob or URL."
            ),
        ] = None,
        text: Annotated[
            str, typer.Option("--text", help="Column of the text in the sets of --target.")
        ] = "text",
        n: Annotated[int, typer.Option("--n", min=1, help="Words in a run of words.")] = 13,
        shortest: Annotated[
            int,
            typer.Option(
                "--shortest",
                min=1,
                help="Target texts shorter than a run are looked for whole if they have this many "
                "words; still shorter ones only count where a document is nothing else.",
            ),
        ] = 8,
        min_runs: Annotated[
            int,
            typer.Option(
                "--min-runs",
                min=1,
                help="Least shared runs of words for which a document is listed for exclusion.",
            ),
        ] = 1,
        min_share: Annotated[
            float,
            typer.Option(
                "--min-share", help="Least share of its own runs that are shared, too; 0 to 1."
            ),
        ] = 0.0,
        out: Annotated[
            Path | None,
            typer.Option(
                "--out", help="Folder of the artefacts; default: the config's name + '-overlap'."
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
        """Find the documents of a pool that share runs of words with target sets."""
        wanted = OverlapConfig(
            n=n, shortest=min(shortest, n), min_runs=min_runs, min_share=min_share
        )
        compared = load_compared(config, tuple(settings or ()))
        place = out if out is not None else Path(f"{config.stem}-overlap")
        with (
            hands(executor, workers, store=store, run=place) as n_hands,
            progress_bars(shown=not quiet and not as_json) as progress,
        ):
            job = Job(out=place, workers=n_hands, progress=progress)
            found = check_overlap(
                compared,
                job,
                settings=wanted,
                others=assignments.texts("--target", target),
                text=text,
            )
        typer.echo(json.dumps(found, indent=1) if as_json else describe_overlap(found))
