"""Runs that cannot be trained, because their quality curve takes too little: kept with a reason.

The policy: such a run counts as one of the sweep's. It is recorded as a finished run without
losses, marked as diverged ones are, and no fit hears of it. Whether a run is one follows from its
spec and the pool alone, so that a resumed sweep finds the same.
"""

from collections.abc import Mapping
from pathlib import Path

from cuvee import artifacts
from cuvee.corpus.store import TokenStore
from cuvee.proxy.documents import open_evaluation_sets, sampled_tokens, training_documents
from cuvee.proxy.record import RunRecord, input_digests
from cuvee.proxy.spec import TrainingSpec, portable_spec


def record_untrainable(specs: Mapping[str, TrainingSpec], folder: Path) -> dict[str, str]:
    """Record the runs of a sweep whose curve takes less than one sequence of tokens.

    Args:
        specs: Run id to spec; finished runs and runs without a curve are passed over.
        folder: The sweep's; such a run gets its folder there, as of `train.train_proxy`, with a
            trajectory without points and its reason in result.json.

    Returns:
        Run id to reason, of the runs recorded now.
    """
    found = {}
    for run_id, run in specs.items():
        if run.curve is None or artifacts.is_done(folder / run_id):
            continue
        pool = TokenStore.open(Path(run.pool))
        n_tokens = sampled_tokens(run, pool, training_documents(run, pool))
        if n_tokens >= run.context:
            continue
        found[run_id] = (
            f"its curve takes {n_tokens} tokens of the documents a proxy may draw from; a sequence "
            f"has {run.context}"
        )
        _record(run, pool, folder / run_id, found[run_id])
    return found


def _record(run: TrainingSpec, pool: TokenStore, folder: Path, reason: str) -> None:
    with artifacts.writing(
        folder,
        stage="train",
        settings=portable_spec(run),
        seed=run.seed,
        inputs=input_digests(run),
    ) as aside:
        record = RunRecord(
            run, aside, sets=open_evaluation_sets(run, pool), realised=run.mixture.overall
        )
        record.untrained = reason
        record.write([], {}, {"seconds": 0.0}, accuracy={})
