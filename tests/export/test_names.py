"""File names made of anybody's text."""

import re

from hypothesis import given
from hypothesis import strategies as st

from cuvee.export.names import RESERVED, safe_names

NAMES = st.lists(st.text(min_size=1, max_size=80), min_size=1, max_size=12, unique=True)


@given(NAMES)
def test_names_are_safe_and_different(names: list[str]) -> None:
    """Files get letters, digits, _ and -, and no two are alike, even in another case."""
    found = safe_names(names)
    assert len({name.lower() for name in found}) == len(names)
    for name in found:
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,56}", name)
        assert name.lower() not in RESERVED


@given(NAMES)
def test_a_changed_name_does_not_depend_on_the_others(names: list[str]) -> None:
    """A name that is not kept is the same beside any other names."""
    found = dict(zip(names, safe_names(names), strict=True))
    for name, file in found.items():
        alone = safe_names([name])[0]
        assert file in (alone, safe_names([name, name.swapcase()])[0], safe_names([name, name])[0])


def test_safe_names_are_kept() -> None:
    """Ordinary names are files' names as they are."""
    assert safe_names(["code", "law_de", "Web2"]) == ("code", "law_de", "Web2")


def test_names_that_differ_in_case_or_mean_something_are_marked() -> None:
    """A file system without case, a device or this package's own sets get no name twice."""
    found = safe_names(["Code", "code", "con", "merged", "all", "1e5", "..", "-x"])
    assert len({name.lower() for name in found}) == 8
    assert all(re.search(r"-[0-9a-f]{8}$", name) for name in found)
