"""Predictors as artefacts, and domains by name."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cuvee import artifacts
from cuvee.arrays import FloatArray
from cuvee.errors import ArtifactError, DataError
from cuvee.fit.linear import LinearMixture
from cuvee.fit.predictor_files import (
    PREDICTOR_FILE,
    NamedPredictor,
    load_predictor,
    save_predictor,
)


def _predictor() -> NamedPredictor:
    weights = np.random.default_rng(0).dirichlet(np.ones(3), size=8)
    model = LinearMixture().fit(
        weights, weights @ np.array([[1.0], [2.0], [4.0]]), rng=np.random.default_rng(0)
    )
    return NamedPredictor(model=model, name="linear", domains=("a", "b", "c"), targets=("x",))


def _save(folder: Path) -> None:
    save_predictor(folder, _predictor(), settings={"model": "linear"}, seed=1, inputs={})


def _mixture(*shares: float) -> FloatArray:
    return np.array([shares])


def test_saved_predictor_predicts_the_same(tmp_path: Path) -> None:
    """Names and numbers come back; the same fit gives the same bytes."""
    _save(tmp_path / "one")
    _save(tmp_path / "two")
    loaded, mixture = load_predictor(tmp_path / "one"), _mixture(0.2, 0.3, 0.5)
    assert (loaded.name, loaded.domains, loaded.targets) == ("linear", ("a", "b", "c"), ("x",))
    np.testing.assert_array_equal(loaded.predict(mixture), _predictor().predict(mixture))
    assert artifacts.digest_of(tmp_path / "one") == artifacts.digest_of(tmp_path / "two")


def test_domains_are_matched_by_name() -> None:
    """Another order of columns, and a domain without any share."""
    predictor = _predictor()
    expected = predictor.predict(_mixture(0.2, 0.3, 0.5))
    named = predictor.predict_named(("c", "new", "a", "b"), _mixture(0.5, 0.0, 0.2, 0.3))
    np.testing.assert_array_equal(named, expected)


def test_missing_domain_is_refused() -> None:
    """Named, with what the predictor knows."""
    with pytest.raises(DataError, match=r"no column for domain 'c' \(1 missing\).* a, b, c"):
        _predictor().predict_named(("a", "b"), _mixture(0.5, 0.5))


def test_unknown_domain_with_a_share_is_refused() -> None:
    """Nothing was learnt about it."""
    with pytest.raises(DataError, match="give domain 'new' a share"):
        _predictor().predict_named(("a", "b", "c", "new"), _mixture(0.5, 0.2, 0.2, 0.1))


def test_folder_without_predictor_is_refused(tmp_path: Path) -> None:
    """Unfinished, or of another kind."""
    with pytest.raises(ArtifactError, match="run `cuvee fit` first"):
        load_predictor(tmp_path / "none")
    with artifacts.writing(
        tmp_path / "other", stage="fit", settings={}, seed=1, inputs={}
    ) as aside:
        artifacts.write_json(aside / PREDICTOR_FILE, {"model": "of-tomorrow"})
    with pytest.raises(ArtifactError, match="holds no predictor this version can read"):
        load_predictor(tmp_path / "other")


def test_change_of_a_model_without_covariances_claims_no_deviation() -> None:
    """A linear model's change is exact in the mean; no deviation is made up."""
    mean, sd = _predictor().change(_mixture(0.3, 0.3, 0.4), np.array([0.2, 0.3, 0.5]))
    np.testing.assert_allclose(mean, [[0.1 * 1.0 - 0.1 * 4.0]])
    assert sd is None


def test_domains_that_are_gone_have_no_share(tmp_path: Path) -> None:
    """The model's last columns are zero in predictions and slopes, also after reading it back."""
    whole = _predictor()
    rest = replace(whole, domains=("a", "b"), gone=("c",))
    save_predictor(tmp_path / "rest", rest, settings={}, seed=1, inputs={})
    loaded = load_predictor(tmp_path / "rest")
    assert (loaded.domains, loaded.gone) == (("a", "b"), ("c",))
    expected = whole.predict(_mixture(0.3, 0.7, 0.0))
    np.testing.assert_array_equal(loaded.predict(_mixture(0.3, 0.7)), expected)
    named = loaded.predict_named(["b", "a"], _mixture(0.7, 0.3))
    np.testing.assert_array_equal(named, expected)
    with pytest.raises(DataError, match="'c' a share, but the predictor was not fitted"):
        loaded.predict_named(["a", "b", "c"], _mixture(0.3, 0.6, 0.1))
