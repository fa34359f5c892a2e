"""Gradients and directions: one matrix per tracked layer, bound to model and tokenizer."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cuvee.errors import ArtifactError, DataError

FORMAT = "cuvee influence vector 1"


@dataclass(frozen=True, eq=False, slots=True)
class LayerVector:
    """A gradient, or a direction in weight space, of the tracked matrices."""

    values: Mapping[str, Tensor]
    """By parameter name, in the model's order: (n_out, n_in)."""
    weights: str
    """Digest of the tracked matrices it was computed at."""
    tokenizer: str
    """Digest of the tokenizer."""

    def dot(self, other: Self) -> float:
        """Return the inner product over all layers, summed in float64."""
        check_same(self, other, "vectors")
        return dot(self.values.values(), other.values.values())

    @property
    def norm(self) -> float:
        """Euclidean length."""
        return math.sqrt(dot(self.values.values(), self.values.values()))

    def with_values(self, values: Iterable[Tensor]) -> Self:
        """Return a vector of the same layers with other numbers."""
        return replace(self, values=dict(zip(self.values, values, strict=True)))

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        metadata = {"format": FORMAT, "weights": self.weights, "tokenizer": self.tokenizer}
        metadata["layers"] = json.dumps(list(self.values))
        save_file({name: value.contiguous() for name, value in self.values.items()}, path, metadata)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ArtifactError: The file is none of these.
        """
        tensors, metadata = read_tensors(path, FORMAT)
        values = {name: tensors[name] for name in json.loads(metadata["layers"])}
        return cls(values, metadata["weights"], metadata["tokenizer"])


def dot(left: Iterable[Tensor], right: Iterable[Tensor]) -> float:
    """Return the inner product of two lists of tensors, summed in float64."""
    return float(
        sum((a.double() * b.double()).sum().item() for a, b in zip(left, right, strict=True))
    )


def check_same(known: LayerVector, found: LayerVector, what: str) -> None:
    """Refuse two vectors of different layers, weights or tokenizers.

    Raises:
        DataError: They differ; the message says in what.
    """
    for key, wanted, got in (
        ("layers", layer_shapes(known), layer_shapes(found)),
        ("weights", known.weights, found.weights),
        ("tokenizer", known.tokenizer, found.tokenizer),
    ):
        if wanted != got:
            raise DataError(
                f"{what} are of different {key} ({_difference(wanted, got)}). Compute all of them "
                "with one model, one tokenizer and the same `where`."
            )


def layer_shapes(vector: LayerVector) -> list[tuple[str, tuple[int, ...]]]:
    """Return names and shapes in order."""
    return [(name, tuple(value.shape)) for name, value in vector.values.items()]


def read_tensors(path: Path, wanted: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata of a safetensors file of a stated format.

    Raises:
        ArtifactError: It cannot be read or is of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}). Write it again.") from error
    if metadata.get("format") != wanted:
        raise ArtifactError(
            f"{path} is of format {metadata.get('format', 'unknown')!r}, not {wanted!r}. Give a "
            "file that this version wrote."
        )
    return tensors, metadata


def stack(vectors: Iterable[LayerVector], name: str, like: Tensor) -> Tensor:
    """Return one layer's matrices of several vectors, (n_vectors, n_out, n_in), typed as `like`."""
    return torch.stack([vector.values[name].to(like) for vector in vectors])


def _difference(wanted: object, got: object) -> str:
    if isinstance(wanted, list) and isinstance(got, list):
        first = next((pair for pair in zip(wanted, got, strict=False) if pair[0] != pair[1]), None)
        if first is None:
            return f"{len(wanted)} layers against {len(got)}"
        return f"{first[0]} against {first[1]}"
    return f"{str(wanted)[:12]!r} against {str(got)[:12]!r}"
