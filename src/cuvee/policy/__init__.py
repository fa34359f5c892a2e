"""Sampling policies: how many copies of each document are expected, and how they are taken."""

from cuvee.policy.cluster_rates import BoundClusterRates, ClusterRates
from cuvee.policy.mixture import BoundMixture, Mixture, Phase
from cuvee.policy.sampling import document_order, draw_copies, interleave, subset, take_quota
from cuvee.policy.threshold import BoundThreshold, Threshold

__all__ = [
    "BoundClusterRates",
    "BoundMixture",
    "BoundThreshold",
    "ClusterRates",
    "Mixture",
    "Phase",
    "Threshold",
    "document_order",
    "draw_copies",
    "interleave",
    "subset",
    "take_quota",
]
