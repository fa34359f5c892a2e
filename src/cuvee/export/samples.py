"""Token streams cut into samples of one length, for trainers that know no documents."""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from cuvee.export.exporter import Chunk, Place, Written

SampleArray = npt.NDArray[np.int32]
_LARGEST_SHARD = 64 << 20
"""What MosaicML's and Lightning's writers begin a new shard at."""


class PackedSamples:
    """Packs documents, one behind the other, into samples, and samples into shards.

    The last sample of a set is filled up with end-of-text; nothing else is added and nothing cut
    off.
    """

    def __init__(
        self,
        place: Place,
        *,
        length: int,
        name_of: Callable[[int], str],
        write: Callable[[int, SampleArray], None],
    ) -> None:
        """Start empty.

        Args:
            place: Says which id fills the last sample, and how large files are.
            length: Tokens of a sample.
            name_of: Path of a shard by number, relative to the export.
            write: Writes a shard: its number and its (n_samples, length) tokens.
        """
        self._length = length
        self._end = place.end_of_text
        self._per_shard = samples_per_shard(place, length)
        self._name_of, self._write = name_of, write
        self._waiting: list[SampleArray] = []
        self._n_waiting = 0
        self._n_tokens = 0
        self._n_shards = 0

    def add(self, chunk: Chunk) -> Written:
        """Append documents."""
        lengths = chunk.n_tokens
        starts = self._n_tokens + np.cumsum(lengths) - lengths
        self._n_tokens += int(lengths.sum())
        self._waiting.append(chunk.ids.astype(np.int32))
        self._n_waiting += len(chunk.ids)
        shard_tokens = self._per_shard * self._length
        if self._n_waiting >= shard_tokens:
            tokens = np.concatenate(self._waiting)
            n_whole = len(tokens) // shard_tokens
            for shard in tokens[: n_whole * shard_tokens].reshape(n_whole, -1, self._length):
                self._put(shard)
            rest = tokens[n_whole * shard_tokens :]
            self._waiting, self._n_waiting = [rest.copy()], len(rest)
        shard = starts // shard_tokens
        first = int(shard[0])
        return Written(
            files=[self._name_of(number) for number in range(first, int(shard[-1]) + 1)],
            file=np.asarray(shard - first, dtype=np.int64),
            row=starts % shard_tokens // self._length,
        )

    def close(self) -> None:
        """Fill up the last sample and write the last shard."""
        if self._n_waiting:
            missing = -self._n_waiting % self._length
            fill = np.full(missing, self._end, dtype=np.int32)
            self._put(np.concatenate([*self._waiting, fill]).reshape(-1, self._length))
        self._waiting, self._n_waiting = [], 0

    def _put(self, samples: SampleArray) -> None:
        self._write(self._n_shards, samples)
        self._n_shards += 1


def samples_per_shard(place: Place, length: int) -> int:
    """Return how many samples a shard holds."""
    return max(1, min(place.config.file_bytes, _LARGEST_SHARD) // (4 * length))


def n_samples(n_tokens: int, length: int) -> int:
    """Return how many samples hold the tokens, the last one filled up."""
    return -(-n_tokens // length)


def n_filled(n_tokens: int, length: int) -> int:
    """Return how many end-of-text fill the last sample."""
    return -n_tokens % length


def filled_note(filled: Mapping[str, int]) -> list[str]:
    """Say how many end-of-text fill the last samples, by set."""
    total = sum(filled.values())
    return [f"filling the last sample of each set: {total:,} end-of-text"] if total else []
