"""Encoding: the same ids as the tokenizers library, nothing special read out of text."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from cuvee.corpus import encoder as encoder_module
from cuvee.corpus.encoder import (
    END_OF_TEXT,
    WORD_PATTERN,
    Encoder,
    adapt_tokenizer,
    train_tokenizer,
)
from cuvee.errors import ConfigError

TEXTS = [
    "The vineyard lies on a slope; the slope faces south, and the sun is there all day.\n" * 3,
    "def taste(wine):\n    return wine.fruit + wine.acid  # 1987, 1999, 2024\n\n\n" * 3,
    "Größe, œuvre, naïveté, Straße; 东京都の天気は晴れ。 “quoted” — dash\u2028 line",
    "tabs\tand   spaces \r\n and\u00a0no-break \U0001f377 glasses",
]
N_THREADS = ("1", "4")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a small tokenizer."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(train_tokenizer(TEXTS, vocabulary_size=400), encoding="utf-8")
    return path


def library(path: Path) -> Tokenizer:
    """Load a tokenizer as its own library uses it, with special tokens read as text."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True
    return tokenizer


def ids_of(encoder: Encoder, text: str) -> list[int]:
    """Encode one text to a list."""
    ids: list[int] = np.frombuffer(encoder.encode([text])[0], dtype=encoder.dtype).tolist()
    return ids


def save(tokenizer: Tokenizer, path: Path) -> Path:
    """Write a foreign tokenizer.json."""
    path.write_text(tokenizer.to_str(), encoding="utf-8")
    return path


def word_level(path: Path, *, special: list[str]) -> Path:
    """Write a foreign tokenizer of a few words."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "red": 1, "wine": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(special)
    return save(tokenizer, path)


@settings(max_examples=150, deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"]))
    | st.text(st.sampled_from(" \t\n\r\f\va.0_'é中“\u00a0\u3000\x1c\x85<|>"), max_size=200)
)
def test_encode_agrees_with_the_library(trained: Path, text: str) -> None:
    """Whatever the text, words looked up give the library's ids."""
    expected = library(trained).encode(text, add_special_tokens=False).ids
    assert ids_of(Encoder(trained), text) == expected


def test_encode_agrees_with_the_library_on_real_text(shared: Path, tmp_path: Path) -> None:
    """Sixteen domains, among them German, Chinese and noise."""
    texts = [
        text
        for path in sorted((shared / "data" / "corpus").glob("*.parquet"))
        for text in pq.read_table(path, columns=["text"])["text"][:30].to_pylist()
    ]
    path = tmp_path / "tokenizer.json"
    path.write_text(train_tokenizer(texts, vocabulary_size=2000), encoding="utf-8")
    expected = library(path).encode_batch(texts, add_special_tokens=False)
    encoder = Encoder(path)
    found = [np.frombuffer(ids, encoder.dtype).tolist() for ids in encoder.encode(texts)]
    assert found == [each.ids for each in expected]


def test_encode_does_not_depend_on_the_window(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long text cut in windows has the ids of the uncut text."""
    text = "".join(TEXTS) * 5 + "x" * 500 + " " * 500 + "9" * 100
    whole = ids_of(Encoder(trained), text)
    for window in (140, 197, 1001):
        monkeypatch.setattr(encoder_module, "_WINDOW", window)
        assert ids_of(Encoder(trained), text) == whole


def test_a_full_memory_of_words_changes_nothing(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids are the same when words are forgotten all the time."""
    whole = ids_of(Encoder(trained), "".join(TEXTS))
    monkeypatch.setattr(encoder_module, "_MAX_WORDS", 3)
    assert ids_of(Encoder(trained), "".join(TEXTS)) == whole


def test_word_pattern_covers_every_character() -> None:
    """No character of a text is lost between words."""
    text = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000, 7)]))
    assert "".join(re.findall(WORD_PATTERN, text)) == text


def test_decoding_gives_the_text_back(trained: Path) -> None:
    """Byte-level BPE loses nothing."""
    for text in TEXTS:
        assert library(trained).decode(ids_of(Encoder(trained), text)) == text


def test_end_of_text_in_a_document_is_ordinary_text(trained: Path) -> None:
    """Untrusted text cannot end a document."""
    encoder = Encoder(trained)
    ids = ids_of(encoder, f"before{END_OF_TEXT}after")
    assert encoder.end_of_text not in ids
    assert library(trained).decode(ids) == f"before{END_OF_TEXT}after"


def test_no_text_has_no_ids(trained: Path) -> None:
    """The empty text and the empty list are encoded too."""
    assert Encoder(trained).encode([""]) == [b""]
    assert Encoder(trained).encode([]) == []


def test_training_is_deterministic_whatever_the_threads(tmp_path: Path) -> None:
    """Training twice, on 1 and on 4 threads, in either order of texts, writes equal bytes."""
    sample = tmp_path / "sample.txt"
    sample.write_text("\x00".join(TEXTS * 20), encoding="utf-8")
    code = (
        "import sys; from cuvee.corpus.encoder import train_tokenizer\n"
        "texts = open(sys.argv[1], encoding='utf-8', newline='').read().split(chr(0))\n"
        "one = train_tokenizer(iter(texts), vocabulary_size=500)\n"
        "assert one == train_tokenizer(reversed(texts), vocabulary_size=500)\n"
        "sys.stdout.write(one)\n"
    )
    made = {
        subprocess.run(
            [sys.executable, "-c", code, str(sample)],
            env={**os.environ, "RAYON_NUM_THREADS": n, "TOKENIZERS_PARALLELISM": "true"},
            capture_output=True,
            check=True,
        ).stdout
        for n in N_THREADS
    }
    assert len(made) == 1


def test_train_makes_the_vocabulary_asked_for() -> None:
    """Bytes, end-of-text and merges count."""
    tokenizer = Tokenizer.from_str(train_tokenizer(TEXTS, vocabulary_size=300))
    assert tokenizer.get_vocab_size() == 300
    assert tokenizer.token_to_id(END_OF_TEXT) == 0


def test_foreign_byte_level_tokenizer_goes_through_the_library(tmp_path: Path) -> None:
    """GPT-2's own division in words is used as it is."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=350, special_tokens=["</s>"], show_progress=False, min_frequency=2
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.enable_truncation(4)
    path = save(tokenizer, tmp_path / "tokenizer.json")
    encoder = Encoder(path)
    assert encoder.end_of_text == 0
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    for text in [*TEXTS, "a</s>b"]:
        assert ids_of(encoder, text) == tokenizer.encode(text, add_special_tokens=False).ids


def test_our_division_in_words_with_another_model_is_not_looked_up(tmp_path: Path) -> None:
    """Words are looked up only where that is known to be the same."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD_PATTERN), "isolated")
    tokenizer.add_special_tokens(["</s>"])
    encoder = Encoder(save(tokenizer, tmp_path / "tokenizer.json"))
    assert ids_of(encoder, "a b") == [1, 0]


def test_long_text_of_a_foreign_tokenizer_is_cut_behind_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces together have all words of the text, in order."""
    monkeypatch.setattr(encoder_module, "_PIECE", 16)
    encoder = Encoder(word_level(tmp_path / "tokenizer.json", special=["</s>"]))
    texts = ["red wine\n" * 9, "wine", "red " * 9]
    lengths = [len(ids) // 2 for ids in encoder.encode(texts)]
    assert lengths == [18, 1, 9]
    assert ids_of(encoder, texts[0]) == [1, 2] * 9


def test_large_vocabulary_takes_four_bytes(tmp_path: Path) -> None:
    """Ids above 65,535 are kept."""
    words = {f"w{number}": number for number in range(70_000)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["</s>"])
    encoder = Encoder(save(tokenizer, tmp_path / "tokenizer.json"))
    assert (encoder.dtype, encoder.vocabulary_size) == (np.dtype("<u4"), 70_001)
    assert ids_of(encoder, "w69999 w1") == [69_999, 1]


def test_adapt_keeps_a_tokenizer_that_ends_texts(tmp_path: Path) -> None:
    """A file with an end-of-text of its own is taken over byte for byte."""
    path = word_level(tmp_path / "tokenizer.json", special=["<eos>"])
    assert adapt_tokenizer(path) == path.read_text(encoding="utf-8")
    assert Encoder(path).end_of_text == 3


def test_adapt_adds_a_missing_end_of_text(tmp_path: Path) -> None:
    """A tokenizer without one gets a new id for it."""
    path = word_level(tmp_path / "tokenizer.json", special=[])
    with pytest.raises(ConfigError, match=r"no special token that ends a text .* adapt_tokenizer"):
        Encoder(path)
    path.write_text(adapt_tokenizer(path), encoding="utf-8")
    assert Encoder(path).end_of_text == 3
    assert Encoder(path).vocabulary_size == 4


def test_adapt_distrusts_an_end_of_text_that_text_can_make(tmp_path: Path) -> None:
    """A special token the model itself finds in text is passed over for a new one."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "</s>": 1, "red": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["</s>"])
    path = save(tokenizer, tmp_path / "tokenizer.json")
    path.write_text(adapt_tokenizer(path), encoding="utf-8")
    encoder = Encoder(path)
    assert encoder.end_of_text == 3
    assert encoder.end_of_text not in ids_of(encoder, f"red </s> {END_OF_TEXT}")


def test_adapt_refuses_an_ordinary_end_of_text(tmp_path: Path) -> None:
    """An end-of-text that is not special cannot be made safe."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, END_OF_TEXT: 1}, unk_token="[UNK]"))
    tokenizer.add_tokens([AddedToken(END_OF_TEXT, special=False)])
    path = save(tokenizer, tmp_path / "tokenizer.json")
    with pytest.raises(ConfigError, match=r"as an ordinary token, .* Mark it as special\."):
        adapt_tokenizer(path)


def test_missing_tokenizer_is_named(tmp_path: Path) -> None:
    """The path and the remedy are in the message."""
    with pytest.raises(ConfigError, match=r"none\.json does not exist\. Give the path"):
        Encoder(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", r"is not UTF-8\. Give"),
        (b"{}", r"cannot be read: .* Give a tokenizer\.json file"),
        (b"not json", r"cannot be read: .* Give a tokenizer\.json file"),
    ],
)
def test_broken_tokenizer_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """What is no tokenizer.json is said to be none."""
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        adapt_tokenizer(path)
