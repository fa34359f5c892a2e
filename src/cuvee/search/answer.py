"""What is predicted at the answer of a search."""

import numpy as np

from cuvee.arrays import FloatArray
from cuvee.tables.optimum import Optimum
from cuvee.tables.predictor import NamedPredictions

_NORMAL_95 = 1.6448536269514722


def describe_answer(
    predictor: NamedPredictions,
    objective_weights: FloatArray,
    weights: FloatArray,
    *,
    n_simulated: int,
    n_best: int,
) -> Optimum:
    """Predict the answer itself.

    Args:
        predictor: Fitted; its domains are the columns of ``weights``.
        objective_weights: (n_targets,) weights of the targets.
        weights: (n_domains,) the answer.
        n_simulated: Mixtures drawn and predicted in all.
        n_best: Best mixtures averaged.

    Returns:
        The answer with predictions; the objective's standard deviation is the sum over targets,
        the bound for fully correlated errors.
    """
    mean, sd = predictor.predict(np.asarray(weights)[None, :])
    value = float(mean[0] @ objective_weights)
    spread = float(sd[0] @ objective_weights)
    return Optimum(
        domains=predictor.domains,
        weights=tuple(weights.tolist()),
        targets=predictor.targets,
        objective_weights=tuple(objective_weights.tolist()),
        predicted=value,
        predicted_sd=spread,
        interval=(value - _NORMAL_95 * spread, value + _NORMAL_95 * spread),
        target_means=tuple(mean[0].tolist()),
        target_sds=tuple(sd[0].tolist()),
        n_simulated=n_simulated,
        n_best=n_best,
    )
