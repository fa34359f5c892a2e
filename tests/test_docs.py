"""The documents keep up with the code: every verb, public name and config field is written down."""

import ast
import importlib
import inspect
import json
import pkgutil
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import pytest
import typer.main
import yaml

import cuvee
from cuvee import config
from cuvee.corpus.pool import PoolConfig
from cuvee.methods.chain import ChainConfig
from cuvee.methods.compare_study import CompareConfig
from cuvee.methods.criterion import CriterionConfig
from cuvee.methods.table import METHODS

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
CONFIG_HEAD = """
# Config keys

Made from the code by `python tests/test_docs.py`; do not edit.

A config is a YAML file, one mapping of keys; sections are mappings in it. What a file does not name
has its default. `--set section.key=value` replaces a value for one command, and `--dry-run` prints
the config as it is then understood. An unknown key is an error that lists those allowed.

A key is given as `key` (type, default): meaning. `required` has no default. `null` is YAML's word
for None; `a mapping to x` has names of your choice as its keys. `preset: paper` puts the paper's
settings where the file is silent; they stand at the end of each method.
"""
WORDS = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "true or false",
    Any: "anything",
    Path: "path",
}
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
YAML = re.compile(r"^```yaml\n(.*?)^```$", re.DOTALL | re.MULTILINE)
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


def config_page() -> str:
    """Write the page of all keys of all configs, with their types and defaults."""
    sections: dict[type, str] = {}
    shared = list(_keys(ChainConfig, sections))
    lines = [CONFIG_HEAD.strip(), "", "## regmix, mixing-laws, quadmix, compare", "", *shared]
    for method in (*METHODS, "compare"):
        kind, presets = _loaded(method)
        own = [line for line in _keys(kind, sections) if line not in shared]
        lines += ["", f"## {method}", "", *own]
        for name, settings in presets.items():
            if not settings:
                continue
            what = "Without `preset`" if name == "default" else f"`preset: {name}`"
            lines += ["", f"{what}:", "", "```yaml", yaml.safe_dump(settings).strip(), "```"]
    done: set[type] = set()
    while waiting := [kind for kind in sections if kind not in done]:
        for kind in waiting:
            done.add(kind)
            lines += ["", f"## {sections[kind]}", "", *_keys(kind, sections)]
    return "\n".join(lines) + "\n"


def _loaded(method: str) -> tuple[type, Mapping[str, Mapping[str, Any]]]:
    """Find the class and the presets that a method gives to `config.load`."""
    if method == "compare":
        return CompareConfig, {}
    with mock.patch.object(config, "load") as load:
        METHODS[method]().load(Path("none.yaml"), ())
    (kind, *_), named = load.call_args
    return kind, named["presets"]


def _keys(kind: type, sections: dict[type, str]) -> Iterator[str]:
    """Describe the keys of a class, taking note of the sections they hold."""
    types_, about = typing.get_type_hints(kind), field_docstrings(kind)
    for one in fields(kind):
        section = _section(types_[one.name])
        if section is not None:
            heading = f"`{one.name}`"
            if section not in sections and heading in sections.values():
                heading = f"`{one.name}` of {section.__name__.removesuffix('Config')}"
            sections.setdefault(section, heading)
        words = _words(types_[one.name], sections)
        summary = "" if section is None else (section.__doc__ or "").split("\n")[0]
        said = " ".join((about.get(one.name) or summary).split())
        yield f"- `{one.name}` ({words}, {_default(kind, one.name)}): {said}"


def _section(kind: Any) -> type | None:
    """Find the config class in a type."""
    if isinstance(kind, type) and is_dataclass(kind):
        return kind
    found = [_section(one) for one in typing.get_args(kind)]
    return next((one for one in found if one is not None), None)


def _words(kind: Any, sections: Mapping[type, str]) -> str:
    """Say a type in words."""
    of, own = typing.get_origin(kind), typing.get_args(kind)
    if of is Literal:
        return " | ".join(f"`{one}`" for one in own)
    if of in (typing.Union, types.UnionType):
        return " | ".join(_words(one, sections) for one in own)
    if of is tuple:
        return f"a list of {_words(own[0], sections)}"
    if isinstance(of, type) and issubclass(of, Mapping):
        return f"a mapping to {_words(own[1], sections)}"
    if kind is type(None):
        return "null"
    return f"section {sections[kind]}" if kind in sections else WORDS[kind]


def _default(kind: type, name: str) -> str:
    """Write the default as it would stand in a file."""
    (one,) = (one for one in fields(kind) if one.name == name)
    if one.default is MISSING and one.default_factory is MISSING:
        return "required"
    value = one.default if one.default_factory is MISSING else one.default_factory()
    if is_dataclass(value):
        return "its defaults"
    plain = yaml.safe_dump(_plain(value), default_flow_style=True, width=10**6, sort_keys=False)
    return f"default `{plain.removesuffix('...' + chr(10)).strip()}`"


def _plain(value: Any) -> Any:
    """Return a value as plain data; of a config only what differs from its class."""
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if not is_dataclass(value):
        return value
    own = {one: getattr(value, one.name) for one in fields(value)}
    return {one.name: _plain(found) for one, found in own.items() if found != one.default}


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


def test_the_page_of_keys_is_up_to_date() -> None:
    """docs/config.md is what the classes of the configs say."""
    written = (DOCS / "config.md").read_text(encoding="utf-8")
    assert not [
        line for line in written.splitlines() if line.startswith("- ") and line[-2:] == ": "
    ]
    assert written == config_page(), (
        "run `.venv/bin/python tests/test_docs.py`; commit docs/config.md"
    )


def test_configs_on_the_page_of_pools_are_read() -> None:
    """Keys and values shown are those that the configs take."""
    page = (DOCS / "pools.md").read_text(encoding="utf-8")
    blocks = [yaml.safe_load(one) for one in YAML.findall(page)]
    assert len(blocks) > 5
    for block in blocks:
        config.parse(PoolConfig, block["pool"])
        for one in block.get("criteria", {}).values():
            config.parse(CriterionConfig, one)


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
    (DOCS / "config.md").write_text(config_page(), encoding="utf-8")
