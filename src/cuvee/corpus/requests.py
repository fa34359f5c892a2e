"""A task's answers as tokens: what a model is asked so that answers can be scored and compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cuvee.arrays import IntArray, KeyArray
from cuvee.corpus.encoder import Encoder
from cuvee.corpus.pool import PoolConfig, Shard
from cuvee.corpus.store import TokenStore
from cuvee.corpus.tasks import TaskExample, TaskKind, TaskLoss, loss_of, read_examples
from cuvee.randomness import document_keys

REQUESTS = "requests.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class Requests:
    """The answers of some examples, those of one example in order and side by side."""

    kind: TaskKind
    loss: TaskLoss
    end_of_text: int
    """Precedes every context."""
    key: KeyArray
    """(n_requests,) key of the example."""
    number: IntArray
    """(n_requests,) position of the answer among its example's."""
    gold: IntArray
    """(n_requests,) position of the right one."""
    n_context: IntArray
    """(n_requests,) tokens before the answer's first."""
    n_scored_bytes: IntArray
    """(n_requests,) UTF-8 bytes of what is scored, the space before an answer included."""
    n_bytes: IntArray
    """(n_requests,) without that space."""
    tokens: tuple[IntArray, ...]
    """(n_requests,) ids of context and answer, without end-of-text."""

    def of(self, keys: KeyArray) -> Self:
        """Return those of some examples, in the order of their keys."""
        order = np.argsort(self.key, kind="stable")
        sorted_keys = self.key[order]
        first = np.searchsorted(sorted_keys, keys, side="left").tolist()
        last = np.searchsorted(sorted_keys, keys, side="right").tolist()
        parts = [order[start:stop] for start, stop in zip(first, last, strict=True)]
        return self.take(np.concatenate([np.zeros(0, dtype=np.int64), *parts]))

    def take(self, places: IntArray) -> Self:
        """Return the requests at some positions."""
        return type(self)(
            kind=self.kind,
            loss=self.loss,
            end_of_text=self.end_of_text,
            key=self.key[places],
            number=self.number[places],
            gold=self.gold[places],
            n_context=self.n_context[places],
            n_scored_bytes=self.n_scored_bytes[places],
            n_bytes=self.n_bytes[places],
            tokens=tuple(self.tokens[place] for place in places.tolist()),
        )


def encode_requests(
    shard: Shard, config: PoolConfig, encoder: Encoder, *, keys: KeyArray
) -> pa.Table:
    """Encode the answers of a task's examples.

    An answer's tokens are those of context and answer together behind as many as the context has
    alone, and at least one.

    Args:
        shard: Of format task.
        config: From `tasks.TaskConfig.as_pool`.
        encoder: The run's tokenizer.
        keys: Keys of the examples that are used.

    Returns:
        One row an answer, for `read_requests`.

    Raises:
        DataError: As `tasks.read_examples`.

    Source: lm-evaluation-harness, ``lm_eval/api/model.py``, ``TemplateLM._encode_pair``.
    """
    examples = [example for _, example in read_examples(shard, config)]
    used = np.isin(document_keys([example.id for example in examples]), keys)
    examples = [example for example, is_used in zip(examples, used, strict=True) if is_used]
    answers = [answer for example in examples for answer in example.answers]
    n_context = _lengths(encoder, [answer.context for answer in answers])
    whole = encoder.encode([answer.context + answer.continuation for answer in answers])
    tokens = [np.frombuffer(ids, dtype=encoder.dtype).astype(np.int32) for ids in whole]
    n_tokens = np.array([len(ids) for ids in tokens], dtype=np.int64)
    n_answers = [len(example.answers) for example in examples]
    columns = {
        "key": np.repeat(document_keys([example.id for example in examples]), n_answers),
        "number": _numbers(examples),
        "gold": np.repeat(np.array([one.gold for one in examples], dtype=np.int64), n_answers),
        "n_context": np.minimum(n_context, n_tokens - 1),
        "n_scored_bytes": [len(answer.continuation.encode("utf-8")) for answer in answers],
        "n_bytes": [answer.n_bytes for answer in answers],
        "tokens": pa.array(tokens, type=pa.list_(pa.int32())),
    }
    kind = examples[0].kind if examples else "long"
    return pa.table(columns).replace_schema_metadata({"kind": kind, "loss": loss_of(config)})


def read_requests(store: TokenStore, documents: IntArray) -> Requests | None:
    """Read the answers of a target's examples.

    Args:
        store: The targets' store.
        documents: (n_documents,) positions of some examples' right answers, all of one target.

    Returns:
        The requests in the order of the documents; None where the target is no task.
    """
    shards = np.unique(store.shard[documents])
    paths = [store.folder / store.shards[shard] / REQUESTS for shard in shards.tolist()]
    if len(paths) != 1 or not paths[0].exists():
        return None
    table = pq.read_table(paths[0])
    about = table.schema.metadata
    read = Requests(
        kind=cast(TaskKind, about[b"kind"].decode()),
        loss=cast(TaskLoss, about[b"loss"].decode()),
        end_of_text=store.end_of_text,
        key=table["key"].to_numpy(),
        number=table["number"].to_numpy(),
        gold=table["gold"].to_numpy(),
        n_context=table["n_context"].to_numpy(),
        n_scored_bytes=table["n_scored_bytes"].to_numpy(),
        n_bytes=table["n_bytes"].to_numpy(),
        tokens=tuple(np.array(ids, dtype=np.int64) for ids in table["tokens"].to_pylist()),
    )
    return read.of(store.keys[documents])


def _lengths(encoder: Encoder, texts: Sequence[str]) -> IntArray:
    sizes = [len(ids) // encoder.dtype.itemsize for ids in encoder.encode(texts)]
    return np.array(sizes, dtype=np.int64)


def _numbers(examples: Sequence[TaskExample]) -> IntArray:
    parts = [np.arange(len(example.answers), dtype=np.int64) for example in examples]
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])
