"""Diagonal curvature: the Fisher information of every weight by itself.

L_ij = mean G_ij^2 over windows G = sum_t g_t a_t^T, per token as the factors' means are, and with
labels drawn alike: EK-FAC's corrected eigenvalues with the weights' own axes for eigenvectors. One
pass over the sample, no eigendecomposition, (n_out, n_in) numbers a block.

Source: LeCun, Denker, Solla, "Optimal brain damage" (NIPS 1989), the diagonal approximation; George
    et al. (arXiv:1806.03884), Sec. 3, of which it is the case Q = I.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from cuvee.errors import DataError
from cuvee.influence.batches import Batch, Document
from cuvee.influence.blocks import Block
from cuvee.influence.factor_sums import FactorSums
from cuvee.influence.kept_tokens import KeptTokens
from cuvee.influence.kron import KroneckerFactors, Labels, Squares
from cuvee.influence.model import CausalModel, Where
from cuvee.influence.passes import window_gradients
from cuvee.influence.solve import BlockCurvature, EigenBlock
from cuvee.randomness import integer_seed


@dataclass(frozen=True, slots=True, eq=False)
class DiagonalBlock:
    """Curvature of a block's weights, terms between them left out."""

    block: Block
    eigenvalues: Tensor
    """L, (n_out, n_in)."""

    def solve(self, rows: Tensor, damping: float) -> Tensor:
        """Return G / (L + damping)."""
        return rows / (self.eigenvalues + damping)


class DiagonalFisher(KroneckerFactors):
    """Diagonal curvature of the loss on a sample of training text, and its damped inverse.

    Solved, saved, loaded and added up as `KroneckerFactors` are, which files of these are not.
    """

    def __init__(
        self, model: CausalModel, where: Where = "attention", *, labels: Labels = "sampled"
    ) -> None:
        """Choose what is fitted.

        Args:
            model: The model.
            where: Which matrices.
            labels: As of `KroneckerFactors`.
        """
        super().__init__(model, where, labels=labels)

    def fit(
        self, sample: Iterable[Document], *, rng: np.random.Generator, keep_bytes: int = 0
    ) -> Self:
        """Go through a sample once.

        Args:
            sample: Token ids of documents of the training distribution.
            rng: Source of the labels' seed.
            keep_bytes: Not used: there is no second pass.

        Raises:
            DataError: The sample has no predicted token, or gives numbers that are not finite.
        """
        return self.fit_eigenvalues(sample, label_seed=integer_seed(rng))

    def fit_eigenvalues(self, sample: Iterable[Document], *, label_seed: int) -> Self:
        """Sum G^2 over windows; files of two samples add up."""
        self._take(FactorSums(identity=self._identity(label_seed)))
        self._fit_eigenvalues(sample, label_seed, KeptTokens(0))
        sums = self._fitted()
        if sums.n_tokens_squares == 0:
            raise DataError("the sample has no predicted token. Give documents of 2 or more.")
        for name, value in sums.squares.items():
            if not torch.isfinite(value).all():
                raise DataError(
                    f"the squared gradients of {name} are not finite. Look for inputs or gradients "
                    "that are not: a broken checkpoint, or a precision too narrow for this model."
                )
        return self

    def fit_covariances(self, sample: Iterable[Document], *, label_seed: int) -> Self:
        """Refuse: there are none.

        Raises:
            DataError: Always.
        """
        raise DataError("diagonal curvature has no covariances. Call fit() or fit_eigenvalues().")

    def _bases(self) -> Mapping[str, Squares]:
        return {block.name: _Axes(block, self.model) for block in self.blocks}

    def _curvature(self) -> Sequence[BlockCurvature]:
        sums = self._fitted()
        return [
            DiagonalBlock(block, sums.squares[block.name] / sums.n_tokens_squares)
            for block in self.blocks
        ]

    def _eigen_blocks(self) -> list[EigenBlock]:
        return [
            EigenBlock(
                part.block,
                torch.eye(part.block.n_out).to(part.eigenvalues),
                torch.eye(part.block.n_in).to(part.eigenvalues),
                part.eigenvalues,
            )
            for part in self._curvature()
        ]

    def _identity(self, label_seed: int) -> dict[str, str]:
        names: dict[str, list[str]] = {
            "inputs": [],
            "outputs": [block.name for block in self.blocks],
        }
        own = {"layers": json.dumps(names), "basis": "weights"}
        return super()._identity(label_seed) | own


class _Axes:
    """The weights' own axes as the basis in which gradients are squared."""

    def __init__(self, block: Block, model: CausalModel) -> None:
        self._shape = (block.n_out, block.n_in)
        self._dtype = torch.float64 if model.dtype == torch.float64 else torch.float32

    def squares(self, batch: Batch, rows: Tensor, grads: Tensor) -> Tensor:
        """Return the sum over windows of G^2, (n_out, n_in)."""
        rows, grads = rows.to(self._dtype), grads.to(self._dtype)
        total = rows.new_zeros(self._shape)
        for each in window_gradients(batch, rows, grads):
            total.addcmul_(each, each)
        return total
