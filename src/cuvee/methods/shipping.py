"""The selection: the chosen mixture's documents, written at the token budget."""

from cuvee import artifacts
from cuvee.arrays import FloatArray
from cuvee.corpus.read import PoolConfig
from cuvee.corpus.scan import read_index
from cuvee.methods.job import Job
from cuvee.methods.pool import Prepared
from cuvee.policy.mixture import Mixture
from cuvee.select.budget import SelectConfig, plan
from cuvee.select.write import Selection, SelectionSource, write_selection


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
    folder = job.folder("selection")
    if artifacts.is_done(folder):
        return
    job.progress("select", 0, 1, "")
    planned = plan(mixture, prepared.statistics, n_tokens=n_tokens, max_epochs=max_epochs)
    source = SelectionSource(
        pool=pool,
        tokens=job.folder("tokens"),
        tokenizer=artifacts.digest_of(job.folder("tokenizer")),
        fingerprint=read_index(job.out).fingerprint,
        inputs={
            "optimum": artifacts.digest_of(job.folder("optimum")),
            "tokens": artifacts.digest_of(job.folder("tokens")),
        },
    )
    write_selection(folder, mixture, planned, source=source, settings=settings, seed=seed)
    job.progress("select", 1, 1, "")


def read_selection(job: Job) -> Selection:
    """Read what the finished selection holds."""
    return Selection.read(job.folder("selection"))
