"""The token store: memory-mapped ids of all shards, and one table of their documents."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cuvee import artifacts
from cuvee.arrays import IntArray, KeyArray
from cuvee.errors import ConfigError, DataError
from cuvee.tables.statistics import PoolStatistics

IDS = "ids.bin"
DOCUMENTS = "documents.parquet"
VOCABULARY = "vocabulary.parquet"
SUMMARY = "summary.json"
_COLUMNS = ("key", "domain", "side", "offset", "n_tokens", "n_bytes")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TokenStore:
    """The tokens of a pool or of the target sets.

    Documents stand in order of shards and rows. Each is followed by an end-of-text token, which
    counts as its last, and preceded by one, which does not belong to it.
    """

    folder: Path
    """Where it stands."""
    domains: tuple[str, ...]
    """(n_domains,) sorted names."""
    sides: tuple[str, str]
    """Names of sides 0 and 1: train and validation, or search and verdict."""
    vocabulary_size: int
    """One more than the highest id."""
    end_of_text: int
    """Id of the token between documents; no text contains it."""
    tokenizer: str
    """Digest of the tokenizer's artefact folder."""
    unique_tokens: IntArray
    """(n_domains,) tokens of side 0, documents of equal text counted once."""
    distinct_ids: IntArray
    """(n_domains,) different ids that occur, of both sides."""
    keys: KeyArray
    """(n_documents,) `randomness.document_keys` of the ids."""
    domain: npt.NDArray[np.int32]
    """(n_documents,) positions in ``domains``."""
    side: npt.NDArray[np.uint8]
    """(n_documents,) 0 or 1."""
    offset: IntArray
    """(n_documents,) position of the first token in the ids of the shard."""
    n_tokens: IntArray
    """(n_documents,) tokens, end-of-text included; at least 1."""
    n_bytes: IntArray
    """(n_documents,) UTF-8 bytes of text."""
    shard: npt.NDArray[np.int32]
    """(n_documents,) positions in ``shards``."""
    shards: tuple[str, ...]
    """(n_shards,) names."""
    _ids: dict[int, npt.NDArray[np.unsignedinteger]] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a finished store.

        Args:
            folder: Written by `tokens.tokenise_pool`.

        Raises:
            ArtifactError: It is missing or unfinished.
        """
        artifacts.require(folder, made_by="cuvee label")
        summary = cast(dict[str, Any], artifacts.read_json(folder / SUMMARY))
        shards = tuple(summary["shards"])
        tables = [
            pq.read_table(folder / name / DOCUMENTS, columns=list(_COLUMNS)) for name in shards
        ]
        table = pa.concat_tables(tables)
        lengths = [each.num_rows for each in tables]
        return cls(
            folder=folder,
            domains=tuple(summary["domains"]),
            sides=tuple(summary["sides"]),
            vocabulary_size=summary["vocabulary_size"],
            end_of_text=summary["end_of_text"],
            tokenizer=summary["tokenizer"],
            unique_tokens=np.asarray(summary["unique_tokens"], dtype=np.int64),
            distinct_ids=np.asarray(summary["distinct_ids"], dtype=np.int64),
            keys=table["key"].to_numpy(),
            domain=table["domain"].to_numpy(),
            side=table["side"].to_numpy(),
            offset=table["offset"].to_numpy(),
            n_tokens=table["n_tokens"].to_numpy(),
            n_bytes=table["n_bytes"].to_numpy(),
            shard=np.repeat(np.arange(len(shards), dtype=np.int32), lengths),
            shards=shards,
        )

    def read(self, document: int, start: int, stop: int) -> npt.NDArray[np.unsignedinteger]:
        """Read ids of a document.

        Args:
            document: Position of the document.
            start: First token, from 0; -1 is the end-of-text before the document.
            stop: One past the last token, at most the document's ``n_tokens``.

        Returns:
            (stop - start,) ids, uint16 or uint32; a read-only view of the file.

        Raises:
            DataError: The range is not within the document.
        """
        if not -1 <= start <= stop <= self.n_tokens[document]:
            raise DataError(
                f"tokens {start} to {stop} of document {document} do not exist; it has "
                f"{self.n_tokens[document]}, and -1 is the end-of-text before it. Correct the "
                "range."
            )
        first = int(self.offset[document])
        return self._shard_ids(int(self.shard[document]))[first + start : first + stop]

    def statistics(self, available_tokens: Mapping[str, int] | None = None) -> PoolStatistics:
        """Count documents, bytes and tokens of side 0 by domain.

        Args:
            available_tokens: Tokens of the real pool by domain, where this one is only a sample; a
                domain left out has what is here.

        Raises:
            ConfigError: ``available_tokens`` names a domain that does not exist.
            DataError: A domain has no tokens on side 0.
        """
        declared = dict(available_tokens or {})
        unknown = sorted(set(declared) - set(self.domains))
        if unknown:
            raise ConfigError(
                f"available_tokens names the domain {unknown[0]!r}, which the pool does not have; "
                f"its domains are {', '.join(self.domains)}. Correct the name."
            )
        own = np.flatnonzero(self.side == 0)
        n_documents, n_bytes, n_tokens = (
            self._sum(own, values)
            for values in (np.ones_like(self.n_tokens), self.n_bytes, self.n_tokens)
        )
        available = n_tokens.copy()
        for code, name in enumerate(self.domains):
            available[code] = declared.get(name, n_tokens[code])
        return PoolStatistics(
            domains=self.domains,
            n_documents=n_documents,
            n_bytes=n_bytes,
            n_tokens=n_tokens,
            available_tokens=available,
        )

    def _sum(self, documents: IntArray, values: IntArray) -> IntArray:
        sums = np.zeros(len(self.domains), dtype=np.int64)
        np.add.at(sums, self.domain[documents], values[documents])
        return sums

    def _shard_ids(self, shard: int) -> npt.NDArray[np.unsignedinteger]:
        if shard not in self._ids:
            dtype = "<u2" if self.vocabulary_size <= 2**16 else "<u4"
            path = self.folder / self.shards[shard] / IDS
            self._ids[shard] = np.asarray(np.memmap(path, dtype=dtype, mode="r"))
        return self._ids[shard]
