"""The search: exact where the predicted losses are convex, by simulation otherwise."""

from cuvee import artifacts
from cuvee.executors import one_thread
from cuvee.fit.predictor_files import ConvexPredictor, NamedPredictor
from cuvee.methods import chain, fitting
from cuvee.methods.chain import ChainConfig
from cuvee.methods.job import Job
from cuvee.methods.pool import Prepared
from cuvee.randomness import stream
from cuvee.search.convex import ConvexAnswer, describe_prices, minimise_convex
from cuvee.search.phases import WithoutPhases, minimise_phases
from cuvee.search.simulate import minimise
from cuvee.tables.optimum import Optimum


def search(settings: ChainConfig, job: Job) -> None:
    """Find the mixture of least predicted loss within the constraints."""
    prepared = chain.open_stores(settings, job)
    if artifacts.is_done(job.folder("optimum")):
        return
    predictor = fitting.load(job)
    with job.stage("search"), one_thread():
        if len(settings.phases) > 1:
            optimum, one_phase = _phases(settings, prepared, predictor)
            prices: tuple[str, ...] = ()
        else:
            optimum, prices = _one_phase(settings, prepared, predictor)
            one_phase = None
    chain.write_found(
        job,
        optimum,
        settings=settings.search,
        seed=settings.seed,
        one_phase=one_phase,
        prices=prices,
    )


def _one_phase(
    settings: ChainConfig, prepared: Prepared, predictor: NamedPredictor
) -> tuple[Optimum, tuple[str, ...]]:
    """Return the answer, and what supply costs it, as far as a convex law can tell."""
    part = predictor.convex_part()
    exact = None if part is None else _exact(settings, prepared, part)
    prices: tuple[str, ...] = ()
    if exact is not None:
        budget = chain.target_tokens(settings, prepared)
        share = prepared.statistics.available_tokens / budget
        prices = describe_prices(exact, share_of_epoch=share, unit="bits per byte")
        if settings.search.solver == "auto" and hasattr(predictor.model, "slopes"):
            return exact.optimum, prices
    found = minimise(
        predictor,
        prepared.objective,
        constraints=chain.constraints(settings, prepared),
        prior=prepared.statistics.natural,
        config=settings.search,
        rng=stream(settings.seed, "search"),
    )
    return found, prices


def _exact(settings: ChainConfig, prepared: Prepared, part: ConvexPredictor) -> ConvexAnswer:
    return minimise_convex(
        part,
        prepared.objective,
        constraints=chain.constraints(settings, prepared),
        start=prepared.statistics.natural,
    )


def _phases(
    settings: ChainConfig, prepared: Prepared, predictor: NamedPredictor
) -> tuple[Optimum, Optimum]:
    """Return the best mixture of phases, and the best that is the same in all."""
    natural = prepared.statistics.natural
    phased = minimise_phases(
        predictor,
        prepared.objective,
        shares=settings.phases,
        caps=chain.caps(settings, prepared),
        prior=natural,
        config=settings.search,
        rng=stream(settings.seed, "search", "phases"),
    )
    alone = minimise(
        WithoutPhases(
            predictor=predictor, domains=prepared.statistics.domains, shares=settings.phases
        ),
        prepared.objective,
        constraints=chain.constraints(settings, prepared),
        prior=natural,
        config=settings.search,
        rng=stream(settings.seed, "search"),
    )
    return phased, alone
