"""The `cuvee` command: verbs, exit codes and the one place where errors become messages.

Results go to standard output, logs and progress to standard error. Exit status: 0 done; 1 one clear
message; 2 wrong usage; 130 interrupted (the same command resumes).

Worker processes import the command's main module again, so this one must stay light: the verbs, and
with them torch, are imported when they are called for.
"""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.logging import RichHandler

from cuvee.errors import CuveeError, CuveeWarning

_INTERRUPTED = 130


def main() -> None:
    """Run the command line and leave with its exit status."""
    from cuvee.cli.app import app
    from cuvee.cli.options import verbosity_of

    verbosity = verbosity_of(sys.argv[1:])
    _log_to_stderr(verbosity)
    with _errors_as_messages(traceback=verbosity > 0):
        app()


@contextmanager
def _errors_as_messages(*, traceback: bool) -> Iterator[None]:
    try:
        yield
    except CuveeError as error:
        if traceback:
            raise
        _leave(str(error))
    except OSError as error:
        if traceback:
            raise
        place = error.filename2 or error.filename
        _leave(f"{error.strerror or error}{f': {place}' if place else ''}.")
    except SystemExit as leaving:
        if leaving.code == _INTERRUPTED:
            sys.stderr.write("cuvee: interrupted; the same command goes on from here.\n")
        raise


def _leave(message: str) -> None:
    """End with a message; what a path or a name may hold must not steer the terminal."""
    shown = "".join(
        char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in message
    )
    sys.stderr.write(f"cuvee: {shown}\n")
    sys.exit(1)


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
