"""`cuvee watch DIR`: how far a run is, while another process works at it."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from cuvee.cli.options import Quiet, Verbose
from cuvee.methods.watching import describe_watched, watch


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command(name="watch")
    def command(
        out: Annotated[Path, typer.Argument(help="Folder of a run, finished or not.")],
        once: Annotated[bool, typer.Option("--once", help="Print once and leave.")] = False,
        interval: Annotated[
            float, typer.Option("--interval", min=0.1, help="Seconds between two looks.")
        ] = 5.0,
        quiet: Quiet = False,
        verbose: Verbose = False,
    ) -> None:
        """Show a sweep while it runs: how far it is, its pace, the best and the last losses.

        Reads the finished artefacts alone, so the folder may be another machine's. Ends when the
        run is finished. Where the output is no terminal, a block of text is printed at each change.
        """
        found = watch(out)
        text = describe_watched(found)
        console = Console()
        if once or found.finished or not console.is_terminal:
            typer.echo(text)
            while not once and not found.finished:
                time.sleep(interval)
                found, before = watch(out), text
                text = describe_watched(found)
                if text != before:
                    typer.echo(f"\n{text}")
            return
        with Live(Text(text), console=console, auto_refresh=False) as live:
            while not found.finished:
                time.sleep(interval)
                found = watch(out)
                live.update(Text(describe_watched(found)), refresh=True)
