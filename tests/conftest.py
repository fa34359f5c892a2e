"""Fixtures shared by the whole suite."""

import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cuvee.cli.main import main

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Give the folder of real test data; tests skip where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip("real test data is not on this machine: ../shared/data is absent")
    return SHARED


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str


@pytest.fixture
def cuvee(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Outcome]]:
    """Call the command line in this process, by its real entry."""
    level = logging.getLogger("cuvee").level

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["cuvee", *map(str, arguments)])
        capsys.readouterr()
        status = 0
        try:
            main()
        except SystemExit as leaving:
            status = int(leaving.code or 0)
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    yield call
    logging.getLogger("cuvee").setLevel(level)
