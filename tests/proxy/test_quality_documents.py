"""Proxies on documents sampled by a quality curve, or named one by one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cuvee.corpus.store import TokenStore
from cuvee.errors import ConfigError, DataError
from cuvee.policy.mixture import Mixture
from cuvee.policy.quality_curve import QualityCurve
from cuvee.proxy.batches import WindowStream
from cuvee.proxy.documents import (
    copied_documents,
    sample_documents,
    training_documents,
    training_plan,
)
from cuvee.proxy.spec import TrainingSpec
from cuvee.proxy.sweep import ProxyConfig, SweepInputs, collect, train_all, training_spec
from cuvee.proxy.untrainable import record_untrainable
from cuvee.tables.runs import read_runs, write_runs

SMALL = ProxyConfig(
    size="0.03m",
    n_tokens=4096,
    context=32,
    batch_tokens=512,
    points=(1.0,),
    evaluation_tokens=256,
    domain_evaluation_tokens=128,
    repetition_matched=False,
    learning_rate=4e-3,
)


def _curve(store: TokenStore, threshold: float, base: float = 0.0) -> QualityCurve:
    n_domains = len(store.domains)
    return QualityCurve(
        domains=store.domains,
        criteria=("one", "two"),
        merge=np.tile([1.0, 0.0], (n_domains, 1)),
        steepness=np.full(n_domains, 1000.0),
        threshold=np.full(n_domains, threshold),
        exponent=np.ones(n_domains),
        base=np.full(n_domains, base),
    )


@pytest.fixture
def spec(stores: Path, store: TokenStore, tmp_path: Path) -> TrainingSpec:
    """A run on the better half of each domain, two copies of each document."""
    inputs = SweepInputs(
        pool=stores / "tokens",
        targets=stores / "targets" / "tokens",
        statistics=store.statistics(),
        target_tokens=100_000,
        precision="float32",
        device="cpu",
    )
    scores = np.random.default_rng(0).uniform(size=(len(store.keys), 2)).astype(np.float32)
    np.save(tmp_path / "normalised.npy", scores)
    mixture = Mixture.flat(store.domains, [1.0, 0.0, 0.0])
    run = training_spec(SMALL, inputs, mixture, seed=1, run_seed=7, learning_rate=4e-3)
    return replace(
        run, curve=_curve(store, 0.5).to_json(), quality=str(tmp_path / "normalised.npy")
    )


def test_the_better_half_is_taken_twice(spec: TrainingSpec, store: TokenStore) -> None:
    """Every document up to the threshold, two copies of all but the last; none beyond."""
    documents = training_documents(spec, store)
    taken, copies, mixture = sample_documents(spec, store, documents)
    scores = np.load(spec.quality or "")[:, 0]
    for name in store.domains:
        assert scores[taken[name]].max() < scores[np.setdiff1d(documents[name], taken[name])].min()
        share = store.n_tokens[taken[name]].sum() / store.n_tokens[documents[name]].sum()
        assert 0.2 < share <= 0.5
        assert set(copies[name].tolist()) <= {1, 2}
        assert copies[name].mean() > 1.7
    tokens = [(copies[name] * store.n_tokens[taken[name]]).sum() for name in store.domains]
    np.testing.assert_allclose(mixture.overall, np.array(tokens) / sum(tokens))


def test_copies_stand_apart_and_all_are_seen(spec: TrainingSpec, store: TokenStore) -> None:
    """An epoch holds each token as often as its document has copies, not side by side."""
    taken, copies, _ = sample_documents(spec, store, training_documents(spec, store))
    own, times = taken["code"], copies["code"]
    stream = WindowStream(store, own, context=32, seed=1, copies=times)
    assert stream.n_tokens == (times * store.n_tokens[own]).sum()
    seen = np.concatenate([stream.rows(place, 1)[1] for place in range(stream.n_tokens)])
    truth = [store.read(int(one), 0, int(store.n_tokens[one])) for one in np.repeat(own, times)]
    np.testing.assert_array_equal(np.sort(seen), np.sort(np.concatenate(truth)))
    pieces = [document for document, _, _ in stream._pieces(0, stream.n_tokens)]
    beside = np.mean(np.diff(pieces) == 0)
    assert beside < 0.3


def test_a_run_has_the_samples_shares_and_learns(
    spec: TrainingSpec, store: TokenStore, tmp_path: Path
) -> None:
    """Sequences are apportioned by the sample's tokens; the same spec gives the same result."""
    plan = training_plan(spec, store)
    _, _, mixture = sample_documents(spec, store, training_documents(spec, store))
    np.testing.assert_allclose(plan.realised, mixture.overall, atol=1.0 / spec.n_sequences)
    train_all({"a": spec, "b": spec}, tmp_path / "sweep", workers=0)
    runs = collect(("a", "b"), tmp_path / "sweep")
    np.testing.assert_array_equal(runs.losses[0], runs.losses[1])
    np.testing.assert_allclose(runs.weights[0], plan.realised)


def test_a_run_that_takes_too_little_is_kept_with_its_reason(
    spec: TrainingSpec, store: TokenStore, tmp_path: Path
) -> None:
    """Recorded once, marked, without losses; the others of the sweep are trained all the same."""
    nothing = replace(spec, curve=_curve(store, 0.0).to_json(), checkpoints="final")
    few = replace(spec, curve=_curve(store, 0.5).to_json(), context=10**6)
    specs, sweep = {"nothing": nothing, "some": spec, "few": few}, tmp_path / "sweep"
    found = record_untrainable(specs, sweep)
    assert set(found) == {"nothing", "few"}
    assert "takes 0 tokens" in found["nothing"]
    assert record_untrainable(specs, sweep) == {}
    train_all(specs, sweep, workers=0)
    runs = collect(tuple(specs), sweep)
    assert runs.diverged.tolist() == [True, False, True]
    assert runs.untrained == found
    assert np.isnan(runs.losses[0]).all()
    assert np.isfinite(runs.losses[1]).all()
    np.testing.assert_array_equal(runs.weights[0], nothing.mixture.overall)
    write_runs(tmp_path / "runs.parquet", runs)
    assert read_runs(tmp_path / "runs.parquet").untrained == found


def test_a_curve_of_another_pool_or_of_nothing_is_refused(
    spec: TrainingSpec, store: TokenStore
) -> None:
    """One clear message."""
    other = replace(_curve(store, 0.5), domains=("x", "y", "z")).to_json()
    with pytest.raises(ConfigError, match="are not the pool's"):
        training_plan(replace(spec, curve=other), store)
    with pytest.raises(DataError, match="takes no document"):
        training_plan(replace(spec, curve=_curve(store, 0.0).to_json()), store)


def test_a_file_of_copies_is_what_is_seen(
    spec: TrainingSpec, store: TokenStore, tmp_path: Path
) -> None:
    """Documents of the training side, as often as it says; the mixture is that of their tokens."""
    copies = np.random.default_rng(1).integers(3, size=len(store.keys)).astype(np.uint8)
    np.save(tmp_path / "copies.npy", copies)
    run = replace(spec, curve=None, quality=None, copies=str(tmp_path / "copies.npy"))
    documents = training_documents(run, store)
    taken, drawn, mixture = copied_documents(run, store, documents)
    tokens = []
    for name in store.domains:
        assert set(taken[name].tolist()) == set(documents[name][copies[documents[name]] > 0])
        np.testing.assert_array_equal(drawn[name], copies[taken[name]])
        tokens.append((drawn[name] * store.n_tokens[taken[name]]).sum())
    np.testing.assert_allclose(mixture.overall, np.array(tokens) / sum(tokens))
    plan = training_plan(run, store)
    np.testing.assert_allclose(plan.realised, mixture.overall, atol=1.0 / run.n_sequences)
    train_all({"a": run}, tmp_path / "sweep", workers=0)
    assert not collect(("a",), tmp_path / "sweep").diverged.any()
    np.save(tmp_path / "copies.npy", copies[1:])
    with pytest.raises(DataError, match="made of another pool"):
        copied_documents(run, store, documents)
    np.save(tmp_path / "copies.npy", np.zeros_like(copies))
    with pytest.raises(DataError, match="takes no document"):
        copied_documents(run, store, documents)
