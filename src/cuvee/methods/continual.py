"""Continual pre-training: how much of a new domain can a trained model take without losing the old.

    1  theta_0       a base model: a checkpoint, or trained here on the original domains
    2  x_1 ... x_n   shares of the new domains, a doubling ladder from all of it down to none
    3  L(x, D)       loss on the original domains' validation text after D further tokens
    4  L(x) = c + exp(t x + b), one fit a horizon D
    5  x*(D)         where L(x) is the base model's own loss L_0: x* = (ln(L_0 - c) - b) / t

Source: Data Mixing Laws (arXiv:2403.16952), continual pre-training and the critical proportion.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal, cast

import numpy as np

from cuvee import artifacts, config
from cuvee.arrays import FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.corpus.read import PoolConfig
from cuvee.corpus.scan import read_index
from cuvee.corpus.tokens import TokensConfig
from cuvee.errors import ConfigError, DataError
from cuvee.fit.critical_share import CriticalShare, critical_share, fit_share_law
from cuvee.methods import chain, findings, measure, planning
from cuvee.methods.job import Job, claimed
from cuvee.methods.planning import Part
from cuvee.methods.pool import Prepared, open_prepared, prepare
from cuvee.methods.presets import CONTINUAL_DEFAULT
from cuvee.policy.mixture import Mixture
from cuvee.proxy.machine import choose_device
from cuvee.proxy.spec import TrainingSpec
from cuvee.proxy.sweep import ProxyConfig, SweepInputs, read_result, training_spec
from cuvee.randomness import integer_seed, stream
from cuvee.report.content import MixtureSection, ReportContent
from cuvee.simplex import normalise
from cuvee.tables.design import Design
from cuvee.tables.runs import read_trajectory

_CRITICAL = "critical.json"
_CHECKS = "checks.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseConfig:
    """The model that training is continued from."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    checkpoint: str | None = None
    """A safetensors file of a run of the same size and tokenizer; None trains one here."""
    n_tokens: int = 1_000_000
    """Tokens the base is trained on, where it is trained here."""
    mixture: Mapping[str, float] = field(default_factory=dict)
    """Shares of the original domains, in the base and in what is left of them later; empty takes
    their natural shares."""

    def __post_init__(self) -> None:
        if self.n_tokens < 1:
            raise ConfigError(f"base.n_tokens is {self.n_tokens}; it must be at least 1.")
        for name, share in self.mixture.items():
            if not share >= 0:
                raise ConfigError(f"base.mixture gives {name!r} {share}; it must be at least 0.")
        if self.mixture and not sum(self.mixture.values()) > 0:
            raise ConfigError("base.mixture is all 0; give at least one domain a share.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ContinualConfig:
    """All settings of `cuvee run continual`."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    pool: PoolConfig
    """The documents of the original and of the new domains."""
    new_domains: tuple[str, ...]
    """Domains the base model has not seen; all others are original."""
    new_mixture: Mapping[str, float] = field(default_factory=dict)
    """Shares among the new domains; empty takes their natural shares."""
    base: BaseConfig = field(default_factory=BaseConfig)
    preset: Literal["default"] = "default"
    seed: int = 1
    """Every random choice follows from it."""
    shares: tuple[float, ...] = (0.0, 0.03125, 0.0625, 0.125, 0.25, 0.5, 0.75, 1.0)
    """Shares of the new domains to be measured: the paper's doubling ladder."""
    targets: None = None
    """There are none: the domains' own validation text is measured."""
    tokens: TokensConfig = field(default_factory=TokensConfig)
    proxy: ProxyConfig = field(default_factory=ProxyConfig)
    """Size of the model, and how training is continued; its points are the horizons."""
    n_seeds: int = 1
    """Runs of each share, differing in data order."""
    n_checks: int = 1
    """Runs at each end of the longest horizon's interval, with seeds of their own; 0 for none."""

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.shares, self.shares[1:], strict=False))
        if len(self.shares) < 4 or not rising or self.shares[0] < 0 or self.shares[-1] > 1:
            raise ConfigError(
                f"shares are {list(self.shares)}; give at least 4 rising shares within [0, 1], so "
                "that a law of three parameters can be checked."
            )
        if not self.new_domains:
            raise ConfigError("new_domains is empty; name the domains the base has not seen.")
        if self.n_seeds < 1 or self.n_checks < 0:
            raise ConfigError(
                f"n_seeds is {self.n_seeds} and n_checks {self.n_checks}; they must be at least 1 "
                "and 0."
            )
        if self.proxy.repetition_matched:
            raise ConfigError(
                "proxy.repetition_matched is true, but continued training stands for itself, not "
                "for a longer run; set it to false."
            )


def load_config(path: Path, overrides: tuple[str, ...] = ()) -> ContinualConfig:
    """Read a config file."""
    return config.load(ContinualConfig, path, overrides, presets={"default": CONTINUAL_DEFAULT})


def run(settings: ContinualConfig, job: Job) -> None:
    """Run the whole chain; finished stages are not made again."""
    for step in STEPS.values():
        step(settings, job)


def label(settings: ContinualConfig, job: Job) -> None:
    """Read, split and tokenise the pool."""
    choose_device(settings.proxy.device)
    with claimed(job.out, settings):
        prepared = prepare(job, settings.pool, None, settings.tokens, seed=settings.seed)
        original_mixture(settings, prepared)
        new_mixture(settings, prepared)


def design(settings: ContinualConfig, job: Job) -> None:
    """Lay out the ladder of shares."""
    prepared = open_stores(settings, job)
    if artifacts.is_done(job.folder("design")):
        return
    rows = np.stack([blend(settings, prepared, share) for share in settings.shares])
    made = Design(
        run_ids=tuple(share_name(share) for share in settings.shares),
        kinds=("ladder",) * len(rows),
        domains=prepared.statistics.domains,
        weights=rows,
    )
    chain.write_made_design(
        job, made, settings={"shares": list(settings.shares)}, seed=settings.seed
    )


def train(settings: ContinualConfig, job: Job) -> None:
    """Train the base model, where none is given, and continue it on every share."""
    prepared = open_stores(settings, job)
    with job.stage("train"):
        base = base_checkpoint(settings, job, prepared)
        specs = {
            f"{share_name(share)}-seed{number}": continued(
                settings, job, prepared, base, share=share, name=f"seed{number}"
            )
            for number in range(settings.n_seeds)
            for share in settings.shares
        }
        runs = measure.measure(job, "continue", specs, job.folder("sweep"), prepared)
        measure.write_measured(job, runs, seed=settings.seed, sweep=job.folder("sweep"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """What the continued runs lost and gained, one row a run."""

    shares: FloatArray
    """(n_runs,) realised shares of the new domains."""
    n_tokens: IntArray
    """(n_horizons,) tokens trained on beyond the base."""
    old: FloatArray
    """(n_runs, n_horizons) bits per byte on the original domains, weighted as in the base."""
    new: FloatArray
    """(n_runs, n_horizons) bits per byte on the new domains, weighted as their mixture."""
    base_old: float
    """The base model's own bits per byte on the original domains."""
    base_new: float


def read_curves(
    settings: ContinualConfig,
    job: Job,
    prepared: Prepared,
    *,
    folder: str = "sweep",
    only: str | None = None,
) -> Curves:
    """Read the trajectories of all continued runs that did not diverge, or of one."""
    domains = prepared.statistics.domains
    old, new = original_mixture(settings, prepared), new_mixture(settings, prepared)
    shares, losses = [], []
    found = sorted(path for path in job.folder(folder).iterdir() if artifacts.is_done(path))
    for place in found if only is None else [job.folder(folder, only)]:
        result = read_result(place)
        if result["diverged"]:
            continue
        curve = read_trajectory(place / "trajectory.parquet")
        columns = [curve.targets.index(f"domain/{name}") for name in domains]
        losses.append(curve.losses_bpb[:, columns])
        weights = cast(dict[str, float], result["weights"])
        shares.append(sum(weights[name] for name in settings.new_domains))
    if not losses:
        raise DataError(
            "every continued run diverged; lower proxy.learning_rate or the calibration's rates."
        )
    stacked = np.stack(losses)
    return Curves(
        shares=np.array(shares),
        n_tokens=curve.n_tokens[1:],
        old=stacked[:, 1:] @ old,
        new=stacked[:, 1:] @ new,
        base_old=float(stacked[0, 0] @ old),
        base_new=float(stacked[0, 0] @ new),
    )


def base_checkpoint(settings: ContinualConfig, job: Job, prepared: Prepared) -> Path:
    """Return the base model's weights; a base that is trained here is trained once."""
    if settings.base.checkpoint is not None:
        return Path(settings.base.checkpoint)
    proxy = replace(
        settings.proxy, n_tokens=settings.base.n_tokens, points=(1.0,), checkpoints="final"
    )
    mixture = Mixture.flat(prepared.statistics.domains, original_mixture(settings, prepared))
    spec = training_spec(
        proxy,
        _inputs(settings, job, prepared),
        mixture,
        seed=settings.seed,
        run_seed=integer_seed(stream(settings.seed, "base")),
        learning_rate=_rate(settings, job, prepared),
    )
    measure.measure(job, "train the base", {"base": spec}, job.folder("base"), prepared)
    return job.folder("base", "base", "model.safetensors")


def continued(
    settings: ContinualConfig,
    job: Job,
    prepared: Prepared,
    base: Path,
    *,
    share: float,
    name: str,
) -> TrainingSpec:
    """Describe one continued run; runs of one name share their data order."""
    spec = training_spec(
        settings.proxy,
        _inputs(settings, job, prepared),
        Mixture.flat(prepared.statistics.domains, blend(settings, prepared, share)),
        seed=settings.seed,
        run_seed=integer_seed(stream(settings.seed, "continue", name)),
        learning_rate=_rate(settings, job, prepared),
    )
    return replace(spec, base=str(base), points=(0.0, *settings.proxy.points))


def blend(settings: ContinualConfig, prepared: Prepared, share: float) -> FloatArray:
    """Return the (n_domains,) mixture with so much of the new domains."""
    new, old = new_mixture(settings, prepared), original_mixture(settings, prepared)
    weights: FloatArray = share * new + (1.0 - share) * old
    return weights


def original_mixture(settings: ContinualConfig, prepared: Prepared) -> FloatArray:
    """Return the (n_domains,) mixture of the original domains alone."""
    names = [name for name in prepared.statistics.domains if name not in settings.new_domains]
    return _among(prepared, names, settings.base.mixture, "base.mixture")


def new_mixture(settings: ContinualConfig, prepared: Prepared) -> FloatArray:
    """Return the (n_domains,) mixture of the new domains alone."""
    return _among(prepared, settings.new_domains, settings.new_mixture, "new_mixture")


def _among(
    prepared: Prepared, names: Sequence[str], given: Mapping[str, float], key: str
) -> FloatArray:
    domains, natural = prepared.statistics.domains, prepared.statistics.natural
    unknown = sorted({*names, *given} - set(domains))
    if unknown:
        raise ConfigError(
            f"{unknown[0]!r} is not a domain of the pool; domains are {', '.join(domains)}."
        )
    wrong = sorted(set(given) - set(names))
    if wrong or not names:
        raise ConfigError(
            f"{key} names {wrong[0]!r}, which is not among its domains {', '.join(names)}."
            if wrong
            else "new_domains names every domain of the pool; leave the base's own domains out."
        )
    shares = given or dict(zip(domains, natural, strict=True))
    return normalise(np.array([shares.get(one, 0.0) * (one in names) for one in domains]))


def _inputs(settings: ContinualConfig, job: Job, prepared: Prepared) -> SweepInputs:
    return measure.sweep_inputs(job, prepared, settings.proxy, target_tokens=0)


def _rate(settings: ContinualConfig, job: Job, prepared: Prepared) -> float:
    inputs = _inputs(settings, job, prepared)
    return measure.learning_rate(job, prepared, settings.proxy, inputs, seed=settings.seed)


def share_name(share: float) -> str:
    """Name the runs of one share of the new domains."""
    return f"new-{share:.5f}"


def open_stores(settings: ContinualConfig, job: Job) -> Prepared:
    """Open what `label` has made."""
    with claimed(job.out, settings):
        return open_prepared(job, settings.pool, None)


def fit(settings: ContinualConfig, job: Job) -> None:
    """Fit the law of the new domains' share at every horizon, and where it meets the base."""
    prepared = open_stores(settings, job)
    folder = job.folder("critical")
    if artifacts.is_done(folder):
        return
    artifacts.require(job.folder("runs"), made_by="cuvee train")
    curves = read_curves(settings, job, prepared)
    with job.stage("fit"):
        found = [
            critical_share(
                curves.shares, curves.old[:, place], base_loss=curves.base_old, n_tokens=int(n)
            )
            for place, n in enumerate(curves.n_tokens)
        ]
    with artifacts.writing(
        folder,
        stage="fit",
        settings={},
        seed=settings.seed,
        inputs={"runs": artifacts.digest_of(job.folder("runs"))},
    ) as aside:
        rows = [_plain(one, curves, place) for place, one in enumerate(found)]
        artifacts.write_json(aside / _CRITICAL, cast(Json, rows))


def validate(settings: ContinualConfig, job: Job) -> None:
    """Train at both ends of the longest horizon's interval: on either side of the base model?"""
    prepared = open_stores(settings, job)
    if artifacts.is_done(job.folder("verdict")) or settings.n_checks == 0:
        return
    last = read_critical(job)[-1]
    ends = {end: float(cast(float, last[end])) for end in ("low", "high")}
    with job.stage("validate"):
        base = base_checkpoint(settings, job, prepared)
        specs = {
            f"{end}-check{number}": continued(
                settings, job, prepared, base, share=share, name=f"check{number}"
            )
            for number in range(settings.n_checks)
            for end, share in ends.items()
        }
        measure.measure(job, "check", specs, job.folder("validation"), prepared)
        rows = [
            {
                "end": end,
                "share": share,
                "old": float(curve.old[0, -1]),
                "new": float(curve.new[0, -1]),
                "minus_base": float(curve.old[0, -1] - curve.base_old),
            }
            for name in specs
            for end, share in ends.items()
            if name.startswith(end)
            for curve in [read_curves(settings, job, prepared, folder="validation", only=name)]
        ]
    with artifacts.writing(
        job.folder("verdict"),
        stage="validate",
        settings={"n_checks": settings.n_checks},
        seed=settings.seed,
        inputs={name: artifacts.digest_of(job.folder("validation", name)) for name in specs},
    ) as aside:
        artifacts.write_json(aside / _CHECKS, cast(Json, rows))


def report(settings: ContinualConfig, job: Job) -> None:
    """Write report.html from the finished artefacts."""
    chain.report(job, content(settings, job))


STEPS: Mapping[str, Callable[[ContinualConfig, Job], None]] = {
    "label": label,
    "design": design,
    "train": train,
    "fit": fit,
    "validate": validate,
    "report": report,
}
"""The arrows of the chain, in order; each is also a verb of the command line."""


def best_share(settings: ContinualConfig, job: Job) -> float:
    """Return the share that gains most on the new domains without losing the old ones.

    The new domains' loss falls with their share, so it is the largest share at which a new run is
    still better than the base with the interval's confidence: the lower end at the last horizon.
    """
    artifacts.require(job.folder("critical"), made_by="cuvee fit")
    return float(cast(float, read_critical(job)[-1]["low"]))


def content(settings: ContinualConfig, job: Job) -> ReportContent:
    """Gather the report of a finished run."""
    prepared = open_stores(settings, job)
    statistics = prepared.statistics
    return ReportContent(
        title=f"Continual pre-training: {', '.join(settings.new_domains)}",
        method="Continual pre-training",
        objective="bits per byte of the original domains, held at the base model's",
        mixture=MixtureSection(
            domains=statistics.domains,
            natural=statistics.natural,
            chosen=blend(settings, prepared, best_share(settings, job)),
        ),
        provenance=findings.provenance(
            job,
            command="cuvee run continual CONFIG",
            seed=settings.seed,
            settings=settings,
            stages=("corpus/index", "tokenizer", "tokens", "design", "runs", "critical"),
            facts=(("corpus fingerprint", read_index(job.out).fingerprint),),
        ),
        notes=_sentences(settings, job),
    )


def describe(settings: ContinualConfig, job: Job) -> str:
    """Write the outcome of a finished run for people."""
    lines = [
        f"{'tokens':>12} {'critical share':>15} {'low':>7} {'high':>7} {'new domains':>12}  status"
    ]
    lines += [
        f"{cast(int, one['n_tokens']):>12,} {cast(float, one['share']):>15.3f} "
        f"{cast(float, one['low']):>7.3f} {cast(float, one['high']):>7.3f} "
        f"{cast(float, one['gain_at_low']):>+12.3f}  {one['status']}"
        for one in read_critical(job)
    ]
    lines.append("shares of the new domains; new domains: change of their loss at low, bits a byte")
    return "\n".join([*lines, *_sentences(settings, job), f"report      {job.out / chain.REPORT}"])


def summary(_: ContinualConfig, job: Job) -> dict[str, Json]:
    """Return the outcome of a finished run as JSON."""
    path = job.folder("verdict") / _CHECKS
    checks = artifacts.read_json(path) if path.exists() else []
    return {"critical": cast(Json, read_critical(job)), "checks": checks}


def dry_run(settings: ContinualConfig, job: Job) -> dict[str, Json]:
    """Plan and cost."""
    proxy = settings.proxy
    parts = []
    if settings.base.checkpoint is None:
        parts.append(
            Part(name="base", n_runs=1, proxy=replace(proxy, n_tokens=settings.base.n_tokens))
        )
    n_runs = len(settings.shares) * settings.n_seeds + 2 * settings.n_checks
    parts.append(Part(name=f"continue {proxy.size}", n_runs=n_runs, proxy=proxy))
    return planning.dry_run(settings, job, parts)


def read_critical(job: Job) -> list[dict[str, Json]]:
    """Read the critical shares, one a horizon."""
    folder = artifacts.require(job.folder("critical"), made_by="cuvee fit")
    return cast(list[dict[str, Json]], artifacts.read_json(folder / _CRITICAL))


def _plain(found: CriticalShare, curves: Curves, place: int) -> dict[str, Json]:
    """Return one horizon's answer, with what the new domains gain at its lower end."""
    new = fit_share_law(1.0 - curves.shares, curves.new[:, place])
    gained, doubt = new.predict(np.array([1.0 - found.low]))
    law = found.law
    return {
        "n_tokens": found.n_tokens,
        "base_loss": found.base_loss,
        "status": found.status,
        "share": found.share,
        "low": found.low,
        "high": found.high,
        "law": {"floor": law.floor, "amplitude": law.amplitude, "rate": law.rate},
        "residual_sd": law.residual_sd,
        "gain_at_low": float(gained[0]) - curves.base_new,
        "gain_sd": float(doubt[0]),
    }


def _sentences(settings: ContinualConfig, job: Job) -> tuple[str, ...]:
    last = read_critical(job)[-1]
    share, low, high = (cast(float, last[name]) for name in ("share", "low", "high"))
    sentences = [
        f"After {last['n_tokens']:,} further tokens the original domains are as well predicted as "
        f"by the base model at a share of {share:.3f} of {', '.join(settings.new_domains)}; single "
        f"runs are safely better below {low:.3f} and worse above {high:.3f} (95% each)."
    ]
    path = job.folder("verdict") / _CHECKS
    if path.exists():
        for one in cast(list[dict[str, float]], artifacts.read_json(path)):
            sentences.append(
                f"A run trained afterwards at {one['share']:.3f}: {one['minus_base']:+.4f} bits "
                f"per byte against the base."
            )
    return tuple(sentences)
