"""What `cuvee show` reads."""

from pathlib import Path
from typing import Any

import pytest

from cuvee import artifacts
from cuvee.methods.showing import describe, read_artifact


@pytest.mark.parametrize("name", ["verdict.json", "optimum.json"])
def test_a_stage_is_shown_with_its_answer(name: str, tmp_path: Path) -> None:
    """The file a stage was run for comes with its manifest; the others are named only."""
    with artifacts.writing(
        tmp_path / "stage", stage="validate", settings={}, seed=1, inputs={}
    ) as aside:
        artifacts.write_json(aside / name, {"word": "cannot be told apart"})
        artifacts.write_json(aside / "other.json", {"word": "not shown"})
    found: Any = read_artifact(tmp_path / "stage", rows=1)
    assert found[name] == {"word": "cannot be told apart"}
    assert found["files"] == sorted([name, "other.json"])
    assert "word: cannot be told apart" in describe(found)
    assert "not shown" not in describe(found)
