"""Which rows of which matrices share one output-gradient factor.

A block is one Kronecker product S (x) A: rows of matrices that read one input. Query, key and value
are one block where they are fused, with the terms between them; three where they are separate.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from cuvee.errors import ConfigError
from cuvee.influence.model import Layer, is_attention

QueryKeyValue: TypeAlias = Literal["fused", "separate"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows start to stop of a layer's matrix."""

    layer: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Block:
    """Pieces one over another: G (n_out, n_in) with curvature S (x) A."""

    pieces: tuple[Piece, ...]
    group: int
    """Number of the input factor A."""
    n_in: int

    @property
    def name(self) -> str:
        """Layers and rows, as files name them."""
        return "+".join(f"{piece.layer}[{piece.start}:{piece.stop}]" for piece in self.pieces)

    @property
    def n_out(self) -> int:
        """Rows of all pieces."""
        return sum(piece.stop - piece.start for piece in self.pieces)

    def gather(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the block's rows of a vector of layers, (n_out, n_in)."""
        return torch.cat([values[p.layer][p.start : p.stop] for p in self.pieces])

    def scatter(self, rows: Tensor, values: Mapping[str, Tensor]) -> None:
        """Write rows (n_out, n_in) to their places in the matrices."""
        sizes = [piece.stop - piece.start for piece in self.pieces]
        for piece, part in zip(self.pieces, torch.split(rows, sizes), strict=True):
            values[piece.layer][piece.start : piece.stop] = part


def make_blocks(
    layers: Sequence[Layer],
    query_key_value: QueryKeyValue,
    splits: Mapping[str, Sequence[int]] | None = None,
) -> tuple[Block, ...]:
    """Divide the tracked matrices into blocks.

    Args:
        layers: Tracked matrices.
        query_key_value: "fused": attention projections of one input are one block. "separate": each
            is a block, and a matrix that holds all three is cut.
        splits: Rows of query, key and value in a fused matrix, by parameter name; by default as
            many query rows as the matrix has columns, the rest halved.

    Raises:
        ConfigError: A choice is unknown, or rows of a fused matrix cannot be told apart.
    """
    if query_key_value not in ("fused", "separate"):
        raise ConfigError(
            f"query_key_value={query_key_value!r} is unknown; allowed: fused, separate."
        )
    if query_key_value == "separate":
        return tuple(
            Block((piece,), layer.group, layer.n_in)
            for layer in layers
            for piece in _cut(layer, splits or {})
        )
    joined: dict[tuple[int, str], list[Layer]] = {}
    for layer in layers:
        own = "" if is_attention(layer.name) else layer.name
        joined.setdefault((layer.group, own), []).append(layer)
    return tuple(
        Block(tuple(Piece(one.name, 0, one.n_out) for one in members), group, members[0].n_in)
        for (group, _), members in joined.items()
    )


def _cut(layer: Layer, splits: Mapping[str, Sequence[int]]) -> Iterable[Piece]:
    rows: Sequence[int]
    if layer.name in splits:
        rows = splits[layer.name]
    elif layer.fused:
        narrow = (layer.n_out - layer.n_in) // 2
        rows = (layer.n_in, narrow, narrow)
    else:
        rows = (layer.n_out,)
    if sum(rows) != layer.n_out or min(rows) <= 0:
        raise ConfigError(
            f"rows {tuple(rows)} do not add up to the {layer.n_out} rows of {layer.name}. Say how "
            "many are of query, key and value by `splits`."
        )
    start = 0
    for n_rows in rows:
        yield Piece(layer.name, start, start + n_rows)
        start += n_rows
