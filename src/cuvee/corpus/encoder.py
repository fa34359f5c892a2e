"""Text to token ids: a byte-level BPE trained here, or any tokenizer.json.

The pattern that cuts text into words is written in explicit ranges of characters and matches at
most 65 of them, so Python's ``re`` and the tokenizers library cut alike, and a word is encoded once
and then looked up. A tokenizer of another make goes through the library itself.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from cuvee.errors import ConfigError

END_OF_TEXT = "<|endoftext|>"

_SPACE = " \t\n\r\f\v"
_DIGIT = "0-9"
# ASCII letters and whatever is not ASCII, but for Latin-1 signs, punctuation and symbol blocks.
_LETTER = (
    "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u1fff\u2c00-\u2dff\u3040-\ufdff\ufe70-\ufeff"
    "\uff21-\uff3a\uff41-\uff5a\uff66-\U0010ffff"
)
WORD_PATTERN = (
    f" ?[{_LETTER}]{{1,64}}"
    f"| ?[^{_SPACE}{_LETTER}{_DIGIT}]{{1,64}}"
    f"| ?[{_DIGIT}]{{1,3}}"
    f"|[{_SPACE}]{{1,64}}(?![^{_SPACE}])"
    f"|[{_SPACE}]{{1,64}}"
)
"""GPT-2's division in words, with ASCII digits by threes and no word above 65 characters."""

_LONGEST_MATCH = 66  # characters a match can depend on, the one looked ahead at included
_WINDOW = 2**20  # characters cut into words at a time; more than twice the longest match
_MAX_WORDS = 2**18
_PIECE = 2**20  # characters given to the library at a time
_KNOWN_ENDS = (
    END_OF_TEXT,
    "</s>",
    "<eos>",
    "<|end_of_text|>",
    "<|eos|>",
    "[EOS]",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",  # DeepSeek's, with its wide bars
)


def train_tokenizer(texts: Iterable[str], *, vocabulary_size: int) -> str:
    """Train a byte-level BPE.

    Words that occur once make no merges, so the vocabulary of a small sample may end up smaller.
    Equal texts, in any order, give equal tokenizers, whatever the number of threads.

    Args:
        texts: The sample.
        vocabulary_size: Tokens: 256 bytes, `END_OF_TEXT` and merges.

    Returns:
        The content of a tokenizer.json.
    """
    tokenizer = _untrained()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return str(tokenizer.to_str())


def decode(path: Path, ids: Sequence[int]) -> str:
    """Turn token ids back into text, special ones left out.

    Args:
        path: A tokenizer.json.
        ids: Token ids of it.
    """
    _, tokenizer = _read(path)
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))


def adapt_tokenizer(path: Path) -> str:
    """Read somebody's tokenizer.json and give it an end-of-text token if it has none that is safe.

    Args:
        path: The file.

    Returns:
        The content of the tokenizer.json to use; the file's own text where nothing is missing.

    Raises:
        ConfigError: The file is missing or is not a tokenizer.
    """
    content, tokenizer = _read(path)
    if find_end_of_text(tokenizer) is not None:
        return content
    if tokenizer.token_to_id(END_OF_TEXT) is not None:
        raise ConfigError(
            f"tokenizer {path} has {END_OF_TEXT!r} as an ordinary token, which text can contain, "
            f"and no special one that ends a text (known: {', '.join(_KNOWN_ENDS)}). Mark it as "
            "special."
        )
    tokenizer.add_special_tokens([END_OF_TEXT])
    return str(tokenizer.to_str())


class Encoder:
    """Encode texts; nothing in them is read as a special token.

    A text that a foreign tokenizer's library would take at once in gigabytes of memory, one above
    2**20 characters, is encoded in pieces cut behind a line's end where there is one.

    Attributes:
        vocabulary_size: One more than the highest id.
        end_of_text: Id of the token that ends each text; no text contains it.
        dtype: Little-endian integers of 2 bytes, of 4 where the vocabulary exceeds 65,536.
    """

    def __init__(self, path: Path) -> None:
        """Load a tokenizer.

        Args:
            path: A tokenizer.json from `train_tokenizer` or `adapt_tokenizer`.

        Raises:
            ConfigError: It is missing, no tokenizer, or has no end-of-text token.
        """
        _, tokenizer = _read(path)
        end = find_end_of_text(tokenizer)
        if end is None:
            raise ConfigError(
                f"tokenizer {path} has no special token that ends a text (known: "
                f"{', '.join(_KNOWN_ENDS)}). Pass it through adapt_tokenizer()."
            )
        self.end_of_text: int = end
        self.vocabulary_size, self.dtype = measure_vocabulary(tokenizer)
        self._tokenizer = tokenizer
        self._words = _Words(tokenizer, self.dtype) if _is_ours(tokenizer) else None

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """Encode texts.

        Args:
            texts: (n_documents,) valid Unicode.

        Returns:
            (n_documents,) the ids of each text, as bytes of ``dtype``, without end-of-text.
        """
        if self._words is None:
            return self._by_library(texts)
        look_up = self._words.__getitem__
        # join() takes 80 bytes for each part, so a long text is joined window by window.
        return [b"".join(b"".join(map(look_up, words)) for words in _cut(text)) for text in texts]

    def _by_library(self, texts: Sequence[str]) -> list[bytes]:
        pieces = [(owner, piece) for owner, text in enumerate(texts) for piece in _pieces(text)]
        encoded: list[list[bytes]] = [[] for _ in texts]
        for batch in _batches(pieces):
            found = self._tokenizer.encode_batch_fast(
                [piece for _, piece in batch], add_special_tokens=False
            )
            for (owner, _), encoding in zip(batch, found, strict=True):
                encoded[owner].append(np.asarray(encoding.ids, dtype=self.dtype).tobytes())
        return [b"".join(parts) for parts in encoded]


def find_end_of_text(tokenizer: Tokenizer) -> int | None:
    """Find the special token that ends texts and that no text is encoded as.

    Args:
        tokenizer: From `adapt_tokenizer`, or any other.

    Returns:
        Its id; None where there is none.
    """
    special = {
        token.content: number
        for number, token in tokenizer.get_added_tokens_decoder().items()
        if token.special
    }
    for name in _KNOWN_ENDS:
        number = special.get(name)
        if number is not None:
            ids = tokenizer.encode(name, add_special_tokens=False).ids
            if number not in ids:
                return int(number)
    return None


def measure_vocabulary(tokenizer: Tokenizer) -> tuple[int, np.dtype[np.unsignedinteger]]:
    """Return one more than the highest id, and the integers that ids are kept as.

    Args:
        tokenizer: Any.

    Returns:
        The size, and little-endian integers of 2 bytes, of 4 where the size exceeds 65,536.
    """
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    return size, np.dtype("<u2" if size <= 2**16 else "<u4")


class _Words(dict[str, bytes]):
    """The ids of every word met; emptied when it holds `_MAX_WORDS`."""

    def __init__(self, tokenizer: Tokenizer, dtype: np.dtype[np.unsignedinteger]) -> None:
        super().__init__()
        self._model = tokenizer.model
        self._dtype = dtype

    def __missing__(self, word: str) -> bytes:
        symbols = word.encode("utf-8").decode("latin-1").translate(BYTE_SYMBOLS)
        ids = [token.id for token in self._model.tokenize(symbols)]
        encoded = np.asarray(ids, dtype=self._dtype).tobytes()
        if len(self) >= _MAX_WORDS:
            self.clear()
        self[word] = encoded
        return encoded


def _byte_symbols() -> dict[int, int]:
    """Map bytes to the printable characters that byte-level BPE writes them with."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {byte: 256 + place for place, byte in enumerate(others)}


BYTE_SYMBOLS = _byte_symbols()
"""Code points by those bytes that byte-level BPE writes with another character."""
_find_words = re.compile(WORD_PATTERN).findall


def _cut(text: str) -> Iterator[list[str]]:
    """Cut a text into words, window by window."""
    start = 0
    while len(text) - start > _WINDOW:
        words = _find_words(text, start, start + _WINDOW)
        n_unsure = 0
        while n_unsure < _LONGEST_MATCH:  # the window's end may have cut these short
            n_unsure += len(words.pop())
        yield words
        start += _WINDOW - n_unsure
    yield _find_words(text, start)


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > _PIECE:
        end = start + _PIECE
        cut = text.rfind("\n", start + _PIECE // 2, end) + 1 or end
        yield text[start:cut]
        start = cut
    yield text[start:]


def _batches(pieces: Iterable[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    batch: list[tuple[int, str]] = []
    size = 0
    for owner, piece in pieces:
        if batch and size + len(piece) > _PIECE:
            yield batch
            batch, size = [], 0
        batch.append((owner, piece))
        size += len(piece)
    if batch:
        yield batch


def _untrained() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _is_ours(tokenizer: Tokenizer) -> bool:
    """Tell whether words can be looked up: our division in words, plain BPE, one special token."""
    found, ours = json.loads(tokenizer.to_str()), json.loads(_untrained().to_str())
    model = {**found["model"], "vocab": {}, "merges": []}
    return bool(
        found["pre_tokenizer"] == ours["pre_tokenizer"]
        and found["normalizer"] is None
        and model == ours["model"]
        and [token["content"] for token in found["added_tokens"]] == [END_OF_TEXT]
        and set(found["model"]["vocab"]).issuperset(pre_tokenizers.ByteLevel.alphabet())
    )


def _read(path: Path) -> tuple[str, Tokenizer]:
    try:
        content = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ConfigError(
            f"tokenizer {path} does not exist. Give the path of a tokenizer.json file."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"tokenizer {path} is not UTF-8. Give a tokenizer.json file.") from error
    try:
        tokenizer = Tokenizer.from_str(content)
    except Exception as error:  # the library raises no narrower class
        raise ConfigError(
            f"tokenizer {path} cannot be read: {error}. Give a tokenizer.json file of the "
            "tokenizers library."
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return content, tokenizer
