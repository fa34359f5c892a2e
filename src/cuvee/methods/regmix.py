"""RegMix: regress the loss of small proxies on their mixture, simulate, take the best.

    1  r_1 ... r_n   ~  Dirichlet about the flattened natural mixture, within the supply's caps
    2  y_it          =  loss of a proxy trained on r_i, on target t
    3  f_t           =  regression of y_t on r
    4  r*            =  mean of the best of many simulated mixtures under sum_t w_t f_t(r)
    5  the verdict   :  larger models on r*, natural, uniform and the best sampled mixture

Source: RegMix (arXiv:2407.01492); docs/papers/regmix.md lists where this differs and why.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from cuvee import artifacts, config
from cuvee.artifacts import Json
from cuvee.design.dirichlet import DesignConfig, make_design
from cuvee.design.optimal import OptimalConfig, i_optimal_design
from cuvee.design.phases import PhasesConfig, make_phases
from cuvee.design.sequential import SequentialConfig
from cuvee.errors import ConfigError
from cuvee.fit.target_groups import check_groups
from cuvee.methods import chain, chain_files, fitting, measure, planning, reusing, rounds, searching
from cuvee.methods.chain import ChainConfig, open_stores
from cuvee.methods.earlier_run import EarlierRun, take_tokenizer
from cuvee.methods.fitting import FitConfig
from cuvee.methods.job import Job
from cuvee.methods.planning import PlannedRuns
from cuvee.methods.pool import Prepared
from cuvee.methods.presets import REGMIX_PAPER
from cuvee.proxy.machine import choose_device
from cuvee.proxy.spec import TrainingSpec
from cuvee.proxy.sweep import training_spec
from cuvee.randomness import integer_seed, stream
from cuvee.report.content import ReportContent
from cuvee.tables.design import REUSED, Design


@dataclass(frozen=True, kw_only=True, slots=True)
class RegMixConfig(ChainConfig):
    """All settings of `cuvee run regmix`."""

    preset: Literal["default", "paper"] = "default"
    """paper: the paper's own settings wherever the file is silent."""
    runs: Literal["design", "auto"] | None = None
    """design: all mixtures are chosen beforehand. auto: `start_runs` are, to tell most about all
    others; then batches are added where the predictor expects most, until it expects little, or
    there are `design.n_runs`. None: auto where there may be more than `start_runs`, in one phase
    and without `reuse`. RegMix: design."""
    start_runs: int = 16
    """Runs measured before the first choice, with `runs: auto`."""
    sequential: SequentialConfig = field(default_factory=SequentialConfig)
    """How batches are chosen and when there are enough, with `runs: auto`."""
    reuse: str | None = None
    """Folder of a finished run whose runs are used again; only what changed since is measured."""
    target_groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Groups of targets by name, each target in one. From the fit on the objective is then the
    groups' standardised scores, each group weighed by how well held-out runs are ranked on it;
    before, and where there are no groups, `targets.weights` hold."""
    design: DesignConfig = field(default_factory=DesignConfig)
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        ChainConfig.__post_init__(self)
        if self.target_groups:
            self._check_groups()
        if self.runs == "auto" and len(self.phases) > 1:
            raise ConfigError(
                "runs: auto chooses mixtures of one phase; set runs: design, or leave phases out."
            )
        if self.reuse is not None and (self.runs == "auto" or len(self.phases) > 1):
            raise ConfigError(
                "reuse lays out its own runs, of one phase; set runs: design and leave phases out, "
                "or leave reuse out."
            )
        if self.runs == "auto" and not 6 <= self.start_runs <= self.design.n_runs:
            raise ConfigError(
                f"start_runs is {self.start_runs}; it must lie in 6 to design.n_runs "
                f"({self.design.n_runs}), the most runs in all."
            )

    def _check_groups(self) -> None:
        if self.targets is None:
            raise ConfigError("target_groups are given but no targets; give targets.")
        if self.targets.weights:
            raise ConfigError(
                "both target_groups and targets.weights are given, but groups find the weights "
                "themselves; leave one out."
            )
        check_groups(self.target_groups, tuple(self.targets.pools))

    @property
    def in_rounds(self) -> bool:
        """Whether mixtures are chosen as runs come in."""
        if self.runs is not None:
            return self.runs == "auto"
        simple = len(self.phases) == 1 and self.reuse is None
        return simple and 6 <= self.start_runs < self.design.n_runs


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
    """Read, split and tokenise the pool and the targets, with an earlier run's tokenizer if any."""
    if settings.reuse is None or artifacts.is_done(job.folder("tokenizer")):
        chain.label(settings, job)
    else:
        tokens = take_tokenizer(settings.tokens, Path(settings.reuse))
        chain.label(settings, job, tokens=tokens)


def design(settings: RegMixConfig, job: Job) -> None:
    """Choose the mixtures to be measured."""
    prepared = open_stores(settings, job)
    if artifacts.is_done(job.folder("design")):
        return
    if settings.reuse is not None:
        _design_reuse(settings, job, prepared, Path(settings.reuse))
        return
    statistics = prepared.statistics
    own = {name.split("/", 1)[1]: domains for name, domains in prepared.own_domains.items()}
    limits, rng = chain.caps(settings, prepared), stream(settings.seed, "design")
    if settings.in_rounds:
        start = {**asdict(settings.design), "n_runs": settings.start_runs}
        made = i_optimal_design(
            statistics.domains,
            statistics.natural,
            caps=limits,
            own_domains=own if prepared.targets else {},
            config=OptimalConfig(**start),
            rng=rng,
        )
    elif len(settings.phases) == 1:
        made = make_design(
            statistics.domains,
            statistics.natural,
            caps=limits,
            own_domains=own if prepared.targets else {},
            config=settings.design,
            rng=rng,
        )
    else:
        made = make_phases(
            statistics.domains,
            statistics.natural,
            caps=limits,
            own_domains=own if prepared.targets else {},
            config=PhasesConfig(**asdict(settings.design), late_share=settings.phases[1]),
            rng=rng,
        )
    chain_files.write_made_design(job, made, settings=settings.design, seed=settings.seed)


def train(settings: RegMixConfig, job: Job) -> None:
    """Train a proxy on each mixture of the design, unless another trainer has (`ingest`)."""
    prepared = open_stores(settings, job)
    if artifacts.is_done(job.folder("runs")):
        return
    with job.stage("train"):
        if settings.reuse is not None:
            _train_reuse(settings, job, prepared)
            return
        if settings.in_rounds:
            _, runs = rounds.measure_in_rounds(
                job,
                lambda made: sweep_specs(settings, job, prepared, made),
                prepared=prepared,
                constraints=chain.constraints(settings, prepared),
                model=settings.fit.model,
                settings=settings.sequential,
                most_runs=settings.design.n_runs,
                seed=settings.seed,
            )
        else:
            specs = planned(settings, job)
            runs = measure.measure(job, "train proxies", specs, job.folder("sweep"), prepared)
        measure.write_measured(job, runs, seed=settings.seed, sweep=job.folder("sweep"))


def planned(settings: RegMixConfig, job: Job) -> dict[str, TrainingSpec]:
    """Describe the sweep's runs; with `runs: auto` those chosen so far, with `reuse` the new ones.

    The learning rate is calibrated.
    """
    prepared, made = open_stores(settings, job), chain_files.read_made_design(job)
    if settings.reuse is None:
        return sweep_specs(settings, job, prepared, made)
    proxy = replace(settings.proxy, learning_rate=reusing.read_reused(job).learning_rate)
    missing = reusing.to_train(made, prepared)
    if missing is None:
        return {}
    return sweep_specs(replace(settings, proxy=proxy), job, prepared, missing)


def fit(settings: RegMixConfig, job: Job) -> None:
    """Fit one model of the loss for each target, and cross-validate it."""
    prepared = open_stores(settings, job)
    with job.stage("fit"):
        fitting.fit(
            job,
            settings.fit,
            runs=chain_files.read_measured(job),
            prepared=prepared,
            seed=settings.seed,
            groups=settings.target_groups,
        )


def search(settings: RegMixConfig, job: Job) -> None:
    """Find the mixture of least predicted loss; unchanged domains keep their ratios on reuse."""
    inner = None if settings.reuse is None else reusing.frozen_ratios(job)
    searching.search(settings, job, inner=inner)


def report(settings: RegMixConfig, job: Job) -> None:
    """Write report.html from the finished artefacts."""
    chain.report(job, content(settings, job))


STEPS: Mapping[str, Callable[[RegMixConfig, Job], None]] = {
    "label": label,
    "design": design,
    "train": train,
    "fit": fit,
    "search": search,
    "select": chain.select,
    "validate": chain.validate,
    "report": report,
}
"""The arrows of the chain, in order; each is also a verb of the command line."""


def dry_run(settings: RegMixConfig, job: Job) -> dict[str, Json]:
    """Plan and cost the most runs; what `reuse` or rounds spare is known only later."""
    proxy, n_runs = settings.proxy, settings.design.n_runs
    if settings.reuse is not None and artifacts.is_done(job.folder("design")):
        n_runs = sum(kind != REUSED for kind in chain_files.read_made_design(job).kinds)
    sweep = PlannedRuns(
        name=f"sweep {proxy.size}",
        n_runs=n_runs,
        proxy=proxy,
        start_runs=settings.start_runs if settings.in_rounds else math.inf,
        batch_size=settings.sequential.batch_size,
    )
    return planning.dry_run(settings, job, [sweep, planning.validation(settings)])


def content(settings: RegMixConfig, job: Job) -> ReportContent:
    """Gather the report of a finished run."""
    size = measure.ingested_size(job)
    found = chain.gather(settings, job, method="RegMix", command="regmix", size=size)
    reused = () if settings.reuse is None else (reusing.describe(job),)
    grouped = fitting.describe_groups(job) if settings.target_groups else ()
    others = ("The proxies were trained by another trainer.",) if size else ()
    return replace(found, notes=(*found.notes, *others, *_rounds(job), *reused, *grouped))


def _rounds(job: Job) -> tuple[str, ...]:
    """Say how many runs were measured, and what more would have been expected to bring."""
    found = rounds.regrets(job)
    if not found:
        return ()
    last = found[-1]
    return (
        f"{last['n_runs']} runs in {len(found)} rounds; another run would be expected to gain "
        f"{last['expected']:.4f} bits per byte, where a run's noise is about {last['noise']:.4f}.",
    )


def summary(settings: RegMixConfig, job: Job) -> dict[str, Json]:
    """Return the outcome of a finished run as JSON."""
    found = chain.summary(settings, job)
    return found if settings.reuse is None else {**found, "reuse": reusing.as_json(job)}


def describe(settings: RegMixConfig, job: Job) -> str:
    """Write the outcome of a finished run for people."""
    return chain.describe(content(settings, job), job)


def sweep_specs(
    settings: RegMixConfig, job: Job, prepared: Prepared, made: Design
) -> dict[str, TrainingSpec]:
    """Describe the sweep's runs, in the design's order; they share seed and learning rate."""
    inputs = measure.sweep_inputs(
        job,
        prepared,
        settings.proxy,
        target_tokens=chain.target_tokens(settings, prepared),
    )
    rate = measure.learning_rate(job, prepared, settings.proxy, inputs, seed=settings.seed)
    run_seed = integer_seed(stream(settings.seed, "proxy"))
    return {
        run_id: training_spec(
            settings.proxy,
            inputs,
            chain.mixture_of(settings, prepared, weights),
            seed=settings.seed,
            run_seed=run_seed,
            learning_rate=rate,
        )
        for run_id, weights in zip(made.run_ids, made.weights, strict=True)
    }


def _design_reuse(settings: RegMixConfig, job: Job, prepared: Prepared, origin: Path) -> None:
    """Take over the earlier run's runs and lay out those needed besides, at its learning rate."""
    earlier, statistics = EarlierRun.read(origin), prepared.statistics
    if settings.proxy.learning_rate is None:
        proxy = replace(settings.proxy, learning_rate=earlier.learning_rate())
        settings = replace(settings, proxy=proxy)
    natural = Design(
        run_ids=("natural",),
        kinds=("natural",),
        domains=statistics.domains,
        weights=statistics.natural[None, :],
    )
    reusing.design(
        job,
        settings,
        earlier=earlier,
        prepared=prepared,
        made_with=settings.design,
        spec=sweep_specs(settings, job, prepared, natural)["natural"],
    )


def _train_reuse(settings: RegMixConfig, job: Job, prepared: Prepared) -> None:
    """Train what the earlier run did not measure, at its learning rate."""
    specs, sweep, measured = planned(settings, job), job.folder("sweep"), None
    if specs:
        measured = measure.measure(job, "train proxies", specs, sweep, prepared)
    measure.write_measured(
        job,
        reusing.join(reusing.read_reused(job).runs, measured),
        seed=settings.seed,
        sweep=sweep,
        ids=tuple(specs),
        inputs={"design": artifacts.digest_of(job.folder("design"))},
    )
