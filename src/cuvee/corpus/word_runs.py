"""Hash runs of words of many texts at once: what two texts share is found by their hashes.

Texts are lowercased, punctuation is removed and what is left is parted at white space. A word's
hash is folded from its bytes, eight at a time; that of a run of n words is the polynomial

    h_n(i) = sum_k w_(i+k) q^(n-1-k)  mod 2^64,

made of runs of 1, 2, 4, ... words, so its cost grows with log n. Runs of two lengths never share a
hash on purpose: the length is mixed in last.

Source: normalisation and run length of GPT-3's overlap analysis (arXiv:2005.14165, appendix C).
"""

import hashlib
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from cuvee.arrays import IntArray, KeyArray

_ByteArray = npt.NDArray[np.uint8]

_GAP = 0
"""Stands between texts; no text holds it (`rows` rejects NUL)."""
_PIECE = 8
_FOLDED = 512
"""Bytes of a word that are folded; longer words are hashed one by one."""
_LETTERS_END = 0x33480
_SELECTORS = range(0xE0100, 0xE01F0)
"""Code points from _LETTERS_END on that are assigned and no private use: they part no words."""
_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_LAST = np.uint64(0x94D049BB133111EB)
_SHIFT = np.uint64(32)


@dataclass(frozen=True, slots=True)
class Words:
    """The words of some texts, hashed, one text after the other."""

    hashes: KeyArray
    """(n_words,)"""
    n_words: IntArray
    """(n_texts,) words of each."""

    def runs(self, length: int) -> tuple[KeyArray, IntArray]:
        """Hash all runs of so many words within one text.

        Args:
            length: Words of a run, at least 1.

        Returns:
            (n_runs,) hashes, and (n_runs,) positions of their texts, ascending.
        """
        n_runs = len(self.hashes) - length + 1
        if n_runs < 1:
            return np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64)
        text = np.repeat(np.arange(len(self.n_words)), self.n_words)
        whole = text[:n_runs] == text[length - 1 :]
        return _finish(_rolled(self.hashes, length)[whole], length), text[:n_runs][whole]

    def whole(self, longest: int) -> tuple[KeyArray, IntArray]:
        """Hash texts of few words as one run each.

        Args:
            longest: Texts of more words are left out, and so are those of none.

        Returns:
            (n_found,) hashes, equal to those of `runs` of their length, and positions.
        """
        first = np.cumsum(self.n_words) - self.n_words
        hashes, texts = [np.zeros(0, dtype=np.uint64)], [np.zeros(0, dtype=np.int64)]
        for length in range(1, longest + 1):
            own = np.flatnonzero(self.n_words == length)
            if len(own):
                rolled = np.zeros(len(own), dtype=np.uint64)
                for place in range(length):
                    rolled = rolled * _ODD + self.hashes[first[own] + place]
                hashes.append(_finish(rolled, length))
                texts.append(own)
        return np.concatenate(hashes), np.concatenate(texts)


def hash_words(texts: Sequence[str]) -> Words:
    """Part texts in words and hash them.

    Args:
        texts: (n_texts,) valid Unicode without NUL.

    Returns:
        Their words.
    """
    is_ascii = np.fromiter((text.isascii() for text in texts), dtype=np.bool_, count=len(texts))
    parts = []
    for places, plain in ((np.flatnonzero(is_ascii), True), (np.flatnonzero(~is_ascii), False)):
        if len(places):
            content = _normalised([texts[place] for place in places.tolist()], plain=plain)
            parts.append((places, *_hash_content(content)))
    if len(parts) == 1:
        return Words(hashes=parts[0][1], n_words=parts[0][2])
    return _in_order(parts, len(texts))


def _in_order(parts: Sequence[tuple[IntArray, KeyArray, IntArray]], n_texts: int) -> Words:
    """Put the words of texts hashed apart in the order of the texts."""
    counts = np.zeros(n_texts, dtype=np.int64)
    for places, _, n_words in parts:
        counts[places] = n_words
    starts = np.cumsum(counts) - counts
    hashes = np.empty(int(counts.sum()), dtype=np.uint64)
    for places, own, n_words in parts:
        shift = starts[places] - (np.cumsum(n_words) - n_words)
        hashes[np.arange(len(own)) + np.repeat(shift, n_words)] = own
    return Words(hashes=hashes, n_words=counts)


def _normalised(texts: Sequence[str], *, plain: bool) -> bytes:
    """Join texts with gaps: lowercase, words parted by one space or more, no punctuation."""
    joined = "\0".join(texts)
    if not plain:
        joined = _mapped(joined)
    table, removed = _ascii_table()
    return b"\0" + joined.encode("utf-8").translate(table, removed) + b"\0"


@cache
def _ascii_table() -> tuple[bytes, bytes]:
    """Return the map of single bytes and the bytes that go: ASCII only, others stay."""
    table = bytearray(range(256))
    removed = bytearray()
    for code, point in enumerate(_code_points()[:128].tolist()):
        if point == ord("!") and code != _GAP:
            removed.append(code)
        elif code != _GAP:
            table[code] = point
    return bytes(table), bytes(removed)


def _mapped(text: str) -> str:
    """Map what is beyond ASCII: to lower case, white space to a space, marks to one that goes."""
    points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4").copy()
    beyond = np.flatnonzero(points >= 128)
    points[beyond] = _code_points()[points[beyond]]
    return points.tobytes().decode("utf-32-le")


@cache
def _code_points() -> npt.NDArray[np.uint32]:
    """Return (n_code_points,) what each becomes; ``!`` stands for all that is removed."""
    points = np.full(sys.maxunicode + 1, ord("!"), dtype=np.uint32)
    for code in (*range(_LETTERS_END), *_SELECTORS):
        char = chr(code)
        if char.isspace():
            points[code] = ord(" ")
        elif unicodedata.category(char)[0] not in "PSC":
            lower = char.lower()
            points[code] = ord(lower) if len(lower) == 1 else code
    return points


def _hash_content(content: bytes) -> tuple[KeyArray, IntArray]:
    """Hash the words of joined texts; return them and the number of words of each text."""
    letters = np.frombuffer(content, dtype=np.uint8)
    between = letters <= ord(" ")
    edges = np.flatnonzero(between[1:] != between[:-1]) + 1
    starts, ends = edges[::2], edges[1::2]
    gaps = np.flatnonzero(letters == _GAP)
    counts = np.diff(np.searchsorted(starts, gaps))
    return _hash_spans(content, starts, ends - starts), counts.astype(np.int64)


def _hash_spans(content: bytes, starts: IntArray, lengths: IntArray) -> KeyArray:
    padded = np.frombuffer(content + bytes(_PIECE), dtype=np.uint8)
    pieces = np.ndarray(
        len(padded) - _PIECE + 1, dtype="<u8", buffer=padded, strides=(1,)
    )  # every eight bytes in a row, without a copy
    hashes = _fold(np.zeros(len(starts), dtype=np.uint64), pieces[starts] & _mask(lengths))
    left = np.flatnonzero(lengths > _PIECE)
    for done in range(_PIECE, _FOLDED, _PIECE):
        if not len(left):
            return hashes
        piece = pieces[starts[left] + done] & _mask(lengths[left] - done)
        hashes[left] = _fold(hashes[left], piece)
        left = left[lengths[left] > done + _PIECE]
    for place in left.tolist():
        word = content[int(starts[place]) : int(starts[place] + lengths[place])]
        hashes[place] = int.from_bytes(hashlib.blake2b(word, digest_size=8).digest(), "little")
    return hashes


def _mask(lengths: IntArray) -> KeyArray:
    return _MASKS[np.minimum(lengths, _PIECE)]


_MASKS: KeyArray = np.array([(1 << (8 * n)) - 1 for n in range(_PIECE + 1)], dtype=np.uint64)


def _fold(hashes: KeyArray, pieces: KeyArray) -> KeyArray:
    """Take eight more bytes into each hash; for equal hashes a bijection of the bytes."""
    mixed = (hashes ^ pieces) * _ODD
    mixed ^= mixed >> _SHIFT
    mixed *= _MIX
    mixed ^= mixed >> _SHIFT
    return mixed + _LAST


def _rolled(hashes: KeyArray, length: int) -> KeyArray:
    """Return the polynomial of every run, those over the end of a text too."""
    span, runs = 1, hashes
    made, n_made = np.zeros(len(hashes) + 1, dtype=np.uint64), 0
    while True:
        if length & span:  # runs of this span before those made of the smaller bits
            made = runs[: len(runs) - n_made] * _power(n_made) + made[span:]
            n_made += span
        if n_made == length:
            return made
        runs = runs[:-span] * _power(span) + runs[span:]
        span *= 2


def _power(exponent: int) -> np.uint64:
    return np.uint64(pow(int(_ODD), exponent, 2**64))


def _finish(rolled: KeyArray, length: int) -> KeyArray:
    mixed = (rolled ^ np.uint64(length)) * _MIX
    mixed ^= mixed >> _SHIFT
    mixed *= _LAST
    return mixed
