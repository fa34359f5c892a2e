"""Targets that are mixtures of domains: by known composition, by learnt one, and beside one law.

``python -m benchmarks.composition_laws [--quick] [--data DIR] [--json FILE]``

RegMix's 512 training mixtures at 1M only: 64 random ones are fitted, the others are predicted.
``single`` is the mean over the 13 targets; ``composed`` the mean of the 13 losses, predicted as the
mean of the predictions (its 90% interval by the bound, and by held-out errors); ``direct`` the same
mean fitted as one target. ``posterior``, ``cv_plus`` and ``bootstrap`` are coverages of 90%
intervals of single targets. Spearman correlations, root mean square errors in nats; means over row
seeds 100 and on. Priors and the rule for components were set on other row seeds.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from cuvee.arrays import FloatArray, IntArray
from cuvee.fit.compositions import CompositionLaw, compose
from cuvee.fit.convex_laws import ConvexLaw, ExponentialMixingLaw
from cuvee.fit.crossval import assign_folds, cross_validate, rank_correlation
from cuvee.fit.predictor_files import NamedPredictor
from cuvee.fit.resampling import bootstrap, jackknife_plus
from cuvee.tables.swarm import Swarm, match_runs, read_losses_csv, read_weights_csv

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "regmix"
N_RUNS, FIRST_SEED = 64, 100
SEEDS, QUICK_SEEDS = 10, 2
INTERVAL = 1.6448536269514722
MODELS: dict[str, type[ConvexLaw]] = {
    "exponential": ExponentialMixingLaw,
    "implicit-law": CompositionLaw,
}

Figures = dict[str, float]


def main() -> None:
    """Read the command line; measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 row seeds")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of RegMix's tables")
    parser.add_argument("--json", type=Path, help="file the result is written to")
    options = parser.parse_args()
    with threadpool_limits(limits=1):
        result = measure(options.data, n_seeds=QUICK_SEEDS if options.quick else SEEDS)
    for name, value in result["figures"].items():
        print(f"{name:40} {value:8.4f}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measure(data: Path, *, n_seeds: int) -> dict[str, Figures]:
    """Fit and judge both laws; ``figures`` and ``conditions``."""
    swarm = match_runs(
        read_weights_csv(data / "train_mixture_1m.csv"),
        read_losses_csv(data / "train_pile_loss_1m.csv"),
    )
    found: list[Figures] = []
    for seed in range(FIRST_SEED, FIRST_SEED + n_seeds):
        rng = np.random.default_rng(seed)
        rows = rng.permutation(len(swarm.weights))
        fitted, asked = rows[:N_RUNS], rows[N_RUNS:]
        figures = resampled(swarm, fitted, asked, rng)
        for name, kind in MODELS.items():
            figures |= judge(name, kind, swarm, fitted, asked, rng)
        found.append(figures)
    return {
        "figures": {
            name: round(float(np.mean([one[name] for one in found])), 4) for name in found[0]
        },
        "conditions": {"n_runs": N_RUNS, "n_seeds": n_seeds},
    }


def judge(
    name: str,
    kind: type[ConvexLaw],
    swarm: Swarm,
    fitted: IntArray,
    asked: IntArray,
    rng: np.random.Generator,
) -> Figures:
    """Fit one law to single targets and to their mean; judge it on rows it has not seen."""
    weights, losses, measured = swarm.weights[fitted], swarm.losses[fitted], swarm.losses[asked]
    new = swarm.weights[asked]
    model = kind().fit(weights, losses, rng=rng)
    mean, sd = model.predict(new)
    single = [scores(measured[:, t], mean[:, t], sd[:, t]) for t in range(losses.shape[1])]
    figures = {
        f"{name}_single_{key}": float(np.mean([s[key] for s in single])) for key in single[0]
    }
    named = NamedPredictor(model=model, name=name, domains=swarm.domains, targets=swarm.targets)
    share = {"mean": dict.fromkeys(swarm.targets, 1.0 / len(swarm.targets))}
    held_out = cross_validate(kind, weights, losses, n_folds=10, rng=rng)
    errors = (losses - held_out.mean) / held_out.sd
    for label, known in (("bound", None), ("errors", errors)):
        centre, width = compose(named, share, errors=known).predict(new)
        one = scores(measured.mean(axis=1), centre[:, 0], width[:, 0])
        figures |= {f"{name}_composed_{key}": one[key] for key in ("rank", "rmse")}
        figures[f"{name}_composed_coverage_{label}"] = one["coverage"]
    direct = kind().fit(weights, losses.mean(axis=1, keepdims=True), rng=rng)
    centre, width = direct.predict(new)
    one = scores(measured.mean(axis=1), centre[:, 0], width[:, 0])
    return figures | {f"{name}_direct_{key}": value for key, value in one.items()}


def resampled(swarm: Swarm, fitted: IntArray, asked: IntArray, rng: np.random.Generator) -> Figures:
    """Return coverages of the exponential law's intervals by refits."""
    weights, losses, measured = swarm.weights[fitted], swarm.losses[fitted], swarm.losses[asked]
    arguments = (ExponentialMixingLaw, weights, losses, swarm.weights[asked])
    folds = assign_folds(weights, n_folds=10, rng=rng)
    ends = {
        "cv_plus": jackknife_plus(*arguments, folds=folds, rng=rng),
        "bootstrap": bootstrap(*arguments, n_samples=20, rng=rng),
    }
    return {
        f"exponential_{name}_coverage": float(np.mean((measured >= low) & (measured <= high)))
        for name, (low, high) in ends.items()
    }


def scores(measured: FloatArray, mean: FloatArray, sd: FloatArray) -> Figures:
    """Compare one target's predictions with measurements."""
    error = mean - measured
    return {
        "rank": rank_correlation(mean, measured) or 0.0,
        "rmse": float(np.sqrt(np.mean(error**2))),
        "coverage": float(np.mean(np.abs(error) <= INTERVAL * sd)),
    }


if __name__ == "__main__":
    main()
