"""RegMix: regress the loss of small proxies on their mixture, simulate, take the best.

    1  r_1 ... r_n   ~  Dirichlet about the flattened natural mixture, within the supply's caps
    2  y_it          =  loss of a proxy trained on r_i, on target t
    3  f_t           =  regression of y_t on r
    4  r*            =  mean of the best of many simulated mixtures under sum_t w_t f_t(r)
    5  the verdict   :  larger models on r*, natural, uniform and the best sampled mixture

Source: RegMix (arXiv:2407.01492); docs/papers/regmix.md lists where this differs and why.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from cuvee import artifacts, config
from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.corpus.read import PoolConfig
from cuvee.corpus.scan import read_index
from cuvee.corpus.tokens import TokensConfig
from cuvee.design.dirichlet import DesignConfig, make_design
from cuvee.errors import ConfigError, InfeasibleError
from cuvee.executors import one_thread
from cuvee.methods import findings, fitting, judging, measure, shipping
from cuvee.methods.fitting import FitConfig
from cuvee.methods.job import Job, claimed
from cuvee.methods.pool import Prepared, TargetsConfig, open_prepared, prepare
from cuvee.methods.presets import REGMIX_PAPER
from cuvee.policy.mixture import Mixture
from cuvee.proxy.machine import choose_device
from cuvee.proxy.sweep import ProxyConfig, subset_tokens, training_spec
from cuvee.proxy.train import TrainingSpec
from cuvee.randomness import integer_seed, stream
from cuvee.report.content import ReportContent
from cuvee.report.page import build_page
from cuvee.report.summary import summary_text
from cuvee.search.constraints import Constraints
from cuvee.search.simulate import SearchConfig, minimise
from cuvee.select.budget import SelectConfig
from cuvee.simplex import supply_caps
from cuvee.tables.design import Design, read_design, write_design
from cuvee.tables.optimum import Optimum, read_optimum, write_optimum
from cuvee.tables.runs import Runs, read_runs
from cuvee.validate.compare import ValidateConfig

logger = logging.getLogger(__name__)

REPORT = "report.html"


@dataclass(frozen=True, kw_only=True, slots=True)
class RegMixConfig:
    """All settings of `cuvee run regmix`."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    pool: PoolConfig
    """The documents to choose from."""
    validate: ValidateConfig
    """The larger models that judge the answer."""
    preset: Literal["default", "paper"] = "default"
    """paper: the paper's own settings wherever the file is silent."""
    seed: int = 1
    """Every random choice follows from it."""
    targets: TargetsConfig | None = None
    """What the model is to be good at; None: the domains' own validation text."""
    target_tokens: int | None = None
    """Token budget of the real run; None: all available tokens once."""
    max_epochs: float = 4.0
    """Times the real run may see each domain. RegMix: 15."""
    domain_epochs: Mapping[str, float] = field(default_factory=dict)
    """Other limits for some domains, by name."""
    tokens: TokensConfig = field(default_factory=TokensConfig)
    design: DesignConfig = field(default_factory=DesignConfig)
    proxy: ProxyConfig = field(default_factory=ProxyConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    select: SelectConfig = field(default_factory=SelectConfig)

    def __post_init__(self) -> None:
        if self.target_tokens is not None and self.target_tokens < 1:
            raise ConfigError(f"target_tokens is {self.target_tokens}; it must be at least 1.")
        for name, limit in {"max_epochs": self.max_epochs, **self.domain_epochs}.items():
            if not limit > 0:
                raise ConfigError(f"epoch limit {name} is {limit}; it must be above 0.")
        judging.larger(self.proxy, self.validate)


def load_config(path: Path, overrides: tuple[str, ...] = ()) -> RegMixConfig:
    """Read a config file; ``preset: paper`` fills in the paper's settings where it is silent."""
    return config.load(
        RegMixConfig, path, overrides, presets={"default": {}, "paper": REGMIX_PAPER}
    )


def run(settings: RegMixConfig, job: Job) -> None:
    """Run the whole chain; finished stages are not made again."""
    choose_device(settings.proxy.device)
    for step in STEPS.values():
        step(settings, job)


def label(settings: RegMixConfig, job: Job) -> None:
    """Read, split and tokenise the pool and the targets."""
    with claimed(job.out, settings):
        prepared = prepare(
            job, settings.pool, settings.targets, settings.tokens, seed=settings.seed
        )
        check(settings, prepared)


def check(settings: RegMixConfig, prepared: Prepared) -> None:
    """Refuse at once, before hours of work, what a later stage would have to refuse.

    Raises:
        ConfigError: A limit, a bound or a mixture names a domain that the pool does not have.
        DataError: Repetition cannot be matched.
        InfeasibleError: Limits and bounds leave no mixture, or no selection.
    """
    statistics, budget = prepared.statistics, target_tokens(settings, prepared)
    Constraints.from_bounds(
        statistics.domains, caps=caps(settings, prepared), bounds=settings.search.bounds
    )
    judging.named_mixtures(settings.validate, statistics.domains)
    for proxy in (settings.proxy, judging.larger(settings.proxy, settings.validate)):
        subset_tokens(proxy, statistics, budget)
    room = int((epoch_limits(settings, prepared) * statistics.n_tokens).sum())
    wanted = settings.select.n_tokens or budget
    if wanted > room:
        raise InfeasibleError(
            f"the selection is to have {wanted:,} tokens, but the text given has {room:,} within "
            f"its epoch limits. Set select.n_tokens to at most {room:,}, raise max_epochs, or give "
            "more text."
        )


def design(settings: RegMixConfig, job: Job) -> None:
    """Choose the mixtures to be measured."""
    prepared = _open(settings, job)
    folder = job.folder("design")
    if artifacts.is_done(folder):
        return
    statistics = prepared.statistics
    own = {name.split("/", 1)[1]: domains for name, domains in prepared.own_domains.items()}
    chosen = make_design(
        statistics.domains,
        statistics.natural,
        caps=caps(settings, prepared),
        own_domains=own if prepared.targets else {},
        config=settings.design,
        rng=stream(settings.seed, "design"),
    )
    with artifacts.writing(
        folder,
        stage="design",
        settings=config.dump(settings.design),
        seed=settings.seed,
        inputs={"tokens": artifacts.digest_of(job.folder("tokens"))},
    ) as aside:
        write_design(aside / "design.parquet", chosen)


def train(settings: RegMixConfig, job: Job) -> None:
    """Train a proxy on each mixture of the design."""
    prepared = _open(settings, job)
    with job.stage("train"):
        specs = sweep_specs(settings, job, prepared)
        runs = measure.measure(job, "train proxies", specs, job.folder("sweep"), prepared)
        measure.write_measured(job, runs, seed=settings.seed, sweep=job.folder("sweep"))


def fit(settings: RegMixConfig, job: Job) -> None:
    """Fit one model of the loss for each target, and cross-validate it."""
    prepared = _open(settings, job)
    with job.stage("fit"):
        fitting.fit(
            job,
            settings.fit,
            runs=read_measured(job),
            prepared=prepared,
            seed=settings.seed,
        )


def search(settings: RegMixConfig, job: Job) -> None:
    """Simulate mixtures and take the mean of the best."""
    prepared = _open(settings, job)
    folder = job.folder("optimum")
    if artifacts.is_done(folder):
        return
    predictor = fitting.load(job)
    statistics = prepared.statistics
    constraints = Constraints.from_bounds(
        statistics.domains, caps=caps(settings, prepared), bounds=settings.search.bounds
    )
    with job.stage("search"), one_thread():
        optimum = minimise(
            predictor,
            prepared.objective,
            constraints=constraints,
            prior=statistics.natural,
            config=settings.search,
            rng=stream(settings.seed, "search"),
        )
    with artifacts.writing(
        folder,
        stage="search",
        settings=config.dump(settings.search),
        seed=settings.seed,
        inputs={"predictor": artifacts.digest_of(job.folder("predictor"))},
    ) as aside:
        write_optimum(aside / "optimum.json", optimum)


def select(settings: RegMixConfig, job: Job) -> None:
    """Write the chosen mixture's documents at the token budget."""
    prepared = _open(settings, job)
    with job.stage("select"):
        shipping.select(
            job,
            settings.select,
            pool=settings.pool,
            mixture=chosen_mixture(job),
            prepared=prepared,
            n_tokens=settings.select.n_tokens or target_tokens(settings, prepared),
            max_epochs=epoch_limits(settings, prepared),
            seed=settings.seed,
        )


def validate(settings: RegMixConfig, job: Job) -> None:
    """Train larger models on the chosen mixture and its baselines, and judge."""
    prepared = _open(settings, job)
    with job.stage("validate"):
        judging.judge(
            job,
            settings.validate,
            proxy=settings.proxy,
            mixtures=rivals(settings, job, prepared),
            prepared=prepared,
            target_tokens=target_tokens(settings, prepared),
            seed=settings.seed,
        )


def report(settings: RegMixConfig, job: Job) -> None:
    """Write report.html from the finished artefacts."""
    artifacts.write_text(job.out / REPORT, build_page(content(settings, job)))


STEPS: Mapping[str, Callable[[RegMixConfig, Job], None]] = {
    "label": label,
    "design": design,
    "train": train,
    "fit": fit,
    "search": search,
    "select": select,
    "validate": validate,
    "report": report,
}
"""The arrows of the chain, in order; each is also a verb of the command line."""


def content(settings: RegMixConfig, job: Job) -> ReportContent:
    """Gather the report of a finished run."""
    prepared = _open(settings, job)
    done = findings.Finished(
        method="RegMix",
        settings=settings,
        seed=settings.seed,
        prepared=prepared,
        index=read_index(job.out),
        design=read_made_design(job),
        runs=read_measured(job),
        proxy_size=settings.proxy.size,
        optimum=read_found(job),
        validate=settings.validate,
        rivals=rivals(settings, job, prepared),
        caps=caps(settings, prepared),
        budget=target_tokens(settings, prepared),
        max_epochs=settings.max_epochs,
    )
    return findings.gather(job, done)


def describe(settings: RegMixConfig, job: Job) -> str:
    """Write the outcome of a finished run for people."""
    return summary_text(
        content(settings, job),
        report=str(job.out / REPORT),
        selection=str(job.folder("selection")),
    )


def summary(settings: RegMixConfig, job: Job) -> dict[str, Json]:
    """Return the outcome of a finished run as JSON."""
    return findings.as_json(job, read_found(job))


def target_tokens(settings: RegMixConfig, prepared: Prepared) -> int:
    """Return the token budget of the real run."""
    return settings.target_tokens or int(prepared.statistics.available_tokens.sum())


def epoch_limits(settings: RegMixConfig, prepared: Prepared) -> FloatArray:
    """Return the (n_domains,) times each domain may be seen.

    Raises:
        ConfigError: A limit names a domain the pool does not have.
    """
    domains = prepared.statistics.domains
    unknown = sorted(set(settings.domain_epochs) - set(domains))
    if unknown:
        raise ConfigError(
            f"domain_epochs names {unknown[0]!r}, which is not a domain; domains are "
            f"{', '.join(domains)}."
        )
    return np.array([settings.domain_epochs.get(name, settings.max_epochs) for name in domains])


def caps(settings: RegMixConfig, prepared: Prepared) -> FloatArray:
    """Return the (n_domains,) largest shares that supply and epoch limits allow."""
    return supply_caps(
        prepared.statistics.available_tokens,
        max_epochs=epoch_limits(settings, prepared),
        n_tokens=target_tokens(settings, prepared),
    )


def sweep_specs(settings: RegMixConfig, job: Job, prepared: Prepared) -> dict[str, TrainingSpec]:
    """Describe the sweep's runs, in the design's order; they share seed and learning rate."""
    inputs = measure.sweep_inputs(
        job,
        prepared,
        settings.proxy,
        target_tokens=target_tokens(settings, prepared),
    )
    rate = measure.learning_rate(job, prepared, settings.proxy, inputs, seed=settings.seed)
    made = read_made_design(job)
    run_seed = integer_seed(stream(settings.seed, "proxy"))
    return {
        run_id: training_spec(
            settings.proxy,
            inputs,
            Mixture.flat(made.domains, weights),
            seed=settings.seed,
            run_seed=run_seed,
            learning_rate=rate,
        )
        for run_id, weights in zip(made.run_ids, made.weights, strict=True)
    }


def rivals(settings: RegMixConfig, job: Job, prepared: Prepared) -> dict[str, Mixture]:
    """Return the mixtures to be judged: chosen, natural, uniform, best sampled, config's own."""
    made, runs = read_made_design(job), read_measured(job)
    losses = measure.objective_losses(runs, prepared) @ prepared.objective
    best = int(np.nanargmin(np.where(runs.diverged, np.nan, losses)))
    named = {
        "chosen": np.array(read_found(job).weights),
        "natural": made.row("natural"),
        "uniform": made.row("uniform") if "uniform" in made.run_ids else made.row("natural"),
        "best-sampled": made.row(runs.run_ids[best]),
        **judging.named_mixtures(settings.validate, made.domains),
    }
    return {name: Mixture.flat(made.domains, weights) for name, weights in named.items()}


def chosen_mixture(job: Job) -> Mixture:
    """Return the answer of the search as a policy."""
    found = read_found(job)
    return Mixture.flat(found.domains, found.weights)


def read_made_design(job: Job) -> Design:
    """Read the finished design."""
    folder = artifacts.require(job.folder("design"), made_by="cuvee design")
    return read_design(folder / "design.parquet")


def read_measured(job: Job) -> Runs:
    """Read the finished table of runs."""
    folder = artifacts.require(job.folder("runs"), made_by="cuvee train")
    return read_runs(folder / "runs.parquet")


def read_found(job: Job) -> Optimum:
    """Read the finished search's answer."""
    folder = artifacts.require(job.folder("optimum"), made_by="cuvee search")
    return read_optimum(folder / "optimum.json")


def _open(settings: RegMixConfig, job: Job) -> Prepared:
    with claimed(job.out, settings):
        return open_prepared(job, settings.pool, settings.targets)
