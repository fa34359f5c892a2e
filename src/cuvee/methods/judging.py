"""The verdict: larger models on the chosen mixture and its rivals, judged on the unseen half."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, TypeAlias, cast

import numpy as np

from cuvee import artifacts, config
from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.errors import ConfigError
from cuvee.methods import measure
from cuvee.methods.job import Job
from cuvee.methods.pool import Prepared
from cuvee.policy.mixture import Mixture
from cuvee.proxy.spec import TrainingSpec
from cuvee.proxy.sweep import ProxyConfig, read_result, training_spec
from cuvee.randomness import stream
from cuvee.tables.runs import Runs, Trajectory, read_runs, read_trajectory, write_runs
from cuvee.validate.accuracy import (
    AccuracyRow,
    Measure,
    compare_accuracy,
    rows_from_json,
    rows_to_json,
)
from cuvee.validate.compare import ValidateConfig, Verdict, compare, named_mixtures
from cuvee.validate.equivalent import EquivalentTokens, equivalent_tokens, objective_curves

__all__ = [
    "compare_accuracies",
    "judge",
    "larger",
    "losses_by_mixture",
    "named_mixtures",
    "read_accuracies",
    "read_equivalent",
    "read_judged",
    "read_verdict",
    "run_name",
    "target_names",
    "train_judged",
    "trajectory",
    "verdict_json",
]

logger = logging.getLogger(__name__)

Amend: TypeAlias = Callable[[str, TrainingSpec], TrainingSpec]
CHOSEN = "chosen"
_VERDICT = "verdict.json"
_EQUIVALENT = "equivalent_tokens.json"
_ACCURACY = "accuracy.json"


def unchanged(_: str, spec: TrainingSpec) -> TrainingSpec:
    """Leave a mixture's runs as they are."""
    return spec


def judge(
    job: Job,
    settings: ValidateConfig,
    *,
    proxy: ProxyConfig,
    mixtures: Mapping[str, Mixture],
    prepared: Prepared,
    target_tokens: int,
    seed: int,
    amend: Amend = unchanged,
) -> None:
    """Train every mixture with every seed and compare; finished runs are not made again.

    Args:
        job: Where and with how many workers.
        settings: Size, tokens and seeds.
        proxy: Context, batch and schedule, shared with the sweep.
        mixtures: By name; ``chosen`` and ``natural`` among them.
        prepared: The pool and the targets.
        target_tokens: Token budget of the real run.
        seed: The command's seed.
        amend: Completes the spec of a named mixture's runs, where it is more than a mixture.
    """
    folder = job.folder("verdict")
    if artifacts.is_done(folder):
        return
    runs = train_judged(
        job,
        settings,
        proxy=proxy,
        mixtures=mixtures,
        prepared=prepared,
        target_tokens=target_tokens,
        seed=seed,
        amend=amend,
    )
    verdict = compare(
        losses_by_mixture(runs, settings, tuple(mixtures), prepared),
        target_names(prepared),
        prepared.objective,
        chosen=CHOSEN,
        confidence=settings.confidence,
    )
    worth = _worth(job, settings, runs, prepared)
    accuracies = compare_accuracies(
        job, settings, tuple(mixtures), prepared, chosen=CHOSEN, seed=seed
    )
    with artifacts.writing(
        folder,
        stage="validate",
        settings=config.dump(settings),
        seed=seed,
        inputs={one: artifacts.digest_of(job.folder("validation", one)) for one in runs.run_ids},
    ) as aside:
        artifacts.write_json(aside / _VERDICT, verdict.to_json())
        artifacts.write_json(aside / _EQUIVALENT, worth.to_json() if worth else None)
        if accuracies:
            artifacts.write_json(aside / _ACCURACY, rows_to_json(accuracies))
        write_runs(aside / "runs.parquet", runs)


def train_judged(
    job: Job,
    settings: ValidateConfig,
    *,
    proxy: ProxyConfig,
    mixtures: Mapping[str, Mixture],
    prepared: Prepared,
    target_tokens: int,
    seed: int,
    amend: Amend = unchanged,
) -> Runs:
    """Train every mixture with every seed, from the same initial weights for the same seed.

    Args:
        job: Where and with how many workers; the runs go to ``validation/``.
        settings: Size, tokens and seeds.
        proxy: Context, batch and schedule, shared with the sweep.
        mixtures: By name.
        prepared: The pool and the targets.
        target_tokens: Token budget of the real run.
        seed: The command's seed.
        amend: As in `judge`.

    Returns:
        Final losses on the targets' verdict half, a row a mixture and seed (`run_name`).
    """
    plain = _specs(job, settings, proxy, mixtures, prepared, target_tokens=target_tokens, seed=seed)
    specs = {
        run_name(name, number): amend(name, plain[run_name(name, number)])
        for number in range(settings.n_seeds)
        for name in mixtures
    }
    return measure.measure(job, "validate", specs, job.folder("validation"), prepared)


def losses_by_mixture(
    runs: Runs, settings: ValidateConfig, mixtures: Sequence[str], prepared: Prepared
) -> dict[str, FloatArray]:
    """Return by mixture its (n_seeds, n_targets) losses in bits per byte, of `train_judged`."""
    losses = measure.objective_losses(runs, prepared)
    return {
        name: np.stack(
            [losses[runs.run_ids.index(run_name(name, k))] for k in range(settings.n_seeds)]
        )
        for name in mixtures
    }


def target_names(prepared: Prepared) -> tuple[str, ...]:
    """Return the names of the objective's targets as verdicts give them."""
    return tuple(name.split("/", 1)[1] for name in prepared.objective_names)


def larger(proxy: ProxyConfig, settings: ValidateConfig) -> ProxyConfig:
    """Return how the validated models are trained: as the proxies, but larger and longer.

    Raises:
        ConfigError: The size is unknown, or tokens and points do not go with the proxies' batches.
    """
    try:
        return replace(
            proxy,
            size=settings.size,
            n_tokens=settings.n_tokens,
            points=settings.points,
            learning_rate=settings.learning_rate,
        )
    except ConfigError as error:
        raise ConfigError(f"validate: {error}") from error


def run_name(mixture: str, number: int) -> str:
    """Name one validation run."""
    return f"{mixture}-seed{number}"


def trajectory(job: Job, mixture: str, number: int) -> Trajectory:
    """Read the trajectory of one validation run."""
    return read_trajectory(
        job.folder("validation", run_name(mixture, number)) / "trajectory.parquet"
    )


def read_verdict(job: Job) -> Verdict:
    """Read the finished verdict."""
    folder = artifacts.require(job.folder("verdict"), made_by="cuvee validate")
    data = artifacts.read_json(folder / _VERDICT)
    assert isinstance(data, dict), "verdict.json is an object"
    return Verdict.from_json(data)


def read_judged(job: Job) -> Runs:
    """Read the final losses of the validation runs; NaN where one diverged."""
    folder = artifacts.require(job.folder("verdict"), made_by="cuvee validate")
    return read_runs(folder / "runs.parquet")


def read_equivalent(job: Job) -> EquivalentTokens | None:
    """Read what natural tokens the chosen mixture's training is worth; None if a run diverged."""
    folder = artifacts.require(job.folder("verdict"), made_by="cuvee validate")
    data = artifacts.read_json(folder / _EQUIVALENT)
    return EquivalentTokens.from_json(data) if isinstance(data, dict) else None


def read_accuracies(job: Job) -> tuple[AccuracyRow, ...]:
    """Read the accuracies on tasks; none where no target is a task."""
    path = artifacts.require(job.folder("verdict"), made_by="cuvee validate") / _ACCURACY
    if not path.exists():
        return ()
    return rows_from_json(cast(list[dict[str, Json]], artifacts.read_json(path)))


def verdict_json(job: Job) -> dict[str, Json]:
    """Return the verdict as JSON and, where a target is a task, the accuracies beside it."""
    accuracies = rows_to_json(read_accuracies(job))
    found: dict[str, Json] = {"verdict": read_verdict(job).to_json()}
    return {**found, "accuracy": accuracies} if accuracies else found


def compare_accuracies(
    job: Job,
    settings: ValidateConfig,
    mixtures: Sequence[str],
    prepared: Prepared,
    *,
    chosen: str,
    seed: int,
) -> tuple[AccuracyRow, ...]:
    """Compare a mixture with all others on every task among the targets that has an accuracy.

    Args:
        job: Where the runs of `train_judged` are.
        settings: Seeds and the intervals' coverage.
        mixtures: Names of all, the chosen one among them.
        prepared: The targets.
        chosen: The one that is compared.
        seed: The command's seed, for the resampling of examples.
    """
    seeds = range(settings.n_seeds)
    found = {name: [_accuracy_of(job, run_name(name, k)) for k in seeds] for name in mixtures}
    rows: list[AccuracyRow] = []
    kinds: tuple[Measure, ...] = ("accuracy", "accuracy_norm")
    for target, kind in product(prepared.objective_names, kinds):
        known = [one[target] for runs in found.values() for one in runs if target in one]
        if not known or kind not in known[0]:
            continue
        rows += compare_accuracy(
            {
                name: _marks(runs, target, kind, n_examples=known[0]["n_examples"])
                for name, runs in found.items()
            },
            target=target.split("/", 1)[1],
            measure=kind,
            chosen=chosen,
            chance=known[0]["chance"],
            confidence=settings.confidence,
            rng=stream(seed, "accuracy", target, kind),
        )
    return tuple(rows)


def _accuracy_of(job: Job, run: str) -> dict[str, dict[str, Any]]:
    """Return a run's accuracy by target; nothing of a run that diverged."""
    result = read_result(job.folder("validation", run))
    found = {} if result["diverged"] else result.get("accuracy", {})
    return cast(dict[str, dict[str, Any]], found)


def _marks(
    runs: Sequence[Mapping[str, Mapping[str, Any]]], target: str, kind: Measure, *, n_examples: int
) -> FloatArray:
    """Return (n_seeds, n_examples) zeros and ones; NaN for a run that diverged."""
    marks = [one.get(target, {}).get(kind.replace("accuracy", "correct"), "") for one in runs]
    return np.array([[float(sign) for sign in one] or [np.nan] * n_examples for one in marks])


def _specs(
    job: Job,
    settings: ValidateConfig,
    proxy: ProxyConfig,
    mixtures: Mapping[str, Mixture],
    prepared: Prepared,
    *,
    target_tokens: int,
    seed: int,
) -> dict[str, TrainingSpec]:
    judged = larger(proxy, settings)
    inputs = measure.sweep_inputs(job, prepared, judged, target_tokens=target_tokens)
    rate = measure.learning_rate(job, prepared, judged, inputs, seed=seed)
    return {
        run_name(name, number): training_spec(
            judged,
            inputs,
            mixture,
            seed=seed,
            run_seed=run_seed,
            learning_rate=rate,
            half="verdict",
        )
        for number, run_seed in enumerate(measure.seeds_of(seed, settings.n_seeds))
        for name, mixture in mixtures.items()
    }


def _worth(
    job: Job, settings: ValidateConfig, runs: Runs, prepared: Prepared
) -> EquivalentTokens | None:
    """Find the tokens natural would need to reach the chosen mixture's loss."""
    names = [run_name(m, k) for m in ("chosen", "natural") for k in range(settings.n_seeds)]
    if any(runs.diverged[runs.run_ids.index(name)] for name in names):
        return None
    objective = prepared.objective_names, prepared.objective
    seeds = range(settings.n_seeds)
    natural = [trajectory(job, "natural", k) for k in seeds]
    chosen = [trajectory(job, "chosen", k) for k in seeds]
    n_tokens, losses = objective_curves(natural, *objective)
    _, reached = objective_curves(chosen, *objective)
    return equivalent_tokens(n_tokens, losses, reached[:, -1], confidence=settings.confidence)
