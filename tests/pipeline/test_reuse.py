"""A finished run used again: a domain added, one revised, one removed, and what is refused."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from cuvee.fit.predictor_files import load_predictor
from cuvee.tables.design import read_design
from cuvee.tables.runs import read_runs

pytestmark = pytest.mark.timeout(900)
SOUNDS = "do re mi fa so la ti crotchet quaver minim breve rest bar clef key note"


@pytest.fixture
def again(
    settings: dict[str, object],
    finished: Any,
    tmp_path: Path,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    cuvee: Callable[..., Any],
) -> Callable[..., Any]:
    """Give the function that runs verbs on changed settings that reuse the finished run."""
    settings["reuse"] = str(finished.out)
    settings["fit"] = {"n_folds": 2}
    cast(dict[str, object], settings["validate"])["n_seeds"] = 1

    def run(*verbs: str, **options: object) -> Any:
        config = write_config(tmp_path / "again.yaml", settings)
        for verb in verbs or ("run regmix",):
            ended = cuvee(*verb.split(), config, "--out", tmp_path / "out", "--workers", 0, "-q")
            if ended.status:
                break
        return ended

    return run


def _pool(settings: Mapping[str, object], source: Path, *names: str) -> list[str]:
    """Give the pool only some of the shards; return them."""
    shards = [str(source / "pool" / name) for name in names]
    cast(dict[str, object], settings["pool"])["shards"] = shards
    return shards


def _write_sounds(path: Path, domain: str, seed: int) -> str:
    """Write a shard of one domain in words that no other domain has."""
    rng, words = np.random.default_rng(seed), SOUNDS.split()
    lines = [
        {
            "id": f"{domain}-new-{number}",
            "text": " ".join(rng.choice(words, size=int(rng.integers(20, 120)))),
            "domain": domain,
        }
        for number in range(60)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


def test_added_domain_is_measured_beside_earlier_runs(
    settings: dict[str, object], source: Path, tmp_path: Path, finished: Any, again: Any
) -> None:
    """All earlier runs stay, four are trained, and the others keep the optimum's ratios."""
    shards = cast(dict[str, list[str]], settings["pool"])["shards"]
    shards.append(_write_sounds(tmp_path / "sounds.jsonl", "sounds", 7))
    ended = again()
    assert (ended.status, ended.stderr) == (0, "")
    assert (
        "8 of the earlier run's 8 runs were used again, and 4 were trained; added: sounds; the "
        "unchanged domains keep the ratios of the earlier optimum."
    ) in " ".join(ended.stdout.split())
    out = tmp_path / "out"
    assert len(list((out / "sweep").iterdir())) == 4
    old, new = (read_runs(one / "runs" / "runs.parquet") for one in (finished.out, out))
    assert new.run_ids[:8] == tuple(f"earlier-{name}" for name in old.run_ids)
    assert new.domains == ("animals", "code", "letters", "numbers", "sounds")
    np.testing.assert_array_equal(new.weights[:8, :4], old.weights)
    np.testing.assert_array_equal(new.weights[:8, 4], 0.0)
    for name in ("target/code", "domain/animals"):
        np.testing.assert_array_equal(new.column(name)[:8], old.column(name))
    assert np.isnan(new.column("domain/sounds")[:8]).all()
    assert np.isfinite(new.losses_bpb[8:]).all()
    first, second = (
        json.loads((one / "optimum" / "optimum.json").read_text(encoding="utf-8"))["weights"]
        for one in (finished.out, out)
    )
    np.testing.assert_allclose(np.array(second[:4]) / sum(second[:4]), first, atol=1e-9)
    assert "4 were trained" in (out / "report.html").read_text(encoding="utf-8")


def test_removed_domain_needs_no_run(
    settings: dict[str, object], source: Path, tmp_path: Path, finished: Any, again: Any
) -> None:
    """Every earlier run stays in the fit, and no proxy is trained."""
    _pool(settings, source, "animals.parquet", "code.jsonl", "letters.jsonl.gz")
    ended = again()
    assert (ended.status, ended.stderr) == (0, "")
    words = " ".join(ended.stdout.split())
    assert "8 of the earlier run's 8 runs were used again, and 0 were trained; removed:" in words
    out = tmp_path / "out"
    assert not (out / "sweep").exists()
    assert not (out / "calibration").exists()
    made = read_design(out / "design" / "design.parquet")
    assert made.domains == ("animals", "code", "letters", "numbers")
    assert set(made.kinds) == {"reused"}
    predictor = load_predictor(out / "predictor")
    assert (predictor.domains, predictor.gone) == (("animals", "code", "letters"), ("numbers",))
    found = json.loads((out / "optimum" / "optimum.json").read_text(encoding="utf-8"))
    assert found["domains"] == ["animals", "code", "letters"]
    assert sum(found["weights"]) == pytest.approx(1.0, abs=1e-9)


def test_revised_domain_and_a_run_that_was_itself_made_by_reuse(
    settings: dict[str, object], source: Path, tmp_path: Path, finished: Any, again: Any
) -> None:
    """The old text keeps a column of its own; the outcome can be used once more."""
    shards = _pool(settings, source, "animals.parquet", "code.jsonl", "numbers.parquet")
    shards.append(_write_sounds(tmp_path / "letters.jsonl", "letters", 8))
    ended = again("label", "design", "train", "fit", "search")
    assert (ended.status, ended.stderr) == (0, "")
    made = read_design(tmp_path / "out" / "design" / "design.parquet")
    assert made.domains == ("animals", "code", "letters", "numbers", "letters (before)")
    np.testing.assert_array_equal(made.weights[8:, 4], 0.0)
    np.testing.assert_array_equal(made.weights[:8, 2], 0.0)
    (tmp_path / "out").rename(tmp_path / "first")
    settings["reuse"] = str(tmp_path / "first")
    _pool(settings, source, "animals.parquet", "code.jsonl", "numbers.parquet")
    ended = again("label", "design", "train", "fit", "search")
    assert (ended.status, ended.stderr) == (0, "")
    about = json.loads((tmp_path / "out" / "design" / "reuse.json").read_text(encoding="utf-8"))
    assert about["changes"]["removed"] == ["letters"]
    assert about["refused"] == {}
    runs = read_runs(tmp_path / "out" / "runs" / "runs.parquet")
    assert runs.domains == ("animals", "code", "numbers", "letters", "letters (before)")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("reuse", "/nowhere", "/nowhere/corpus/index is missing or unfinished; run `cuvee run"),
        ("tokens", {"vocabulary_size": 301}, "Set tokens.vocabulary_size: 300, or leave reuse out"),
        ("target_tokens", 20_000, "tokens of domain 'animals', and would from"),
        ("target_tokens", None, "Set target_tokens: 16384 as there, or leave reuse out."),
        ("seed", 2, "evaluation_seed was 1, and is 2 here (8 runs)"),
        ("proxy.n_tokens", 4_096, "n_sequences was 256, and is 128 here (8 runs)"),
        ("targets", None, "measured on other text of domain/animals, which the objective holds"),
        ("phases", [0.5, 0.5], "reuse lays out its own runs, of one phase"),
        ("runs", "auto", "reuse lays out its own runs, of one phase"),
    ],
)
def test_what_cannot_be_used_again_is_refused(
    key: str, value: object, message: str, settings: dict[str, object], again: Any
) -> None:
    """One message says what is another, and nothing is trained."""
    *sections, last = key.split(".")
    section = settings
    for name in sections:
        section = cast(dict[str, object], section[name])
    if value is None:
        del section[last]
    elif isinstance(value, dict):
        cast(dict[str, object], section[last]).update(value)
    else:
        section[last] = value
    if key == "runs":
        settings["start_runs"] = 6
    ended = again("label", "design")
    assert ended.status == 1
    assert message in " ".join(ended.stderr.split())


def test_folder_of_another_method_is_refused(
    settings: dict[str, object], tmp_path: Path, finished: Any, again: Any
) -> None:
    """A run without its proxies' specs cannot be judged."""
    copy = tmp_path / "copy"
    shutil.copytree(finished.out, copy)
    shutil.rmtree(copy / "sweep")
    settings["reuse"] = str(copy)
    ended = again("label", "design")
    assert ended.status == 1
    assert "has no sweep/natural/spec.json; only a run of `cuvee run regmix`" in " ".join(
        ended.stderr.split()
    )
