"""What a report shows, as plain values: methods fill it, the page and the summary read it.

Everything here is a name, a number or an array. No part reads a file, so a report can be made from
any run, also from an unfinished one: a section that is not there yet is ``None`` or empty.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from cuvee.arrays import BoolArray, FloatArray, IntArray
from cuvee.report.cluster_sections import ClustersSection
from cuvee.report.pictures import (
    CurvesSection,
    ResponseSection,
    ScalingSection,
    SharesSection,
)
from cuvee.report.shapes import check_length, check_shape
from cuvee.tables.sensitivity import Sensitivity
from cuvee.validate.accuracy import AccuracyRow

Role: TypeAlias = Literal["chosen", "natural", "uniform", "best-sampled", "other"]
"""What a mixture is in the comparison; it decides the colour. The user's own are ``other``."""

FIXED_KINDS = frozenset({"natural", "uniform", "own", "early", "late"})
"""Kinds of runs that are few and placed by hand, so that pictures name them: the natural mixture,
the uniform one, and those near a target's own domains, with phases early or late in the run."""

Word: TypeAlias = Literal["better", "worse", "cannot be told apart"]
"""The verdict of one comparison, on the chosen mixture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The chosen mixture against one baseline, on one target or on all."""

    baseline: str
    """Name of the mixture compared with, such as ``natural``."""
    target: str | None
    """Name of the target; None for the objective over all of them."""
    difference: float | None
    """Chosen minus baseline, bits per byte, mean over paired seeds; negative is better. None when
    no pair is left."""
    low: float | None
    """Lower end of the interval; None below two pairs."""
    high: float | None
    """Upper end of the interval; None below two pairs."""
    word: Word
    reason: str = ""
    """Why, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EquivalentTokens:
    """Tokens the natural mixture would need to reach the chosen one's loss."""

    status: Literal["measured", "extrapolated", "not reached", "below range"]
    """Where the natural mixture's trajectory meets that loss; ``below range`` is before its first
    point."""
    n_tokens: float | None = None
    """The estimate; None when ``not reached`` or ``below range``."""
    low: float | None = None
    """Lower end of its interval over seeds; None where there is none."""
    high: float | None = None
    """Upper end of its interval over seeds; None where there is none."""
    reason: str = ""
    """Why, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerdictSection:
    """Did the chosen mixture help, by how much, how sure."""

    size: str
    """Size of the models judged, such as ``0.8m``."""
    n_tokens: int
    """Tokens each of them was trained on."""
    n_seeds: int
    """Seeds a mixture."""
    confidence: float
    """Coverage of the intervals, such as 0.95."""
    comparisons: tuple[Comparison, ...]
    """For each baseline the objective and every target, in the order shown; ``natural`` first."""
    equivalent: EquivalentTokens | None = None
    accuracies: tuple[AccuracyRow, ...] = ()
    """By task, measure and mixture, beside the verdict; empty where no target is a task."""
    noise: float | None = None
    """Noise floor: standard deviation of the objective over seeds of one mixture, bits per byte."""

    def totals(self) -> tuple[Comparison, ...]:
        """Return the comparisons over all targets, one a baseline."""
        return tuple(row for row in self.comparisons if row.target is None)


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureSection:
    """The chosen mixture beside the natural one."""

    domains: tuple[str, ...]
    natural: FloatArray
    """(n_domains,) token shares; they sum to 1."""
    chosen: FloatArray
    """(n_domains,) token shares; they sum to 1."""
    best_sampled: FloatArray | None = None
    """(n_domains,) token shares of the best run of the design; None if there is none."""
    caps: FloatArray | None = None
    """(n_domains,) largest shares the supply allows; None if nothing limits them."""
    epochs: FloatArray | None = None
    """(n_domains,) epochs of each domain under the chosen mixture at the target budget."""
    budget: int | None = None
    """Target token budget; None if none is set."""
    max_epochs: float | None = None
    """Epochs allowed a domain."""

    def __post_init__(self) -> None:
        shape = (len(self.domains),)
        for name in ("natural", "chosen", "best_sampled", "caps", "epochs"):
            check_shape(f"mixture {name}", getattr(self, name), shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureLoss:
    """Predicted and measured loss of one mixture."""

    name: str
    role: Role
    predicted: float | None = None
    """Objective the predictor expects at the proxies' size; None where it was not asked."""
    predicted_low: float | None = None
    predicted_high: float | None = None
    proxy: float | None = None
    """Objective measured by a proxy of the sweep; None where the mixture was not in the design."""
    seeds_bpb: FloatArray | None = None
    """(n_seeds, n_targets) bits per byte at the validation size, NaN in rows of diverged runs; None
    if not validated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossSection:
    """Losses of the chosen mixture and of the baselines."""

    targets: tuple[str, ...]
    objective_weights: FloatArray
    """(n_targets,) weights of the objective; they sum to 1."""
    rows: tuple[MixtureLoss, ...]
    """The chosen mixture first."""
    proxy_unit: str = "bits per byte"
    """Unit of ``predicted`` and ``proxy``."""
    proxy_size: str = ""
    """Size of the proxies, such as ``0.1m``."""

    def __post_init__(self) -> None:
        n_targets = len(self.targets)
        check_shape("objective weights", self.objective_weights, (n_targets,))
        for row in self.rows:
            check_shape(f"losses of {row.name!r}", row.seeds_bpb, (None, n_targets))

    def by_seed(self, row: MixtureLoss) -> FloatArray:
        """Return (n_kept, 1 + n_targets) bits per byte of one mixture: the objective, the targets.

        Diverged runs are left out; without validation there is no row.
        """
        if row.seeds_bpb is None:
            return np.zeros((0, 1 + len(self.targets)))
        kept = row.seeds_bpb[~np.isnan(row.seeds_bpb).any(axis=1)]
        by_seed: FloatArray = np.column_stack([kept @ self.objective_weights, kept])
        return by_seed


@dataclass(frozen=True, kw_only=True, slots=True)
class Pick:
    """What a way of choosing among the measured runs would have cost."""

    name: str
    """``predictor``, or a baseline such as ``natural`` or ``best measured``."""
    loss: float
    """Measured objective of the run it picks; None is not allowed, leave the row out."""
    regret: float
    """That loss minus the lowest measured one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOutSection:
    """Predictions for runs that the predictor had not seen."""

    model: str
    n_folds: int
    columns: tuple[str, ...]
    """The objective first, then the targets."""
    run_ids: tuple[str, ...]
    kinds: tuple[str, ...]
    """(n_runs,) why each run is in the design: ``natural``, ``uniform``, ``own`` or ``draw``."""
    measured: FloatArray
    """(n_runs, n_columns) in ``unit``."""
    predicted: FloatArray
    """(n_runs, n_columns) in ``unit``, each from a fold without that run."""
    predicted_sd: FloatArray | None
    """(n_runs, n_columns) standard deviations the predictor claims; None if it claims none."""
    rank_correlation: FloatArray
    """(n_columns,) Spearman correlations of predicted and measured."""
    rmse: FloatArray
    """(n_columns,) root mean square errors in ``unit``."""
    picks: tuple[Pick, ...] = ()
    unit: str = "bits per byte"

    def __post_init__(self) -> None:
        n_runs, n_columns = len(self.run_ids), len(self.columns)
        check_length("kinds", self.kinds, n_runs)
        for name in ("measured", "predicted", "predicted_sd"):
            check_shape(f"held-out {name}", getattr(self, name), (n_runs, n_columns))
        for name in ("rank_correlation", "rmse"):
            check_shape(f"held-out {name}", getattr(self, name), (n_columns,))


@dataclass(frozen=True, kw_only=True, slots=True)
class RunsSection:
    """The sweep: the objective of every run."""

    run_ids: tuple[str, ...]
    kinds: tuple[str, ...]
    """(n_runs,) ``natural``, ``uniform``, ``own`` or ``draw``."""
    losses: FloatArray
    """(n_runs,) objective in ``unit``; NaN only where the run diverged."""
    diverged: BoolArray
    """(n_runs,) True where the run is left out of fits."""
    size: str
    """Size of the proxies."""
    n_tokens: int
    """Tokens each of them was trained on."""
    predicted: float | None = None
    """Objective predicted for the chosen mixture."""
    predicted_low: float | None = None
    predicted_high: float | None = None
    unit: str = "bits per byte"

    def __post_init__(self) -> None:
        n_runs = len(self.run_ids)
        check_length("kinds", self.kinds, n_runs)
        check_shape("losses of the runs", self.losses, (n_runs,))
        check_shape("marks of diverged runs", self.diverged, (n_runs,))


@dataclass(frozen=True, kw_only=True, slots=True)
class TrajectorySeries:
    """Losses of one validation run at several points of its training."""

    mixture: str
    role: Role
    seed: int
    n_tokens: IntArray
    """(n_points,) tokens trained on so far, increasing."""
    losses_bpb: FloatArray
    """(n_points, n_columns) bits per byte."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrajectorySection:
    """Trajectories of the validation runs."""

    columns: tuple[str, ...]
    """The objective first, then the targets."""
    series: tuple[TrajectorySeries, ...]

    def __post_init__(self) -> None:
        for one in self.series:
            shape = (len(one.n_tokens), len(self.columns))
            check_shape(f"trajectory of {one.mixture!r}", one.losses_bpb, shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolSection:
    """The documents chosen from, per domain, training side unless a field says otherwise."""

    domains: tuple[str, ...]
    n_documents: IntArray
    n_bytes: IntArray
    n_tokens: IntArray
    unique_tokens: IntArray
    """(n_domains,) tokens in distinct documents, exact duplicates counted once."""
    available_tokens: IntArray
    """(n_domains,) tokens of the real pool; equals ``n_tokens`` unless declared."""
    validation_documents: IntArray
    """(n_domains,) documents held out for validation."""
    n_shards: int
    rejects: tuple[tuple[str, int], ...] = ()
    """Rejected rows by reason."""
    n_dropped: int = 0
    """Validation documents removed because their text also stands on the training side."""

    def __post_init__(self) -> None:
        shape = (len(self.domains),)
        for name in ("n_documents", "n_bytes", "n_tokens", "unique_tokens"):
            check_shape(f"pool {name}", getattr(self, name), shape)
        for name in ("available_tokens", "validation_documents"):
            check_shape(f"pool {name}", getattr(self, name), shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectionSection:
    """The data written for training."""

    folder: str
    n_shards: int
    n_documents: int
    """Distinct documents."""
    n_copies: int
    """Rows written, repeated documents counted each time."""
    domains: tuple[str, ...]
    planned_tokens: IntArray
    """(n_domains,)"""
    realised_tokens: IntArray
    """(n_domains,)"""
    epochs: FloatArray
    """(n_domains,) of the tokens given."""

    def __post_init__(self) -> None:
        shape = (len(self.domains),)
        for name in ("planned_tokens", "realised_tokens", "epochs"):
            check_shape(f"selection {name}", getattr(self, name), shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where every number comes from."""

    command: str
    seed: int
    config_yaml: str
    versions: tuple[tuple[str, str], ...]
    """Package and version."""
    digests: tuple[tuple[str, str], ...]
    """Artefact and the SHA-256 it bears."""
    facts: tuple[tuple[str, str], ...] = ()
    """Anything else worth knowing, such as the processor or the tokenizer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportContent:
    """All that one report shows."""

    title: str
    """What was mixed, such as the config file's name."""
    method: str
    """Name of the method, such as ``RegMix``."""
    objective: str
    """What is minimised, in words, such as ``mean of 4 targets``."""
    mixture: MixtureSection
    provenance: Provenance
    verdict: VerdictSection | None = None
    losses: LossSection | None = None
    held_out: HeldOutSection | None = None
    runs: RunsSection | None = None
    trajectories: TrajectorySection | None = None
    pool: PoolSection | None = None
    selection: SelectionSection | None = None
    response: ResponseSection | None = None
    scaling: ScalingSection | None = None
    shares: SharesSection | None = None
    sensitivity: Sensitivity | None = None
    curves: CurvesSection | None = None
    clusters: ClustersSection | None = None
    notes: tuple[str, ...] = ()
    """Sentences the reader must know, such as that there were no targets."""
    headline: str | None = None
    """The outcome in one sentence, where it is not a verdict on mixtures."""
