"""What a second pass over the same sample need not compute again."""

from typing import TypeAlias

from torch import Tensor

BlockTokens: TypeAlias = list[tuple[Tensor, Tensor]]
"""By block: inputs (N, n_in) and output gradients (N, n_out) of a batch, padding included."""


class KeptTokens:
    """Tokens of the first batches, as many as a budget of memory holds."""

    def __init__(self, n_bytes: int) -> None:
        self._room = n_bytes
        self._batches: list[BlockTokens] = []

    def add(self, tokens: BlockTokens) -> BlockTokens:
        """Keep a batch if there is room for it and all before it were kept; return it."""
        tensors = {id(tensor): tensor for pair in tokens for tensor in pair}
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        self._room = self._room - size if size <= self._room else -1
        if self._room >= 0:
            self._batches.append(tokens)
        return tokens

    def next(self) -> BlockTokens | None:
        """Hand over the next batch, or None where it was not kept."""
        return self._batches.pop(0) if self._batches else None
