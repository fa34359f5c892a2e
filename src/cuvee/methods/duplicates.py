"""The duplicates of a pool, from a config file to words."""

from collections.abc import Mapping
from typing import Any, cast

from cuvee import artifacts
from cuvee.artifacts import Json
from cuvee.corpus.minhash import NearDuplicatesConfig
from cuvee.corpus.near_duplicates import EXCLUDE, LABELS, SUMMARY, find_near_duplicates
from cuvee.corpus.pool import PoolConfig
from cuvee.methods.job import Job
from cuvee.report import numbers


def count_duplicates(
    pool: PoolConfig, job: Job, *, settings: NearDuplicatesConfig
) -> dict[str, Json]:
    """Count the near-duplicates of every document of a pool.

    Args:
        pool: The pool; what it excludes is counted, too, for the lists may be made of this.
        job: Where and with how many workers.
        settings: What counts.

    Returns:
        The summary, the folder of ``labels`` and the file of ``excluded`` ids.
    """
    with artifacts.locked(job.out):
        folder = find_near_duplicates(
            pool,
            job.out,
            settings=settings,
            workers=job.workers,
            on_progress=lambda done, total: job.progress("sign", done, total, ""),
        )
    summary = cast(dict[str, Json], artifacts.read_json(folder / SUMMARY))
    return {**summary, "labels": str(folder / LABELS), "excluded": str(folder / EXCLUDE)}


def describe_duplicates(found: Mapping[str, Any], out: str) -> str:
    """Say a summary in words and a table."""
    lines = [
        f"{found['n_groups']} groups of near-duplicates among {found['n_documents']} documents, "
        f"the largest of {found['largest_group']}.",
        "",
        f"{'documents':>9}  {'exact':>8}  {'near':>8}  {'unique':>8}  domain",
    ]
    for name, one in found["domains"].items():
        exact, near = (one[f"{kind}_duplicates"] / one["documents"] for kind in ("exact", "near"))
        lines.append(
            f"{one['documents']:>9}  {exact:>8.2%}  {near:>8.2%}  {one['unique_share']:>8.2%}  "
            f"{numbers.clean(name)}"
        )
    lines += ["", f"Counts by document: {found['labels']}"]
    if found["n_excluded"]:
        lines += [
            "To let epoch limits count unique tokens, set in the config:",
            f"duplicates: {out}",
            f"Or to leave {found['n_excluded']} documents out, all but the first of each group:",
            f"pool.exclude: [{found['excluded']}]",
        ]
    return "\n".join(lines)
