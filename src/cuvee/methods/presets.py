"""Settings under one name: what a paper used, laid below a config that is silent."""

from collections.abc import Mapping
from typing import Any

from cuvee.search.bandit_config import PAPER as QUAD_RELEASED

REGMIX_PAPER: Mapping[str, Any] = {
    "max_epochs": 15.0,
    "runs": "design",
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
        "solver": "simulate",
        "n_simulated": 100_000,
        "n_best": 128,
        "temperature": 1.0,
        "strengths": [1.0],
        "refine": False,
    },
}
"""Settings of RegMix (arXiv:2407.01492) as docs/papers/regmix.md lists them; shown by --dry-run."""

MIXING_LAWS_DEFAULT: Mapping[str, Any] = {
    "proxy": {"points": [0.3, 0.45, 0.6, 0.75, 0.9, 1.0]},
}
"""A step law needs more points of a run than a final loss does."""

MIXING_LAWS_PAPER: Mapping[str, Any] = {
    "sizes": ["20m", "85m", "300m"],
    "design": {"n_runs": 20},
    "proxy": {
        "n_tokens": 30_000_000_000,
        "context": 4096,
        "batch_tokens": 1_048_576,
        "points": [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
        "repetition_matched": False,
    },
    "laws": {"scaling": "nested"},
    "fit": {"model": "exponential"},
}
"""Settings of Data Mixing Laws (arXiv:2403.16952); docs/papers/mixing_laws.md says what differs."""

CONTINUAL_DEFAULT: Mapping[str, Any] = {
    "proxy": {"points": [0.25, 0.5, 1.0], "repetition_matched": False},
}
"""Continued training stands for itself; its points are the horizons."""

QUADMIX_PAPER: Mapping[str, Any] = {
    "proxy": {
        "size": "1m",
        "n_tokens": 1_000_000_000,
        "context": 2048,
        "batch_tokens": 1_048_576,
        "learning_rate": 4e-4,
        "repetition_matched": False,
    },
    "prior": {"steepness": "linear", "threshold": "linear", "largest_threshold": 0.1},
    "curves": {
        "n_runs": 3000,
        "start_runs": 3000,
        "n_generations": 0,
        "n_simulated": 100_000,
        "n_best": 10,
        "regressions": ["trees"],
        "features": ["parameters"],
    },
}
"""Settings of QuaDMix (arXiv:2504.16511); docs/papers/quadmix.md says what differs."""

QUAD_PAPER: Mapping[str, Any] = {
    "proxy": {"repetition_matched": False},
    "clusters": {"n_clusters": 10_000},
    "influence": {
        "where": "all",
        "damping": 1e-3,
        "steps": 0,
        "document_tokens": 20_480,
        "normalise": "cosine",
    },
    "bandit": {**QUAD_RELEASED},
}
"""Settings of Quad (arXiv:2409.16986) and its released code; docs/papers/quad.md says what
differs."""
