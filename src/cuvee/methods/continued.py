"""The runs of continual pre-training: the base, its continuations, what they lost and gained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal, cast

import numpy as np

from cuvee import artifacts
from cuvee.arrays import FloatArray, IntArray
from cuvee.corpus.read import PoolConfig
from cuvee.corpus.tokens import TokensConfig
from cuvee.errors import ConfigError, DataError
from cuvee.methods import measure
from cuvee.methods.base_model import BaseConfig, base_model
from cuvee.methods.job import Job
from cuvee.methods.pool import Prepared
from cuvee.policy.mixture import Mixture
from cuvee.proxy.spec import TrainingSpec
from cuvee.proxy.sweep import ProxyConfig, SweepInputs, read_result, training_spec
from cuvee.randomness import integer_seed, stream
from cuvee.simplex import normalise
from cuvee.tables.runs import read_trajectory


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
    """There is one: what the file is silent on."""
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
    """Runs of each share; all runs differ in data order."""
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
    return base_model(
        job,
        settings.base,
        proxy=settings.proxy,
        mixture=Mixture.flat(prepared.statistics.domains, original_mixture(settings, prepared)),
        prepared=prepared,
        seed=settings.seed,
    )


def continued(
    settings: ContinualConfig,
    job: Job,
    prepared: Prepared,
    base: Path,
    *,
    share: float,
    name: str,
) -> TrainingSpec:
    """Describe one continued run.

    Every run has a data order of its own: with a common one the law's misfit would not hold the
    chance that a new run is subject to, and the critical share's interval would be too narrow.
    """
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
