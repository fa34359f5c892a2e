"""The search stage: the question a config asks, and its answer as an artefact."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from cuvee import artifacts
from cuvee.arrays import FloatArray
from cuvee.executors import one_thread
from cuvee.fit.predictor_files import NamedPredictor
from cuvee.methods import chain, chain_files, fitting
from cuvee.methods.chain import ChainConfig
from cuvee.methods.job import Job
from cuvee.methods.optimising import Question, find, simulate
from cuvee.methods.pool import Prepared
from cuvee.search.objective import Terms, no_worse
from cuvee.search.sensitivity import describe_prices
from cuvee.tables.optimum import Optimum
from cuvee.tables.predictor import NamedPredictions
from cuvee.tables.sensitivity import Sensitivity


def search(settings: ChainConfig, job: Job, *, inner: Mapping[str, float] | None = None) -> None:
    """Find the mixture of least predicted loss within the constraints.

    Args:
        settings: The config.
        job: Where.
        inner: Ratios that some domains keep, by name; None: all are free.
    """
    prepared = chain.open_stores(settings, job)
    if artifacts.is_done(job.folder("optimum")):
        return
    predictor = fitting.load(job)
    with job.stage("search"), one_thread():
        found = find(
            predictor,
            _question(settings, prepared, predictor, inner=inner),
            config=settings.search,
            seed=settings.seed,
        )
        one_phase = None
        if len(settings.phases) > 1:
            one_phase = _one_phase(settings, prepared, predictor)
    chain_files.write_found(
        job,
        found.optimum,
        found.sensitivity,
        settings=settings.search,
        seed=settings.seed,
        one_phase=one_phase,
        prices=_prices(settings, prepared, found.sensitivity),
    )


def _question(
    settings: ChainConfig,
    prepared: Prepared,
    predictor: NamedPredictions,
    *,
    inner: Mapping[str, float] | None = None,
) -> Question:
    natural, asked = prepared.statistics.natural, settings.search
    constraints = chain.constraints(settings, prepared, inner=inner)
    shares = constraints.phases
    columns = np.concatenate([share * natural for share in shares])
    floors = chain.floors(settings, prepared)
    if asked.worse_by is not None:
        for name, most in no_worse(predictor, columns, by=asked.worse_by).items():
            floors[name] = min(most, floors.get(name, np.inf))
    return Question(
        objective=prepared.objective,
        constraints=constraints,
        terms=Terms(floors=floors, kl=asked.kl, reference=columns),
        prior=natural,
    )


def _prices(settings: ChainConfig, prepared: Prepared, around: Sensitivity) -> tuple[str, ...]:
    share = prepared.statistics.available_tokens / chain.target_tokens(settings, prepared)
    return describe_prices(
        around,
        share_of_epoch=np.tile(share, len(settings.phases)),
        unit="bits per byte",
    )


def _one_phase(settings: ChainConfig, prepared: Prepared, predictor: NamedPredictor) -> Optimum:
    """Return the best mixture that is the same in all phases."""
    alone = WithoutPhases(
        predictor=predictor, domains=prepared.statistics.domains, shares=settings.phases
    )
    single = replace(settings, phases=(1.0,))
    return simulate(
        alone, _question(single, prepared, alone), settings.search, settings.seed, "search"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class WithoutPhases:
    """What a predictor of phases says of mixtures that stay the same."""

    predictor: NamedPredictions
    domains: tuple[str, ...]
    shares: tuple[float, ...]

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the columns of the predictions."""
        return self.predictor.targets

    def predict(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Predict the losses of (n_rows, n_domains) mixtures kept through all phases."""
        return self.predictor.predict(np.hstack([share * weights for share in self.shares]))
