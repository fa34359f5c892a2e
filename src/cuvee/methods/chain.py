"""What all methods that search mixture weights share: limits, constraints and the later arrows.

A method brings its own design, measurement and fit; it ends in an optimum, and from there on every
chain is the same: write the selection, train larger models on it and its rivals, judge, report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, cast

import numpy as np

from cuvee import artifacts
from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.corpus.near_duplicates import unique_shares
from cuvee.corpus.read import PoolConfig
from cuvee.corpus.scan import read_index
from cuvee.corpus.tokens import TokensConfig
from cuvee.errors import ConfigError, InfeasibleError
from cuvee.methods import findings, judging, measure, shipping
from cuvee.methods.chain_files import (
    ONE_PHASE,
    PRICES,
    SENSITIVITY,
    read_found,
    read_made_design,
    read_measured,
)
from cuvee.methods.domains import PoolDomainsConfig, describe_domains
from cuvee.methods.job import Job, claimed
from cuvee.methods.pool import Prepared, TargetsConfig, open_prepared, prepare
from cuvee.policy.mixture import Mixture
from cuvee.proxy.machine import choose_device
from cuvee.proxy.sweep import ProxyConfig, subset_tokens
from cuvee.report.content import ReportContent
from cuvee.report.page import build_page
from cuvee.report.summary import summary_text
from cuvee.search.constraints import Constraints
from cuvee.search.settings import SearchConfig
from cuvee.select.budget import SelectConfig
from cuvee.simplex import TOLERANCE, cap, normalise, supply_caps
from cuvee.tables.design import REUSED, Design
from cuvee.tables.optimum import read_optimum
from cuvee.tables.runs import Runs
from cuvee.tables.sensitivity import read_sensitivity
from cuvee.validate.agreement import describe_agreements, read_agreements
from cuvee.validate.compare import ValidateConfig

REPORT = "report.html"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainConfig:
    """Settings that every method has."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    pool: PoolConfig
    """The documents to choose from."""
    validate: ValidateConfig
    """The larger models that judge the answer."""
    seed: int = 1
    """Every random choice follows from it."""
    domains: PoolDomainsConfig | None = None
    """What the pool's domains are, where reading them is not enough; None: as they are read."""
    targets: TargetsConfig | None = None
    """What the model is to be good at; None: the domains' own validation text."""
    target_tokens: int | None = None
    """Token budget of the real run; None: all available tokens once."""
    max_epochs: float = 4.0
    """Times the real run may see each domain. RegMix: 15."""
    domain_epochs: Mapping[str, float] = field(default_factory=dict)
    """Other limits for some domains, by name."""
    duplicates: str | None = None
    """Folder that `cuvee duplicates` made of this pool; epoch limits then count unique tokens: a
    document of a group of k counts 1/k of its own."""
    phases: tuple[float, ...] = (1.0,)
    """Shares of the run's tokens of its phases; each phase gets mixture weights of its own."""
    tokens: TokensConfig = field(default_factory=TokensConfig)
    proxy: ProxyConfig = field(default_factory=ProxyConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    select: SelectConfig = field(default_factory=SelectConfig)

    def __post_init__(self) -> None:
        if self.target_tokens is not None and self.target_tokens < 1:
            raise ConfigError(f"target_tokens is {self.target_tokens}; it must be at least 1.")
        for name, limit in {"max_epochs": self.max_epochs, **self.domain_epochs}.items():
            if not limit > 0:
                raise ConfigError(f"epoch limit {name} is {limit}; it must be above 0.")
        total = sum(self.phases)
        if any(not share > 0 for share in self.phases) or abs(total - 1.0) > TOLERANCE:
            raise ConfigError(
                f"phases are {list(self.phases)}, together {total:g}; give each phase's share of "
                "the run's tokens, all above 0, summing to 1, such as [0.75, 0.25]."
            )
        if len(self.phases) > 2:
            raise ConfigError(
                f"phases are {list(self.phases)}; runs of one or two phases can be laid out."
            )
        judging.larger(self.proxy, self.validate)


def label(settings: ChainConfig, job: Job, *, tokens: TokensConfig | None = None) -> None:
    """Read, split and tokenise the pool and the targets; ``tokens`` replaces the config's."""
    choose_device(settings.proxy.device)
    with claimed(job.out, settings):
        prepared = prepare(
            job,
            settings.pool,
            settings.targets,
            tokens or settings.tokens,
            seed=settings.seed,
            domains=settings.domains,
        )
        check(settings, prepared)


def check(settings: ChainConfig, prepared: Prepared) -> None:
    """Refuse at once, before hours of work, what a later stage would have to refuse.

    Raises:
        ConfigError: A limit, a bound or a mixture names a domain that the pool does not have.
        DataError: Repetition cannot be matched.
        InfeasibleError: Limits and bounds leave no mixture, or no selection.
    """
    statistics, budget = prepared.statistics, target_tokens(settings, prepared)
    constraints(settings, prepared)
    floors(settings, prepared)
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


def target_tokens(settings: ChainConfig, prepared: Prepared) -> int:
    """Return the token budget of the real run."""
    return settings.target_tokens or int(prepared.statistics.available_tokens.sum())


def epoch_limits(settings: ChainConfig, prepared: Prepared) -> FloatArray:
    """Return the (n_domains,) times each domain may be seen.

    Raises:
        ConfigError: A limit names a domain the pool does not have, or duplicates are of another.
    """
    domains = prepared.statistics.domains
    unknown = sorted(set(settings.domain_epochs) - set(domains))
    if unknown:
        raise ConfigError(
            f"domain_epochs names {unknown[0]!r}, which is not a domain; domains are "
            f"{', '.join(domains)}."
        )
    limits = np.array([settings.domain_epochs.get(name, settings.max_epochs) for name in domains])
    return limits * _unique_shares(settings, domains)


def _unique_shares(settings: ChainConfig, domains: Sequence[str]) -> FloatArray:
    """Return the (n_domains,) shares of text that is unique: seen e times, it is seen e / share."""
    if settings.duplicates is None:
        return np.ones(len(domains))
    shares = unique_shares(Path(settings.duplicates))
    missing = sorted(set(domains) - set(shares))
    if missing:
        raise ConfigError(
            f"duplicates: {settings.duplicates} was made of a pool without the domain "
            f"{missing[0]!r}. Run `cuvee duplicates` on this pool, or leave duplicates out."
        )
    return np.array([shares[name] for name in domains])


def caps(settings: ChainConfig, prepared: Prepared) -> FloatArray:
    """Return the (n_domains,) largest shares that supply and epoch limits allow."""
    return supply_caps(
        prepared.statistics.available_tokens,
        max_epochs=epoch_limits(settings, prepared),
        n_tokens=target_tokens(settings, prepared),
    )


def constraints(
    settings: ChainConfig, prepared: Prepared, *, inner: Mapping[str, float] | None = None
) -> Constraints:
    """Return what the answer must keep: supply and the config's limits.

    Args:
        settings: The config.
        prepared: The pool.
        inner: Ratios that some domains keep, by name, such as those of an earlier optimum.

    Raises:
        ConfigError: A limit names an unknown domain, or one domain is frozen twice.
        InfeasibleError: No mixture keeps the limits.
    """
    frozen, reference = settings.search.frozen, prepared.statistics.natural
    domains = prepared.statistics.domains
    if inner is not None:
        frozen = (*frozen, tuple(inner))
        pairs = zip(domains, reference, strict=True)
        reference = np.array([inner.get(name, share) for name, share in pairs])
    return Constraints.from_bounds(
        domains,
        caps=caps(settings, prepared),
        bounds=settings.search.bounds,
        groups=settings.search.groups,
        frozen=frozen,
        reference=reference,
        phases=settings.phases,
    )


def floors(settings: ChainConfig, prepared: Prepared) -> dict[str, float]:
    """Return the config's floors by the names of the fitted losses.

    Raises:
        ConfigError: A floor names no target.
    """
    found = {}
    for name, most in settings.search.floors.items():
        known = [one for one in (name, f"target/{name}") if one in prepared.objective_names]
        if not known:
            raise ConfigError(
                f"search.floors names {name!r}, which is not a target; targets are "
                f"{', '.join(prepared.objective_names)}."
            )
        found[known[0]] = float(most)
    return found


def open_stores(settings: ChainConfig, job: Job) -> Prepared:
    """Open what `label` has made."""
    with claimed(job.out, settings):
        return open_prepared(job, settings.pool, settings.targets)


def select(settings: ChainConfig, job: Job) -> None:
    """Write the chosen mixture's documents at the token budget."""
    prepared = open_stores(settings, job)
    with job.stage("select"):
        shipping.select(
            job,
            settings.select,
            pool=settings.pool,
            mixture=mixture_of(settings, prepared, np.array(read_found(job).weights)),
            prepared=prepared,
            n_tokens=settings.select.n_tokens or target_tokens(settings, prepared),
            max_epochs=epoch_limits(settings, prepared),
            seed=settings.seed,
        )


def validate(settings: ChainConfig, job: Job) -> None:
    """Train larger models on the chosen mixture and its baselines, and judge."""
    prepared = open_stores(settings, job)
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


def rivals(settings: ChainConfig, job: Job, prepared: Prepared) -> dict[str, Mixture]:
    """Return the mixtures to be judged: chosen, natural, uniform, best sampled, config's own.

    With phases the best mixture without them is judged too, at the same tokens.
    """
    made, limits = read_made_design(job), caps(settings, prepared)
    if "natural" in made.run_ids:
        natural = made.row("natural")[: _n_columns(settings, prepared)]
    else:
        natural = cap(prepared.statistics.natural, upper=limits)
    if "uniform" in made.run_ids:
        uniform = made.row("uniform")
    elif REUSED in made.kinds:
        uniform = cap(np.full(len(limits), 1.0 / len(limits)), upper=limits)
    else:
        uniform = natural
    named = {
        "chosen": np.array(read_found(job).weights),
        "natural": natural,
        "uniform": uniform,
        "best-sampled": _best_sampled(settings, made, read_measured(job), prepared),
    }
    mixtures = {name: mixture_of(settings, prepared, row) for name, row in named.items()}
    if len(settings.phases) > 1:
        alone = read_optimum(job.folder("optimum") / ONE_PHASE)
        mixtures["one-phase"] = Mixture.flat(alone.domains, alone.weights, shares=settings.phases)
    domains = prepared.statistics.domains
    for name, weights in judging.named_mixtures(settings.validate, domains).items():
        mixtures[name] = Mixture.flat(domains, weights, shares=settings.phases)
    return mixtures


def _n_columns(settings: ChainConfig, prepared: Prepared) -> int:
    """Count the columns of a mixture; a reused run has more, of domains that are gone."""
    return len(settings.phases) * len(prepared.statistics.domains)


def _best_sampled(
    settings: ChainConfig, made: Design, runs: Runs, prepared: Prepared
) -> FloatArray:
    """Return the best measured mixture of the pool's domains.

    Where every run had a share of a domain that is gone, the best one without that share.
    """
    n_columns = _n_columns(settings, prepared)
    losses = measure.objective_losses(runs, prepared) @ prepared.objective
    has_gone = runs.weights[:, n_columns:].any(axis=1)
    kept = ~runs.diverged & runs.weights[:, :n_columns].any(axis=1)
    if (kept & ~has_gone).any():
        kept &= ~has_gone
    best = runs.run_ids[int(np.nanargmin(np.where(kept, losses, np.nan)))]
    row = made.row(best)[:n_columns]
    if made.kinds[made.run_ids.index(best)] != REUSED:
        return row
    return cap(normalise(row), upper=caps(settings, prepared))


def mixture_of(settings: ChainConfig, prepared: Prepared, row: FloatArray) -> Mixture:
    """Return a row of the design, or the search's answer, as a policy."""
    return Mixture.of_columns(prepared.statistics.domains, row, shares=settings.phases)


def report(job: Job, content: ReportContent) -> None:
    """Write report.html from the finished artefacts."""
    told = replace(content, notes=(*content.notes, *describe_domains(job)))
    artifacts.write_text(job.out / REPORT, build_page(told))


def gather(
    settings: ChainConfig, job: Job, *, method: str, command: str, size: str | None = None
) -> ReportContent:
    """Gather what the report of every method holds.

    Args:
        settings: The config.
        job: The finished run.
        method: What to call it.
        command: Its name on the command line.
        size: Size the fitted losses stand for; None for the proxies'.
    """
    prepared = open_stores(settings, job)
    done = findings.Finished(
        method=method,
        command=command,
        settings=settings,
        seed=settings.seed,
        prepared=prepared,
        index=read_index(job.out),
        design=read_made_design(job),
        runs=read_measured(job),
        proxy_size=size or settings.proxy.size,
        optimum=read_found(job),
        validate=settings.validate,
        rivals=rivals(settings, job, prepared),
        caps=caps(settings, prepared),
        budget=target_tokens(settings, prepared),
        max_epochs=settings.max_epochs,
    )
    found = findings.gather(job, done)
    folder = job.folder("optimum")
    prices: list[str] = []
    if (folder / PRICES).exists():
        prices = cast(list[str], artifacts.read_json(folder / PRICES))
    return replace(
        found,
        sensitivity=read_sensitivity(folder / SENSITIVITY),
        notes=(
            *found.notes,
            *(f"{one.capitalize()}." for one in prices),
            *describe_agreements(read_agreements(job.out)),
        ),
    )


def describe(content: ReportContent, job: Job) -> str:
    """Write the outcome of a finished run for people."""
    return summary_text(
        content, report=str(job.out / REPORT), selection=str(job.folder("selection"))
    )


def summary(_: ChainConfig, job: Job) -> dict[str, Json]:
    """Return the outcome of a finished run as JSON."""
    return findings.as_json(job, read_found(job))
