"""The text a Python installation holds: which file is of which kind, and how to read it.

Files are opened and parsed, never imported or run.
"""

import ast
import importlib.metadata
import os
import platform
import re
import sysconfig
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

MAX_FILE_BYTES = 1_000_000
"""Larger files are tables in disguise; none of them is read."""
MAX_DATA_BYTES = 200_000
"""Bound for data and web files, so that no single file makes up a domain."""

_KINDS: Mapping[str, str] = {
    ".pyi": "type_stubs",
    **dict.fromkeys((".h", ".hh", ".hpp", ".cuh"), "c_headers"),
    **dict.fromkeys((".pyx", ".pxd", ".pxi"), "code_cython"),
    **dict.fromkeys((".html", ".htm", ".js", ".css", ".xsl", ".jinja", ".j2"), "web"),
    **dict.fromkeys((".rst", ".md", ".txt"), "package_docs"),
    **dict.fromkeys((".json", ".csv", ".yaml", ".yml", ".toml", ".po"), "data_files"),
}
_BOUNDED = frozenset({"data_files", "web"})
_TEST_FOLDERS = frozenset({"test", "tests", "idle_test"})
_LEFT_OUT = frozenset({"__pycache__", "site-packages", "dist-packages", "pydoc_data", "cuvee"})
_COPIES = frozenset({"_vendor", "vendor", "_vendored", "vendored", "_distutils"})
_LICENCE = re.compile(r"^(licen[cs]e|copying|notice)", re.IGNORECASE)
_SHARED_PARAGRAPH = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class Installation:
    """Where one Python keeps its files."""

    stdlib: Path
    packages: tuple[Path, ...]
    """Folders of installed packages."""
    headers: tuple[Path, ...]
    """Folders of the interpreter's C headers."""
    python: str
    """The interpreter's version."""

    @classmethod
    def of_this_python(cls) -> Self:
        """Describe the installation that runs this code."""
        packages = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}
        return cls(
            stdlib=Path(sysconfig.get_path("stdlib")),
            packages=tuple(sorted(packages)),
            headers=(Path(sysconfig.get_path("include")),),
            python=platform.python_version(),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class InstalledFile:
    """One file of an installation."""

    id: str
    """Root and relative path, such as ``stdlib/asyncio/queues.py``."""
    path: Path
    n_bytes: int

    @property
    def top_level(self) -> str:
        """The module or package the file belongs to."""
        return self.id.split("/")[1].removesuffix(".py")


def files_by_domain(place: Installation) -> dict[str, list[InstalledFile]]:
    """Sort an installation's text files by the kind of text they hold.

    Returns:
        Files by domain, in order of id. Python files of packages stand under ``docstrings``,
        those of the standard library under ``code_python``, tests of both under
        ``code_python_tests``.
    """
    roots = [("stdlib", place.stdlib)]
    roots += [("packages", folder) for folder in place.packages]
    roots += [("headers", folder) for folder in place.headers]
    found: dict[str, list[InstalledFile]] = {"code_python": []}
    for root_name, root in roots:
        for path in _walk(root):
            parts = path.relative_to(root).parts
            domain = _domain(root_name, parts)
            if domain is None:
                continue
            n_bytes = path.stat().st_size
            if 0 < n_bytes <= (MAX_DATA_BYTES if domain in _BOUNDED else MAX_FILE_BYTES):
                name = "/".join((root_name, *parts))
                file = InstalledFile(id=name, path=path, n_bytes=n_bytes)
                found.setdefault(domain, []).append(file)
    return {domain: sorted(files, key=lambda file: file.id) for domain, files in found.items()}


def read_text(file: InstalledFile) -> str | None:
    """Read a file as UTF-8; None when it is not text."""
    try:
        text = file.path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None
    return None if "\0" in text else text.replace("\r\n", "\n")


def read_docstrings(file: InstalledFile) -> str | None:
    """Read the docstrings of a Python file, in order, without running it; None if it has none."""
    source = read_text(file)
    if source is None or '"""' not in source:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's code
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return "\n\n".join(filter(None, map(ast.get_docstring, _documented(tree)))) or None


def long_descriptions(place: Installation) -> dict[str, str]:
    """Read the packages' long descriptions from their metadata, by package name."""
    folders = [str(folder) for folder in place.packages]
    found: dict[str, str] = {}
    for package in importlib.metadata.distributions(path=folders):
        fields = package.metadata.json
        name, description = str(fields.get("name", "")), fields.get("description", "")
        if name and name != "cuvee" and isinstance(description, str):
            found[name] = description.replace("\r\n", "\n").replace("\0", "")
    return dict(sorted(found.items()))


def reference_topics(place: Installation) -> dict[str, tuple[str, str]]:
    """Read the language reference kept for ``help()``.

    Returns:
        By topic: the name of its group, and its text. Topics that share a paragraph, directly or
        through others, are of one group.
    """
    path = place.stdlib / "pydoc_data" / "topics.py"
    if not path.is_file():
        return {}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    values = [node.value for node in tree.body if isinstance(node, ast.Assign)]
    topics: dict[str, str] = ast.literal_eval(values[0]) if values else {}
    group = {name: name for name in sorted(topics)}
    first_with: dict[str, str] = {}
    for name in group:
        for paragraph in paragraphs(topics[name], min_length=_SHARED_PARAGRAPH):
            other = group[first_with.setdefault(paragraph, name)]
            if other != group[name]:
                old = group[name]
                group.update({member: other for member in group if group[member] == old})
    return {name: (group[name], topics[name]) for name in group}


def paragraphs(text: str, *, min_length: int) -> Iterator[str]:
    """Yield the paragraphs of a text that are at least so long, white space made even."""
    for block in re.split(r"\n\s*\n", text):
        even = " ".join(block.split())
        if len(even) >= min_length:
            yield even


def _documented(
    node: ast.AST,
) -> Iterator[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield what may bear a docstring, in order of the file; expressions are not entered."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield node
    for field in ("body", "handlers", "orelse", "finalbody"):
        below = getattr(node, field, ())
        if isinstance(below, list):
            for child in below:
                yield from _documented(child)


def _walk(root: Path) -> Iterator[Path]:
    for folder, below, names in os.walk(root):
        below[:] = sorted(set(below) - _LEFT_OUT)
        for name in sorted(names):
            path = Path(folder, name)
            if not path.is_symlink() and path.is_file() and _is_unicode(str(path)):
                yield path


def _is_unicode(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _domain(root: str, parts: tuple[str, ...]) -> str | None:
    """Name the domain of a file by its root, folders and suffix."""
    name = parts[-1].lower()
    stem, suffix = os.path.splitext(name)
    in_tests = not _TEST_FOLDERS.isdisjoint(parts)
    if parts[0].startswith("cuvee-") or not _COPIES.isdisjoint(parts):
        return None
    if suffix == ".py":
        if in_tests:
            return "code_python_tests"
        return "code_python" if root == "stdlib" else "docstrings"
    if _LICENCE.match(name) and suffix not in (".h", ".pyi"):
        return "licences"
    domain = _KINDS.get(suffix)
    metadata = any(part.endswith((".dist-info", ".egg-info")) for part in parts)
    if metadata or (in_tests and domain != "data_files") or stem.endswith(".py"):
        return None
    return domain
