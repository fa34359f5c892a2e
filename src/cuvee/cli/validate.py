"""`cuvee validate CONFIG`: the verdict, and whether the proxies' order holds elsewhere."""

from typing import Annotated

import typer

from cuvee import artifacts
from cuvee.cli.options import (
    ConfigFile,
    Executor,
    Method,
    Out,
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
from cuvee.methods.job import Job
from cuvee.methods.table import method_named


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command()
    def validate(
        config: ConfigFile,
        out: Out = None,
        settings: Settings = None,
        workers: Workers = None,
        executor: Executor = "local",
        store: Store = None,
        method: Method = "regmix",
        ladder: Annotated[
            str | None,
            typer.Option(
                "--ladder",
                help="Also train some mixtures of the design at these sizes, such as 0.2m,0.4m: do "
                "they keep the proxies' order?",
            ),
        ] = None,
        learning_rates: Annotated[
            str | None,
            typer.Option(
                "--learning-rates",
                help="Also train them at these multiples of the proxies' learning rate, such as "
                "0.5,2.",
            ),
        ] = None,
        mixtures: Annotated[
            int,
            typer.Option(
                "--mixtures", help="How many mixtures --ladder and --learning-rates train."
            ),
        ] = 12,
        quiet: Quiet = False,
        verbose: Verbose = False,
    ) -> None:
        """Train larger models on the chosen mixture and its baselines, and judge."""
        overrides, folder = tuple(settings or ()), out_folder(out, config)
        asked = ladder is not None or learning_rates is not None
        if asked:
            # Imported on demand: they bring torch and scipy.
            from cuvee.methods import transfer
            from cuvee.validate.agreement import describe_agreements

            plan = transfer.TransferPlan(
                sizes=tuple(_listed(ladder)),
                rates=tuple(_numbers(learning_rates)),
                n_mixtures=mixtures,
            )
            loaded = method_named(method).load(config, overrides)
            transfer.require_mixtures(loaded)
        with (
            hands(executor, workers, store=store, run=folder) as n_hands,
            progress_bars(shown=not quiet) as progress,
        ):
            job = Job(out=folder, workers=n_hands, progress=progress)
            run_step("validate", config, job, method=method, settings=overrides)
            if asked:
                with artifacts.locked(folder):
                    found = transfer.check_transfer(loaded, job, plan)
        if asked:
            typer.echo("\n".join(describe_agreements(found)))


def _listed(text: str | None) -> list[str]:
    return [one.strip() for one in (text or "").split(",") if one.strip()]


def _numbers(text: str | None) -> list[float]:
    try:
        return [float(one) for one in _listed(text)]
    except ValueError as error:
        raise ConfigError(
            f"--learning-rates {text!r} is no list of factors; give such as 0.5,2."
        ) from error
