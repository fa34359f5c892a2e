"""`cuvee influence score` and `cuvee influence check`: the influence engine alone."""

import json
from dataclasses import asdict
from typing import Annotated

import numpy as np
import typer

from cuvee import artifacts
from cuvee.cli.options import (
    AsJson,
    ConfigFile,
    Executor,
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
from cuvee.methods.job import Job

_DECILES = (0.0, 0.1, 0.5, 0.9, 1.0)


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    group = typer.Typer(no_args_is_help=True, help="The influence of documents on targets.")
    group.command()(score)
    group.command()(check)
    app.add_typer(group, name="influence")


def score(
    config: ConfigFile,
    out: Out = None,
    settings: Settings = None,
    workers: Workers = None,
    executor: Executor = "local",
    store: Store = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Score every document of the pool; the stages of `cuvee run quad` before it are run first."""
    # Imported on demand: they bring torch.
    from cuvee.methods import quad, quad_study

    loaded, folder = quad.load_config(config, tuple(settings or ())), out_folder(out, config)
    with (
        artifacts.locked(folder),
        hands(executor, workers, store=store, run=folder) as n_hands,
        progress_bars(shown=not quiet and not as_json) as progress,
    ):
        job = Job(out=folder, workers=n_hands, progress=progress)
        for verb in ("label", "train", "fit"):
            quad.STEPS[verb](loaded, job)
        scores = quad_study.score_pool(loaded, job, quad_study.open_stores(loaded, job))
    values = np.quantile(scores, _DECILES).tolist()
    found = {
        "labels": str(folder / "labels" / quad_study.INFLUENCE),
        "n_documents": len(scores),
        "mean": float(scores.mean()),
        "quantiles": dict(zip(map(str, _DECILES), values, strict=True)),
    }
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    told = ", ".join(
        f"{share:.0%} {value:.3g}" for share, value in zip(_DECILES, values, strict=True)
    )
    typer.echo(f"{len(scores):,} documents scored; quantiles {told}\nlabels      {found['labels']}")


def check(
    config: ConfigFile,
    clusters: Annotated[int, typer.Option("--clusters", help="Clusters to train on.")] = 12,
    tokens: Annotated[int, typer.Option("--tokens", help="Tokens of each run.")] = 32_768,
    seeds: Annotated[int, typer.Option("--seeds", help="Runs on each cluster.")] = 2,
    probes: Annotated[int, typer.Option("--probes", help="Documents scored per cluster.")] = 20,
    out: Out = None,
    settings: Settings = None,
    workers: Workers = None,
    executor: Executor = "local",
    store: Store = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Check which curvature and damping rank clusters as short training on them does."""
    from cuvee.methods import curvature_choice, influence_check, quad, quad_study

    loaded, folder = quad.load_config(config, tuple(settings or ())), out_folder(out, config)
    wanted = curvature_choice.CheckConfig(
        n_clusters=clusters, n_tokens=tokens, n_seeds=seeds, n_probes=probes
    )
    with (
        artifacts.locked(folder),
        hands(executor, workers, store=store, run=folder) as n_hands,
        progress_bars(shown=not quiet and not as_json) as progress,
    ):
        job = Job(out=folder, workers=n_hands, progress=progress)
        for verb in ("label", "train"):
            quad.STEPS[verb](loaded, job)
        prepared = quad_study.open_stores(loaded, job)
        found = influence_check.check_influence(loaded, wanted, job, prepared)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], indent=1))
    else:
        typer.echo(curvature_choice.describe_check(found))
