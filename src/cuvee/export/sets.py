"""Divide a selection into sets of files, merging domains too small or too many for a trainer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cuvee.arrays import IntArray
from cuvee.errors import ConfigError, InfeasibleError
from cuvee.export.exporter import ExportConfig, Exporter, FileSet, Layout
from cuvee.export.names import safe_names
from cuvee.export.selection import SelectionFiles

MIXED, MERGED = "all", "merged"


@dataclass(frozen=True, kw_only=True, slots=True)
class Division:
    """Which set each domain goes to, in each phase."""

    layout: Layout
    sets: tuple[FileSet, ...]
    """Numbered by position; none is filled yet."""
    set_of: tuple[tuple[int, ...], ...]
    """(n_phases, n_domains) numbers of sets; of a domain without documents no row asks for it."""
    notes: tuple[str, ...]
    """What was left out or merged, in sentences."""


def divide(
    selection: SelectionFiles, exporter: Exporter, config: ExportConfig, *, tokens: IntArray
) -> Division:
    """Decide the sets of an export from the tokens of its domains alone.

    Domains without documents are left out. Domains with fewer tokens than a trainer's sequence, and
    the smallest of more domains than a trainer blends, go together to a set of their own, in which
    documents keep their shares by being there once for each copy.

    Args:
        selection: What is exported.
        exporter: The format.
        config: What it is made for.
        tokens: (n_domains,) by the export's tokenizer.

    Returns:
        The division.

    Raises:
        ConfigError: The format does not have the layout.
    """
    layout = config.layout or exporter.layouts[0]
    if layout not in exporter.layouts:
        raise ConfigError(
            f"{exporter.name} has no layout {layout!r}; it has {', '.join(exporter.layouts)}."
        )
    smallest = exporter.smallest(config)
    notes = _left_out(selection)
    if layout == "mixed":
        groups, names = [np.flatnonzero(tokens).tolist()], [MIXED]
    else:
        kept, merged = _group(tokens, smallest, exporter.max_sets)
        files = safe_names(selection.domains)
        groups, names = [[code] for code in kept], [files[code] for code in kept]
        if merged:
            groups, names = [*groups, merged], [*names, MERGED]
            notes += (_merged_note(selection, merged, smallest, exporter),)
    n_phases = len(selection.phase_shares)
    sets: list[FileSet] = []
    set_of: list[tuple[int, ...]] = []
    for phase in range(n_phases):
        numbers = np.zeros(len(tokens), dtype=np.int64)
        for group, name in zip(groups, names, strict=True):
            numbers[group] = len(sets)
            full = f"phase-{phase + 1}-{name}" if n_phases > 1 else name
            sets.append(FileSet(name=full, phase=phase, domains=tuple(group)))
        set_of.append(tuple(numbers.tolist()))
    return Division(layout=layout, sets=tuple(sets), set_of=tuple(set_of), notes=notes)


def check_enough(tokens: IntArray, exporter: Exporter, config: ExportConfig) -> None:
    """Refuse a selection that a trainer would not read a sequence of.

    Args:
        tokens: (n_domains,) by the export's tokenizer.
        exporter: The format.
        config: What it is made for.

    Raises:
        InfeasibleError: The whole selection has fewer tokens than a trainer's sequence.
    """
    smallest = exporter.smallest(config)
    if tokens.sum() < smallest:
        raise InfeasibleError(
            f"the selection holds {tokens.sum():,} tokens, but {exporter.name} reads sequences of "
            f"{smallest:,}. Lower --context, or select more tokens."
        )


def filled(division: Division, n_documents: IntArray, n_tokens: IntArray) -> tuple[FileSet, ...]:
    """Return the sets with what is in them."""
    counts = zip(n_documents.tolist(), n_tokens.tolist(), strict=True)
    return tuple(
        replace(one, n_documents=rows, n_tokens=tokens)
        for one, (rows, tokens) in zip(division.sets, counts, strict=True)
    )


def _group(tokens: IntArray, smallest: int, max_sets: int | None) -> tuple[list[int], list[int]]:
    """Return the domains that are sets of their own, and those that share one."""
    order = np.argsort(tokens, kind="stable")
    order = order[tokens[order] > 0]
    n_merged = int(np.count_nonzero(tokens[order] < smallest))
    if max_sets is not None and len(order) - n_merged + (n_merged > 0) > max_sets:
        n_merged = len(order) - max_sets + 1
    while 0 < n_merged < len(order) and tokens[order[:n_merged]].sum() < smallest:
        n_merged += 1
    return sorted(order[n_merged:].tolist()), sorted(order[:n_merged].tolist())


def _left_out(selection: SelectionFiles) -> tuple[str, ...]:
    empty = [name for name, n in zip(selection.domains, selection.n_copies, strict=True) if not n]
    if not empty:
        return ()
    return (f"without documents, and left out: {_listed(empty)}",)


def _merged_note(
    selection: SelectionFiles, merged: Sequence[int], smallest: int, exporter: Exporter
) -> str:
    names = _listed([selection.domains[code] for code in merged])
    limit = "" if exporter.max_sets is None else f" or beyond {exporter.max_sets:,} domains"
    return f"merged into one set, being below {smallest:,} tokens{limit}: {names}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:8])
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"
