"""Data Mixing Laws: small cheap runs at several sizes predict the large one, mixture by mixture.

    1  r_1 ... r_n      a doubling ladder from each domain's largest feasible share
    2  L(r_i, N_k, D)   losses along proxies of every size N_k on every mixture
    3  L(r_i, N_k, D*)  step law   E + B D^-beta, one fit a mixture, a size and a target
    4  L(r_i, N*, D*)   size law   E + A N^-alpha, one fit a mixture and a target
    5  f_t(r)           mixing law c + exp(t . r) on the losses predicted for N* and D*
    6  r*               the mixture of least sum_t w_t f_t(r), solved exactly
    7  the verdict      models of size N* on r*, natural, uniform and the best sampled mixture

Source: Data Mixing Laws (arXiv:2403.16952); docs/papers/mixing_laws.md lists where this differs.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal

from cuvee import artifacts, config
from cuvee.artifacts import Json
from cuvee.design.ladder import LadderConfig, make_ladder
from cuvee.errors import ConfigError
from cuvee.fit.nesting import extrapolate
from cuvee.fit.scaling import MINIMUM_POINTS
from cuvee.methods import (
    chain,
    chain_files,
    fitting,
    judging,
    law_pictures,
    measure,
    planning,
    searching,
    studies,
)
from cuvee.methods.chain import ChainConfig, open_stores
from cuvee.methods.fitting import FitConfig
from cuvee.methods.job import Job
from cuvee.methods.planning import PlannedRuns
from cuvee.methods.pool import Prepared
from cuvee.methods.presets import MIXING_LAWS_DEFAULT, MIXING_LAWS_PAPER
from cuvee.proxy.machine import choose_device
from cuvee.proxy.sizes import model_size
from cuvee.proxy.spec import TrainingSpec
from cuvee.proxy.sweep import ProxyConfig, training_spec
from cuvee.randomness import integer_seed, stream
from cuvee.report.content import ReportContent


@dataclass(frozen=True, kw_only=True, slots=True)
class LawsConfig:
    """How losses are carried over to the size and the tokens that are aimed at."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    scaling: Literal["auto", "nested", "joint"] = "auto"
    """nested: a step law, then a size law (the paper). joint: one law in both. auto: the one that
    misses the largest size less when fitted without it."""
    target_parameters: int | None = None
    """Parameters without embedding of the model to be predicted; None: the validated size."""
    horizon_tokens: int | None = None
    """Tokens at which it is predicted; None: those of the validated models."""
    n_checks: int = 0
    """Mixtures of the design also trained at the validated size, to check the extrapolation."""

    def __post_init__(self) -> None:
        if self.n_checks < 0:
            raise ConfigError(f"n_checks is {self.n_checks}; it must be at least 0.")
        for name, value in (
            ("target_parameters", self.target_parameters),
            ("horizon_tokens", self.horizon_tokens),
        ):
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1.")


@dataclass(frozen=True, kw_only=True, slots=True)
class MixingLawsConfig(ChainConfig):
    """All settings of `cuvee run mixing-laws`."""

    preset: Literal["default", "paper"] = "default"
    """paper: the paper's own settings wherever the file is silent."""
    sizes: tuple[str, ...] = ("0.03m", "0.05m", "0.1m")
    """Sizes of the proxies, rising; each mixture is trained at each."""
    design: LadderConfig = field(default_factory=LadderConfig)
    laws: LawsConfig = field(default_factory=LawsConfig)
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        ChainConfig.__post_init__(self)
        if len(self.phases) > 1:
            raise ConfigError(
                "phases are not carried over sizes; use `cuvee run regmix` for a mixture of phases."
            )
        if self.proxy.schedule != "constant":
            raise ConfigError(
                f"proxy.schedule is {self.proxy.schedule!r}; points along a decaying learning rate "
                "do not stand for shorter runs, so no step law can be fitted. Set it to constant."
            )
        counts = [model_size(name).n_parameters for name in self.sizes]
        if not counts or any(a >= b for a, b in pairwise(counts)):
            raise ConfigError(
                f"sizes are {', '.join(self.sizes) or 'none'}; name at least one size, rising. The "
                "size law needs three."
            )
        self._check_points()

    def _check_points(self) -> None:
        """Refuse before the sweep what the step law would refuse after it."""
        ends_there = horizon(self) == self.proxy.n_tokens // self.proxy.context * self.proxy.context
        used = [one for one in self.proxy.points if one * self.proxy.n_tokens >= first_tokens(self)]
        if self.laws.scaling != "joint" and not ends_there and len(used) < MINIMUM_POINTS:
            raise ConfigError(
                f"proxy.points has {len(used)} points after twice the warm-up; to carry them from "
                f"{self.proxy.n_tokens:,} to {horizon(self):,} tokens a step law needs at least "
                f"{MINIMUM_POINTS}. Add points, such as [0.3, 0.45, 0.6, 0.75, 0.9, 1.0]."
            )


def load_config(path: Path, overrides: tuple[str, ...] = ()) -> MixingLawsConfig:
    """Read a config file; ``preset: paper`` fills in the paper's settings where it is silent."""
    presets = {"default": MIXING_LAWS_DEFAULT, "paper": MIXING_LAWS_PAPER}
    return config.load(MixingLawsConfig, path, overrides, presets=presets)


def run(settings: MixingLawsConfig, job: Job) -> None:
    """Run the whole chain; finished stages are not made again."""
    choose_device(settings.proxy.device)
    for step in STEPS.values():
        step(settings, job)


def design(settings: MixingLawsConfig, job: Job) -> None:
    """Choose the mixtures to be measured at every size."""
    prepared = open_stores(settings, job)
    if artifacts.is_done(job.folder("design")):
        return
    made = make_ladder(
        prepared.statistics.domains,
        prepared.statistics.natural,
        caps=chain.caps(settings, prepared),
        config=settings.design,
        rng=stream(settings.seed, "design"),
    )
    chain_files.write_made_design(job, made, settings=settings.design, seed=settings.seed)


def train(settings: MixingLawsConfig, job: Job) -> None:
    """Train a proxy of every size on each mixture of the design."""
    prepared = open_stores(settings, job)
    with job.stage("train"):
        specs = planned(settings, job)
        runs = measure.measure(job, "train proxies", specs, job.folder("sweep"), prepared)
        largest = studies.of_size(runs, settings.sizes, settings.sizes[-1])
        measure.write_measured(
            job, largest, seed=settings.seed, sweep=job.folder("sweep"), ids=tuple(specs)
        )


def planned(settings: MixingLawsConfig, job: Job) -> dict[str, TrainingSpec]:
    """Describe the runs of all sizes, the largest first; the learning rate is calibrated."""
    prepared = open_stores(settings, job)
    return {
        f"{run_id}-{size}": spec
        for size in reversed(settings.sizes)
        for run_id, spec in size_specs(settings, job, prepared, size).items()
    }


def fit(settings: MixingLawsConfig, job: Job) -> None:
    """Carry every mixture's losses to the target size and tokens, and fit the law of mixtures."""
    prepared = open_stores(settings, job)
    runs = chain_files.read_measured(job)
    with job.stage("fit"):
        if not artifacts.is_done(job.folder("scaling")):
            study = studies.gather(job, runs, settings.sizes, prepared.objective_names)
            found = extrapolate(
                study,
                size=target_parameters(settings),
                n_tokens=horizon(settings),
                method=settings.laws.scaling,
                first_tokens=first_tokens(settings),
            )
            studies.write(job, study, found, settings=settings.laws, seed=settings.seed)
        study, found = studies.read(job)
        carried = studies.carried(runs, study, found)
        fitting.fit(job, settings.fit, runs=carried, prepared=prepared, seed=settings.seed)


def validate(settings: MixingLawsConfig, job: Job) -> None:
    """Check the extrapolation on mixtures of the design, then judge the answer."""
    prepared = open_stores(settings, job)
    if settings.laws.n_checks and not artifacts.is_done(job.folder("checks")):
        with job.stage("checks"):
            study, found = studies.read(job)
            chosen = studies.choose(found, prepared.objective, settings.laws.n_checks)
            specs = check_specs(settings, job, prepared, [study.mixture_ids[i] for i in chosen])
            measured = measure.measure(job, "check", specs, job.folder("check"), prepared)
            studies.write_checks(
                job, found, chosen, measure.objective_losses(measured, prepared), prepared
            )
    chain.validate(settings, job)


def report(settings: MixingLawsConfig, job: Job) -> None:
    """Write report.html from the finished artefacts."""
    chain.report(job, content(settings, job))


def content(settings: MixingLawsConfig, job: Job) -> ReportContent:
    """Gather the report of a finished run."""
    found = chain.gather(
        settings, job, method="Data Mixing Laws", command="mixing-laws", size=settings.sizes[-1]
    )
    drawn = law_pictures.scaling(
        job, sizes=settings.sizes, objective=open_stores(settings, job).objective
    )
    return replace(found, notes=(*found.notes, *studies.describe(job)), scaling=drawn)


def describe(settings: MixingLawsConfig, job: Job) -> str:
    """Write the outcome of a finished run for people."""
    return chain.describe(content(settings, job), job)


def dry_run(settings: MixingLawsConfig, job: Job) -> dict[str, Json]:
    """Plan and cost."""
    judged = judging.larger(settings.proxy, settings.validate)
    parts = [
        PlannedRuns(
            name=f"sweep {size}",
            n_runs=settings.design.n_runs,
            proxy=replace(settings.proxy, size=size),
        )
        for size in settings.sizes
    ]
    if settings.laws.n_checks:
        n_checks = settings.laws.n_checks
        parts.append(
            PlannedRuns(name=f"check {judged.size}", n_runs=n_checks, proxy=judged, search=False)
        )
    return planning.dry_run(settings, job, [*parts, planning.validation(settings)])


def target_parameters(settings: MixingLawsConfig) -> int:
    """Return the parameters of the model to be predicted."""
    return settings.laws.target_parameters or model_size(settings.validate.size).n_parameters


def horizon(settings: MixingLawsConfig) -> int:
    """Return the tokens at which it is predicted: whole sequences, as a run counts them."""
    context = settings.proxy.context
    return settings.laws.horizon_tokens or settings.validate.n_tokens // context * context


def first_tokens(settings: MixingLawsConfig) -> int:
    """Return the tokens after which losses enter a step law: twice those of the warm-up."""
    return math.ceil(2.0 * settings.proxy.warmup_share * settings.proxy.n_tokens)


def check_specs(
    settings: MixingLawsConfig, job: Job, prepared: Prepared, mixture_ids: Sequence[str]
) -> dict[str, TrainingSpec]:
    """Describe runs of the validated size on mixtures of the design."""
    judged = judging.larger(settings.proxy, settings.validate)
    every = size_specs(settings, job, prepared, judged.size, proxy=judged)
    return {name: every[name] for name in mixture_ids}


def size_specs(
    settings: MixingLawsConfig,
    job: Job,
    prepared: Prepared,
    size: str,
    *,
    proxy: ProxyConfig | None = None,
) -> dict[str, TrainingSpec]:
    """Describe one size's runs, in the design's order; all sizes share seeds and data order.

    Args:
        settings: The config.
        job: Where.
        prepared: The pool.
        size: Name of the size.
        proxy: How they are trained; None: as the config's proxies.
    """
    proxy = proxy or replace(settings.proxy, size=size)
    inputs = measure.sweep_inputs(
        job, prepared, proxy, target_tokens=chain.target_tokens(settings, prepared)
    )
    made = chain_files.read_made_design(job)
    rate = learning_rate(settings, job, prepared, size)
    run_seed = integer_seed(stream(settings.seed, "proxy"))
    return {
        run_id: training_spec(
            proxy,
            inputs,
            chain.mixture_of(settings, prepared, weights),
            seed=settings.seed,
            run_seed=run_seed,
            learning_rate=rate,
        )
        for run_id, weights in zip(made.run_ids, made.weights, strict=True)
    }


def learning_rate(settings: MixingLawsConfig, job: Job, prepared: Prepared, size: str) -> float:
    """Return the learning rate of a size: that of the largest proxy, times the ratio of widths.

    One rule for all sizes keeps the losses on one curve; a rate chosen for each would add its own
    noise to the size law.
    """
    largest = settings.sizes[-1]
    proxy = replace(settings.proxy, size=largest)
    inputs = measure.sweep_inputs(
        job, prepared, proxy, target_tokens=chain.target_tokens(settings, prepared)
    )
    rate = measure.learning_rate(job, prepared, proxy, inputs, seed=settings.seed)
    return rate * model_size(largest).width / model_size(size).width


STEPS: Mapping[str, Callable[[MixingLawsConfig, Job], None]] = {
    "label": chain.label,
    "design": design,
    "train": train,
    "fit": fit,
    "search": searching.search,
    "select": chain.select,
    "validate": validate,
    "report": report,
}
"""The arrows of the chain, in order; each is also a verb of the command line."""
