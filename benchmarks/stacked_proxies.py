"""How fast many small proxies train as one stacked model, beside one after another.

``python -m benchmarks.stacked_proxies [--quick] [--json FILE]``

On a CUDA device: 32 proxies of RegMix's size (1m: width 256, two layers), context 512, 16,384
tokens a step each, with a vocabulary of 8,192 and of 50,304, in bfloat16. Peers train one proxy at
a time: cuvee's plain path as it is and compiled, and a loop in the manner of nanoGPT with torch's
own cross-entropy and causal attention, compiled, with and without CUDA graphs. Figures are medians
of whole steps, clipping and update included, on random tokens that are on the card already. The
peak is the best rate of one bfloat16 product of 8,192 cubed; FLOPs: `ModelSize.flops_per_token`.
Projected: 512 proxies of a billion tokens each, as RegMix's sweep, at the rate measured.

Without a CUDA device a tiny version runs on the processor: it checks that a stack's losses are
those of its members alone, and its times mean nothing.
"""

import argparse
import gc
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.proxy_throughput import NanoGPT
from cuvee.policy.mixture import Mixture
from cuvee.proxy.model import ProxyModel
from cuvee.proxy.sizes import model_size
from cuvee.proxy.spec import TrainingSpec
from cuvee.proxy.stack_trials import stack_seconds
from cuvee.proxy.stacked_step import StackedStep, can_compile
from cuvee.proxy.stacked_train import empty_stack
from cuvee.proxy.step import training_step
from cuvee.proxy.sweep import ProxyConfig, SweepInputs, training_spec
from cuvee.proxy.train import learning_rate_at

MEMBERS, SIZE, CONTEXT, BATCH_TOKENS = 32, "1m", 512, 16_384
VOCABULARIES = {"8k": 8192, "50k": 50_304}
REGMIX_TOKENS = 512 * 1e9
_ROUNDS, _QUICK_ROUNDS = 20, 5
_WARM_STEPS = 3
_PEAK_SIDE = 8192
_CHECKED_STEPS = 8
_CHECKED_MEMBERS = 4

Figures = dict[str, float]
Step = Callable[[], object]


def main() -> None:
    """Read the command line; measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="8k only, few steps, no graphs")
    parser.add_argument("--json", type=Path, help="file the result is written to")
    options = parser.parse_args()
    if torch.cuda.is_available():
        result = measure(torch.device("cuda"), quick=options.quick)
    else:
        print("no CUDA device: a tiny version on the processor; its times mean nothing")
        result = measure_tiny()
    for part, values in result.items():
        print(part)
        for name, value in values.items():
            print(f"  {name:56} {value}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measure(device: torch.device, *, quick: bool) -> dict[str, Mapping[str, object]]:
    """Take all measurements on a card; ``ratios``, ``figures``, ``conditions`` and ``notes``."""
    figures: Figures = {"bf16_matmul_tflops": matmul_rate(device) / 1e12}
    ratios: Figures = {}
    notes: dict[str, str] = {}
    figures["stack_vs_alone_largest_relative_difference"] = check(device, "float32")
    figures["stack_vs_alone_bfloat16"] = check(device, "bfloat16")
    for name, vocabulary in VOCABULARIES.items():
        if quick and name != "8k":
            continue
        taken, failed = measure_vocabulary(vocabulary, device, quick=quick)
        notes |= {f"{name}_{key}": text for key, text in failed.items()}
        figures |= {f"{name}_{key}": value for key, value in taken.items()}
        figures |= {
            f"{name}_{key}": value
            for key, value in derived(
                taken, vocabulary=vocabulary, peak=figures["bf16_matmul_tflops"] * 1e12
            ).items()
        }
        alone = [value for key, value in taken.items() if key.startswith("seconds_alone")]
        stacked = [value for key, value in taken.items() if key.startswith("seconds_stacked")]
        if alone and stacked:
            ratios[f"{name}_stacked_vs_best_alone"] = MEMBERS * min(alone) / min(stacked)
        if "seconds_alone_compiled" in taken and stacked:
            plain = taken["seconds_alone_compiled"]
            ratios[f"{name}_stacked_vs_compiled_plain"] = MEMBERS * plain / min(stacked)
    return {
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
        "figures": {name: round(value, 7) for name, value in figures.items()},
        "conditions": {
            "device": torch.cuda.get_device_name(device),
            "python": platform.python_version(),
            "torch": version("torch"),
            "cuda": str(torch.version.cuda),
            "members": MEMBERS,
            "size": SIZE,
            "context": CONTEXT,
            "tokens_a_step_of_each": BATCH_TOKENS,
            "n_rounds": _QUICK_ROUNDS if quick else _ROUNDS,
        },
        "notes": notes,
    }


def measure_tiny() -> dict[str, Mapping[str, object]]:
    """Check a stack on the processor, and time it for the sake of the code."""
    run = spec("cpu", "float32", size="0.03m", context=32, batch_tokens=256)
    _, stacked = stack_seconds(run, _CHECKED_MEMBERS, 512, torch.device("cpu"))
    alone = step_seconds(plain_step(run, 512), torch.device("cpu"), n_rounds=_QUICK_ROUNDS)
    return {
        "ratios": {},
        "figures": {
            "stack_vs_alone_largest_relative_difference": check(torch.device("cpu"), "float32"),
            "tiny_seconds_stacked": round(stacked, 5),
            "tiny_seconds_alone": round(alone, 5),
        },
        "conditions": {
            "device": "cpu, no CUDA device: sizes are tiny and times mean nothing",
            "python": platform.python_version(),
            "torch": version("torch"),
            "members": _CHECKED_MEMBERS,
        },
    }


def measure_vocabulary(
    vocabulary: int, device: torch.device, *, quick: bool
) -> tuple[Figures, dict[str, str]]:
    """Time stacks and proxies alone with one vocabulary.

    Returns:
        ``seconds_stacked``, ``seconds_stacked_compiled``, ``seconds_alone...`` a step,
        ``first_step_seconds_stacked_compiled``, ``gb_stacked...`` of memory, and
        ``seconds_stack_of_<n>`` for other sizes; and why a variant could not be measured.
    """
    run = spec(str(device), "bfloat16")
    figures: Figures = {}
    failed: dict[str, str] = {}

    def attempt(name: str, measurement: Callable[[], None]) -> None:
        clear(device)
        try:
            measurement()
        except (RuntimeError, ImportError, OSError) as error:
            failed[name] = f"{type(error).__name__}: {str(error).strip()[:300]}"

    def stacked(members: int, name: str, *, compiled: bool) -> None:
        first, later = stack_seconds(run, members, vocabulary, device, compiled=compiled)
        figures[f"seconds_{name}"] = later
        figures[f"gb_{name}"] = torch.cuda.max_memory_allocated(device) / 1e9
        if compiled:
            figures[f"first_step_seconds_{name}"] = first

    def alone(name: str, step: Callable[[], Step]) -> None:
        n_rounds = _QUICK_ROUNDS if quick else _ROUNDS
        figures[f"seconds_{name}"] = step_seconds(step(), device, n_rounds=n_rounds)

    attempt("stacked", lambda: stacked(MEMBERS, "stacked", compiled=False))
    attempt("alone", lambda: alone("alone", lambda: plain_step(run, vocabulary)))
    if can_compile(str(device)):
        attempt("stacked_compiled", lambda: stacked(MEMBERS, "stacked_compiled", compiled=True))
        attempt(
            "alone_compiled",
            lambda: alone("alone_compiled", lambda: plain_step(run, vocabulary, compiled=True)),
        )
        modes = (
            {"nanogpt": "default"}
            if quick
            else {
                "nanogpt": "default",
                "nanogpt_graphs": "reduce-overhead",
            }
        )
        for name, mode in modes.items():
            attempt(
                f"alone_{name}",
                lambda name=name, mode=mode: alone(  # type: ignore[misc]
                    f"alone_{name}_compiled", lambda: nanogpt_step(run, vocabulary, mode=mode)
                ),
            )
    for members in () if quick else (1, 4, 8, 16, 64):
        attempt(
            f"stack_of_{members}",
            lambda members=members: stacked(  # type: ignore[misc]
                members, f"stack_of_{members}", compiled=False
            ),
        )
    clear(device)
    return figures, failed


def derived(taken: Figures, *, vocabulary: int, peak: float) -> Figures:
    """Turn seconds a step into tokens a second, shares of the peak and hours of RegMix's sweep.

    Args:
        taken: Figures of one vocabulary.
        vocabulary: Number of token ids.
        peak: Operations a second of a bfloat16 product.
    """
    flops = model_size(SIZE).flops_per_token(vocabulary, CONTEXT)
    figures: Figures = {}
    for key, seconds in taken.items():
        name = key.removeprefix("seconds_")
        if not key.startswith("seconds_"):
            continue
        members = 1 if name.startswith("alone") else MEMBERS
        if name.startswith("stack_of_"):
            members = int(name.removeprefix("stack_of_"))
        rate = members * BATCH_TOKENS / seconds
        figures[f"tokens_per_second_{name}"] = rate
        figures[f"share_of_matmul_rate_{name}"] = rate * flops / peak
        figures[f"regmix_gpu_hours_{name}"] = REGMIX_TOKENS / rate / 3600
    return figures


def check(device: torch.device, precision: str) -> float:
    """Train a few members together and alone, with rates of their own.

    Returns:
        The largest relative difference of a training loss.
    """
    base = spec(str(device), precision, size="0.1m", context=64, batch_tokens=512)
    base = replace(base, n_sequences=_CHECKED_STEPS * base.batch_sequences, warmup_steps=1)
    runs = [replace(base, learning_rate=2e-3 * 2**k, seed=k) for k in range(_CHECKED_MEMBERS)]
    vocabulary = 512
    shape = (_CHECKED_STEPS, _CHECKED_MEMBERS, base.batch_sequences, base.context)
    tokens = torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(1))
    tokens = tokens.to(device)
    segments = (torch.arange(base.context, device=device) // 20).expand(shape)
    models = [_model(run, vocabulary) for run in runs]
    stack = empty_stack(base, n_members=len(runs), vocabulary_size=vocabulary, device=device)
    for member, model in enumerate(models):
        stack.load_member(member, model.state_dict())
    together = StackedStep(stack, runs)
    for step in range(_CHECKED_STEPS):
        together(tokens[step], segments[step], tokens[step].roll(1, -1))
    worst = 0.0
    for member, (run, model) in enumerate(zip(runs, models, strict=True)):
        alone = training_step(model, run)
        optimiser = _optimiser(model)
        for step in range(_CHECKED_STEPS):
            ids = tokens[step, member]
            loss = alone(ids, segments[step, member], ids.roll(1, -1))
            rate = learning_rate_at(step + 1, _CHECKED_STEPS, run)
            _advance(model, optimiser, run, rate=rate)
            worst = max(worst, abs(together.losses[member][step] - loss) / loss)
    return worst


def plain_step(run: TrainingSpec, vocabulary: int, *, compiled: bool = False) -> Step:
    """Return a step of cuvee's plain path, its blocks compiled or not."""
    model = _model(run, vocabulary)
    if compiled:
        model.hidden = torch.compile(model.hidden, dynamic=False)  # type: ignore[method-assign]
    gradients = training_step(model, run)
    optimiser = _optimiser(model)
    tokens = _tokens(run, vocabulary)
    segments = torch.zeros_like(tokens)

    def step() -> None:
        gradients(tokens, segments, tokens)
        _advance(model, optimiser, run, rate=1e-4)

    return step


def nanogpt_step(run: TrainingSpec, vocabulary: int, *, mode: str) -> Step:
    """Return a step of the ordinary module, compiled as a whole."""
    size = model_size(run.size)
    model = NanoGPT(size, vocabulary=vocabulary, context=run.context).to(run.device)
    forward = torch.compile(model, mode=mode, dynamic=False)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    tokens = _tokens(run, vocabulary)

    def step() -> None:
        with torch.autocast(tokens.device.type, dtype=torch.bfloat16):
            loss = forward(tokens, tokens)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def step_seconds(step: Step, device: torch.device, *, n_rounds: int) -> float:
    """Return the median seconds of a step, the card idle before and after."""
    seconds = []
    for _ in range(_WARM_STEPS + n_rounds):
        synchronise(device)
        started = time.perf_counter()
        step()
        synchronise(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[_WARM_STEPS:])


def matmul_rate(device: torch.device) -> float:
    """Return the best rate of one bfloat16 product of random numbers, operations a second."""
    left, right = (
        torch.randn(_PEAK_SIDE, _PEAK_SIDE, device=device, dtype=torch.bfloat16) for _ in range(2)
    )
    best = math.inf
    for _ in range(20):
        synchronise(device)
        started = time.perf_counter()
        for _ in range(5):
            torch.mm(left, right)
        synchronise(device)
        best = min(best, (time.perf_counter() - started) / 5)
    return 2 * _PEAK_SIDE**3 / best


def spec(
    device: str,
    precision: str,
    *,
    size: str = SIZE,
    context: int = CONTEXT,
    batch_tokens: int = BATCH_TOKENS,
) -> TrainingSpec:
    """Describe a run of the benchmark's shape."""
    inputs = SweepInputs(
        pool=Path(),
        targets=None,
        statistics=None,
        target_tokens=0,
        precision="bfloat16" if precision == "bfloat16" else "float32",
        device=device,
    )
    proxy = ProxyConfig(
        size=size, context=context, batch_tokens=batch_tokens, n_tokens=100 * batch_tokens
    )
    mixture = Mixture.flat(("any",), (1.0,))
    return training_spec(proxy, inputs, mixture, seed=0, run_seed=0, learning_rate=1e-4)


def clear(device: torch.device) -> None:
    """Give back memory and compiled code, and begin to count memory anew."""
    gc.collect()
    torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def synchronise(device: torch.device) -> None:
    """Wait for the card."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _model(run: TrainingSpec, vocabulary: int) -> ProxyModel:
    generator = torch.Generator().manual_seed(run.seed)
    size = model_size(run.size)
    made = ProxyModel(size, vocabulary_size=vocabulary, context=run.context, generator=generator)
    return made.to(run.device)


def _tokens(run: TrainingSpec, vocabulary: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (run.batch_sequences, run.context)
    return torch.randint(vocabulary, shape, generator=generator).to(run.device)


def _optimiser(model: ProxyModel) -> torch.optim.Optimizer:
    groups = [
        {"params": [one for one in model.parameters() if one.dim() == rank], "weight_decay": decay}
        for rank, decay in ((2, 0.1), (1, 0.0))
    ]
    return torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), fused=True)


def _advance(
    model: ProxyModel, optimiser: torch.optim.Optimizer, run: TrainingSpec, *, rate: float
) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate
    torch.nn.utils.clip_grad_norm_(model.parameters(), run.clip)
    optimiser.step()
    optimiser.zero_grad(set_to_none=False)


if __name__ == "__main__":
    main()
