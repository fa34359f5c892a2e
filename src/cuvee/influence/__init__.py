"""Which documents would lower the loss on a reference set: gradients, curvature, scores.

model = CausalModel(module=proxy, hidden=proxy.hidden, head=proxy.head, context=256)
factors = KroneckerFactors(model, where="attention").fit(sample, rng=rng)
direction = factors.solve(gradient(model, reference), damping=0.1, steps=5, sample=sample)
scores = influence(model, direction, documents)
"""

from cuvee.influence.diagonal import DiagonalFisher
from cuvee.influence.gradient import gradient
from cuvee.influence.kron import KroneckerFactors
from cuvee.influence.model import CausalModel
from cuvee.influence.score import influence, influences, perturbed_weights
from cuvee.influence.vectors import LayerVector

__all__ = [
    "CausalModel",
    "DiagonalFisher",
    "KroneckerFactors",
    "LayerVector",
    "gradient",
    "influence",
    "influences",
    "perturbed_weights",
]
