"""What a study of several sizes asks of its config."""

from pathlib import Path

import pytest

from cuvee.errors import ConfigError
from cuvee.methods import mixing_laws

_CONFIG = """
pool: {shards: [pool.parquet]}
validate: {size: 0.4m, n_tokens: 400000}
proxy: {n_tokens: 400000}
"""


def test_a_decaying_rate_is_refused(tmp_path: Path) -> None:
    """Points along it do not stand for shorter runs."""
    path = tmp_path / "laws.yaml"
    path.write_text(_CONFIG)
    with pytest.raises(ConfigError, match="do not stand for shorter runs"):
        mixing_laws.load_config(path, ("proxy.schedule=cosine",))


def test_the_warm_up_is_left_out_of_step_laws(tmp_path: Path) -> None:
    """Twice the tokens of the warm-up, rounded up."""
    path = tmp_path / "laws.yaml"
    path.write_text(_CONFIG)
    settings = mixing_laws.load_config(path, ("proxy.warmup_share=0.1",))
    assert mixing_laws.first_tokens(settings) == 80_000


def test_too_few_points_for_a_step_law_are_refused_before_the_sweep(tmp_path: Path) -> None:
    """Those within twice the warm-up do not count; where nothing is carried on, none is needed."""
    path = tmp_path / "laws.yaml"
    path.write_text(_CONFIG)
    few, longer = "proxy.points=[0.05, 0.5, 1.0]", "validate.n_tokens=800000"
    with pytest.raises(ConfigError, match=r"proxy\.points has 2 points after twice the warm-up"):
        mixing_laws.load_config(path, (few, longer))
    mixing_laws.load_config(path, (few,))
    mixing_laws.load_config(path, (few, longer, "laws.scaling=joint"))
    mixing_laws.load_config(path, ("proxy.points=[0.2, 0.5, 1.0]", longer))
