"""How fast documents are scored and factors fitted on one core, beside kronfluence.

``python -m benchmarks.influence_throughput [--quick] [--corpus DIR] [--json FILE]``

A model of about a million parameters (without embedding and head) is trained for a moment on real
text; then each contender, in a single-threaded process of its own with the same allocator settings,
takes the same weights and documents, cut at the context's length.

Scoring: one aggregated reference gradient, all attention matrices. The rate is that of those
documents by which a call is longer than another, so starting up counts for neither. kronfluence
pads each batch: ``score_vs_kronfluence_fp32`` gives it documents sorted by length, where that costs
least; ``..._in_order`` as they come from the pool, as cuvee takes them. Fitting: covariances,
eigenvectors and corrected eigenvalues from start to end, sorted too. bfloat16 is measured where the
processor has instructions for it. Seconds are processor time, medians of turns.

Fidelity: rank correlation of scores with those of the damped Gauss-Newton matrix, solved by many
steps of conjugate gradients (``residual_of_exact`` says how far they came); damping is a tenth of
each block's mean eigenvalue, which is kronfluence's own rule too. kronfluence is left out, and said
to be, where it is not installed.
"""

import argparse
import importlib.util
import json
import logging
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr
from torch import Tensor, nn

from cuvee.arrays import IntArray
from cuvee.corpus.read import PoolConfig
from cuvee.corpus.scan import scan_pool
from cuvee.corpus.tokens import TokensConfig, make_tokenizer, tokenise_pool
from cuvee.influence import (
    CausalModel,
    KroneckerFactors,
    LayerVector,
    gradient,
    influence,
)
from cuvee.proxy.machine import choose_precision
from cuvee.proxy.sizes import model_size

ROOT = Path(__file__).resolve().parents[1]
CORPUS = ROOT.parent / "shared" / "data" / "corpus"
SIZE, VOCABULARY, CONTEXT, BATCH = "0.8m", 8192, 512, 16
N_SCORED, N_FEW, N_REFERENCE, N_FITTED, N_SAMPLE = 96, 32, 16, 64, 24
QUICK = {"n_turns": 2, "n_steps": 60, "n_exact": 60}
FULL = {"n_turns": 5, "n_steps": 600, "n_exact": 200}
DAMPING, REFINED = 0.1, 5
SEED = 0
_TUNED = (
    "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=2147483647:glibc.malloc.top_pad=67108864"
)

Figures = dict[str, float]
Job = Callable[[Path], dict[str, Any]]


class Decoder(nn.Module):
    """The proxy's network of nn.Linear modules, as kronfluence needs them."""

    def __init__(self) -> None:
        super().__init__()
        size = model_size(SIZE)
        width = size.width
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.ModuleList(
            Block(width, size.n_heads, size.hidden) for _ in range(size.n_layers)
        )
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.head = nn.Linear(width, VOCABULARY, bias=False)

    def hidden(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        """Return (B, T, C); without segments a token sees all before it."""
        mask = None
        if segments is not None:
            same = segments[:, :, None] == segments[:, None, :]
            mask = (same & torch.ones(same.shape[1:], dtype=torch.bool).tril())[:, None]
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, mask)
        return cast(Tensor, self.norm(x))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (B, T, V)."""
        return cast(Tensor, self.head(self.hidden(tokens)))


class Block(nn.Module):
    """Rotary attention and SwiGLU."""

    def __init__(self, width: int, n_heads: int, hidden: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norms = nn.ModuleList([nn.RMSNorm(width, eps=1e-6) for _ in range(2)])
        self.attn_qkv = nn.Linear(width, 3 * width, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        half = width // n_heads // 2
        angles = torch.outer(torch.arange(CONTEXT), 10_000.0 ** (-torch.arange(half) / half))
        self.register_buffer("cos", torch.cat([angles.cos()] * 2, 1), persistent=False)
        self.register_buffer("sin", torch.cat([-angles.sin(), angles.sin()], 1), persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, T, C) to the same."""
        b, t, c = x.shape
        parts = self.attn_qkv(self.norms[0](x)).view(b, t, 3, self.n_heads, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(
            self._rotate(q), self._rotate(k), v, attn_mask=mask, is_causal=mask is None
        )
        x = x + self.attn_out(mixed.transpose(1, 2).reshape(b, t, c))
        gate, up = self.gate_up(self.norms[1](x)).chunk(2, -1)
        return x + cast(Tensor, self.down(F.silu(gate) * up))

    def _rotate(self, x: Tensor) -> Tensor:
        cos, sin = cast(Tensor, self.cos)[: x.shape[2]], cast(Tensor, self.sin)[: x.shape[2]]
        first, second = x.chunk(2, -1)
        return x * cos.to(x.dtype) + torch.cat([second, first], -1) * sin.to(x.dtype)


def main() -> None:
    """Read the command line; measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less training, fewer turns")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="folder of Parquet files")
    parser.add_argument("--json", type=Path, help="file the result is written to")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        torch.set_num_threads(1)
        print(json.dumps(JOBS[options.job](options.work)))
        return
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        result = measure(work, options.corpus, QUICK if options.quick else FULL)
    print_table(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measure(
    work: Path, corpus: Path, settings: Mapping[str, int]
) -> dict[str, Mapping[str, object]]:
    """Take all measurements; ``ratios``, ``figures`` and ``conditions``."""
    work.mkdir(parents=True, exist_ok=True)
    (work / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    prepare(work, corpus)
    _run("train", work)
    has_peer = importlib.util.find_spec("kronfluence") is not None
    precisions = ["fp32", "bf16"] if _has_bfloat16() else ["fp32"]
    names = ["cuvee", "kronfluence"] if has_peer else ["cuvee"]
    jobs = [f"{name}_{precision}" for precision in precisions for name in names]
    found: dict[str, list[dict[str, Any]]] = {job: [] for job in jobs}
    for _ in range(settings["n_turns"]):
        for job in jobs:
            found[job].append(_run(job, work))
    figures: Figures = {}
    for job, runs in found.items():
        for key in sorted(set(runs[0]) - {"scores"}):
            figures[f"{key}_{job}"] = statistics.median(run[key] for run in runs)
    scores = _run("fidelity", work)
    if has_peer:
        scores["kronfluence_ekfac"] = found["kronfluence_fp32"][0]["scores"]
    truth = scores.pop("exact")
    figures["residual_of_exact"] = scores.pop("residual")
    for name, values in scores.items():
        figures[f"rank_agreement_{name}"] = float(spearmanr(truth, values).statistic)
    ratios = _ratios(figures) if has_peer else {}
    ratios["fidelity"] = figures[f"rank_agreement_ekfac_{REFINED}_steps"]
    return {
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
        "figures": {name: round(value, 4) for name, value in figures.items()},
        "conditions": _conditions(work, settings, has_peer),
    }


def _ratios(figures: Figures) -> Figures:
    def best(key: str, name: str) -> float:
        return max(value for job, value in figures.items() if job.startswith(f"{key}_{name}"))

    ours = best("score_docs_per_s", "cuvee")
    return {
        "score_vs_kronfluence_fp32": ours / figures["score_docs_per_s_kronfluence_fp32"],
        "score_vs_kronfluence_best": ours / best("score_docs_per_s", "kronfluence"),
        "score_vs_kronfluence_fp32_in_order": ours
        / figures["score_in_order_docs_per_s_kronfluence_fp32"],
        "fit_vs_kronfluence": best("fit_docs_per_s", "cuvee")
        / figures["fit_docs_per_s_kronfluence_fp32"],
    }


def _has_bfloat16() -> bool:
    """Whether this processor has instructions for it; emulated, it is slower than float32."""
    return choose_precision("auto", "cpu") == "bfloat16"


def prepare(work: Path, corpus: Path) -> None:
    """Tokenise documents of all domains of a corpus, cut at the context's length."""
    rows: list[tuple[str, str, str]] = []
    for path in sorted(corpus.glob("*.parquet")):
        table = next(pq.ParquetFile(path).iter_batches(100, columns=["id", "text", "domain"]))
        rows += zip(*(table.column(i).to_pylist() for i in range(3)), strict=True)
    table = pa.table(dict(zip(("id", "text", "domain"), zip(*rows, strict=True), strict=True)))
    pq.write_table(table, work / "text.parquet")
    pool = PoolConfig(shards=(str(work / "text.parquet"),), validation_share=0.1)
    index = scan_pool(pool, work, seed=SEED, workers=0)
    config = TokensConfig(vocabulary_size=VOCABULARY, sample_bytes=2_000_000)
    tokenizer = make_tokenizer(config, index, work, seed=SEED)
    store = tokenise_pool(index, work, tokenizer=tokenizer, workers=0)
    order = np.random.default_rng(SEED).permutation(len(store.n_tokens))
    documents = [
        np.asarray(store.read(int(i), 0, min(int(store.n_tokens[i]), CONTEXT)), dtype=np.int64)
        for i in order
    ]
    lengths = np.array([len(ids) for ids in documents])
    np.savez(
        work / "documents.npz",
        ids=np.concatenate(documents),
        lengths=lengths,
        start=store.end_of_text,
    )


class Documents:
    """The prepared documents and their parts."""

    def __init__(self, work: Path) -> None:
        with np.load(work / "documents.npz") as arrays:
            ends = np.cumsum(arrays["lengths"])
            self.all: list[IntArray] = np.split(arrays["ids"], ends[:-1])
            self.start = int(arrays["start"])
        cuts = np.cumsum([N_REFERENCE, N_SCORED, N_FITTED])
        self.reference, self.scored, self.fitted = (
            self.all[start:stop] for start, stop in zip([0, *cuts[:-1]], cuts, strict=True)
        )
        self.training = self.all[cuts[-1] :] + self.fitted


def train(work: Path) -> dict[str, Any]:
    """Train the decoder on rows of text packed without care, and save it."""
    documents = Documents(work)
    rng = np.random.default_rng(SEED)
    rows = np.concatenate([np.append(documents.start, ids) for ids in documents.training])
    rows = rows[: len(rows) // (CONTEXT + 1) * (CONTEXT + 1)].reshape(-1, CONTEXT + 1)
    model = _initial()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1, fused=True)
    n_steps = json.loads((work / "settings.json").read_text())["n_steps"]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=n_steps)
    loss = torch.zeros(())
    for _ in range(n_steps):
        batch = torch.from_numpy(rows[rng.integers(len(rows), size=8)])
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    save_file(model.state_dict(), work / "model.safetensors")
    return {"loss": float(loss.detach())}


def cuvee(work: Path, precision: Literal["own", "bfloat16"]) -> dict[str, Any]:
    """Score by traces and fit EK-FAC factors."""
    documents, model = Documents(work), replace(_model(work), precision=precision)
    direction = gradient(model, documents.reference)
    few, _ = _timed(lambda: list(influence(model, direction, documents.scored[:N_FEW])))
    many, _ = _timed(lambda: list(influence(model, direction, documents.scored)))
    rng = np.random.default_rng(SEED)
    fit, _ = _timed(lambda: KroneckerFactors(model).fit(documents.fitted, rng=rng).eigen_blocks())
    return _rates(few, many, fit)


def fidelity(work: Path) -> dict[str, Any]:
    """Return scores by each curvature, and by the damped Gauss-Newton matrix."""
    documents, model = Documents(work), _model(work)
    sample = documents.fitted[:N_SAMPLE]
    residuals, logger = _Residuals(), logging.getLogger("cuvee.influence.solve")
    logger.addHandler(residuals)
    logger.setLevel(logging.INFO)
    reference = gradient(model, documents.reference)
    plain = KroneckerFactors(model, corrected=False).fit(
        documents.fitted, rng=np.random.default_rng(SEED)
    )
    factors = KroneckerFactors(model).fit(documents.fitted, rng=np.random.default_rng(SEED))
    n_exact = json.loads((work / "settings.json").read_text())["n_exact"]
    directions: dict[str, LayerVector] = {
        "dot": reference,
        "kfac": plain.solve(reference, damping=DAMPING),
        "ekfac": factors.solve(reference, damping=DAMPING),
        f"ekfac_{REFINED}_steps": factors.solve(
            reference, damping=DAMPING, steps=REFINED, sample=sample
        ),
        "exact": factors.solve(reference, damping=DAMPING, steps=n_exact, sample=sample),
    }
    scores: dict[str, Any] = {
        name: list(influence(model, direction, documents.scored))
        for name, direction in directions.items()
    }
    return {**scores, "residual": residuals.last}


class _Residuals(logging.Handler):
    """Takes the relative residual from the last message of conjugate gradients."""

    last = float("nan")

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple) and len(record.args) == 2:
            self.last = float(cast(float, record.args[1]))


JOBS: dict[str, Job] = {
    "train": train,
    "fidelity": fidelity,
    "cuvee_fp32": lambda work: cuvee(work, "own"),
    "cuvee_bf16": lambda work: cuvee(work, "bfloat16"),
    "kronfluence_fp32": lambda work: _kronfluence(work, None),
    "kronfluence_bf16": lambda work: _kronfluence(work, torch.bfloat16),
}


def print_table(result: Mapping[str, Mapping[str, object]]) -> None:
    """Print ratios, figures and conditions, a line each."""
    for part, values in result.items():
        print(part)
        for name, value in values.items():
            print(f"  {name:48} {value}")


def _kronfluence(work: Path, narrow: torch.dtype | None) -> dict[str, Any]:
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.utils.dataset import DataLoaderKwargs

    documents, decoder = Documents(work), _loaded(work)
    task = _kronfluence_task(len(decoder.blocks))
    wide = narrow or torch.float32
    to_fit = FactorArguments(strategy="ekfac", amp_dtype=narrow, per_sample_gradient_dtype=wide)
    to_score = ScoreArguments(
        damping_factor=None,  # a tenth of the mean eigenvalue
        aggregate_query_gradients=True,
        amp_dtype=narrow,
        score_dtype=wide,
        per_sample_gradient_dtype=wide,
    )

    def rows(ids: list[IntArray]) -> Any:
        return [np.append(documents.start, one) for one in ids]

    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer(
            "peer",
            prepare_model(decoder, task),
            task,
            cpu=True,
            disable_tqdm=True,
            output_dir=folder,
        )
        analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=_padded))
        by_length = sorted(documents.fitted, key=len)
        fit, _ = _timed(
            lambda: analyzer.fit_all_factors(
                "factors", rows(by_length), BATCH, factor_args=to_fit, overwrite_output_dir=True
            )
        )

        def score(name: str, ids: list[IntArray]) -> Tensor:
            reference = rows(documents.reference)
            analyzer.compute_pairwise_scores(
                name, "factors", reference, rows(ids), BATCH, BATCH, score_args=to_score
            )
            return cast(Tensor, analyzer.load_pairwise_scores(name)["all_modules"]).float()

        few = documents.scored[:N_FEW]
        seconds = [
            _timed(lambda ids=ids, name=name: score(name, ids))  # type: ignore[misc]
            for name, ids in (
                ("few", few),
                ("many", documents.scored),
                ("few by length", sorted(few, key=len)),
                ("many by length", sorted(documents.scored, key=len)),
            )
        ]
    n_more = N_SCORED - N_FEW
    return {
        **_rates(seconds[2][0], seconds[3][0], fit),
        "score_in_order_docs_per_s": n_more / (seconds[1][0] - seconds[0][0]),
        "scores": seconds[1][1].flatten().tolist(),
    }


def _kronfluence_task(n_layers: int) -> Any:
    from kronfluence.task import Task

    class Loss(Task):  # type: ignore[misc]
        def compute_train_loss(
            self, batch: dict[str, Tensor], model: nn.Module, sample: bool = False
        ) -> Tensor:
            logits = model(batch["tokens"]).float().flatten(0, 1)
            targets = batch["targets"].flatten()
            if sample:
                with torch.no_grad():
                    drawn = torch.multinomial(logits.softmax(-1), 1).flatten()
                    targets = torch.where(targets < 0, targets, drawn)
            return F.cross_entropy(logits, targets, ignore_index=-100, reduction="sum")

        def compute_measurement(self, batch: dict[str, Tensor], model: nn.Module) -> Tensor:
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self) -> list[str]:
            return [f"blocks.{i}.attn_{part}" for i in range(n_layers) for part in ("qkv", "out")]

        def get_attention_mask(self, batch: dict[str, Tensor]) -> Tensor:
            return batch["mask"]

    return Loss()


def _padded(ids: list[IntArray]) -> dict[str, Tensor]:
    """Make a batch, padded on the right to the longest of it."""
    width = max(len(one) for one in ids) - 1
    tokens = torch.zeros(len(ids), width, dtype=torch.int64)
    targets, mask = torch.full_like(tokens, -100), torch.zeros_like(tokens)
    for row, one in enumerate(ids):
        stop = len(one) - 1
        tokens[row, :stop] = torch.from_numpy(one[:-1])
        targets[row, :stop] = torch.from_numpy(one[1:])
        mask[row, :stop] = 1
    return {"tokens": tokens, "targets": targets, "mask": mask}


def _rates(few: float, many: float, fit: float) -> dict[str, Any]:
    return {
        "score_docs_per_s": (N_SCORED - N_FEW) / (many - few),
        "fit_docs_per_s": N_FITTED / fit,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    found = work()
    return time.process_time() - started, found


def _initial() -> Decoder:
    model = Decoder()
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)
        model.embedding.weight.mul_(0.3)
    return model


def _loaded(work: Path) -> Decoder:
    model = Decoder()
    model.load_state_dict(load_file(work / "model.safetensors"))
    return model


def _model(work: Path) -> CausalModel:
    decoder = _loaded(work)
    return CausalModel(
        module=decoder,
        hidden=decoder.hidden,
        head=decoder.head.weight,
        context=CONTEXT,
        start=Documents(work).start,
        batch_tokens=BATCH * CONTEXT,
        plain_attention=True,
    )


def _run(job: str, work: Path) -> dict[str, Any]:
    """Run a job in a process of its own with one thread."""
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(threads, "1"), "GLIBC_TUNABLES": _TUNED}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.influence_throughput",
            "--job",
            job,
            "--work",
            str(work),
        ],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _conditions(work: Path, settings: Mapping[str, int], has_peer: bool) -> dict[str, object]:
    lengths = [len(ids) for ids in Documents(work).scored]
    return {
        "machine": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": version("torch"),
        "kronfluence": version("kronfluence") if has_peer else "not installed",
        "size": SIZE,
        "vocabulary": VOCABULARY,
        "context": CONTEXT,
        "mean_document_tokens": round(statistics.mean(lengths), 1),
        "n_scored": N_SCORED,
        "n_fitted": N_FITTED,
        "damping": DAMPING,
        **settings,
    }


if __name__ == "__main__":
    main()
