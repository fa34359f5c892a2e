"""How well do proxies of quality curves predict curves they were never fitted on?

``python -m benchmarks.curve_ranks --config CONFIG --out DIR [--extra 32] [--normalisation zscore]
[--json FILE]``

DIR is a run of `cuvee run quadmix CONFIG` up to its sweep. Further vectors are drawn from its prior
and trained like its proxies (kept below DIR, so that the command can be repeated); every regression
is fitted on the first 16, 32, 48, ... of the run's own proxies and asked about the further ones.
Figures are Spearman correlations with the measured objective, and mean over single targets.

Each ``--normalisation`` names a scale of the criteria to compare with the config's own: the same
run is made again on it up to its sweep, below DIR/<normalisation>, with further vectors of its own.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np

from cuvee.design.quality_prior import draw_vectors
from cuvee.executors import one_thread
from cuvee.fit.feature_models import REGRESSIONS, mean_rank
from cuvee.methods import quadmix
from cuvee.methods.curve_fit import FEATURES, CurvePredictor, MeasuredCurves
from cuvee.methods.curve_study import CurveStudy, last_vectors
from cuvee.methods.job import Job
from cuvee.methods.quadmix import QuaDMixConfig
from cuvee.policy.quality_curve import parameter_names
from cuvee.policy.ranks import Normalisation
from cuvee.randomness import stream
from cuvee.tables.runs import read_runs
from cuvee.tables.vectors import Vectors

STEP = 16


def main() -> None:
    """Read the command line; train what is missing, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="config of the run")
    parser.add_argument("--out", type=Path, required=True, help="its folder")
    parser.add_argument("--extra", type=int, default=32, help="vectors that are never fitted")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], help="overrides of the config")
    parser.add_argument(
        "--normalisation",
        action="append",
        default=[],
        choices=get_args(Normalisation),
        help="a scale of the criteria to compare with the config's; may be repeated",
    )
    parser.add_argument("--json", type=Path, help="file the result is written to")
    options = parser.parse_args()
    settings = quadmix.load_config(options.config, tuple(options.set))
    others = [name for name in options.normalisation if name != settings.normalisation]
    result = {}
    for name in (settings.normalisation, *others):
        is_own = name == settings.normalisation
        job = Job(out=options.out if is_own else options.out / name, workers=options.workers)
        found = further_ranks(replace(settings, normalisation=name), job, n_extra=options.extra)
        result |= found if is_own else {f"{name}: {key}": row for key, row in found.items()}
    for name, by_number in result.items():
        told = "  ".join(f"{number}: {value:.3f}" for number, value in by_number.items())
        print(f"{name:<36} {told}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def further_ranks(
    settings: QuaDMixConfig, job: Job, *, n_extra: int
) -> dict[str, dict[str, float]]:
    """Make a run up to its sweep where it is not made, train further vectors and rank them."""
    for stage in (quadmix.label, quadmix.design, quadmix.train):
        stage(settings, job)
    shared = quadmix.study(settings, job)
    extra = _extra(shared, n_extra)
    runs = shared.measure(extra, "train further vectors", job.folder("further"))
    asked = shared.measured(extra, runs)
    known = shared.measured(last_vectors(job), read_runs(job.folder("runs") / "runs.parquet"))
    with one_thread():
        return ranks(known, asked)


def ranks(known: MeasuredCurves, asked: MeasuredCurves) -> dict[str, dict[str, float]]:
    """Fit on the first runs and rank the further ones, by regression and number of runs."""
    contents = asked.induce(asked.vectors)
    truth = asked.losses @ asked.objective
    found: dict[str, dict[str, float]] = {}
    for features in FEATURES:
        for kind in REGRESSIONS:
            name = f"{features}/{kind}"
            for number in [*range(STEP, len(known.vectors), STEP), len(known.vectors)]:
                part = MeasuredCurves(
                    vectors=known.vectors[:number],
                    losses=known.losses[:number],
                    objective=known.objective,
                    sample=known.sample,
                    criteria=known.criteria,
                )
                mean, _ = CurvePredictor.fit(part, name, seed=1).predict(asked.vectors, contents)
                found.setdefault(name, {})[str(number)] = mean_rank(mean @ asked.objective, truth)
            single = [
                mean_rank(mean[:, column], asked.losses[:, column])
                for column in range(asked.losses.shape[1])
            ]
            found[name]["mean of single targets"] = float(np.mean(single))
    return found


def _extra(shared: CurveStudy, n: int) -> Vectors:
    store, criteria = shared.prepared.store, shared.quality.criteria
    drawn = draw_vectors(
        shared.prior,
        n=n,
        n_domains=len(store.domains),
        n_criteria=len(criteria),
        rng=stream(shared.seed, "never fitted"),
    )
    return Vectors(
        run_ids=tuple(f"further-{number:03d}" for number in range(n)),
        kinds=("draw",) * n,
        names=parameter_names(store.domains, criteria),
        values=drawn,
    )


if __name__ == "__main__":
    main()
