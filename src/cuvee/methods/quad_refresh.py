"""Influence estimated anew while the bandit plays: at the model trained on what was taken so far.

Influence drifts as a model trains. Each time another equal share of the budget is taken, the last
checkpoint's training is continued on the documents taken since it was made, for the part of the
verdict's tokens that those documents are of the budget; gradient, curvature and direction are
computed at the new checkpoint, and documents scored from then on are scored by it.

Source: MATES (arXiv:2406.06046), Algorithm 1: stages of selection, each by a model of influence on
    the checkpoint that was trained on what the stages before it selected.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from cuvee import artifacts, config
from cuvee.arrays import FloatArray, IntArray
from cuvee.influence import LayerVector
from cuvee.methods import measure
from cuvee.methods.influence_check import chosen_curvature
from cuvee.methods.job import Job
from cuvee.methods.pool import Prepared, given_tokens
from cuvee.methods.quad_engine import DIRECTION, Checkpoint, find_direction, score_documents
from cuvee.methods.quad_study import (
    COPIES,
    QuadConfig,
    base_checkpoint,
    checkpoint,
    influence_folder,
    make_probe,
    mixture_of,
)
from cuvee.proxy.spec import TrainingSpec
from cuvee.proxy.sweep import training_spec
from cuvee.randomness import integer_seed, stream
from cuvee.search.bandit import Bandit, Probe

_RUN = "continued"


def refreshing_probe(
    settings: QuadConfig, job: Job, prepared: Prepared, place: IntArray, bandit: Bandit
) -> Probe:
    """Return what scores documents at the checkpoint of the bandit's present estimate.

    Checkpoints and directions are artefacts below ``estimates/``, made when the first document is
    scored at them; all follow from the seed and what was taken.

    Args:
        settings: The config.
        job: Where.
        prepared: The pool.
        place: (n,) positions in the store of the clustered pool's documents.
        bandit: Asks for the scores.
    """
    held: dict[int, Callable[[IntArray], FloatArray]] = {}

    def probe(documents: IntArray) -> FloatArray:
        number = bandit.estimate
        if number not in held:
            held.clear()
            held[number] = (
                _new_probe(settings, job, prepared, place, bandit)
                if number
                else make_probe(settings, job, prepared, place)
            )
        return held[number](documents)

    return probe


def _new_probe(
    settings: QuadConfig, job: Job, prepared: Prepared, place: IntArray, bandit: Bandit
) -> Probe:
    """Score by the present estimate, which is made if need be."""
    number = bandit.estimate
    newer = _checkpoint(settings, job, prepared, place, bandit, number)
    model = newer.open(prepared.store)
    folder = influence_folder(job, number)
    if not artifacts.is_done(folder):
        chosen, _ = chosen_curvature(settings, job, prepared)
        job.progress("influence anew", number - 1, settings.bandit.n_refreshes, "")
        with artifacts.writing(
            folder,
            stage="search",
            settings=config.dump(chosen),
            seed=settings.seed,
            inputs={"checkpoint": artifacts.digest_file(Path(newer.path))},
        ) as aside:
            find_direction(model, chosen, prepared, aside, seed=settings.seed)
        job.progress("influence anew", number, settings.bandit.n_refreshes, "")
    direction = LayerVector.load(folder / DIRECTION)

    def probe(documents: IntArray) -> FloatArray:
        own = place[documents]
        return score_documents(model, direction, settings.influence, prepared.store, own)

    return probe


def _checkpoint(
    settings: QuadConfig,
    job: Job,
    prepared: Prepared,
    place: IntArray,
    bandit: Bandit,
    number: int,
) -> Checkpoint:
    """Return the model of an estimate, each continued from the one before."""
    first = checkpoint(settings, job, prepared)
    path = base_checkpoint(settings, job, prepared)
    for one in range(1, number + 1):
        folder = influence_folder(job, one).parent
        taken = np.zeros(len(prepared.store.keys), dtype=np.int64)
        taken[place] = bandit.copies_before(one) - bandit.copies_before(one - 1)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / COPIES, taken.astype(np.uint8))
        spec = _spec(settings, job, prepared, taken, folder / COPIES, path, one)
        measure.measure(job, "train on what was taken", {_RUN: spec}, folder / "runs", prepared)
        path = folder / "runs" / _RUN / "model.safetensors"
    return replace(first, path=str(path))


def _spec(
    settings: QuadConfig,
    job: Job,
    prepared: Prepared,
    taken: IntArray,
    copies: Path,
    base: Path,
    number: int,
) -> TrainingSpec:
    """Return the run that continues a checkpoint on documents taken."""
    share = int((taken * prepared.store.n_tokens).sum()) / given_tokens(
        prepared, settings.target_tokens
    )
    proxy = settings.proxy
    n_tokens = max(round(share * settings.validate.n_tokens), proxy.batch_tokens)
    inputs = measure.sweep_inputs(job, prepared, proxy, target_tokens=0)
    spec = training_spec(
        replace(proxy, n_tokens=n_tokens, points=(1.0,), checkpoints="final"),
        inputs,
        mixture_of(prepared, taken),
        seed=settings.seed,
        run_seed=integer_seed(stream(settings.seed, "estimates", number)),
        learning_rate=measure.learning_rate(job, prepared, proxy, inputs, seed=settings.seed),
    )
    return replace(spec, base=str(base), copies=str(copies))
