"""`cuvee fit`: regress losses on mixtures, of a config's own runs or of somebody else's tables."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cuvee.cli import assignments
from cuvee.cli.options import (
    Executor,
    Method,
    Quiet,
    Settings,
    Store,
    Verbose,
    Workers,
    hands,
    out_folder,
)
from cuvee.cli.progress import progress_bars
from cuvee.cli.stages import run_step
from cuvee.errors import ConfigError
from cuvee.fit.swarm import SwarmFitConfig
from cuvee.methods.job import Job
from cuvee.methods.swarm import CarryConfig, RowsConfig, fit_tables
from cuvee.methods.swarm_text import describe_fit


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
            str,
            typer.Option(
                "--model",
                help="Predictor for --weights and --losses; auto: compare all and take the best.",
            ),
        ] = "ensemble",
        seed: Annotated[int, typer.Option("--seed", help="Seed of folds and starts.")] = 1,
        rows: Annotated[
            int | None, typer.Option("--rows", help="Fit this many of the runs; default: all.")
        ] = None,
        row_seed: Annotated[
            int, typer.Option("--row-seed", help="Seed of the choice of --rows.")
        ] = 1,
        row_design: Annotated[
            str, typer.Option("--row-design", help="How --rows are chosen: random or i-optimal.")
        ] = "random",
        own: Annotated[
            list[str] | None,
            typer.Option(
                "--own", help="TARGET=DOMAIN: the target's own domain, where names do not tell."
            ),
        ] = None,
        at_size: Annotated[
            str | None,
            typer.Option(
                "--at-size",
                help="Parameters without embedding, such as 1B: first extrapolate a study (runs of "
                "several sizes, with losses along the way) to this size.",
            ),
        ] = None,
        at_tokens: Annotated[
            str | None,
            typer.Option("--at-tokens", help="With --at-size: to this many tokens, such as 30B."),
        ] = None,
        tokens_per_step: Annotated[
            int | None,
            typer.Option("--tokens-per-step", help="For a study that counts steps, not tokens."),
        ] = None,
        first_tokens: Annotated[
            str,
            typer.Option("--first-tokens", help="Leave out a study's losses before these tokens."),
        ] = "0",
        objective: Annotated[
            list[str] | None,
            typer.Option(
                "--objective",
                help="TARGET=WEIGHT of the sum that models are judged by; default: all alike.",
            ),
        ] = None,
        out: Annotated[
            Path | None,
            typer.Option(
                "--out",
                help="Folder of the artefacts; default: the config's name + '-out'. With "
                "--weights: "
                "folder of the predictor to write; needed.",
            ),
        ] = None,
        settings: Settings = None,
        workers: Workers = None,
        executor: Executor = "local",
        store: Store = None,
        method: Method = "regmix",
        as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
        quiet: Quiet = False,
        verbose: Verbose = False,
    ) -> None:
        """Fit the loss as a function of the mixture and cross-validate it."""
        if config is not None and weights is None and losses is None:
            folder = out_folder(out, config)
            with hands(executor, workers, store=store, run=folder) as n_hands:
                job = Job(out=folder, workers=n_hands)
                run_step("fit", config, job, method=method, settings=tuple(settings or ()))
            return
        if config is not None or weights is None or losses is None or out is None:
            raise ConfigError(
                "cuvee fit takes either CONFIG or all of --weights, --losses and --out; give one "
                "or the other."
            )
        chosen = SwarmFitConfig(
            model=model,
            seed=seed,
            own=assignments.texts("--own", own),
            objective=assignments.numbers("--objective", objective),
        )
        subset = None
        if rows is not None:
            subset = RowsConfig(n=rows, seed=row_seed, design=row_design)  # type: ignore[arg-type]
        at = None
        if at_size is not None or at_tokens is not None:
            at = CarryConfig(
                size=assignments.quantity("--at-size", at_size),
                n_tokens=assignments.quantity("--at-tokens", at_tokens),
                tokens_per_step=tokens_per_step,
                first_tokens=assignments.quantity("--first-tokens", first_tokens),
            )
        elif tokens_per_step is not None or first_tokens != "0":
            raise ConfigError(
                "--tokens-per-step and --first-tokens belong to a study; give --at-size and "
                "--at-tokens with them."
            )
        with progress_bars(shown=not quiet and not as_json) as progress:
            result = fit_tables(
                weights, losses, settings=chosen, rows=subset, at=at, out=out, progress=progress
            )
        typer.echo(json.dumps(result, indent=1) if as_json else describe_fit(result))
