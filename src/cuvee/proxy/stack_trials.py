"""Measure stacks on a card: seconds of a step and memory, for a few sizes."""

import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch

from cuvee import artifacts, config
from cuvee.artifacts import Json
from cuvee.proxy.spec import TrainingSpec
from cuvee.proxy.stacked_step import StackedStep, can_compile
from cuvee.proxy.stacked_train import empty_stack, free_memory, on_device
from cuvee.proxy.stacking import (
    MOST_MEMBERS,
    StackChoice,
    Trial,
    choose_members,
    compiling_pays,
)

_WARM_STEPS = 2
_TIMED_STEPS = 5
_TIMED_TOKENS = 65_536
_SATURATED = 1.03
"""Twice the members that train less than this many times the runs a second end the trials."""


def calibrate_stack(spec: Mapping[str, Json], folder: Path) -> None:
    """Choose how runs of a shape are stacked on this card (a task).

    Args:
        spec: ``run``, a `TrainingSpec` of the shape as JSON; ``vocabulary_size``; ``n_runs`` of the
            sweep; ``device``, a CUDA device.
        folder: Receives timing.json: ``members`` and ``compiled`` (`StackChoice`), and what they
            follow from.
    """
    run = config.parse(TrainingSpec, cast(Mapping[str, Json], spec["run"]))
    vocabulary_size, n_runs = cast(int, spec["vocabulary_size"]), cast(int, spec["n_runs"])
    device = torch.device(str(spec["device"]))
    with (
        artifacts.writing(folder, stage="dry-run", settings={}, seed=run.seed, inputs={}) as aside,
        on_device(device),
    ):
        free_bytes = torch.cuda.mem_get_info(device)[0]
        trials = measure_trials(run, vocabulary_size, device, most=min(n_runs, MOST_MEMBERS))
        members = choose_members(trials, free_bytes=free_bytes, most=min(n_runs, MOST_MEMBERS))
        n_steps = -(-run.n_sequences // run.batch_sequences) * -(-n_runs // members)
        choice, compiled = _compilation(run, members, vocabulary_size, device, n_steps=n_steps)
        figures: dict[str, Json] = {
            "members": choice.members,
            "compiled": choice.compiled,
            "free_bytes": free_bytes,
            "trials": [config.dump(trial) for trial in trials],
            "compiled_seconds": compiled,
        }
        artifacts.write_json(aside / artifacts.TIMING, figures)


def measure_stack(spec: Mapping[str, Json], folder: Path) -> None:
    """Time a stack of a given size (a task): its tokens_per_second and seconds are written.

    Args:
        spec: ``run``, a `TrainingSpec` of the shape as JSON; ``vocabulary_size``; ``members``,
            ``compiled`` and ``device`` of the stack.
        folder: Receives timing.json.
    """
    started = time.perf_counter()
    run = config.parse(TrainingSpec, cast(Mapping[str, Json], spec["run"]))
    device, members = torch.device(str(spec["device"])), cast(int, spec["members"])
    with (
        artifacts.writing(folder, stage="dry-run", settings={}, seed=run.seed, inputs={}) as aside,
        on_device(device),
    ):
        compiled = bool(spec["compiled"]) and can_compile(str(device))
        vocabulary_size = cast(int, spec["vocabulary_size"])
        _, seconds = stack_seconds(run, members, vocabulary_size, device, compiled=compiled)
        rate = members * run.batch_sequences * run.context / seconds
        timing: dict[str, Json] = {
            "tokens_per_second": round(rate, 1),
            "seconds": round(time.perf_counter() - started, 3),
        }
        artifacts.write_json(aside / artifacts.TIMING, timing)


def measure_trials(
    run: TrainingSpec, vocabulary_size: int, device: torch.device, *, most: int
) -> list[Trial]:
    """Measure stacks of 1, 2, 4, ... members until memory is full or more of them gain nothing.

    Args:
        run: A run of the shape.
        vocabulary_size: Number of token ids.
        device: A CUDA device.
        most: Members of the largest stack.
    """
    trials: list[Trial] = []
    members = 1
    while members <= most:
        torch.cuda.reset_peak_memory_stats(device)
        try:
            _, seconds = stack_seconds(run, members, vocabulary_size, device)
        except torch.OutOfMemoryError:
            break
        n_bytes = torch.cuda.max_memory_reserved(device)
        trials.append(Trial(members=members, seconds=seconds, n_bytes=n_bytes))
        if len(trials) > 2 and trials[-3].seconds * 4 < seconds * _SATURATED:
            break
        members *= 2
    return trials


def stack_seconds(
    run: TrainingSpec,
    members: int,
    vocabulary_size: int,
    device: torch.device,
    *,
    compiled: bool = False,
) -> tuple[float, float]:
    """Time a few steps of a stack on random tokens, and measure once.

    Batches beyond a few ten thousand tokens are timed at that size and scaled.

    Returns:
        Seconds of the first step, compilation included, and the median of later ones.
    """
    n_sequences = max(1, min(run.batch_sequences, _TIMED_TOKENS // run.context))
    n_steps = _WARM_STEPS + _TIMED_STEPS
    timed = replace(
        run, batch_sequences=n_sequences, n_sequences=n_steps * n_sequences, learning_rate=1e-4
    )
    generator = torch.Generator().manual_seed(0)
    shape = (members, n_sequences, run.context)
    tokens = torch.randint(vocabulary_size, shape, generator=generator).to(device)
    segments = torch.zeros_like(tokens)
    model = empty_stack(run, n_members=members, vocabulary_size=vocabulary_size, device=device)
    for parameter in model.parameters():  # zeros would draw less power, and run faster
        torch.nn.init.normal_(parameter, std=0.02)
    step = StackedStep(model, [timed] * members, compiled=compiled)
    seconds = []
    for _ in range(n_steps):
        _synchronise(device)
        started = time.perf_counter()
        step(tokens, segments, tokens)
        _synchronise(device)
        seconds.append(time.perf_counter() - started)
    rows = slice(0, max(1, 4096 // run.context))
    model.token_losses(tokens[:, rows], segments[:, rows], tokens[:, rows])
    del model, step
    free_memory(device)
    scale = run.batch_sequences / n_sequences
    return seconds[0], statistics.median(seconds[_WARM_STEPS:]) * scale


def _compilation(
    run: TrainingSpec, members: int, vocabulary_size: int, device: torch.device, *, n_steps: int
) -> tuple[StackChoice, list[float]]:
    """Return the choice, and the seconds of the first and later compiled steps if there were any.

    The eager step is timed at the same size, which may lie between the trials.
    """
    plain = StackChoice(members=members, compiled=False)
    if members == 1 or not can_compile(str(device)):
        return plain, []
    try:
        _, eager = stack_seconds(run, members, vocabulary_size, device)
    except torch.OutOfMemoryError:
        return replace(plain, members=max(1, members // 2)), []
    first, compiled = stack_seconds(run, members, vocabulary_size, device, compiled=True)
    pays = compiling_pays(first=first, compiled=compiled, eager=eager, n_steps=n_steps)
    return replace(plain, compiled=pays), [first, compiled]


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
