"""Progress bars on standard error."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cuvee.methods import job


@contextmanager
def progress_bars(*, shown: bool) -> Iterator[job.Progress]:
    """Show one bar a stage while the block runs.

    Args:
        shown: False shows nothing.

    Yields:
        The callback for `job.Job`.
    """
    if not shown:
        yield job.silent
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    bars = Progress(*columns, console=Console(stderr=True))
    known: dict[str, TaskID] = {}

    def advance(stage: str, done: int, total: int, note: str) -> None:
        if not known:  # begun with the first bar: without any, stopping would print a blank line
            bars.start()
        if stage not in known:
            known[stage] = bars.add_task(stage, total=total, note="")
        bars.update(known[stage], completed=done, total=total, note=note)

    try:
        yield advance
    finally:
        if known:
            bars.stop()
