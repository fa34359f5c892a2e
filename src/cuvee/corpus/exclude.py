"""Leave documents out of a pool by lists of their ids."""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cuvee.arrays import BoolArray, KeyArray
from cuvee.corpus.duplicates import EXCLUDED, ScannedShard, is_used, read_columns
from cuvee.corpus.pool import PoolConfig
from cuvee.corpus.streams import opened
from cuvee.errors import DataError
from cuvee.randomness import document_keys


def read_excluded(config: PoolConfig) -> KeyArray:
    """Read the ids of the documents that a config leaves out.

    Args:
        config: Of a pool.

    Returns:
        (n_ids,) keys of the ids, ascending, each once.

    Raises:
        DataError: A list is missing or damaged, or has no column ``id``.
    """
    keys = [document_keys(_read_list(url)) for url in config.exclude]
    return np.unique(np.concatenate([np.zeros(0, dtype=np.uint64), *keys]))


def digest_keys(keys: KeyArray) -> str:
    """Return the SHA-256 of keys, as 64 hexadecimal digits."""
    return hashlib.sha256(keys.astype("<u8").tobytes()).hexdigest()


def mark_excluded(scan: ScannedShard, marks: npt.NDArray[np.uint8], keys: KeyArray) -> BoolArray:
    """Mark the documents of one shard that are to be left out.

    Args:
        scan: The shard.
        marks: (n_documents,) set to `EXCLUDED`.
        keys: (n_ids,) from `read_excluded`.

    Returns:
        (n_ids,) True where a document that would have been used has the id.
    """
    found = np.zeros(len(keys), dtype=np.bool_)
    position = scan.offset
    for part in read_columns(scan.path, ("key",), {}) if len(keys) else ():
        mine = marks[position : position + len(part["key"])]
        position += len(part["key"])
        place = np.minimum(np.searchsorted(keys, part["key"]), len(keys) - 1)
        is_listed = keys[place] == part["key"]
        found[place[is_listed & is_used(mine)]] = True
        mine[is_listed] = EXCLUDED
    return found


def _read_list(url: str) -> Sequence[str]:
    with opened(url, key="exclude") as source:
        if url.lower().endswith(".parquet"):
            return _read_column(url, pq.ParquetFile(source))
        content: bytes = source.read()
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"exclude {url} is not UTF-8 ({error.reason} at byte {error.start}). Give a text "
            "file of ids, one a line, or a Parquet file with a column id."
        ) from error
    return [line.removesuffix("\r") for line in lines if line.strip()]


def _read_column(url: str, file: pq.ParquetFile) -> Sequence[str]:
    if "id" not in file.schema_arrow.names:
        raise DataError(
            f"exclude {url} has no column 'id'; its columns are "
            f"{', '.join(file.schema_arrow.names)}. Name the column of the ids so."
        )
    ids = file.read(columns=["id"])["id"]
    kind = ids.type.value_type if pa.types.is_dictionary(ids.type) else ids.type
    if not (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)
    ):
        raise DataError(
            f"exclude: column 'id' of {url} holds {kind}; it must hold strings or whole numbers."
        )
    return [str(one) for one in ids.to_pylist() if one is not None]
