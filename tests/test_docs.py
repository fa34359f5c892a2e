"""The documents keep up with the code: every verb, public name and config field is written down."""

import ast
import importlib
import inspect
import json
import pkgutil
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main

import cuvee

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
NAME = re.compile(r"`(cuvee(?:\.\w+)+)`")
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
MANUAL_HEAD = """
# The command line

Made from the program's own help by `python tests/test_docs.py`; do not edit.

Results go to standard output, logs and progress bars to standard error. Exit status: 0 done; 1 one
clear message (a traceback only with `-v`); 2 wrong usage; 130 interrupted. The same command again
goes on from where it was stopped.
"""
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
EXAMPLES = [ROOT / "README.md", DOCS / "quickstart.md"]
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])


def config_classes() -> list[type]:
    """Find every config dataclass of the package."""
    found: set[type] = set()
    names = {module.name for module in pkgutil.walk_packages(cuvee.__path__, "cuvee.")}
    for name in sorted(names - {"cuvee.__main__"}):
        for value in vars(importlib.import_module(name)).values():
            if (
                isinstance(value, type)
                and is_dataclass(value)
                and value.__name__.endswith("Config")
            ):
                found.add(value)
    return sorted(found, key=lambda kind: kind.__name__)


def field_docstrings(kind: type) -> dict[str, str]:
    """Read the string below each field of a class and of those it is made from."""
    docstrings: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        if is_dataclass(base):
            docstrings |= _own_field_docstrings(base)
    return docstrings


def _own_field_docstrings(kind: type) -> dict[str, str]:
    source = ast.parse(inspect.getsource(kind)).body[0]
    assert isinstance(source, ast.ClassDef)
    docstrings: dict[str, str] = {}
    for statement, below in zip(source.body, source.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            match below:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    docstrings[statement.target.id] = text
    return docstrings


def commands() -> list[tuple[str, Any]]:
    """Return the verbs of the command line, sorted; those of a group behind it, by both names."""
    root: Any = typer.main.get_command(importlib.import_module("cuvee.cli.app").app)
    found: list[tuple[str, Any]] = []
    for name, command in sorted(root.commands.items()):
        inner = sorted(getattr(command, "commands", {}).items())
        found += [(name, command), *((f"{name} {below}", one) for below, one in inner)]
    return found


def parameters(command: Any, kind: str) -> list[Any]:
    """Return a command's options or arguments, --help apart."""
    own = [one for one in command.params if one.name != "help"]
    return [one for one in own if one.param_type_name == kind]


def test_config_fields_have_docstrings() -> None:
    """Every setting says what it is; for a section its own config's docstring is enough."""
    kinds = config_classes()
    missing = [
        f"{kind.__name__}.{one.name}"
        for kind in kinds
        for one in fields(kind)
        if one.name not in field_docstrings(kind) and "Config" not in str(one.type)
    ]
    assert len(kinds) > 5
    assert missing == []


@pytest.mark.parametrize("page", EXAMPLES, ids=lambda page: page.name)
def test_examples_run(page: Path) -> None:
    """The Python examples on a page run as they stand, in order."""
    names: dict[str, object] = {}
    blocks = PYTHON.findall(page.read_text(encoding="utf-8"))
    assert blocks
    for block in blocks:
        exec(compile(block, page.name, "exec"), names)


def test_the_notebook_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """Its code cells run in order, and it is kept without outputs."""
    notebook = json.loads((ROOT / "examples" / "notebook.ipynb").read_text(encoding="utf-8"))
    cells = [one for one in notebook["cells"] if one["cell_type"] == "code"]
    names: dict[str, object] = {}
    for number, cell in enumerate(cells):
        assert cell["outputs"] == []
        exec(compile("".join(cell["source"]), f"notebook cell {number}", "exec"), names)
    assert "gain over natural" in capsys.readouterr().out


def manual() -> str:
    """Write the command line's manual from its own help texts."""
    lines = [MANUAL_HEAD.strip()]
    for name, command in commands():
        arguments = parameters(command, "argument")
        usage = " ".join([f"cuvee {name}", *(label_of(one) for one in arguments)])
        lines += ["", f"## `{usage}`", "", inspect.cleandoc(command.help or ""), ""]
        lines += [f"- `{label_of(one)}`: {help_of(one)}" for one in arguments]
        for option in parameters(command, "option"):
            words = ", ".join([*option.opts, *option.secondary_opts])
            lines.append(f"- `{words}`: {help_of(option)}")
    return "\n".join(lines) + "\n"


def label_of(parameter: Any) -> str:
    """Return an argument's name as it stands in a usage line."""
    return str(parameter.metavar or parameter.name.upper())


def help_of(parameter: Any) -> str:
    """Return the help text of an option or argument, on one line."""
    return " ".join((parameter.help or "").split())


def test_every_verb_and_option_has_help() -> None:
    """Each verb explains itself, its arguments and its options."""
    for name, command in commands():
        assert command.help, name
        described = [*parameters(command, "argument"), *parameters(command, "option")]
        assert [one.name for one in described if not help_of(one)] == [], name


def test_the_manual_is_up_to_date() -> None:
    """docs/cli.md is what the program says of itself."""
    written = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert written == manual(), "run `.venv/bin/python tests/test_docs.py` and commit docs/cli.md"


def test_every_public_name_is_in_the_documents() -> None:
    """What `import cuvee` gives is mentioned on some page."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in cuvee.__all__ if name not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Relative links point at files that exist."""
    links = LINK.findall(page.read_text(encoding="utf-8"))
    gone = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert gone == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_in_the_documents_exist(page: Path) -> None:
    """Functions, classes and tests named on a page can be found."""
    text = page.read_text(encoding="utf-8")
    assert [name for name in NAME.findall(text) if not exists(name)] == []
    for path, test in TEST.findall(text):
        assert (ROOT / path).is_file(), path
        assert f"def {test}" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{test}"


def exists(name: str) -> bool:
    """Tell whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


if __name__ == "__main__":
    (DOCS / "cli.md").write_text(manual(), encoding="utf-8")
