"""Task files as examples: prompts as the harness puts them, and one message for each fault."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from cuvee.corpus.pool import PoolConfig, list_shards
from cuvee.corpus.read import read_batches
from cuvee.corpus.tasks import MAX_ACCEPTED, Answer, TaskConfig, TaskExample, read_examples
from cuvee.errors import DataError

CHOICES: Mapping[str, object] = {"context": "2 + 2 is", "choices": ["three", "four"], "gold": 1}


def write(path: Path, records: Sequence[object]) -> Path:
    """Write records as JSON lines."""
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return path


def examples(path: Path, **settings: str) -> list[TaskExample]:
    """Read a file's examples."""
    config = TaskConfig(path=str(path), **settings).as_pool()  # type: ignore[arg-type]
    (shard,) = list_shards(config, domain="sums")
    return [example for _, example in read_examples(shard, config)]


@pytest.mark.parametrize(
    ("row", "context", "answers", "gold"),
    [
        (
            {"task": "arc_easy", "context": "Question: Why?", "choices": ["a", "b"], "gold": 1},
            "Question: Why?\nAnswer:",
            (" a", " b"),
            1,
        ),
        (
            {"task": "piqa", "context": "Question: Why?\n", "choices": ["a", "b"], "gold": 0},
            "Question: Why?\nAnswer:",
            (" a", " b"),
            0,
        ),
        (
            {"task": "openbookqa", "context": "Ice is ", "choices": ["hot", "cold"], "gold": 1},
            "Ice is",
            (" hot", " cold"),
            1,
        ),
        (
            {"task": "svamp", "context": "How many?", "chain_of_thought": "1+1", "answer": "2"},
            "Question: How many?\nAnswer:",
            (" 2",),
            0,
        ),
        (
            {"task": "gsm8k", "context": "How many?", "chain_of_thought": "1+1", "answer": "2"},
            "Question: How many?\nAnswer:",
            (" 1+1\n#### 2",),
            0,
        ),
        (
            {
                "task": "triviaqa",
                "context": "Question: Who?\nAnswer:",
                "answer": "Ann",
                "aliases": ["Anna", "Ann"],
            },
            "Question: Who?\nAnswer:",
            (" Ann", " Anna"),
            0,
        ),
        (
            {"task": "human_eval", "prompt": "def f():\n", "canonical_solution": "    pass\n"},
            "def f():",
            ("\n    pass\n",),
            0,
        ),
        ({"task": "mine", **CHOICES}, "2 + 2 is", (" three", " four"), 1),
    ],
    ids=["arc", "piqa", "openbookqa", "svamp", "gsm8k", "triviaqa", "human_eval", "unknown"],
)
def test_prompts_follow_the_harness(
    row: Mapping[str, object], context: str, answers: tuple[str, ...], gold: int, tmp_path: Path
) -> None:
    """Context and continuations of each format, told by the row's task."""
    (found,) = examples(write(tmp_path / "one.jsonl", [row]))
    assert {answer.context for answer in found.answers} == {context}
    assert tuple(answer.continuation for answer in found.answers) == answers
    assert found.gold == gold
    assert found.text == context + answers[gold]


def test_two_contexts_share_their_continuation(tmp_path: Path) -> None:
    """Of Winogrande the rest of the sentence is scored after each name."""
    row = {"context_options": ["So Ann", "So Eve"], "continuation": "left.", "gold": 1}
    (found,) = examples(write(tmp_path / "one.jsonl", [row]))
    assert found.answers == (Answer("So Ann", " left.", 5), Answer("So Eve", " left.", 5))
    assert (found.kind, found.text) == ("choice", "So Eve left.")


def test_bytes_are_those_of_the_answer_alone(tmp_path: Path) -> None:
    """The space before an answer is no part of its length; other letters count in UTF-8."""
    row = {"context": "Pi", "choices": ["π", "three"], "gold": 0}
    (found,) = examples(write(tmp_path / "one.jsonl", [row]))
    assert [answer.n_bytes for answer in found.answers] == [2, 5]


def test_the_format_given_overrides_the_rows(tmp_path: Path) -> None:
    """A task of one's own can be asked as ARC is; too many aliases are cut."""
    path = write(tmp_path / "one.jsonl", [{"task": "mine", **CHOICES}])
    assert examples(path, format="arc")[0].answers[0].context == "Question: 2 + 2 is\nAnswer:"
    many = {"context": "Who?", "answer": "0", "aliases": [str(k) for k in range(50)]}
    assert len(examples(write(path, [many]))[0].answers) == MAX_ACCEPTED


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({**CHOICES, "gold": 2}, "'gold' is 2; it must be a position in 'choices', 0 to 1"),
        ({**CHOICES, "gold": True}, "'gold' is true; it must be a position in 'choices', 0 to 1"),
        ({**CHOICES, "choices": ["one"]}, "'choices' must be a list of at least 2 strings"),
        (
            {**CHOICES, "choices": ["one", 2]},
            "'choices[1]' is 2; it must be a string, not blank",
        ),
        ({"choices": ["a", "b"], "gold": 0}, "'context' is missing"),
        ({"context": " ", "answer": "x"}, "'context' is \" \"; it must be a string, not blank"),
        (
            {"context": "a\0", "answer": "x"},
            "'context' has a NUL or a lone surrogate; it must be sound Unicode",
        ),
        (
            {"text": "x"},
            "it has the keys text; allowed are context, choices, gold (several choices); "
            "context_options, continuation, gold (two contexts); context, answer (an answer); "
            "prompt, canonical_solution (code)",
        ),
        ([1], "it is not a JSON object"),
        ({**CHOICES, "id": "first"}, "its id 'first' stands in an earlier row too"),
        ({"context": "a", "answer": "x"}, "it is of kind short, earlier rows are choice"),
        ({**CHOICES, "id": 1.5}, "'id' is 1.5; it must be a string or a whole number"),
    ],
)
def test_a_malformed_row_is_named(row: object, fault: str, tmp_path: Path) -> None:
    """The message says which row of which file, what was found and what is allowed."""
    path = write(tmp_path / "bad.jsonl", [{**CHOICES, "id": "first"}, row])
    with pytest.raises(DataError) as caught:
        examples(path)
    assert str(caught.value) == (
        f"task 'sums': row 1 of {path}: {fault}. Repair the row, or leave it out."
    )


def test_a_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    """Broken JSON is met with its row, too."""
    path = tmp_path / "bad.jsonl"
    path.write_text("\n{broken\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"row 1 of .*: it is not JSON \(Expecting property name"):
        examples(path)


def test_right_answers_are_documents(tmp_path: Path) -> None:
    """A task is read like a pool: one document an example, with its id, or one made of it."""
    path = write(tmp_path / "sums.jsonl", [{**CHOICES, "id": 7}, {**CHOICES, "gold": 0}])
    config = TaskConfig(path=str(path)).as_pool()
    (shard,) = list_shards(config, domain="sums")
    (batch,) = read_batches(shard, config)
    assert batch.texts == ["2 + 2 is four", "2 + 2 is three"]
    assert batch.domains == ["sums", "sums"]
    assert batch.ids[0] == "7"
    assert len(batch.ids[1]) == 64
    assert batch.rejects == []


def test_a_question_asked_again_is_another_example(tmp_path: Path) -> None:
    """Where ids are made, equal rows get different ones."""
    ids = [one.id for one in examples(write(tmp_path / "sums.jsonl", [CHOICES] * 3))]
    assert [one.removeprefix(ids[0]) for one in ids] == ["", "#2", "#3"]


def test_a_pool_cannot_be_a_task(tmp_path: Path) -> None:
    """The format is no way to read a pool."""
    path = write(tmp_path / "sums.jsonl", [CHOICES])
    config = PoolConfig(shards=(str(path),), format="task")
    (shard,) = list_shards(config, domain="sums")
    with pytest.raises(DataError, match=r"task 'text', which is not known; allowed are auto, arc"):
        list(read_batches(shard, config))


def test_shared_task_files_are_read(shared: Path) -> None:
    """Every file of the shared folder is read whole, in the kind its format has."""
    kinds = {"gsm8k": "long", "human_eval": "long", "svamp": "short", "triviaqa": "short"}
    n_examples = {}
    for path in sorted((shared / "data" / "tasks").glob("*.jsonl")):
        found = examples(path)
        n_examples[path.stem] = len(found)
        assert {one.kind for one in found} == {kinds.get(path.stem, "choice")}
    assert n_examples["arc_easy"] == 600
    assert len(n_examples) == 11
