"""`cuvee report`: a run's page, or two finished runs side by side."""

from pathlib import Path
from typing import Annotated

import typer

from cuvee.cli.options import (
    Method,
    Quiet,
    Settings,
    Verbose,
    Workers,
    n_workers,
    out_folder,
)
from cuvee.cli.progress import progress_bars
from cuvee.cli.stages import run_step
from cuvee.errors import ConfigError
from cuvee.methods.job import Job

_PAGE = Path("side-by-side.html")


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command()
    def report(
        config: Annotated[
            Path | None, typer.Argument(help="YAML file of settings; none with --compare.")
        ] = None,
        compare: Annotated[
            tuple[Path, Path] | None,
            typer.Option(
                "--compare",
                metavar="A B",
                help="Folders of two finished runs with the same targets: write one page that sets "
                "them side by side.",
            ),
        ] = None,
        out: Annotated[
            Path | None,
            typer.Option(
                "--out",
                help="Folder of the artefacts; default: the config's name + '-out'. With "
                "--compare: "
                f"the page to write; default: {_PAGE}.",
            ),
        ] = None,
        settings: Settings = None,
        workers: Workers = None,
        method: Method = "regmix",
        quiet: Quiet = False,
        verbose: Verbose = False,
    ) -> None:
        """Write report.html from the finished artefacts."""
        if compare is not None:
            if config is not None:
                raise ConfigError(
                    f"--compare reads two runs' folders and takes no config (found {config}); "
                    "give one or the other."
                )
            _compare(compare, out if out is not None else _PAGE)
            return
        if config is None:
            raise ConfigError(
                "cuvee report takes a config, or --compare A B with the folders of two finished "
                "runs; give one of them."
            )
        with progress_bars(shown=not quiet) as progress:
            job = Job(out=out_folder(out, config), workers=n_workers(workers), progress=progress)
            run_step("report", config, job, method=method, settings=tuple(settings or ()))


def _compare(runs: tuple[Path, Path], page: Path) -> None:
    # Imported on demand: matplotlib and torch take seconds that --help need not wait for.
    from cuvee.methods.side_by_side import write_comparison

    if page.is_dir():
        page = page / _PAGE
    write_comparison(*runs, page)
    typer.echo(f"side by side: {page}")
