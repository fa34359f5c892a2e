"""The token stage: one tokenizer for a run, and every shard's documents as ids on disk."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cuvee import artifacts
from cuvee.arrays import BoolArray, IntArray, KeyArray
from cuvee.artifacts import Json
from cuvee.config import dump, parse
from cuvee.corpus.decoder import one_tokenizer
from cuvee.corpus.encoder import Encoder, adapt_tokenizer, train_tokenizer
from cuvee.corpus.index import PoolIndex
from cuvee.corpus.pool import PoolConfig, Shard
from cuvee.corpus.read import read_batches
from cuvee.corpus.requests import REQUESTS, encode_requests
from cuvee.corpus.rows import DocumentBatch
from cuvee.corpus.sample import sample_texts
from cuvee.corpus.store import DOCUMENTS, IDS, SUMMARY, VOCABULARY, TokenStore
from cuvee.errors import ArtifactError, ConfigError, DataError
from cuvee.executors import Task, run_tasks
from cuvee.randomness import document_keys

logger = logging.getLogger(__name__)

TOKENIZER = "tokenizer.json"
_SMALLEST_VOCABULARY = 257

_DOCUMENTS_SCHEMA = pa.schema(
    [
        pa.field("key", pa.uint64()),
        pa.field("domain", pa.int32()),
        pa.field("side", pa.uint8()),
        pa.field("row", pa.int64()),
        pa.field("offset", pa.int64()),
        pa.field("n_tokens", pa.int64()),
        pa.field("n_bytes", pa.int64()),
        pa.field("distinct", pa.bool_()),
    ]
)
_VOCABULARY_SCHEMA = pa.schema(
    [pa.field("domain", pa.int32()), pa.field("id", pa.int32()), pa.field("count", pa.int64())]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokensConfig:
    """Which tokenizer the proxies read with."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    vocabulary_size: int = 8192
    """Tokens of the byte-level BPE that is trained: 256 bytes, end-of-text and merges."""
    tokenizer: str | None = None
    """Path of a tokenizer.json to use; then nothing is trained. Null: that of token files, if pool
    or targets have any (`pool.tokenizer`)."""
    sample_bytes: int = 20_000_000
    """Text the BPE is trained on, in bytes; domains share it by the square root of their size."""

    def __post_init__(self) -> None:
        if self.vocabulary_size < _SMALLEST_VOCABULARY:
            raise ConfigError(
                f"vocabulary_size is {self.vocabulary_size}; it must be at least "
                f"{_SMALLEST_VOCABULARY}: 256 bytes and end-of-text."
            )
        if self.sample_bytes < 1:
            raise ConfigError(f"sample_bytes is {self.sample_bytes}; it must be at least 1.")


def make_tokenizer(config: TokensConfig, index: PoolIndex, out: Path, *, seed: int) -> Path:
    """Train or take over the run's tokenizer; a finished one is not made again.

    Writes ``tokenizer/tokenizer.json``.

    Args:
        config: Which tokenizer.
        index: The pool whose training side the BPE is trained on.
        out: The run's folder.
        seed: The run's seed; chooses the sample.

    Returns:
        The tokenizer's artefact folder.

    Raises:
        ConfigError: The tokenizer named in the config cannot be used.
        DataError: A shard changed or is damaged.
    """
    folder = out / "tokenizer"
    if artifacts.is_done(folder):
        return folder
    if config.tokenizer is None:
        texts = sample_texts(index, n_bytes=config.sample_bytes, seed=seed)
        content = train_tokenizer(texts, vocabulary_size=config.vocabulary_size)
        settings: dict[str, Json] = {
            "vocabulary_size": config.vocabulary_size,
            "sample_bytes": config.sample_bytes,
        }
        inputs = {"index": artifacts.digest_of(index.folder)}
    else:
        content = adapt_tokenizer(Path(config.tokenizer))
        settings, inputs = {}, {"given": artifacts.digest_file(Path(config.tokenizer))}
    with artifacts.writing(
        folder, stage="tokenizer", settings=settings, seed=seed, inputs=inputs
    ) as aside:
        artifacts.write_text(aside / TOKENIZER, content)
    logger.info("tokenizer: %d tokens", Encoder(folder / TOKENIZER).vocabulary_size)
    return folder


def tokenise_pool(
    index: PoolIndex,
    out: Path,
    *,
    tokenizer: Path,
    workers: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> TokenStore:
    """Tokenise a pool, or the target sets, going on where an earlier call was stopped.

    Writes ``tokens/<shard>`` for each shard, then ``tokens/summary.json``. Dropped documents have
    no tokens.

    Args:
        index: The pool's or the targets' index.
        out: The folder below which ``tokens`` stands.
        tokenizer: The artefact folder made by `make_tokenizer`.
        workers: Processes; 0 works in this one.
        on_progress: Called with the number of shards done and their total.

    Returns:
        The opened store.

    Raises:
        DataError: A shard changed since it was labelled, or is damaged.
        ArtifactError: ``tokens`` was made from another index or with another tokenizer.
        ConfigError: Another tokenizer made the ids of token files.
    """
    given = {one.tokenizer: None for one in index.configs if one.tokenizer is not None}
    one_tokenizer([*given, str(tokenizer / TOKENIZER)] if given else [])
    folder = out / "tokens"
    inputs = {
        "index": artifacts.digest_of(index.folder),
        "tokenizer": artifacts.digest_of(tokenizer),
    }
    for each in (folder, *(folder / shard.name for shard in index.shards)):
        _check_unchanged(each, inputs)
    tasks = [
        Task(
            function="cuvee.corpus.tokens:tokenise_shard",
            spec={
                "shard": dump(shard),
                "config": dump(settings),
                "documents": str(index.folder / "documents" / f"{shard.name}.parquet"),
                "domains": index.domains,
                "sides": index.sides,
                "tokenizer": str(tokenizer / TOKENIZER),
                "inputs": inputs,
            },
            folder=folder / shard.name,
            cost=shard.n_bytes,
        )
        for shard, settings in zip(index.shards, index.configs, strict=True)
    ]
    for n_done, _ in enumerate(run_tasks(tasks, workers=workers), start=1):
        if on_progress is not None:
            on_progress(n_done, len(tasks))
    if not artifacts.is_done(folder):
        _finish(folder, index, Encoder(tokenizer / TOKENIZER), inputs)
    return TokenStore.open(folder)


def tokenise_shard(spec: Mapping[str, Json], folder: Path) -> None:
    """Tokenise one shard; a task of `executors`.

    Writes ids.bin: end-of-text, then the ids of each document, each followed by end-of-text;
    documents.parquet; vocabulary.parquet, how often each id occurs in each domain; and of a task
    requests.parquet, the answers that are scored.

    Args:
        spec: ``shard`` and ``config`` as plain data, the path of the shard's indexed ``documents``
            and of the ``tokenizer``, the names of ``domains`` and ``sides``, digests of ``inputs``.
        folder: The shard's artefact folder.

    Raises:
        DataError: The shard changed since it was labelled, or is damaged.
    """
    shard = parse(Shard, cast(Mapping[str, Json], spec["shard"]))
    settings = parse(PoolConfig, cast(Mapping[str, Json], spec["config"]))
    domains, sides = cast(Sequence[str], spec["domains"]), cast(Sequence[str], spec["sides"])
    documents = _Documents.read(Path(cast(str, spec["documents"])), domains, sides)
    encoder = Encoder(Path(cast(str, spec["tokenizer"])))
    end = np.asarray([encoder.end_of_text], dtype=encoder.dtype).tobytes()
    vocabulary = _Vocabulary(encoder)
    with artifacts.writing(
        folder,
        stage="tokens",
        settings={"shard": shard.name, "domains": list(domains), "sides": list(sides)},
        seed=0,
        inputs=cast(Mapping[str, str], spec["inputs"]),
    ) as aside:
        n_tokens = np.zeros(len(documents.row), dtype=np.int64)
        with (aside / IDS).open("wb") as file:
            file.write(end)
            for batch in read_batches(shard, settings):
                places, is_used = documents.match(batch, shard)
                encoded = _encode(batch, is_used, encoder)
                n_tokens[places] = [len(ids) // encoder.dtype.itemsize + 1 for ids in encoded]
                vocabulary.add(encoded, documents.domain[places])
                file.writelines(ids + end for ids in encoded)
        if not n_tokens.all():
            n_gone = int(np.count_nonzero(n_tokens == 0))
            raise _changed(shard, f"{n_gone} of {len(n_tokens)} documents are gone")
        _write(aside / DOCUMENTS, documents.table(n_tokens))
        _write(aside / VOCABULARY, vocabulary.table())
        if shard.format == "task":
            _write(aside / REQUESTS, encode_requests(shard, settings, encoder, keys=documents.key))


@dataclass(frozen=True, slots=True)
class _Documents:
    """The used documents of a shard, in order of rows."""

    row: IntArray
    key: KeyArray
    domain: npt.NDArray[np.int32]
    side: npt.NDArray[np.uint8]
    n_bytes: IntArray
    distinct: BoolArray

    @classmethod
    def read(cls, path: Path, domains: Sequence[str], sides: Sequence[str]) -> "_Documents":
        table = pq.read_table(path)
        side = pc.index_in(table["side"], value_set=pa.array(sides))
        is_used = pc.is_valid(side)
        table, side = table.filter(is_used), side.filter(is_used)
        domain = pc.index_in(table["domain"], value_set=pa.array(domains))
        return cls(
            row=table["row"].to_numpy(),
            key=table["key"].to_numpy(),
            domain=domain.to_numpy().astype(np.int32),
            side=side.to_numpy().astype(np.uint8),
            n_bytes=table["n_bytes"].to_numpy(),
            distinct=table["distinct"].to_numpy().astype(np.bool_),
        )

    def match(self, batch: DocumentBatch, shard: Shard) -> tuple[IntArray, list[bool]]:
        """Find the used documents of a batch: their positions, and which of the batch they are."""
        places = np.searchsorted(self.row, batch.rows)
        is_used = np.zeros(len(places), dtype=np.bool_)
        inside = places < len(self.row)
        is_used[inside] = self.row[places[inside]] == batch.rows[inside]
        places, mask = places[is_used], is_used.tolist()
        texts = compress(batch.texts, mask)
        sizes = np.array([len(text.encode("utf-8")) for text in texts], dtype=np.int64)
        same = document_keys(compress(batch.ids, mask)) == self.key[places]
        same &= sizes == self.n_bytes[places]
        if not same.all():
            row = int(self.row[places[np.argmin(same)]])
            raise _changed(shard, f"row {row} holds another document")
        return places, mask

    def table(self, n_tokens: IntArray) -> pa.Table:
        """Return documents.parquet; offsets count the end-of-text at the start."""
        offset = np.cumsum(n_tokens) - n_tokens + 1
        columns = {
            "key": self.key,
            "domain": self.domain,
            "side": self.side,
            "row": self.row,
            "offset": offset,
            "n_tokens": n_tokens,
            "n_bytes": self.n_bytes,
            "distinct": self.distinct,
        }
        return pa.table(columns, schema=_DOCUMENTS_SCHEMA)


def _encode(batch: DocumentBatch, is_used: list[bool], encoder: Encoder) -> list[bytes]:
    """Return the ids of the used documents: those they came with, else those of their texts."""
    if batch.tokens is not None:
        return list(compress(batch.tokens, is_used))
    return encoder.encode(list(compress(batch.texts, is_used)))


class _Vocabulary:
    """How often each id occurs in each domain of a shard."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._counts: dict[int, IntArray] = {}

    def add(self, encoded: Sequence[bytes], domain: npt.NDArray[np.int32]) -> None:
        """Count the ids of documents and the end-of-text behind each."""
        size = self._encoder.vocabulary_size
        for code in np.unique(domain).tolist():
            is_own = domain == code
            joined = b"".join(compress(encoded, is_own.tolist()))
            counts = self._counts.setdefault(code, np.zeros(size, dtype=np.int64))
            counts += np.bincount(np.frombuffer(joined, dtype=self._encoder.dtype), minlength=size)
            counts[self._encoder.end_of_text] += np.count_nonzero(is_own)

    def table(self) -> pa.Table:
        """Return vocabulary.parquet."""
        parts = [_VOCABULARY_SCHEMA.empty_table()]
        for code in sorted(self._counts):
            ids = np.flatnonzero(self._counts[code])
            columns = {
                "domain": np.full(len(ids), code, dtype=np.int32),
                "id": ids.astype(np.int32),
                "count": self._counts[code][ids],
            }
            parts.append(pa.table(columns, schema=_VOCABULARY_SCHEMA))
        return pa.concat_tables(parts)


def _finish(folder: Path, index: PoolIndex, encoder: Encoder, inputs: Mapping[str, str]) -> None:
    """Sum up the finished shards and mark the whole as done."""
    n_domains = len(index.domains)
    totals = np.zeros((3, 2, n_domains), dtype=np.int64)
    unique_tokens = np.zeros(n_domains, dtype=np.int64)
    occurs = np.zeros((n_domains, encoder.vocabulary_size), dtype=np.bool_)
    for shard in index.shards:
        table = pq.read_table(folder / shard.name / DOCUMENTS)
        side, domain = table["side"].to_numpy(), table["domain"].to_numpy()
        n_tokens = table["n_tokens"].to_numpy()
        values = (np.ones_like(n_tokens), table["n_bytes"].to_numpy(), n_tokens)
        for total, value in zip(totals, values, strict=True):
            np.add.at(total, (side, domain), value)
        is_unique = (side == 0) & table["distinct"].to_numpy()
        np.add.at(unique_tokens, domain[is_unique], n_tokens[is_unique])
        vocabulary = pq.read_table(folder / shard.name / VOCABULARY)
        occurs[vocabulary["domain"].to_numpy(), vocabulary["id"].to_numpy()] = True
    names = ("n_documents", "n_bytes", "n_tokens")
    summary: dict[str, Json] = {
        "vocabulary_size": encoder.vocabulary_size,
        "end_of_text": encoder.end_of_text,
        "domains": list(index.domains),
        "sides": list(index.sides),
        "shards": [shard.name for shard in index.shards],
        "unique_tokens": unique_tokens.tolist(),
        "distinct_ids": occurs.sum(axis=1).tolist(),
        "tokenizer": inputs["tokenizer"],
    }
    for name, total in zip(names, totals, strict=True):
        summary[name] = dict(zip(index.sides, total.tolist(), strict=True))
    artifacts.write_json(folder / SUMMARY, summary)
    _mark_done(folder, index, inputs)


def _mark_done(folder: Path, index: PoolIndex, inputs: Mapping[str, str]) -> None:
    """Finish a folder that was filled in place, since its shards are artefacts of their own."""
    shards = {shard.name: artifacts.digest_of(folder / shard.name) for shard in index.shards}
    manifest: Json = {
        "format_version": artifacts.FORMAT_VERSION,
        "stage": "tokens",
        "settings": {},
        "seed": 0,
        "inputs": {**inputs, **shards},
        "files": {SUMMARY: artifacts.digest_file(folder / SUMMARY)},
    }
    artifacts.write_json(folder / artifacts.MANIFEST, manifest)
    artifacts.write_text(folder / artifacts.DONE, artifacts.digest_json(manifest) + "\n")


def _check_unchanged(folder: Path, inputs: Mapping[str, str]) -> None:
    """Refuse what was made from another index or with another tokenizer."""
    if not artifacts.is_done(folder):
        return
    manifest = cast(dict[str, dict[str, str]], artifacts.read_json(folder / artifacts.MANIFEST))
    for name, digest in inputs.items():
        if manifest["inputs"].get(name) != digest:
            raise ArtifactError(
                f"{folder} was made from another {name}. Delete the tokens folder to make it "
                "again, or choose another --out."
            )


def _write(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, compression="zstd")


def _changed(shard: Shard, what: str) -> DataError:
    return DataError(
        f"shard {shard.url} changed since it was labelled: {what}. Put the old file back, or run "
        "everything again with another --out."
    )
