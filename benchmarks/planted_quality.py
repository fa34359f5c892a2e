"""Does QuaDMix find planted quality that one criterion tells in one domain and inverts in another?

``python -m benchmarks.planted_quality [--quick] [--normalisation NAME] [--out DIR] [--json FILE]``

Three domains of made-up text in one vocabulary. A third of the documents of ``code`` and ``essays``
are of the target's language, the others of another one; ``web`` is a mixture of both. Criterion
``one`` tells the good documents in ``code`` and is upside down in ``essays``; ``two`` tells them in
``essays`` and nothing in ``code``. So the best curve merges by ``one`` in code and by ``two`` in
essays. Real proxies are trained; RegMix with as many runs stands for mixing domains only. Figures
are merge weights found, and bits per byte on the verdict half of the target, chosen minus rival.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from cuvee import artifacts
from cuvee.arrays import FloatArray
from cuvee.methods import chain_files, quadmix, quadmix_report, regmix
from cuvee.methods.job import Job
from cuvee.methods.judging import read_verdict
from cuvee.randomness import stream

DOMAINS = ("code", "essays", "web")
N_DOCUMENTS = 1500
N_TARGET = 300
N_WORDS = 120
WORDS = 60
GOOD = 1.0 / 3.0
SHARP = 1.5
"""How many standard deviations of its noise a criterion tells good documents apart by."""
RUNS, QUICK_RUNS = 48, 24


def main() -> None:
    """Read the command line; plant, run both methods, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="24 proxies and 1 seed, not 48 and 3")
    parser.add_argument("--normalisation", default="rank", help="of the criteria's scores")
    parser.add_argument("--out", type=Path, help="folder to work in, kept; default: a new one")
    parser.add_argument("--json", type=Path, help="file the result is written to")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as aside:
        result = study(
            options.out or Path(aside), quick=options.quick, normalisation=options.normalisation
        )
    for name, value in result.items():
        print(f"  {name:<36} {value:.4f}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def study(out: Path, *, quick: bool, normalisation: str = "rank") -> dict[str, float]:
    """Plant a pool, search it by both methods and judge the answers together."""
    plant(out / "source")
    n_runs = QUICK_RUNS if quick else RUNS
    common = settings(out / "source", n_seeds=1 if quick else 3)
    found = _mix_domains(out, common, n_runs)
    config = {
        **common,
        "normalisation": normalisation,
        "criteria": {
            name: {"kind": "column", "column": name, "larger_is_better": True}
            for name in ("one", "two")
        },
        "curves": {"n_runs": n_runs, "start_runs": n_runs // 2, "batch_size": 8},
    }
    config["validate"] = {**config["validate"], "mixtures": {"domains-only": found}}
    path = out / "quadmix.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    job = Job(out=out / "quadmix", workers=2)
    quadmix_report.run(quadmix.load_config(path), job)
    curve, verdict = quadmix.read_curve(job), read_verdict(job)
    ranks = artifacts.read_json(job.folder("predictor") / quadmix.SCORES)["ranks"]
    figures = {
        **{f"cross-validated rank of {name}": rank for name, rank in ranks.items()},
        **{
            f"weight of one in {name}": float(curve.merge[place, 0])
            for place, name in enumerate(curve.domains)
        },
    }
    for row in verdict.rows:
        if row.target == "total" and row.difference_bpb is not None:
            figures[f"chosen minus {row.baseline}"] = row.difference_bpb
            if row.high_bpb is not None:
                figures[f"chosen minus {row.baseline}, upper end"] = row.high_bpb
    return figures


def plant(folder: Path) -> None:
    """Write the pool's shards, with a column a criterion, and the target's."""
    if (folder / "target.parquet").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng = stream(1, "planted")
    chains = [_chain(rng) for _ in range(2)]
    for domain in DOMAINS:
        good = rng.random(N_DOCUMENTS) < GOOD
        tells = {"code": (1.0, 0.0), "essays": (-1.0, 1.0), "web": (0.0, 0.0)}[domain]
        noise = rng.standard_normal((2, N_DOCUMENTS))
        one, two = (SHARP * sign * good + part for sign, part in zip(tells, noise, strict=True))
        texts = [
            _text(chains, (0.5 if domain == "web" else float(is_good)), rng) for is_good in good
        ]
        ids = [f"{domain}-{number}" for number in range(N_DOCUMENTS)]
        table = {"id": ids, "text": texts, "source": [domain] * len(ids), "one": one, "two": two}
        pq.write_table(pa.table(table), folder / f"{domain}.parquet")
    texts = [_text(chains, 1.0, rng) for _ in range(N_TARGET)]
    ids = [f"target-{number}" for number in range(N_TARGET)]
    table = {"id": ids, "text": texts, "source": ["target"] * len(ids)}
    pq.write_table(pa.table(table), folder / "target.parquet")


def settings(source: Path, *, n_seeds: int) -> dict[str, Any]:
    """Return what both methods share: the same pool, budget, proxies and judges."""
    return {
        "pool": {
            "shards": [str(source / f"{name}.parquet") for name in DOMAINS],
            "domain": "source",
            "validation_share": 0.02,
        },
        "targets": {
            "sets": {"target": {"shards": [str(source / "target.parquet")], "domain": "source"}}
        },
        "target_tokens": 60_000,
        "tokens": {"vocabulary_size": 512},
        "proxy": {
            "size": "0.03m",
            "n_tokens": 60_000,
            "context": 64,
            "batch_tokens": 512,
            "evaluation_tokens": 4_096,
            "domain_evaluation_tokens": 1_024,
            "min_subset_tokens": 512,
            "calibration_rates": [2e-3, 4e-3, 8e-3],
        },
        "validate": {"size": "0.1m", "n_tokens": 120_000, "n_seeds": n_seeds},
    }


def _mix_domains(out: Path, common: Mapping[str, Any], n_runs: int) -> dict[str, float]:
    """Return the shares that RegMix finds with as many runs."""
    path = out / "regmix.yaml"
    config = {**common, "design": {"n_runs": n_runs}, "runs": "design"}
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    job, loaded = Job(out=out / "regmix", workers=2), regmix.load_config(path)
    for verb in ("label", "design", "train", "fit", "search"):
        regmix.STEPS[verb](loaded, job)
    best = chain_files.read_found(job)
    return dict(zip(best.domains, best.weights, strict=True))


def _chain(rng: np.random.Generator) -> FloatArray:
    """Draw a language: after each word, a few others are likely."""
    weights = rng.gamma(0.08, size=(WORDS, WORDS)) + 1e-4
    return np.asarray((weights / weights.sum(axis=1, keepdims=True)).cumsum(axis=1))


def _text(chains: list[FloatArray], share: float, rng: np.random.Generator) -> str:
    """Write a document, each sentence in the first language with this probability."""
    words, state = [], int(rng.integers(WORDS))
    for place in range(N_WORDS):
        if place % 12 == 0:
            chain = chains[0] if rng.random() < share else chains[1]
        state = min(int(np.searchsorted(chain[state], rng.random())), WORDS - 1)
        words.append(_word(state))
    return " ".join(words)


def _word(number: int) -> str:
    """Return one of the vocabulary's words, all of two syllables."""
    syllables = ("ba", "de", "fi", "go", "ku", "la", "mo", "ne")
    return syllables[number // 8] + syllables[number % 8]


if __name__ == "__main__":
    main()
