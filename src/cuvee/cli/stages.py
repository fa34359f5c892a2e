"""One verb for each arrow of the chain, on the same artefacts as `cuvee run`."""

from collections.abc import Callable
from pathlib import Path
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
    Verbose,
    Workers,
    hands,
    n_workers,
    out_folder,
)
from cuvee.cli.progress import progress_bars
from cuvee.errors import ConfigError
from cuvee.methods.job import Job
from cuvee.methods.table import method_named

_VERBS: dict[str, str] = {
    "label": "Read, check, split and tokenise the pool and the targets.",
    "train": "Train a proxy model on each mixture of the design.",
    "select": "Write the chosen mixture's documents at the token budget.",
}


def register(app: typer.Typer) -> None:
    """Add the verbs; the others have files of their own."""
    for verb, help_text in _VERBS.items():
        app.command(name=verb, help=help_text)(_train if verb == "train" else _command(verb))


def run_step(verb: str, config: Path, job: Job, *, method: str, settings: tuple[str, ...]) -> None:
    """Run one arrow of a method's chain."""
    chosen = method_named(method)
    if verb not in chosen.steps:
        raise ConfigError(
            f"method {method} has no stage {verb!r}; its stages are {', '.join(chosen.steps)}."
        )
    loaded = chosen.load(config, settings)
    with artifacts.locked(job.out):
        chosen.steps[verb](loaded, job)


def _command(verb: str) -> Callable[..., None]:
    def command(
        config: ConfigFile,
        out: Out = None,
        settings: Settings = None,
        workers: Workers = None,
        executor: Executor = "local",
        method: Method = "regmix",
        quiet: Quiet = False,
        verbose: Verbose = False,
    ) -> None:
        with hands(executor, workers) as n_hands, progress_bars(shown=not quiet) as progress:
            job = Job(out=out_folder(out, config), workers=n_hands, progress=progress)
            run_step(verb, config, job, method=method, settings=tuple(settings or ()))

    return command


def _train(
    config: ConfigFile,
    out: Out = None,
    settings: Settings = None,
    workers: Workers = None,
    executor: Executor = "local",
    method: Method = "regmix",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print tokens, FLOPs and a time estimate.")
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    if dry_run:
        chosen = method_named(method)
        job = Job(out=out_folder(out, config), workers=n_workers(workers))
        plan = chosen.dry_run(chosen.load(config, tuple(settings or ())), job)
        typer.echo(chosen.describe_plan(plan))
        return
    _command("train")(config, out, settings, workers, executor, method, quiet, verbose)
