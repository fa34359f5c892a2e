"""`cuvee show PATH`: any artefact as a table or as JSON."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cuvee.cli.options import AsJson, Quiet, Verbose
from cuvee.methods.showing import describe, read_artifact


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command()
    def show(
        path: Annotated[Path, typer.Argument(help="A run's folder, a stage's folder or a file.")],
        rows: Annotated[int, typer.Option("--rows", min=1, help="Rows shown of a table.")] = 20,
        as_json: AsJson = False,
        quiet: Quiet = False,
        verbose: Verbose = False,
    ) -> None:
        """Show a run's stages, a stage's manifest and answer, or a Parquet or JSON file."""
        found = read_artifact(path, rows=rows)
        typer.echo(json.dumps(found, indent=1) if as_json else describe(found))
