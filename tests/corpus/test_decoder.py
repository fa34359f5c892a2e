"""Decoding gives what the library gives, for byte-level tokenizers by a shorter way."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from cuvee.corpus.decoder import Decoder, one_tokenizer, open_decoder
from cuvee.corpus.encoder import END_OF_TEXT, adapt_tokenizer, train_tokenizer
from cuvee.errors import ConfigError

TEXTS = ["the cat saw the dög", "naïve café 日本語 \U0001f600"]


def _byte_level() -> Tokenizer:
    """Byte-level, with tokens that were added as text, and an id that is no token."""
    tokenizer = Tokenizer.from_str(train_tokenizer(TEXTS * 5, vocabulary_size=280))
    tokenizer.add_tokens(["  ", "日本", "é", AddedToken("<name>", special=True)])
    return tokenizer


def _spaced() -> Tokenizer:
    """SentencePiece's way: a sign for spaces, the first of which is taken off, and bytes."""
    words = ["▁the", "▁cat", "s", "▁", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["</s>"])
    return tokenizer


MADE = {"byte-level": _byte_level(), "SentencePiece": _spaced()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds both tokenizers."""
    folder = tmp_path_factory.mktemp("tokenizers")
    for name, tokenizer in MADE.items():
        (folder / f"{name}.json").write_text(tokenizer.to_str(), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", list(MADE))
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_ids_decode_as_by_the_library(name: str, data: st.DataObject, folder: Path) -> None:
    """Bytes that are no UTF-8, special tokens and added ones included."""
    decoder = open_decoder(str(folder / f"{name}.json"))
    ids = st.lists(st.integers(0, decoder.vocabulary_size - 1), max_size=20)
    documents = data.draw(st.lists(ids, max_size=4))
    expected = MADE[name].decode_batch(documents, skip_special_tokens=True)
    arrays = [np.array(one, dtype=decoder.dtype) for one in documents]
    assert decoder.decode(arrays) == expected


def test_end_of_text_and_vocabulary_are_the_tokenizers(folder: Path) -> None:
    """They are what `Encoder` finds in the tokenizer that a run takes over."""
    decoder = Decoder(folder / "SentencePiece.json")
    assert (decoder.end_of_text, decoder.vocabulary_size) == (260, 261)
    assert (decoder.dtype.name, decoder.path.name) == ("uint16", "SentencePiece.json")


def test_a_tokenizer_without_an_end_gets_one(tmp_path: Path) -> None:
    """As a run's does: an id behind all others, and the same whether given before or after."""
    bare = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    path, adapted = tmp_path / "bare.json", tmp_path / "adapted.json"
    path.write_text(bare.to_str(), encoding="utf-8")
    adapted.write_text(adapt_tokenizer(path), encoding="utf-8")
    assert Tokenizer.from_file(str(adapted)).token_to_id(END_OF_TEXT) == 2
    assert Decoder(path).end_of_text == 2
    assert one_tokenizer([str(path), str(adapted)]) == str(path)


def test_different_tokenizers_are_refused(folder: Path) -> None:
    """Both are named; none at all is no fault."""
    first, second = (str(folder / f"{name}.json") for name in MADE)
    assert one_tokenizer([]) is None
    with pytest.raises(ConfigError) as caught:
        one_tokenizer([first, first, second])
    assert str(caught.value) == (
        f"tokenizers {first} and {second} differ, but the ids of token files are used as they "
        "are, so a run has one tokenizer for all. Leave tokens.tokenizer out, and give token files "
        "that one tokenizer made."
    )
