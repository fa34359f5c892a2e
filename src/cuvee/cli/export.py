"""`cuvee export OUT --to FORMAT`: a selection as the files another trainer reads."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cuvee.cli.options import (
    AsJson,
    Executor,
    Quiet,
    Store,
    Verbose,
    Workers,
    hands,
)
from cuvee.cli.progress import progress_bars
from cuvee.export.exported import Exported
from cuvee.export.exporter import ExportConfig, Layout
from cuvee.export.formats import EXPORTERS, exporter_of
from cuvee.export.write import export_selection

_FORMATS = "; ".join(f"{name}: {one.title}" for name, one in EXPORTERS.items())


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command()
    def export(
        out: Annotated[Path, typer.Argument(help="Folder of a run with a selection.")],
        to: Annotated[str, typer.Option("--to", help=f"The format. {_FORMATS}.")],
        dest: Annotated[
            Path | None,
            typer.Option("--dest", help="Folder to write; default: OUT/export/FORMAT."),
        ] = None,
        layout: Annotated[
            str | None,
            typer.Option(
                "--layout",
                help="domains: files for each domain, and weights to blend them by; mixed: one "
                "set, mixed already; default: the format's own.",
            ),
        ] = None,
        context: Annotated[
            int, typer.Option("--context", help="Tokens of the trainer's sequences.")
        ] = 2048,
        root: Annotated[
            str | None,
            typer.Option("--root", help="Path of DEST as the trainer sees it, if another."),
        ] = None,
        tokenizer: Annotated[
            str | None,
            typer.Option(
                "--tokenizer",
                help="tokenizer.json of the model to be trained: tokens are its own, encoded from "
                "the selection's text; default: the run's.",
            ),
        ] = None,
        batch_tokens: Annotated[
            int | None,
            typer.Option(
                "--batch-tokens",
                help="Tokens of the trainer's step; for nanotron, whose phases begin at steps.",
            ),
        ] = None,
        file_bytes: Annotated[
            int, typer.Option("--file-bytes", help="Size in bytes at which a new file is begun.")
        ] = 256 << 20,
        workers: Workers = None,
        executor: Executor = "local",
        store: Store = None,
        as_json: AsJson = False,
        quiet: Quiet = False,
        verbose: Verbose = False,
    ) -> None:
        """Write a selection in a trainer's format, read it again and print its token shares.

        An epoch over the files holds every document as often as the selection does. lineage.parquet
        names the file and row of every copy, domains.json the domains of every set. With
        --tokenizer the documents stay the same, and the shares of their tokens move a little: by
        how much is printed. The same command goes on where it was stopped.
        """
        exporter_of(to)
        config = ExportConfig(
            to=to,
            layout=_layout(layout),
            context=context,
            root=root,
            batch_tokens=batch_tokens,
            tokenizer=tokenizer,
            file_bytes=file_bytes,
        )
        with (
            hands(executor, workers, store=store, run=out) as n_hands,
            progress_bars(shown=not quiet and not as_json) as advance,
        ):
            made = export_selection(
                out,
                dest if dest is not None else out / "export" / to,
                config,
                workers=n_hands,
                on_progress=lambda step, done, total: advance(step, done, total, ""),
            )
        typer.echo(json.dumps(made.to_json(), indent=1) if as_json else _describe(made))


def _layout(name: str | None) -> Layout | None:
    """Let the config refuse what is no layout."""
    return name  # type: ignore[return-value]


def _describe(made: Exported) -> str:
    """Return the shares of tokens as a table, then what was left out or merged, then its use.

    Selected are the shares by the run's tokenizer, realised those by the export's; where it is the
    same they are one column.
    """
    columns = {
        "domain": [_shown(name) for name in made.domains],
        "tokens": [f"{tokens:,}" for tokens in made.realised_tokens.tolist()],
        "planned": [f"{share:.6f}" for share in made.planned_shares.tolist()],
        "selected": [f"{share:.6f}" for share in made.selection_shares.tolist()],
        "realised": [f"{share:.6f}" for share in made.realised_shares.tolist()],
        "difference": [
            f"{share:+.6f}" for share in (made.realised_shares - made.planned_shares).tolist()
        ],
    }
    if made.is_own_tokenizer:
        del columns["selected"]
    rows = [tuple(columns), *zip(*columns.values(), strict=True)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        ).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, *made.notes, _shown(f"{made.to}: {made.usage}")])


def _shown(name: str) -> str:
    """Return a name that cannot steer the terminal."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in name)
