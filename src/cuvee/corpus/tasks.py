r"""Downstream tasks as examples: a context, the answers that are scored after it, the right one.

What is asked of a model follows lm-evaluation-harness: an answer is scored by its log-likelihood
after the context, one space stands between them, and white space at a context's end belongs to the
answer. Of the formats:

========================  ==========================================  ===========================
format                    context                                     answers
========================  ==========================================  ===========================
arc, piqa, aqua           ``Question: <question>\nAnswer:``            every choice
openbookqa, hellaswag     the text as it stands                       every choice
winogrande                the sentence up to each of the two names    the rest of the sentence
svamp, triviaqa           ``Question: <question>\nAnswer:``            the answer and its aliases
gsm8k                     ``Question: <question>\nAnswer:``            reasoning and answer
human_eval                the prompt as it stands, no space behind    the canonical solution
plain                     the text as it stands                       every choice, or the answer
========================  ==========================================  ===========================

Source: lm-evaluation-harness, ``lm_eval/tasks/*/*.yaml`` (doc_to_text, doc_to_choice) and
``lm_eval/api/model.py`` (``_encode_pair``).
Deviation: no examples of other questions are put before a question. SVAMP is not among its tasks;
AQuA is asked as ARC is, not by the letter of a choice.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, count
from typing import ClassVar, Final, Literal, TypeAlias, cast, get_args

from cuvee.corpus.pool import PoolConfig, Shard
from cuvee.corpus.streams import bounded_lines, decompressed
from cuvee.errors import DataError

TaskFormat: TypeAlias = Literal[
    "auto",
    "arc",
    "piqa",
    "openbookqa",
    "hellaswag",
    "winogrande",
    "gsm8k",
    "svamp",
    "triviaqa",
    "human_eval",
    "aqua",
    "plain",
]
TaskLoss: TypeAlias = Literal["answer", "full"]
TaskKind: TypeAlias = Literal["choice", "short", "long"]
"""choice: the right one of several answers; short: any of the accepted ones; long: what could only
be judged by generating text, so that there is no accuracy."""

MAX_ACCEPTED = 8
"""Answers of one example that count as right, at most; further aliases are left out."""
_MAX_BYTES = 16 * 2**20
_ASKED = ("arc", "piqa", "aqua", "gsm8k", "svamp", "triviaqa")
_SHAPES: Final[Mapping[str, tuple[str, ...]]] = {
    "several choices": ("context", "choices", "gold"),
    "two contexts": ("context_options", "continuation", "gold"),
    "an answer": ("context", "answer"),
    "code": ("prompt", "canonical_solution"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskConfig:
    """One downstream task as a target."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    path: str
    """A file of JSON lines, local or any fsspec URL; .gz and .zst are decompressed."""
    format: TaskFormat = "auto"
    """How a question is put. auto: by each row's `task`, such as arc_easy; plain where that is
    missing or of no known task."""
    loss: TaskLoss = "answer"
    """answer: mean over examples of the right answer's bits per byte, given the question. full: the
    loss of question and right answer as one text, as of any other target."""

    def as_pool(self) -> PoolConfig:
        """Return how the right answers are read as documents: question and answer as one text."""
        return PoolConfig(
            shards=(self.path,),
            format="task",
            text=f"{self.format}:{self.loss}",
            max_reject_share=0.0,
            max_document_bytes=_MAX_BYTES,
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """One scored answer."""

    context: str
    """What the model is given; does not end in white space unless it is blank."""
    continuation: str
    """What is scored, from the white space before the answer on."""
    n_bytes: int
    """UTF-8 bytes of the answer, without the space before it; at least 1."""


@dataclass(frozen=True, slots=True)
class TaskExample:
    """One question with its answers."""

    id: str
    kind: TaskKind
    answers: tuple[Answer, ...]
    """All choices in order where kind is choice; else the accepted answers, the gold one first."""
    gold: int
    """Position of the right answer whose loss counts."""

    @property
    def text(self) -> str:
        """Question and right answer as one text."""
        return self.answers[self.gold].context + self.answers[self.gold].continuation


def loss_of(config: PoolConfig) -> TaskLoss:
    """Return the loss of a task from its `TaskConfig.as_pool`."""
    return cast(TaskLoss, config.text.partition(":")[2])


def check_tasks(tasks: Mapping[str, TaskConfig]) -> None:
    """Read tasks to their ends.

    Raises:
        DataError: As `read_examples`.
    """
    for name, one in tasks.items():
        config = one.as_pool()
        shard = Shard(index=0, url=one.path, name=name, format="task", n_bytes=0, domain=name)
        for _ in read_examples(shard, config):
            pass


def read_examples(shard: Shard, config: PoolConfig) -> Iterator[tuple[int, TaskExample]]:
    """Read a task's examples in order.

    Args:
        shard: Of format task.
        config: From `TaskConfig.as_pool`.

    Yields:
        The row, from 0, and its example. Blank lines are no rows.

    Raises:
        DataError: The file cannot be read, a row is malformed, an id occurs twice, or kinds are
            mixed.
    """
    wanted = config.text.partition(":")[0]
    if wanted not in get_args(TaskFormat):
        raise DataError(
            f"shard {shard.url} is read as task {wanted!r}, which is not known; allowed are "
            f"{', '.join(get_args(TaskFormat))}. Name tasks under targets.tasks."
        )
    seen: set[str] = set()
    kind: TaskKind | None = None
    with decompressed(shard.url) as stream:
        for line in bounded_lines(stream, max_bytes=config.max_document_bytes):
            if line.content is not None and not line.content.strip():
                continue
            try:
                record = _record(line.content)
                example = _example(record, wanted)
                if record.get("id") is None:  # a question asked again is another example
                    example = replace(example, id=_unused(example.id, seen))
                if example.id in seen:
                    raise _RowFault(f"its id {example.id!r} stands in an earlier row too")
                if kind not in (None, example.kind):
                    raise _RowFault(f"it is of kind {example.kind}, earlier rows are {kind}")
            except _RowFault as fault:
                raise DataError(
                    f"task {shard.domain!r}: row {line.number} of {shard.url}: {fault}. Repair the "
                    "row, or leave it out."
                ) from None
            seen.add(example.id)
            kind = example.kind
            yield line.number, example


def _unused(id: str, seen: set[str]) -> str:
    names = chain([id], (f"{id}#{number}" for number in count(2)))
    return next(name for name in names if name not in seen)


class _RowFault(Exception):
    """What is wrong with a row, in words."""


def _record(content: bytes | None) -> dict[str, object]:
    if content is None:
        raise _RowFault(f"it is longer than the {_MAX_BYTES:,} bytes allowed")
    try:
        found = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise _RowFault("it is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise _RowFault(f"it is not JSON ({error})") from None
    if not isinstance(found, dict):
        raise _RowFault("it is not a JSON object")
    return found


def _example(record: dict[str, object], wanted: str) -> TaskExample:
    asked = _format_of(record) if wanted == "auto" else wanted
    if "context_options" in record:
        kind, answers, gold = _two_contexts(record)
    elif "choices" in record:
        kind, answers, gold = _choices(record, asked)
    elif "canonical_solution" in record:
        kind, gold = "long", 0
        answers = (_pair(_text(record, "prompt"), _text(record, "canonical_solution"), space=""),)
    elif "answer" in record:
        kind, answers, gold = _accepted(record, asked)
    else:
        shapes = "; ".join(f"{', '.join(keys)} ({what})" for what, keys in _SHAPES.items())
        raise _RowFault(f"it has the keys {', '.join(record) or 'none'}; allowed are {shapes}")
    return TaskExample(_id_of(record, answers[gold]), kind, answers, gold)


def _format_of(record: dict[str, object]) -> str:
    name = str(record.get("task", ""))
    known = (one for one in get_args(TaskFormat) if name == one or name.startswith(one + "_"))
    return next((one for one in known if one != "auto"), "plain")


def _two_contexts(record: dict[str, object]) -> tuple[TaskKind, tuple[Answer, ...], int]:
    contexts = _texts(record, "context_options")
    continuation = _text(record, "continuation")
    gold = _position(record, len(contexts), "context_options")
    return "choice", tuple(_pair(one, continuation) for one in contexts), gold


def _choices(record: dict[str, object], asked: str) -> tuple[TaskKind, tuple[Answer, ...], int]:
    choices = _texts(record, "choices")
    gold = _position(record, len(choices), "choices")
    context = _question(record, asked)
    return "choice", tuple(_pair(context, one) for one in choices), gold


def _accepted(record: dict[str, object], asked: str) -> tuple[TaskKind, tuple[Answer, ...], int]:
    answer, context = _text(record, "answer"), _question(record, asked)
    if asked == "gsm8k":
        reasoning = _text(record, "chain_of_thought")
        return "long", (_pair(context, f"{reasoning}\n#### {answer}"),), 0
    aliases = _texts(record, "aliases", least=0) if "aliases" in record else []
    accepted = list(dict.fromkeys([answer, *aliases]))[:MAX_ACCEPTED]
    return "short", tuple(_pair(context, one) for one in accepted), 0


def _question(record: dict[str, object], asked: str) -> str:
    """Return the context, which may stand there in part as it is asked."""
    text = _text(record, "context")
    if asked not in _ASKED:
        return text
    question = text.strip().removesuffix("Answer:").removeprefix("Question:").strip()
    if not question:
        raise _RowFault("'context' has no question")
    return f"Question: {question}\nAnswer:"


def _pair(context: str, answer: str, *, space: str = " ") -> Answer:
    """Move white space at the context's end to the answer."""
    kept = context.rstrip()
    between = space or context[len(kept) :]
    stripped = answer.strip() if space else answer
    return Answer(kept, between + stripped, len(stripped.encode("utf-8")))


def _text(record: dict[str, object], key: str) -> str:
    if key not in record:
        raise _RowFault(f"{key!r} is missing")
    return _checked(record[key], key)


def _texts(record: dict[str, object], key: str, *, least: int = 2) -> list[str]:
    found = record[key]
    if not isinstance(found, list) or len(found) < least:
        raise _RowFault(f"{key!r} must be a list of at least {least} strings")
    return [_checked(one, f"{key}[{place}]") for place, one in enumerate(found)]


def _checked(value: object, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _RowFault(f"{what!r} is {json.dumps(value)[:40]}; it must be a string, not blank")
    if "\0" in value or any("\ud800" <= sign <= "\udfff" for sign in value):
        raise _RowFault(f"{what!r} has a NUL or a lone surrogate; it must be sound Unicode")
    return value


def _position(record: dict[str, object], n: int, of: str) -> int:
    gold = record.get("gold")
    if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < n:
        raise _RowFault(
            f"'gold' is {json.dumps(gold)[:40]}; it must be a position in {of!r}, 0 to {n - 1}"
        )
    return gold


def _id_of(record: dict[str, object], answer: Answer) -> str:
    """Return the row's id, or one made from question and right answer."""
    given = record.get("id")
    if given is None:
        return hashlib.sha256((answer.context + answer.continuation).encode()).hexdigest()
    if isinstance(given, bool) or not isinstance(given, (str, int)) or not str(given).strip():
        raise _RowFault(f"'id' is {json.dumps(given)[:40]}; it must be a string or a whole number")
    return str(given)
