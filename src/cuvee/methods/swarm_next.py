"""What to measure next, for a sweep that others run: a table of mixtures, and when to stop."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import cast

import numpy as np

from cuvee import artifacts
from cuvee.artifacts import Json
from cuvee.design.sequential import (
    SequentialConfig,
    draw_candidates,
    expected_regret,
    propose_next,
    should_stop,
)
from cuvee.errors import ArtifactError
from cuvee.executors import one_thread
from cuvee.fit.named_columns import objective_weights
from cuvee.fit.predictor_files import load_predictor
from cuvee.fit.swarm import read_fitted_runs
from cuvee.methods.swarm import predictor_folder
from cuvee.randomness import stream
from cuvee.search.constraints import Constraints
from cuvee.simplex import normalise
from cuvee.tables.swarm import write_weights_csv


def propose_tables(
    folder: Path,
    *,
    n: int,
    objective: Mapping[str, float],
    caps: Mapping[str, float],
    out_csv: Path,
    seed: int,
) -> dict[str, Json]:
    """Propose the next mixtures to be measured and write them as a table of weights.

    Args:
        folder: Made by `cuvee fit --weights`.
        n: Mixtures wanted.
        objective: Weight of each target; empty: that of the fit.
        caps: Largest shares of some domains.
        out_csv: Written: ``index``, then one column a domain.
        seed: Of the candidates.

    Returns:
        The mixtures with their predicted objective, what is still expected to be gained, and
        whether it is worth measuring them.

    Raises:
        ArtifactError: There is no predictor, or it does not know what it was fitted on.
        ConfigError: A name is no domain's or no target's.
        InfeasibleError: No mixture keeps the caps.
    """
    folder = predictor_folder(folder)
    predictor, runs = load_predictor(folder), read_fitted_runs(folder)
    if runs is None:
        raise ArtifactError(
            f"{folder} does not hold the runs it was fitted on; fit the tables again with `cuvee "
            "fit --weights --losses`."
        )
    told = cast(dict[str, Json], artifacts.read_json(folder / artifacts.MANIFEST))["settings"]
    named = objective or cast(dict[str, dict[str, float]], told).get("objective", {})
    weights = objective_weights(predictor.targets, named)
    constraints = Constraints.from_bounds(
        predictor.domains,
        caps=np.ones(len(predictor.domains)),
        bounds={name: (0.0, share) for name, share in caps.items()},
    )
    config = SequentialConfig(batch_size=n, n_exploratory=min(n, max(1, n // 4)))
    with one_thread():
        candidates = draw_candidates(
            predictor,
            weights,
            prior=normalise(runs.weights.mean(axis=0)),
            move=constraints.project,
            config=config,
            rng=stream(seed, "next", len(runs.weights)),
        )
        regret = expected_regret(predictor, weights, measured=runs.weights, candidates=candidates)
        batch = propose_next(
            predictor, weights, measured=runs.weights, candidates=candidates, config=config
        )
    names = tuple(f"next-{len(runs.weights) + place:03d}" for place in range(n))
    write_weights_csv(out_csv, names, predictor.domains, batch.weights)
    return {
        "table": str(out_csv),
        "n_measured": len(runs.weights),
        "stop": should_stop(regret, config),
        "regret": cast(dict[str, Json], asdict(regret)),
        "mixtures": [
            {"name": name, "role": role, "predicted": float(mean), "sd": float(sd)}
            for name, role, mean, sd in zip(
                names, batch.roles, batch.predicted, batch.predicted_sd, strict=True
            )
        ],
    }


def describe_next(result: Mapping[str, Json]) -> str:
    """Write a proposal for people."""
    regret = cast(dict[str, float], result["regret"])
    lines = [f"{'mixture':<12} {'why':<12} {'predicted':>10} {'sd':>8}"]
    lines += [
        f"{one['name']!s:<12} {one['role']!s:<12} {cast(float, one['predicted']):>10.4f} "
        f"{cast(float, one['sd']):>8.4f}"
        for one in cast(list[dict[str, Json]], result["mixtures"])
    ]
    verdict = "little: enough runs are measured" if result["stop"] else "worth measuring"
    lines.append(
        f"after {result['n_measured']} runs one more is expected to gain {regret['expected']:.4f} "
        f"({verdict}); a run's noise is about {regret['noise']:.4f}"
    )
    lines.append(f"table of weights: {result['table']}")
    return "\n".join(lines)
