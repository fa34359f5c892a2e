"""Fixtures shared by the whole suite."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Give the folder of real test data; tests skip where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip("real test data is not on this machine: ../shared/data is absent")
    return SHARED
