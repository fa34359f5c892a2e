"""Runs and sweeps: measured, repeatable, resumable, marked when they diverge."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cuvee import artifacts, config
from cuvee.corpus.store import TokenStore
from cuvee.errors import ConfigError, DataError
from cuvee.executors import worker_pool
from cuvee.policy.mixture import Mixture
from cuvee.proxy.documents import training_documents
from cuvee.proxy.record import relapsed
from cuvee.proxy.spec import TrainingSpec
from cuvee.proxy.sweep import (
    ProxyConfig,
    SweepInputs,
    calibration_specs,
    choose_rate,
    collect,
    subset_tokens,
    train_all,
    training_spec,
)
from cuvee.proxy.train import learning_rate_at, train_proxy
from cuvee.tables.runs import read_runs, read_trajectory, write_runs

SMALL = ProxyConfig(
    size="0.1m",
    n_tokens=8192,
    context=32,
    batch_tokens=512,
    points=(0.5, 1.0),
    evaluation_tokens=512,
    domain_evaluation_tokens=256,
    repetition_matched=False,
    learning_rate=4e-3,
)


@pytest.fixture
def inputs(stores: Path, store: TokenStore) -> SweepInputs:
    """What the runs of the tests share."""
    return SweepInputs(
        pool=stores / "tokens",
        targets=stores / "targets" / "tokens",
        statistics=store.statistics(),
        target_tokens=100_000,
        precision="float32",
        device="cpu",
        step="explicit",
    )


def _spec(
    inputs: SweepInputs, weights: tuple[float, ...], proxy: ProxyConfig = SMALL
) -> TrainingSpec:
    assert inputs.statistics is not None
    mixture = Mixture.flat(inputs.statistics.domains, weights)
    return training_spec(proxy, inputs, mixture, seed=1, run_seed=7, learning_rate=4e-3)


def test_a_proxy_learns_what_it_is_fed(inputs: SweepInputs, tmp_path: Path) -> None:
    specs = {
        "animals": _spec(inputs, (1.0, 0.0, 0.0)),
        "code": _spec(inputs, (0.0, 1.0, 0.0)),
    }
    train_all(specs, tmp_path, workers=0)
    runs = collect(("animals", "code"), tmp_path)
    assert runs.targets[:2] == ("target/animals", "target/code")
    assert set(runs.targets[2:]) == {"domain/animals", "domain/code", "domain/numbers"}
    for name in ("animals", "code"):
        own = runs.run_ids.index(name)
        assert runs.column(f"target/{name}")[own] < 0.8 * runs.column(f"target/{name}")[1 - own]
        assert runs.column(f"domain/{name}")[own] < 0.8 * runs.column(f"domain/{name}")[1 - own]
    trajectory = read_trajectory(tmp_path / "code" / "trajectory.parquet")
    np.testing.assert_array_equal(trajectory.n_tokens, [4096, 8192])
    code = trajectory.targets.index("target/code")
    assert trajectory.losses[1, code] < trajectory.losses[0, code]


def test_a_run_is_the_same_whoever_makes_it(inputs: SweepInputs, tmp_path: Path) -> None:
    spec = _spec(inputs, (0.5, 0.25, 0.25))
    train_all({"one": spec, "two": spec}, tmp_path / "pool", workers=2)
    train_all({"one": spec}, tmp_path / "here", workers=0)
    digests = {
        artifacts.digest_of(tmp_path / "pool" / "one"),
        artifacts.digest_of(tmp_path / "pool" / "two"),
    }
    assert len(digests) == 1
    # This process may run several threads; its sums may differ in the last bits.
    ours, theirs = collect(("one",), tmp_path / "here"), collect(("one",), tmp_path / "pool")
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-3)
    np.testing.assert_array_equal(ours.weights, theirs.weights)


def test_a_used_worker_makes_the_same_run(
    inputs: SweepInputs, stores: Path, tmp_path: Path
) -> None:
    """What a worker did before, other models and numbers included, leaves no trace in the bytes."""
    spec = _spec(inputs, (0.5, 0.25, 0.25))
    before = [
        _spec(replace(inputs, precision="bfloat16", step="autograd"), (0.0, 0.0, 1.0)),
        _spec(inputs, (1.0, 0.0, 0.0), replace(SMALL, size="0.2m", context=64, n_tokens=4096)),
    ]
    train_all({"one": spec}, tmp_path / "fresh", workers=1)
    with worker_pool(1):
        for number, other in enumerate(before):
            train_all({"other": other}, tmp_path / str(number), workers=1)
        train_all({"one": spec}, tmp_path / "used", workers=1)
    fresh, used = (
        {
            path.name: path.read_bytes()
            for path in (tmp_path / name / "one").iterdir()
            if path.name != artifacts.TIMING
        }
        for name in ("fresh", "used")
    )
    assert artifacts.DONE in fresh
    assert used == fresh


def test_finished_runs_are_not_made_again(inputs: SweepInputs, tmp_path: Path) -> None:
    specs = {"one": _spec(inputs, (1.0, 0.0, 0.0)), "two": _spec(inputs, (0.0, 1.0, 0.0))}
    train_all(specs, tmp_path, workers=0)
    before = (tmp_path / "one" / artifacts.DONE).stat().st_mtime_ns
    digest = artifacts.digest_of(tmp_path / "two")
    shutil.rmtree(tmp_path / "two")
    done: list[str] = []
    train_all(specs, tmp_path, workers=0, on_done=done.append)
    assert sorted(done) == ["one", "two"]
    assert (tmp_path / "one" / artifacts.DONE).stat().st_mtime_ns == before
    assert artifacts.digest_of(tmp_path / "two") == digest


def test_a_diverged_run_is_kept_and_marked(inputs: SweepInputs, tmp_path: Path) -> None:
    wild = replace(_spec(inputs, (1.0, 0.0, 0.0)), learning_rate=1e6, clip=1e9)
    specs = {"good": _spec(inputs, (1.0, 0.0, 0.0)), "wild": wild}
    train_all(specs, tmp_path, workers=0)
    runs = collect(("good", "wild"), tmp_path)
    np.testing.assert_array_equal(runs.diverged, [False, True])
    assert np.isnan(runs.losses[1]).all()
    assert np.isfinite(runs.losses[0]).all()
    write_runs(tmp_path / "runs.parquet", runs)
    again = read_runs(tmp_path / "runs.parquet")
    np.testing.assert_array_equal(again.diverged, runs.diverged)
    np.testing.assert_array_equal(again.losses_bpb, runs.losses_bpb)


def test_a_spike_that_stays_is_divergence() -> None:
    falling = list(np.linspace(7.0, 3.0, 100))
    assert not relapsed(falling)
    assert not relapsed([*falling, *[8.0] * 5, *[3.1] * 40])
    assert relapsed([*falling, *[4.6] * 40])
    assert not relapsed([3.0, 9.0])


def test_calibration_takes_the_best_rate_and_passes_over_diverged_ones(
    inputs: SweepInputs, tmp_path: Path
) -> None:
    proxy = replace(SMALL, calibration_rates=(1e-5, 2e-3, 1e5), calibration_share=0.5, clip=1e9)
    specs = calibration_specs(_spec(inputs, (0.4, 0.3, 0.3), proxy), proxy)
    assert [spec.learning_rate for spec in specs.values()] == [2e-5, 4e-3, 2e5]
    assert {spec.n_sequences for spec in specs.values()} == {128}
    train_all(specs, tmp_path, workers=0)
    rate, runs = choose_rate(specs, tmp_path)
    assert rate == 4e-3
    assert runs.losses_bpb[1].mean() < runs.losses_bpb[0].mean()


def test_bits_per_byte_are_nats_by_the_sets_ratio(inputs: SweepInputs, tmp_path: Path) -> None:
    train_proxy(config.dump(_spec(inputs, (0.4, 0.3, 0.3))), tmp_path / "run")
    result = artifacts.read_json(tmp_path / "run" / "result.json")
    assert isinstance(result, dict)
    runs = collect(("run",), tmp_path)
    for place, name in enumerate(runs.targets):
        ratio = result["tokens_per_byte"][name]
        assert runs.losses_bpb[0, place] == pytest.approx(
            runs.losses[0, place] * ratio / np.log(2), rel=1e-12
        )


def test_checkpoints_are_kept_on_demand(inputs: SweepInputs, tmp_path: Path) -> None:
    for kept, names in (("none", 0), ("final", 1), ("every", 2)):
        spec = _spec(inputs, (1.0, 0.0, 0.0), replace(SMALL, checkpoints=kept))
        train_proxy(config.dump(spec), tmp_path / kept)
        assert len(list((tmp_path / kept).glob("*.safetensors"))) == names


def test_repetition_is_matched_by_drawing_from_a_part(
    inputs: SweepInputs, store: TokenStore
) -> None:
    proxy = replace(SMALL, repetition_matched=True, min_subset_tokens=100)
    statistics = store.statistics()
    parts = subset_tokens(proxy, statistics, 32_768)
    assert parts is not None
    np.testing.assert_array_equal(list(parts.values()), statistics.n_tokens // 4)
    spec = _spec(replace(inputs, target_tokens=32_768), (0.4, 0.3, 0.3), proxy)
    documents = training_documents(spec, store)
    for name, chosen in documents.items():
        n_tokens = store.n_tokens[chosen].sum()
        assert parts[name] <= n_tokens < parts[name] + store.n_tokens.max()
        assert set(store.side[chosen]) == {0}
    assert subset_tokens(proxy, statistics, 8192) is None
    assert subset_tokens(replace(proxy, repetition_matched=False), statistics, 32_768) is None


def test_a_part_too_small_is_refused_with_the_remedy(store: TokenStore) -> None:
    proxy = replace(SMALL, repetition_matched=True)
    with pytest.raises(DataError, match=r"repetition matching leaves domain 'animals' \d+ tokens"):
        subset_tokens(proxy, store.statistics(), 100_000_000)
    declared = store.statistics({"code": 10**9})
    with pytest.raises(DataError, match=r"needs \d+ tokens of domain 'code', but the given sample"):
        subset_tokens(replace(proxy, min_subset_tokens=1), declared, 16_384)


def test_learning_rate_rises_then_stays_or_falls(inputs: SweepInputs) -> None:
    spec = replace(_spec(inputs, (1.0, 0.0, 0.0)), learning_rate=1.0, warmup_steps=4)
    rates = [learning_rate_at(step, 20, spec) for step in range(1, 21)]
    np.testing.assert_allclose(rates[:4], [0.25, 0.5, 0.75, 1.0])
    assert set(rates[4:]) == {1.0}
    cosine = replace(spec, schedule="cosine")
    rates = [learning_rate_at(step, 20, cosine) for step in range(1, 21)]
    assert rates[-1] == pytest.approx(0.1)
    assert all(np.diff(rates[4:]) < 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_tokens": 100}, "n_tokens 100 is below one batch of 512 tokens"),
        ({"context": 4}, "batch_tokens 512 and context 4: a batch holds at least one sequence"),
        ({"points": (0.5, 0.4, 1.0)}, r"points \(0.5, 0.4, 1.0\) must rise within"),
        ({"points": (0.5,)}, r"points \(0.5,\) must rise within"),
        ({"size": "2t"}, "model size '2t' is unknown"),
        ({"learning_rate": None, "calibration_rates": ()}, "learning_rate is None and calibration"),
    ],
)
def test_bad_proxy_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.parse(ProxyConfig, {**config.dump(SMALL), **changes})


def test_a_mixture_of_other_domains_is_refused(inputs: SweepInputs, tmp_path: Path) -> None:
    spec = replace(_spec(inputs, (1.0, 0.0, 0.0)), mixture=Mixture.flat(("x",), (1.0,)))
    with pytest.raises(
        ConfigError, match="the mixture's domains x are not the pool's animals, code"
    ):
        train_proxy(config.dump(spec), tmp_path / "run")
    assert not artifacts.is_done(tmp_path / "run")


def test_a_run_continues_from_a_checkpoint(inputs: SweepInputs, tmp_path: Path) -> None:
    """Before its first step it is the base model, measured where that ended."""
    base = _spec(inputs, (1.0, 0.0, 0.0), replace(SMALL, checkpoints="final"))
    train_all({"base": base}, tmp_path, workers=0)
    more = replace(
        _spec(inputs, (0.0, 1.0, 0.0)),
        base=str(tmp_path / "base" / "model.safetensors"),
        points=(0.0, 0.5, 1.0),
    )
    train_all({"more": more}, tmp_path, workers=0)
    before = read_trajectory(tmp_path / "base" / "trajectory.parquet")
    after = read_trajectory(tmp_path / "more" / "trajectory.parquet")
    np.testing.assert_array_equal(after.n_tokens, [0, 4096, 8192])
    np.testing.assert_allclose(after.losses[0], before.losses[-1], rtol=1e-6)
    code = after.targets.index("domain/code")
    assert after.losses[-1, code] < after.losses[0, code]
    manifest = artifacts.read_json(tmp_path / "more" / artifacts.MANIFEST)
    assert isinstance(manifest, dict)
    assert isinstance(manifest["inputs"], dict)
    assert manifest["inputs"]["base"] == artifacts.digest_file(Path(str(more.base)))


def test_a_checkpoint_of_another_size_is_refused(inputs: SweepInputs, tmp_path: Path) -> None:
    """The message names a tensor and both shapes."""
    base = _spec(inputs, (1.0, 0.0, 0.0), replace(SMALL, checkpoints="final"))
    train_all({"base": base}, tmp_path, workers=0)
    path = str(tmp_path / "base" / "model.safetensors")
    wide = replace(_spec(inputs, (1.0, 0.0, 0.0)), size="0.05m", base=path)
    with pytest.raises(DataError, match=r"is of another model: tensor .* has shape"):
        train_all({"wide": wide}, tmp_path, workers=0)
    assert not (tmp_path / "wide").exists()


def test_phases_are_trained_in_order(inputs: SweepInputs, tmp_path: Path) -> None:
    """Half-way only the first phase has been seen; the shares are stored by phase."""
    assert inputs.statistics is not None
    domains = inputs.statistics.domains
    first, last = np.eye(3)[0], np.eye(3)[1]
    rows = {"animals-last": (last, first), "code-last": (first, last)}
    specs = {
        name: replace(
            _spec(inputs, (1.0, 0.0, 0.0)),
            mixture=Mixture.of_columns(
                domains, np.concatenate([0.5 * one, 0.5 * two]), shares=(0.5, 0.5)
            ),
        )
        for name, (one, two) in rows.items()
    }
    train_all(specs, tmp_path, workers=0)
    runs = collect(tuple(specs), tmp_path)
    assert runs.domains == tuple(f"{name}@{phase}" for phase in (1, 2) for name in domains)
    np.testing.assert_allclose(runs.weights[1], [0.5, 0, 0, 0, 0.5, 0], atol=1e-12)
    half = {
        name: read_trajectory(tmp_path / name / "trajectory.parquet").losses[0] for name in specs
    }
    animals, code = (runs.targets.index(f"domain/{name}") for name in ("animals", "code"))
    assert half["code-last"][animals] < half["animals-last"][animals]
    assert half["animals-last"][code] < half["code-last"][code]
