"""Fit a predictor on tables somebody else measured, and ask it about tables of mixtures."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from cuvee import artifacts
from cuvee.artifacts import Json
from cuvee.errors import ArtifactError
from cuvee.fit.crossval import (
    Score,
    cross_validate,
    score_objective,
    score_targets,
    scores_to_json,
)
from cuvee.fit.models import CONSTANT_ERRORS, make_fold_model, make_model, model_class
from cuvee.fit.own_domains import match_own_domains
from cuvee.fit.predictor_files import NamedPredictor, load_predictor, write_predictor
from cuvee.randomness import stream
from cuvee.tables.swarm import (
    Swarm,
    match_runs,
    read_losses_csv,
    read_weights_csv,
    write_predictions_csv,
)

SCORES_FILE = "scores.json"
MEAN_OF_TARGETS = "mean of targets"
"""Name of the score of the plain mean over targets."""
MINIMUM_RUNS = 4
"""Fewer runs can be fitted but not cross-validated."""
N_FOLDS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class SwarmFit:
    """What `fit_swarm` found."""

    folder: Path
    """The predictor's artefact folder."""
    model: str
    n_runs: int
    domains: tuple[str, ...]
    targets: tuple[str, ...]
    own: tuple[int | None, ...]
    """(n_targets,) column of each target's own domain, matched by name."""
    scores: tuple[Score, ...]
    """Cross-validated, one a target, then one of their mean; empty below 4 runs."""
    converged: bool
    notices: tuple[str, ...]
    """What was put right while reading."""
    reused: bool
    """True where the folder was already there, made of the same tables."""


def fit_swarm(weights_csv: Path, losses_csv: Path, *, model: str, out: Path, seed: int) -> SwarmFit:
    """Fit a predictor on two tables, cross-validate it and write its folder.

    Args:
        weights_csv: ``index``, then one column a domain.
        losses_csv: ``index``, then one column a target.
        model: A key of `fit.models.MODELS`.
        out: Folder of the predictor. If it is finished and was made of the same, it is kept.
        seed: Of folds and starts; the same tables and seed give the same bytes.

    Returns:
        The result and its figures on held-out folds.

    Raises:
        ConfigError: No predictor has this name.
        DataError: The tables are not what they must be.
        ArtifactError: ``out`` was made of something else, or is no predictor's folder.
    """
    model_class(model)
    swarm = match_runs(read_weights_csv(weights_csv), read_losses_csv(losses_csv))
    own = match_own_domains(swarm.domains, swarm.targets)
    manifest = _manifest(weights_csv, losses_csv, model, seed)
    reused = _is_reusable(out, manifest)
    if not reused:
        scores = _cross_validated(swarm, model, own, seed)
        fitted = make_model(model, own=own).fit(
            swarm.weights, swarm.losses, rng=stream(seed, "fit", model)
        )
        named = NamedPredictor(
            model=fitted, name=model, domains=swarm.domains, targets=swarm.targets
        )
        with artifacts.writing(
            out,
            stage="fit",
            settings=manifest["settings"],
            seed=seed,
            inputs=cast(dict[str, str], manifest["inputs"]),
        ) as aside:
            write_predictor(aside, named)
            artifacts.write_json(aside / SCORES_FILE, scores_to_json(scores))
    return _result(out, swarm, own, reused=reused)


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


def _manifest(weights_csv: Path, losses_csv: Path, model: str, seed: int) -> dict[str, Json]:
    return {
        "stage": "fit",
        "settings": {"model": model},
        "seed": seed,
        "inputs": {
            "weights": artifacts.digest_file(weights_csv),
            "losses": artifacts.digest_file(losses_csv),
        },
    }


def _is_reusable(out: Path, manifest: dict[str, Json]) -> bool:
    """Tell whether the folder is finished and of the same making; refuse any other folder."""
    if not artifacts.is_done(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ArtifactError(
                f"{out} exists and is no finished predictor; give --out an empty or new folder."
            )
        return False
    found = cast(dict[str, Json], artifacts.read_json(out / artifacts.MANIFEST))
    other = [key for key, value in manifest.items() if found.get(key) != value]
    if other:
        raise ArtifactError(
            f"{out} was made with other {', '.join(other)}; delete it or give another --out."
        )
    return True


def _cross_validated(
    swarm: Swarm, model: str, own: tuple[int | None, ...], seed: int
) -> tuple[Score, ...]:
    n_mixtures = len(np.unique(swarm.weights.round(9), axis=0))
    if len(swarm.ids) < MINIMUM_RUNS or n_mixtures < MINIMUM_RUNS:
        return ()
    validation = cross_validate(
        lambda: make_fold_model(model, own=own),
        swarm.weights,
        swarm.losses,
        n_folds=N_FOLDS,
        constant_errors=model in CONSTANT_ERRORS,
        rng=stream(seed, "cross-validation", model),
    )
    n_targets = len(swarm.targets)
    mean_of_targets = score_objective(
        validation, swarm.losses, np.full(n_targets, 1.0 / n_targets), name=MEAN_OF_TARGETS
    )
    return (*score_targets(validation, swarm.losses, swarm.targets), mean_of_targets)


def _result(out: Path, swarm: Swarm, own: tuple[int | None, ...], *, reused: bool) -> SwarmFit:
    predictor = load_predictor(out)
    return SwarmFit(
        folder=out,
        model=predictor.name,
        n_runs=len(swarm.ids),
        domains=predictor.domains,
        targets=predictor.targets,
        own=own,
        scores=_read_scores(out),
        converged=predictor.model.converged_,
        notices=swarm.notices,
        reused=reused,
    )


def _read_scores(folder: Path) -> tuple[Score, ...]:
    rows = cast(list[dict[str, Json]], artifacts.read_json(folder / SCORES_FILE))
    return tuple(Score(**row) for row in rows)  # type: ignore[arg-type]
