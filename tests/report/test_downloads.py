"""The numbers as CSV files: whole, one a section, and harmless to a spreadsheet."""

import csv
import dataclasses
import io
from urllib.parse import unquote

import numpy as np

from cuvee.report.content import ReportContent
from cuvee.report.downloads import Download, csv_download, downloads

PREFIX = "data:text/csv;charset=utf-8,"


def rows_of(one: Download) -> list[list[str]]:
    """Read a file back from its link."""
    assert one.href.startswith(PREFIX)
    text = unquote(one.href.removeprefix(PREFIX))
    return list(csv.reader(io.StringIO(text, newline="")))


def test_every_section_that_is_there_has_a_file(content: ReportContent) -> None:
    """Names, row counts; a section that is absent has none."""
    found = downloads(content)
    assert {"verdict", "mixture", "losses", "held_out", "pool", "shares"} <= set(found)
    assert not {"curves", "clusters", "sensitivity"} & set(found)
    for one in found.values():
        rows = rows_of(one)
        assert len(rows) == one.n_rows + 1
        assert {len(row) for row in rows} == {len(rows[0])}
    assert set(downloads(dataclasses.replace(content, pool=None))) == set(found) - {"pool"}


def test_numbers_are_whole(content: ReportContent) -> None:
    """What is read back is bit for bit what was shown."""
    rows = rows_of(downloads(content)["mixture"])
    assert rows[0][:3] == ["domain", "chosen", "natural"]
    chosen = np.array([float(row[1]) for row in rows[1:]])
    np.testing.assert_array_equal(chosen, content.mixture.chosen)


def test_what_is_missing_is_empty(content: ReportContent) -> None:
    """NaN and None leave their cell empty."""
    assert content.runs is not None
    rows = rows_of(downloads(content)["runs"])
    lost = [row for row in rows[1:] if row[3] == "1"]
    assert [row[2] for row in lost] == [""]
    assert len(lost) == int(content.runs.diverged.sum())


def test_cells_are_never_formulas() -> None:
    """Names a spreadsheet would compute are text; control and direction characters are gone."""
    hostile = ["=HYPERLINK(1)", "+1", "-1", "@x", "\t=1", " =1", 'a"b,c\n=d', "\u202e\x07x"]
    one = csv_download("x.csv", (("=name",), [[name] for name in hostile]))
    cells = [row[0] for row in rows_of(one)]
    assert cells[:5] == ["'=name", "'=HYPERLINK(1)", "'+1", "'-1", "'@x"]
    assert cells[5:7] == ["' =1", "' =1"]
    assert cells[7] == 'a"b,c =d'
    assert cells[8] == "\N{REPLACEMENT CHARACTER}" * 2 + "x"
    assert csv_download("x.csv", (("n",), [[-1.5]])).href.endswith("-1.5%0D%0A")


def test_nothing_in_a_link_ends_it() -> None:
    """Quotes, brackets and hashes are percent-encoded, so the link is one attribute."""
    href = csv_download("x.csv", (("a",), [['"><script>#&']])).href
    assert not set('"<>#& ') & set(href)
