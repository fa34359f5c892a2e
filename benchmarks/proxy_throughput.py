"""How fast a proxy trains on one core, beside ordinary training loops of the same model.

``python -m benchmarks.proxy_throughput [--quick] [--json FILE]``

Peers, with the same dimensions, data, optimiser and clipping, each in a single-threaded process of
its own: transformers' LlamaForCausalLM where it is installed, and a loop in the manner of nanoGPT
written below; float32 and bfloat16 autocast, eager and compiled, with glibc's allocator as it comes
and tuned as cuvee's workers tune theirs. Variants take turns, a step each; seconds are processor
time, so that other jobs on the machine count little, and figures are medians. Two workers beside
one are timed by the clock. FLOPs: 6 x parameters of matrix products with the head, and causal
attention (`ModelSize.flops_per_token`); the peak is the best rate of one product of 1,024 cubed.
"""

import argparse
import importlib.util
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuvee.policy.mixture import Mixture
from cuvee.proxy.machine import choose_precision
from cuvee.proxy.model import ProxyModel
from cuvee.proxy.sizes import ModelSize, model_size
from cuvee.proxy.step import training_step
from cuvee.proxy.sweep import ProxyConfig, SweepInputs, training_spec

ROOT = Path(__file__).resolve().parents[1]
SIZES = {128: "0.4m", 256: "3m"}
VOCABULARY, CONTEXT, BATCH_TOKENS = 8192, 256, 4096
COMPILED_RUN_TOKENS = 1_000_000
_ROUNDS, _QUICK_ROUNDS = 10, 3
_PEAK_SIDE = 1024
_TUNED = (
    "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=2147483647:glibc.malloc.top_pad=67108864"
)

Figures = dict[str, float]
Step = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to train the model."""

    loop: Literal["llama", "nanogpt", "explicit", "autograd", "matmul"]
    precision: Literal["float32", "bfloat16"] = "float32"
    tuned: bool = True
    compiled: bool = False

    @property
    def name(self) -> str:
        """Key of its figures."""
        marks = ["tuned"] * self.tuned + ["compiled"] * self.compiled
        return "_".join([self.loop, self.precision, *marks])


class Server:
    """A process that trains one variant, a step whenever it is asked."""

    def __init__(self, variant: Variant, width: int) -> None:
        threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(threads, "1")}
        if variant.tuned:
            environment["GLIBC_TUNABLES"] = _TUNED
        spec = json.dumps({"variant": vars(variant), "width": width})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.proxy_throughput", "--serve", spec],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.first: Figures = {}

    def ask(self) -> None:
        """Begin a step."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def answer(self) -> Figures:
        """Wait for what a step took."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a process of the benchmark ended early; see its message above.")
        figures: Figures = json.loads(line)
        return figures

    def step(self) -> Figures:
        """Run a step from beginning to end."""
        self.ask()
        return self.answer()

    def __enter__(self) -> Self:
        self.first = self.answer()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def main() -> None:
    """Read the command line; measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="eager loops, few steps")
    parser.add_argument("--json", type=Path, help="file the result is written to")
    parser.add_argument("--serve", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(Variant(**options.serve["variant"]), options.serve["width"])
        return
    result = measure(quick=options.quick)
    print_table(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measure(*, quick: bool) -> dict[str, Mapping[str, object]]:
    """Take all measurements; ``ratios``, ``figures`` and ``conditions``."""
    ratios: Figures = {}
    figures: Figures = {}
    for width in SIZES:
        found = measure_width(width, n_rounds=_QUICK_ROUNDS if quick else _ROUNDS)
        if not quick:
            found |= _compiled(width)
        figures |= {f"width{width}_{name}": value for name, value in found.items()}
        ratios |= {f"cpu_width{width}_{name}": value for name, value in _ratios(found).items()}
    if not quick:
        ratios["two_workers_vs_one"] = two_workers(128, _ROUNDS)
    return {
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
        "figures": {name: round(value, 4) for name, value in figures.items()},
        "conditions": {
            "machine": platform.machine(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "precision_of_cuvee": choose_precision("auto", "cpu"),
            "python": platform.python_version(),
            "torch": version("torch"),
            "transformers": version("transformers") if _has_transformers() else "not installed",
            "vocabulary": VOCABULARY,
            "context": CONTEXT,
            "tokens_a_step": BATCH_TOKENS,
            "sizes": {str(width): vars_of(model_size(name)) for width, name in SIZES.items()},
            "n_rounds": _QUICK_ROUNDS if quick else _ROUNDS,
        },
    }


def measure_width(width: int, *, n_rounds: int) -> Figures:
    """Time all eager variants of a width in turns.

    Returns:
        ``seconds_<variant>`` a step, ``tokens_per_second_<variant>``, ``peak_mb_<variant>``,
        ``share_of_peak_<variant>`` and ``matmul_gflops``.
    """
    precision = choose_precision("auto", "cpu")
    variants = [
        Variant(loop="matmul", precision=precision),
        Variant(loop="explicit", precision=precision),
        Variant(loop="autograd", precision=precision),
        *_eager_peers(emulated=n_rounds > _QUICK_ROUNDS),
    ]
    seconds: dict[str, list[float]] = {variant.name: [] for variant in variants}
    peaks: Figures = {}
    with ExitStack() as stack:
        servers = [stack.enter_context(Server(variant, width)) for variant in variants]
        for number in range(n_rounds):
            for variant, server in zip(variants, servers, strict=True):
                if number > 0 and variant.precision != precision == "float32":
                    continue  # emulated bfloat16 is several times slower: once is enough
                taken = server.step()
                seconds[variant.name].append(taken["cpu_seconds"])
                peaks[variant.name] = taken["peak_mb"]
    matmul = variants[0].name
    peak = 2 * _PEAK_SIDE**3 / min(seconds.pop(matmul))
    figures: Figures = {"matmul_gflops": peak / 1e9}
    size = model_size(SIZES[width])
    flops = BATCH_TOKENS * size.flops_per_token(VOCABULARY, CONTEXT)
    for name, taken in seconds.items():
        median = statistics.median(taken)
        figures[f"seconds_{name}"] = median
        figures[f"tokens_per_second_{name}"] = BATCH_TOKENS / median
        figures[f"share_of_peak_{name}"] = flops / median / peak
        figures[f"peak_mb_{name}"] = peaks[name]
    return figures


def two_workers(width: int, n_rounds: int) -> float:
    """Return the tokens per second of two workers at once over those of one, by the clock."""
    variant = Variant(loop="explicit", precision=choose_precision("auto", "cpu"))
    alone: list[float] = []
    together: list[float] = []
    with Server(variant, width) as one, Server(variant, width) as other:
        for _ in range(n_rounds):
            alone.append(one.step()["seconds"])
            for server in (one, other):
                server.ask()
            together.append(statistics.mean(server.answer()["seconds"] for server in (one, other)))
    return 2 * statistics.median(alone) / statistics.median(together)


def serve(variant: Variant, width: int) -> None:
    """Run a step for every line of standard input."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    step = _step_of(variant, model_size(SIZES[width]))
    step()
    print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)
    step()
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        figures = {
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        print(json.dumps(figures), flush=True)


def print_table(result: Mapping[str, Mapping[str, object]]) -> None:
    """Print ratios, figures and conditions, a line each."""
    for part, values in result.items():
        print(part)
        for name, value in values.items():
            print(f"  {name:56} {value}")


def _step_of(variant: Variant, size: ModelSize) -> Step:
    if variant.loop == "matmul":
        dtype = getattr(torch, variant.precision)
        left, right, out = (torch.ones(_PEAK_SIDE, _PEAK_SIDE, dtype=dtype) for _ in range(3))
        return lambda: torch.mm(left, right, out=out)
    generator = torch.Generator().manual_seed(0)
    shape = (BATCH_TOKENS // CONTEXT, CONTEXT)
    tokens, targets = (torch.randint(VOCABULARY, shape, generator=generator) for _ in range(2))
    if variant.loop in ("explicit", "autograd"):
        return _cuvee_step(variant, size, tokens, targets)
    model: nn.Module = Llama(size) if variant.loop == "llama" else NanoGPT(size)
    if variant.compiled:
        model.compile()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, fused=True)
    narrow = variant.precision == "bfloat16"

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16) if narrow else nullcontext():
            loss = model(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def _cuvee_step(variant: Variant, size: ModelSize, tokens: Tensor, targets: Tensor) -> Step:
    generator = torch.Generator().manual_seed(0)
    model = ProxyModel(size, vocabulary_size=VOCABULARY, context=CONTEXT, generator=generator)
    inputs = SweepInputs(
        pool=Path(),
        targets=None,
        statistics=None,
        target_tokens=0,
        precision=variant.precision,
        device="cpu",
        step="explicit" if variant.loop == "explicit" else "autograd",
    )
    proxy = ProxyConfig(size=size.name, context=CONTEXT, batch_tokens=BATCH_TOKENS)
    mixture = Mixture.flat(("any",), (1.0,))
    run = training_spec(proxy, inputs, mixture, seed=0, run_seed=0, learning_rate=1e-3)
    gradients = training_step(model, run)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, fused=True)
    segments = torch.zeros_like(tokens)

    def step() -> None:
        gradients(tokens, segments, targets)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=False)

    return step


class NanoGPT(nn.Module):
    """The same network as an ordinary module: RMSNorm, rotary positions, SwiGLU, untied head."""

    def __init__(
        self, size: ModelSize, *, vocabulary: int = VOCABULARY, context: int = CONTEXT
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, size.width)
        self.blocks = nn.ModuleList(NanoBlock(size, context) for _ in range(size.n_layers))
        self.norm = nn.RMSNorm(size.width)
        self.head = nn.Linear(size.width, vocabulary, bias=False)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class NanoBlock(nn.Module):
    """Attention and SwiGLU."""

    def __init__(self, size: ModelSize, context: int) -> None:
        super().__init__()
        width = size.width
        self.n_heads = size.n_heads
        self.norms = nn.ModuleList([nn.RMSNorm(width), nn.RMSNorm(width)])
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, size.hidden, bias=False)
        self.up = nn.Linear(width, size.hidden, bias=False)
        self.down = nn.Linear(size.hidden, width, bias=False)
        half = width // size.n_heads // 2
        angles = torch.outer(torch.arange(context), 10_000.0 ** (-torch.arange(half) / half))
        self.register_buffer("cos", torch.cat([angles.cos()] * 2, 1), persistent=False)
        self.register_buffer("sin", torch.cat([angles.sin()] * 2, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, context, width) to the same."""
        shape = (*x.shape[:2], self.n_heads, -1)
        q, k, v = (
            part.view(shape).transpose(1, 2) for part in self.qkv(self.norms[0](x)).chunk(3, -1)
        )
        y = F.scaled_dot_product_attention(self._rotate(q), self._rotate(k), v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(x.shape))
        y = self.norms[1](x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))

    def _rotate(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return (x * self.cos + torch.cat([-second, first], dim=-1) * self.sin).to(x.dtype)


class Llama(nn.Module):
    """transformers' model of the same dimensions."""

    def __init__(self, size: ModelSize) -> None:
        super().__init__()
        from transformers import LlamaConfig, LlamaForCausalLM

        self.model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCABULARY,
                hidden_size=size.width,
                intermediate_size=size.hidden,
                num_hidden_layers=size.n_layers,
                num_attention_heads=size.n_heads,
                num_key_value_heads=size.n_heads,
                max_position_embeddings=CONTEXT,
                tie_word_embeddings=False,
                use_cache=False,
            )
        )

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss; transformers shifts the labels itself."""
        return self.model(input_ids=tokens, labels=targets).loss


def _eager_peers(*, emulated: bool) -> list[Variant]:
    """Return the eager peers, with bfloat16 on a processor that only emulates it or without."""
    native = choose_precision("auto", "cpu") == "bfloat16"
    loops: Sequence[Literal["llama", "nanogpt"]] = ("llama", "nanogpt")
    precisions: Sequence[Literal["float32", "bfloat16"]] = ("float32", "bfloat16")
    return [
        Variant(loop=loop, precision=precision, tuned=tuned)
        for loop in loops
        if loop == "nanogpt" or _has_transformers()
        for precision in precisions
        if precision == "float32" or native or emulated
        for tuned in (False, True)
    ]


def _compiled(width: int) -> Figures:
    """Time a compiled peer; nothing where there is no compiler."""
    if shutil.which("c++") is None and shutil.which("g++") is None:
        return {}
    loop: Literal["llama", "nanogpt"] = "llama" if _has_transformers() else "nanogpt"
    variant = Variant(loop=loop, precision=choose_precision("auto", "cpu"), compiled=True)
    ours = Variant(loop="explicit", precision=variant.precision)
    taken: dict[str, list[float]] = {variant.name: [], ours.name: []}
    with Server(variant, width) as peer, Server(ours, width) as server:
        for _ in range(_ROUNDS):
            taken[variant.name].append(peer.step()["cpu_seconds"])
            taken[ours.name].append(server.step()["cpu_seconds"])
        first = peer.first["seconds"]
    n_steps = COMPILED_RUN_TOKENS / BATCH_TOKENS
    step, mine = (statistics.median(each) for each in taken.values())
    return {
        f"seconds_{variant.name}": step,
        f"first_step_seconds_{variant.name}": first,
        "compiled_run_seconds": first + n_steps * step,
        "explicit_run_seconds": n_steps * mine,
    }


def _ratios(figures: Figures) -> Figures:
    """Return how many times faster the explicit step is than each kind of peer."""
    ours = next(value for key, value in figures.items() if key.startswith("seconds_explicit"))
    peers = {
        variant: figures[f"seconds_{variant.name}"]
        for variant in _eager_peers(emulated=True)
        if f"seconds_{variant.name}" in figures
    }
    ratios = {
        f"vs_{'tuned' if tuned else 'best'}_eager": min(
            seconds for variant, seconds in peers.items() if variant.tuned == tuned
        )
        / ours
        for tuned in (False, True)
    }
    if "compiled_run_seconds" in figures:
        ratios["vs_compiled"] = figures["compiled_run_seconds"] / figures["explicit_run_seconds"]
    return ratios


def _has_transformers() -> bool:
    return importlib.util.find_spec("transformers") is not None


def vars_of(size: ModelSize) -> dict[str, object]:
    """Return the dimensions of a size."""
    return {
        "n_layers": size.n_layers,
        "width": size.width,
        "n_heads": size.n_heads,
        "hidden": size.hidden,
    }


if __name__ == "__main__":
    main()
