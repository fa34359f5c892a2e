"""Own domains and objectives by name."""

import numpy as np
import pytest

from cuvee.errors import ConfigError
from cuvee.fit.named_columns import objective_weights, own_columns
from cuvee.tables.swarm import Swarm


def test_own_domains_may_be_named() -> None:
    """What the names do not tell, and what they tell wrongly."""
    swarm = Swarm(
        ids=("1",),
        domains=("train_web", "train_code", "train_books"),
        targets=("metric/code_val_loss", "qa"),
        weights=np.ones((1, 3)) / 3.0,
        losses=np.ones((1, 2)),
        notices=(),
    )
    assert own_columns(swarm, {}) == (1, None)
    assert own_columns(swarm, {"qa": "train_books"}) == (1, 2)
    assert own_columns(swarm, {"metric/code_val_loss": "train_web"}) == (0, None)
    with pytest.raises(ConfigError, match=r"'q' is no target of the tables; .*mean 'qa'\?"):
        own_columns(swarm, {"q": "train_web"})
    with pytest.raises(ConfigError, match=r"'web' is no domain .*mean 'train_web'\?"):
        own_columns(swarm, {"qa": "web"})


def test_objective_weights_are_scaled_and_checked() -> None:
    """All alike unless told otherwise."""
    np.testing.assert_array_equal(objective_weights(("x", "y"), {}), [0.5, 0.5])
    np.testing.assert_array_equal(objective_weights(("x", "y"), {"y": 3.0}), [0.0, 1.0])
    with pytest.raises(ConfigError, match=r"weight of 'x' is -1; weights must be at least 0"):
        objective_weights(("x", "y"), {"x": -1.0})
    with pytest.raises(ConfigError, match="weights are all 0"):
        objective_weights(("x", "y"), {"x": 0.0})
    with pytest.raises(ConfigError, match="'z' is no target"):
        objective_weights(("x", "y"), {"z": 1.0})
