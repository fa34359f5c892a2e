"""Damped curvature undone: closed form in Kronecker eigenbases, or conjugate gradients.

Gauss-Newton: H = mean over tokens of J^T (diag(p) - p p^T) J, J the Jacobian of a token's logits in
the tracked matrices, terms between layers included.
"""

import importlib
import logging
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from cuvee.errors import DataError
from cuvee.influence.batches import Batch, Document, chunks
from cuvee.influence.blocks import Block
from cuvee.influence.gradient import product, zeros
from cuvee.influence.head import curvature_product
from cuvee.influence.intercept import LinearMap
from cuvee.influence.model import CausalModel, Layer
from cuvee.influence.passes import backward_tokens, hidden_states, running
from cuvee.influence.vectors import dot

logger = logging.getLogger(__name__)
Values: TypeAlias = dict[str, Tensor]
"""One (n_out, n_in) matrix per layer, float64."""
Operator: TypeAlias = Callable[[Values], Values]


class BlockCurvature(Protocol):
    """Curvature of one block, and its damped inverse."""

    @property
    def block(self) -> Block:
        """Whose."""

    @property
    def eigenvalues(self) -> Tensor:
        """(n_out, n_in); damping is relative to their mean."""

    def solve(self, rows: Tensor, damping: float) -> Tensor:
        """Return (H + damping)^-1 of the block's rows, (n_out, n_in)."""


@dataclass(frozen=True, slots=True, eq=False)
class EigenBlock:
    """Curvature of a block in its eigenbasis: (Q_S (x) Q_A) diag(L) (Q_S (x) Q_A)^T."""

    block: Block
    q_out: Tensor
    """Q_S, (n_out, n_out); columns are eigenvectors."""
    q_in: Tensor
    """Q_A, (n_in, n_in)."""
    eigenvalues: Tensor
    """L, (n_out, n_in)."""

    def solve(self, rows: Tensor, damping: float) -> Tensor:
        """Return Q_S [(Q_S^T G Q_A) / (L + damping)] Q_A^T."""
        inner = self.q_out.t() @ rows @ self.q_in
        return self.q_out @ (inner / (self.eigenvalues + damping)) @ self.q_in.t()


def solve_blocks(
    blocks: Iterable[BlockCurvature], values: Mapping[str, Tensor], dampings: Iterable[float]
) -> Values:
    """Solve each block by itself.

    Args:
        blocks: Curvature.
        values: Right-hand side, one matrix per layer.
        dampings: Added to the eigenvalues of each block.
    """
    solved = {name: torch.zeros_like(value) for name, value in values.items()}
    for part, damping in zip(blocks, dampings, strict=True):
        part.block.scatter(part.solve(part.block.gather(values), damping), solved)
    return solved


def eigen(covariance: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (none below 0) and eigenvectors in float64.

    Raises:
        DataError: The matrix is not finite.
    """
    if not torch.isfinite(covariance).all():
        raise DataError(
            f"the covariance of {name} is not finite. Look for inputs or gradients that are not: "
            "a broken checkpoint, or a precision too narrow for this model."
        )
    values, vectors = torch.linalg.eigh(covariance.double())
    return values.clamp_(min=0), vectors


def gauss_newton_product(
    model: CausalModel, layers: tuple[Layer, ...], sample: Iterable[Document], values: Values
) -> Values:
    """Multiply the Gauss-Newton matrix of a sample with a vector, exactly.

    A forward pass with forward-mode derivatives, then a forward and a backward pass.

    Args:
        model: The model.
        layers: Tracked matrices.
        sample: Documents the matrix is the mean over.
        values: The vector.

    Returns:
        H v, mean over predicted tokens, float64.
    """
    _load_forward_mode()
    total = zeros(model, layers)
    n_tokens = 0
    for chunk in chunks(model, sample):
        n_tokens += int(chunk.n_predicted.sum())
        for batch in chunk.batches():
            _add_product(model, layers, batch, values, total)
    if n_tokens == 0:
        raise DataError("the sample has no predicted token. Give documents of 2 or more.")
    return {name: value / n_tokens for name, value in total.items()}


def conjugate_gradients(
    operator: Operator, precondition: Operator, right: Values, steps: int
) -> Values:
    """Approximate the solution of operator(x) = right.

    Args:
        operator: Symmetric positive definite.
        precondition: Approximates its inverse, symmetric positive definite too; its answer to
            ``right`` is where the steps start.
        right: Right-hand side.
        steps: Products with the operator after the first; fewer if the residual vanishes.

    Source: Hestenes, Stiefel, "Methods of conjugate gradients for solving linear systems" (1952),
        with a preconditioner.
    """
    x = precondition(right)
    residual = _plus(right, operator(x), -1.0)
    z = precondition(residual)
    direction, old = z, _dot(residual, z)
    scale = math.sqrt(_dot(right, right))
    for step in range(steps):
        if old <= 0 or math.sqrt(_dot(residual, residual)) < 1e-14 * scale:
            break
        curved = operator(direction)
        length = old / _dot(direction, curved)
        x = _plus(x, direction, length)
        residual = _plus(residual, curved, -length)
        z = precondition(residual)
        new = _dot(residual, z)
        direction, old = _plus(z, direction, new / old), new
        error = math.sqrt(_dot(residual, residual)) / scale
        logger.info("conjugate gradients: step %d, relative residual %.3g", step + 1, error)
    return x


def _add_product(
    model: CausalModel, layers: tuple[Layer, ...], batch: Batch, values: Values, total: Values
) -> None:
    """Add J^T (diag(p) - p p^T) J v of a batch: J v by forward mode, J^T by a backward pass."""
    change = _hidden_change(model, layers, batch, values)

    def pull(hidden: Tensor, head: Tensor | None) -> Tensor:
        weights = batch.is_text.to(hidden.dtype)
        return curvature_product(hidden, change.to(hidden.dtype), head, weights)

    def add(name: str, inputs: Tensor, grads: Tensor) -> None:
        total[name] += product(grads, inputs)

    backward_tokens(model, layers, batch, pull, add)


def _hidden_change(
    model: CausalModel, layers: tuple[Layer, ...], batch: Batch, values: Values
) -> Tensor:
    """Return (N, C), the derivative of the last hidden states along a vector of matrices."""

    def dual(use: LinearMap) -> Tensor:
        change = values[use.name].to(use.weight)
        weight = forward_ad.make_dual(use.weight, change)  # type: ignore[no-untyped-call]
        return F.linear(use.x, weight, use.bias)

    exact = sdpa_kernel(SDPBackend.MATH)  # the others have no forward-mode derivative
    with exact, torch.no_grad(), forward_ad.dual_level():
        with running(model, layers, batch, dual, changing=True):
            hidden, _ = hidden_states(model, batch)
        change = forward_ad.unpack_dual(hidden).tangent  # type: ignore[no-untyped-call]
        assert change is not None, "a tracked matrix is part of every forward pass"
        found: Tensor = change
        return found.clone()


def _load_forward_mode() -> None:
    """Let torch load its forward-mode rules, without its warning about its own compiler."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        importlib.import_module("torch._decomp.decompositions_for_jvp")


def _plus(left: Values, right: Values, scale: float) -> Values:
    return {name: value + scale * right[name] for name, value in left.items()}


def _dot(left: Values, right: Values) -> float:
    return dot(left.values(), right.values())
