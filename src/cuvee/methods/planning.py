"""What a run will cost, before it is begun: tokens, FLOPs and a time measured on this machine."""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, cast

from cuvee import artifacts, config
from cuvee.artifacts import Json
from cuvee.corpus.pool import PoolConfig
from cuvee.corpus.tokens import TokensConfig
from cuvee.methods import judging, measure
from cuvee.methods.chain import ChainConfig
from cuvee.methods.job import Job
from cuvee.methods.pool import Prepared, TargetsConfig, open_prepared
from cuvee.policy.mixture import Mixture
from cuvee.proxy.machine import (
    choose_device,
    choose_precision,
    choose_step,
    evaluation_tokens,
    stack_devices,
)
from cuvee.proxy.sizes import model_size
from cuvee.proxy.spec import TrainingSpec
from cuvee.proxy.sweep import ProxyConfig, SweepInputs, training_spec

_ASSUMED_DOMAINS = 16
_ASSUMED_TARGETS = 4


class Planned(Protocol):
    """What every method's config holds."""

    @property
    def pool(self) -> PoolConfig:
        """The documents."""
        ...

    @property
    def targets(self) -> TargetsConfig | None:
        """The target sets."""
        ...

    @property
    def tokens(self) -> TokensConfig:
        """The tokenizer."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRuns:
    """Runs of one kind."""

    name: str
    n_runs: float
    proxy: ProxyConfig
    start_runs: float = math.inf
    """How many of them make up the first list of tasks."""
    batch_size: int = 1
    """How many make up each list after it; on a GPU workers start anew for each."""
    search: bool = True
    """Whether an answer is found by them; if not, they check or judge one."""

    @property
    def lists(self) -> list[float]:
        """Runs of each list of tasks, one list after the other."""
        first = min(self.n_runs, self.start_runs)
        n_later, rest = divmod(self.n_runs - first, self.batch_size)
        last = [rest] if rest else []
        return [first, *[float(self.batch_size)] * int(n_later), *last]


_TIMED_FIELDS = ("size", "context", "batch_sequences", "precision", "device", "step")
"""What the time of a training step depends on (`proxy.machine.tokens_per_second`)."""
_TIMED: ContextVar[dict[str, measure.Speed] | None] = ContextVar("timed", default=None)


@contextmanager
def timed_once() -> Iterator[None]:
    """Let the plans of this block time each shape of run once; no plan times one twice itself."""
    before = _TIMED.set({} if (outer := _TIMED.get()) is None else outer)
    try:
        yield
    finally:
        _TIMED.reset(before)


def dry_run(settings: Planned, job: Job, parts: Sequence[PlannedRuns]) -> dict[str, Json]:
    """Plan the training of a run and time it on this machine.

    Args:
        settings: The config.
        job: Its folder is read where it is labelled already, and never written to.
        parts: What the method will train, calibrations apart.

    Returns:
        ``parts``: runs, tokens, FLOPs and seconds of calibrations, sweep and validation, and
        whether each is of the ``search``; ``total``;
        ``assumed`` in words; the resolved ``config``.
    """
    labelled = artifacts.is_done(job.folder("tokens"))
    prepared = open_prepared(job, settings.pool, settings.targets) if labelled else None
    n_domains = len(prepared.store.domains) if prepared else _ASSUMED_DOMAINS
    n_targets = len(prepared.targets.domains) if prepared and prepared.targets else 0
    if prepared is None and settings.targets is not None:
        n_targets = _ASSUMED_TARGETS
    vocabulary_size = _vocabulary_size(settings, prepared)
    with timed_once():
        costs = [
            _cost(
                part,
                vocabulary_size,
                n_domains=n_domains,
                n_targets=n_targets,
                workers=job.workers,
                is_first=number == 0,
            )
            for number, part in enumerate([*_calibrations(parts), *parts])
        ]
    assumed = (
        f"{n_domains} domains and {n_targets} targets as labelled"
        if labelled
        else f"{n_domains} domains, {n_targets} targets (not labelled yet)"
    )
    keys = ("n_runs", "n_tokens", "flops", "seconds")
    total: dict[str, Json] = {key: sum(cast(float, part[key]) for part in costs) for key in keys}
    return {
        "parts": costs,
        "total": total,
        "workers": job.workers,
        "assumed": assumed,
        "config": config.dump(settings),
    }


def describe(plan: Mapping[str, Json]) -> str:
    """Write a plan as a table for people, the resolved config below it."""
    total = {**cast(dict[str, Json], plan["total"]), "name": "total"}
    parts = [*cast(list[dict[str, Json]], plan["parts"]), total]
    width = max(22, *(len(str(part["name"])) for part in parts))
    lines = [f"{'':<{width}} {'runs':>6} {'tokens':>10} {'FLOPs':>9} {'time':>15}"]
    for part in parts:
        lines.append(
            f"{part['name']!s:<{width}} {cast(float, part['n_runs']):>6.0f} "
            f"{cast(float, part['n_tokens']):>10.3g} {cast(float, part['flops']):>9.2g} "
            f"{_duration(cast(float, part['seconds'])):>15}"
        )
    lines.append(
        f"timed on this machine with {plan['workers']} workers; {plan['assumed']}; "
        "measurements and the start of workers included"
    )
    return "\n".join([*lines, "", config.to_yaml(plan["config"])])


def validation(settings: ChainConfig) -> PlannedRuns:
    """Return the runs that every chain ends in: the chosen mixture and its rivals, every seed."""
    judged = settings.validate
    n_mixtures = 4 + len(judged.mixtures) + (len(settings.phases) > 1)
    return PlannedRuns(
        name=f"validate {judged.size}",
        n_runs=n_mixtures * judged.n_seeds,
        proxy=judging.larger(settings.proxy, judged),
        search=False,
    )


def _calibrations(parts: Sequence[PlannedRuns]) -> list[PlannedRuns]:
    """Return the short runs that choose a learning rate, for each size that has none."""
    sizes = {part.proxy.size: part.proxy for part in parts if part.proxy.learning_rate is None}
    searched = {part.proxy.size for part in parts if part.search}
    return [
        PlannedRuns(
            name=f"calibrate {size}",
            n_runs=len(proxy.calibration_rates),
            proxy=replace(
                proxy,
                n_tokens=max(proxy.batch_tokens, int(proxy.n_tokens * proxy.calibration_share)),
                points=(1.0,),
            ),
            search=size in searched,
        )
        for size, proxy in sizes.items()
    ]


def _cost(
    part: PlannedRuns,
    vocabulary_size: int,
    *,
    n_domains: int,
    n_targets: int,
    workers: int,
    is_first: bool,
) -> dict[str, Json]:
    spec = _spec(part.proxy)
    n_tokens = spec.n_sequences * spec.context
    speed = _speed(part, spec, vocabulary_size, workers)
    measured = evaluation_tokens(spec, n_targets=n_targets, n_domains=n_domains)
    processes = max(1, workers)
    if speed.members > 1 and spec.device.startswith("cuda"):
        processes = len(stack_devices(spec.device))
    each = speed.members * processes
    rounds = sum(-(-n_runs // each) for n_runs in part.lists)
    training = rounds * speed.members * (n_tokens + measured) / speed.tokens_per_second
    # On a processor the command keeps its workers from the first list on (`executors.worker_pool`).
    n_starts = len(part.lists) if spec.device.startswith("cuda") else int(is_first)
    flops = model_size(spec.size).flops_per_token(vocabulary_size, spec.context)
    return {
        "name": part.name,
        "search": part.search,
        "n_runs": part.n_runs,
        "n_tokens": part.n_runs * n_tokens,
        "flops": part.n_runs * n_tokens * flops,
        "seconds": round(training + n_starts * speed.startup_seconds, 1),
        "tokens_per_second": round(speed.tokens_per_second, 1),
        "startup_seconds": round(speed.startup_seconds, 1),
    }


def _speed(
    part: PlannedRuns, spec: TrainingSpec, vocabulary_size: int, workers: int
) -> measure.Speed:
    """Time a shape of run, unless one with the same step was timed."""
    known, n_runs = _TIMED.get(), math.ceil(part.n_runs)
    known = {} if known is None else known
    of: dict[str, Json] = {
        **{name: getattr(spec, name) for name in _TIMED_FIELDS},
        "vocabulary_size": vocabulary_size,
        "stack": part.proxy.stack,
        "workers": workers,
        "n_runs": n_runs if spec.device.startswith("cuda") else None,
    }
    key = artifacts.digest_json(of)
    if key not in known:
        with tempfile.TemporaryDirectory() as folder:
            known[key] = measure.stack_speed(
                spec,
                vocabulary_size,
                Path(folder),
                n_runs=n_runs,
                stack=part.proxy.stack,
                workers=workers,
            )
    return known[key]


def _spec(proxy: ProxyConfig) -> TrainingSpec:
    """Describe a run of the right shape; what it would be trained on does not matter here."""
    device = choose_device(proxy.device)
    inputs = SweepInputs(
        pool=Path(),
        targets=None,
        statistics=None,
        target_tokens=0,
        precision=choose_precision(proxy.precision, device),
        device=device,
        step=choose_step(proxy.step, device),
    )
    mixture = Mixture.flat(("any",), (1.0,))
    return training_spec(proxy, inputs, mixture, seed=0, run_seed=0, learning_rate=1e-3)


def _vocabulary_size(settings: Planned, prepared: Prepared | None) -> int:
    return prepared.store.vocabulary_size if prepared else settings.tokens.vocabulary_size


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
