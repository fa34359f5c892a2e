"""The best mixture by a predictor fitted on somebody else's swarm, beside its baselines."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import ClassVar, cast

import numpy as np

from cuvee import artifacts, config
from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.errors import ConfigError, InfeasibleError
from cuvee.executors import one_thread
from cuvee.fit.crossval import baseline_mixtures
from cuvee.fit.named_columns import objective_weights
from cuvee.fit.own_domains import match_own_domains
from cuvee.fit.predictor_files import NamedPredictor, load_predictor
from cuvee.fit.swarm import (
    ROWS_FILE,
    is_reusable,
    read_fitted_runs,
)
from cuvee.methods.swarm import predictor_folder
from cuvee.randomness import stream
from cuvee.search.constraints import Constraints
from cuvee.search.simulate import SearchConfig, minimise
from cuvee.simplex import normalise
from cuvee.tables.optimum import Optimum, read_optimum, write_optimum
from cuvee.tables.predictor import NamedPredictions

OPTIMUM_FILE = "optimum.json"
MIXTURES_FILE = "mixtures.json"
_NORMAL_90 = 1.6448536269514722
_WIDE = SearchConfig(n_simulated=32_768, n_best=64)
_START = SearchConfig(n_simulated=8_192, n_best=64)
"""For the law alone: only where to look about is wanted."""
_NEAR = SearchConfig(
    n_simulated=8_192, n_best=64, temperature=1.0, strengths=(30.0, 100.0, 300.0, 1000.0)
)
"""Draws about a mixture that is good already."""
_SHARE_OF_REFERENCE = 0.02
"""Part of the centre of those draws that keeps every domain in their reach."""
_PENALTY = 1e3
"""Nats of the objective for each nat that a floor is missed by."""
_SLACK = 1e-3
"""Nats that a floor may be missed by: less than any measurement tells apart."""
_TRACE = 1e-12
"""Share of the centre that keeps every domain in reach of draws about a corner."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SwarmSearchConfig:
    """What a mixture is searched for, and what it must keep."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    objective: Mapping[str, float] = field(default_factory=dict)
    """Weights of some targets; none: those the fit was told, or all alike."""
    caps: Mapping[str, float] = field(default_factory=dict)
    """Largest share of some domains, in [0, 1]."""
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Least and largest share of some domains, in [0, 1]."""
    floors: Mapping[str, float] = field(default_factory=dict)
    """Largest predicted loss of some targets, in the unit of the fitted losses."""
    kl: float = 0.0
    """Price of leaving the mean of the measured mixtures: added to the objective for each nat of
    the divergence KL(mixture || mean)."""
    seed: int = 1
    """Of the simulated mixtures."""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.kl) and self.kl >= 0.0):
            raise ConfigError(f"kl is {self.kl:g}; it must be at least 0.")
        twice = sorted(set(self.caps) & set(self.bounds))
        if twice:
            raise ConfigError(
                f"{twice[0]!r} has a cap and a bound; give the bound alone, as LOW:HIGH."
            )


def search_tables(folder: Path, *, settings: SwarmSearchConfig, out: Path) -> dict[str, Json]:
    """Search the mixture of least predicted objective and set it beside the baselines.

    Args:
        folder: Made by `cuvee fit --weights`, or a run's folder.
        settings: Objective and constraints.
        out: Folder of the answer; if it is finished and was made of the same, it is read.

    Returns:
        The mixtures, their predicted losses with intervals, and how the answer was found.

    Raises:
        ArtifactError: There is no predictor, or ``out`` was made of something else.
        ConfigError: A name is no domain's or no target's.
        InfeasibleError: No mixture keeps the constraints.
    """
    folder = predictor_folder(folder)
    predictor = load_predictor(folder)
    problem = _problem(folder, predictor, settings)
    manifest: dict[str, Json] = {
        "stage": "search",
        "settings": config.dump(settings),
        "seed": settings.seed,
        "inputs": {"predictor": artifacts.digest_of(folder)},
    }
    if not is_reusable(out, manifest, what="search"):
        with artifacts.locked(out.parent), one_thread():
            optimum, how = _minimise(predictor, problem, settings)
            with artifacts.writing(
                out,
                stage="search",
                settings=manifest["settings"],
                seed=settings.seed,
                inputs=cast(dict[str, str], manifest["inputs"]),
            ) as aside:
                write_optimum(aside / OPTIMUM_FILE, optimum)
                artifacts.write_json(
                    aside / MIXTURES_FILE,
                    {"found_by": how, "mixtures": _mixtures(predictor, problem, optimum)},
                )
    optimum = read_optimum(out / OPTIMUM_FILE)
    table = cast(dict[str, Json], artifacts.read_json(out / MIXTURES_FILE))
    return {
        "folder": str(out),
        "model": predictor.name,
        "objective": dict(zip(optimum.targets, optimum.objective_weights, strict=True)),
        "optimum": cast(dict[str, Json], asdict(optimum)),
        **table,
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Problem:
    """What is searched for, by columns."""

    objective: FloatArray
    constraints: Constraints
    floors: FloatArray
    """(n_targets,) largest losses; infinite where there is none."""
    reference: FloatArray
    """(n_domains,) mean of the measured mixtures, or uniform where they are not known."""
    baselines: Mapping[str, FloatArray]
    measured: Mapping[str, float]
    """Measured objective of a baseline, where it was measured."""


def _problem(folder: Path, predictor: NamedPredictor, settings: SwarmSearchConfig) -> _Problem:
    targets, domains = predictor.targets, predictor.domains
    told = cast(dict[str, Json], artifacts.read_json(folder / artifacts.MANIFEST))["settings"]
    named = settings.objective or cast(dict[str, dict[str, float]], told).get("objective", {})
    objective = objective_weights(targets, named)
    unknown = sorted(set(settings.floors) - set(targets))
    if unknown:
        raise ConfigError(
            f"--floor names {unknown[0]!r}, which is no target; targets are {', '.join(targets)}."
        )
    caps = {name: (0.0, share) for name, share in settings.caps.items()}
    uniform = np.full(len(domains), 1.0 / len(domains))
    runs = read_fitted_runs(folder)
    reference = uniform if runs is None else normalise(runs.weights.mean(axis=0))
    baselines = baseline_mixtures(
        reference,
        uniform[None, :] if runs is None else runs.weights,
        np.zeros((1, len(targets))) if runs is None else runs.losses,
        own=_own(folder, predictor),
        objective=objective,
    )
    baselines = {"mean of the measured": baselines.pop("natural"), **baselines}
    if runs is None:
        del baselines["mean of the measured"], baselines["best-measured"]
    return _Problem(
        objective=objective,
        constraints=Constraints.from_bounds(
            domains, caps=np.ones(len(domains)), bounds={**caps, **settings.bounds}
        ),
        floors=np.array([settings.floors.get(name, np.inf) for name in targets]),
        reference=reference,
        baselines=baselines,
        measured=(
            {} if runs is None else {"best-measured": float((runs.losses @ objective).min())}
        ),
    )


def _own(folder: Path, predictor: NamedPredictor) -> tuple[int | None, ...]:
    """Return each target's own domain as the fit knew it, else by name."""
    path = folder / ROWS_FILE
    if not path.exists():
        return match_own_domains(predictor.domains, predictor.targets)
    known = cast(dict[str, dict[str, str | None]], artifacts.read_json(path))["own"]
    columns = [known.get(target) for target in predictor.targets]
    return tuple(None if name is None else predictor.domains.index(name) for name in columns)


def _minimise(
    predictor: NamedPredictor, problem: _Problem, settings: SwarmSearchConfig
) -> tuple[Optimum, str]:
    """Search by simulation, and about the answer of the model's own convex law where it has one."""
    model = _Priced(predictor=predictor, problem=problem, kl=settings.kl)
    found = {"simulation": _simulate(model, problem.reference, _WIDE, "wide", settings.seed)}
    law = getattr(predictor.model, "law_", None)
    if law is not None:
        teacher = replace(model, predictor=replace(predictor, model=law))
        start = _simulate(teacher, problem.reference, _START, "law", settings.seed)
        centre = (1.0 - _SHARE_OF_REFERENCE) * np.array(start.weights)
        centre += _SHARE_OF_REFERENCE * problem.reference
        found["simulation about the best mixture of its convex law"] = _simulate(
            model, normalise(centre), _NEAR, "near", settings.seed
        )
    how = min(found, key=lambda one: found[one].predicted)
    return _described(predictor, problem, found[how]), how


def _simulate(
    model: "_Priced", prior: FloatArray, search: SearchConfig, name: str, seed: int
) -> Optimum:
    return minimise(
        model,
        model.problem.objective,
        constraints=model.problem.constraints,
        prior=prior,
        config=search,
        rng=stream(seed, "search", name),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Priced:
    """A predictor whose losses hold the prices of leaving the reference and missing a floor."""

    predictor: NamedPredictions
    problem: _Problem
    kl: float

    @property
    def domains(self) -> tuple[str, ...]:
        return self.predictor.domains

    @property
    def targets(self) -> tuple[str, ...]:
        return self.predictor.targets

    def predict(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Add the price to every target: the objective's weights sum to 1."""
        mean, sd = self.predictor.predict(weights)
        missed = np.maximum(mean - self.problem.floors, 0.0).sum(axis=1)
        price = _PENALTY * missed
        if self.kl > 0.0:
            reference = np.maximum(self.problem.reference, _TRACE)
            ratio = np.where(weights > 0.0, weights, 1.0) / reference
            price = price + self.kl * np.sum(weights * np.log(ratio), axis=1)
        return mean + price[:, None], sd


def _described(predictor: NamedPredictor, problem: _Problem, optimum: Optimum) -> Optimum:
    """Return the answer with its predictions free of prices; refuse one that misses a floor."""
    mean, sd = predictor.predict(np.array(optimum.weights)[None, :])
    missed = mean[0] - problem.floors
    for column in np.flatnonzero(missed > _SLACK)[:1]:
        raise InfeasibleError(
            f"no mixture was found whose predicted loss of {predictor.targets[column]!r} is at "
            f"most {problem.floors[column]:g}; the nearest has {mean[0, column]:.4f}. Raise this "
            "floor, or leave out another constraint."
        )
    value, spread = float(mean[0] @ problem.objective), float(sd[0] @ problem.objective)
    return replace(
        optimum,
        predicted=value,
        predicted_sd=spread,
        interval=(value - _NORMAL_90 * spread, value + _NORMAL_90 * spread),
        target_means=tuple(mean[0].tolist()),
        target_sds=tuple(sd[0].tolist()),
    )


def _mixtures(
    predictor: NamedPredictor, problem: _Problem, optimum: Optimum
) -> list[dict[str, Json]]:
    """Predict the answer and every baseline; the answer comes first."""
    found = np.array(optimum.weights)
    rows: list[dict[str, Json]] = []
    for name, weights in {"found": found, **problem.baselines}.items():
        mean, sd = predictor.predict(weights[None, :])
        value, spread = float(mean[0] @ problem.objective), float(sd[0] @ problem.objective)
        kept = bool(problem.constraints.satisfied(weights)) and bool(
            np.all(mean[0] <= problem.floors + _SLACK)
        )
        rows.append(
            {
                "name": name,
                "weights": dict(zip(predictor.domains, weights.tolist(), strict=True)),
                "predicted": value,
                "interval": [value - _NORMAL_90 * spread, value + _NORMAL_90 * spread],
                "measured": problem.measured.get(name),
                "distance": float(np.abs(weights - found).sum() / 2.0),
                "allowed": kept,
                "targets": {
                    target: [one, one - _NORMAL_90 * width, one + _NORMAL_90 * width]
                    for target, one, width in zip(
                        predictor.targets, mean[0].tolist(), sd[0].tolist(), strict=True
                    )
                },
            }
        )
    return rows
