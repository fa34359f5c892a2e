"""Settings under one name: what a paper used, laid below a config that is silent."""

from collections.abc import Mapping
from typing import Any

REGMIX_PAPER: Mapping[str, Any] = {
    "max_epochs": 15.0,
    "design": {"n_runs": 512},
    "proxy": {
        "size": "1m",
        "n_tokens": 1_000_000_000,
        "context": 2048,
        "batch_tokens": 1_048_576,
        "learning_rate": 4e-4,
        "warmup_share": 0.1,
        "repetition_matched": False,
    },
    "fit": {"model": "boosted-trees"},
    "search": {
        "n_simulated": 100_000,
        "n_best": 128,
        "temperature": 1.0,
        "strengths": [1.0],
        "refine": False,
    },
}
"""Settings of RegMix (arXiv:2407.01492) as docs/papers/regmix.md lists them; shown by --dry-run."""
