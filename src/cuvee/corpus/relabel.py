"""Domains that a label column gives, in place of those read with the documents."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cuvee.corpus.rows import DocumentBatch
from cuvee.errors import DataError
from cuvee.randomness import document_keys

__all__ = ["relabelled"]


def relabelled(batches: Iterator[DocumentBatch], labels: Path) -> Iterator[DocumentBatch]:
    """Give documents the domains of a shard's file of labels.

    Ids, which may be made from the domain as read, and rejected rows stay as they are.

    Args:
        batches: All documents of a shard in order (`read.read_batches`).
        labels: Parquet file with ``key`` and ``domain``, a row a document in the same order.

    Yields:
        The batches, their domains replaced; memory grows with a batch, not with the shard.

    Raises:
        DataError: The file is of other documents.
    """
    try:
        with pq.ParquetFile(labels) as file:
            rows = file.iter_batches(columns=["key", "domain"])
            waiting = [pa.table({"key": np.zeros(0, np.uint64), "domain": pa.array([], "string")})]
            for batch in batches:
                n_documents = len(batch.ids)
                while sum(one.num_rows for one in waiting) < n_documents:
                    waiting.append(pa.Table.from_batches([next(rows)]))
                ready = pa.concat_tables(waiting)
                own, waiting = ready.slice(0, n_documents), [ready.slice(n_documents)]
                if np.any(own["key"].to_numpy() != document_keys(batch.ids)):
                    raise _others(labels)
                yield replace(batch, domains=own["domain"].to_pylist())
            if any(one.num_rows for one in [*waiting, *rows]):
                raise _others(labels)
    except (OSError, StopIteration, pa.ArrowInvalid) as error:
        raise _others(labels) from error


def _others(labels: Path) -> DataError:
    return DataError(
        f"{labels} does not hold the domains of the pool's documents; it was made of other files. "
        "Run the label stage again in a new folder."
    )
