"""What surrounds the answer, in pictures: every name and number is there, escaped."""

import numpy as np

from cuvee.report.content import MixtureSection, Provenance, ReportContent
from cuvee.report.page import build_page
from cuvee.tables.sensitivity import PathPoint, Price, Sensitivity

_DOMAINS = ("code", "<b>web</b>", "books")


def _content(found: Sensitivity) -> ReportContent:
    return ReportContent(
        title="preview",
        method="RegMix",
        objective="mean of 2 targets",
        mixture=MixtureSection(
            domains=_DOMAINS,
            natural=np.array([0.2, 0.5, 0.3]),
            chosen=np.array([0.4, 0.35, 0.25]),
        ),
        provenance=Provenance(command="cuvee", seed=1, config_yaml="", versions=(), digests=()),
        sensitivity=found,
    )


def _found(*, exact: bool, domains: tuple[str, ...] = _DOMAINS) -> Sensitivity:
    return Sensitivity(
        domains=domains,
        exact=exact,
        gap=1e-7 if exact else None,
        within=0.02,
        paired=not exact,
        ranges=((0.3, 0.45), (0.2, 0.5), (0.1, 0.4)),
        prices=(Price(kind="upper", name="<b>web</b>", bound=0.35, price=0.4),),
        path=tuple(
            PathPoint(kl=kl, divergence=away, predicted=value, weights=(0.3, 0.4, 0.3))
            for kl, away, value in ((1.0, 0.01, 1.5), (0.1, 0.05, 1.4), (0.0, 0.2, 1.38))
        ),
    )


def test_an_exact_answer_says_so_with_its_gap() -> None:
    """Ranges, prices and the path stand in tables; names are escaped."""
    page = build_page(_content(_found(exact=True)))
    assert "How far the answer may move" in page
    assert "The search is exact" in page
    assert "1.0e-07" in page
    assert "<b>web</b>" not in page
    assert "&lt;b&gt;web&lt;/b&gt;" in page
    assert "0.00400" in page
    assert "Shares along the path of the pull" in page


def test_a_simulated_answer_says_what_its_ranges_are() -> None:
    """No gap; the change's own deviation is named."""
    page = build_page(_content(_found(exact=False)))
    assert "1.645 standard deviations of that change" in page
    assert "The search is exact" not in page


def test_another_mixtures_surroundings_are_left_out() -> None:
    """Columns that are not the mixture's are not drawn against it."""
    page = build_page(_content(_found(exact=True, domains=("a", "b", "c"))))
    assert "How far the answer may move" not in page
