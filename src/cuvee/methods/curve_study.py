"""Quality curves measured by proxies: described, trained batch after batch, gathered."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np

from cuvee import artifacts, config
from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.design.quality_prior import QualityPriorConfig
from cuvee.executors import one_thread
from cuvee.methods import curves, measure
from cuvee.methods.curve_fit import (
    CurvePredictor,
    CurvesConfig,
    MeasuredCurves,
    compare_regressions,
)
from cuvee.methods.curve_search import CurveLimits, draw_candidates, propose_vectors
from cuvee.methods.job import Job
from cuvee.methods.pool import Prepared
from cuvee.methods.quality import NORMALISED, Quality
from cuvee.policy.induced import PoolSample
from cuvee.policy.mixture import Mixture
from cuvee.policy.quality_curve import QualityCurve
from cuvee.proxy.spec import TrainingSpec
from cuvee.proxy.sweep import ProxyConfig, training_spec
from cuvee.proxy.untrainable import record_untrainable
from cuvee.randomness import integer_seed, stream
from cuvee.simplex import normalise
from cuvee.tables.runs import Runs
from cuvee.tables.vectors import Vectors, read_vectors, write_vectors

logger = logging.getLogger(__name__)

VECTORS = "vectors.parquet"
_FOLDER = "rounds"
_ROUND = "round.json"
_LEAST_SHARE = 0.1
_CANDIDATES_SHARE = 0.25
"""Draws from the prior of a round over those of the search."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveStudy:
    """What all stages over quality curves share."""

    job: Job
    prepared: Prepared
    quality: Quality
    settings: CurvesConfig
    prior: QualityPriorConfig
    """With its thresholds filled in."""
    limits: CurveLimits
    proxy: ProxyConfig
    target_tokens: int
    """Budget of the real run."""
    seed: int

    def measured(self, made: Vectors, runs: Runs) -> MeasuredCurves:
        """Put the losses of runs that did not diverge beside their vectors."""
        kept = ~runs.diverged
        return MeasuredCurves(
            vectors=made.values[kept],
            losses=measure.objective_losses(runs, self.prepared)[kept],
            objective=self.prepared.objective,
            sample=self._pool_sample(),
            criteria=self.quality.criteria,
        )

    def worth_measuring(self, vectors: FloatArray) -> FloatArray:
        """Put (n, n_parameters) vectors that take a tenth of the budget before all others.

        A proxy on less would see the same few documents over and over.
        """
        pool = self._pool_sample()
        named = self.prepared.store.domains, self.quality.criteria
        tokens = np.array(
            [pool.induce(QualityCurve.of_vector(*named, row)).tokens.sum() for row in vectors]
        )
        few = tokens < _LEAST_SHARE * self.limits.budget
        return vectors[np.argsort(few, kind="stable")]

    def _pool_sample(self) -> PoolSample:
        store = self.prepared.store
        train = np.flatnonzero(store.side == 0)
        return PoolSample.choose(
            store.domains,
            keys=store.keys[train],
            domain=store.domain[train].astype(np.int64),
            n_tokens=store.n_tokens[train],
            normalised=self.quality.normalised[train],
            most=self.settings.sample_documents,
            seed=self.seed,
        )

    def specs(self, made: Vectors) -> dict[str, TrainingSpec]:
        """Describe every run of a design; they share seed and learning rate."""
        job, prepared, proxy = self.job, self.prepared, self.proxy
        inputs = measure.sweep_inputs(job, prepared, proxy, target_tokens=self.target_tokens)
        rate = measure.learning_rate(job, prepared, proxy, inputs, seed=self.seed)
        run_seed = integer_seed(stream(self.seed, "proxy"))
        path = str(job.folder("quality") / NORMALISED)
        specs = {}
        for run_id, vector in zip(made.run_ids, made.values, strict=True):
            curve = QualityCurve.of_vector(prepared.store.domains, self.quality.criteria, vector)
            spec = training_spec(
                proxy,
                inputs,
                self._expected(curve),
                seed=self.seed,
                run_seed=run_seed,
                learning_rate=rate,
            )
            specs[run_id] = replace(spec, curve=curve.to_json(), quality=path)
        return specs

    def _expected(self, curve: QualityCurve) -> Mixture:
        """Return the shares a curve is expected to take; the pool's where it takes nothing."""
        store = self.prepared.store
        tokens = curves.expected_tokens(store, self.quality.normalised, (curve,))
        natural = self.prepared.statistics.natural
        return Mixture.flat(store.domains, normalise(tokens) if tokens.any() else natural)

    def measure(self, made: Vectors, stage: str, sweep: Path) -> Runs:
        """Train a proxy on what each vector samples; one that samples too little is recorded only.

        Args:
            made: The vectors.
            stage: What the progress bar calls it.
            sweep: Folder of the runs.
        """
        specs = self._trainable(made, sweep)
        return measure.measure(self.job, stage, specs, sweep, self.prepared)

    def planned(self) -> dict[str, TrainingSpec]:
        """Describe the runs to begin with, as they are known before any is measured."""
        return self._trainable(first_vectors(self.job), self.job.folder("sweep"))

    def _trainable(self, made: Vectors, sweep: Path) -> dict[str, TrainingSpec]:
        """Describe every run of a design; one that samples too little is recorded at once."""
        specs = self.specs(made)
        for run_id, why in record_untrainable(specs, sweep).items():
            logger.warning("%s is not trained, and left out of every fit: %s", run_id, why)
        return specs

    def measure_in_rounds(self, start: Vectors) -> tuple[Vectors, Runs]:
        """Train the start, then batch after batch where the best is expected.

        Every round is an artefact, so that a resumed command goes the same way.

        Args:
            start: The design to begin with.

        Returns:
            The whole design, and its runs.
        """
        made, number = start, 0
        while True:
            runs = self.measure(made, "train proxies", self.job.folder("sweep"))
            room = self.settings.n_runs - len(made.run_ids)
            if room <= 0:
                return made, runs
            folder = self.job.folder(_FOLDER, f"{number:03d}")
            if not artifacts.is_done(folder):
                with one_thread():
                    following, told = self._choose(made, runs, number, room)
                self._write(folder, following, told, made)
            following = read_vectors(folder / VECTORS)
            if len(following.run_ids) == len(made.run_ids):
                logger.warning("no curve is left that is new and keeps the limits; no more runs")
                return made, runs
            made, number = following, number + 1

    def _choose(
        self, made: Vectors, runs: Runs, number: int, room: int
    ) -> tuple[Vectors, dict[str, Json]]:
        """Fit, propose a batch and append it to the design."""
        known = self.measured(made, runs)
        ranks = compare_regressions(known, self.settings, seed=self.seed)
        chosen = max(ranks, key=lambda name: ranks[name])
        predictor = CurvePredictor.fit(known, chosen, seed=self.seed)
        candidates = draw_candidates(
            predictor,
            self.settings,
            n=max(round(_CANDIDATES_SHARE * self.settings.n_simulated), 1),
            prior=self.prior,
            limits=self.limits,
            rng=stream(self.seed, "rounds", number),
            on_progress=self.progress("choose runs"),
        )
        vectors, kinds = propose_vectors(
            candidates,
            self.settings,
            n=min(self.settings.batch_size, room),
            measured=np.stack([one.shares for one in known.induce(known.vectors)]),
        )
        first = len(made.run_ids)
        following = Vectors(
            run_ids=(*made.run_ids, *(f"next-{first + place:03d}" for place in range(len(kinds)))),
            kinds=(*made.kinds, *kinds),
            names=made.names,
            values=np.vstack([made.values, vectors]),
        )
        told = {
            "n_runs": first,
            "n_next": len(kinds),
            "predictor": chosen,
            "rank": ranks[chosen],
            "best_measured": float((known.losses @ known.objective).min()),
            "best_predicted": float(candidates.mean[candidates.kept].min(initial=np.inf)),
        }
        return following, cast(dict[str, Json], told)

    def progress(self, stage: str) -> Callable[[int, int], None]:
        """Return what is to be told how many vectors are done, of how many."""
        return lambda done, total: self.job.progress(stage, done, total, "")

    def _write(
        self, folder: Path, following: Vectors, told: dict[str, Json], made: Vectors
    ) -> None:
        sweep = self.job.folder("sweep")
        inputs = {run_id: artifacts.digest_of(sweep / run_id) for run_id in made.run_ids}
        with artifacts.writing(
            folder,
            stage="train",
            settings=config.dump(self.settings),
            seed=self.seed,
            inputs=inputs,
        ) as aside:
            write_vectors(aside / VECTORS, following)
            artifacts.write_json(aside / _ROUND, told)


def first_vectors(job: Job) -> Vectors:
    """Return the design to begin with."""
    return read_vectors(artifacts.require(job.folder("design"), made_by="cuvee design") / VECTORS)


def last_vectors(job: Job) -> Vectors:
    """Return the design after all finished rounds, or its start where there were none."""
    done = _rounds(job)
    return read_vectors(done[-1] / VECTORS) if done else first_vectors(job)


def describe_rounds(job: Job) -> tuple[str, ...]:
    """Say what each round found and expected."""
    told = [cast(dict[str, float], artifacts.read_json(path / _ROUND)) for path in _rounds(job)]
    return tuple(
        f"After {one['n_runs']} runs: best measured {one['best_measured']:.4f}, best predicted "
        f"{one['best_predicted']:.4f} bits per byte, by {one['predictor']} (rank of held-out runs "
        f"{one['rank']:.2f}); {one['n_next']} more were chosen."
        for one in told
    )


def _rounds(job: Job) -> list[Path]:
    return sorted(path for path in job.folder(_FOLDER).glob("*") if artifacts.is_done(path))
