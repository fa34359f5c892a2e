"""The selection: the chosen mixture's documents, written at the token budget."""

from collections.abc import Mapping

import numpy as np

from cuvee import artifacts
from cuvee.arrays import FloatArray, IntArray
from cuvee.corpus.read import PoolConfig
from cuvee.corpus.scan import read_index
from cuvee.methods.job import Job
from cuvee.methods.pool import Prepared
from cuvee.policy.mixture import Mixture
from cuvee.select.budget import SelectConfig, SelectionPlan, plan
from cuvee.select.write import Selection, SelectionSource, write_selection
from cuvee.simplex import normalise


def select(
    job: Job,
    settings: SelectConfig,
    *,
    pool: PoolConfig,
    mixture: Mixture,
    prepared: Prepared,
    n_tokens: int,
    max_epochs: FloatArray,
    seed: int,
) -> None:
    """Write the selection unless it is there.

    Args:
        job: Where.
        settings: Shard size and compression.
        pool: The pool's config; its text is read again.
        mixture: What to write.
        prepared: Statistics of the pool.
        n_tokens: Tokens to write.
        max_epochs: (n_domains,) times each domain may be repeated.
        seed: The command's seed.

    Raises:
        InfeasibleError: A domain would be repeated too often.
    """
    if artifacts.is_done(job.folder("selection")):
        return
    planned = plan(mixture, prepared.statistics, n_tokens=n_tokens, max_epochs=max_epochs)
    source = _source(
        job,
        pool,
        {
            "optimum": artifacts.digest_of(job.folder("optimum")),
            "tokens": artifacts.digest_of(job.folder("tokens")),
        },
    )
    _write(job, mixture, planned, source=source, settings=settings, seed=seed)


def select_copies(
    job: Job,
    settings: SelectConfig,
    *,
    pool: PoolConfig,
    prepared: Prepared,
    copies: IntArray,
    inputs: Mapping[str, str],
    seed: int,
) -> None:
    """Write documents chosen one by one, unless they are written.

    Args:
        job: Where.
        settings: Shard size and compression.
        pool: The pool's config; its text is read again.
        prepared: Statistics of the pool.
        copies: (n_documents,) in the order of the token store.
        inputs: Digests of what they follow from, by name.
        seed: The command's seed.
    """
    if artifacts.is_done(job.folder("selection")):
        return
    store = prepared.store
    sums = np.bincount(store.domain, weights=copies * store.n_tokens, minlength=len(store.domains))
    planned = sums.astype(np.int64)
    _write(
        job,
        Mixture.flat(store.domains, normalise(sums)),
        SelectionPlan(
            domains=store.domains,
            n_tokens=int(planned.sum()),
            planned_tokens=planned,
            pool_tokens=prepared.statistics.n_tokens,
            phase_tokens=planned[None, :],
            copies=copies,
        ),
        source=_source(job, pool, inputs),
        settings=settings,
        seed=seed,
    )


def _write(
    job: Job,
    mixture: Mixture,
    planned: SelectionPlan,
    *,
    source: SelectionSource,
    settings: SelectConfig,
    seed: int,
) -> None:
    write_selection(
        job.folder("selection"),
        mixture,
        planned,
        source=source,
        settings=settings,
        seed=seed,
        workers=job.workers,
        on_progress=lambda step, done, total: job.progress(f"select: {step}", done, total, ""),
    )


def _source(job: Job, pool: PoolConfig, inputs: Mapping[str, str]) -> SelectionSource:
    return SelectionSource(
        pool=pool,
        tokens=job.folder("tokens"),
        tokenizer=artifacts.digest_of(job.folder("tokenizer")),
        fingerprint=read_index(job.out).fingerprint,
        inputs=inputs,
    )


def read_selection(job: Job) -> Selection:
    """Read what the finished selection holds."""
    return Selection.read(job.folder("selection"))
