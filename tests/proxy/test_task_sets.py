"""Tasks for proxies: answers scored by hand, contexts masked, halves apart, accuracy recorded."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cuvee import artifacts, config
from cuvee.arrays import BoolArray, FloatArray
from cuvee.corpus.requests import Requests, read_requests
from cuvee.corpus.scan import scan_targets
from cuvee.corpus.store import TokenStore
from cuvee.corpus.tasks import TaskConfig
from cuvee.corpus.tokens import tokenise_pool
from cuvee.policy.mixture import Mixture
from cuvee.proxy.accuracy import measure_accuracy, right_choices, right_words, score_answers
from cuvee.proxy.batches import EvaluationSet
from cuvee.proxy.documents import open_evaluation_sets
from cuvee.proxy.model import ProxyModel
from cuvee.proxy.sizes import model_size
from cuvee.proxy.spec import TrainingSpec
from cuvee.proxy.stacking import StackChoice, shape_of
from cuvee.proxy.sweep import ProxyConfig, SweepInputs, train_all, training_spec
from cuvee.proxy.task_sets import answer_set, task_set
from cuvee.proxy.train import train_proxy
from cuvee.tables.runs import read_trajectory

END, VOCABULARY = 0, 8
RTOL = 1e-5
"""float32 logits and a sum of a few losses."""


def make_requests(*examples: tuple[int, list[tuple[list[int], list[int], int]]]) -> Requests:
    """Make requests of (gold, [(context ids, answer ids, bytes)]); a space precedes answers."""
    flat = [
        (key, number, gold, *answer)
        for key, (gold, answers) in enumerate(examples)
        for number, answer in enumerate(answers)
    ]
    kind = "choice" if any(len(answers) > 1 for _, answers in examples) else "short"
    sizes = np.array([one[5] for one in flat], dtype=np.int64)
    return Requests(
        kind="choice" if kind == "choice" else "short",
        loss="answer",
        end_of_text=END,
        key=np.array([one[0] for one in flat], dtype=np.uint64),
        number=np.array([one[1] for one in flat], dtype=np.int64),
        gold=np.array([one[2] for one in flat], dtype=np.int64),
        n_context=np.array([len(one[3]) for one in flat], dtype=np.int64),
        n_scored_bytes=sizes + 1,
        n_bytes=sizes,
        tokens=tuple(np.array(one[3] + one[4], dtype=np.int64) for one in flat),
    )


CHOICES = make_requests(
    (0, [([5, 6], [1], 4), ([5, 6], [2, 2], 20)]),
    (1, [([7], [2], 3), ([7], [1, 1], 4), ([7], [3], 1)]),
)
"""Two questions with two and three choices."""
CHANCES = np.array([0.02, 0.5, 0.2, 0.1, 0.06, 0.05, 0.04, 0.03])


def unigram_model(chances: FloatArray, context: int = 8) -> ProxyModel:
    """Make a model that gives each token one probability, whatever went before.

    All embeddings are ones and fresh blocks add nothing, so that each hidden state is of ones.
    """
    generator = torch.Generator().manual_seed(0)
    size = model_size("0.03m")
    model = ProxyModel(size, vocabulary_size=len(chances), context=context, generator=generator)
    with torch.no_grad():
        model.embedding.fill_(1.0)
        logits = torch.tensor(np.log(chances), dtype=torch.float32)
        model.head.copy_((logits / size.width)[:, None].expand_as(model.head))
    return model


def random_model(vocabulary_size: int, context: int) -> ProxyModel:
    """Make a model whose every weight matters."""
    generator = torch.Generator().manual_seed(1)
    model = ProxyModel(
        model_size("0.03m"), vocabulary_size=vocabulary_size, context=context, generator=generator
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
    return model


def scored(model: ProxyModel, requests: Requests, context: int) -> tuple[FloatArray, BoolArray]:
    """Score all answers."""
    answers = answer_set(requests, context=context)
    assert answers is not None
    return score_answers(model, answers, precision="float32")


def test_log_likelihoods_and_accuracy_by_hand() -> None:
    """Of known probabilities: sums of logs, the most likely choice, and the most likely a byte."""
    found, greedy = scored(unigram_model(CHANCES), CHOICES, 8)
    p = CHANCES
    expected = np.log([p[1], p[2] ** 2, p[2], p[1] ** 2, p[3]])
    np.testing.assert_allclose(found, expected, rtol=RTOL)
    np.testing.assert_array_equal(greedy, [True, False, False, True, False])
    answers = answer_set(CHOICES, context=8)
    assert answers is not None
    # -0.69 against -3.22; -1.61, -1.39 and -2.30
    np.testing.assert_array_equal(right_choices(answers, found), [True, True])
    # a byte: -0.17 against -0.16; -0.54, -0.35 and -2.30
    np.testing.assert_array_equal(right_choices(answers, found, by_bytes=True), [False, True])
    np.testing.assert_array_equal(right_words(answers, greedy), [True, True])


def loss_bpb(model: ProxyModel, one: EvaluationSet) -> float:
    """Return a set's loss in bits per byte, as a trainer computes it."""
    with torch.no_grad():
        losses = model.token_losses(
            *(torch.from_numpy(part) for part in (one.batch.tokens, one.batch.segments)),
            torch.from_numpy(one.batch.targets),
        ).numpy()
    assert one.weights is not None
    mean = (losses * one.weights).sum() / one.total_weight
    return float(mean * one.tokens_per_byte / math.log(2.0))


def test_bits_per_byte_are_the_mean_over_right_answers() -> None:
    """Each answer's bits over its bytes, then the mean; contexts do not count."""
    one = task_set("target/one", CHOICES, context=8, n_tokens=100, seed=1)
    first = -math.log2(CHANCES[1]) / 5
    second = -2 * math.log2(CHANCES[1]) / 5
    assert loss_bpb(unigram_model(CHANCES), one) == pytest.approx((first + second) / 2, rel=RTOL)
    assert one.counted.sum() == 3
    assert set(one.batch.targets[one.counted].tolist()) == {1}


def test_packed_answers_are_scored_as_alone() -> None:
    """Neighbours in a sequence are not seen, and contexts are."""
    rng = np.random.default_rng(3)
    examples = [
        (0, [(rng.integers(1, VOCABULARY, n).tolist(), rng.integers(1, 8, m).tolist(), 3)])
        for n, m in zip(
            rng.integers(0, 6, 12).tolist(), rng.integers(1, 4, 12).tolist(), strict=True
        )
    ]
    requests = make_requests(*examples)
    model = random_model(VOCABULARY, 16)
    packed, _ = scored(model, requests, 16)
    batch = answer_set(requests, context=16)
    assert batch is not None
    assert len(batch.batch.tokens) < len(examples)
    alone = [scored(model, requests.take(np.array([k])), 16)[0][0] for k in range(len(examples))]
    np.testing.assert_allclose(packed, alone, rtol=1e-4)
    blind = replace(
        requests,
        tokens=tuple(
            np.where(np.arange(len(t)) < n, 1, t)
            for t, n in zip(requests.tokens, requests.n_context.tolist(), strict=True)
        ),
    )
    assert not np.allclose(scored(model, blind, 16)[0], packed, rtol=1e-2)


def test_long_contexts_are_cut_from_the_left() -> None:
    """What stands nearest to the answer is kept; of a too long answer the last tokens count."""
    long = make_requests((0, [(list(range(1, 8)) * 3, [1, 2], 2)]))
    short = make_requests((0, [([6, 7], [1, 2], 2)]))
    cut = answer_set(long, context=4)
    assert cut is not None
    np.testing.assert_array_equal(cut.batch.targets, [[6, 7, 1, 2]])
    np.testing.assert_array_equal(cut.batch.tokens, [[5, 6, 7, 1]])
    np.testing.assert_array_equal(cut.answer, [[-1, -1, 0, 0]])
    whole = answer_set(short, context=4)
    assert whole is not None
    np.testing.assert_array_equal(whole.batch.tokens, [[END, 6, 7, 1]])
    endless = make_requests((0, [([3], [1] * 9, 9)]))
    one = task_set("target/one", endless, context=4, n_tokens=4, seed=1)
    assert one.counted.sum() == 4
    expected = -9 * math.log2(CHANCES[1]) / 10
    assert loss_bpb(unigram_model(CHANCES, 4), one) == pytest.approx(expected, rel=RTOL)


@pytest.fixture(scope="module")
def tasks(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of target tokens: a task of choices, the same with full loss, one of short answers."""
    root = tmp_path_factory.mktemp("tasks")
    rng = np.random.default_rng(5)
    words = ["the", "cat", "saw", "a", "dog", "and", "bird", "that", "sang", "one", "two"]
    choices, short = [], []
    for number in range(60):
        question = " ".join(rng.choice(words, 6))
        answers = [" ".join(rng.choice(words, 3)) for _ in range(4)]
        choices.append({"id": number, "context": question, "choices": answers, "gold": number % 4})
        short.append({"id": number, "context": question, "answer": "cat", "aliases": ["the dog"]})
    for name, rows in (("choices", choices), ("short", short)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (root / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    given = {
        "choices": TaskConfig(path=str(root / "choices.jsonl")),
        "full": TaskConfig(path=str(root / "choices.jsonl"), loss="full"),
        "short": TaskConfig(path=str(root / "short.jsonl")),
    }
    pools = {name: task.as_pool() for name, task in given.items()}
    index = scan_targets(pools, root, seed=1, workers=0)
    tokenise_pool(index, root / "targets", tokenizer=stores / "tokenizer", workers=0)
    return root / "targets" / "tokens"


@pytest.fixture
def spec(stores: Path, store: TokenStore, tasks: Path) -> TrainingSpec:
    """A short run measured on the tasks."""
    proxy = ProxyConfig(
        size="0.03m",
        n_tokens=2048,
        context=32,
        batch_tokens=512,
        points=(0.5, 1.0),
        evaluation_tokens=256,
        domain_evaluation_tokens=128,
        repetition_matched=False,
    )
    inputs = SweepInputs(
        pool=stores / "tokens",
        targets=tasks,
        statistics=store.statistics(),
        target_tokens=100_000,
        precision="float32",
        device="cpu",
    )
    mixture = Mixture.flat(store.domains, (0.4, 0.3, 0.3))
    return training_spec(
        proxy, inputs, mixture, seed=1, run_seed=7, learning_rate=4e-3, half="verdict"
    )


def test_halves_share_no_question(tasks: Path) -> None:
    """Search and verdict see different questions, each with all its choices."""
    store = TokenStore.open(tasks)
    place = store.domains.index("choices")
    keys = []
    for side in (0, 1):
        documents = np.flatnonzero((store.domain == place) & (store.side == side))
        found = read_requests(store, documents)
        assert found is not None
        assert len(found.key) == 4 * len(documents)
        np.testing.assert_array_equal(found.key[::4], store.keys[documents])
        np.testing.assert_array_equal(found.number, np.tile(np.arange(4), len(documents)))
        keys.append(set(found.key.tolist()))
    assert keys[0].isdisjoint(keys[1])
    assert len(keys[0] | keys[1]) == 60


def test_sets_of_text_have_no_answers(stores: Path, spec: TrainingSpec) -> None:
    """Ordinary targets stay what they were; a task with full loss is a text with answers beside."""
    pool = TokenStore.open(stores / "tokens")
    plain = open_evaluation_sets(replace(spec, targets=str(stores / "targets" / "tokens")), pool)
    assert all(one.weights is None and one.answers is None for one in plain)
    sets = {one.name: one for one in open_evaluation_sets(spec, pool)}
    full, choices = sets["target/full"], sets["target/choices"]
    assert full.weights is None
    assert full.answers is not None
    assert choices.answers is not None
    np.testing.assert_array_equal(full.answers.batch.targets, choices.answers.batch.targets)
    assert full.counted.sum() > choices.counted.sum()


def test_searches_measure_no_accuracy(spec: TrainingSpec) -> None:
    """On the search half there is the loss alone."""
    sets = open_evaluation_sets(replace(spec, half="search"), TokenStore.open(Path(spec.pool)))
    assert all(one.answers is None for one in sets)
    assert sets[0].weights is not None


def test_a_run_records_its_accuracy(spec: TrainingSpec, tmp_path: Path) -> None:
    """The losses stand in the trajectory, accuracy in the result; they are those of the model."""
    spec = replace(spec, checkpoints="final")
    train_proxy(config.dump(spec), tmp_path / "run")
    result = cast(dict[str, Any], artifacts.read_json(tmp_path / "run" / "result.json"))
    found = result["accuracy"]
    assert set(found) == {"target/choices", "target/full", "target/short"}
    one = found["target/choices"]
    assert one["accuracy"] == one["correct"].count("1") / one["n_examples"]
    assert one["chance"] == 0.25
    assert len(one["correct_norm"]) == one["n_examples"]
    assert "accuracy_norm" not in found["target/short"]
    trajectory = read_trajectory(tmp_path / "run" / "trajectory.parquet")
    assert trajectory.targets[:3] == tuple(sorted(found))
    sets = open_evaluation_sets(spec, TokenStore.open(Path(spec.pool)))
    model = random_model(TokenStore.open(Path(spec.pool)).vocabulary_size, spec.context)
    model.load_state_dict(load_file(tmp_path / "run" / "model.safetensors"))
    assert measure_accuracy(model, sets, precision="float32") == found
    assert trajectory.losses_bpb[-1, 0] == pytest.approx(loss_bpb(model, sets[0]), rel=1e-5)


def test_a_run_without_tasks_records_none(spec: TrainingSpec, stores: Path, tmp_path: Path) -> None:
    """Results of ordinary targets hold nothing new."""
    plain = replace(spec, targets=str(stores / "targets" / "tokens"))
    train_proxy(config.dump(plain), tmp_path / "run")
    result = artifacts.read_json(tmp_path / "run" / "result.json")
    assert isinstance(result, dict)
    assert "accuracy" not in result


def test_a_stack_measures_as_runs_alone(spec: TrainingSpec, tmp_path: Path) -> None:
    """Stacked runs leave the losses and the accuracy they leave alone."""
    specs = {"one": spec, "two": replace(spec, seed=8)}
    train_all(specs, tmp_path / "alone", workers=0)
    choice = StackChoice(members=2, compiled=False)
    train_all(specs, tmp_path / "stack", workers=0, stacks={shape_of(spec): choice})
    for name in specs:
        results = [
            cast(dict[str, Any], artifacts.read_json(tmp_path / way / name / "result.json"))
            for way in ("alone", "stack")
        ]
        alone, stacked = (one["accuracy"] for one in results)
        assert alone.keys() == stacked.keys()
        for target, figures in alone.items():
            n = figures["n_examples"]
            assert stacked[target]["n_examples"] == n
            # a choice between near equals may fall the other way
            assert stacked[target]["accuracy"] == pytest.approx(figures["accuracy"], abs=1.5 / n)
        losses = [
            read_trajectory(tmp_path / way / name / "trajectory.parquet").losses
            for way in ("alone", "stack")
        ]
        np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
