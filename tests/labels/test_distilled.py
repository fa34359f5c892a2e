"""Influence learnt from words: planted ranks found, noise told from them, files without objects."""

from pathlib import Path

import numpy as np
import pytest

from cuvee.arrays import FloatArray
from cuvee.errors import ArtifactError, DataError
from cuvee.labels.distilled import DistilledInfluence
from cuvee.labels.scorers import text_scorer
from cuvee.randomness import stream

_GOOD = ["proof", "lemma", "theorem", "matrix", "tensor", "kernel"]
_BAD = ["casino", "bonus", "cheap", "winner", "prize", "click"]
_COMMON = ["the", "a", "of", "and", "in", "to", "is", "on"]


def _planted(n_texts: int, seed: int) -> tuple[list[str], FloatArray]:
    """Texts whose influence is their share of good words less that of bad ones, heavy-tailed."""
    rng = np.random.default_rng(seed)
    texts, scores = [], []
    for _ in range(n_texts):
        n_good, n_bad = rng.integers(0, 12, size=2)
        words = [
            *rng.choice(_GOOD, n_good),
            *rng.choice(_BAD, n_bad),
            *rng.choice(_COMMON, 20),
        ]
        texts.append(" ".join(rng.permutation(words)))
        scores.append(np.sinh(3.0 * (n_good - n_bad) / (20 + n_good + n_bad) * 4.0))
    return texts, np.array(scores)


def test_planted_influence_is_learnt() -> None:
    """The rank correlation that is told is that on texts never seen, and high."""
    texts, scores = _planted(800, seed=0)
    model = DistilledInfluence.fit(texts, scores, rng=stream(1, "test"))
    others, truth = _planted(800, seed=1)
    ranks = [np.argsort(np.argsort(one)) for one in (model.score(others), truth)]
    reached = float(np.corrcoef(ranks)[0, 1])
    assert model.spearman > 0.8
    assert reached == pytest.approx(model.spearman, abs=0.08)
    assert model.n_texts == 800
    good, bad = model.score(["lemma theorem proof", "casino bonus prize"])
    assert good > bad


def test_noise_is_told_from_influence() -> None:
    """Scores that text says nothing of: no correlation on the held-out fifth."""
    texts, scores = _planted(600, seed=2)
    shuffled = np.random.default_rng(0).permutation(scores)
    model = DistilledInfluence.fit(texts, shuffled, rng=stream(1, "test"))
    assert abs(model.spearman) < 0.3


def test_a_saved_model_scores_alike(tmp_path: Path) -> None:
    """The scorer of label passes reads it; another file is refused."""
    texts, scores = _planted(100, seed=3)
    model = DistilledInfluence.fit(texts, scores, rng=stream(1, "test"))
    model.save(tmp_path / "influence.npz")
    score = text_scorer("influence", tmp_path / "influence.npz", {})
    np.testing.assert_allclose(score(texts), model.score(texts), atol=1e-5)
    again = DistilledInfluence.load(tmp_path / "influence.npz")
    assert (again.spearman, again.n_texts) == (model.spearman, model.n_texts)
    (tmp_path / "other.npz").write_bytes(b"no")
    with pytest.raises(ArtifactError, match="not a model of influence"):
        DistilledInfluence.load(tmp_path / "other.npz")


def test_too_little_to_learn_from_is_refused() -> None:
    """Few documents; scores that are not one finite number each."""
    texts, scores = _planted(60, seed=4)
    with pytest.raises(DataError, match="49 documents are scored"):
        DistilledInfluence.fit(texts[:49], scores[:49], rng=stream(1, "test"))
    with pytest.raises(DataError, match="one finite score each"):
        DistilledInfluence.fit(texts, scores[:-1], rng=stream(1, "test"))
    scores[3] = np.nan
    with pytest.raises(DataError, match="one finite score each"):
        DistilledInfluence.fit(texts, scores, rng=stream(1, "test"))
