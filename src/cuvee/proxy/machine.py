"""What this machine offers a proxy: device, precision and measured speed."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast

import torch

from cuvee import artifacts, config, executors
from cuvee.artifacts import Json
from cuvee.errors import ConfigError
from cuvee.proxy.model import ProxyModel
from cuvee.proxy.sizes import model_size
from cuvee.proxy.spec import Step, TrainingSpec
from cuvee.proxy.step import training_step

_WARM_STEPS = 2
_TIMED_STEPS = 4
_TIMED_TOKENS = 8192
_GPU_SHARE = 0.25
"""Of a cluster's GPU that a task with a single proxy takes; several fill it better than one."""


def choose_device(device: str) -> str:
    """Return the torch device that "auto" stands for here, or on the cluster that tasks run on.

    Raises:
        ConfigError: The device is none of torch's, or not on this machine or the cluster.
    """
    n_gpus = executors.cluster_gpus()
    if n_gpus is not None:
        return _choose_on_cluster(device, n_gpus)
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(
            f"proxy.device {device!r} cannot be used here ({reason}). Set it to cpu, cuda or auto."
        ) from error
    return device


def choose_precision(
    precision: Literal["auto", "float32", "bfloat16"], device: str
) -> Literal["float32", "bfloat16"]:
    """Return the precision that "auto" stands for on a device.

    On a processor bfloat16 is taken only where it has instructions for it (AVX512-BF16 or AMX):
    elsewhere it is emulated, five times slower than float32.
    """
    if precision != "auto":
        return precision
    if torch.device(device).type == "cuda":
        return "bfloat16"
    capability = torch.backends.cpu.get_cpu_capability()
    native = capability != "DEFAULT" and _has_bfloat16_instructions()
    return "bfloat16" if native else "float32"


def choose_step(step: Literal["auto", "explicit", "autograd"], device: str) -> Step:
    """Return the training step that "auto" stands for on a device.

    A single run may still need the other one (`possible_step`), which its spec says.
    """
    if step != "auto":
        return step
    return "explicit" if torch.device(device).type == "cpu" else "autograd"


def choose_stack(
    stack: Literal["auto", "none"] | int, device: str
) -> Literal["auto", "none"] | int:
    """Return what "auto" stands for on a device: it stays on CUDA, to be measured for each shape.

    A processor is busy with one run; batched products of small matrices are no faster there.
    """
    if stack == "auto" and torch.device(device).type != "cuda":
        return "none"
    return stack


def stack_devices(device: str) -> tuple[str, ...]:
    """Return the devices that stacks of a sweep are dealt out to: every card, or the one named."""
    if device != "cuda":
        return (device,)
    n_gpus = executors.cluster_gpus()
    if n_gpus is not None:
        return ("cuda:0",) * n_gpus  # a task on a cluster sees its own GPU only
    return tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))


def gpu_share(device: str) -> float:
    """Return the share of a GPU that a cluster gives a task with a single proxy on a device."""
    return _GPU_SHARE if torch.device(device).type == "cuda" else 0.0


def tokens_per_second(spec: TrainingSpec, vocabulary_size: int) -> float:
    """Time a few training steps of a spec's model on random tokens.

    Batches beyond a few thousand tokens are timed at that size: a million at once, as in RegMix,
    would take hours and more memory than a plan is worth.

    Returns:
        Tokens a second of one worker, forward, backward and update.
    """
    generator = torch.Generator().manual_seed(0)
    n_sequences = max(1, min(spec.batch_sequences, _TIMED_TOKENS // spec.context))
    shape = (n_sequences, spec.context)
    model = ProxyModel(
        model_size(spec.size),
        vocabulary_size=vocabulary_size,
        context=spec.context,
        generator=generator,
    ).to(spec.device)
    step = training_step(model, spec)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    tokens = torch.randint(vocabulary_size, shape, generator=generator).to(spec.device)
    segments = torch.zeros(shape, dtype=torch.int64, device=spec.device)
    seconds = []
    for _ in range(_WARM_STEPS + _TIMED_STEPS):
        started = time.perf_counter()
        step(tokens, segments, tokens)
        torch.nn.utils.clip_grad_norm_(model.parameters(), spec.clip)
        optimiser.step()
        optimiser.zero_grad(set_to_none=False)
        seconds.append(time.perf_counter() - started)
    median = sorted(seconds[_WARM_STEPS:])[_TIMED_STEPS // 2]
    return tokens.numel() / median


def measure_speed(spec: Mapping[str, Json], folder: Path) -> None:
    """Time a run's model (a task): tokens_per_second and all its seconds go to timing.json.

    Args:
        spec: ``run``, a `TrainingSpec` as JSON, and ``vocabulary_size``.
        folder: Receives timing.json.
    """
    started = time.perf_counter()
    run = config.parse(TrainingSpec, cast(Mapping[str, Json], spec["run"]))
    with artifacts.writing(folder, stage="dry-run", settings={}, seed=run.seed, inputs={}) as aside:
        rate = tokens_per_second(run, cast(int, spec["vocabulary_size"]))
        timing: dict[str, Json] = {
            "tokens_per_second": round(rate, 1),
            "seconds": round(time.perf_counter() - started, 3),
        }
        artifacts.write_json(aside / artifacts.TIMING, timing)


def evaluation_tokens(spec: TrainingSpec, *, n_targets: int, n_domains: int) -> float:
    """Return the cost of a run's measurements in training tokens.

    A forward pass costs a third of a training step.
    """
    each = n_targets * spec.evaluation_tokens + n_domains * spec.domain_evaluation_tokens
    return len(spec.points) * each / 3


def _choose_on_cluster(device: str, n_gpus: int) -> str:
    allowed = ("auto", "cpu", "cuda") if n_gpus else ("auto", "cpu")
    if device not in allowed:
        raise ConfigError(
            f"proxy.device {device!r} cannot be used on a cluster with {n_gpus} GPUs. Set it to "
            f"{', '.join(allowed[1:])} or auto."
        )
    if device == "auto":
        return "cuda" if n_gpus else "cpu"
    return device


def _has_bfloat16_instructions() -> bool:
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(check()) if check is not None else False
