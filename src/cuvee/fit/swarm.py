"""Fit a predictor on tables somebody else measured, and ask it about tables of mixtures."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cuvee import artifacts
from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.errors import ArtifactError
from cuvee.fit.crossval import Score, held_out_correlation, n_repeats, scores_to_json
from cuvee.fit.leaderboard import (
    HeldOut,
    OnProgress,
    can_validate,
    compare_models,
    hold_out,
)
from cuvee.fit.models import DEFAULT_MODEL, make_model, model_class
from cuvee.fit.named_columns import objective_weights, own_columns
from cuvee.fit.predictor_files import NamedPredictor, load_predictor, write_predictor
from cuvee.randomness import stream
from cuvee.tables.swarm import Swarm, read_weights_csv, write_predictions_csv

SCORES_FILE = "scores.json"
LEADERBOARD_FILE = "leaderboard.json"
ROWS_FILE = "rows.json"
"""Ids of the runs fitted, how they were chosen, own domains and outliers."""
RUNS_FILE = "runs.parquet"
"""The runs fitted: ``run_id``, ``weight:<domain>`` and ``loss:<target>``."""
AUTO = "auto"
"""Name that stands for the model that wins the cross-validation."""
MEAN_OF_TARGETS = "mean of targets"
"""Name of the score of the plain mean over targets."""
OBJECTIVE = "objective"
"""Name of the score of a weighted sum of targets."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SwarmFitConfig:
    """How somebody else's swarm is fitted."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    model: str = DEFAULT_MODEL
    """A key of `fit.models.MODELS`, or auto: the one that predicts held-out runs best."""
    seed: int = 1
    """Of folds and fits; the same runs and seed give the same bytes."""
    own: Mapping[str, str] = field(default_factory=dict)
    """Own domain of some targets, where the names do not tell."""
    objective: Mapping[str, float] = field(default_factory=dict)
    """Weights of some targets, at least 0, scaled to sum to 1; none: all count alike."""

    def __post_init__(self) -> None:
        if self.model != AUTO:
            model_class(self.model)


@dataclass(frozen=True, kw_only=True, slots=True)
class SwarmFit:
    """What `fit_swarm` found."""

    folder: Path
    """The predictor's artefact folder."""
    model: str
    n_runs: int
    domains: tuple[str, ...]
    targets: tuple[str, ...]
    own: Mapping[str, str | None]
    """Each target's own domain; None where it has none."""
    own_detected: bool
    """True where the model found the own domains by the losses, since no name told any."""
    scores: tuple[Score, ...]
    """Cross-validated, one a target, then one of the objective; empty below 4 runs."""
    leaderboard: Mapping[str, Json] | None
    """All models beside the baselines, where the model was chosen by them."""
    seconds: Mapping[str, float]
    """Wall-clock time by model, where models were compared; not part of the artefact."""
    converged: bool
    notices: tuple[str, ...]
    """What was put right while reading, and which runs are outliers."""
    reused: bool
    """True where the folder was already there, made of the same tables."""


def fit_swarm(
    swarm: Swarm,
    *,
    config: SwarmFitConfig,
    out: Path,
    inputs: Mapping[str, str],
    chosen: Mapping[str, Json] | None = None,
    carried: Mapping[str, Json] | None = None,
    on_progress: OnProgress = lambda done, total, note: None,
) -> SwarmFit:
    """Fit a predictor on a swarm, cross-validate it and write its folder.

    Args:
        swarm: The runs to fit.
        config: Model, objective and own domains.
        out: Folder of the predictor. If it is finished and was made of the same, it is kept.
        inputs: Digests of the tables, by name.
        chosen: How the runs were chosen from the tables; None where all of them are fitted.
        carried: Size and tokens that a study's losses were carried to; None for finished runs.
        on_progress: Told how far the comparison of models is.

    Returns:
        The result and its figures on held-out folds.

    Raises:
        ConfigError: A target or domain that the config names is not in the tables, or no model can
            be fitted.
        ArtifactError: ``out`` was made of something else, or is no predictor's folder.
    """
    own = own_columns(swarm, config.own)
    objective = objective_weights(swarm.targets, config.objective)
    known = own if any(column is not None for column in own) else None
    settings: dict[str, Json] = {
        "model": config.model,
        "own": dict(config.own),
        "objective": dict(config.objective),
        "rows": None if chosen is None else dict(chosen),
        "carried": None if carried is None else dict(carried),
    }
    manifest: dict[str, Json] = {
        "stage": "fit",
        "settings": settings,
        "seed": config.seed,
        "inputs": dict(inputs),
    }
    reused = is_reusable(out, manifest, what="predictor")
    if not reused:
        with artifacts.writing(
            out, stage="fit", settings=settings, seed=config.seed, inputs=inputs
        ) as aside:
            name, held_out = _validated(aside, swarm, config, known, objective, on_progress)
            fitted = make_model(name, own=known).fit(
                swarm.weights, swarm.losses, rng=stream(config.seed, "fit", name)
            )
            named = NamedPredictor(
                model=fitted,
                name=name,
                domains=swarm.domains,
                targets=swarm.targets,
                error_correlation=(
                    held_out_correlation(held_out.validations, swarm.losses) if held_out else None
                ),
            )
            write_predictor(aside, named)
            label = OBJECTIVE if config.objective else MEAN_OF_TARGETS
            scores = held_out.scores(swarm, objective, objective_name=label) if held_out else ()
            artifacts.write_json(aside / SCORES_FILE, scores_to_json(scores))
            _write_runs(aside, swarm)
            artifacts.write_json(aside / ROWS_FILE, _rows(swarm, named, own, chosen))
    return _result(out, swarm, reused=reused)


def predict_swarm(folder: Path, weights_csv: Path, out_csv: Path) -> int:
    """Predict the losses of a table of mixtures.

    Args:
        folder: A predictor's folder.
        weights_csv: ``index``, then one column a domain; matched by name, in any order.
        out_csv: Written: ``index``, one column a target, then ``<target>_sd`` for each; rows in the
            order of the input.

    Returns:
        Number of mixtures predicted.

    Raises:
        ArtifactError: The folder holds no predictor.
        DataError: The table is not what it must be, or its domains are not the predictor's.
    """
    predictor = load_predictor(folder)
    table = read_weights_csv(weights_csv)
    mean, sd = predictor.predict_named(table.columns, table.values)
    write_predictions_csv(out_csv, table.ids, predictor.targets, mean, sd)
    return len(table.ids)


def read_fitted_runs(folder: Path) -> Swarm | None:
    """Read the runs that a predictor was fitted on.

    Args:
        folder: A predictor's folder.

    Returns:
        The runs, or None where the folder does not hold them.
    """
    path = folder / RUNS_FILE
    if not path.exists():
        return None
    table = pq.read_table(path)
    names = {
        kind: tuple(name.removeprefix(kind) for name in table.column_names if name.startswith(kind))
        for kind in (_WEIGHT, _LOSS)
    }
    weights, losses = (
        np.column_stack([table[f"{kind}{name}"].to_numpy() for name in names[kind]])
        for kind in (_WEIGHT, _LOSS)
    )
    return Swarm(
        ids=tuple(table["run_id"].to_pylist()),
        domains=names[_WEIGHT],
        targets=names[_LOSS],
        weights=weights,
        losses=losses,
        notices=(),
    )


def is_reusable(out: Path, manifest: Mapping[str, Json], *, what: str) -> bool:
    """Tell whether a folder is finished and of the same making; refuse any other folder.

    Args:
        out: The folder.
        manifest: What its manifest must say: stage, settings, seed and inputs.
        what: What it should hold, in one word, for the message.

    Raises:
        ArtifactError: It was made of something else, or is not cuvee's.
    """
    if not artifacts.is_done(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ArtifactError(
                f"{out} exists and is no finished {what}; give --out an empty or new folder."
            )
        return False
    found = cast(dict[str, Json], artifacts.read_json(out / artifacts.MANIFEST))
    other = [key for key, value in manifest.items() if found.get(key) != value]
    if other:
        raise ArtifactError(
            f"{out} was made with other {', '.join(other)}; delete it or give another --out."
        )
    return True


_WEIGHT, _LOSS = "weight:", "loss:"


def _validated(
    aside: Path,
    swarm: Swarm,
    config: SwarmFitConfig,
    own: tuple[int | None, ...] | None,
    objective: FloatArray,
    on_progress: OnProgress,
) -> tuple[str, HeldOut | None]:
    """Return the model to fit and its held-out predictions; write what they were chosen by."""
    if config.model == AUTO:
        board, held_out, seconds = compare_models(
            swarm, own=own, objective=objective, seed=config.seed, on_progress=on_progress
        )
        artifacts.write_json(aside / LEADERBOARD_FILE, board.to_json())
        artifacts.write_json(aside / artifacts.TIMING, seconds)
        return board.winner, held_out
    if not can_validate(swarm):
        return config.model, None
    repeats = n_repeats(len(swarm.ids))
    on_progress(0, repeats, config.model)
    done = itertools.count(1)
    return config.model, hold_out(
        config.model,
        swarm,
        own=own,
        seed=config.seed,
        on_repeat=lambda: on_progress(next(done), repeats, config.model),
    )


def _write_runs(aside: Path, swarm: Swarm) -> None:
    columns: dict[str, object] = {"run_id": list(swarm.ids)}
    for kind, names, values in (
        (_WEIGHT, swarm.domains, swarm.weights),
        (_LOSS, swarm.targets, swarm.losses),
    ):
        columns |= {f"{kind}{name}": values[:, place] for place, name in enumerate(names)}
    pq.write_table(pa.table(columns), aside / RUNS_FILE)


def _rows(
    swarm: Swarm,
    predictor: NamedPredictor,
    own: tuple[int | None, ...],
    chosen: Mapping[str, Json] | None,
) -> dict[str, Json]:
    """Describe the fitted runs: ids, how they were chosen, own domains, outliers by name."""
    outliers = getattr(predictor.model, "outliers_", ())
    found = _detected(predictor) if all(column is None for column in own) else None
    own = own if found is None else found
    return {
        "run_ids": list(swarm.ids),
        "chosen": None if chosen is None else dict(chosen),
        "own": {
            target: None if column is None else swarm.domains[column]
            for target, column in zip(swarm.targets, own, strict=True)
        },
        "own_detected": found is not None and any(column is not None for column in found),
        "outliers": [
            {"run": swarm.ids[run], "target": swarm.targets[target]} for run, target in outliers
        ],
    }


def _detected(predictor: NamedPredictor) -> tuple[int | None, ...] | None:
    """Return the own domains that a model, or the process within it, has found by itself."""
    for model in (predictor.model, getattr(predictor.model, "process_", None)):
        member = getattr(model, "own_", None)
        if member is not None:
            return tuple(int(row.argmax()) if row.any() else None for row in np.asarray(member))
    return None


def _result(out: Path, swarm: Swarm, *, reused: bool) -> SwarmFit:
    predictor = load_predictor(out)
    rows = cast(dict[str, Any], artifacts.read_json(out / ROWS_FILE))
    return SwarmFit(
        folder=out,
        model=predictor.name,
        n_runs=len(swarm.ids),
        domains=predictor.domains,
        targets=predictor.targets,
        own=rows["own"],
        own_detected=rows["own_detected"],
        scores=_read_scores(out),
        leaderboard=cast("Mapping[str, Json] | None", _read_if_there(out / LEADERBOARD_FILE)),
        seconds=cast(Mapping[str, float], _read_if_there(out / artifacts.TIMING) or {}),
        converged=predictor.model.converged_,
        notices=(*swarm.notices, *_outlier_notices(rows["outliers"])),
        reused=reused,
    )


def _outlier_notices(outliers: Sequence[Mapping[str, str]]) -> list[str]:
    """Name each outlying run once, with the targets it is an outlier of."""
    targets: dict[str, list[str]] = {}
    for one in outliers:
        targets.setdefault(one["run"], []).append(one["target"])
    return [
        f"run {run} is far from the fit on {', '.join(names[:3])}"
        f"{f' and {len(names) - 3} more targets' if len(names) > 3 else ''} and counts less there"
        for run, names in targets.items()
    ]


def _read_if_there(path: Path) -> Json:
    return artifacts.read_json(path) if path.exists() else None


def _read_scores(folder: Path) -> tuple[Score, ...]:
    rows = cast(list[dict[str, Json]], artifacts.read_json(folder / SCORES_FILE))
    return tuple(Score(**row) for row in rows)  # type: ignore[arg-type]
