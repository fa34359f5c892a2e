"""What a proxy sees: every token once an epoch, exact shares, no leaks between documents."""

import numpy as np
import pytest

from cuvee.arrays import IntArray
from cuvee.corpus.store import TokenStore
from cuvee.policy.mixture import Mixture, Phase
from cuvee.proxy.batches import TrainingPlan, WindowStream, evaluation_set

CONTEXT = 32


def _documents(store: TokenStore, domain: str, side: int = 0) -> IntArray:
    return np.flatnonzero((store.domain == store.domains.index(domain)) & (store.side == side))


def _streams(store: TokenStore, seed: int = 1) -> list[WindowStream | None]:
    return [
        WindowStream(store, _documents(store, name), context=CONTEXT, seed=seed)
        for name in store.domains
    ]


def test_an_epoch_holds_every_token_once(store: TokenStore) -> None:
    documents = _documents(store, "code")
    stream = WindowStream(store, documents, context=CONTEXT, seed=1)
    rows = [stream.rows(number, 1)[1] for number in range(stream.n_tokens)]
    seen = np.sort(np.concatenate(rows))
    truth = [store.read(int(one), 0, int(store.n_tokens[one])) for one in documents]
    np.testing.assert_array_equal(seen, np.sort(np.concatenate(truth)))


def test_the_second_epoch_has_the_same_tokens_in_another_order(store: TokenStore) -> None:
    stream = WindowStream(store, _documents(store, "code"), context=CONTEXT, seed=1)
    n = stream.n_tokens
    first = np.concatenate([stream.rows(number, 1)[1] for number in range(n)])
    second = np.concatenate([stream.rows(number, 1)[1] for number in range(n, 2 * n)])
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(np.sort(first), np.sort(second))


def test_inputs_precede_targets_and_documents_begin_after_end_of_text(store: TokenStore) -> None:
    stream = WindowStream(store, _documents(store, "animals"), context=CONTEXT, seed=1)
    starts = {
        bytes(store.read(int(one), 0, min(4, int(store.n_tokens[one]))))
        for one in _documents(store, "animals")
    }
    n_starts = 0
    for number in range(stream.n_tokens // CONTEXT):
        tokens, targets, segments = stream.rows(number, CONTEXT)
        inside = segments[1:] == segments[:-1]
        np.testing.assert_array_equal(tokens[1:][inside], targets[:-1][inside])
        for place in np.flatnonzero(tokens[:-4] == store.end_of_text):
            if len(set(segments[place : place + 4])) == 1:
                begin = targets[place : place + 4].astype(store.read(0, 0, 1).dtype)
                assert begin.tobytes() in starts
                n_starts += 1
    assert n_starts > 10


def test_a_small_quota_of_long_documents_holds_many_documents(store: TokenStore) -> None:
    documents = _documents(store, "animals")
    stream = WindowStream(store, documents, context=CONTEXT, seed=1)
    quota = int(0.3 * stream.n_tokens) // CONTEXT
    n_windows = sum(int(stream.rows(number, CONTEXT)[2].max()) + 1 for number in range(quota))
    assert n_windows > 0.25 * sum(-(-store.n_tokens[documents] // CONTEXT))


def test_realised_weights_are_exact_to_one_sequence(store: TokenStore) -> None:
    mixture = Mixture.flat(store.domains, (0.5, 0.317, 0.183))
    plan = TrainingPlan(
        _streams(store), mixture, n_sequences=101, context=CONTEXT, rng=np.random.default_rng(1)
    )
    assert np.abs(plan.counts - 101 * mixture.overall).max() < 1
    assert plan.counts.sum() == 101
    batches = list(plan.batches(8))
    assert [len(batch.tokens) for batch in batches] == [8] * 12 + [5]


def test_domains_are_spread_over_the_run(store: TokenStore) -> None:
    mixture = Mixture.flat(store.domains, (0.6, 0.3, 0.1))
    plan = TrainingPlan(
        _streams(store), mixture, n_sequences=200, context=CONTEXT, rng=np.random.default_rng(1)
    )
    half = np.bincount(plan._domain[:100], minlength=3)
    np.testing.assert_allclose(half, [60, 30, 10], atol=1.5)


def test_phases_follow_each_other_and_do_not_repeat_sequences(store: TokenStore) -> None:
    mixture = Mixture(
        domains=store.domains,
        phases=(Phase(share=0.5, weights=(1.0, 0.0, 0.0)), Phase(share=0.5, weights=(0.5, 0, 0.5))),
    )
    plan = TrainingPlan(
        _streams(store), mixture, n_sequences=40, context=CONTEXT, rng=np.random.default_rng(1)
    )
    assert set(plan._domain[:20]) == {0}
    assert sorted(set(plan._domain[20:])) == [0, 2]
    np.testing.assert_array_equal(np.sort(plan._within[plan._domain == 0]), np.arange(30))
    np.testing.assert_allclose(plan.realised, [0.75, 0, 0.25])


def test_evaluation_set_does_not_count_end_of_text_or_padding(store: TokenStore) -> None:
    documents = _documents(store, "code", side=1)[:1]
    chosen = evaluation_set("one", store, documents, context=4096, n_tokens=10_000, seed=1)
    assert chosen.batch.tokens.shape == (1, 4096)
    assert chosen.counted.sum() == store.n_tokens[documents[0]] - 1
    whole = evaluation_set(
        "all", store, _documents(store, "code", 1), context=8, n_tokens=64, seed=1
    )
    assert whole.batch.tokens.shape == (8, 8)
    assert not (whole.counted & (whole.batch.targets == store.end_of_text)).any()
    n_bytes = store.n_bytes[documents].sum()
    assert chosen.tokens_per_byte == pytest.approx((store.n_tokens[documents[0]] - 1) / n_bytes)
