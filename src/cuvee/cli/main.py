"""The `cuvee` command: verbs, exit codes and the one place where errors become messages.

Results go to standard output, logs and progress to standard error. Exit status: 0 done; 1 one clear
message; 2 wrong usage; 130 interrupted (the same command resumes).
"""

import logging
import sys
import warnings
from typing import TextIO

import typer
from rich.console import Console
from rich.logging import RichHandler

from cuvee.cli import fit, predict, run, show, stages
from cuvee.cli.options import verbosity_of
from cuvee.errors import CuveeError, CuveeWarning

app = typer.Typer(
    name="cuvee",
    help="Decide by experiment what a language model is pre-trained on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

run.register(app)
stages.register(app)
fit.register(app)
predict.register(app)
show.register(app)


def main() -> None:
    """Run the command line and leave with its exit status."""
    arguments = sys.argv[1:]
    verbosity = verbosity_of(arguments)
    _log_to_stderr(verbosity)
    try:
        app()
    except CuveeError as error:
        if verbosity > 0:
            raise
        sys.stderr.write(f"cuvee: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("cuvee: interrupted; the same command goes on from here.\n")
        sys.exit(130)


def _log_to_stderr(verbosity: int) -> None:
    level = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}.get(verbosity, logging.DEBUG)
    handler = RichHandler(
        console=Console(stderr=True), show_path=False, show_time=verbosity > 0, markup=False
    )
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("cuvee").setLevel(level)
    warnings.showwarning = _show_warning


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Send our own warnings to the log; others are the libraries' business and go to debug."""
    level = logging.WARNING if issubclass(category, CuveeWarning) else logging.DEBUG
    logging.getLogger("cuvee").log(level, "%s", message)
