"""The ways to score: one backward pass, a derivative in eps, or two forward passes."""

import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cuvee.arrays import FloatArray
from cuvee.errors import CuveeWarning
from cuvee.influence.batches import Batch, Chunk
from cuvee.influence.gradient import product
from cuvee.influence.intercept import Linear, LinearMap
from cuvee.influence.model import CausalModel, Layer, matrix
from cuvee.influence.passes import against_targets, backward_tokens, hidden_states, losses, running
from cuvee.influence.vectors import LayerVector, dot, stack

Normalise = Literal["sum", "mean", "cosine"]

STEPS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""Lengths of h D in units of the tracked weights' length, tried for "difference"."""
_DISAGREEMENT = 1e-2
"""Relative difference of two steps' results above which a warning is given."""


class Scorer:
    """Directions at hand, in the model's order of layers and on its device."""

    def __init__(
        self,
        model: CausalModel,
        layers: tuple[Layer, ...],
        directions: Sequence[LayerVector],
        *,
        normalise: Normalise,
        step: float | None,
    ) -> None:
        self.model, self.layers, self.directions = model, layers, directions
        self.normalise, self.step = normalise, step
        self.steps: dict[int, float] = {}
        """Of "difference": h by direction."""
        self.like = torch.empty(0, dtype=model.dtype, device=model.device)
        if model.precision == "bfloat16":
            self.like = self.like.to(torch.bfloat16)
        self.matrices = {layer.name: stack(directions, layer.name, self.like) for layer in layers}

    def score(self, chunk: Chunk) -> FloatArray:
        """Return (n_documents, n_directions)."""
        total = torch.zeros(
            len(chunk.documents) + 1,
            len(self.directions),
            dtype=torch.float64,
            device=self.model.device,
        )
        for batch in chunk.batches():
            self.add(batch, total)
        scores: FloatArray = total[:-1].cpu().numpy()
        return scores

    def add(self, batch: Batch, total: Tensor) -> None:
        """Add the batch's tokens to (n_documents + 1, n_directions)."""
        raise NotImplementedError


class Trace(Scorer):
    """One backward pass; each layer's tokens meet the directions as they come by."""

    def score(self, chunk: Chunk) -> FloatArray:
        """Return (n_documents, n_directions), divided by lengths for cosines."""
        if self.normalise != "cosine":
            return super().score(chunk)
        self._windows = np.zeros(len(chunk.documents), dtype=np.int64)
        for spans in chunk.layouts:
            np.add.at(self._windows, [span.document for span in spans], 1)
        self._open: dict[tuple[int, str], Tensor] = {}
        self._squares = np.zeros(len(chunk.documents))
        scores = super().score(chunk)
        for (document, _), gradient in self._open.items():
            self._squares[document] += dot([gradient], [gradient])
        lengths = np.array([direction.norm for direction in self.directions])
        scale = np.sqrt(self._squares)[:, None] * lengths
        np.divide(scores, scale, out=scores, where=scale > 0)
        return scores

    def add(self, batch: Batch, total: Tensor) -> None:
        """Add g_t^T D a_t of all layers."""
        each = torch.zeros(
            len(batch.document), total.shape[1], dtype=torch.float64, device=total.device
        )

        def meet(name: str, inputs: Tensor, grads: Tensor) -> None:
            for number, direction in enumerate(self.matrices[name]):
                each[:, number] += _products(inputs, grads, direction.to(grads.dtype))
            if self.normalise == "cosine":
                self._add_lengths(batch, name, inputs, grads)

        backward_tokens(self.model, self.layers, batch, against_targets(batch), meet)
        total.index_add_(0, batch.document, each)

    def _add_lengths(self, batch: Batch, name: str, inputs: Tensor, grads: Tensor) -> None:
        """Add |G|^2 of whole documents; keep the sums of those cut in several windows."""
        width = batch.tokens.shape[1]
        for span in batch.spans:
            place = slice(span.row * width + span.start, span.row * width + span.stop)
            gradient = product(grads[place], inputs[place])
            if self._windows[span.document] == 1:
                self._squares[span.document] += dot([gradient], [gradient])
            else:
                key = (span.document, name)
                self._open[key] = self._open[key] + gradient if key in self._open else gradient


class Eps(Scorer):
    """Every tracked output is y + eps_document (D x); the scores are the gradient in eps."""

    def add(self, batch: Batch, total: Tensor) -> None:
        """Add the gradient in eps."""
        eps = torch.zeros(total.shape, dtype=torch.float32, device=total.device)
        eps = eps.to(torch.promote_types(torch.float32, self.model.dtype)).requires_grad_()

        def shifted(use: LinearMap) -> Tensor:
            out = use.plain()
            amounts = eps[batch.document].to(out.dtype).view(*use.x.shape[:-1], -1)
            for number, direction in enumerate(self.matrices[use.name]):
                change = F.linear(use.x, direction.to(use.weight.dtype))
                out = out + amounts[..., number, None] * change
            return out

        with torch.enable_grad(), running(self.model, self.layers, batch, shifted):
            hidden, head = hidden_states(self.model, batch)
        with torch.no_grad():
            grad = against_targets(batch)(hidden.detach(), head)
        (scores,) = torch.autograd.grad(hidden, eps, grad)
        total += scores


class Difference(Scorer):
    """Two forward passes a direction."""

    def add(self, batch: Batch, total: Tensor) -> None:
        """Add central differences of token losses."""
        for number, direction in enumerate(self.directions):
            if number not in self.steps:
                length = unit_length(self.model, self.layers, direction)
                self.steps[number] = length * self._chosen(batch, number, length)
            each = self._slopes(batch, number, self.steps[number])
            total[:, number].index_add_(0, batch.document, each)

    def _chosen(self, batch: Batch, number: int, length: float) -> float:
        """Return the step, and warn if the next one gives something else."""
        tried = STEPS if self.step is None else (self.step, 2 * self.step)
        found = []
        for step in tried:
            each = self._slopes(batch, number, step * length)
            scores = each.new_zeros(batch.n_documents + 1).index_add_(0, batch.document, each)
            found.append(scores[:-1])
        apart = [
            float((one - other).norm() / other.norm().clamp(min=torch.finfo(one.dtype).tiny))
            for one, other in pairwise(found)
        ]
        best = int(np.argmin(apart))
        if apart[best] > _DISAGREEMENT:
            warnings.warn(
                f"difference scores at steps {tried[best]:g} and {tried[best + 1]:g} differ by "
                f"{apart[best]:.1%}, so they may be doubted. Use mode='trace', or a float64 model.",
                CuveeWarning,
                stacklevel=2,
            )
        return tried[best]

    def _slopes(self, batch: Batch, number: int, length: float) -> Tensor:
        """Return (N,) central differences of token losses, float64."""
        ahead, behind = (
            losses(self.model, self.layers, batch, self._moved(number, sign * length)).double()
            for sign in (1, -1)
        )
        return (ahead - behind) / (2 * length)

    def _moved(self, number: int, length: float) -> Linear:
        weights = {
            layer.name: matrix(self.model, layer) + length * self.matrices[layer.name][number]
            for layer in self.layers
        }
        return lambda use: F.linear(use.x, weights[use.name], use.bias)


def _products(inputs: Tensor, grads: Tensor, direction: Tensor) -> Tensor:
    """Return (N,) g_t^T D a_t, the wide side reduced by the product."""
    n_out, n_in = direction.shape
    if n_in < n_out:
        return ((grads @ direction) * inputs).sum(1, dtype=_wide(grads))
    return ((inputs @ direction.t()) * grads).sum(1, dtype=_wide(grads))


def _wide(like: Tensor) -> torch.dtype:
    return torch.promote_types(torch.float32, like.dtype)


def unit_length(model: CausalModel, layers: tuple[Layer, ...], direction: LayerVector) -> float:
    """Return h for which h D is as long as the tracked weights."""
    weights = [matrix(model, layer) for layer in layers]
    return float(np.sqrt(dot(weights, weights))) / max(direction.norm, 1e-300)
