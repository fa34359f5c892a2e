"""Hold what was read from written files against what was meant to be written."""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from cuvee.arrays import IntArray
from cuvee.errors import DataError
from cuvee.export.exporter import Exporter, FileSet
from cuvee.export.pieces import DomainCounts
from cuvee.export.selection import SelectionFiles

_IN_MIXTURE = "in the selection's mixture.json"
_CHANGED = (
    "The selection changed since it was written; delete its folder and run `cuvee select` again."
)


def count_again(
    lengths: Iterator[IntArray],
    counts: Iterable[pa.Table],
    files: FileSet,
    exporter: Exporter,
    n_domains: int,
) -> IntArray:
    """Count a written set's tokens by domain, document by document.

    Args:
        lengths: What `Exporter.lengths` reads.
        counts: domain, n_tokens and n_bytes of the documents that were handed to the writer.
        files: The set.
        exporter: Its format; says whether lengths are tokens or bytes.
        n_domains: Domains in all.

    Returns:
        (n_domains,) tokens.

    Raises:
        DataError: A document has another length than was written, is missing or too many.
    """
    column = "n_tokens" if exporter.content == "tokens" else "n_bytes"
    tokens = np.zeros(n_domains, dtype=np.int64)
    found = _Lengths(lengths)
    done = 0
    for table in counts:
        expected = table[column].to_numpy()
        own = found.take(len(expected))
        if not np.array_equal(own, expected):
            same = own == expected[: len(own)]
            where = done + (len(own) if same.all() else int(np.argmin(same)))
            raise DataError(
                f"set {files.name!r}: document {where} of {files.n_documents:,} is not what was "
                f"written ({column} differ). The disk may be faulty; export again."
            )
        np.add.at(tokens, table["domain"].to_numpy(), table["n_tokens"].to_numpy())
        done += len(expected)
    if len(found.take(1)):
        raise DataError(f"set {files.name!r} holds more than {done:,} documents. Export again.")
    return tokens


def check_counts(counted: IntArray, selection: SelectionFiles) -> None:
    """Refuse an export whose tokens are not those of mixture.json.

    Args:
        counted: (n_domains,) tokens read again.
        selection: What was exported.

    Raises:
        DataError: Some domain's counts differ.
    """
    differing = np.flatnonzero(counted != selection.realised_tokens)
    if len(differing):
        code = int(differing[0])
        raise DataError(
            f"domain {selection.domains[code]!r} has {counted[code]:,} tokens in the export, but "
            f"{selection.realised_tokens[code]:,} {_IN_MIXTURE}. {_CHANGED}"
        )


def check_encoded(counted: IntArray, encoded: DomainCounts, selection: SelectionFiles) -> None:
    """Refuse an export in another tokenizer's tokens that holds other documents than were selected.

    Args:
        counted: (n_domains,) tokens read again.
        encoded: What was counted while the documents were encoded.
        selection: What was exported.

    Raises:
        DataError: Some domain's tokens are not those encoded, or its copies or bytes of text not
            those of mixture.json.
    """
    for found, expected, unit, where, remedy in (
        (counted, encoded.n_tokens, "tokens", "of what was encoded", "Export again."),
        (encoded.n_copies, selection.n_copies, "documents", _IN_MIXTURE, _CHANGED),
        (encoded.n_bytes, selection.n_bytes, "bytes of text", _IN_MIXTURE, _CHANGED),
    ):
        differing = np.flatnonzero(found != expected)
        if len(differing):
            code = int(differing[0])
            raise DataError(
                f"domain {selection.domains[code]!r} has {found[code]:,} {unit} in the export, but "
                f"{expected[code]:,} {where}. {remedy}"
            )


class _Lengths:
    """An iterator of arrays, taken from in other lengths than it gives."""

    def __init__(self, arrays: Iterator[IntArray]) -> None:
        self._arrays = arrays
        self._rest: IntArray = np.empty(0, dtype=np.int64)

    def take(self, n: int) -> IntArray:
        """Return the next ``n`` lengths, or as many as there are."""
        parts, have = [self._rest], len(self._rest)
        while have < n:
            part = next(self._arrays, None)
            if part is None:
                break
            parts.append(part)
            have += len(part)
        whole = np.concatenate(parts)
        self._rest = whole[n:]
        return whole[:n]
