"""How many runs find the best mixture of a pool: chosen in batches, and in random order.

``python -m benchmarks.sequential_choice [--quick] [--stopping] [--data DIR] [--json FILE]``

The pool is RegMix's 512 published mixtures at 1M; a "run" reads its losses from the table. Ours
starts with 8 I-optimal rows and measures batches of 4: the three best predicted and one of least
lower bound, the default predictor fitted again each time. Both ways are counted until the pool's
best mixture is measured, ours at the end of a batch; both are censored at 128. ``--stopping`` goes
on to where the stopping rule says stop, and reports what the best run there gives away.
"""

import argparse
import json
import platform
import statistics
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np

from cuvee.arrays import FloatArray
from cuvee.design.optimal import i_optimal_rows
from cuvee.design.sequential import SequentialConfig, expected_regret, propose_next, should_stop
from cuvee.executors import usable_cores
from cuvee.fit.models import DEFAULT_MODEL, make_model
from cuvee.fit.own_domains import match_own_domains
from cuvee.fit.predictor_files import NamedPredictor
from cuvee.randomness import stream
from cuvee.tables.swarm import Swarm, match_runs, read_losses_csv, read_weights_csv

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "regmix"
SEEDS = 20
QUICK_SEEDS = 4
N_START = 8
CENSORED = 128
PILE_CC = "metric/the_pile_pile_cc_val_loss"
CONFIG = SequentialConfig(least_distance=0.0)
"""Rows of a pool are distinct as they are."""


def main() -> None:
    """Read the command line; measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="4 seeds instead of 20")
    parser.add_argument("--stopping", action="store_true", help="also try the stopping rule")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of RegMix's tables")
    parser.add_argument("--json", type=Path, help="file the result is written to")
    options = parser.parse_args()
    n_seeds = QUICK_SEEDS if options.quick else SEEDS
    result = measure(read_pool(options.data), n_seeds=n_seeds, stopping=options.stopping)
    print_table(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def read_pool(data: Path) -> Swarm:
    """Read the 512 training mixtures and their losses; the test rows are not touched."""
    return match_runs(
        read_weights_csv(data / "train_mixture_1m.csv"),
        read_losses_csv(data / "train_pile_loss_1m.csv"),
    )


def measure(pool: Swarm, *, n_seeds: int, stopping: bool) -> dict[str, Mapping[str, object]]:
    """Count runs to zero regret for both objectives.

    Args:
        pool: Mixtures and losses.
        n_seeds: Seeds 1 to this.
        stopping: Go on until the stopping rule says stop.

    Returns:
        ``ratios``, ``figures`` and ``conditions``.
    """
    n_targets = len(pool.targets)
    objectives = {
        "pilecc": np.eye(n_targets)[pool.targets.index(PILE_CC)],
        "mean13": np.full(n_targets, 1.0 / n_targets),
    }
    ratios: dict[str, float] = {}
    figures: dict[str, object] = {}
    for name, objective in objectives.items():
        found, chance, stops, left = [], [], [], []
        for seed in range(1, n_seeds + 1):
            rng = stream(seed, "sequential", name)
            runs, stop, regret = choose(pool, objective, stopping=stopping, rng=rng)
            found.append(runs)
            stops.append(stop)
            left.append(regret)
            chance.append(random_order(pool, objective, rng=stream(seed, "random order", name)))
        ratios[f"{name}_ours_to_random"] = statistics.median(found) / statistics.median(chance)
        figures |= {
            f"{name}_runs_median": statistics.median(found),
            f"{name}_runs_worst": max(found),
            f"{name}_runs": found,
            f"{name}_random_median": statistics.median(chance),
            f"{name}_random": chance,
        }
        if stopping:
            figures |= {
                f"{name}_stop_median": statistics.median(stops),
                f"{name}_stop_worst": max(stops),
                f"{name}_regret_at_stop_median": round(statistics.median(left), 4),
                f"{name}_regret_at_stop_worst": round(max(left), 4),
                f"{name}_spread": round(spread(pool.losses @ objective), 4),
            }
    return {
        "ratios": {name: round(value, 4) for name, value in ratios.items()},
        "figures": figures,
        "conditions": {
            "seeds": n_seeds,
            "pool": len(pool.ids),
            "start": N_START,
            "batch": CONFIG.batch_size,
            "censored": CENSORED,
            "model": DEFAULT_MODEL,
            "cores": usable_cores(),
            "python": platform.python_version(),
            **{package: version(package) for package in ("cuvee", "numpy", "scipy")},
        },
    }


def choose(
    pool: Swarm, objective: FloatArray, *, stopping: bool, rng: np.random.Generator
) -> tuple[int, int, float]:
    """Measure batches until the pool's best mixture is among them.

    Args:
        pool: Mixtures and losses.
        objective: (n_targets,) weights of the objective.
        stopping: Go on until the stopping rule says stop.
        rng: Source of the start and the fits.

    Returns:
        Runs to zero regret; runs when the rule first said stop, and the regret of the best run
        measured by then (without ``stopping``: the runs and regret at the end).
    """
    values = pool.losses @ objective
    best = int(np.argmin(values))
    own = match_own_domains(pool.domains, pool.targets)
    rows = i_optimal_rows(pool.weights, n=N_START, own_columns=own, rng=rng).tolist()
    found: int | None = N_START if best in rows else None
    stop: tuple[int, float] | None = None
    while (found is None or (stopping and stop is None)) and len(rows) < CENSORED:
        model = make_model(DEFAULT_MODEL, own=own)
        model.fit(pool.weights[rows], pool.losses[rows], rng=rng)
        named = NamedPredictor(
            model=model, name=DEFAULT_MODEL, domains=pool.domains, targets=pool.targets
        )
        measured = pool.weights[rows]
        regret = expected_regret(named, objective, measured=measured, candidates=pool.weights)
        if stop is None and should_stop(regret, CONFIG):
            stop = len(rows), float(values[rows].min() - values[best])
        batch = propose_next(
            named, objective, measured=measured, candidates=pool.weights, config=CONFIG
        )
        rows += batch.rows
        if found is None and best in rows:
            found = len(rows)
    at_stop = stop or (len(rows), float(values[rows].min() - values[best]))
    return found or CENSORED, *at_stop


def random_order(pool: Swarm, objective: FloatArray, *, rng: np.random.Generator) -> int:
    """Return the runs in random order until the pool's best mixture is measured, censored."""
    order = rng.permutation(len(pool.ids))
    place = int(np.flatnonzero(order == int(np.argmin(pool.losses @ objective)))[0])
    return min(place + 1, CENSORED)


def spread(values: FloatArray) -> float:
    """Return the median less the best: the scale of regrets."""
    return float(np.median(values) - values.min())


def print_table(result: Mapping[str, Mapping[str, object]]) -> None:
    """Print the result for people."""
    for section, values in result.items():
        print(section)
        for name, value in values.items():
            print(f"  {name:<30} {value}")


if __name__ == "__main__":
    main()
