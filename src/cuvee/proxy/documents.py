"""Which documents a run is trained on, and which it is measured on."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from cuvee import artifacts
from cuvee.arrays import IntArray
from cuvee.corpus.requests import read_requests
from cuvee.corpus.store import TokenStore
from cuvee.errors import ConfigError, DataError
from cuvee.policy.mixture import Mixture
from cuvee.policy.quality_curve import curves_from_json, pool_copies
from cuvee.policy.sampling import draw_copies, subset
from cuvee.proxy.batches import EvaluationSet, TrainingPlan, WindowStream, evaluation_set
from cuvee.proxy.spec import TrainingSpec
from cuvee.proxy.task_sets import task_set
from cuvee.randomness import hash64, stream
from cuvee.simplex import normalise


def open_evaluation_sets(run: TrainingSpec, pool: TokenStore) -> list[EvaluationSet]:
    """Choose the validation windows of every target and every domain.

    Returns:
        ``target/<name>`` from the run's half of the targets, then ``domain/<name>``.

    Raises:
        DataError: A target or a domain has no validation text.
    """
    sets = []
    if run.targets:
        store = TokenStore.open(Path(run.targets))
        side = 1 if run.half == "verdict" else 0
        sets += [
            _target(name, store, _on_side(store, index, side), run)
            for index, name in enumerate(store.domains)
        ]
    for index, name in enumerate(pool.domains):
        documents = _on_side(pool, index, 1)
        if not run.targets:
            documents = _half(pool, documents, run)
        sets.append(_set("domain", name, pool, documents, run))
    return sets


def _on_side(store: TokenStore, domain: int, side: int) -> IntArray:
    return np.flatnonzero((store.domain == domain) & (store.side == side))


def _half(pool: TokenStore, documents: IntArray, run: TrainingSpec) -> IntArray:
    """Take every second validation document in hash order: the objective's search or verdict half.

    Without targets the domains' validation text is the objective, and the verdict needs text the
    search has not seen.
    """
    keys = pool.keys[documents]
    order = np.lexsort((keys, hash64(run.evaluation_seed, "half", keys)))
    return np.sort(documents[order[1::2] if run.half == "verdict" else order[::2]])


def _target(name: str, store: TokenStore, documents: IntArray, run: TrainingSpec) -> EvaluationSet:
    """Open a target: a task's answers, or texts.

    Accuracy takes several times the tokens of the loss, and no search looks at it; so it is
    measured on the verdict half alone.
    """
    requests = read_requests(store, documents)
    if requests is None:
        return _set("target", name, store, documents, run)
    task = task_set(
        f"target/{name}",
        requests,
        context=run.context,
        n_tokens=run.evaluation_tokens,
        seed=run.evaluation_seed,
        with_answers=run.half == "verdict",
    )
    if requests.loss == "answer":
        return task
    return replace(_set("target", name, store, documents, run), answers=task.answers)


def _set(
    kind: str, name: str, store: TokenStore, documents: IntArray, run: TrainingSpec
) -> EvaluationSet:
    if len(documents) == 0:
        raise DataError(
            f"{kind} {name!r} has no validation documents for the {run.half} half. Give it more "
            "documents or raise pool.validation_share."
        )
    return evaluation_set(
        f"{kind}/{name}",
        store,
        documents,
        context=run.context,
        n_tokens=run.evaluation_tokens if kind == "target" else run.domain_evaluation_tokens,
        seed=run.evaluation_seed,
    )


def training_documents(run: TrainingSpec, store: TokenStore) -> dict[str, IntArray]:
    """Return the documents a run may draw from, by domain: the training side or a part of it."""
    chosen = {}
    for index, name in enumerate(store.domains):
        documents = _on_side(store, index, 0)
        if run.subset_tokens is not None:
            kept = subset(
                store.keys[documents],
                store.n_tokens[documents],
                quota=run.subset_tokens[name],
                seed=run.evaluation_seed,
            )
            documents = documents[kept]
        chosen[name] = documents
    return chosen


def sample_documents(
    run: TrainingSpec, store: TokenStore, documents: dict[str, IntArray]
) -> tuple[dict[str, IntArray], dict[str, IntArray], Mixture]:
    """Sample documents by the run's quality curve.

    Ranks are those among the documents the run may draw from. Where the sample holds more tokens
    than the run, the run ends within it, having seen an even part; where it holds fewer, the run
    begins the sample again.

    Args:
        run: With a curve and the file of criteria.
        store: The pool.
        documents: By domain: what the run may draw from.

    Returns:
        By domain: documents with at least one copy, and their copies; and the mixture of the
        sample's tokens.

    Raises:
        ConfigError: The curve's domains are not the pool's.
        DataError: The curve takes no document.
    """
    own, domain, drawn = _drawn(run, store, documents)
    taken, copies, tokens = {}, {}, []
    for index, name in enumerate(store.domains):
        kept = (domain == index) & (drawn > 0)
        taken[name], copies[name] = own[kept], drawn[kept]
        tokens.append(float((drawn[kept] * store.n_tokens[own[kept]]).sum()))
    if not any(tokens):
        raise DataError(
            "the quality curve takes no document of any domain that the run may draw from; raise "
            "prior.smallest_threshold, or give the proxies more text (proxy.n_tokens)."
        )
    return taken, copies, Mixture.flat(store.domains, normalise(np.array(tokens)))


def sampled_tokens(run: TrainingSpec, store: TokenStore, documents: dict[str, IntArray]) -> int:
    """Count the tokens of `sample_documents`, copies each time; 0 where it would refuse.

    Args:
        run: With a curve and the file of criteria.
        store: The pool.
        documents: By domain: what the run may draw from.
    """
    own, _, drawn = _drawn(run, store, documents)
    return int((drawn * store.n_tokens[own]).sum())


def _drawn(
    run: TrainingSpec, store: TokenStore, documents: dict[str, IntArray]
) -> tuple[IntArray, IntArray, IntArray]:
    """Return the documents a run may draw from, their domains, and copies drawn of each."""
    curves = curves_from_json(run.curve or {})
    if any(curve.domains != store.domains for curve in curves) or run.quality is None:
        raise ConfigError(
            f"the quality curve's domains {', '.join(curves[0].domains)} are not the pool's "
            f"{', '.join(store.domains)}, or there is no file of criteria."
        )
    criteria = np.load(run.quality, mmap_mode="r", allow_pickle=False)
    own = np.concatenate([documents[name] for name in store.domains])
    domain = store.domain[own].astype(np.int64)
    expected = pool_copies(
        curves, normalised=criteria[own], n_tokens=store.n_tokens[own], domain=domain
    )
    drawn = draw_copies(expected, store.keys[own], seed=run.evaluation_seed)
    return own, domain, drawn


def copied_documents(
    run: TrainingSpec, store: TokenStore, documents: dict[str, IntArray]
) -> tuple[dict[str, IntArray], dict[str, IntArray], Mixture]:
    """Take documents as often as the run's file says.

    Args:
        run: With the file of copies.
        store: The pool.
        documents: By domain: what the run may draw from.

    Returns:
        By domain: documents with at least one copy, and their copies; and the mixture of their
        tokens.

    Raises:
        DataError: The file is of another pool, or takes no document.
    """
    copies = np.load(str(run.copies), mmap_mode="r", allow_pickle=False)
    if copies.shape != store.keys.shape:
        raise DataError(
            f"the file of copies has shape {copies.shape}, but the pool has {len(store.keys)} "
            "documents; it was made of another pool."
        )
    taken = {name: own[copies[own] > 0] for name, own in documents.items()}
    drawn = {name: copies[own].astype(np.int64) for name, own in taken.items()}
    tokens = [float((drawn[name] * store.n_tokens[taken[name]]).sum()) for name in store.domains]
    if not any(tokens):
        raise DataError("the file of copies takes no document that may be trained on.")
    return taken, drawn, Mixture.flat(store.domains, normalise(np.array(tokens)))


def training_plan(
    run: TrainingSpec, pool: TokenStore, *, shared: dict[str, WindowStream] | None = None
) -> TrainingPlan:
    """Lay out all sequences of a run.

    Args:
        run: What is trained.
        pool: The pool's store.
        shared: Streams of runs that stand in memory together, by all that decides one; those of
            this run are added. A quality curve's are its own.

    Raises:
        ConfigError: The mixture is not of this pool's domains.
        DataError: A domain with weight has no documents to draw from.
    """
    mixture, copies = run.mixture, None
    if mixture.domains != pool.domains:
        raise ConfigError(
            f"the mixture's domains {', '.join(mixture.domains)} are not the pool's "
            f"{', '.join(pool.domains)}; bind the mixture to this pool's domains."
        )
    documents = training_documents(run, pool)
    if run.copies is not None:
        documents, copies, mixture = copied_documents(run, pool, documents)
    elif run.curve is not None:
        documents, copies, mixture = sample_documents(run, pool, documents)
    streams: list[WindowStream | None] = []
    for name, weight in zip(mixture.domains, mixture.overall, strict=True):
        if weight > 0 and len(documents[name]) == 0:
            raise DataError(f"domain {name!r} has weight {weight:.4f} but no training documents.")
        if weight == 0:
            streams.append(None)
            continue
        key = artifacts.canonical_json([name, run.seed, run.evaluation_seed, run.subset_tokens])
        known = None if shared is None or copies is not None else shared.get(key)
        stream_of_domain = known or WindowStream(
            pool,
            documents[name],
            context=run.context,
            seed=run.seed,
            copies=None if copies is None else copies[name],
        )
        if shared is not None and copies is None:
            shared[key] = stream_of_domain
        streams.append(stream_of_domain)
    return TrainingPlan(
        streams,
        mixture,
        n_sequences=run.n_sequences,
        context=run.context,
        rng=stream(run.seed, "proxy-order"),
    )
