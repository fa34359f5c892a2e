"""How many of a task's questions a model answers rightly."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch

from cuvee.arrays import BoolArray, FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.proxy.batches import AnswerSet, EvaluationSet
from cuvee.proxy.model import ProxyModel
from cuvee.proxy.step import autocast

_TOKENS = 4096
"""Tokens measured at a time."""


def right_choices(
    answers: AnswerSet, log_likelihoods: FloatArray, *, by_bytes: bool = False
) -> BoolArray:
    """Tell which questions' right choice is the most likely one.

    argmax_c log p(c | context), or argmax_c log p(c | context) / bytes(c); the first of equals.

    Args:
        answers: All choices of some examples.
        log_likelihoods: (n_answers,) nats.
        by_bytes: Divide by the bytes of each choice.

    Returns:
        (n_examples,) True: right.

    Source: lm-evaluation-harness, ``ConfigurableTask.process_results``, acc and acc_norm.
    Deviation: acc_norm divides by characters there, by UTF-8 bytes here.
    """
    scores = log_likelihoods / answers.n_bytes if by_bytes else log_likelihoods
    parts = np.split(scores, answers.start[1:])
    found = np.array([int(np.argmax(part)) for part in parts], dtype=np.int64)
    return np.asarray(found == answers.gold, dtype=np.bool_)


def right_words(answers: AnswerSet, greedy: BoolArray) -> BoolArray:
    """Tell which questions have an accepted answer that greedy generation would begin with.

    Args:
        answers: The accepted answers of some examples.
        greedy: (n_answers,) True: each token of the answer is the most likely one.

    Returns:
        (n_examples,) True: right.

    Source: lm-evaluation-harness, ``is_greedy`` of ``LM.loglikelihood``.
    """
    return np.asarray(np.logical_or.reduceat(greedy, answers.start), dtype=np.bool_)


@torch.no_grad()
def score_answers(
    model: ProxyModel, answers: AnswerSet, *, precision: Literal["float32", "bfloat16"]
) -> tuple[FloatArray, BoolArray]:
    """Score answers by a model, on the device it is on.

    Returns:
        (n_answers,) log-likelihoods in nats, and (n_answers,) whether greedy generation would give
        the answer.
    """
    device = model.head.device
    step = max(1, _TOKENS // answers.batch.tokens.shape[1])
    losses, hits = [], []
    for first in range(0, len(answers.batch.tokens), step):
        rows = slice(first, first + step)
        tokens, segments, targets = (
            torch.from_numpy(part[rows]).to(device)
            for part in (answers.batch.tokens, answers.batch.segments, answers.batch.targets)
        )
        with autocast(device, precision):
            found, most_likely = model.scored_tokens(tokens, segments, targets)
        losses.append(found.double().cpu().numpy())
        hits.append(most_likely.cpu().numpy())
    own = answers.answer >= 0
    owner, n = answers.answer[own], len(answers.n_bytes)
    sums = np.bincount(owner, weights=np.concatenate(losses)[own], minlength=n)
    missed = np.bincount(owner, weights=~np.concatenate(hits)[own], minlength=n)
    return np.asarray(-sums, dtype=np.float64), np.asarray(missed == 0, dtype=np.bool_)


def measure_accuracy(
    model: ProxyModel,
    sets: Sequence[EvaluationSet],
    *,
    precision: Literal["float32", "bfloat16"],
) -> dict[str, Json]:
    """Measure a model's accuracy on every task among some evaluation sets.

    Returns:
        By set: ``kind``, ``n_examples``, ``chance`` (that of guessing; None where one cannot),
        ``accuracy``, ``correct`` (a 0 or 1 for each example, in one order for all runs) and, of
        choices, ``accuracy_norm`` and ``correct_norm``. Empty where no set is a task.
    """
    found: dict[str, Json] = {}
    for one in sets:
        if one.answers is None:
            continue
        log_likelihoods, greedy = score_answers(model, one.answers, precision=precision)
        if one.answers.kind == "choice":
            marks = {
                "": right_choices(one.answers, log_likelihoods),
                "_norm": right_choices(one.answers, log_likelihoods, by_bytes=True),
            }
        else:
            marks = {"": right_words(one.answers, greedy)}
        found[one.name] = {
            "kind": one.answers.kind,
            "n_examples": len(one.answers.start),
            "chance": _chance(one.answers),
            **_figures(marks),
        }
    return found


def _chance(answers: AnswerSet) -> float | None:
    if answers.kind != "choice":
        return None
    return float(np.mean(1.0 / _n_answers(answers)))


def _n_answers(answers: AnswerSet) -> IntArray:
    return np.diff(np.append(answers.start, len(answers.n_bytes)))


def _figures(marks: Mapping[str, BoolArray]) -> dict[str, Json]:
    figures: dict[str, Json] = {}
    for suffix, right in marks.items():
        figures[f"accuracy{suffix}"] = float(right.mean())
        figures[f"correct{suffix}"] = "".join(str(int(one)) for one in right)
    return figures
