"""Compare the chosen mixture with its baselines at the validation size, seed by seed."""

import dataclasses
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

import numpy as np
from scipy import special

from cuvee import config
from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.errors import ConfigError, CuveeWarning, DataError
from cuvee.simplex import check_weights

Word: TypeAlias = Literal["better", "worse", "cannot be told apart"]

TOTAL = "total"
"""Stands where a target's name would: the objective, the weighted sum over targets."""
RESERVED_MIXTURES = ("chosen", "natural", "uniform", "best-sampled")
"""Names of the mixtures that are always validated."""
SUM_TOLERANCE = 0.005
"""Published mixtures are rounded to a few digits; a sum farther from 1 is a mistake."""
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidateConfig:
    """How the verdict is reached."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    size: str
    """Size of the validated models, such as ``0.8m``; larger than the proxies."""
    n_tokens: int
    """Tokens each model is trained on; the same for all mixtures."""
    n_seeds: int = 3
    """Models per mixture. Seeds are shared between mixtures, so that differences are paired; one
    seed gives no interval and so no verdict."""
    mixtures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Further mixtures by name (a human's, DoReMi's): share of tokens by domain, 0 where a domain
    is not named. Sums within 0.005 of 1 are rescaled."""
    confidence: float = 0.95
    """Coverage of the intervals, each taken by itself."""
    points: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 1.0)
    """Shares of a run at which losses are measured; the last is 1."""
    learning_rate: float | None = None
    """Peak learning rate at this size; None calibrates it on the natural mixture."""

    def __post_init__(self) -> None:
        if self.n_tokens < 1:
            raise ConfigError(f"n_tokens is {self.n_tokens}; it must be at least 1")
        if self.n_seeds < 1:
            raise ConfigError(f"n_seeds is {self.n_seeds}; it must be at least 1, better 3")
        if not 0.0 < self.confidence < 1.0:
            raise ConfigError(
                f"confidence is {self.confidence}; it must lie between 0 and 1, such as 0.95"
            )
        for name, shares in self.mixtures.items():
            _check_mixture(name, shares)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The chosen mixture against one baseline on one target or in total."""

    baseline: str
    target: str
    """A target's name, or ``total``."""
    n_seeds: int
    """Pairs of runs compared."""
    difference_bpb: float | None
    """Mean over seeds of chosen minus baseline, bits per byte; below 0 the chosen one is better.
    None when no pair is left."""
    low_bpb: float | None
    """Lower end of the interval; None when there are fewer than two pairs."""
    high_bpb: float | None
    """Upper end of the interval; None when there are fewer than two pairs."""
    word: Word
    reason: str
    """Why, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Loss of one mixture on one target or in total."""

    mixture: str
    target: str
    n_seeds: int
    mean_bpb: float | None
    """None when every run of the mixture diverged."""
    sd_bpb: float | None
    """Standard deviation over seeds; None below two seeds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Did the chosen mixture help, by how much, and how sure is that."""

    chosen: str
    targets: tuple[str, ...]
    weights: tuple[float, ...]
    """The objective's weight of each target; they sum to 1."""
    confidence: float
    rows: tuple[Comparison, ...]
    """Per baseline in the given order: the total first, then each target."""
    scores: tuple[Score, ...]
    """Per mixture in the given order: the total first, then each target."""
    noise_bpb: Mapping[str, float | None]
    """Noise floor by target and ``total``: the standard deviation over seeds within mixtures,
    pooled. None when no mixture has two seeds."""

    def row(self, baseline: str, target: str = TOTAL) -> Comparison:
        """Return one comparison.

        Raises:
            DataError: There is none of that baseline and target.
        """
        for row in self.rows:
            if (row.baseline, row.target) == (baseline, target):
                return row
        known = sorted({row.baseline for row in self.rows})
        raise DataError(
            f"no comparison with {baseline!r} on {target!r}; baselines are {', '.join(known)} and "
            f"targets {', '.join((TOTAL, *self.targets))}."
        )

    def to_json(self) -> dict[str, Json]:
        """Return the verdict as plain JSON data."""
        plain: dict[str, Json] = dataclasses.asdict(self)
        return plain

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> "Verdict":
        """Rebuild a verdict from `to_json`.

        Raises:
            ConfigError: A key is unknown, missing or of the wrong kind.
        """
        return config.parse(cls, data)


def compare(
    losses_bpb: Mapping[str, FloatArray],
    targets: Sequence[str],
    weights: FloatArray,
    *,
    chosen: str,
    confidence: float = 0.95,
) -> Verdict:
    """Judge the chosen mixture against every other one.

    Per baseline and target, with d_s = chosen - baseline of seed s and n pairs, the interval is
    mean(d) -/+ t(n - 1) sd(d) / sqrt(n). Entirely below 0 the word is ``better``, entirely above
    ``worse``, else ``cannot be told apart``. Each interval has the stated coverage by itself;
    nothing is corrected for their number. A pair with a diverged run (NaN) is left out with a
    warning.

    Args:
        losses_bpb: By mixture, (n_seeds, n_targets) bits per byte on the targets' verdict half;
            row s of every mixture has the same seed. A diverged run is a row with NaN.
        targets: (n_targets,) names.
        weights: (n_targets,) the objective's weights; they sum to 1.
        chosen: Name of the chosen mixture, a key of ``losses_bpb``.
        confidence: Coverage of the intervals.

    Returns:
        The verdict, with one block of rows a baseline.

    Raises:
        DataError: Shapes do not agree, a loss is infinite, or ``chosen`` is not among the mixtures.

    Example:
        >>> losses = {"chosen": np.array([[1.0], [1.1], [1.2]])}
        >>> losses["natural"] = losses["chosen"] + np.array([[0.10], [0.11], [0.12]])
        >>> compare(losses, ["qa"], np.ones(1), chosen="chosen").row("natural").word
        'better'
    """
    weights = np.asarray(weights, dtype=np.float64)
    tables = _checked(losses_bpb, targets, weights, chosen)
    with_total = {name: _add_total(table, weights) for name, table in tables.items()}
    _warn_of_diverged(with_total)
    columns = (TOTAL, *targets)
    return Verdict(
        chosen=chosen,
        targets=tuple(targets),
        weights=tuple(weights.tolist()),
        confidence=confidence,
        rows=tuple(
            _compare_pairs(with_total[chosen][:, k] - table[:, k], name, target, confidence)
            for name, table in with_total.items()
            if name != chosen
            for k, target in enumerate(columns)
        ),
        scores=tuple(
            _score(table[:, k], name, target)
            for name, table in with_total.items()
            for k, target in enumerate(columns)
        ),
        noise_bpb=dict(zip(columns, noise_floor(list(with_total.values())), strict=True)),
    )


def noise_floor(tables: Sequence[FloatArray]) -> list[float | None]:
    """Pool the standard deviation over seeds within mixtures.

    s^2 = sum_m sum_s (x_ms - mean_m)^2 / sum_m (n_m - 1), per column; NaN rows are left out.

    Args:
        tables: One (n_seeds, n_targets) array a mixture, bits per byte.

    Returns:
        (n_targets,) pooled standard deviations; None when no mixture has two seeds.
    """
    squares = np.zeros(tables[0].shape[1])
    freedom = 0
    for table in tables:
        kept = table[~np.isnan(table).any(axis=1)]
        if len(kept) > 1:
            squares += np.square(kept - kept.mean(axis=0)).sum(axis=0)
            freedom += len(kept) - 1
    if freedom == 0:
        return [None] * len(squares)
    return [float(value) for value in np.sqrt(squares / freedom)]


def mean_interval(values: FloatArray, confidence: float) -> tuple[float, float]:
    """Return Student's interval of a mean.

    Args:
        values: (n,) at least two independent values.
        confidence: Coverage in (0, 1).

    Returns:
        Lower and upper end of mean -/+ t(n - 1) sd / sqrt(n).

    Raises:
        DataError: There are fewer than two values.
    """
    if len(values) < 2:
        raise DataError(f"an interval needs at least 2 values, found {len(values)}; add seeds.")
    quantile = float(special.stdtrit(len(values) - 1, 0.5 + confidence / 2.0))
    half = quantile * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    centre = float(np.mean(values))
    return centre - half, centre + half


def named_mixtures(settings: ValidateConfig, domains: Sequence[str]) -> dict[str, FloatArray]:
    """Turn the config's further mixtures into weights in the order of the domains.

    Args:
        settings: The config with ``mixtures``.
        domains: (n_domains,) names of the pool.

    Returns:
        By mixture name, (n_domains,) token shares that sum to 1; 0 where a domain is not named.

    Raises:
        ConfigError: A mixture names a domain the pool does not have.
    """
    named = {}
    for name, shares in settings.mixtures.items():
        unknown = sorted(set(shares) - set(domains))
        if unknown:
            raise ConfigError(
                f"validate.mixtures.{name} names domain {unknown[0]!r}, which the pool does not "
                f"have; its domains are {', '.join(domains)}."
            )
        weights = np.array([shares.get(domain, 0.0) for domain in domains])
        named[name] = weights / weights.sum()
    return named


def _check_mixture(name: str, shares: Mapping[str, float]) -> None:
    if name in RESERVED_MIXTURES:
        raise ConfigError(f"mixtures.{name} takes a reserved name; choose another")
    if not _SAFE_NAME.fullmatch(name):
        raise ConfigError(
            f"mixture name {name!r} cannot be part of a folder's name; use 1 to 64 letters, "
            "digits, '.', '_' or '-', the first a letter or digit"
        )
    for domain, share in shares.items():
        if not math.isfinite(share) or share < 0.0:
            raise ConfigError(
                f"mixtures.{name}.{domain} is {share}; a share is a number from 0 to 1"
            )
    total = math.fsum(shares.values())
    if abs(total - 1.0) > SUM_TOLERANCE:
        raise ConfigError(
            f"mixtures.{name} sums to {total:.6g}; shares of tokens must sum to 1 "
            f"(tolerance {SUM_TOLERANCE})"
        )


def _checked(
    losses_bpb: Mapping[str, FloatArray], targets: Sequence[str], weights: FloatArray, chosen: str
) -> dict[str, FloatArray]:
    if weights.shape != (len(targets),):
        raise DataError(
            f"{len(targets)} targets but weights of shape {weights.shape}; give one each."
        )
    check_weights(weights[None, :], n_domains=len(targets))
    if len(set(targets)) < len(targets) or TOTAL in targets:
        raise DataError(
            f"target names must be unique and not {TOTAL!r}; found {', '.join(targets)}."
        )
    if chosen not in losses_bpb:
        raise DataError(f"chosen mixture {chosen!r} has no losses; found {', '.join(losses_bpb)}.")
    tables = {name: np.asarray(table, dtype=np.float64) for name, table in losses_bpb.items()}
    shape = (len(tables[chosen]), len(targets))
    for name, table in tables.items():
        if table.shape != shape or shape[0] == 0:
            raise DataError(
                f"losses of mixture {name!r} have shape {table.shape}; all must be (n_seeds, "
                f"n_targets) = ({max(shape[0], 1)}, {shape[1]}), seeds in the same order."
            )
        broken = np.argwhere(np.isinf(table))
        if len(broken):
            seed, target = broken[0]
            raise DataError(
                f"loss of mixture {name!r}, seed row {seed}, target {targets[target]!r} is "
                "infinite; mark a diverged run by NaN."
            )
    return tables


def _add_total(table: FloatArray, weights: FloatArray) -> FloatArray:
    """Put the objective before the targets' columns; a run with any NaN is NaN throughout."""
    whole = np.column_stack([table @ weights, table])
    whole[np.isnan(table).any(axis=1)] = np.nan
    return whole


def _warn_of_diverged(tables: Mapping[str, FloatArray]) -> None:
    diverged = {name: int(np.isnan(table[:, 0]).sum()) for name, table in tables.items()}
    found = [f"{name} ({count})" for name, count in diverged.items() if count]
    if found:
        warnings.warn(
            f"diverged validation runs are left out of the verdict: {', '.join(found)}; their "
            "pairs are lost and the verdict may flatter an unstable mixture.",
            CuveeWarning,
            stacklevel=3,
        )


def _compare_pairs(
    differences: FloatArray, baseline: str, target: str, confidence: float
) -> Comparison:
    kept = differences[~np.isnan(differences)]
    low, high = mean_interval(kept, confidence) if len(kept) > 1 else (None, None)
    word, reason = _judge(len(kept), low, high, confidence)
    lost = len(differences) - len(kept)
    if lost:
        reason += f"; {lost} of {len(differences)} pairs lost to diverged runs"
    return Comparison(
        baseline=baseline,
        target=target,
        n_seeds=len(kept),
        difference_bpb=float(kept.mean()) if len(kept) else None,
        low_bpb=low,
        high_bpb=high,
        word=word,
        reason=reason,
    )


def _judge(
    n_pairs: int, low: float | None, high: float | None, confidence: float
) -> tuple[Word, str]:
    if low is None or high is None:
        seeds = f"{n_pairs} seed{'s' if n_pairs != 1 else ''}"
        return "cannot be told apart", f"{seeds}: an interval needs at least 2"
    interval = f"the {100 * confidence:g}% interval over {n_pairs} seeds"
    if high < 0.0:
        return "better", f"{interval} lies below 0"
    if low > 0.0:
        return "worse", f"{interval} lies above 0"
    return "cannot be told apart", f"{interval} holds 0"


def _score(values: FloatArray, mixture: str, target: str) -> Score:
    kept = values[~np.isnan(values)]
    return Score(
        mixture=mixture,
        target=target,
        n_seeds=len(kept),
        mean_bpb=float(kept.mean()) if len(kept) else None,
        sd_bpb=float(np.std(kept, ddof=1)) if len(kept) > 1 else None,
    )
