"""What a proxy sees: windows of documents, packed into sequences, apportioned to domains.

1. Each document is cut into windows of at most `context` tokens. Within a domain, windows stand in
   hash order; when a domain runs out it begins again in a new hash order (the next epoch).
2. A domain's windows, one after the other, are cut into sequences of exactly `context` tokens;
   every sequence is of one domain. Domains get whole numbers of sequences, by largest remainder, so
   the realised weights are exact to one sequence and no token is padding.
3. Sequences of the domains are interleaved evenly over each phase of the run.

Document boundaries: the first token of a document is predicted from the end-of-text token, the last
predicts it; a later window of a document begins with the token before it as input. Attention never
crosses a window's start (`model`), so neither documents nor distant windows see each other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from cuvee.arrays import BoolArray, FloatArray, IntArray
from cuvee.corpus.store import TokenStore
from cuvee.policy.mixture import Mixture
from cuvee.policy.sampling import interleave
from cuvee.randomness import hash64
from cuvee.simplex import largest_remainder

_EPOCH_STEP = 1 << 32
_COPY_STEP = 1 << 52


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences for one step."""

    tokens: IntArray
    """(n_sequences, context) input ids."""
    targets: IntArray
    """(n_sequences, context) ids to be predicted."""
    segments: IntArray
    """(n_sequences, context) number of the window within the sequence."""


class WindowStream:
    """The windows of some documents as one endless stream of tokens in hash order."""

    def __init__(
        self,
        store: TokenStore,
        documents: IntArray,
        *,
        context: int,
        seed: int,
        copies: IntArray | None = None,
    ) -> None:
        """Cut documents into windows.

        Args:
            store: Where the tokens are.
            documents: (n_documents,) positions in the store; at least one.
            context: Longest window, in tokens.
            seed: Orders the windows, by hash of document and window number.
            copies: (n_documents,) times each stands in the stream, at least 1; None: once.
        """
        self._store = store
        self._seed = seed
        copy = np.zeros(len(documents), dtype=np.int64)
        if copies is not None:
            documents = np.repeat(documents, copies)
            copy = np.arange(len(documents)) - np.repeat(np.cumsum(copies) - copies, copies)
        lengths = store.n_tokens[documents]
        n_windows = -(-lengths // context)
        owner = np.repeat(np.arange(len(documents)), n_windows)
        number = np.arange(len(owner)) - np.repeat(np.cumsum(n_windows) - n_windows, n_windows)
        self._document = documents[owner]
        self._number = (number + copy[owner] * _COPY_STEP).astype(np.uint64)
        self._start = number * context
        self._length = np.minimum(context, lengths[owner] - self._start)
        self.n_tokens = int(lengths.sum())
        self._epochs: list[tuple[IntArray, IntArray]] = []

    def rows(self, sequence: int, context: int) -> tuple[IntArray, IntArray, IntArray]:
        """Return the tokens, targets and segments of one sequence.

        Args:
            sequence: Its number in the stream, from 0.
            context: Its length in tokens.

        Returns:
            Three arrays (context,).
        """
        tokens = np.empty(context, dtype=np.int64)
        targets = np.empty(context, dtype=np.int64)
        segments = np.empty(context, dtype=np.int64)
        filled = 0
        for segment, (document, start, length) in enumerate(
            self._pieces(sequence * context, context)
        ):
            ids = self._store.read(document, start - 1, start + length)
            tokens[filled : filled + length] = ids[:-1]
            targets[filled : filled + length] = ids[1:]
            segments[filled : filled + length] = segment
            filled += length
        return tokens, targets, segments

    def _pieces(self, position: int, n_tokens: int) -> Iterator[tuple[int, int, int]]:
        """Yield (document, start, length) of the windows that cover a stretch of the stream."""
        while n_tokens > 0:
            epoch, inside = divmod(position, self.n_tokens)
            order, ends = self._epoch(epoch)
            place = int(np.searchsorted(ends, inside, side="right"))
            window = int(order[place])
            skipped = inside - (int(ends[place]) - int(self._length[window]))
            length = min(int(self._length[window]) - skipped, n_tokens)
            yield int(self._document[window]), int(self._start[window]) + skipped, length
            position += length
            n_tokens -= length

    def _epoch(self, epoch: int) -> tuple[IntArray, IntArray]:
        while len(self._epochs) <= epoch:
            part = self._number + np.uint64(len(self._epochs) * _EPOCH_STEP)
            keys = self._store.keys[self._document]
            hashes = hash64(self._seed, "order", keys, part=part)
            order = np.lexsort((self._number, keys, hashes))
            self._epochs.append((order, np.cumsum(self._length[order])))
        return self._epochs[epoch]


class TrainingPlan:
    """All sequences of one run, in order."""

    def __init__(
        self,
        streams: Sequence[WindowStream | None],
        mixture: Mixture,
        *,
        n_sequences: int,
        context: int,
        rng: np.random.Generator,
    ) -> None:
        """Apportion sequences to phases, and each phase's to domains.

        Args:
            streams: (n_domains,) one stream a domain; None only where the mixture gives it nothing.
            mixture: Token shares of each phase, domains in the order of `streams`.
            n_sequences: Sequences in the whole run.
            context: Tokens of a sequence.
            rng: Staggers the domains.
        """
        self.context = context
        self._streams = streams
        shares = np.array([phase.share for phase in mixture.phases])
        counts = [
            largest_remainder(np.array(phase.weights), int(n))
            for phase, n in zip(mixture.phases, largest_remainder(shares, n_sequences), strict=True)
        ]
        self.phase_counts: IntArray = np.stack(counts)
        self.counts: IntArray = self.phase_counts.sum(axis=0)
        self._domain = np.concatenate([interleave(phase, rng) for phase in counts])
        self._within = np.empty(n_sequences, dtype=np.int64)
        for domain in range(len(self.counts)):
            mine = self._domain == domain
            self._within[mine] = np.arange(np.count_nonzero(mine))

    @property
    def realised(self) -> FloatArray:
        """(n_domains,) token shares that the run really has."""
        return np.asarray(self.counts / self.counts.sum(), dtype=np.float64)

    @property
    def realised_columns(self) -> FloatArray:
        """(n_phases * n_domains,) token shares by phase and domain, as `Mixture.columns`."""
        return np.asarray(self.phase_counts.ravel() / self.counts.sum(), dtype=np.float64)

    def batches(self, n_sequences: int) -> Iterator[Batch]:
        """Yield the run's batches of `n_sequences` sequences; the last may be smaller."""
        for first in range(0, len(self._domain), n_sequences):
            chosen = range(first, min(first + n_sequences, len(self._domain)))
            yield _stack([self._row(position) for position in chosen])

    def _row(self, position: int) -> tuple[IntArray, IntArray, IntArray]:
        stream = self._streams[int(self._domain[position])]
        assert stream is not None, "a domain with sequences has a stream"
        return stream.rows(int(self._within[position]), self.context)


@dataclass(frozen=True, slots=True)
class AnswerSet:
    """All answers of a task's examples, to be compared with each other."""

    kind: Literal["choice", "short"]
    """One of several answers is right, or all are accepted."""
    batch: Batch
    answer: IntArray
    """(n_sequences, context) number of the answer each scored token belongs to; -1 elsewhere."""
    start: IntArray
    """(n_examples,) number of each example's first answer."""
    gold: IntArray
    """(n_examples,) position of the right one among the example's own."""
    n_bytes: IntArray
    """(n_answers,) UTF-8 bytes of each answer."""


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """Fixed validation sequences of one domain or target."""

    name: str
    batch: Batch
    counted: BoolArray
    """(n_sequences, context) True where the loss counts: not padding, not an end-of-text."""
    tokens_per_byte: float
    """Tokens of the whole set, without end-of-text, per byte of its text."""
    weights: FloatArray | None = None
    """(n_sequences, context) weight of each token's loss, 0 where it does not count; None: all that
    count weigh the same."""
    answers: AnswerSet | None = None
    """What accuracy is measured on; None where there is none."""

    @property
    def total_weight(self) -> float:
        """Sum of the weights of all tokens that count; their number where they weigh the same."""
        return float(self.counted.sum() if self.weights is None else self.weights.sum())


def evaluation_set(
    name: str, store: TokenStore, documents: IntArray, *, context: int, n_tokens: int, seed: int
) -> EvaluationSet:
    """Choose the validation sequences of one set: its first windows in hash order.

    Args:
        name: The set's name in every table.
        store: Where its tokens are.
        documents: (n_documents,) its documents; at least one.
        context: Tokens of a sequence.
        n_tokens: At most this many tokens, rounded down to whole sequences but at least one.
        seed: Orders the windows; the same for all runs that are compared.

    Returns:
        The set; a text shorter than one sequence is padded, the padding not counted.
    """
    stream = WindowStream(store, documents, context=context, seed=seed)
    n_sequences = max(1, min(n_tokens, stream.n_tokens) // context)
    batch = _stack([stream.rows(number, context) for number in range(n_sequences)])
    counted: npt.NDArray[np.bool_] = batch.targets != store.end_of_text
    counted.flat[stream.n_tokens :] = False
    n_text_tokens = int((store.n_tokens[documents] - 1).sum())
    return EvaluationSet(
        name=name,
        batch=batch,
        counted=counted,
        tokens_per_byte=n_text_tokens / int(store.n_bytes[documents].sum()),
    )


def _stack(rows: list[tuple[IntArray, IntArray, IntArray]]) -> Batch:
    tokens, targets, segments = (np.stack(column) for column in zip(*rows, strict=True))
    return Batch(tokens=tokens, targets=targets, segments=segments)
