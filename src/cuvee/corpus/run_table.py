"""The runs of words of target sets, in a sorted table of hashes that workers share on disk."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

import numpy as np
import numpy.typing as npt

from cuvee import artifacts
from cuvee.arrays import IntArray, KeyArray
from cuvee.artifacts import Json
from cuvee.corpus.pool import PoolConfig, Shard, list_shards
from cuvee.corpus.read import read_batches
from cuvee.corpus.scan import check_unchanged, reading_settings
from cuvee.corpus.word_runs import hash_words
from cuvee.errors import DataError

_HASHES, _SETS, _BITMAP, _ABOUT = "hashes.npy", "sets.npy", "bitmap.npy", "about.json"
_BITS_PER_RUN = 32
"""Bits of the bitmap a run: one run in so many that are not in the table passes it."""


_MERGED_AT = 2**22

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunTable:
    """The runs of words of all target sets."""

    names: tuple[str, ...]
    """(n_sets,) of the target sets."""
    n: int
    """Words of a run."""
    lengths: tuple[int, ...]
    """Words of the runs documents are searched for: n, and those of whole shorter targets."""
    hashes: KeyArray
    """(n_entries,) ascending; a run of two sets stands twice."""
    sets: npt.NDArray[np.uint16]
    """(n_entries,) position of the set."""
    bitmap: npt.NDArray[np.uint8]
    """(n_bytes,) a bit for each value of a hash's first bits, set where a run has them."""

    def find(self, hashes: KeyArray) -> tuple[IntArray, IntArray]:
        """Look runs up.

        Args:
            hashes: (n_runs,)

        Returns:
            (n_matches,) positions of the runs that are in the table, one for each set, and
            (n_matches,) their entries.
        """
        bits = _first_bits(hashes, len(self.bitmap))
        is_set = (self.bitmap[bits >> 3] >> (bits & 7).astype(np.uint8)) & 1
        maybe = np.flatnonzero(is_set)
        first = np.searchsorted(self.hashes, hashes[maybe])
        is_in = self.hashes[np.minimum(first, len(self.hashes) - 1)] == hashes[maybe]
        maybe, first = maybe[is_in], first[is_in]
        times = np.searchsorted(self.hashes, hashes[maybe], side="right") - first
        within = np.arange(int(times.sum())) - np.repeat(np.cumsum(times) - times, times)
        return np.repeat(maybe, times), np.repeat(first, times) + within

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a finished folder; its arrays stay on disk."""
        about = cast(dict[str, Json], artifacts.read_json(folder / _ABOUT))
        hashes, sets, bitmap = (
            np.asarray(np.load(folder / name, mmap_mode="r", allow_pickle=False))
            for name in (_HASHES, _SETS, _BITMAP)
        )
        return cls(
            names=tuple(cast(Sequence[str], about["names"])),
            n=cast(int, about["n"]),
            lengths=tuple(cast(Sequence[int], about["lengths"])),
            hashes=hashes,
            sets=sets,
            bitmap=bitmap,
        )


def make_table(targets: Mapping[str, PoolConfig], folder: Path, *, n: int, shortest: int) -> Path:
    """Hash the runs of target sets; a finished folder is not made again.

    Args:
        targets: Target sets by name, read like pools.
        folder: The table's artefact folder.
        n: Words of a run.
        shortest: Targets of at least so many words and fewer than n are runs of their own length;
            shorter ones match whole documents only.

    Returns:
        The folder.

    Raises:
        DataError: A shard is missing or damaged, or a set has no words.
        ArtifactError: The folder was made of something else.
    """
    shards = {name: list_shards(targets[name], domain=name) for name in sorted(targets)}
    settings: dict[str, Json] = {
        "n": n,
        "shortest": shortest,
        "sets": {
            name: [reading_settings(shard, targets[name]) for shard in own]
            for name, own in shards.items()
        },
    }
    check_unchanged(folder, settings)
    if artifacts.is_done(folder):
        return folder
    with artifacts.writing(folder, stage="overlap", settings=settings, seed=0, inputs={}) as aside:
        lengths, parts = {n}, []
        for name, own in shards.items():
            found, short = _runs_of_set(name, own, targets[name], n)
            lengths |= {length for length in short if length >= shortest}
            if not len(found):
                raise DataError(
                    f"target {name!r} has no words in column {targets[name].text!r}; name the "
                    "column of its text, or leave it out."
                )
            parts.append(found)
        hashes = np.concatenate(parts)
        sets = np.repeat(np.arange(len(parts), dtype=np.uint16), [len(one) for one in parts])
        order = np.argsort(hashes, kind="stable")
        np.save(aside / _HASHES, hashes[order])
        np.save(aside / _SETS, sets[order])
        np.save(aside / _BITMAP, _make_bitmap(hashes))
        about: Json = {"names": list(shards), "n": n, "lengths": sorted(lengths)}
        artifacts.write_json(aside / _ABOUT, about)
    return folder


def _runs_of_set(
    name: str, shards: Sequence[Shard], config: PoolConfig, n: int
) -> tuple[KeyArray, set[int]]:
    """Return the different runs of a set, and the lengths of its texts of fewer words than n."""
    found, waiting, n_waiting = np.zeros(0, dtype=np.uint64), [np.zeros(0, dtype=np.uint64)], 0
    short: set[int] = set()
    n_rejects = 0
    for shard in shards:
        for batch in read_batches(shard, config):
            n_rejects += len(batch.rejects)
            words = hash_words(batch.texts)
            short.update(words.n_words[words.n_words < n].tolist())
            waiting += [words.runs(n)[0], words.whole(n - 1)[0]]
            n_waiting += len(waiting[-2]) + len(waiting[-1])
            if n_waiting > max(len(found), _MERGED_AT):  # sorted again only when doubled
                found, waiting, n_waiting = np.unique(np.concatenate([found, *waiting])), [], 0
    if n_rejects:
        logger.warning(
            "target %r: %d rows cannot be read and are not looked for; `cuvee label` lists them",
            name,
            n_rejects,
        )
    return np.unique(np.concatenate([found, *waiting])), short


def _make_bitmap(hashes: KeyArray) -> npt.NDArray[np.uint8]:
    n_bits = 2 ** int(np.ceil(np.log2(max(_BITS_PER_RUN * len(hashes), 64))))
    bitmap = np.zeros(n_bits // 8, dtype=np.uint8)
    bits = _first_bits(hashes, len(bitmap))
    np.bitwise_or.at(bitmap, bits >> 3, np.uint8(1) << (bits & 7).astype(np.uint8))
    return bitmap


def _first_bits(hashes: KeyArray, n_bytes: int) -> IntArray:
    """Return each hash's first bits as a position in a bitmap of so many bytes, a power of 2."""
    n_bits = n_bytes.bit_length() + 2
    return (hashes >> np.uint64(64 - n_bits)).astype(np.int64)
