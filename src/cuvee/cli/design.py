"""`cuvee design`: the mixtures to be measured, of a config's chain or next for a predictor."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cuvee import artifacts
from cuvee.cli import assignments
from cuvee.cli.options import (
    AsJson,
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
from cuvee.export.run_configs import TRAINERS, trainer_of
from cuvee.methods.job import Job
from cuvee.methods.swarm_next import describe_next, propose_tables

_TRAINERS = ", ".join(TRAINERS)


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command()
    def design(
        source: Annotated[
            Path,
            typer.Argument(
                help="YAML file of settings, or with --next the folder of a predictor that `cuvee "
                "fit --weights` has made."
            ),
        ],
        following: Annotated[
            int | None,
            typer.Option("--next", min=1, help="Propose this many mixtures to measure next."),
        ] = None,
        objective: Annotated[
            list[str] | None,
            typer.Option("--objective", help="With --next: TARGET=WEIGHT; default: the fit's."),
        ] = None,
        cap: Annotated[
            list[str] | None, typer.Option("--cap", help="With --next: DOMAIN=SHARE at most.")
        ] = None,
        seed: Annotated[
            int, typer.Option("--seed", help="With --next: seed of the candidates drawn.")
        ] = 1,
        to: Annotated[
            str | None,
            typer.Option("--to", help=f"Write each run's config for another trainer: {_TRAINERS}."),
        ] = None,
        root: Annotated[
            str | None,
            typer.Option(
                "--root", help="With --to: path below which the trainer finds data/DOMAIN."
            ),
        ] = None,
        data: Annotated[
            list[str] | None,
            typer.Option("--data", help="With --to: DOMAIN=PATH of its data, where elsewhere."),
        ] = None,
        out: Annotated[
            Path | None,
            typer.Option(
                "--out",
                help="Folder of the artefacts; default: the config's name + '-out'. With --next: "
                "the CSV of mixtures to write; needed.",
            ),
        ] = None,
        settings: Settings = None,
        workers: Workers = None,
        executor: Executor = "local",
        store: Store = None,
        method: Method = "regmix",
        as_json: AsJson = False,
        quiet: Quiet = False,
        verbose: Verbose = False,
    ) -> None:
        """Choose the mixtures to be measured."""
        if to is None and (root is not None or data):
            raise ConfigError("--root and --data go with --to, the trainer's name.")
        if following is None:
            if source.is_dir() or objective or cap or (as_json and to is None):
                raise ConfigError(
                    "a predictor's folder, --objective, --cap and --json go with --next N; without "
                    "it give a config file."
                )
            if to is not None:
                _check_trainer(to, method)
            folder = out_folder(out, source)
            with (
                hands(executor, workers, store=store, run=folder) as n_hands,
                progress_bars(shown=not quiet) as progress,
            ):
                job = Job(out=folder, workers=n_hands, progress=progress)
                run_step("design", source, job, method=method, settings=tuple(settings or ()))
            if to is not None:
                _write_configs(source, job, settings, to, root, data, as_json=as_json)
            return
        if to is not None:
            raise ConfigError("--to belongs to a config, --next to a predictor; give one of them.")
        if not source.is_dir() or out is None:
            raise ConfigError(
                f"--next proposes mixtures by a predictor: give its folder (found {source}) and "
                "--out, the table to write."
            )
        result = propose_tables(
            source,
            n=following,
            objective=assignments.numbers("--objective", objective),
            caps=assignments.numbers("--cap", cap),
            out_csv=out,
            seed=seed,
        )
        typer.echo(json.dumps(result, indent=1) if as_json else describe_next(result))


def _write_configs(
    source: Path,
    job: Job,
    settings: list[str] | None,
    to: str,
    root: str | None,
    data: list[str] | None,
    *,
    as_json: bool,
) -> None:
    """Write the trainer's configs and say so."""
    # Imported on demand: it brings torch, which the proposals for a table can do without.
    from cuvee.methods.regmix import load_config
    from cuvee.methods.trainer_configs import describe_configs, write_trainer_configs

    with artifacts.locked(job.out):
        made = write_trainer_configs(
            load_config(source, tuple(settings or ())),
            job,
            to=to,
            root=root,
            data=assignments.texts("--data", data),
        )
    typer.echo(json.dumps(made, indent=1) if as_json else describe_configs(made))


def _check_trainer(to: str, method: str) -> None:
    """Refuse, before anything is labelled, what no config can be written for."""
    trainer_of(to)
    if method != "regmix":
        raise ConfigError(
            f"--to writes mixtures of method regmix, not of {method}: its runs are more than "
            "mixture weights at one size. Leave --method out."
        )
