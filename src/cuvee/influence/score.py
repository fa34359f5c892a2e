"""One number per document and direction: how far training on it lowers the reference loss.

score = < sum_t grad loss_t, v >, v = (H + damping)^-1 grad reference: a step of gradient descent on
the document changes the reference loss by minus the score times the rate. Higher is better.

Three ways to the same number, none of which forms a document's gradient:

- "trace": sum over tokens and layers of g_t^T D a_t, in one forward and one backward pass
- "eps": the derivative in eps at 0 of the document's loss with every W set to W + eps D
- "difference": (L(W + h D) - L(W - h D)) / 2h, two forward passes; only in float32 or wider

Source: Koh, Liang (arXiv:1703.04730), Eq. 2; Quad (arXiv:2409.16986).
Deviation: Quad's notes put a minus before the product; as in its code, larger is better here.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cuvee.arrays import FloatArray
from cuvee.errors import ConfigError
from cuvee.influence.batches import Chunk, Document, chunks
from cuvee.influence.model import CausalModel, matrix, tracked_layers, weights_digest
from cuvee.influence.scorers import (
    Difference,
    Eps,
    Normalise,
    Scorer,
    Trace,
    unit_length,
)
from cuvee.influence.vectors import LayerVector, check_same

Mode = Literal["trace", "eps", "difference"]


def influence(
    model: CausalModel,
    direction: LayerVector,
    documents: Iterable[Document],
    *,
    mode: Mode = "trace",
    normalise: Normalise = "sum",
    step: float | None = None,
) -> Iterator[float]:
    """Score documents along one direction; see `influences`.

    Yields:
        A score per document, in order.
    """
    scored = influences(model, [direction], documents, mode=mode, normalise=normalise, step=step)
    return (float(scores[0]) for scores in scored)


def influences(
    model: CausalModel,
    directions: Sequence[LayerVector],
    documents: Iterable[Document],
    *,
    mode: Mode = "trace",
    normalise: Normalise = "sum",
    step: float | None = None,
) -> Iterator[FloatArray]:
    """Score documents along several directions in one pass.

    Args:
        model: At the weights the directions were computed at.
        directions: From `gradient` or `KroneckerFactors.solve`; all of the same layers.
        documents: Token ids of each, streamed.
        mode: How.
        normalise: "sum": over the document's tokens, so that long documents weigh more. "mean":
            per predicted token. "cosine": the sum over the lengths of the document's gradient and
            of the direction, in [-1, 1]; mode "trace" only. The gradient of a document that
            is cut in several windows is held until its last one.
        step: Of "difference": length of h D over that of the tracked weights. By default the one
            of `scorers.STEPS` whose result on the first documents agrees best with the next.

    Yields:
        (n_directions,) scores per document, in order. A document without a predicted token scores
        0: there is nothing in it to learn.

    Raises:
        ConfigError: A choice is unknown, or not possible with another or with the model's type.
        DataError: A direction is of another model, other layers or another tokenizer.
    """
    _check_choices(model, directions, mode, normalise)
    first = directions[0]
    layers = tracked_layers(model, lambda name: name in first.values)
    shapes = {layer.name: torch.empty(layer.n_out, layer.n_in) for layer in layers}
    own = LayerVector(shapes, weights_digest(model, layers), model.tokenizer)
    for direction in directions:
        check_same(own, direction, "model and direction")
    scorers: dict[str, type[Scorer]] = {"trace": Trace, "eps": Eps, "difference": Difference}
    scorer = scorers[mode](model, layers, directions, normalise=normalise, step=step)
    return (row for chunk in chunks(model, documents) for row in _scores(scorer, chunk, normalise))


def perturbed_weights(
    model: CausalModel, direction: LayerVector, step: float
) -> tuple[dict[str, Tensor], float]:
    """Return parameters moved along a direction, for scoring with another inference engine.

    With document losses L+ and L- at steps +s and -s, the score is (L+ - L-) / 2h.

    Args:
        model: The model.
        direction: D.
        step: Length of h D over that of the tracked weights; negative for the other side. Of the
            order of 3e-4, in float32: see `scorers.STEPS`.

    Returns:
        Moved parameters by name, in the parameters' own shape, and h.
    """
    layers = tracked_layers(model, lambda name: name in direction.values)
    length = unit_length(model, layers, direction) * step
    moved = {}
    for layer in layers:
        value = matrix(model, layer)
        value = value + length * direction.values[layer.name].to(value)
        moved[layer.name] = value.t() if layer.transposed else value
    return moved, abs(length)


def _scores(scorer: Scorer, chunk: Chunk, normalise: Normalise) -> FloatArray:
    scores = scorer.score(chunk)
    if normalise == "mean":
        scores = scores / np.maximum(chunk.n_predicted, 1)[:, None]
    return scores


def _check_choices(
    model: CausalModel, directions: Sequence[LayerVector], mode: str, normalise: str
) -> None:
    if not directions:
        raise ConfigError("no direction to score along. Give one or more.")
    for name, value, allowed in (
        ("mode", mode, ("trace", "eps", "difference")),
        ("normalise", normalise, ("sum", "mean", "cosine")),
    ):
        if value not in allowed:
            raise ConfigError(f"{name}={value!r} is unknown; allowed: {', '.join(allowed)}.")
    if normalise == "cosine" and mode != "trace":
        raise ConfigError(
            f"normalise='cosine' needs the lengths of gradients, which mode={mode!r} does not "
            "see. Use mode='trace'."
        )
    wide = model.precision == "own" and model.dtype in (torch.float32, torch.float64)
    if mode == "difference" and not wide:
        raise ConfigError(
            "mode='difference' takes the difference of two nearly equal losses, which is lost in "
            "half precision. Use a float32 model with precision='own', or mode='trace'."
        )
