"""Quad: influence of few documents, a bandit over clusters, the good clusters' documents.

    1  C_1 ... C_K   clusters of the pool's documents
    2  theta         a model: a checkpoint, or trained here
    3  v             (H + damping)^-1 grad L_targets, attention included
    4  I(z)          <grad loss(z), v> of a few documents of a cluster, probed at random
    5  CS_i          mean influence + alpha sqrt(2 ln sum_j T_j / T_i): which clusters are pulled;
                     refreshed, 2 to 4 anew at theta trained on what was taken so far
    6  the selection documents of clusters whose mean reaches the threshold, up to the budget
    7  the verdict   theta's training continued on them, at random, and on simpler rules' choices

Source: Quad (arXiv:2409.16986); docs/papers/quad.md lists where this differs and why.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from cuvee import artifacts, config
from cuvee.corpus.scan import read_index
from cuvee.executors import one_thread
from cuvee.labels.cluster_pass import ClusterPass, run_cluster_pass
from cuvee.labels.clusters import ClusterModel
from cuvee.methods import judging, shipping
from cuvee.methods.influence_check import chosen_curvature
from cuvee.methods.job import Job, claimed
from cuvee.methods.pool import given_tokens, prepare
from cuvee.methods.presets import QUAD_PAPER
from cuvee.methods.quad_engine import find_direction
from cuvee.methods.quad_refresh import refreshing_probe
from cuvee.methods.quad_study import (
    COPIES,
    INFLUENCE,
    QuadConfig,
    base_checkpoint,
    checkpoint,
    clustered_pool,
    learn_clusters,
    mixture_of,
    open_stores,
    proxy_embedder,
    read_copies,
    read_rounds,
    rival_files,
    write_round,
)
from cuvee.policy.mixture import Mixture
from cuvee.proxy.machine import choose_device
from cuvee.proxy.sizes import model_size
from cuvee.proxy.spec import TrainingSpec
from cuvee.search.bandit import Bandit

CHOSEN, NATURAL = "chosen", "natural"


def load_config(path: Path, overrides: tuple[str, ...] = ()) -> QuadConfig:
    """Read a config file; ``preset: paper`` fills in the released settings where it is silent."""
    presets = {"default": {"proxy": {"repetition_matched": False}}, "paper": QUAD_PAPER}
    return config.load(QuadConfig, path, overrides, presets=presets)


def label(settings: QuadConfig, job: Job) -> None:
    """Read, split and tokenise pool and targets, and give every document its cluster."""
    choose_device(settings.proxy.device)
    with claimed(job.out, settings):
        prepared = prepare(
            job, settings.pool, settings.targets, settings.tokens, seed=settings.seed
        )
        judging.named_mixtures(settings.validate, prepared.store.domains)
        index = read_index(job.out)
        folder = job.folder("clusters")
        embedder = proxy_embedder(settings, job, prepared)
        with job.stage("clusters"), one_thread():
            if not artifacts.is_done(folder):
                job.progress("clusters", 0, 1, "")
                learn_clusters(settings, job, folder, embedder=embedder)
                job.progress("clusters", 1, 1, "")
            embedding = settings.clusters.embedding
            run_cluster_pass(
                ClusterPass(
                    model=folder, embedding=embedding, shards=index.shards, pool=settings.pool
                ),
                job.out,
                workers=job.workers,
                embedder=embedder,
                on_progress=lambda done, total: job.progress("label cluster", done, total, ""),
            )


def train(settings: QuadConfig, job: Job) -> None:
    """Train the model that influence is computed at, where no checkpoint is given."""
    prepared = open_stores(settings, job)
    with job.stage("train"):
        base_checkpoint(settings, job, prepared)


def fit(settings: QuadConfig, job: Job) -> None:
    """Compute the direction that documents' gradients are multiplied with."""
    prepared = open_stores(settings, job)
    folder = job.folder(INFLUENCE)
    if artifacts.is_done(folder):
        return
    base = base_checkpoint(settings, job, prepared)
    influence, choice = chosen_curvature(settings, job, prepared)
    job.progress("influence", 0, 1, "")
    with (
        job.stage("fit"),
        artifacts.writing(
            folder,
            stage="fit",
            settings=config.dump(influence),
            seed=settings.seed,
            inputs={
                "base": artifacts.digest_file(base),
                "tokens": artifacts.digest_of(job.folder("tokens")),
                "targets": artifacts.digest_of(job.folder("targets", "tokens")),
            },
        ) as aside,
    ):
        model = checkpoint(settings, job, prepared).open(prepared.store)
        find_direction(model, influence, prepared, aside, seed=settings.seed, choice=choice)
    job.progress("influence", 1, 1, "")


def search(settings: QuadConfig, job: Job) -> None:
    """Play the bandit, a round an artefact, and write the documents it took."""
    prepared = open_stores(settings, job)
    folder = job.folder("optimum")
    if artifacts.is_done(folder):
        return
    pool, place = clustered_pool(job, prepared)
    budget = given_tokens(prepared, settings.target_tokens)
    bandit = Bandit(
        pool,
        settings.bandit,
        n_tokens=budget,
        seed=settings.seed,
        centres=ClusterModel.load(job.folder("clusters")).centres,
        flops_per_token=model_size(settings.proxy.size).flops_per_token(
            prepared.store.vocabulary_size, settings.proxy.context
        ),
    )
    with job.stage("search"):
        bandit.replay(read_rounds(job))
        probe = refreshing_probe(settings, job, prepared, place, bandit)
        for played in bandit.rounds(probe):
            write_round(settings, job, played)
            note = f"{played.total_probes} documents scored"
            job.progress("search", min(played.total_tokens, budget), budget, note)
    copies = np.zeros(len(prepared.store.keys), dtype=np.uint8)
    copies[place] = bandit.copies
    rounds = sorted(job.folder("rounds").iterdir())
    with artifacts.writing(
        folder,
        stage="search",
        settings=config.dump(settings.bandit),
        seed=settings.seed,
        inputs={path.name: artifacts.digest_of(path) for path in rounds},
    ) as aside:
        np.save(aside / COPIES, copies)


def select(settings: QuadConfig, job: Job) -> None:
    """Write the documents the bandit took."""
    prepared = open_stores(settings, job)
    with job.stage("select"):
        shipping.select_copies(
            job,
            settings.select,
            pool=settings.pool,
            prepared=prepared,
            copies=read_copies(job),
            inputs={
                name: artifacts.digest_of(job.folder(name)) for name in ("optimum", "clusters")
            },
            seed=settings.seed,
        )


def validate(settings: QuadConfig, job: Job) -> None:
    """Continue the model's training on the selection and on its rivals, and judge."""
    prepared = open_stores(settings, job)
    base = base_checkpoint(settings, job, prepared)
    natural = Mixture.flat(prepared.store.domains, prepared.statistics.natural)
    files = {CHOSEN: job.folder("optimum") / COPIES, **rival_files(settings, job, prepared)}
    mixtures = {name: mixture_of(prepared, np.load(path)) for name, path in files.items()}
    named = judging.named_mixtures(settings.validate, prepared.store.domains)
    others = {name: Mixture.flat(prepared.store.domains, row) for name, row in named.items()}

    def amend(name: str, spec: TrainingSpec) -> TrainingSpec:
        copies = str(files[name]) if name in files else None
        return replace(spec, base=str(base), copies=copies)

    with job.stage("validate"):
        judging.judge(
            job,
            settings.validate,
            proxy=settings.proxy,
            mixtures={CHOSEN: mixtures.pop(CHOSEN), NATURAL: natural, **mixtures, **others},
            prepared=prepared,
            target_tokens=0,
            seed=settings.seed,
            amend=amend,
        )


STEPS: Mapping[str, Callable[[QuadConfig, Job], None]] = {
    "label": label,
    "train": train,
    "fit": fit,
    "search": search,
    "select": select,
    "validate": validate,
}
"""The arrows of the chain, in order; the report is `quad_report`'s."""
