"""`cuvee predict DIR --weights W.csv --out P.csv`: the losses of mixtures by a fitted predictor."""

from pathlib import Path
from typing import Annotated

import typer

from cuvee.cli.options import Quiet, Verbose
from cuvee.methods.swarm import predict_table


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command()
    def predict(
        folder: Annotated[Path, typer.Argument(help="Folder of a fitted predictor, or of a run.")],
        weights: Annotated[
            Path, typer.Option("--weights", help="CSV: index, one column a domain.")
        ],
        out: Annotated[
            Path,
            typer.Option("--out", help="CSV to write: index, each loss, then each <loss>_sd."),
        ],
        quiet: Quiet = False,
        verbose: Verbose = False,
    ) -> None:
        """Predict the losses of mixtures."""
        n_rows = predict_table(folder, weights, out)
        if not quiet:
            typer.echo(f"{n_rows} mixtures predicted: {out}")
