"""The overlap check of a pool with target sets, from a config file to words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from cuvee import artifacts, config
from cuvee.artifacts import Json
from cuvee.corpus.overlap import EXCLUDE, SUMMARY, OverlapConfig, find_overlap
from cuvee.corpus.pool import PoolConfig
from cuvee.errors import ConfigError
from cuvee.methods.job import Job
from cuvee.methods.pool import TargetsConfig
from cuvee.report import numbers

_MOST_ROWS = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """What a config file says of texts to be compared; its other sections are not looked at."""

    pool: PoolConfig
    targets: TargetsConfig | None = None


def load_compared(path: Path, overrides: Sequence[str] = ()) -> Compared:
    """Read the sections ``pool`` and ``targets`` of a config file of any method.

    Args:
        path: A YAML file.
        overrides: ``a.b=value`` settings that replace the file's.

    Raises:
        ConfigError: The file is missing, not YAML, or one of the two sections is wrong.
    """
    plain = config.load(dict[str, Any], path, overrides)
    known = {name: plain[name] for name in config.fields_of(Compared) if name in plain}
    return config.parse(Compared, known)


def check_overlap(
    compared: Compared,
    job: Job,
    *,
    settings: OverlapConfig,
    others: Mapping[str, str],
    text: str = "text",
) -> dict[str, Json]:
    """Compare a pool with the target sets of its config and with other texts.

    Args:
        compared: Pool and target sets.
        job: Where and with how many workers.
        settings: What counts as overlap.
        others: Paths of more target sets by name.
        text: Their column of text.

    Returns:
        The summary, and the file of ``excluded`` ids.

    Raises:
        ConfigError: A name is given twice, or there is nothing to compare with.
    """
    sets = compared.targets.pools if compared.targets else {}
    for name, place in others.items():
        if name in sets:
            raise ConfigError(f"target {name!r} is in the config too; give another name.")
        sets[name] = PoolConfig(shards=(place,), text=text)
    pool = replace(compared.pool, exclude=())
    with artifacts.locked(job.out):
        folder = find_overlap(
            pool,
            sets,
            job.out,
            settings=settings,
            workers=job.workers,
            on_progress=lambda done, total: job.progress("compare", done, total, ""),
        )
    summary = cast(dict[str, Json], artifacts.read_json(folder / SUMMARY))
    return {**summary, "excluded": str(folder / EXCLUDE)}


def describe_overlap(found: Mapping[str, Any]) -> str:
    """Say a summary in words and a table."""
    n_documents, n_overlapping = found["n_documents"], found["n_overlapping"]
    lines = [
        f"{n_overlapping} of {n_documents} documents share a run of words with a target set "
        f"({n_overlapping / max(n_documents, 1):.3%})."
    ]
    if found["n_rejects"]:
        lines.append(
            f"{found['n_rejects']} rows of the pool cannot be read and were not compared; "
            "`cuvee label` lists them."
        )
    for name, one in found["targets"].items():
        share = one["runs_found"] / one["runs"]
        lines.append(
            f"{numbers.clean(name)}: {one['runs_found']} of its {one['runs']} runs stand in the "
            f"pool ({share:.3%})."
        )
    pairs = sorted(found["overlaps"], key=lambda one: -one["documents"])
    if pairs:
        lines += ["", f"{'documents':>9}  {'of domain':>9}  {'runs':>9}  domain, target"]
    for one in pairs[:_MOST_ROWS]:
        n_runs = one["matching_runs"] + one["short_texts"]
        names = f"{numbers.clean(one['domain'])}, {numbers.clean(one['target'])}"
        lines.append(
            f"{one['documents']:>9}  {one['share_of_documents']:>9.3%}  {n_runs:>9}  {names}"
        )
    if len(pairs) > _MOST_ROWS:
        lines.append(f"... and {len(pairs) - _MOST_ROWS} more pairs; --json prints all.")
    if found["n_excluded"]:
        lines += ["", f"To leave {found['n_excluded']} documents out, set in the config:"]
        lines.append(f"pool.exclude: [{found['excluded']}]")
    return "\n".join(lines)
