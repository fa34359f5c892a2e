"""Tensors that a training step writes again and again, so that no memory is asked for in it."""

import torch
from torch import Tensor


class Buffers:
    """Buffers whose first axis follows the number of sequences at work.

    A smaller batch uses the front of the same memory; every buffer stays contiguous.
    """

    def __init__(self, n_sequences: int, dtype: torch.dtype) -> None:
        """Start with no buffer.

        Args:
            n_sequences: The most that will be at work at once.
            dtype: Of matrix products, and so of most buffers.
        """
        self.dtype = dtype
        self._n_sequences = n_sequences
        self._owned: list[tuple[Tensor, int, tuple[int, ...]]] = []
        self._shared: dict[str, Tensor] = {}

    def new(self, rows: int, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Return a buffer (n_sequences * rows, *shape) of its own."""
        buffer = torch.empty(self._n_sequences * rows, *shape, dtype=dtype or self.dtype)
        self._owned.append((buffer, rows, shape))
        return buffer

    def shared(self, name: str, rows: int, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Return the buffer of a name, for what is used up before another layer writes it."""
        if name not in self._shared:
            self._shared[name] = self.new(rows, *shape, dtype=dtype)
        return self._shared[name]

    def resize(self, n_sequences: int) -> None:
        """Set the number of sequences at work; no more than at the start."""
        if n_sequences != self._n_sequences:
            for buffer, rows, shape in self._owned:
                buffer.resize_(n_sequences * rows, *shape)
            self._n_sequences = n_sequences
