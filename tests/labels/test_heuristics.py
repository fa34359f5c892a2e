"""Rules of thumb: counted by hand on small texts, and in the right direction on real kinds."""

import numpy as np
import pytest

from cuvee.labels.heuristics import COLUMNS, RULES, measure_texts, score_columns

_PROSE = (
    "The river rose in the night and by the morning it had covered the lower fields.\n"
    "People who have lived there for years were not surprised, and they went to work.\n"
    "With the first light some of them rowed out to see what could be saved of the harvest.\n"
    "Nobody knew when it would fall again, so the school was opened for all that had no roof.\n"
)


def _columns(text: str) -> dict[str, float]:
    return dict(zip(COLUMNS, measure_texts([text])[0].tolist(), strict=True))


def test_columns_are_what_they_say() -> None:
    """Counted by hand."""
    found = _columns("# One two...\n- three 44\nshort.\nshort.")
    assert found["n_words"] == 8
    assert found["symbols_per_word"] == pytest.approx(2 / 8)
    assert found["bullet_lines"] == pytest.approx(1 / 4)
    assert found["ellipsis_lines"] == pytest.approx(1 / 4)
    assert found["ended_lines"] == pytest.approx(3 / 4)
    assert found["short_lines"] == 1.0
    assert found["alphabetic_words"] == pytest.approx(5 / 8)
    assert found["lines_per_word"] == pytest.approx(4 / 8)
    assert found["duplicate_lines"] == pytest.approx(6 / 37)
    assert found["digits"] == pytest.approx(2 / 37)
    assert found["capitals"] == pytest.approx(1 / 37)


def test_repeated_runs_are_counted_once() -> None:
    """Ten words, then the same ten: half of the text was there before."""
    words = "alpha beta gamma delta epsilon zeta eta theta iota kappa"
    assert _columns(f"{words} {words}")["duplicate_fives"] == pytest.approx(0.5, abs=0.02)
    assert _columns(words)["duplicate_fives"] == 0.0
    assert _columns("spam eggs " * 50)["top_pair"] > 0.4


def test_clean_text_breaks_no_rule_and_junk_breaks_many() -> None:
    """Prose, a table of numbers, a menu, one line over and over."""
    texts = [
        _PROSE,
        "12 99 100 3 5 88 1 2\n" * 30,
        "\n".join(f"- {word}" for word in ("home", "shop", "login", "help", "jobs")),
        "BUY NOW cheap pills ###\n" * 40,
    ]
    scores = score_columns(measure_texts(texts))
    assert 0.0 < scores[0] <= 1.0
    assert scores[1:].max() < -2.0


def test_scores_fall_with_distance_and_are_bounded() -> None:
    """Beyond a limit by more is worse, by at most one a rule, and one for breaking any."""
    limits = np.array([[1e9 if np.isinf(rule.most) else rule.most for rule in RULES.values()]])
    inside = np.maximum(np.minimum(limits, 1e9), [[rule.least for rule in RULES.values()]])
    worse, worst = inside.copy(), inside.copy()
    digits = COLUMNS.index("digits")
    worse[0, digits] += 0.1
    worst[0, digits] += 5.0
    scores = [float(score_columns(one)[0]) for one in (inside, worse, worst)]
    assert np.diff(scores).tolist() == [pytest.approx(-1.5), pytest.approx(-0.5)]
    assert scores[0] >= 0.0 > scores[1]


def test_clean_texts_hardly_tie_and_stand_before_all_others() -> None:
    """Texts of the same words: nearly every one has a score of its own; junk is below them all."""
    rng = np.random.default_rng(0)
    words = _PROSE.split()
    prose = [
        "\n".join(" ".join(rng.permutation(words)[:20]) + "." for _ in range(rng.integers(5, 12)))
        for _ in range(200)
    ]
    scores = score_columns(measure_texts(prose))
    junk = score_columns(measure_texts([f"{text} {'9' * 2000}" for text in prose]))
    assert (scores > 0.0).mean() > 0.9
    assert len(np.unique(scores.astype(np.float32))) > 0.95 * len(scores)
    assert junk.max() < 0.0 <= scores[scores >= 0.0].min()


def test_more_headroom_is_better() -> None:
    """Of two documents that keep every rule the one further from a limit scores higher."""
    found = measure_texts([_PROSE])
    nearer = found.copy()
    nearer[0, COLUMNS.index("digits")] += 0.1
    clean, less = (float(score_columns(one)[0]) for one in (found, nearer))
    assert 0.0 <= less < clean
