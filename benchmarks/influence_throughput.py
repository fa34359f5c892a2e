"""How fast documents are scored and factors fitted on one core, beside kronfluence.

``python -m benchmarks.influence_throughput [--quick] [--corpus DIR] [--json FILE]``

A model of about a million parameters is trained for a moment on real text; then each contender, in
a single-threaded process of its own with the same allocator settings, takes the same weights and
documents (cut at the context's length). kronfluence gets them sorted by length, so that it pads
little; its attention and cross-entropy are torch's. Scoring: one aggregated reference gradient, all
attention matrices; the rate is that of documents added to a call, so starting up counts for
neither. Fitting: covariances, eigenvectors and corrected eigenvalues from start to end. Seconds are
processor time, medians of turns taken one after another. Fidelity: rank correlation of the scores
with those of the damped Gauss-Newton matrix, solved by many steps of conjugate gradients; each
contender has the damping of its own library, a tenth of the mean eigenvalue. kronfluence is left
out, and said to be, where it is not installed.
"""

import argparse
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

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
from cuvee.proxy.sizes import model_size

ROOT = Path(__file__).resolve().parents[1]
CORPUS = ROOT.parent / "shared" / "data" / "corpus"
SIZE, VOCABULARY, CONTEXT, BATCH = "0.8m", 8192, 512, 16
N_SCORED, N_FEW, N_REFERENCE, N_FITTED, N_SAMPLE = 96, 32, 16, 64, 48
QUICK = {"n_turns": 2, "n_steps": 150, "n_exact": 25}
FULL = {"n_turns": 5, "n_steps": 600, "n_exact": 60}
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
    if not (work / "documents.npz").exists():
        prepare(work, corpus)
    if not (work / "model.safetensors").exists():
        _run("train", work)
    has_peer = importlib.util.find_spec("kronfluence") is not None
    jobs = ["ours"] + ["kronfluence_fp32", "kronfluence_bf16"] * has_peer
    found: dict[str, list[dict[str, Any]]] = {job: [] for job in jobs}
    for turn in range(settings["n_turns"]):
        for job in jobs:
            if turn == 0 or not job.endswith("bf16"):  # emulated, it takes minutes: once
                found[job].append(_run(job, work))
    figures: Figures = {}
    for job, runs in found.items():
        for key in ("score_docs_per_s", "fit_docs_per_s", "peak_mb"):
            figures[f"{key}_{job}"] = statistics.median(run[key] for run in runs)
    ratios: Figures = {}
    if has_peer:
        ours, theirs = (
            figures["score_docs_per_s_ours"],
            figures["score_docs_per_s_kronfluence_fp32"],
        )
        ratios["score_vs_kronfluence_fp32"] = ours / theirs
        best = max(theirs, figures["score_docs_per_s_kronfluence_bf16"])
        ratios["score_vs_kronfluence_best"] = ours / best
        best_fit = figures["fit_docs_per_s_kronfluence_fp32"]
        ratios["fit_vs_kronfluence"] = figures["fit_docs_per_s_ours"] / best_fit
    ranks = _run("fidelity", work)
    truth = ranks.pop("exact")
    if has_peer:
        ranks["kronfluence_ekfac"] = found["kronfluence_fp32"][0]["scores"]
    agreement = {name: spearmanr(truth, scores).statistic for name, scores in ranks.items()}
    ratios["fidelity"] = agreement[f"ekfac_{REFINED}_steps"]
    figures |= {f"rank_agreement_{name}": float(value) for name, value in agreement.items()}
    return {
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
        "figures": {name: round(value, 4) for name, value in figures.items()},
        "conditions": _conditions(work, settings, has_peer),
    }


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


def ours(work: Path) -> dict[str, Any]:
    """Score and fit with cuvee in its fastest exact settings."""
    documents, model = Documents(work), _model(work)
    direction = gradient(model, documents.reference)
    list(influence(model, direction, documents.scored[:N_FEW]))
    few, _ = _timed(lambda: list(influence(model, direction, documents.scored[:N_FEW])))
    many, _ = _timed(lambda: list(influence(model, direction, documents.scored)))
    rng = np.random.default_rng(SEED)
    fit, _ = _timed(lambda: KroneckerFactors(model).fit(documents.fitted, rng=rng).eigen_blocks())
    return _rates(few, many, fit)


def fidelity(work: Path) -> dict[str, Any]:
    """Return scores by each curvature, and by the damped Gauss-Newton matrix."""
    documents, model = Documents(work), _model(work)
    sample = documents.fitted[:N_SAMPLE]
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
    return {
        name: list(influence(model, direction, documents.scored))
        for name, direction in directions.items()
    }


def kronfluence_fp32(work: Path) -> dict[str, Any]:
    """Score and fit with kronfluence in float32."""
    return _kronfluence(work, None)


def kronfluence_bf16(work: Path) -> dict[str, Any]:
    """Score and fit with kronfluence under bfloat16 autocast, its low-precision settings."""
    return _kronfluence(work, torch.bfloat16)


JOBS: dict[str, Job] = {
    "train": train,
    "ours": ours,
    "fidelity": fidelity,
    "kronfluence_fp32": kronfluence_fp32,
    "kronfluence_bf16": kronfluence_bf16,
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
    from kronfluence.task import Task
    from kronfluence.utils.dataset import DataLoaderKwargs

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
            return [
                f"blocks.{i}.attn_{part}"
                for i in range(len(inner.blocks))
                for part in ("qkv", "out")
            ]

        def get_attention_mask(self, batch: dict[str, Tensor]) -> Tensor:
            return batch["mask"]

    documents, task, inner = Documents(work), Loss(), _loaded(work)
    model = prepare_model(inner, task)
    few = {"factor": FactorArguments(strategy="ekfac"), "score": ScoreArguments()}
    few["score"] = ScoreArguments(damping_factor=None, aggregate_query_gradients=True)
    if narrow is not None:
        few["factor"] = FactorArguments(
            strategy="ekfac", amp_dtype=narrow, per_sample_gradient_dtype=narrow
        )
        few["score"] = ScoreArguments(
            damping_factor=None,
            aggregate_query_gradients=True,
            amp_dtype=narrow,
            score_dtype=narrow,
            per_sample_gradient_dtype=narrow,
        )

    def rows(ids: list[IntArray]) -> list[IntArray]:
        return [np.append(documents.start, one) for one in ids]

    def batch(ids: list[IntArray]) -> dict[str, Tensor]:
        width = max(len(one) for one in ids) - 1
        tokens = torch.zeros(len(ids), width, dtype=torch.int64)
        targets, mask = torch.full_like(tokens, -100), torch.zeros_like(tokens)
        for row, one in enumerate(ids):
            stop = len(one) - 1
            tokens[row, :stop] = torch.from_numpy(one[:-1])
            targets[row, :stop] = torch.from_numpy(one[1:])
            mask[row, :stop] = 1
        return {"tokens": tokens, "targets": targets, "mask": mask}

    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer("peer", model, task, cpu=True, disable_tqdm=True, output_dir=folder)
        analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=batch))
        fitted = rows(sorted(documents.fitted, key=len))
        fit, _ = _timed(
            lambda: analyzer.fit_all_factors(
                "factors", cast(Any, fitted), BATCH, factor_args=few["factor"]
            )
        )

        def score(name: str, ids: list[IntArray]) -> Tensor:
            analyzer.compute_pairwise_scores(
                name,
                "factors",
                cast(Any, rows(documents.reference)),
                cast(Any, rows(ids)),
                BATCH,
                BATCH,
                score_args=few["score"],
            )
            return cast(Tensor, analyzer.load_pairwise_scores(name)["all_modules"])

        order = np.argsort([len(ids) for ids in documents.scored], kind="stable")
        inside = order[np.sort(np.random.default_rng(SEED).permutation(len(order))[:N_FEW])]
        short, _ = _timed(lambda: score("few", [documents.scored[i] for i in inside]))
        long, found = _timed(lambda: score("many", [documents.scored[i] for i in order]))
    scores = np.empty(len(order))
    scores[order] = found.float().flatten().numpy()
    return {**_rates(short, long, fit), "scores": scores.tolist()}


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
