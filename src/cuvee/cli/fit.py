"""`cuvee fit`: regress losses on mixtures, of a config's own runs or of somebody else's tables."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cuvee.cli.options import Method, Out, Quiet, Settings, Verbose, Workers, n_workers, out_folder
from cuvee.cli.stages import run_step
from cuvee.errors import ConfigError
from cuvee.methods.job import Job
from cuvee.methods.swarm import describe_fit, fit_tables


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command()
    def fit(
        config: Annotated[
            Path | None, typer.Argument(help="YAML file of settings, for the runs of --out.")
        ] = None,
        weights: Annotated[
            Path | None, typer.Option("--weights", help="CSV: index, one column a domain.")
        ] = None,
        losses: Annotated[
            Path | None, typer.Option("--losses", help="CSV: index, one column a target.")
        ] = None,
        model: Annotated[
            str, typer.Option("--model", help="Predictor for --weights and --losses.")
        ] = "ensemble",
        seed: Annotated[int, typer.Option("--seed", help="Of folds and starts.")] = 1,
        out: Out = None,
        settings: Settings = None,
        workers: Workers = None,
        method: Method = "regmix",
        as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
        quiet: Quiet = False,
        verbose: Verbose = False,
    ) -> None:
        """Fit the loss as a function of the mixture and cross-validate it."""
        if config is not None and weights is None and losses is None:
            job = Job(out=out_folder(out, config), workers=n_workers(workers))
            run_step("fit", config, job, method=method, settings=tuple(settings or ()))
            return
        if config is not None or weights is None or losses is None or out is None:
            raise ConfigError(
                "cuvee fit takes either CONFIG or all of --weights, --losses and --out; give one "
                "or the other."
            )
        result = fit_tables(weights, losses, model=model, out=out, seed=seed)
        typer.echo(json.dumps(result, indent=1) if as_json else describe_fit(result))
