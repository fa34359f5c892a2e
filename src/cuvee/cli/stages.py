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
    Store,
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
        store: Store = None,
        method: Method = "regmix",
        quiet: Quiet = False,
        verbose: Verbose = False,
    ) -> None:
        folder = out_folder(out, config)
        with (
            hands(executor, workers, store=store, run=folder) as n_hands,
            progress_bars(shown=not quiet) as progress,
        ):
            job = Job(out=folder, workers=n_hands, progress=progress)
            run_step(verb, config, job, method=method, settings=tuple(settings or ()))

    return command


def _train(
    config: ConfigFile,
    out: Out = None,
    settings: Settings = None,
    workers: Workers = None,
    executor: Executor = "local",
    store: Store = None,
    method: Method = "regmix",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print tokens, FLOPs and a time estimate.")
    ] = False,
    prepare: Annotated[
        bool,
        typer.Option(
            "--prepare",
            help="Do what comes before the runs (label, design, learning rate), for --part.",
        ),
    ] = False,
    part: Annotated[
        str | None,
        typer.Option(
            "--part",
            help="K/N: train the K-th of N equal parts of the runs that --prepare has planned; "
            "other commands may train the other parts meanwhile. `cuvee run` goes on from there.",
        ),
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    if dry_run + prepare + (part is not None) > 1:
        raise ConfigError("--dry-run, --prepare and --part are three commands; give one of them.")
    given = tuple(settings or ())
    if dry_run:
        chosen = method_named(method)
        job = Job(out=out_folder(out, config), workers=n_workers(workers))
        plan = chosen.dry_run(chosen.load(config, given), job)
        typer.echo(chosen.describe_plan(plan))
        return
    folder = out_folder(out, config)
    with (
        hands(executor, workers, store=store, run=folder) as n_hands,
        progress_bars(shown=not quiet) as progress,
    ):
        job = Job(out=folder, workers=n_hands, progress=progress)
        if not prepare and part is None:
            run_step("train", config, job, method=method, settings=given)
            return
        said = _divided(config, job, method=method, settings=given, part=part)
    typer.echo(said)


def _divided(
    config: Path, job: Job, *, method: str, settings: tuple[str, ...], part: str | None
) -> str:
    """Prepare a sweep, or train a part of it; return what to tell of it."""
    # Imported on demand: it brings torch.
    from cuvee.methods import parts

    loaded = method_named(method).load(config, settings)
    if part is not None:
        own = parts.train_part(loaded, job, parts.Part.parse(part))
        plan = parts.read_plan(job)
        return (
            f"part {part}: {len(own)} runs, finished; of all {len(plan.runs)} planned runs "
            f"{parts.n_finished(plan, job)} are finished"
        )
    with artifacts.locked(job.out):
        plan = parts.prepare(method, loaded, job)
    return (
        f"{len(plan.runs)} runs are planned in {job.folder(parts.PLAN)}. Train them by `cuvee "
        f"train --part K/N` with every K from 1 to N, at once or not, on machines that see "
        f"{job.out}; `cuvee run {method}` then goes on."
    )
