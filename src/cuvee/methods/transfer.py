"""Does what the proxies say hold elsewhere: their mixtures trained at other sizes and rates.

Mixtures of the design, spread evenly over the ranks of their measured objective, are trained again
at each size of a ladder, as the validated models are, and at the proxies' size with other learning
rates. The losses are those of the targets' search half: the verdict half stays unseen.
"""

from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from cuvee import artifacts, config
from cuvee.arrays import FloatArray
from cuvee.errors import ConfigError
from cuvee.methods import chain, chain_files, judging, measure
from cuvee.methods.chain import ChainConfig
from cuvee.methods.job import Job
from cuvee.methods.mixing_laws import MixingLawsConfig
from cuvee.methods.pool import Prepared
from cuvee.methods.regmix import RegMixConfig
from cuvee.proxy.sizes import model_size
from cuvee.proxy.sweep import ProxyConfig, training_spec
from cuvee.randomness import integer_seed, stream
from cuvee.report.numbers import quantity
from cuvee.tables.design import REUSED
from cuvee.validate.agreement import (
    FOLDER,
    FOUND,
    LEAST_MIXTURES,
    Agreement,
    agreement,
    read_agreement,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TransferPlan:
    """Where else the mixtures are trained."""

    sizes: tuple[str, ...] = ()
    """Sizes of the ladder, such as ``0.4m``; tokens as the validated models."""
    rates: tuple[float, ...] = ()
    """Factors on the proxies' learning rate, such as 0.5 and 2."""
    n_mixtures: int = 12
    """Mixtures of the design that are trained again."""

    def __post_init__(self) -> None:
        if self.n_mixtures < LEAST_MIXTURES:
            raise ConfigError(
                f"{self.n_mixtures} mixtures are to be trained again; give at least "
                f"{LEAST_MIXTURES}, better 12."
            )
        for size in self.sizes:
            model_size(size)
        for factor in self.rates:
            if not factor > 0.0 or factor == 1.0:
                raise ConfigError(
                    f"learning rate factor {factor:g} is not above 0 and other than 1; give "
                    "factors such as 0.5 and 2."
                )


def require_mixtures(settings: object) -> None:
    """Refuse a method whose design is not of mixtures.

    Raises:
        ConfigError: It is another one than regmix or mixing-laws.
    """
    if not isinstance(settings, RegMixConfig | MixingLawsConfig):
        raise ConfigError(
            "--ladder and --learning-rates train the design's mixtures again, and this method "
            "designs none; use them with --method regmix or mixing-laws."
        )


def check_transfer(settings: ChainConfig, job: Job, plan: TransferPlan) -> tuple[Agreement, ...]:
    """Train the mixtures elsewhere and compare their order; finished runs are not made again.

    Args:
        settings: The config of a method that designs mixtures.
        job: Its folder, measured.
        plan: Sizes, factors and how many mixtures.

    Returns:
        One agreement a size and a factor, in the order given.

    Raises:
        ConfigError: The method designs no mixtures.
    """
    require_mixtures(settings)
    prepared = chain.open_stores(settings, job)
    here, ids = _chosen(job, prepared, plan.n_mixtures)
    found = []
    with job.stage("transfer"):
        for size in plan.sizes:
            judged = judging.larger(settings.proxy, settings.validate)
            if size != settings.validate.size:
                judged = replace(judged, size=size, learning_rate=None)
            name = f"size-{size}"
            found.append(_measured(settings, job, prepared, judged, ids, here, name=name))
        for factor in plan.rates:
            base = _proxy(settings, job)
            name = f"rate-{factor:g}"
            found.append(
                _measured(settings, job, prepared, base, ids, here, name=name, factor=factor)
            )
    return tuple(found)


def _chosen(job: Job, prepared: Prepared, n: int) -> tuple[FloatArray, tuple[str, ...]]:
    """Choose measured mixtures evenly over the ranks of their objective: it, and their ids."""
    made, runs = chain_files.read_made_design(job), chain_files.read_measured(job)
    objective = measure.objective_losses(runs, prepared) @ prepared.objective
    kinds = dict(zip(made.run_ids, made.kinds, strict=True))
    usable = [
        row
        for row in np.argsort(objective, kind="stable").tolist()
        if np.isfinite(objective[row]) and kinds[runs.run_ids[row]] != REUSED
    ]
    places = np.unique(np.linspace(0, len(usable) - 1, min(n, len(usable))).round().astype(int))
    rows = [usable[place] for place in places.tolist()]
    return objective[rows], tuple(runs.run_ids[row] for row in rows)


def _proxy(settings: ChainConfig, job: Job) -> ProxyConfig:
    """Return how the runs in the table were trained: mixing-laws measures several sizes."""
    sizes = cast(tuple[str, ...], getattr(settings, "sizes", ()))
    return replace(settings.proxy, size=sizes[-1]) if sizes else settings.proxy


def _measured(
    settings: ChainConfig,
    job: Job,
    prepared: Prepared,
    proxy: ProxyConfig,
    ids: tuple[str, ...],
    here: FloatArray,
    *,
    name: str,
    factor: float = 1.0,
) -> Agreement:
    """Train the mixtures in one other way and compare; a finished comparison is read."""
    folder = job.folder(FOLDER, f"{name}-of-{len(ids)}")
    if artifacts.is_done(folder):
        return read_agreement(folder)
    made = chain_files.read_made_design(job)
    inputs = measure.sweep_inputs(
        job, prepared, proxy, target_tokens=chain.target_tokens(settings, prepared)
    )
    rate = factor * measure.learning_rate(job, prepared, proxy, inputs, seed=settings.seed)
    specs = {
        run_id: training_spec(
            proxy,
            inputs,
            chain.mixture_of(settings, prepared, made.row(run_id)),
            seed=settings.seed,
            run_seed=integer_seed(stream(settings.seed, "proxy")),
            learning_rate=rate,
        )
        for run_id in ids
    }
    sweep = job.folder("transfer", name)
    runs = measure.measure(job, f"transfer {name}", specs, sweep, prepared)
    there = measure.objective_losses(runs, prepared) @ prepared.objective
    words = f"At size {proxy.size} and {quantity(proxy.n_tokens)} tokens"
    if factor != 1.0:
        words = f"At {factor:g} times the proxies' learning rate"
    found = agreement(here, there, name=words, confidence=settings.validate.confidence)
    with artifacts.writing(
        folder,
        stage="validate",
        settings={"name": name, "proxy": config.dump(proxy), "factor": factor},
        seed=settings.seed,
        inputs={run_id: artifacts.digest_of(sweep / run_id) for run_id in ids},
    ) as aside:
        artifacts.write_json(aside / FOUND, found.to_json())
    return found
