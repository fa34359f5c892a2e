"""The pool made of a Python installation's own files, on a small installation made up here."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import zstandard

from cuvee import artifacts
from cuvee.corpus import harvest as harvest_module
from cuvee.corpus import installation
from cuvee.corpus.harvest import SHARES, HarvestSummary, harvest
from cuvee.corpus.installation import Installation
from cuvee.errors import ArtifactError, DataError

MAX_BYTES = 2_000_000
N_MODULES = 200


def prose(name: str, n_lines: int = 8) -> str:
    """Make text that no other name gives."""
    return "\n".join(f"Line {line} of {name} says something of its own." for line in range(n_lines))


def write(path: Path, text: str) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def module(name: str) -> str:
    """Make a module that would fail loudly if it were run."""
    return f'"""{prose(name + " docstring")}"""\n\nraise SystemExit("{name} was run")\n'


@pytest.fixture
def place(tmp_path: Path) -> Installation:
    """Build a small installation: a standard library, packages and headers."""
    stdlib, packages, headers = (tmp_path / name for name in ("lib", "site", "include"))
    for number in range(N_MODULES):
        write(stdlib / f"module{number}.py", module(f"module{number}"))
        write(stdlib / "test" / f"test_{number}.py", prose(f"test {number}"))
        write(packages / "alpha" / f"part{number}.py", module(f"alpha.part{number}"))
    topics = {f"topic{number}": prose(f"topic {number}", 20) for number in range(60)}
    topics["again"] = prose("a paragraph of its own") + "\n\n" + topics["topic7"]
    write(stdlib / "pydoc_data" / "topics.py", f"topics = {topics!r}\n")
    for number in range(40):
        write(headers / f"h{number}.h", prose(f"header {number}"))
        write(packages / "alpha" / f"page{number}.html", prose(f"page {number}"))
        write(packages / "alpha" / "docs" / f"{number}.rst", prose(f"doc {number}"))
        metadata = (
            f"Metadata-Version: 2.1\nName: p{number}\nVersion: 1\n\n{prose(f'read {number}')}"
        )
        write(packages / f"p{number}-1.dist-info" / "METADATA", metadata)
        write(packages / f"p{number}-1.dist-info" / "licenses" / "LICENSE", prose(f"lic {number}"))
    return Installation(stdlib=stdlib, packages=(packages,), headers=(headers,), python="3.11.0")


def pool_rows(out: Path) -> Iterator[dict[str, str]]:
    """Read all documents of a harvested pool."""
    for path in sorted((out / "pool").iterdir()):
        if path.suffix == ".parquet":
            yield from pq.read_table(path).to_pylist()
        else:
            with zstandard.open(path, "rt", encoding="utf-8") as file:
                yield from map(json.loads, file)


def target_rows(out: Path) -> list[dict[str, str]]:
    """Read all documents of the harvested targets."""
    paths = sorted((out / "targets").iterdir())
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def test_harvest_writes_domains_and_targets(place: Installation, tmp_path: Path) -> None:
    """Every kind of text becomes a domain of its own, described by the summary."""
    summary = harvest(tmp_path / "out", max_bytes=MAX_BYTES, source=place)
    rows = list(pool_rows(tmp_path / "out"))
    assert {domain.name for domain in summary.domains} == {
        "code_python",
        "code_python_tests",
        "docstrings",
        "c_headers",
        "web",
        "package_docs",
        "licences",
        "package_readmes",
        "language_reference",
    }
    assert [target.name for target in summary.targets] == ["code", "reference_prose"]
    assert {row["domain"] for row in rows} == {domain.name for domain in summary.domains}
    assert summary.n_bytes == sum(len(row["text"].encode()) for row in rows)
    assert set(summary.skipped) == {"type_stubs", "code_cython", "data_files"}
    assert artifacts.is_done(tmp_path / "out")


def test_harvest_is_the_same_each_time(place: Installation, tmp_path: Path) -> None:
    """One environment gives one pool, byte for byte."""
    for name in ("one", "two"):
        harvest(tmp_path / name, max_bytes=MAX_BYTES, source=place)
    assert artifacts.digest_of(tmp_path / "one") == artifacts.digest_of(tmp_path / "two")


def test_no_text_is_on_both_sides(place: Installation, tmp_path: Path) -> None:
    """No line of a target, code or prose, occurs anywhere in the pool."""
    harvest(tmp_path / "out", max_bytes=MAX_BYTES, source=place)
    held = {line for row in target_rows(tmp_path / "out") for line in row["text"].splitlines()}
    mixed = [
        row["id"]
        for row in pool_rows(tmp_path / "out")
        if any(line in held and line.startswith("Line") for line in row["text"].splitlines())
    ]
    assert mixed == []


def test_a_copy_of_held_out_text_is_dropped(place: Installation, tmp_path: Path) -> None:
    """A package that carries a held-out module's docstring does not enter the pool."""
    harvest(tmp_path / "before", max_bytes=MAX_BYTES, source=place)
    held = next(row for row in target_rows(tmp_path / "before") if row["id"].startswith("stdlib/"))
    name = held["id"].removeprefix("stdlib/")
    source = (place.stdlib / name).read_text(encoding="utf-8")
    write(place.packages[0] / "beta" / "copied.py", source + '\n\nX = """Another string."""\n')
    harvest(tmp_path / "after", max_bytes=MAX_BYTES, source=place)
    assert "packages/beta/copied.py" not in {row["id"] for row in pool_rows(tmp_path / "after")}


def test_topics_that_share_a_paragraph_stay_together(place: Installation) -> None:
    """Topics that repeat each other are of one group, so they are held out together or not."""
    topics = installation.reference_topics(place)
    assert topics["again"][0] == topics["topic7"][0]
    assert len({group for group, _ in topics.values()}) == 60


def test_domains_are_cut_off_at_their_share(place: Installation, tmp_path: Path) -> None:
    """No domain exceeds its share of the bound."""
    summary = harvest(tmp_path / "out", max_bytes=100_000, source=place)
    assert summary.n_bytes <= 100_000
    assert all(domain.n_bytes <= SHARES[domain.name] * 100_000 for domain in summary.domains)


def test_files_that_are_not_text_are_passed_over(place: Installation, tmp_path: Path) -> None:
    """Invalid UTF-8, NUL, syntax errors and links leave no trace."""
    package = place.packages[0] / "alpha"
    (package / "latin.rst").write_bytes(b"caf\xe9 " * 100)
    (package / "binary.rst").write_bytes(b"a\0b " * 100)
    (package / "broken.py").write_text('def (:\n    """No."""\n' * 20, encoding="utf-8")
    (package / "link.rst").symlink_to(package / "docs" / "1.rst")
    summary = harvest(tmp_path / "out", max_bytes=MAX_BYTES, source=place)
    ids = {row["id"].rpartition("/")[2] for row in pool_rows(tmp_path / "out")}
    assert ids.isdisjoint({"latin.rst", "binary.rst", "broken.py", "link.rst"})
    assert next(one for one in summary.domains if one.name == "package_docs").n_documents == 40


def test_a_finished_harvest_is_kept(place: Installation, tmp_path: Path) -> None:
    """A second call reads the summary and leaves the pool as it is."""
    first = harvest(tmp_path / "out", max_bytes=MAX_BYTES, source=place)
    write(place.packages[0] / "gamma" / "new.py", module("gamma"))
    assert harvest(tmp_path / "out", max_bytes=MAX_BYTES, source=place) == first
    assert HarvestSummary.read(tmp_path / "out") == first
    assert f"{len(first.domains)} domains, {first.n_bytes / 1e6:.1f} MB" in str(first)


def test_another_bound_is_refused(place: Installation, tmp_path: Path) -> None:
    """A harvest of another size is neither used nor overwritten."""
    harvest(tmp_path / "out", max_bytes=MAX_BYTES, source=place)
    with pytest.raises(ArtifactError, match="max_bytes 2000000, now 5 is asked for"):
        harvest(tmp_path / "out", max_bytes=5, source=place)


def test_a_bare_installation_is_refused(tmp_path: Path) -> None:
    """Without text there is one clear message and no folder."""
    bare = Installation(stdlib=tmp_path / "no", packages=(), headers=(), python="3.11.0")
    with pytest.raises(DataError, match="hold 0 domains of text"):
        harvest(tmp_path / "out", source=bare)
    assert list(tmp_path.iterdir()) == []


def test_this_machine_holds_reference_topics() -> None:
    """The interpreter that runs the tests has a language reference to hold out from."""
    assert len(installation.reference_topics(Installation.of_this_python())) > 20


def test_shares_are_of_the_whole() -> None:
    """The shares of the bound add up to all of it."""
    assert sum(SHARES.values()) == pytest.approx(1.0)
    assert min(SHARES.values()) > harvest_module.MIN_DOMAIN_SHARE


def test_docstrings_come_in_order(tmp_path: Path) -> None:
    """Nested definitions are found, expressions and other strings are not."""
    text = '"""One."""\nif True:\n    class A:\n        """Two."""\n        def f(self):\n'
    write(tmp_path / "m.py", text + '            """Three."""\n            return "four"\n')
    file = installation.InstalledFile(id="stdlib/m.py", path=tmp_path / "m.py", n_bytes=1)
    assert installation.read_docstrings(file) == "One.\n\nTwo.\n\nThree."
