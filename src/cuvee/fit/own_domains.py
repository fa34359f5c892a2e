"""Which training domain a target is of its own kind with, by name."""

import re
from collections import Counter
from collections.abc import Sequence

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
    return tuple(columns.get(_core(name)) for name in targets)


def _core(name: str) -> tuple[str, ...]:
    words = re.findall(r"[^\W_]+", name.lower())
    while words and words[0] in _AFFIXES:
        words = words[1:]
    while words and words[-1] in _AFFIXES:
        words = words[:-1]
    return tuple(words)
