"""Scores against a reference: which side is higher, held-out AUC, files without objects."""

from pathlib import Path

import numpy as np
import pytest

from cuvee.corpus.rows import DocumentBatch
from cuvee.errors import ArtifactError, DataError
from cuvee.labels.ngrams import ImportanceRatio, ReferenceClassifier
from cuvee.labels.perplexity import BigramModel
from cuvee.labels.scorers import SCORE, batch_scorer
from cuvee.randomness import document_keys, stream

_LAW = ["court", "appeal", "judge", "statute", "evidence", "verdict", "counsel", "clause"]
_FOOD = ["flour", "butter", "oven", "sugar", "whisk", "bake", "dough", "salt"]
_BOTH = ["the", "a", "of", "and", "in", "to"]


def _texts(words: list[str], n: int, seed: int, length: int = 40) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(words + _BOTH, size=length)) for _ in range(n)]


@pytest.mark.parametrize("kind", [ReferenceClassifier, ImportanceRatio])
def test_reference_texts_score_higher(
    kind: type[ReferenceClassifier] | type[ImportanceRatio], tmp_path: Path
) -> None:
    """On texts never fitted, by far; saved and loaded the scores are the same."""
    model = kind.fit(_texts(_LAW, 100, 0), _texts(_FOOD, 100, 1), rng=stream(1, "labels"))
    law, food = model.score(_texts(_LAW, 20, 2)), model.score(_texts(_FOOD, 20, 3))
    assert law.min() > food.max()
    assert model.auc > 0.95
    model.save(tmp_path / "model.npz")
    again = kind.load(tmp_path / "model.npz")
    np.testing.assert_allclose(again.score(_texts(_LAW, 20, 2)), law, rtol=1e-4)
    assert again.auc == pytest.approx(model.auc)


@pytest.mark.parametrize("kind", [ReferenceClassifier, ImportanceRatio])
def test_no_difference_is_told_as_chance(
    kind: type[ReferenceClassifier] | type[ImportanceRatio],
) -> None:
    """Both sides of one kind: the held-out AUC is about a half."""
    model = kind.fit(_texts(_LAW, 150, 4), _texts(_LAW, 150, 5), rng=stream(1, "labels"))
    assert 0.3 < model.auc < 0.7


def test_the_ratio_does_not_rank_by_length() -> None:
    """Longer texts of the same kind score alike."""
    model = ImportanceRatio.fit(_texts(_LAW, 100, 0), _texts(_FOOD, 100, 1), rng=stream(1, "x"))
    short, long = (model.score(_texts(_LAW, 30, 6, n)).mean() for n in (20, 400))
    assert short == pytest.approx(long, rel=0.1)


def test_broken_models_and_few_texts_are_refused(tmp_path: Path) -> None:
    """One clear message."""
    with pytest.raises(DataError, match="has 3 texts"):
        ReferenceClassifier.fit(["a"] * 3, ["b"] * 30, rng=stream(1, "x"))
    (tmp_path / "broken.npz").write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="is not a model"):
        ImportanceRatio.load(tmp_path / "broken.npz")


def test_perplexity_is_lower_for_text_like_the_reference() -> None:
    """A chain of tokens scores its own kind lower than shuffled tokens; documents stand alone."""
    rng = np.random.default_rng(0)
    chain = np.cumsum(rng.integers(1, 3, size=30_000)) % 50
    model = BigramModel.fit(chain[:20_000], vocabulary_size=60)
    alike, shuffled = chain[20_000:25_000], rng.permutation(chain[25_000:])
    lengths = np.full(50, 100)
    assert model.score(alike, lengths).max() < model.score(shuffled, lengths).min()
    both = model.score(np.concatenate([alike, shuffled]), np.full(100, 100))
    np.testing.assert_allclose(both[:50], model.score(alike, lengths))
    np.testing.assert_allclose(both[50:], model.score(shuffled, lengths))


def test_perplexity_of_a_uniform_reference_is_its_vocabulary() -> None:
    """Tokens drawn evenly of 64: about log 64 nats."""
    rng = np.random.default_rng(1)
    model = BigramModel.fit(rng.integers(64, size=400_000), vocabulary_size=64)
    loss = model.score(rng.integers(64, size=10_000), np.array([10_000]))
    assert loss[0] == pytest.approx(np.log(64), abs=0.05)


def test_the_best_resampled_are_a_sample_by_importance() -> None:
    """Odds of the one text taken are those of importance: exp of the summed log ratios."""
    ratio = ImportanceRatio(log_ratio=np.full(16, np.log(2.0)), auc=0.5)
    texts = ["word", "word word", ""]  # one gram; two words and their pair; none
    n = 4000
    keys = document_keys([f"{one}-{number}" for number in range(n) for one in range(3)])
    scores = ratio.resampled(texts * n, keys, seed=1).reshape(n, 3)
    shares = np.bincount(scores.argmax(axis=1), minlength=3) / n
    np.testing.assert_allclose(shares, np.array([2.0, 8.0, 1.0]) / 11.0, atol=0.025)
    np.testing.assert_array_equal(ratio.resampled(texts, keys[:3], seed=1), scores[0])


def test_resampling_is_a_scorer_of_the_pools_documents(tmp_path: Path) -> None:
    """The pass gives what the model gives, by the documents' ids and the run's seed."""
    reference, pool = _texts(_LAW, 40, 1), _texts(_FOOD, 40, 2)
    fitted = ImportanceRatio.fit(reference, pool, rng=stream(1, "quality"))
    fitted.save(tmp_path / "ratio.npz")
    ids = [f"doc-{number}" for number in range(len(pool))]
    batch = DocumentBatch(
        rows=np.arange(len(pool)), ids=ids, texts=pool, domains=[], groups=[], rejects=[]
    )
    scores = batch_scorer("dsir", tmp_path / "ratio.npz", {"seed": 7})(batch)[SCORE]
    expected = fitted.resampled(pool, document_keys(ids), seed=7)
    np.testing.assert_allclose(scores, expected, rtol=1e-12)
