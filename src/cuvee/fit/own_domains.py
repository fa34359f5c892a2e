"""Which training domain a target is of its own kind with, by name or by its losses."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from cuvee.arrays import FloatArray

LEAST_RUNS = 12
"""Fewer runs do not tell an own domain from chance."""
_SMOOTHING = 0.002
_REACH = 0.25
"""Losses count as at most so many ranges of their middle four fifths beyond its ends."""
_SPLITS = {"train", "training", "val", "valid", "validation", "test", "eval"}
_KINDS = {"metric", "metrics", "target", "targets", "domain", "domains", "loss", "bpb", "ppl"}
_AFFIXES = _SPLITS | _KINDS | {"perplexity", "share", "weight", "weights"}


def match_own_domains(domains: Sequence[str], targets: Sequence[str]) -> tuple[int | None, ...]:
    """Match each target with the domain of the same name.

    Names are compared in lower case by their words, words such as ``train``, ``metric``, ``val`` or
    ``loss`` at either end left aside: ``metric/the_pile_arxiv_val_loss`` is the target of
    ``train_the_pile_arxiv``. A name that several domains share matches none.

    Args:
        domains: (n_domains,) names.
        targets: (n_targets,) names.

    Returns:
        (n_targets,) column of each target's own domain, None where no name fits.

    Example:
        >>> match_own_domains(["train_code", "train_web"], ["metric/web_val_loss", "qa"])
        (1, None)
    """
    cores = [_core(name) for name in domains]
    counts = Counter(cores)
    columns = {core: column for column, core in enumerate(cores) if counts[core] == 1 and core}
    own: tuple[int | None, ...] = tuple(columns.get(_core(name)) for name in targets)
    return own


def detect_own_domains(weights: FloatArray, losses: FloatArray) -> tuple[int | None, ...]:
    """Match each target with the domain whose share lowers its loss most plainly.

    Every log-share is correlated with every target's loss over the runs, losses far beyond all
    others moved nearer; the assignment of distinct domains to targets with the lowest sum of
    correlations is taken. Fewer than 12 runs, or a correlation that is not negative, match nothing.
    It assumes at most one own domain a target.

    Args:
        weights: (n_runs, n_domains) token shares; rows sum to 1.
        losses: (n_runs, n_targets) finite.

    Returns:
        (n_targets,) column of each target's own domain, None where none was found.
    """
    if len(weights) < LEAST_RUNS:
        return tuple(None for _ in losses.T)
    low, high = np.quantile(losses, [0.1, 0.9], axis=0)
    reach = _REACH * (high - low)
    near = np.clip(losses, low - reach, high + reach)
    correlation = _unit(np.log(weights + _SMOOTHING)).T @ _unit(near)
    domains, targets = linear_sum_assignment(correlation)
    own: list[int | None] = [None] * losses.shape[1]
    for domain, target in zip(domains, targets, strict=True):
        if correlation[domain, target] < 0.0:
            own[target] = int(domain)
    return tuple(own)


def _unit(columns: FloatArray) -> FloatArray:
    """Return columns with mean 0 and length 1; constant ones become 0."""
    centred = columns - columns.mean(axis=0)
    length = np.linalg.norm(centred, axis=0)
    scaled: FloatArray = np.divide(
        centred, length, out=np.zeros_like(centred), where=length > 1e-12
    )
    return scaled


def _core(name: str) -> tuple[str, ...]:
    words = re.findall(r"[^\W_]+", name.lower())
    while words and words[0] in _AFFIXES:
        words = words[1:]
    while words and words[-1] in _AFFIXES:
        words = words[:-1]
    return tuple(words)
