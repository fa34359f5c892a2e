"""Token ids back to text, for pools that are token ids already."""

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders

from cuvee.corpus.encoder import (
    BYTE_SYMBOLS,
    adapt_tokenizer,
    find_end_of_text,
    measure_vocabulary,
)
from cuvee.errors import ConfigError

TokenIds: TypeAlias = npt.NDArray[np.integer[Any]]
"""Ids of any integer type."""

_PIECE = 2**20  # ids made a list at a time
_SYMBOL_BYTES = {chr(BYTE_SYMBOLS.get(byte, byte)): byte for byte in range(256)}


class Decoder:
    """Turn documents that are ids already into texts, their special tokens left out.

    The text is what the tokenizer makes of the ids, which need not be the text they were made of:
    bytes that are not UTF-8, and whatever a tokenizer does not keep, are lost.

    Attributes:
        path: The tokenizer's file.
        digest: SHA-256 of the tokenizer as a run takes it over (`adapt_tokenizer`).
        vocabulary_size: One more than the highest id.
        end_of_text: Id of the token that ends each document.
        dtype: Of ids, as `Encoder.dtype`.
    """

    def __init__(self, path: Path) -> None:
        """Load a tokenizer.

        Args:
            path: Any tokenizer.json.

        Raises:
            ConfigError: It is missing or is not a tokenizer.
        """
        content = adapt_tokenizer(path)
        tokenizer = Tokenizer.from_str(content)
        tokenizer.encode_special_tokens = True
        end = find_end_of_text(tokenizer)
        assert end is not None, "an adapted tokenizer has one"
        self.path = path
        self.digest: str = hashlib.sha256(content.encode("utf-8")).hexdigest()
        self.end_of_text: int = end
        self.vocabulary_size, self.dtype = measure_vocabulary(tokenizer)
        self._tokenizer = tokenizer
        self._bytes = _token_bytes(tokenizer, self.vocabulary_size)

    def decode(self, documents: Sequence[TokenIds]) -> list[str]:
        """Decode documents; those of a byte-level tokenizer by a look-up, others by the library.

        Args:
            documents: (n_documents,) arrays of ids below ``vocabulary_size``.

        Returns:
            (n_documents,) texts.
        """
        if self._bytes is None:
            lists = [ids.tolist() for ids in documents]
            return list(self._tokenizer.decode_batch(lists, skip_special_tokens=True))
        look_up = self._bytes.__getitem__
        return [_joined(ids, look_up).decode("utf-8", errors="replace") for ids in documents]


def open_decoder(path: str) -> Decoder:
    """Load a tokenizer for decoding; one that was loaded lately and did not change is kept.

    Args:
        path: Any tokenizer.json.

    Raises:
        ConfigError: It is missing or is not a tokenizer.
    """
    file = Path(path)
    return _opened(path, file.stat().st_mtime_ns if file.is_file() else 0)


def one_tokenizer(paths: Sequence[str]) -> str | None:
    """Check that files are one tokenizer, and return the first of them.

    Args:
        paths: tokenizer.json files.

    Returns:
        The first path; None where there are none.

    Raises:
        ConfigError: One is missing or no tokenizer, or two differ.
    """
    for path in paths[1:]:
        if open_decoder(path).digest != open_decoder(paths[0]).digest:
            raise ConfigError(
                f"tokenizers {paths[0]} and {path} differ, but the ids of token files are used as "
                "they are, so a run has one tokenizer for all. Leave tokens.tokenizer out, and "
                "give token files that one tokenizer made."
            )
    return paths[0] if paths else None


@lru_cache(maxsize=4)
def _opened(path: str, _stamp: int) -> Decoder:
    return Decoder(Path(path))


def _token_bytes(tokenizer: Tokenizer, size: int) -> list[bytes] | None:
    """Return the bytes of each id where a text is all its ids' bytes joined; None elsewhere."""
    if not isinstance(tokenizer.decoder, decoders.ByteLevel):
        return None
    special = {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    names = ("" if id in special else tokenizer.id_to_token(id) or "" for id in range(size))
    return [
        bytes(_SYMBOL_BYTES[symbol] for symbol in name)
        if _SYMBOL_BYTES.keys() >= set(name)
        else name.encode("utf-8")  # an added token that is text, not symbols of bytes
        for name in names
    ]


def _joined(ids: TokenIds, look_up: Callable[[int], bytes]) -> bytes:
    """Join the bytes of ids piece by piece, for a list takes some 40 bytes an id."""
    starts = range(0, len(ids), _PIECE)
    return b"".join(b"".join(map(look_up, ids[at : at + _PIECE].tolist())) for at in starts)
