"""The best mixture by a predictor fitted on somebody else's swarm, beside its baselines."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar, cast

import numpy as np

from cuvee import artifacts, config
from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.errors import ConfigError
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
from cuvee.methods.optimising import Question, find
from cuvee.methods.swarm import predictor_folder
from cuvee.search.constraints import Constraints, GroupBound
from cuvee.search.objective import NORMAL_90, Objective, Terms, no_worse
from cuvee.search.settings import SearchConfig
from cuvee.simplex import normalise
from cuvee.tables.optimum import Optimum, read_optimum, write_optimum
from cuvee.tables.predictor import objective_sd
from cuvee.tables.sensitivity import read_sensitivity, write_sensitivity

OPTIMUM_FILE = "optimum.json"
MIXTURES_FILE = "mixtures.json"
SENSITIVITY_FILE = "sensitivity.json"
_SLACK = 1e-3
"""Loss that a floor may be missed by: less than any measurement tells apart."""
WIDE = SearchConfig(n_simulated=32_768, n_best=64)
"""How the mixtures are drawn; published tables say no natural mixture that would guide it."""


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
    groups: tuple[GroupBound, ...] = ()
    """Least and largest shares of several domains together."""
    frozen: tuple[tuple[str, ...], ...] = ()
    """Groups of domains whose shares keep the ratios of the mean of the measured mixtures."""
    floors: Mapping[str, float] = field(default_factory=dict)
    """Largest predicted loss of some targets, in the unit of the fitted losses."""
    worse_by: float | None = None
    """Loss by which any target may be predicted worse than at the mean of the measured mixtures;
    None: no limit."""
    kl: float = 0.0
    """Price of leaving the mean of the measured mixtures: added to the objective for each nat of
    the divergence KL(mixture || mean)."""
    seed: int = 1
    """Of the simulated mixtures."""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.kl) and self.kl >= 0.0):
            raise ConfigError(f"kl is {self.kl:g}; it must be at least 0.")
        if self.worse_by is not None and not self.worse_by >= 0.0:
            raise ConfigError(f"worse_by is {self.worse_by:g}; it must be at least 0.")
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
            found = find(predictor, problem.question, config=WIDE, seed=settings.seed)
            optimum = found.optimum
            with artifacts.writing(
                out,
                stage="search",
                settings=manifest["settings"],
                seed=settings.seed,
                inputs=cast(dict[str, str], manifest["inputs"]),
            ) as aside:
                write_optimum(aside / OPTIMUM_FILE, optimum)
                write_sensitivity(aside / SENSITIVITY_FILE, found.sensitivity)
                artifacts.write_json(
                    aside / MIXTURES_FILE,
                    {
                        "found_by": found.found_by,
                        "mixtures": _mixtures(predictor, problem, optimum),
                    },
                )
    optimum = read_optimum(out / OPTIMUM_FILE)
    table = cast(dict[str, Json], artifacts.read_json(out / MIXTURES_FILE))
    return {
        "folder": str(out),
        "model": predictor.name,
        "objective": dict(zip(optimum.targets, optimum.objective_weights, strict=True)),
        "optimum": cast(dict[str, Json], asdict(optimum)),
        "sensitivity": cast(dict[str, Json], asdict(read_sensitivity(out / SENSITIVITY_FILE))),
        **table,
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Problem:
    """What is searched for, by columns."""

    question: Question
    baselines: Mapping[str, FloatArray]
    measured: Mapping[str, float]
    """Measured objective of a baseline, where it was measured."""


def _problem(folder: Path, predictor: NamedPredictor, settings: SwarmSearchConfig) -> _Problem:
    targets, domains = predictor.targets, predictor.domains
    told = cast(dict[str, Json], artifacts.read_json(folder / artifacts.MANIFEST))["settings"]
    named = settings.objective or cast(dict[str, dict[str, float]], told).get("objective", {})
    objective = objective_weights(targets, named)
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
    floors = dict(settings.floors)
    if settings.worse_by is not None:
        for name, most in no_worse(predictor, reference, by=settings.worse_by).items():
            floors[name] = min(most, floors.get(name, np.inf))
    question = Question(
        objective=objective,
        constraints=Constraints.from_bounds(
            domains,
            caps=np.ones(len(domains)),
            bounds={**caps, **settings.bounds},
            groups=settings.groups,
            frozen=settings.frozen,
            reference=reference,
        ),
        terms=Terms(floors=floors, kl=settings.kl, reference=reference),
        prior=reference,
    )
    Objective.match(predictor, objective, domains, question.terms)
    return _Problem(
        question=question,
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


def _mixtures(
    predictor: NamedPredictor, problem: _Problem, optimum: Optimum
) -> list[dict[str, Json]]:
    """Predict the answer and every baseline; the answer comes first."""
    found = np.array(optimum.weights)
    question = problem.question
    floors = np.array([(question.terms.floors or {}).get(name, np.inf) for name in optimum.targets])
    rows: list[dict[str, Json]] = []
    for name, weights in {"found": found, **problem.baselines}.items():
        mean, sd = predictor.predict(weights[None, :])
        value = float(mean[0] @ question.objective)
        spread = float(objective_sd(predictor, sd, question.objective)[0])
        kept = bool(question.constraints.satisfied(weights)) and bool(
            np.all(mean[0] <= floors + _SLACK)
        )
        rows.append(
            {
                "name": name,
                "weights": dict(zip(predictor.domains, weights.tolist(), strict=True)),
                "predicted": value,
                "interval": [value - NORMAL_90 * spread, value + NORMAL_90 * spread],
                "measured": problem.measured.get(name),
                "distance": float(np.abs(weights - found).sum() / 2.0),
                "allowed": kept,
                "targets": {
                    target: [one, one - NORMAL_90 * width, one + NORMAL_90 * width]
                    for target, one, width in zip(
                        predictor.targets, mean[0].tolist(), sd[0].tolist(), strict=True
                    )
                },
            }
        )
    return rows
