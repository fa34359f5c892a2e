"""What a task's examples look like to a proxy: whole answers packed into sequences.

Unlike the windows of a text (`batches`), an answer always sees its whole context, cut from the left
where both together are longer than the model's; packed answers do not see each other.
"""

from collections.abc import Sequence

import numpy as np

from cuvee.arrays import IntArray
from cuvee.corpus.requests import Requests
from cuvee.proxy.batches import AnswerSet, Batch, EvaluationSet
from cuvee.randomness import hash64


def task_set(
    name: str,
    requests: Requests,
    *,
    context: int,
    n_tokens: int,
    seed: int,
    with_answers: bool = True,
) -> EvaluationSet:
    """Make the evaluation set of a task's right answers.

    Its loss in bits per byte is the mean over examples i of an answer's bits over its bytes,
    1/n sum_i sum_t loss_it / (bytes_i ln 2): tokens weigh 1 / bytes_i, and tokens_per_byte is the
    mean of the answers' own. Of an answer longer than the context the last tokens stand for all.

    Args:
        name: The set's name in every table.
        requests: All answers of the examples to choose from.
        context: Tokens of a sequence.
        n_tokens: Right answers with their contexts are taken in hash order up to this many tokens,
            but at least one.
        seed: Orders the examples; the same for all runs that are compared.
        with_answers: Accuracy is to be measured.

    Returns:
        The set, with all answers of its examples where there is an accuracy to be measured.
    """
    right = requests.take(np.flatnonzero(requests.number == requests.gold))
    order = np.lexsort((right.key, hash64(seed, "order", right.key)))
    lengths = np.array([min(len(right.tokens[place]), context) for place in order.tolist()])
    n_taken = max(1, int(np.searchsorted(np.cumsum(lengths), n_tokens, side="right")))
    chosen = right.take(order[:n_taken])
    batch, owner = _pack(chosen, context)
    n_answer = np.array([len(ids) for ids in chosen.tokens]) - chosen.n_context
    n_counted = np.bincount(owner[owner >= 0], minlength=n_taken)
    counted_bytes = chosen.n_scored_bytes * n_counted / n_answer
    weights = np.where(owner >= 0, 1.0 / counted_bytes[owner], 0.0)
    return EvaluationSet(
        name=name,
        batch=batch,
        counted=owner >= 0,
        tokens_per_byte=float(np.mean(n_answer / chosen.n_scored_bytes)),
        weights=weights,
        answers=answer_set(requests.of(chosen.key), context=context) if with_answers else None,
    )


def answer_set(requests: Requests, *, context: int) -> AnswerSet | None:
    """Pack all answers of some examples.

    Args:
        requests: The answers, those of an example side by side.
        context: Tokens of a sequence.

    Returns:
        The answers; None where only generated text could be judged.
    """
    if requests.kind == "long":
        return None
    batch, owner = _pack(requests, context)
    starts = np.flatnonzero(requests.number == 0)
    return AnswerSet(
        kind=requests.kind,
        batch=batch,
        answer=owner,
        start=starts,
        gold=requests.gold[starts],
        n_bytes=requests.n_bytes,
    )


def _pack(requests: Requests, context: int) -> tuple[Batch, IntArray]:
    """Put answers with their contexts side by side in sequences, never one in two.

    Returns:
        The batch, and (n_sequences, context) whose answer each token belongs to; -1 for tokens of
        contexts and for padding.
    """
    lengths = [min(len(ids), context) for ids in requests.tokens]
    row, column = _places(lengths, context)
    shape = (int(row[-1]) + 1, context)
    tokens = np.full(shape, requests.end_of_text, dtype=np.int64)
    targets, segments, owner = tokens.copy(), np.full(shape, -1, dtype=np.int64), np.full(shape, -1)
    for place, ids in enumerate(requests.tokens):
        n = lengths[place]
        inputs = np.concatenate([[requests.end_of_text], ids[:-1]])
        span = (int(row[place]), slice(int(column[place]), int(column[place]) + n))
        tokens[span], targets[span], segments[span] = inputs[-n:], ids[-n:], place
        n_answer = min(n, len(ids) - int(requests.n_context[place]))
        owner[span[0], span[1].stop - n_answer : span[1].stop] = place
    return Batch(tokens=tokens, targets=targets, segments=segments), owner.astype(np.int64)


def _places(lengths: Sequence[int], context: int) -> tuple[IntArray, IntArray]:
    """Return the sequence and the first column of each piece: the next one that has room."""
    row, column, filled, rows = [], [], 0, 0
    for length in lengths:
        if filled + length > context:
            rows, filled = rows + 1, 0
        row.append(rows)
        column.append(filled)
        filled += length
    return np.array(row, dtype=np.int64), np.array(column, dtype=np.int64)
