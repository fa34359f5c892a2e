"""The page: self-contained, escaped, the same bytes every time, whole with any part missing."""

import dataclasses
import hashlib
import os
import re
import runpy
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cuvee.report.content import ReportContent
from cuvee.report.page import build_page

SCRIPT = "<script>alert(1)</script>"
CONFTEST = Path(__file__).with_name("conftest.py")
OPTIONAL = (
    "verdict",
    "losses",
    "held_out",
    "runs",
    "trajectories",
    "pool",
    "selection",
    "response",
    "scaling",
    "shares",
)
VOID = frozenset({"meta", "br", "link", "img", "hr", "wbr"})

_BUILD = """
import hashlib, runpy, sys
from cuvee.report.page import build_page
content = runpy.run_path(sys.argv[1])["make_content"]()
sys.stdout.write(hashlib.sha256(build_page(content).encode()).hexdigest())
"""


class _Reader(HTMLParser):
    """Collects tags, ids, links and text; notices tags closed out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self._note(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def _note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = dict(attrs)
        self.ids += [value for key, value in attrs if key == "id" and value]
        self.links += [
            value or "" for key, value in attrs if key in ("href", "src", "xlink:href", "srcset")
        ]
        assert not [key for key in values if key.startswith("on")]


def read(page: str) -> _Reader:
    """Parse a page, checking that its tags are balanced."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def without(content: ReportContent, *names: str) -> ReportContent:
    """Leave sections out."""
    absent: dict[str, Any] = dict.fromkeys(names)
    return dataclasses.replace(content, **absent)


@pytest.fixture(name="page", scope="module")
def _page() -> str:
    return build_page(runpy.run_path(str(CONFTEST))["make_content"]())


def test_text_of_the_pool_is_escaped(page: str) -> None:
    """A domain named like a script is shown, never run."""
    reader = read(page)
    assert SCRIPT not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "script" not in reader.tags
    assert SCRIPT in reader.text


def test_every_text_field_is_escaped(content: ReportContent) -> None:
    """Markup in any name, path, note or digest comes out as text."""
    page = build_page(_with_markup(content))
    assert "<b>" not in page
    assert "&lt;b&gt;" in page
    read(page)


def test_page_asks_for_nothing_from_outside(page: str) -> None:
    """All links stay on the page, no style imports anything, and a policy forbids requests."""
    reader = read(page)
    assert all(link.startswith(("#", "data:text/csv;")) for link in reader.links)
    assert "@import" not in page
    assert set(re.findall(r"url\((.)", page)) <= {"#"}
    assert "default-src 'none'" in page
    assert not {"script", "iframe", "object", "img", "link"} & reader.tags


def test_ids_are_unique_and_links_lead_somewhere(page: str) -> None:
    """Charts share no ids, and every reference has its element."""
    reader = read(page)
    assert len(reader.ids) == len(set(reader.ids))
    assert {link[1:] for link in reader.links if link[0] == "#"} <= set(reader.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(reader.ids)


def test_same_content_gives_the_same_page(content: ReportContent, page: str) -> None:
    """Building twice in one process gives equal text."""
    assert build_page(content) == page


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_other_processes_give_the_same_page(page: str, hash_seed: str) -> None:
    """Neither the process nor the order of hashes shows in the bytes."""
    done = subprocess.run(
        [sys.executable, "-c", _BUILD, str(CONFTEST)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == hashlib.sha256(page.encode()).hexdigest()


@pytest.mark.parametrize("present", OPTIONAL)
def test_each_section_can_stand_without_the_others(content: ReportContent, present: str) -> None:
    """An unfinished run still has its report."""
    reader = read(build_page(without(content, *set(OPTIONAL) - {present})))
    assert {link[1:] for link in reader.links if link[0] == "#"} <= set(reader.ids)


def test_a_report_can_hold_the_mixture_alone(content: ReportContent) -> None:
    """Before anything is measured the page shows the mixture and says there is no verdict."""
    page = build_page(without(content, *OPTIONAL))
    assert "No verdict yet" in page
    assert "<svg" in page


def test_headline_and_numbers_of_the_verdict_are_shown(page: str) -> None:
    """The first thing said is the verdict, with difference and interval."""
    text = "".join(read(page).text)
    assert "The chosen mixture is better than the natural one." in text
    assert "0.118 bits per byte lower (95% interval 0.107 to 0.129)" in text


def test_accuracy_stands_beside_the_verdict(page: str) -> None:
    """Each mixture's accuracy, guessing and the difference with its interval are in one row."""
    rows = [row for row in page.split("<tr>") if "<td>by bytes<" in row]
    assert len(rows) == 3
    for text in ("312", "0.250", "0.262", "+0.025", "−0.011 to 0.060", "cannot be told apart"):
        assert f">{text}<" in rows[1]
    assert ">n/a<" in rows[2]


def test_diverged_runs_leave_no_number(content: ReportContent) -> None:
    """A mixture whose runs all diverged has no loss, no difference and no mark, and no error."""
    assert content.losses is not None
    assert content.verdict is not None
    first, second, *_ = content.losses.rows
    lost = dataclasses.replace(second, seeds_bpb=np.full((3, 4), np.nan))
    losses = dataclasses.replace(content.losses, rows=(first, lost))
    row = dataclasses.replace(
        content.verdict.comparisons[0],
        difference=None,
        low=None,
        high=None,
        word="cannot be told apart",
        reason="0 seeds: an interval needs at least 2",
    )
    verdict = dataclasses.replace(content.verdict, comparisons=(row,), equivalent=None)
    bare = without(content, *OPTIONAL)
    text = "".join(read(build_page(dataclasses.replace(bare, losses=losses, verdict=verdict))).text)
    assert ">nan<" not in text
    assert "0 seeds: an interval needs at least 2" in text
    assert "n/a" in text


def test_domains_are_sorted_by_chosen_share(content: ReportContent, page: str) -> None:
    """The largest share stands first."""
    largest = content.mixture.domains[int(np.argmax(content.mixture.chosen))]
    table = page[page.index('<table class="mixture">') :]
    first = re.search(r'<tbody>\s*<tr><th scope="row"><bdi>([^<]*)</bdi>', table)
    assert first is not None
    assert first[1] == largest


def test_config_with_a_lone_surrogate_still_makes_a_page(content: ReportContent) -> None:
    """Text that UTF-8 cannot hold is replaced."""
    provenance = dataclasses.replace(content.provenance, config_yaml="name: \udc80")
    bare = without(content, *OPTIONAL)
    page = build_page(dataclasses.replace(bare, provenance=provenance))
    page.encode("utf-8")
    assert "name: \N{REPLACEMENT CHARACTER}" in page


def _with_markup(content: ReportContent) -> ReportContent:
    """Put markup into every string field of the content, at any depth."""

    def marked(value: object, key: str) -> object:
        if isinstance(value, str):
            return value if key in ("role", "word", "kinds", "status") else f'<b>"{value}'
        if isinstance(value, tuple):
            return tuple(marked(item, key) for item in value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            return type(value)(**{name: marked(item, name) for name, item in fields.items()})
        return value

    result = marked(content, "")
    assert isinstance(result, ReportContent)
    return result
