"""`cuvee copies LABELS... --curve FILE --out DIR`: a found curve on the labels of a whole pool."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, cast

import typer

from cuvee import artifacts
from cuvee.artifacts import Json
from cuvee.cli.options import (
    Executor,
    Quiet,
    Store,
    Verbose,
    Workers,
    hands,
)
from cuvee.cli.progress import progress_bars
from cuvee.errors import DataError
from cuvee.policy.quality_curve import curves_from_json
from cuvee.select.copies_table import FLOOR_SHARE, IN_MEMORY_ROWS, CopiesConfig, write_copies
from cuvee.select.label_files import LabelFiles


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command()
    def copies(
        labels: Annotated[
            list[Path], typer.Argument(help="Parquet files of labels, or folders of them.")
        ],
        curve: Annotated[
            Path,
            typer.Option("--curve", help="The curve: optimum/curve.json of a run of quadmix."),
        ],
        out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
        tokens: Annotated[
            int | None,
            typer.Option("--tokens", help="Token budget; what is beyond it is discarded evenly."),
        ] = None,
        smaller: Annotated[
            list[str] | None,
            typer.Option(
                "--smaller", help="A criterion whose smaller scores are better; may be repeated."
            ),
        ] = None,
        id_column: Annotated[str, typer.Option("--id", help="Column of document ids.")] = "id",
        domain_column: Annotated[
            str, typer.Option("--domain", help="Column of domain names.")
        ] = "domain",
        length_column: Annotated[
            str, typer.Option("--lengths", help="Column of lengths in tokens.")
        ] = "n_tokens",
        floor_share: Annotated[
            float | None,
            typer.Option(
                "--floor-share",
                help="Count this worst share of each criterion as equally bad; default: rank all.",
            ),
        ] = None,
        in_memory_rows: Annotated[
            int,
            typer.Option(
                "--in-memory-rows", help="Most documents ranked in memory; more are streamed."
            ),
        ] = IN_MEMORY_ROWS,
        seed: Annotated[int, typer.Option("--seed", help="Seed of what is drawn.")] = 0,
        workers: Workers = None,
        executor: Executor = "local",
        store: Store = None,
        quiet: Quiet = False,
        verbose: Verbose = False,
    ) -> None:
        """Draw how often each document of a labelled pool is taken.

        LABELS have a row for each document: its id, domain, length in tokens and a column for each
        criterion. Written are id and copies of the documents that are taken at least once. The same
        command goes on where it was stopped.
        """
        found = curves_from_json(cast(Mapping[str, Json], artifacts.read_json(curve)))
        settings = CopiesConfig(
            normalisation="rank" if floor_share is None else "floor-rank",
            floor_share=FLOOR_SHARE if floor_share is None else floor_share,
            n_tokens=tokens,
            in_memory_rows=in_memory_rows,
        )
        with (
            hands(executor, workers, store=store, run=out) as n_hands,
            progress_bars(shown=not quiet) as advance,
        ):
            made = write_copies(
                out,
                found,
                labels=LabelFiles(
                    files=_files(labels),
                    criteria=found[0].criteria,
                    smaller_is_better=tuple(smaller or ()),
                    id=id_column,
                    domain=domain_column,
                    tokens=length_column,
                ),
                settings=settings,
                seed=seed,
                workers=n_hands,
                on_progress=lambda name, done, total: advance(name, done, total, ""),
            )
        typer.echo(
            f"{made.n_taken:,} of {made.n_documents:,} documents taken, {made.n_copies:,} copies, "
            f"{made.n_tokens:,} tokens: {out}"
        )
        if made.rank_error > 0.0:
            typer.echo(f"ranks within {made.rank_error:.2g} of their domain's tokens")


def _files(paths: list[Path]) -> tuple[str, ...]:
    found: list[str] = []
    for path in paths:
        inside = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if not inside:
            raise DataError(f"{path} holds no Parquet file; give files *.parquet or their folder.")
        found += [str(one) for one in inside]
    return tuple(found)
