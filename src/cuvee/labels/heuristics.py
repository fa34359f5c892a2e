"""Rules of thumb for clean text, as columns and as one score.

Sources: Gopher (arXiv:2112.11446, A1.1: quality and repetition), C4 (arXiv:1910.10683, 2.2: line
endings), FineWeb (arXiv:2406.17557, 3.6: short lines, duplicated characters in lines).
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cuvee.arrays import FloatArray

_WORD = re.compile(r"\S+")
_STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
_END_MARKS = (".", "!", "?", '"', "'", ")", ":", ";", "\u201d", "\u3002")
_BULLETS = ("-", "*", "\u2022", "\u2023", "\u25cf", "\u00b7")
_LONGEST = 100_000
"""Characters read of a document: rules are about shares, which settle long before."""
_SHORT_LINE = 30


@dataclass(frozen=True, slots=True)
class Rule:
    """What a column must be for text to count as clean, and over what distance it gets dirty."""

    least: float = -np.inf
    most: float = np.inf
    width: float = 1.0
    """Distance beyond a limit at which the rule counts as wholly broken, and within it at which it
    is wholly kept."""


RULES: dict[str, Rule] = {
    "n_words": Rule(least=50, width=50),
    "mean_word_length": Rule(least=3, most=10, width=2),
    "symbols_per_word": Rule(most=0.1, width=0.1),
    "bullet_lines": Rule(most=0.9, width=0.1),
    "ellipsis_lines": Rule(most=0.3, width=0.3),
    "alphabetic_words": Rule(least=0.8, width=0.3),
    "stop_words": Rule(least=2, width=2),
    "digits": Rule(most=0.2, width=0.2),
    "capitals": Rule(most=0.3, width=0.3),
    "ended_lines": Rule(least=0.12, width=0.12),
    "short_lines": Rule(most=0.67, width=0.33),
    "lines_per_word": Rule(most=0.3, width=0.3),
    "duplicate_lines": Rule(most=0.2, width=0.3),
    "top_pair": Rule(most=0.2, width=0.2),
    "top_triple": Rule(most=0.18, width=0.18),
    "duplicate_fives": Rule(most=0.15, width=0.3),
}
"""Limits by column; their order is that of the columns."""
COLUMNS = tuple(RULES)


def measure_texts(texts: Sequence[str]) -> FloatArray:
    """Compute the columns.

    Args:
        texts: (n_documents,) not blank.

    Returns:
        (n_documents, n_columns) in the order of `COLUMNS`: counts, or shares in [0, 1].
    """
    return np.array([_measure(text[:_LONGEST]) for text in texts]).reshape(-1, len(COLUMNS))


def score_columns(columns: FloatArray) -> FloatArray:
    """Join the columns to one score, larger is better.

    Args:
        columns: (n_documents, n_columns) of `measure_texts`.

    Returns:
        (n_documents,) in [0, 1] where no rule is broken: the mean over the rules of the distance
        within the limit, up to 1 at one width. Where a rule is broken, that mean minus one, minus
        the rules broken, each in part up to 1: below 0, so below all that break none.
    """
    least = np.array([rule.least for rule in RULES.values()])
    most = np.array([rule.most for rule in RULES.values()])
    width = np.array([rule.width for rule in RULES.values()])
    beyond = np.maximum(least - columns, columns - most) / width
    broken = np.clip(beyond, 0.0, 1.0).sum(axis=1)
    headroom = np.clip(-beyond, 0.0, 1.0).mean(axis=1)
    score: FloatArray = headroom - broken - (broken > 0.0)
    return score


def _measure(text: str) -> tuple[float, ...]:
    words = _WORD.findall(text)
    lines = [line for line in (raw.strip() for raw in text.split("\n")) if line]
    n_words, n_lines = max(len(words), 1), max(len(lines), 1)
    lower = [word.lower() for word in words]
    n_characters = max(len(text), 1)
    found = Counter(lower)
    return (
        float(len(words)),
        sum(map(len, words)) / n_words,
        (text.count("#") + text.count("...") + text.count("\u2026")) / n_words,
        sum(line.startswith(_BULLETS) for line in lines) / n_lines,
        sum(line.endswith(("...", "\u2026")) for line in lines) / n_lines,
        sum(any(map(str.isalpha, word)) for word in words) / n_words,
        float(sum(min(found[word], 2) for word in _STOP_WORDS if word in found)),
        sum(map(str.isdigit, text)) / n_characters,
        sum(map(str.isupper, text)) / n_characters,
        sum(line.endswith(_END_MARKS) for line in lines) / n_lines,
        sum(len(line) <= _SHORT_LINE for line in lines) / n_lines,
        n_lines / n_words,
        _repeated(lines) / n_characters,
        _top_share(lower, 2, n_characters),
        _top_share(lower, 3, n_characters),
        _repeated_runs(lower, 5, n_characters),
    )


def _repeated(lines: Sequence[str]) -> int:
    """Return the characters of lines that stood before."""
    return sum(len(line) * (n - 1) for line, n in Counter(lines).items() if n > 1)


def _top_share(words: Sequence[str], n: int, n_characters: int) -> float:
    """Return the share of characters in the run of ``n`` words that occurs most."""
    runs = Counter(zip(*(words[start:] for start in range(n)), strict=False))
    if not runs:
        return 0.0
    run, times = runs.most_common(1)[0]
    return times * (sum(map(len, run)) + n - 1) / n_characters if times > 1 else 0.0


def _repeated_runs(words: Sequence[str], n: int, n_characters: int) -> float:
    """Return the share of characters in runs of ``n`` words that stood before."""
    seen: set[tuple[str, ...]] = set()
    covered, repeated = 0, 0
    for start, run in enumerate(zip(*(words[first:] for first in range(n)), strict=False)):
        if run in seen:
            first = max(start, covered)
            repeated += sum(len(word) + 1 for word in words[first : start + n])
            covered = start + n
        seen.add(run)
    return min(repeated / n_characters, 1.0)
