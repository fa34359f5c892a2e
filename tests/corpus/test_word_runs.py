"""Runs of words by their hashes: equal exactly where the normalised words are equal."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuvee.corpus.word_runs import hash_words

_TEXT = st.text(
    alphabet=st.one_of(
        st.sampled_from("ab A\n\t.,-_'\u00e9\u00c9\u2019\u00a0\u3000\u200b\u4e2d\U0001f600"),
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
    ),
    max_size=60,
)


def _words(text: str) -> list[str]:
    """Normalise as the module says, character by character."""
    kept = []
    for char in text:
        if char.isspace():
            kept.append(" ")
        elif unicodedata.category(char)[0] not in "PSC":
            kept.append(char.lower() if len(char.lower()) == 1 else char)
    return "".join(kept).split()


def _expected(texts: list[str], length: int) -> list[tuple[int, tuple[str, ...]]]:
    return [
        (place, tuple(words[first : first + length]))
        for place, words in enumerate(map(_words, texts))
        for first in range(len(words) - length + 1)
    ]


@settings(max_examples=200, deadline=None)
@given(st.lists(_TEXT, max_size=6), st.integers(1, 6))
def test_runs_are_those_of_the_words(texts: list[str], length: int) -> None:
    """As many runs of each text as its words give, hashes equal exactly where the words are."""
    found = hash_words(texts)
    assert found.n_words.tolist() == [len(_words(text)) for text in texts]
    hashes, places = found.runs(length)
    expected = _expected(texts, length)
    assert places.tolist() == [place for place, _ in expected]
    by_words: dict[tuple[str, ...], int] = {}
    for value, (_, words) in zip(hashes.tolist(), expected, strict=True):
        assert by_words.setdefault(words, value) == value
    assert len(set(by_words.values())) == len(by_words)


def test_a_run_has_one_hash_wherever_it_stands() -> None:
    """In ASCII and other texts, with other marks, case and spaces, of every length."""
    words = [f"w{place}" * (1 + place % 9) for place in range(40)]
    plain = " ".join(words)
    other = "\u201c\u00c9t\u00e9\u201d \u2014 " + "\u00a0".join(words).upper() + " \u2026 fin!"
    for length in range(1, 41):
        found = hash_words([plain, other])
        hashes, places = found.runs(length)
        n_runs = 40 - length + 1
        np.testing.assert_array_equal(hashes[places == 0], hashes[places == 1][1 : 1 + n_runs])


def test_whole_texts_have_the_hash_of_their_run() -> None:
    """Up to the longest asked for; texts without words have none."""
    texts = ["one", "", "one two three", "... --", "one two three four five"]
    hashes, places = hash_words(texts).whole(4)
    assert places.tolist() == [0, 2]
    assert hashes[1] == hash_words(["one two three"]).runs(3)[0][0]
    assert hashes[0] == hash_words(["ONE."]).runs(1)[0][0]
    assert hashes[0] != hashes[1]


@pytest.mark.parametrize("length", [8, 9, 16, 17, 511, 512, 513, 5000])
def test_long_words_differ_by_any_byte(length: int) -> None:
    """By one letter anywhere, by their length, and not by what follows them."""
    word = "x" * length
    others = [word[:place] + "y" + word[place + 1 :] for place in (0, length // 2, length - 1)]
    found = hash_words([f"{word} a", f"{word} b", word[:-1], word + "x", *others])
    first = np.cumsum(found.n_words) - found.n_words
    hashes = found.hashes[first]
    assert hashes[0] == hashes[1]
    assert len(set(hashes.tolist())) == 6
