"""An optimum is read back as it was written."""

from dataclasses import replace
from pathlib import Path

import pytest

from cuvee import artifacts
from cuvee.errors import ArtifactError, DataError
from cuvee.tables.optimum import Optimum, read_optimum, write_optimum

OPTIMUM = Optimum(
    domains=("books", "web"),
    weights=(0.25, 0.75),
    targets=("qa",),
    objective_weights=(1.0,),
    predicted=1.5,
    predicted_sd=0.1,
    interval=(1.3, 1.7),
    target_means=(1.5,),
    target_sds=(0.1,),
    n_simulated=1000,
    n_best=10,
)


def test_round_trip(tmp_path: Path) -> None:
    """Nothing is lost or changed."""
    write_optimum(tmp_path / "optimum.json", OPTIMUM)
    assert read_optimum(tmp_path / "optimum.json") == OPTIMUM


@pytest.mark.parametrize("content", [[1, 2], {"domains": ["a"]}, {"unknown": 1}])
def test_other_files_are_refused(tmp_path: Path, content: artifacts.Json) -> None:
    """A file that is no optimum is named, with the remedy."""
    artifacts.write_json(tmp_path / "optimum.json", content)
    with pytest.raises(ArtifactError, match=r"is not an optimum.*run the search again"):
        read_optimum(tmp_path / "optimum.json")


def test_weights_are_checked() -> None:
    """An optimum is a mixture."""
    with pytest.raises(DataError, match=r"sums to 0\.75"):
        replace(OPTIMUM, weights=(0.0, 0.75))
