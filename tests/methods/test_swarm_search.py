"""A search of the default model looks about the best mixture of its law."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cuvee.fit.swarm import SwarmFitConfig, fit_swarm
from cuvee.methods import optimising, swarm_search
from cuvee.methods.swarm_search import SwarmSearchConfig, search_tables
from cuvee.tables.swarm import Swarm


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model fitted on two runs and one more: quick, and not validated."""
    weights = np.array([[0.7, 0.3], [0.2, 0.8], [0.5, 0.5]])
    swarm = Swarm(
        ids=("a", "b", "c"),
        domains=("web", "code"),
        targets=("x",),
        weights=weights,
        losses=2.0 + (weights[:, :1] - 0.4) ** 2,
        notices=(),
    )
    folder = tmp_path_factory.mktemp("fit") / "fit"
    return fit_swarm(swarm, config=SwarmFitConfig(), out=folder, inputs={}).folder


def test_the_better_of_both_searches_is_taken(
    fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wide, of the law, and near the law's answer: the least prediction of the model itself."""
    small = replace(swarm_search.WIDE, n_simulated=256, n_best=8)
    monkeypatch.setattr(swarm_search, "WIDE", small)
    found: dict[str, float] = {}
    simulate = optimising.simulate

    def watched(model: Any, question: Any, search: Any, seed: int, name: str) -> Any:
        optimum = simulate(model, question, search, seed, name)
        found[name] = optimum.predicted
        return optimum

    monkeypatch.setattr(optimising, "simulate", watched)
    result = search_tables(fitted, settings=SwarmSearchConfig(), out=tmp_path / "opt")
    assert set(found) == {"search", "near"}
    optimum: Any = result["optimum"]
    assert optimum["predicted"] == pytest.approx(min(found["search"], found["near"]))
    nearer = found["near"] <= found["search"]
    assert ("convex law" in str(result["found_by"])) == nearer
