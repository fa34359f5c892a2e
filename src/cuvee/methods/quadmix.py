"""QuaDMix: quality and diversity in one sampling function, its parameters found by proxies.

    1  q_1 ... q_N     quality criteria of every document, on one scale
    2  theta_i         parameters drawn from their prior: merge weights and a curve a domain
    3  y_it            loss of a proxy trained on what theta_i samples, on target t
    4  f_t             regression of y_t on theta, or on what theta makes of the pool
    5  theta*          mean of the best of many drawn vectors under sum_t w_t f_t
    6  the verdict     larger models on theta*, everything once, and each criterion's best

Source: QuaDMix (arXiv:2504.16511); docs/papers/quadmix.md lists where this differs and why.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np

from cuvee import artifacts, config
from cuvee.artifacts import Json
from cuvee.design.quality_prior import QualityPriorConfig, draw_vectors
from cuvee.errors import ConfigError
from cuvee.executors import one_thread
from cuvee.methods import chain, curves, judging, measure, shipping
from cuvee.methods.chain import ChainConfig, open_stores
from cuvee.methods.curve_fit import CurvePredictor, CurvesConfig, compare_regressions
from cuvee.methods.curve_search import CurveLimits, find_curve
from cuvee.methods.curve_study import VECTORS, CurveStudy, first_vectors, last_vectors
from cuvee.methods.job import Job, claimed
from cuvee.methods.pool import Prepared, given_tokens
from cuvee.methods.presets import QUADMIX_PAPER
from cuvee.methods.quality import NORMALISED, CriterionConfig, label_quality, read_quality
from cuvee.policy.mixture import Mixture
from cuvee.policy.quality_curve import (
    QualityCurve,
    curves_to_json,
    parameter_names,
)
from cuvee.policy.ranks import Normalisation
from cuvee.proxy.spec import TrainingSpec
from cuvee.randomness import stream
from cuvee.search.settings import SearchConfig
from cuvee.tables.runs import Runs, read_runs
from cuvee.tables.vectors import Vectors, write_vectors

CHOSEN = "chosen"
SCORES = "scores.json"
_DRAWS = 4
"""Vectors drawn for each that is measured, so that enough of them take something."""
_CURVE, _FOUND, _RIVALS = "curve.json", "found.json", "rivals"


def _default_criteria() -> dict[str, CriterionConfig]:
    return {
        "clean": CriterionConfig(kind="heuristics"),
        "reference": CriterionConfig(kind="classifier"),
        "importance": CriterionConfig(kind="importance"),
        "fluent": CriterionConfig(kind="perplexity"),
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class QuaDMixConfig(ChainConfig):
    """All settings of `cuvee run quadmix`."""

    preset: Literal["default", "paper"] = "default"
    """paper: the paper's own settings wherever the file is silent."""
    criteria: Mapping[str, CriterionConfig] = field(default_factory=_default_criteria)
    """Quality criteria by name."""
    rivals: Mapping[str, CriterionConfig] = field(default_factory=dict)
    """Criteria that are not merged; the best by each is trained and judged beside the answer."""
    normalisation: Normalisation = "rank"
    """How criteria are put on one scale."""
    prior: QualityPriorConfig = field(default_factory=QualityPriorConfig)
    curves: CurvesConfig = field(default_factory=CurvesConfig)

    def __post_init__(self) -> None:
        ChainConfig.__post_init__(self)
        if not self.criteria:
            raise ConfigError("criteria is empty; name at least one quality criterion.")
        twice = sorted(set(self.rivals) & {*self.criteria, CHOSEN, curves.NATURAL, curves.UNION})
        if twice:
            raise ConfigError(f"rival {twice[0]!r} has a name that is taken; rename it.")
        if "domain" in {*self.criteria, *self.rivals}:
            raise ConfigError("criterion 'domain' has the name of the domains' label; rename it.")
        if len(self.phases) > 1:
            raise ConfigError("phases are not searched over quality curves; leave them out.")
        least = len(self.criteria) + 8
        if min(self.curves.n_runs, self.curves.start_runs) < least:
            raise ConfigError(
                f"curves.n_runs is {self.curves.n_runs} and start_runs {self.curves.start_runs}; "
                f"with {len(self.criteria)} criteria give at least {least}."
            )
        kept = replace(self.search, bounds={}, groups=(), floors={})
        if kept != SearchConfig():
            raise ConfigError(
                "quadmix keeps search.bounds, search.groups and search.floors; how curves are "
                "looked for stands under curves. Leave the other keys of search out."
            )
        self.prior.for_budget(1.0, max_epochs=self.max_epochs)


def load_config(path: Path, overrides: tuple[str, ...] = ()) -> QuaDMixConfig:
    """Read a config file; ``preset: paper`` fills in the paper's settings where it is silent."""
    presets = {"default": {}, "paper": QUADMIX_PAPER}
    return config.load(QuaDMixConfig, path, overrides, presets=presets)


def label(settings: QuaDMixConfig, job: Job) -> None:
    """Read, split and tokenise pool and targets, and compute every criterion."""
    chain.label(settings, job)
    prepared = open_stores(settings, job)
    with claimed(job.out, settings), job.stage("quality"), one_thread():
        label_quality(
            job,
            settings.criteria,
            pool=settings.pool,
            prepared=prepared,
            normalisation=settings.normalisation,
            seed=settings.seed,
        )
        if settings.rivals:
            label_quality(
                job,
                settings.rivals,
                pool=settings.pool,
                prepared=prepared,
                normalisation=settings.normalisation,
                seed=settings.seed,
                name=_RIVALS,
            )


def design(settings: QuaDMixConfig, job: Job) -> None:
    """Choose the vectors to be measured first."""
    shared = study(settings, job)
    if artifacts.is_done(job.folder("design")):
        return
    prepared, quality = shared.prepared, shared.quality
    domains, criteria = prepared.store.domains, quality.criteria
    rows = {"natural": curves.natural_curve(domains, criteria)}
    for column, name in enumerate(criteria):
        rows[f"top-{name}"] = curves.top_curve(
            prepared.store,
            quality.normalised,
            criteria,
            column,
            given_tokens(prepared, shared.target_tokens),
        )
    n_drawn = min(settings.curves.start_runs, settings.curves.n_runs) - len(rows)
    drawn = draw_vectors(
        shared.prior,
        n=_DRAWS * n_drawn,
        n_domains=len(domains),
        n_criteria=len(criteria),
        rng=stream(settings.seed, "design"),
    )
    drawn = shared.worth_measuring(drawn)[:n_drawn]
    made = Vectors(
        run_ids=(*rows, *(f"draw-{number:03d}" for number in range(n_drawn))),
        kinds=("natural", *("top" for _ in criteria), *("draw" for _ in range(n_drawn))),
        names=parameter_names(domains, criteria),
        values=np.vstack([*(curve.vector for curve in rows.values()), drawn]),
    )
    with artifacts.writing(
        job.folder("design"),
        stage="design",
        settings=config.dump(settings.prior),
        seed=settings.seed,
        inputs={"quality": artifacts.digest_of(job.folder("quality"))},
    ) as aside:
        write_vectors(aside / VECTORS, made)


def train(settings: QuaDMixConfig, job: Job) -> None:
    """Train a proxy on what each vector samples, later ones where earlier ones point."""
    shared = study(settings, job)
    with job.stage("train"):
        _, runs = shared.measure_in_rounds(first_vectors(job))
        measure.write_measured(job, runs, seed=settings.seed, sweep=job.folder("sweep"))


def fit(settings: QuaDMixConfig, job: Job) -> None:
    """Compare regressions on folds left out and write which ranks the objective best."""
    shared = study(settings, job)
    folder = job.folder("predictor")
    if artifacts.is_done(folder):
        return
    with job.stage("fit"), one_thread():
        measured = shared.measured(last_vectors(job), _read_measured(job))
        ranks = compare_regressions(measured, settings.curves, seed=settings.seed)
    with artifacts.writing(
        folder,
        stage="fit",
        settings=config.dump(settings.curves),
        seed=settings.seed,
        inputs={"runs": artifacts.digest_of(job.folder("runs"))},
    ) as aside:
        best = max(ranks, key=lambda name: ranks[name])
        artifacts.write_json(aside / SCORES, {"chosen": best, "ranks": cast(Json, ranks)})


def search(settings: QuaDMixConfig, job: Job) -> None:
    """Average the best predicted of many drawn and recombined vectors."""
    shared = study(settings, job)
    folder = job.folder("optimum")
    if artifacts.is_done(folder):
        return
    with job.stage("search"), one_thread():
        scores = cast(dict[str, str], artifacts.read_json(job.folder("predictor") / SCORES))
        measured = shared.measured(last_vectors(job), _read_measured(job))
        curve, found = find_curve(
            CurvePredictor.fit(measured, scores["chosen"], seed=settings.seed),
            settings.curves,
            prior=shared.prior,
            limits=shared.limits,
            seed=settings.seed,
            on_progress=shared.progress("search"),
        )
    with artifacts.writing(
        folder,
        stage="search",
        settings=config.dump(settings.curves),
        seed=settings.seed,
        inputs={"predictor": artifacts.digest_of(job.folder("predictor"))},
    ) as aside:
        artifacts.write_json(aside / _CURVE, curve.to_json())
        artifacts.write_json(aside / _FOUND, {"predictor": scores["chosen"], **found})


def select(settings: QuaDMixConfig, job: Job) -> None:
    """Write what the chosen curve samples, evenly discarded to the token budget."""
    prepared = open_stores(settings, job)
    if artifacts.is_done(job.folder("selection")):
        return
    with job.stage("select"):
        copies = curves.draw_sample(
            prepared.store,
            read_quality(job.folder("quality")).normalised,
            (read_curve(job),),
            n_tokens=settings.select.n_tokens or chain.target_tokens(settings, prepared),
            seed=settings.seed,
        )
        made_of = {name: artifacts.digest_of(job.folder(name)) for name in ("optimum", "quality")}
        shipping.select_copies(
            job,
            settings.select,
            pool=settings.pool,
            prepared=prepared,
            copies=copies,
            inputs=made_of,
            seed=settings.seed,
        )


def validate(settings: QuaDMixConfig, job: Job) -> None:
    """Train larger models on the chosen curve and its baselines, and judge."""
    prepared = open_stores(settings, job)
    rivals = rival_curves(settings, job, prepared)
    mixtures = {name: one.mixture for name, one in rivals.items()}
    for name, weights in judging.named_mixtures(settings.validate, prepared.store.domains).items():
        mixtures[name] = Mixture.flat(prepared.store.domains, weights)

    def amend(name: str, spec: TrainingSpec) -> TrainingSpec:
        if name not in rivals:
            return spec
        one = rivals[name]
        return replace(spec, curve=curves_to_json(one.curves), quality=str(one.quality))

    with job.stage("validate"):
        judging.judge(
            job,
            settings.validate,
            proxy=settings.proxy,
            mixtures=mixtures,
            prepared=prepared,
            target_tokens=chain.target_tokens(settings, prepared),
            seed=settings.seed,
            amend=amend,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Rival:
    """A curve, or a union of several, that is trained and judged."""

    curves: tuple[QualityCurve, ...]
    quality: Path
    """File of the normalised criteria they are about."""
    mixture: Mixture
    """Shares they are expected to take."""


def rival_curves(settings: QuaDMixConfig, job: Job, prepared: Prepared) -> dict[str, Rival]:
    """Return what is judged: chosen, natural, the best by each criterion, their union, rivals."""
    budget = given_tokens(prepared, chain.target_tokens(settings, prepared))
    found = {}
    quality = read_quality(job.folder("quality"))
    named = curves.baselines(prepared.store, quality.normalised, quality.criteria, budget)
    for name, some in {CHOSEN: (read_curve(job),), **named}.items():
        found[name] = Rival(
            curves=some,
            quality=job.folder("quality") / NORMALISED,
            mixture=curves.expected_mixture(prepared.store, quality.normalised, some),
        )
    if settings.rivals:
        others = read_quality(job.folder(_RIVALS))
        tops = curves.top_curves(prepared.store, others.normalised, others.criteria, budget)
        for name, curve in zip(others.criteria, tops, strict=True):
            found[name] = Rival(
                curves=(curve,),
                quality=job.folder(_RIVALS) / NORMALISED,
                mixture=curves.expected_mixture(prepared.store, others.normalised, (curve,)),
            )
    return found


def study(settings: QuaDMixConfig, job: Job) -> CurveStudy:
    """Gather what design, measurement, fit and search share.

    Raises:
        InfeasibleError: Limits and supply leave no shares.
    """
    prepared = open_stores(settings, job)
    budget = chain.target_tokens(settings, prepared)
    pool = int(prepared.statistics.available_tokens.sum())
    most = chain.floors(settings, prepared)
    prior = settings.prior.for_budget(budget / pool, max_epochs=settings.max_epochs)
    wanted = float(given_tokens(prepared, budget))
    return CurveStudy(
        job=job,
        prepared=prepared,
        quality=read_quality(job.folder("quality")),
        settings=settings.curves,
        prior=prior,
        limits=CurveLimits(
            shares=chain.constraints(settings, prepared),
            budget=wanted,
            least_tokens=wanted * min(prior.most_copies / settings.max_epochs, 1.0),
            least_unique=settings.curves.least_unique,
            largest_losses=np.array([most.get(name, np.inf) for name in prepared.objective_names]),
        ),
        proxy=settings.proxy,
        target_tokens=budget,
        seed=settings.seed,
    )


def read_curve(job: Job) -> QualityCurve:
    """Read the finished search's answer."""
    folder = artifacts.require(job.folder("optimum"), made_by="cuvee search")
    return QualityCurve.from_json(cast(Mapping[str, Json], artifacts.read_json(folder / _CURVE)))


def read_found(job: Job) -> Mapping[str, Json]:
    """Read what was predicted for the search's answer, and beside it."""
    folder = artifacts.require(job.folder("optimum"), made_by="cuvee search")
    return cast(Mapping[str, Json], artifacts.read_json(folder / _FOUND))


def _read_measured(job: Job) -> Runs:
    return read_runs(artifacts.require(job.folder("runs"), made_by="cuvee train") / "runs.parquet")
