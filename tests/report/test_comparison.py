"""Methods side by side in words, as Markdown and as a page: honest, aligned, escaped, the same."""

import dataclasses
import json

import numpy as np
import pytest

from cuvee.report.comparison import ComparisonContent, ContenderRow, markdown, sentence
from cuvee.report.comparison_page import build_comparison_page
from cuvee.validate.ranking import rank

SCRIPT = "<script>alert(1)</script>|x"
LOSSES = {"good": 1.0, "near": 1.0001, "natural": 1.2}


def row(name: str, flops: float) -> ContenderRow:
    """Return a contender that trained proxies where it cost anything."""
    return ContenderRow(
        name=name,
        kind="method" if flops else "baseline",
        method="regmix" if flops else "",
        shares={"web": 0.75, SCRIPT: 0.25},
        n_runs=8 if flops else 0,
        trained_tokens=8_000 if flops else 0,
        n_scored=0,
        n_labels=0,
        flops=flops,
    )


def content(*, n_seeds: int = 3, cost: float = 3e9, best: float = 1.0) -> ComparisonContent:
    """Return three contenders on two targets, one with a name that would be markup."""
    rng = np.random.default_rng(0)
    shift = rng.normal(0.0, 0.1, size=(n_seeds, 1))
    losses = {}
    for name, mean in LOSSES.items():
        noise = rng.normal(0.0, 1e-3, (n_seeds, 2))
        own = best if name == "good" else mean
        losses[name] = own + shift + noise - noise.mean(axis=0)
    return ComparisonContent(
        size="0.4m",
        n_tokens=400_000,
        n_seeds=n_seeds,
        model_flops=1e9,
        contenders=(row("good", cost), row("near", 1e9), row("natural", 0.0)),
        ranking=rank(losses, ("qa", SCRIPT), np.array([0.5, 0.5]), reference="natural"),
    )


def test_the_sentence_names_best_ties_losers_and_price() -> None:
    """A method that is tied with a cheaper one says so, and what both searches took."""
    told = sentence(content(best=0.9995))
    assert "400k tokens each, models of 0.4m parameters" in told
    assert "on the answer of good (" in told
    assert "near cannot be told apart from it by the 95% intervals" in told
    assert "all others are worse" in told
    assert "finding it took 3.0e9 FLOPs, 3 times the training of one such model" in told
    assert told.endswith("finding near took 1.0e9.")


def test_the_sentence_when_a_baseline_wins_or_all_are_behind() -> None:
    """A baseline that wins is called one; without ties everybody else is worse."""
    told = sentence(content(best=0.5, cost=0.0))
    assert "on good, a baseline (" in told
    assert "; all others are worse by the 95% intervals" in told
    assert told.endswith("finding it trained no model.")


def test_one_seed_says_that_nothing_can_be_told() -> None:
    """There is no interval, so there is no claim beyond the lowest loss."""
    told = sentence(content(n_seeds=1))
    assert "with one seed nothing can be told apart" in told
    assert "worse" not in told


def test_markdown_is_aligned_and_escaped() -> None:
    """Every row of a table is as wide as its head, and a name cannot add a column or a tag."""
    text = markdown(content())
    assert "\\<script\\>alert(1)\\</script\\>\\|x" in text
    assert "<script>" not in text
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 5
    for lines in blocks:
        assert len({len(line) for line in lines}) == 1
        plain = [line.replace("\\|", "") for line in lines]
        assert len({line.count("|") for line in plain}) == 1
    assert text.isascii()


def test_the_page_is_escaped_and_loads_nothing() -> None:
    """Names are inert, no script or address is in it, and equal content gives the same bytes."""
    page = build_comparison_page(content())
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert page.count("<figure") == 2
    assert page.count("<section") == page.count("</section>") == 4
    assert page == build_comparison_page(content())
    alone = dataclasses.replace(
        content(), ranking=dataclasses.replace(content().ranking, reference=None)
    )
    assert "#reference" not in build_comparison_page(alone)


def test_json_round_trip() -> None:
    """What is written comes back equal, with the best and the sentence beside it."""
    found = content()
    plain = json.loads(json.dumps(found.to_json()))
    assert plain["sentence"] == sentence(found)
    assert plain["best"] == found.ranking.table().rows[0].name
    assert ComparisonContent.from_json(plain) == found
    assert plain["contenders"][0]["flops"] == pytest.approx(3e9)
