"""`cuvee ingest DIR --from FILES`: losses that another trainer measured on a design."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cuvee import artifacts
from cuvee.cli import assignments
from cuvee.cli.options import AsJson, Quiet, Verbose
from cuvee.methods.ingest import IngestConfig, describe_ingested, ingest
from cuvee.methods.job import Job
from cuvee.tables.logged_losses import LoggedColumns


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command(name="ingest")
    def ingest_losses(
        out: Annotated[Path, typer.Argument(help="Folder in which `cuvee design` has worked.")],
        logs: Annotated[
            list[Path],
            typer.Option(
                "--from",
                help="CSV or JSON lines (.jsonl), a row for each run and point of its training. A "
                "file without a column of run ids is one run: the one its name says.",
            ),
        ],
        target: Annotated[
            list[str] | None,
            typer.Option("--target", help="TARGET=COLUMN of its losses, where the names differ."),
        ] = None,
        run_column: Annotated[
            str | None, typer.Option("--run-column", help="Column of run ids; default: run_id.")
        ] = None,
        tokens_column: Annotated[
            str | None, typer.Option("--tokens-column", help="Column of tokens; default: tokens.")
        ] = None,
        step_column: Annotated[
            str | None,
            typer.Option("--step-column", help="Column of steps, with --tokens-per-step."),
        ] = None,
        size_column: Annotated[
            str | None, typer.Option("--size-column", help="Column of parameters; default: size.")
        ] = None,
        tokens_per_step: Annotated[
            int | None,
            typer.Option("--tokens-per-step", min=1, help="For logs that count steps."),
        ] = None,
        unit: Annotated[
            str,
            typer.Option(
                "--unit", help="Unit of the losses: nats (per token) or bpb (bits per byte)."
            ),
        ] = "nats",
        tokens_per_byte: Annotated[
            list[str] | None,
            typer.Option(
                "--tokens-per-byte",
                help="TARGET=NUMBER: the trainer's tokens per byte of it, where losses are nats.",
            ),
        ] = None,
        as_json: AsJson = False,
        quiet: Quiet = False,
        verbose: Verbose = False,
    ) -> None:
        """Read another trainer's losses on a design back; fit and search go on from them."""
        settings = IngestConfig(
            unit=unit,  # type: ignore[arg-type]
            tokens_per_byte=assignments.numbers("--tokens-per-byte", tokens_per_byte),
        )
        columns = LoggedColumns(
            run=run_column,
            tokens=tokens_column,
            step=step_column,
            size=size_column,
            tokens_per_step=tokens_per_step,
            targets=assignments.texts("--target", target),
        )
        with artifacts.locked(out):
            found = ingest(Job(out=out, workers=0), logs, columns=columns, settings=settings)
        typer.echo(json.dumps(found, indent=1) if as_json else describe_ingested(found))
