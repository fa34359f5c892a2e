"""A comparison's settings: what methods share, what they own, what is linked, what it cost."""

from pathlib import Path

import numpy as np
import pytest

from cuvee import artifacts
from cuvee.methods.compare_study import load_study, search_steps, share_preparation
from cuvee.methods.job import Job
from cuvee.methods.mixing_laws import MixingLawsConfig
from cuvee.methods.quad_study import QuadConfig
from cuvee.methods.quadmix import QuaDMixConfig
from cuvee.methods.regmix import RegMixConfig
from cuvee.methods.search_cost import SearchCost, training_cost
from cuvee.proxy.sizes import model_size

EXAMPLE = Path(__file__).parents[2] / "examples" / "compare.yaml"


def test_the_example_resolves_every_method() -> None:
    """Shared keys reach all methods, own keys stand above them, presets below."""
    study = load_study(EXAMPLE)
    found = {one.name: one.settings for one in study.entrants}
    regmix, laws, quadmix, quad = (
        found[name] for name in ("regmix", "mixing-laws", "quadmix", "quad")
    )
    assert isinstance(regmix, RegMixConfig)
    assert isinstance(laws, MixingLawsConfig)
    assert isinstance(quadmix, QuaDMixConfig)
    assert isinstance(quad, QuadConfig)
    for one in found.values():
        assert one.pool == study.settings.pool
        assert one.targets == study.settings.targets
        assert (one.target_tokens, one.seed) == (6_000_000, 1)
        assert (one.proxy.n_tokens, one.tokens.vocabulary_size) == (300_000, 2048)
        assert one.validate.n_tokens == study.settings.validate.n_tokens
    assert (regmix.design.n_runs, regmix.proxy.points) == (32, (1.0,))
    assert len(laws.proxy.points) == 6
    assert regmix.max_epochs == laws.max_epochs == quadmix.max_epochs == 4
    assert (quad.proxy.size, quad.validate.size) == ("0.1m", "0.1m")
    assert not quad.proxy.repetition_matched
    assert study.settings.proxy.repetition_matched
    assert {one.name: search_steps(one) for one in study.entrants} == {
        **dict.fromkeys(
            ("regmix", "mixing-laws", "quadmix"), ("label", "design", "train", "fit", "search")
        ),
        "quad": ("label", "train", "fit", "search"),
    }


def test_overrides_reach_one_method() -> None:
    """--set changes a method's own key and no other's."""
    study = load_study(EXAMPLE, ("methods.quadmix.curves.n_runs=20", "proxy.size=0.03m"))
    found = {one.name: one.settings for one in study.entrants}
    assert found["quadmix"].curves.n_runs == 20
    assert found["quadmix"].proxy.size == found["regmix"].proxy.size == "0.03m"
    assert found["quad"].proxy.size == "0.1m"


def test_the_preparation_is_linked_once_and_survives(tmp_path: Path) -> None:
    """Files are shared, not copied; a part left half-linked is made again, a whole one is kept."""
    job, own = Job(out=tmp_path, workers=0), Job(out=tmp_path / "methods" / "one", workers=0)
    for name in ("corpus/index", "tokens", "labels/domain"):
        with artifacts.writing(
            tmp_path / name, stage="label", settings={}, seed=1, inputs={}
        ) as aside:
            artifacts.write_json(aside / "some.json", {"name": name})
    (own.out / "tokens.partial").mkdir(parents=True)
    (own.out / "tokens.partial" / "half").write_text("", encoding="utf-8")
    share_preparation(job, own)
    share_preparation(job, own)
    for name in ("corpus/index", "tokens", "labels/domain"):
        assert artifacts.digest_of(own.out / name) == artifacts.digest_of(tmp_path / name)
        assert (own.out / name / "some.json").samefile(tmp_path / name / "some.json")
    assert sorted(path.name for path in own.out.iterdir()) == ["corpus", "labels", "tokens"]
    assert not (own.out / "tokens" / "half").exists()


def _run(folder: Path, *, size: str, n_tokens: int) -> None:
    with artifacts.writing(folder, stage="train", settings={}, seed=1, inputs={}) as aside:
        artifacts.write_json(aside / "spec.json", {"size": size, "context": 64})
        artifacts.write_json(aside / "result.json", {"n_tokens": n_tokens})


def test_the_cost_counts_what_the_search_trained_and_nothing_else(tmp_path: Path) -> None:
    """All that found the answer, by size and tokens; not the runs that judge or check it."""
    _run(tmp_path / "calibration" / "0.1m" / "rate-0", size="0.1m", n_tokens=600)
    _run(tmp_path / "estimates" / "001" / "runs" / "continued", size="0.1m", n_tokens=300)
    _run(tmp_path / "influence-check" / "0" / "runs" / "cluster-0", size="0.1m", n_tokens=100)
    _run(tmp_path / "sweep" / "natural", size="0.1m", n_tokens=4000)
    _run(tmp_path / "base" / "base", size="0.2m", n_tokens=500)
    _run(tmp_path / "validation" / "chosen-seed0", size="0.4m", n_tokens=10_000)
    (tmp_path / "sweep" / "killed.partial").mkdir()
    found = training_cost(Job(out=tmp_path, workers=0), vocabulary_size=300, n_labels=7)
    small, large = (model_size(name).flops_per_token(300, 64) for name in ("0.1m", "0.2m"))
    assert (found.n_runs, found.trained_tokens, found.n_labels) == (5, 5500, 7)
    assert found.flops == pytest.approx(5000 * small + 500 * large)
    assert SearchCost.from_json(found.to_json()) == found
    assert np.isclose(SearchCost(training_flops=2.0, scoring_flops=3.0).flops, 5.0)
