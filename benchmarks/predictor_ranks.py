"""How well each predictor ranks mixtures it has not seen, by the number of runs it was fitted on.

``python -m benchmarks.predictor_ranks [--quick] [--data DIR] [--models a,b] [--json FILE]``

RegMix's published tables: rows of its 512 training mixtures at 1M are chosen as ``cuvee fit --rows
N --row-seed S`` chooses them, every predictor is fitted on all 13 targets with own domains matched
by name, and asked about the 128 held-out mixtures at 1M and at 60M. Figures are Spearman
correlations of one target (Pile-CC), of single targets averaged over the 13 (m13), and of the mean
of the 13 losses, predicted as the mean of the predictions (avg13); the share of losses inside the
90% intervals; and processor seconds of a fit on one thread. Each is the median over row seeds,
``_worst`` beside it the worst. Keys of the default predictor stand in ``figures``, with ``iopt_``
before those of I-optimal rows; those of all predictors in ``models``.
"""

import argparse
import json
import logging
import platform
import statistics
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from cuvee.arrays import FloatArray
from cuvee.executors import usable_cores
from cuvee.fit.crossval import rank_correlation
from cuvee.fit.models import DEFAULT_MODEL, MODELS, make_model
from cuvee.fit.own_domains import match_own_domains
from cuvee.methods.swarm import RowsConfig, choose_rows
from cuvee.randomness import stream
from cuvee.tables.swarm import Swarm, match_runs, read_losses_csv, read_weights_csv

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "regmix"
PILE_CC = "metric/the_pile_pile_cc_val_loss"
SIZES = (8, 16, 32, 64, 128)
QUICK_SIZES = (16, 32)
SEEDS = 10
QUICK_SEEDS = 3
INTERVAL = 1.6448536269514722

Figures = dict[str, float]


def main() -> None:
    """Read the command line; measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 seeds; 16 and 32 runs")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of RegMix's tables")
    parser.add_argument("--models", help="names, separated by commas; default: all")
    parser.add_argument("--json", type=Path, help="file the result is written to")
    options = parser.parse_args()
    # A run that a fit leaves out, or a fit that stops early, shows in its figures.
    logging.getLogger("cuvee").setLevel(logging.ERROR)
    models = tuple(options.models.split(",")) if options.models else tuple(MODELS)
    with threadpool_limits(limits=1):
        result = measure(options.data, models, quick=options.quick)
    print_table(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measure(data: Path, models: tuple[str, ...], *, quick: bool) -> dict[str, Mapping[str, object]]:
    """Fit and judge predictors.

    Args:
        data: Folder of the tables.
        models: Keys of `fit.models.MODELS`.
        quick: Fewer seeds and sizes.

    Returns:
        ``figures`` of the default predictor, ``models`` with those of all, and ``conditions``.
    """
    train, tests = (
        read_tables(data, "train", "1m"),
        {size: read_tables(data, "test", size) for size in ("1m", "60m")},
    )
    sizes, n_seeds = (QUICK_SIZES, QUICK_SEEDS) if quick else (SIZES, SEEDS)
    found: dict[str, Figures] = {}
    for model in models:
        found[model] = {}
        designs = ("random", "i-optimal") if model == DEFAULT_MODEL else ("random",)
        for design in designs:
            for n in sizes:
                seeds = [
                    fit_and_judge(model, train, tests, RowsConfig(n=n, seed=seed, design=design))
                    for seed in range(1, n_seeds + 1)
                ]
                found[model] |= summarise(seeds, "iopt_" if design == "i-optimal" else "", n)
    return {
        "figures": found.get(DEFAULT_MODEL, {}),
        "models": found,
        "conditions": {
            "default": DEFAULT_MODEL,
            "n_runs": list(sizes),
            "row_seeds": n_seeds,
            "held_out": {size: len(test.ids) for size, test in tests.items()},
            "n_targets": len(train.targets),
            "quick": quick,
            "cores": usable_cores(),
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "scipy", "lightgbm")},
        },
    }


def read_tables(data: Path, part: str, size: str) -> Swarm:
    """Read one of the published sets of runs."""
    return match_runs(
        read_weights_csv(data / f"{part}_mixture_{size}.csv"),
        read_losses_csv(data / f"{part}_pile_loss_{size}.csv"),
    )


def fit_and_judge(
    model: str, train: Swarm, tests: Mapping[str, Swarm], rows: RowsConfig
) -> Figures:
    """Fit one predictor on some rows; return its figures on the held-out ones."""
    own = match_own_domains(train.domains, train.targets)
    chosen = choose_rows(train, rows, own=own)
    rng = stream(rows.seed, "fit", model)
    started = time.process_time()
    fitted = make_model(model, own=own).fit(train.weights[chosen], train.losses[chosen], rng=rng)
    figures: Figures = {"seconds": time.process_time() - started}
    for size, test in tests.items():
        if (test.domains, test.targets) != (train.domains, train.targets):
            raise SystemExit(f"the test tables at {size} have other columns than the training ones")
        mean, sd = fitted.predict(test.weights)
        column = train.targets.index(PILE_CC)
        single = [_rank(mean[:, j], test.losses[:, j]) for j in range(mean.shape[1])]
        figures[f"pilecc_{size}"] = single[column]
        figures[f"m13_{size}"] = statistics.fmean(single)
        figures[f"avg13_{size}"] = _rank(mean.mean(axis=1), test.losses.mean(axis=1))
        if size == "1m":
            inside = np.abs(mean - test.losses) <= INTERVAL * sd
            figures["coverage90"] = float(inside.mean())
    return figures


def summarise(seeds: list[Figures], prefix: str, n: int) -> Figures:
    """Return median and worst of each figure over row seeds."""
    summary: Figures = {}
    for name in seeds[0]:
        values = [figures[name] for figures in seeds]
        key = f"{prefix}{name}_n{n}"
        summary[key] = round(statistics.median(values), 4)
        summary[f"{key}_worst"] = round(max(values) if name == "seconds" else min(values), 4)
    return summary


def print_table(result: Mapping[str, Mapping[str, object]]) -> None:
    """Print the result for people: median and worst."""
    names = ("pilecc_1m", "m13_1m", "avg13_1m", "pilecc_60m", "m13_60m", "coverage90", "seconds")
    print(f"{'predictor':<24} {'rows':>9} {'n':>4}  " + "  ".join(f"{name:>13}" for name in names))
    sizes = result["conditions"]["n_runs"]
    for model, figures in result["models"].items():
        for rows, prefix in (("random", ""), ("i-optimal", "iopt_")):
            for n in sizes if isinstance(sizes, list) else ():
                keys = [f"{prefix}{name}_n{n}" for name in names]
                if not isinstance(figures, dict) or keys[0] not in figures:
                    continue
                shown = (f"{figures[key]:.3f}/{figures[f'{key}_worst']:.3f}" for key in keys)
                line = "  ".join(f"{pair:>13}" for pair in shown)
                print(f"{model:<24} {rows:>9} {n:>4}  {line}")


def _rank(predicted: FloatArray, measured: FloatArray) -> float:
    """Return the rank correlation, 0 where the prediction is constant."""
    return rank_correlation(predicted, measured) or 0.0


if __name__ == "__main__":
    main()
