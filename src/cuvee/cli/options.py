"""Options that several verbs share."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from cuvee.errors import ConfigError
from cuvee.executors import usable_cores, worker_pool

ConfigFile: TypeAlias = Annotated[Path, typer.Argument(help="YAML file of settings.")]
Out: TypeAlias = Annotated[
    Path | None,
    typer.Option("--out", help="Folder of the artefacts; default: the config's name + '-out'."),
]
Settings: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Replace one setting, such as --set proxy.n_tokens=200000; may be given repeatedly.",
    ),
]
Workers: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=0,
        help="Worker processes; default: one for each core; 0: work in the command's own process.",
    ),
]
Executor: TypeAlias = Annotated[
    str,
    typer.Option(
        "--executor",
        help="Where tasks run: local; ray, the cluster of RAY_ADDRESS or one started on this "
        "machine; ray:HOST:PORT or ray:auto, a cluster that runs. The results are the same.",
    ),
]
Store: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="With --executor ray: an fsspec URL, such as s3://bucket/folder, that nodes take "
        "files from and leave them in, where they share no file system.",
    ),
]
Quiet: TypeAlias = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress, no warnings; errors only.")
]
Verbose: TypeAlias = Annotated[
    bool, typer.Option("--verbose", "-v", help="Log each stage; tracebacks on errors.")
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Method: TypeAlias = Annotated[
    str,
    typer.Option(
        "--method",
        help="The method the config belongs to: regmix, mixing-laws, continual, quadmix, quad.",
    ),
]


def out_folder(out: Path | None, config: Path) -> Path:
    """Return the folder of the artefacts."""
    return out if out is not None else Path(f"{config.stem}-out")


def n_workers(workers: int | None) -> int:
    """Return the number of worker processes on this machine."""
    return usable_cores() if workers is None else workers


@contextmanager
def hands(
    executor: str, workers: int | None, *, store: str | None = None, run: Path | None = None
) -> Iterator[int]:
    """Send the tasks of a block to the chosen executor; all lists of tasks share its workers.

    Args:
        executor: ``local``, ``ray`` or ``ray:ADDRESS``.
        workers: As given; None is one for each core, here or of the cluster.
        store: URL that a cluster's tasks exchange files through; None: a common file system.
        run: The run's folder; needed with a store.

    Yields:
        The number of workers.

    Raises:
        ConfigError: The executor is none of these, or has no worker processes to do without; or the
            store cannot be used.
        MissingDependencyError: Ray, or what reads the store's protocol, is not installed.
    """
    kind, _, address = executor.partition(":")
    if executor == "local":
        if store is not None:
            raise ConfigError(
                "--store is for --executor ray: tasks of this machine have their files. Leave one "
                "of them out."
            )
        n_local = n_workers(workers)
        with worker_pool(n_local):
            yield n_local
        return
    if kind != "ray" or executor == "ray:":
        raise ConfigError(
            f"--executor {executor!r} is unknown; give local, ray, ray:HOST:PORT or ray:auto."
        )
    if workers == 0:
        raise ConfigError(
            "--workers 0 works in this process, --executor ray on a cluster; leave one of them out."
        )
    # Imported on demand: most commands run here.
    from cuvee.ray_executor import on_ray
    from cuvee.run_store import RunStore

    through = RunStore.open(store, run) if store is not None and run is not None else None
    with on_ray(address or None, workers=workers, store=through) as cluster:
        yield cluster.n_cpus if workers is None else workers


def verbosity_of(arguments: Sequence[str]) -> int:
    """Return -1 for quiet, 0 for normal, 1 for verbose, from raw arguments.

    Logging must stand before the arguments are parsed, since parsing itself may fail.
    """
    if "-q" in arguments or "--quiet" in arguments:
        return -1
    return int("-v" in arguments or "--verbose" in arguments)
