"""The tutorial, followed literally: every command and every Python block, on a pool of seconds."""

import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from cuvee.methods import regmix
from cuvee.methods.table import method_named

pytestmark = pytest.mark.timeout(900)

DOCS = Path(__file__).resolve().parents[2] / "docs"
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
YAML = re.compile(r"^```yaml\n(.*?)^```$", re.DOTALL | re.MULTILINE)
MOST_LINES = 12
"""Lines of Python that a verb may take on the page, imports apart."""


def read(name: str) -> str:
    """Read a page."""
    return (DOCS / name).read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    """Return the tutorial's commands, word by word."""
    lines = [line for block in CONSOLE.findall(read("tutorial.md")) for line in block.splitlines()]
    assert all(line.startswith("$ cuvee ") for line in lines)
    return [shlex.split(line)[2:] for line in lines]


def test_the_config_shown_is_a_config(tmp_path: Path) -> None:
    """The settings on the page are known and of the right kind."""
    (config,) = YAML.findall(read("tutorial.md"))
    path = tmp_path / "tutorial.yaml"
    path.write_text(config, encoding="utf-8")
    settings = regmix.load_config(path)
    assert settings.validate.size == "0.2m"
    shown = yaml.safe_load(config)
    common = {"mixing-laws": ("pool", "validate"), "continual": ("pool",)}
    for (method, kept), block in zip(
        common.items(), YAML.findall(read("choosing.md")), strict=True
    ):
        mine = {**{key: shown[key] for key in kept}, **yaml.safe_load(block)}
        path.write_text(yaml.safe_dump(mine), encoding="utf-8")
        method_named(method).load(path, ())


def test_the_tutorial_does_what_it_says(
    tmp_path: Path,
    settings: dict[str, object],
    write_config: Callable[[Path, Mapping[str, object]], Path],
    cuvee: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each command ends well, in the order of the page; then each block of the library's page."""
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "tutorial.yaml", {**settings, "fit": {"model": "linear"}})
    printed = {}
    for words in commands():
        workers = [] if words[0] in ("show", "watch", "overlap") else ["--workers", "0"]
        ended = cuvee(*words, *workers, "-q")
        assert ended.status == 0, (words, ended.stderr)
        printed[words[0]] = ended.stdout
    assert "of 8 runs" in printed["watch"]
    assert "planned" in printed["export"]
    assert (tmp_path / "tutorial-out" / "report.html").exists()
    assert (tmp_path / "both.html").exists()
    names: dict[str, object] = {}
    for block in PYTHON.findall(read("library.md")):
        lines = [line for line in block.splitlines() if line and "import" not in line]
        assert len(lines) <= MOST_LINES
        exec(compile(block, "library.md", "exec"), names)
    said = capsys.readouterr().out
    assert "mixtures predicted" in said
    assert "tutorial-out: finished" in said
