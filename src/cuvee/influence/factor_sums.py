"""What Kronecker factors are made of: sums and counts, which files keep and which add up."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import save_file
from torch import Tensor

from cuvee.errors import DataError
from cuvee.influence.vectors import read_tensors

FORMAT = "cuvee influence factors 1"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FactorSums:
    """Sums over tokens of a a^T and g g^T, and over windows of squared rotated gradients."""

    identity: Mapping[str, str]
    """Digests of weights and tokenizer, blocks, kind and seed of labels: must agree to add up."""
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    """By group: sum_t a_t a_t^T, (n_in, n_in), float64."""
    outputs: Mapping[str, Tensor] = field(default_factory=dict)
    """By block: sum_t g_t g_t^T, (n_out, n_out), float64."""
    squares: Mapping[str, Tensor] = field(default_factory=dict)
    """By block: sum over windows of (Q_S^T G Q_A)^2, (n_out, n_in), float64; empty before the
    second pass."""
    n_tokens: int = 0
    """Predicted tokens behind inputs and outputs."""
    n_tokens_squares: int = 0
    """Predicted tokens behind squares."""

    @property
    def covariance_digest(self) -> str:
        """Sha256 of inputs, outputs and their count: names the eigenbasis of the squares."""
        return _digest(f"{self.n_tokens}", self.inputs, self.outputs)

    def __add__(self, other: Self) -> Self:
        """Add the sums of two samples.

        Two first passes add up; two second passes add up if they share their first.

        Raises:
            DataError: They are of different models, layers, tokenizers, labels or eigenbases.
        """
        check_identity(self.identity, other.identity, "factors")
        if not self.squares and not other.squares:
            return replace(
                self,
                inputs=_sum(self.inputs, other.inputs),
                outputs=_sum(self.outputs, other.outputs),
                n_tokens=self.n_tokens + other.n_tokens,
            )
        if self.covariance_digest != other.covariance_digest or not (
            self.squares and other.squares
        ):
            raise DataError(
                "factors have eigenvalues in different eigenbases, which do not add up. Add the "
                "files of fit_covariances() first, then run fit_eigenvalues() on each sample."
            )
        return replace(
            self,
            squares=_sum(self.squares, other.squares),
            n_tokens_squares=self.n_tokens_squares + other.n_tokens_squares,
        )

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        metadata = {
            "format": FORMAT,
            "identity": json.dumps(dict(self.identity)),
            "n_tokens": str(self.n_tokens),
            "n_tokens_squares": str(self.n_tokens_squares),
            "digest": self._digest,
        }
        tensors = {
            f"{kind}/{name}": value.cpu().contiguous()
            for kind, values in self._kinds().items()
            for name, value in values.items()
        }
        save_file(tensors, path, metadata)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ArtifactError: The file cannot be read or is of another format.
            DataError: Its numbers are not those that were written.
        """
        tensors, metadata = read_tensors(path, FORMAT)
        kinds: dict[str, dict[str, Tensor]] = {"inputs": {}, "outputs": {}, "squares": {}}
        for key in sorted(tensors):
            kind, name = key.split("/", 1)
            kinds[kind][name] = tensors[key]
        identity = json.loads(metadata["identity"])
        order = {kind: list(names) for kind, names in json.loads(identity["layers"]).items()}
        found = cls(
            identity=identity,
            inputs={name: kinds["inputs"][name] for name in order["inputs"]},
            outputs={n: kinds["outputs"][n] for n in order["outputs"] if n in kinds["outputs"]},
            squares={n: kinds["squares"][n] for n in order["outputs"] if n in kinds["squares"]},
            n_tokens=int(metadata["n_tokens"]),
            n_tokens_squares=int(metadata["n_tokens_squares"]),
        )
        if found._digest != metadata["digest"]:
            raise DataError(f"{path} is damaged: its sums are not those written. Fit it again.")
        return found

    def to(self, device: torch.device) -> Self:
        """Return the sums on a device."""
        moved = {
            kind: {name: value.to(device) for name, value in values.items()}
            for kind, values in self._kinds().items()
        }
        return replace(
            self, inputs=moved["inputs"], outputs=moved["outputs"], squares=moved["squares"]
        )

    @property
    def _digest(self) -> str:
        return _digest(f"{self.covariance_digest} {self.n_tokens_squares}", self.squares)

    def _kinds(self) -> dict[str, Mapping[str, Tensor]]:
        return {"inputs": self.inputs, "outputs": self.outputs, "squares": self.squares}


def check_identity(wanted: Mapping[str, str], found: Mapping[str, str], what: str) -> None:
    """Refuse factors that were made of something else.

    Raises:
        DataError: The first of weights, layers, tokenizer and labels that differs.
    """
    for key in wanted:
        if wanted[key] != found.get(key):
            raise DataError(
                f"{what} are of different {key} ({wanted[key][:60]!r} against "
                f"{str(found.get(key))[:60]!r}). Fit them with one model, one tokenizer and the "
                "same settings."
            )


def _digest(text: str, *tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for values in tensors:
        for name, value in values.items():
            digest.update(name.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()


def _sum(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value + right[name].to(value.device) for name, value in left.items()}
