"""Any mixture, however lopsided, arrives in every format as it was selected."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cuvee.errors import InfeasibleError
from cuvee.export.exporter import ExportConfig, Layout
from cuvee.export.formats import EXPORTERS
from cuvee.export.write import export_selection
from cuvee.simplex import normalise

WEIGHT = st.one_of(st.just(0.0), st.floats(1e-9, 1e-3), st.floats(0.01, 1.0), st.just(1e3))
"""Zero, tiny, ordinary, and a domain that is nearly everything."""
MIXTURES = st.lists(WEIGHT, min_size=4, max_size=4).filter(lambda weights: sum(weights) > 0.0)


@pytest.mark.parametrize("to", list(EXPORTERS))
@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    weights=MIXTURES,
    n_tokens=st.integers(200, 4_000),
    context=st.sampled_from([1, 7, 64, 300]),
    mixed=st.booleans(),
)
def test_any_mixture_arrives_as_it_was_selected(
    to: str,
    weights: list[float],
    n_tokens: int,
    context: int,
    mixed: bool,
    select: Any,
    check_epoch: Any,
    tmp_path: Path,
) -> None:
    """Token counts by domain over one epoch are mixture.json's, or the refusal says too few."""
    run = select(tuple(normalise(weights).tolist()), n_tokens=n_tokens)
    layout: Layout = "mixed" if mixed else "domains"
    config = ExportConfig(to=to, layout=layout, context=context, file_bytes=2_000)
    dest = tmp_path / "export"
    try:
        export_selection(run.out, dest, config, workers=0)
    except InfeasibleError:
        assert sum(run.realised.values()) < EXPORTERS[to].smallest(config)
        return
    check_epoch(run, dest, to)
    shutil.rmtree(dest)
