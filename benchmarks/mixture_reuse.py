"""What does mixture reuse give away against a new sweep, when a domain comes or goes?

``python -m benchmarks.mixture_reuse [--quick] [--model NAME] [--data DIR] [--json FILE]``

The truth is a Gaussian process fitted on the 512 published 1M runs, noise of .005 nats added; the
objective the mean of four targets. A domain is left out, 32 runs are laid out, measured and
searched; then it is added: a few runs in the ratios of the earlier optimum. Beside them the new
runs alone (Olmix), both with a search that freezes nothing, and a new sweep of 32 runs. And the
other way round: it is removed from that sweep. Figures are true losses of the mixtures found.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cuvee.arrays import FloatArray
from cuvee.design.dirichlet import DesignConfig, make_design
from cuvee.design.reuse import Collapse, design_changed
from cuvee.executors import one_thread
from cuvee.fit.models import make_model
from cuvee.randomness import stream
from cuvee.search.constraints import Constraints
from cuvee.search.simulate import SearchConfig, minimise
from cuvee.simplex import normalise
from cuvee.tables.predictor import Predictor
from cuvee.tables.swarm import match_runs, read_losses_csv, read_weights_csv

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "regmix"
TARGETS = ("pile_cc", "github", "pubmed_central", "stackexchange")
CHANGED = ("github", "stackexchange", "arxiv", "gutenberg_pg_19")
N_RUNS = 32
NOISE = 0.005
SEEDS = 5
QUICK_SEEDS = 1


@dataclass(frozen=True, kw_only=True)
class World:
    """What is true, and how a sweep on it is fitted and searched."""

    domains: tuple[str, ...]
    prior: FloatArray
    truth: Predictor
    model: str

    def loss(self, weights: FloatArray) -> float:
        """Return the true objective of one mixture."""
        return float(self.truth.predict(weights[None, :])[0].mean())

    def measure(self, weights: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Return the noisy losses of runs."""
        mean = self.truth.predict(weights)[0]
        return mean + NOISE * rng.standard_normal(mean.shape)

    def fit(self, weights: FloatArray, losses: FloatArray, rng: np.random.Generator) -> Predictor:
        """Fit the predictor; targets that are domains own them."""
        own = [self.domains.index(name) for name in TARGETS]
        held = tuple(one if weights[:, one].any() else None for one in own)
        return make_model(self.model, own=held).fit(weights, losses, rng=rng)

    def own_domains(self, without: str = "") -> dict[str, tuple[str, ...]]:
        """Return each target's own domain, but for one that is not there."""
        return {name: (name,) for name in TARGETS if name != without}


@dataclass(frozen=True, kw_only=True)
class Space:
    """A predictor on mixtures that are fewer than all."""

    domains: tuple[str, ...]
    whole: Callable[[FloatArray], FloatArray]
    model: Predictor
    targets: tuple[str, ...] = TARGETS

    def predict(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Predict the losses of mixtures of this space."""
        return self.model.predict(self.whole(weights))

    def best(self, prior: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Return the whole mixture that is predicted best."""
        found = minimise(
            self,
            np.full(len(TARGETS), 1.0 / len(TARGETS)),
            constraints=Constraints.from_bounds(
                self.domains, caps=np.ones(len(self.domains)), bounds={}
            ),
            prior=prior,
            config=SearchConfig(n_simulated=20_000),
            rng=rng,
        )
        return self.whole(np.array(found.weights)[None, :])[0]


def main() -> None:
    """Read the command line; measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1 seed instead of 5")
    parser.add_argument("--model", default="log-gaussian-process", help="the predictor")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of RegMix's tables")
    parser.add_argument("--json", type=Path, help="file the result is written to")
    options = parser.parse_args()
    with one_thread():
        world = read_world(options.data, options.model)
        result = {
            name: [
                study(world, name, seed) for seed in range(QUICK_SEEDS if options.quick else SEEDS)
            ]
            for name in CHANGED
        }
    natural = world.loss(world.prior)
    rows = [row for found in result.values() for row in found]
    print(f"{options.model}: mean true loss over {len(rows)} studies; natural {natural:.4f}")
    for key in rows[0]:
        print(f"  {key:<36} {np.mean([row[key] for row in rows]):.4f}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def read_world(data: Path, model: str) -> World:
    """Fit the truth on all published runs."""
    swarm = match_runs(
        read_weights_csv(data / "train_mixture_1m.csv"),
        read_losses_csv(data / "train_pile_loss_1m.csv"),
    )
    domains = tuple(name.removeprefix("train_the_pile_") for name in swarm.domains)
    columns = [
        next(place for place, one in enumerate(swarm.targets) if f"the_pile_{name}_val" in one)
        for name in TARGETS
    ]
    own = tuple(domains.index(name) for name in TARGETS)
    truth = make_model("log-gaussian-process", own=own).fit(
        swarm.weights, swarm.losses[:, columns], rng=stream(1, "truth")
    )
    prior = normalise(swarm.weights.mean(axis=0))
    return World(domains=domains, prior=prior, truth=truth, model=model)


def study(world: World, changed: str, seed: int) -> dict[str, float]:
    """Add a domain and remove it; return what each way arrives at."""
    rng, domains = stream(seed, "reuse", changed), world.domains
    kept = np.array([name != changed for name in domains])
    rest = tuple(name for name in domains if name != changed)
    prior_rest = normalise(world.prior[kept])

    def lift(weights: FloatArray) -> FloatArray:
        whole = np.zeros((len(weights), len(domains)))
        whole[:, kept] = weights
        return whole

    config = DesignConfig(n_runs=N_RUNS)
    own = world.own_domains()
    first = make_design(
        rest,
        prior_rest,
        caps=np.ones(len(rest)),
        own_domains=world.own_domains(without=changed),
        config=config,
        rng=rng,
    )
    old = lift(first.weights)
    old_losses = world.measure(old, rng)
    earlier = Space(domains=rest, whole=lift, model=world.fit(old, old_losses, rng))
    optimum = earlier.best(prior_rest, rng)

    collapse = Collapse.about(domains, optimum, changed={changed})
    caps = np.ones(len(domains))
    new = design_changed(
        collapse, world.prior, caps=caps, own_domains=own, config=config, rng=rng
    ).weights
    new_losses = world.measure(new, rng)
    both = world.fit(np.vstack([old, new]), np.vstack([old_losses, new_losses]), rng)
    reduced, prior_reduced = collapse.reduced, collapse.collapse(world.prior)
    frozen = Space(domains=reduced, whole=collapse.expand, model=both)
    # Olmix's own way: the new runs alone, in the reduced space.
    alone = make_model(world.model, own=(None,) * len(TARGETS)).fit(
        collapse.collapse(new[1:]), new_losses[1:], rng=rng
    )
    olmix = Space(domains=reduced, whole=lambda weights: weights, model=alone)
    fresh = make_design(
        domains, world.prior, caps=caps, own_domains=own, config=config, rng=rng
    ).weights
    whole = Space(
        domains=domains,
        whole=lambda weights: weights,
        model=world.fit(fresh, world.measure(fresh, rng), rng),
    )
    resolved = whole.best(world.prior, rng)
    gone = Space(domains=rest, whole=lift, model=whole.model)
    free = Space(domains=domains, whole=lambda weights: weights, model=both)
    return {
        "new runs": float(len(new)),
        "added: earlier optimum": world.loss(optimum),
        "added: reuse": world.loss(frozen.best(prior_reduced, rng)),
        "added: reuse, nothing frozen": world.loss(free.best(world.prior, rng)),
        "added: new runs alone": world.loss(
            collapse.expand(olmix.best(prior_reduced, rng)[None, :])[0]
        ),
        "added: new sweep": world.loss(resolved),
        "removed: reuse": world.loss(gone.best(prior_rest, rng)),
        "removed: earlier optimum, rescaled": world.loss(normalise(np.where(kept, resolved, 0.0))),
        "removed: new sweep": world.loss(optimum),
        "removed: earlier runs without it": float((fresh[:, ~kept] == 0.0).sum()),
    }


if __name__ == "__main__":
    main()
