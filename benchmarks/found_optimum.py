"""Is the mixture found from 32 runs better than RegMix's from all 512, for the mean of 13 targets?

``python -m benchmarks.found_optimum [--quick] [--data DIR] [--json FILE]``

Ours: the default predictor on 32 of the 512 published 1M runs, drawn by a row seed, and the
search of `cuvee search DIR`. Theirs: its recipe on all 512, boosted trees with the paper's
settings, 100,000 mixtures from a Dirichlet about the prior, mean of the best 128. Beside them
uniform over the targets' own domains. Judges: a Gaussian process and boosted trees, each fitted on
the 128 held-out runs only, which neither side has seen. A judge's error of a difference is the
spread of the differences it gives when it is fitted again on runs drawn with replacement.
"""

import argparse
import json
import platform
from pathlib import Path

import numpy as np

from cuvee.arrays import FloatArray
from cuvee.executors import one_thread, usable_cores
from cuvee.fit.models import DEFAULT_MODEL, make_model
from cuvee.fit.own_domains import match_own_domains
from cuvee.fit.predictor_files import NamedPredictor
from cuvee.methods.optimising import Question, find
from cuvee.methods.presets import REGMIX_PAPER
from cuvee.methods.swarm_search import WIDE
from cuvee.randomness import stream
from cuvee.search.constraints import Constraints
from cuvee.search.objective import PLAIN
from cuvee.search.settings import SearchConfig
from cuvee.search.simulate import minimise
from cuvee.tables.predictor import Predictor
from cuvee.tables.swarm import Swarm, match_runs, read_losses_csv, read_weights_csv

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "regmix"
N_RUNS = 32
SEEDS = 10
QUICK_SEEDS = 3
REFITS = 40
QUICK_REFITS = 10
JUDGES = ("log-gaussian-process", "boosted-trees")


def main() -> None:
    """Read the command line; measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 row seeds instead of 10")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of RegMix's tables")
    parser.add_argument("--json", type=Path, help="file the result is written to")
    options = parser.parse_args()
    with one_thread():
        result = measure(
            options.data,
            n_seeds=QUICK_SEEDS if options.quick else SEEDS,
            n_refits=QUICK_REFITS if options.quick else REFITS,
        )
    print_table(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measure(data: Path, *, n_seeds: int, n_refits: int) -> dict[str, object]:
    """Find the mixtures and have them judged."""
    swarm, held_out = _read(data, "train"), _read(data, "test")
    own = match_own_domains(swarm.domains, swarm.targets)
    mixtures = {"regmix-512": _regmix(swarm, own), "uniform-own": _uniform_own(swarm, own)}
    for seed in range(1, n_seeds + 1):
        mixtures[f"ours-32-seed{seed}"] = _ours(swarm, own, seed)
    weights = np.stack(list(mixtures.values()))
    judged = {}
    ours = [place for place, name in enumerate(mixtures) if name.startswith("ours")]
    for name in JUDGES:
        judge = make_model(name, own=own).fit(
            held_out.weights, held_out.losses, rng=stream(1, "judge", name)
        )
        mean, _ = judge.predict(weights)
        errors = _held_out_errors(held_out, own, name)
        refitted = _refitted(held_out, own, name, weights, n=n_refits)
        judged[name] = {
            "mean": dict(zip(mixtures, mean.mean(axis=1).tolist(), strict=True)),
            "error": float(np.sqrt(np.mean(errors**2))),
            "differences": {
                rival: _difference(mean.mean(axis=1), refitted, ours, list(mixtures).index(rival))
                for rival in ("regmix-512", "uniform-own")
            },
        }
    return {
        "judges": judged,
        "mixtures": {
            name: dict(zip(swarm.domains, row.tolist(), strict=True))
            for name, row in mixtures.items()
        },
        "conditions": {
            "model": DEFAULT_MODEL,
            "n_seeds": n_seeds,
            "cores": usable_cores(),
            "python": platform.python_version(),
        },
    }


def print_table(result: dict[str, object]) -> None:
    """Print what each judge predicts, and ours less the others."""
    judged = result["judges"]
    assert isinstance(judged, dict)
    for judge, found in judged.items():
        print(f"{judge} (error on runs it has not seen {found['error']:.4f})")
        for rival, one in found["differences"].items():
            print(
                f"  ours less {rival}: median {one['median']:+.4f} ({one['low']:+.4f}, "
                f"{one['high']:+.4f}), worst of the row seeds {one['worst']:+.4f}; ours lower for "
                f"{one['wins']:.0%} of them"
            )


def _difference(
    means: FloatArray, refitted: FloatArray, ours: list[int], rival: int
) -> dict[str, float]:
    """Set ours beside one rival: median over row seeds, its 90% interval over refitted judges."""
    apart = means[ours] - means[rival]
    medians = np.median(refitted[:, ours] - refitted[:, [rival]], axis=1)
    low, high = np.quantile(medians, (0.05, 0.95))
    return {
        "median": float(np.median(apart)),
        "worst": float(apart.max()),
        "wins": float(np.mean(apart < 0.0)),
        "low": float(low),
        "high": float(high),
    }


def _refitted(
    held_out: Swarm, own: tuple[int | None, ...], name: str, weights: FloatArray, *, n: int
) -> FloatArray:
    """Return (n, n_mixtures) means of the targets by judges of runs drawn with replacement."""
    means = []
    for seed in range(n):
        rng = stream(seed, "judge again")
        rows = rng.integers(len(held_out.ids), size=len(held_out.ids))
        judge = make_model(name, own=own).fit(
            held_out.weights[rows], held_out.losses[rows], rng=rng
        )
        means.append(judge.predict(weights)[0].mean(axis=1))
    return np.stack(means)


def _read(data: Path, kind: str) -> Swarm:
    return match_runs(
        read_weights_csv(data / f"{kind}_mixture_1m.csv"),
        read_losses_csv(data / f"{kind}_pile_loss_1m.csv"),
    )


def _ours(swarm: Swarm, own: tuple[int | None, ...], seed: int) -> FloatArray:
    rows = np.random.default_rng(seed).choice(len(swarm.ids), size=N_RUNS, replace=False)
    model = make_model(DEFAULT_MODEL, own=own).fit(
        swarm.weights[rows], swarm.losses[rows], rng=stream(seed, "fit")
    )
    predictor = NamedPredictor(
        model=model, name=DEFAULT_MODEL, domains=swarm.domains, targets=swarm.targets
    )
    mean = swarm.weights[rows].mean(axis=0)
    n_targets = len(swarm.targets)
    question = Question(
        objective=np.full(n_targets, 1.0 / n_targets),
        constraints=_free(swarm),
        terms=PLAIN,
        prior=mean / mean.sum(),
    )
    return np.array(find(predictor, question, config=WIDE, seed=seed).optimum.weights)


def _regmix(swarm: Swarm, own: tuple[int | None, ...]) -> FloatArray:
    """Follow the paper's recipe on all runs."""
    model = make_model("boosted-trees", own=own).fit(
        swarm.weights, swarm.losses, rng=stream(1, "fit")
    )
    config = SearchConfig(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in REGMIX_PAPER["search"].items()
        }
    )
    return _search(swarm, model, "boosted-trees", swarm.weights.mean(axis=0), config, 1)


def _search(
    swarm: Swarm,
    model: Predictor,
    name: str,
    prior: FloatArray,
    config: SearchConfig,
    seed: int,
) -> FloatArray:
    n_targets = len(swarm.targets)
    predictor = NamedPredictor(model=model, name=name, domains=swarm.domains, targets=swarm.targets)
    found = minimise(
        predictor,
        np.full(n_targets, 1.0 / n_targets),
        constraints=_free(swarm),
        prior=prior / prior.sum(),
        config=config,
        rng=stream(seed, "search"),
    )
    return np.array(found.weights)


def _free(swarm: Swarm) -> Constraints:
    return Constraints.from_bounds(swarm.domains, caps=np.ones(len(swarm.domains)), bounds={})


def _uniform_own(swarm: Swarm, own: tuple[int | None, ...]) -> FloatArray:
    columns = [column for column in own if column is not None]
    weights = np.zeros(len(swarm.domains))
    weights[columns] = 1.0 / len(columns)
    return weights


def _held_out_errors(held_out: Swarm, own: tuple[int | None, ...], name: str) -> FloatArray:
    """Return what a judge misses the mean of the targets by, fitted on three quarters."""
    order = np.random.default_rng(0).permutation(len(held_out.ids))
    out, kept = order[:32], order[32:]
    judge = make_model(name, own=own).fit(
        held_out.weights[kept], held_out.losses[kept], rng=stream(1, "judge", name)
    )
    mean, _ = judge.predict(held_out.weights[out])
    errors: FloatArray = mean.mean(axis=1) - held_out.losses[out].mean(axis=1)
    return errors


if __name__ == "__main__":
    main()
