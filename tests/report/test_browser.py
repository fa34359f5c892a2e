"""Every method's page in a real browser: inert, quiet, offline, as wide as the window, reachable.

Skipped where Chromium or Playwright is missing (`pip install 'cuvee[browser]'`). With the option
``--basetemp`` the screenshots are kept there to be looked at.
"""

import csv
import dataclasses
import io
import runpy
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest

from cuvee.report.content import ReportContent
from cuvee.report.page import build_page
from cuvee.report.pictures import CurvesSection, Margin
from cuvee.tables.sensitivity import PathPoint, Price, Sensitivity

CHROMIUM = which("chromium") or which("chromium-browser") or which("google-chrome")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
HOSTILE = "</table><img src=x onerror=alert(1)><script>console.error(2)</script>\u202e\x07 =1+1"
"""What a document of the pool may say."""
HERE = Path(__file__).parent
PARTS = {
    "regmix": ("held_out", "runs", "response", "sensitivity"),
    "mixing-laws": ("held_out", "runs", "response", "scaling", "sensitivity"),
    "continual": ("runs", "scaling", "shares"),
    "quadmix": ("runs", "held_out", "curves"),
    "quad": ("clusters",),
}
"""Method to the sections of its page that not every page has."""
OWN = sorted({part for parts in PARTS.values() for part in parts})


def method_content(method: str) -> ReportContent:
    """Make the content that a method's report has."""
    full = runpy.run_path(str(HERE / "conftest.py"))["make_content"]()
    parts = {
        **{name: getattr(full, name) for name in OWN},
        "curves": _curves(full),
        "sensitivity": _sensitivity(full),
        "clusters": runpy.run_path(str(HERE / "test_cluster_charts.py"))["make_section"](),
    }
    kept: dict[str, Any] = {name: parts[name] if name in PARTS[method] else None for name in OWN}
    return dataclasses.replace(full, method=method, notes=(HOSTILE, HOSTILE), **kept)


def _curves(content: ReportContent) -> CurvesSection:
    domains, criteria = content.mixture.domains, ("clean", HOSTILE, "reference")
    rng = np.random.default_rng(5)
    ranks, threshold = np.linspace(0, 1, 41), rng.uniform(0.02, 0.6, len(domains))
    return CurvesSection(
        domains=domains,
        criteria=criteria,
        merge=rng.dirichlet(np.ones(3), len(domains)),
        threshold=threshold,
        taken=1.4 * threshold,
        shares=content.mixture.chosen,
        ranks=ranks,
        copies=1.9 / (1 + np.exp(60 * (ranks - threshold[:, None]))),
        reference=(0.4, None, 0.03),
        auc=(None, None, 0.97),
        margins=tuple(
            Margin(
                domain=name, kept_rank=0.21, kept=HOSTILE, dropped_rank=0.22, dropped="word " * 30
            )
            for name in domains[-3:]
        ),
    )


def _sensitivity(content: ReportContent) -> Sensitivity:
    mixture = content.mixture
    return Sensitivity(
        domains=mixture.domains,
        exact=True,
        gap=None,
        within=0.02,
        paired=True,
        ranges=tuple((0.6 * share, min(1.0, 1.5 * share)) for share in mixture.chosen.tolist()),
        prices=(Price(kind="upper", name=mixture.domains[-1], bound=0.2, price=0.03),),
        path=tuple(
            PathPoint(
                kl=kl,
                divergence=0.9 - kl,
                predicted=2.3 + kl / 5,
                weights=tuple((0.5 * mixture.chosen + 0.5 * mixture.natural).tolist()),
            )
            for kl in (0.5, 0.2, 0.0)
        ),
    )


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start one browser with an empty profile; nothing it does leaves this machine."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is missing: pip install 'cuvee[browser]'"
    )
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield started
        started.close()


@pytest.fixture(scope="module", params=sorted(PARTS))
def shown(request: pytest.FixtureRequest, browser: Any, tmp_path_factory: Any) -> Iterator[Any]:
    """Open a method's page and listen to all it says and asks for."""
    folder = tmp_path_factory.mktemp(request.param)
    path = folder / "report.html"
    path.write_text(build_page(method_content(request.param)), encoding="utf-8")
    context = browser.new_context(accept_downloads=True)
    page = context.new_page()
    heard: list[str] = []
    page.on("console", lambda message: heard.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: heard.append(f"error: {error}"))
    page.on("dialog", lambda dialog: heard.append(f"dialog: {dialog.message}"))
    page.on("request", lambda asked: heard.append(f"request: {asked.url[:200]}"))
    page.goto(path.as_uri())
    yield page, heard, path
    context.close()


def test_page_says_and_asks_for_nothing(shown: Any) -> None:
    """No console message, no dialog and no request but the file itself, scrolled to its end."""
    page, heard, path = shown
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    assert heard == [f"request: {path.as_uri()}"]
    assert page.locator("script, img, iframe, object, embed, link").count() == 0


@pytest.mark.parametrize(
    ("width", "scheme"), [(360, "light"), (800, "light"), (1440, "light"), (800, "dark")]
)
def test_page_is_as_wide_as_the_window(shown: Any, width: int, scheme: str) -> None:
    """Wide tables scroll in themselves, open or not; a screenshot is kept."""
    page, _, path = shown
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    for is_open in ("true", "false"):
        page.evaluate(f"document.querySelectorAll('details').forEach(d => d.open = {is_open})")
        wide, window = page.evaluate("[document.scrollingElement.scrollWidth, innerWidth]")
        assert wide <= window
    page.screenshot(path=path.with_name(f"{width}-{scheme}.png"), full_page=True)
    sunk = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sunk == "rgb(253, 253, 254)") == (scheme == "light")


def test_hostile_text_is_shown_as_text(shown: Any) -> None:
    """Markup is read as it was written; control and direction characters are gone."""
    page, _, _ = shown
    text = page.evaluate("document.body.textContent")
    assert "<img src=x onerror=alert(1)>" in text
    assert not set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u2069\x07\x1b") & set(text)


def test_pictures_and_landmarks_have_names(shown: Any) -> None:
    """A screen reader finds one main part, headings in order and words for every picture."""
    page, _, _ = shown
    assert page.locator("main, header, nav").count() == 3
    levels = page.evaluate(
        "[...document.querySelectorAll('h1, h2, h3')].map(one => Number(one.tagName[1]))"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert max(np.diff(levels)) <= 1
    unnamed = page.evaluate(
        "[...document.querySelectorAll('svg:not([aria-hidden])')].filter("
        "one => one.getAttribute('role') != 'img' || !one.getAttribute('aria-label')).length"
    )
    assert unnamed == 0
    assert page.locator("table td:first-child:not(.n):not(:empty)").count() == 0


def test_keyboard_reaches_everything(shown: Any) -> None:
    """The first stop skips to the content; whatever scrolls can be reached; focus is seen."""
    page, _, _ = shown
    page.set_viewport_size({"width": 360, "height": 900})
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().top") >= 0
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    stuck = page.evaluate(
        "[...document.querySelectorAll('body *')].filter(one => one.scrollWidth > one.clientWidth"
        " + 1 && getComputedStyle(one).overflowX == 'auto' && one.tabIndex < 0).length"
    )
    assert stuck == 0


def test_numbers_can_be_saved(shown: Any) -> None:
    """The links save CSV files without any request."""
    page, heard, path = shown
    before = len(heard)
    with page.expect_download() as waiting:
        page.locator("a[download='mixture.csv']").click()
    saved = path.with_name("mixture.csv")
    waiting.value.save_as(saved)
    rows = list(csv.reader(io.StringIO(saved.read_text(encoding="utf-8"))))
    assert rows[0][:2] == ["domain", "chosen"]
    assert sum(float(row[1]) for row in rows[1:]) == pytest.approx(1.0)
    assert all(one.startswith("request: data:") for one in heard[before:])
