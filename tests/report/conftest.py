"""A made-up report with awkward names: 16 domains, 4 targets, 32 runs, nothing of it measured."""

import dataclasses

import numpy as np
import pytest

from cuvee.arrays import FloatArray
from cuvee.report.content import (
    Comparison,
    EquivalentTokens,
    HeldOutSection,
    LossSection,
    MixtureLoss,
    MixtureSection,
    Pick,
    PoolSection,
    Provenance,
    ReportContent,
    Role,
    RunsSection,
    SelectionSection,
    TrajectorySection,
    TrajectorySeries,
    VerdictSection,
)
from cuvee.report.pictures import (
    Matrix,
    ResponseSection,
    ScalingSection,
    ShareCurve,
    SharesSection,
    SizeLaw,
    Slice,
    StepLaw,
    Ternary,
)
from cuvee.validate.accuracy import AccuracyRow

SCRIPT = "<script>alert(1)</script>"
MATHTEXT = "$x$ costs $5"
DOMAINS = (
    "web",
    "books",
    "source code",
    "encyclopedia",
    "question answering",
    "legal opinions",
    "patents",
    "abstracts",
    "subtitles",
    "forum threads",
    "mathematics",
    "news wire",
    "recipes",
    SCRIPT,
    MATHTEXT,
    "a-domain-with-a-name-that-somebody-made-far-too-long-for-any-table",
)
TARGETS = ("reasoning", "exam questions", "common sense", MATHTEXT)
MIXTURES: tuple[tuple[str, Role, float], ...] = (
    ("chosen", "chosen", 0.0),
    ("natural", "natural", 0.118),
    ("uniform", "uniform", 0.074),
    ("best-sampled", "best-sampled", 0.049),
    ("_DoReMi [bold]", "other", 0.004),
)
BUDGET = 25_000_000_000


def make_content() -> ReportContent:
    """Make the report; the same on every call."""
    rng = np.random.default_rng(20240401)
    natural = np.sort(rng.dirichlet(np.full(16, 0.7)))[::-1].copy()
    chosen = rng.permutation(rng.dirichlet(np.full(16, 0.8)))
    runs = _runs(rng)
    return ReportContent(
        title="examples/demo.yaml",
        method="RegMix",
        objective="mean of 4 targets, bits per byte",
        mixture=_mixture(natural, chosen),
        provenance=_provenance(),
        verdict=_verdict(),
        losses=_losses(rng),
        held_out=_held_out(runs, rng),
        runs=runs,
        trajectories=_trajectories(rng),
        pool=_pool(natural, rng),
        selection=_selection(chosen, rng),
        response=_response(rng),
        scaling=_scaling(rng),
        shares=_shares(rng),
        notes=("The pool given is a sample; epochs are counted on the declared tokens.",),
    )


@pytest.fixture(name="content")
def _content() -> ReportContent:
    return make_content()


def _mixture(natural: FloatArray, chosen: FloatArray) -> MixtureSection:
    caps = np.minimum(natural * 15 * 4.0, 1.0)
    return MixtureSection(
        domains=DOMAINS,
        natural=natural,
        chosen=chosen,
        best_sampled=np.roll(chosen, 1),
        caps=np.where(np.arange(16) == int(np.argmax(chosen)), chosen, caps),
        epochs=chosen / natural * 0.25,
        budget=BUDGET,
        max_epochs=15.0,
    )


def _verdict() -> VerdictSection:
    rows = []
    for baseline, _, gap in MIXTURES[1:]:
        for position, target in enumerate((None, *TARGETS)):
            change = -gap * (1 + 0.35 * np.sin(3 * position)) if target else -gap
            half = 0.011 if target is None else 0.014 + 0.004 * position
            sure = abs(change) > half
            rows.append(
                Comparison(
                    baseline=baseline,
                    target=target,
                    difference=change,
                    low=change - half,
                    high=change + half,
                    word="better" if sure else "cannot be told apart",
                )
            )
    return VerdictSection(
        size="0.8m",
        n_tokens=2_000_000,
        n_seeds=3,
        confidence=0.95,
        comparisons=tuple(rows),
        equivalent=EquivalentTokens(
            status="extrapolated", n_tokens=4_870_000, low=4_420_000, high=5_510_000
        ),
        accuracies=_accuracies(),
    )


def _accuracies() -> tuple[AccuracyRow, ...]:
    chosen = AccuracyRow(
        target=TARGETS[1],
        measure="accuracy_norm",
        mixture="chosen",
        n_examples=312,
        n_seeds=3,
        chance=0.25,
        mean=0.287,
        low=0.24,
        high=0.34,
    )
    other = dataclasses.replace(
        chosen,
        mixture=SCRIPT,
        mean=0.262,
        difference=0.025,
        difference_low=-0.011,
        difference_high=0.06,
        word="cannot be told apart",
    )
    gone = dataclasses.replace(
        chosen, mixture=MATHTEXT, n_seeds=0, mean=None, low=None, high=None, chance=None
    )
    return chosen, other, gone


def _losses(rng: np.random.Generator) -> LossSection:
    rows = []
    for name, role, gap in MIXTURES:
        level = np.array([1.42, 1.61, 1.83, 1.55]) + gap
        rows.append(
            MixtureLoss(
                name=name,
                role=role,
                predicted=2.31 + gap,
                predicted_low=2.27 + gap,
                predicted_high=2.35 + gap,
                proxy=None if role in ("chosen", "other") else 2.315 + gap,
                seeds_bpb=level + rng.normal(0, 0.006, (3, 4)),
            )
        )
    return LossSection(
        targets=TARGETS,
        objective_weights=np.full(4, 0.25),
        rows=tuple(rows),
        proxy_size="0.1m",
    )


def _runs(rng: np.random.Generator) -> RunsSection:
    fixed = ("natural", "uniform", *(f"own-{target}" for target in TARGETS))
    draws = tuple(f"draw-{number:03d}" for number in range(26))
    losses = 2.34 + 0.12 * rng.gamma(2.0, 0.6, 32)
    losses[:2] = 2.433, 2.391
    losses[2:6] = 2.365, 2.366, 2.367, 2.52
    diverged = np.zeros(32, dtype=np.bool_)
    diverged[17] = True
    losses[17] = np.nan
    return RunsSection(
        run_ids=fixed + draws,
        kinds=("natural", "uniform", *["own"] * 4, *["draw"] * 26),
        losses=losses,
        diverged=diverged,
        size="0.1m",
        n_tokens=600_000,
        predicted=2.31,
        predicted_low=2.27,
        predicted_high=2.35,
    )


def _held_out(runs: RunsSection, rng: np.random.Generator) -> HeldOutSection:
    columns = ("objective", *TARGETS)
    measured = runs.losses[:, None] + np.array([0.0, -0.1, 0.05, 0.2, -0.15])
    measured = measured + rng.normal(0, 0.02, measured.shape)
    return HeldOutSection(
        model="ensemble of effective-data-power and log-gaussian-process",
        n_folds=8,
        columns=columns,
        run_ids=runs.run_ids,
        kinds=runs.kinds,
        measured=measured,
        predicted=measured + rng.normal(0, 0.018, measured.shape),
        predicted_sd=np.full(measured.shape, 0.02),
        rank_correlation=np.array([0.94, 0.95, 0.91, 0.97, 0.89]),
        rmse=np.array([0.018, 0.02, 0.019, 0.017, 0.022]),
        picks=(
            Pick(name="predictor", loss=2.352, regret=0.004),
            Pick(name="natural", loss=2.433, regret=0.085),
            Pick(name="uniform", loss=2.391, regret=0.043),
            Pick(name="uniform over own domains", loss=2.371, regret=0.023),
            Pick(name="best measured", loss=2.348, regret=0.0),
        ),
    )


def _trajectories(rng: np.random.Generator) -> TrajectorySection:
    n_tokens = np.unique(np.geomspace(4_000, 2_000_000, 24).astype(np.int64))
    offsets = np.array([0.0, -0.18, 0.01, 0.23, -0.05])
    series = [
        TrajectorySeries(
            mixture=name,
            role=role,
            seed=seed,
            n_tokens=n_tokens,
            losses_bpb=1.1
            + gap
            + offsets
            + (n_tokens[:, None] / 50_000.0) ** -0.2
            + rng.normal(0, 0.008, (len(n_tokens), 5)),
        )
        for name, role, gap in MIXTURES
        for seed in range(3)
    ]
    return TrajectorySection(columns=("objective", *TARGETS), series=tuple(series))


def _pool(natural: FloatArray, rng: np.random.Generator) -> PoolSection:
    n_tokens = (natural * 61_000_000).astype(np.int64) + 1
    return PoolSection(
        domains=DOMAINS,
        n_documents=n_tokens // 900 + 1,
        n_bytes=(n_tokens * rng.uniform(3.1, 4.6, 16)).astype(np.int64),
        n_tokens=n_tokens,
        unique_tokens=(n_tokens * rng.uniform(0.9, 1.0, 16)).astype(np.int64),
        available_tokens=n_tokens * 1000,
        validation_documents=n_tokens // 45_000 + 1,
        n_shards=12,
        rejects=(("broken_json", 3), ("empty", 41), ("invalid_utf8", 2)),
        n_dropped=7,
    )


def _selection(chosen: FloatArray, rng: np.random.Generator) -> SelectionSection:
    planned = (chosen * 20_000_000).astype(np.int64)
    return SelectionSection(
        folder="out/demo/selection",
        n_shards=3,
        n_documents=18_204,
        n_copies=40_113,
        domains=DOMAINS,
        planned_tokens=planned,
        realised_tokens=planned + rng.integers(0, 900, 16),
        epochs=rng.uniform(0.1, 6, 16),
    )


def _provenance() -> Provenance:
    return Provenance(
        command="cuvee run regmix examples/demo.yaml --out out/demo",
        seed=0,
        config_yaml=f"pool:\n  shards: [pool/*.parquet]\n  domain: '{SCRIPT}'\n",
        versions=(("cuvee", "0.1.0"), ("numpy", "2.0.0"), ("torch", "2.4.0")),
        digests=(("corpus", "9f" * 32), ("runs", "1c" * 32), ("verdict", "a0" * 32)),
        facts=(("pool fingerprint", "5b" * 32), ("tokenizer", "byte-level BPE, 8,192 tokens")),
    )


def _response(rng: np.random.Generator) -> ResponseSection:
    columns = ("objective", *TARGETS)
    values = rng.normal(0, 0.01, (16, 5))
    ranks = Matrix(
        rows=DOMAINS, columns=columns, values=np.tanh(100 * values), sure=np.abs(values) > 0.005
    )
    return ResponseSection(
        slices=tuple(_slice(name, rng) for name in DOMAINS[13:]),
        ternary=_ternary(rng),
        effects=Matrix(
            rows=DOMAINS,
            columns=columns,
            values=values,
            sd=np.full((16, 5), 0.004),
            sure=np.abs(values) > 0.008,
        ),
        step=0.02,
        share_ranks=ranks,
        loss_ranks=ranks,
        n_runs=31,
    )


def _slice(domain: str, rng: np.random.Generator) -> Slice:
    chosen, shares = float(rng.uniform(0.02, 0.3)), np.linspace(0.0, 0.5, 21)
    mean = 2.31 + (shares - chosen) ** 2
    return Slice(
        domain=domain,
        shares=shares,
        mean=mean,
        low=mean - 0.05,
        high=mean + 0.05,
        chosen=chosen,
        natural=0.1,
        cost=chosen**2,
        change_low=mean - 0.2 * np.abs(shares - chosen),
        change_high=mean + 0.2 * np.abs(shares - chosen),
    )


def _ternary(rng: np.random.Generator) -> Ternary:
    grid = np.array([(a, b, 8 - a - b) for a in range(9) for b in range(9 - a)]) / 8.0
    return Ternary(
        corners=(SCRIPT, MATHTEXT, "web"),
        total=0.6,
        grid=grid,
        mean=2.31 + np.sum((grid - 0.4) ** 2, axis=1),
        sd=0.02 + 0.1 * grid[:, 0],
        measured=rng.dirichlet(np.ones(3), 12),
        chosen=np.array([0.2, 0.3, 0.5]),
        natural=np.array([0.6, 0.3, 0.1]),
    )


def _scaling(rng: np.random.Generator) -> ScalingSection:
    parameters, n_tokens = np.array([3e4, 5e4, 1e5]), np.array([100_000, 200_000, 400_000])
    wide, far = np.geomspace(1e5, 8e5, 9), np.geomspace(3e4, 4e5, 9)
    level = 2.0 + (parameters / 1e5) ** -0.3
    fitted = level[:, None] + (n_tokens / 1e5) ** -0.5
    return ScalingSection(
        method="nested",
        size=400_000,
        n_tokens=800_000,
        step_laws=tuple(
            StepLaw(
                mixture=name,
                sizes=("0.03m", "0.05m", "0.1m"),
                n_tokens=n_tokens,
                losses=fitted + rng.normal(0, 0.01, fitted.shape),
                fitted=fitted,
                curve_tokens=wide,
                curve=level[:, None] + (wide / 1e5) ** -0.5,
            )
            for name in (SCRIPT, MATHTEXT)
        ),
        size_laws=tuple(
            SizeLaw(
                mixture=name,
                parameters=parameters,
                losses=level,
                curve_parameters=far,
                curve=2.0 + (far / 1e5) ** -0.3,
                predicted=2.66,
                low=2.6,
                high=2.72,
                measured=measured,
            )
            for name, measured in ((SCRIPT, 2.65), (MATHTEXT, None))
        ),
        step_rmse=0.01,
        far_off=(SCRIPT,),
    )


def _shares(rng: np.random.Generator) -> SharesSection:
    shares, grid = np.linspace(0, 0.8, 8), np.linspace(0, 0.8, 17)
    mean = 2.4 + 0.05 * np.exp(2.5 * grid)
    curve = ShareCurve(
        title="original domains, 400k tokens further",
        shares=shares,
        losses=2.4 + 0.05 * np.exp(2.5 * shares) + rng.normal(0, 0.003, 8),
        curve_shares=grid,
        mean=mean,
        low=mean - 0.006,
        high=mean + 0.006,
        base=2.55,
        critical=(0.44, 0.42, 0.46),
        checks=np.array([[0.42, 2.54], [0.46, 2.56]]),
    )
    return SharesSection(
        new_domains=(SCRIPT,),
        curves=(
            curve,
            dataclasses.replace(curve, title="new domains", critical=None, checks=np.zeros((0, 2))),
        ),
        confidence=0.9,
    )
