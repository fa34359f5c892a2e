"""Clusters and arms: what is drawn is what the log says, whatever the names are."""

import dataclasses
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from cuvee.errors import DataError
from cuvee.report import cluster_charts
from cuvee.report.cluster_sections import (
    ArmsSection,
    ClusterMapSection,
    ClusterRow,
    ClustersSection,
    RewardsSection,
)
from cuvee.report.content import ReportContent
from cuvee.report.page import build_page
from cuvee.search.bandit_log import Pull, Round

_NAMES = ("court, judge", "<script>alert(1)</script>", "$x$ costs $5", "salt, oven")


def _map() -> ClusterMapSection:
    rng = np.random.default_rng(0)
    return ClusterMapSection(
        names=_NAMES,
        centres=np.array([[-0.8, -0.8], [0.8, 0.8], [0.8, -0.8], [-0.8, 0.8]]),
        points=rng.uniform(-1, 1, (50, 2)),
        n_tokens=np.array([4000, 1000, 0, 100]),
        taken_tokens=np.array([1500, 500, 0, 0]),
        mean_reward=np.array([0.3, -0.2, np.nan, 0.1]),
        threshold=0.05,
    )


def _pull(cluster: int, rewards: tuple[float, ...], n_tokens: int = 0) -> Pull:
    return Pull(
        cluster=cluster,
        score=None,
        rewards=rewards,
        probe_tokens=10,
        mean=float(np.mean(rewards)),
        accepted=n_tokens > 0,
        n_documents=int(n_tokens > 0),
        n_tokens=n_tokens,
    )


def _round(number: int, pulls: tuple[Pull, ...], total: int, *, survey: bool = False) -> Round:
    return Round(
        number=number,
        survey=survey,
        exploration=0.1,
        threshold=None if survey else 0.15,
        pulls=pulls,
        total_probes=0,
        total_tokens=total,
        total_flops=0.0,
        regret=0.0,
    )


def _rounds() -> list[Round]:
    return [
        _round(
            1, tuple(_pull(place, (0.1 * place, 0.1 * place)) for place in range(4)), 0, survey=True
        ),
        _round(2, (_pull(3, (0.5, 0.7), 300),), 300),
        _round(3, (_pull(3, (0.3, 0.3), 100), _pull(2, (0.2, 0.2), 200)), 600),
    ]


def make_section() -> ClustersSection:
    """Make clusters whose names and examples are markup."""
    rows = tuple(
        ClusterRow(
            name=name,
            n_documents=12345,
            n_tokens=4000,
            taken_tokens=1500,
            n_probes=0 if place == 2 else 3,
            mean_reward=None if place == 2 else 0.0625,
            example="<img src=x onerror=alert(2)>\u202e\x07 end",
        )
        for place, name in enumerate(_NAMES)
    )
    return ClustersSection(
        map=_map(),
        arms=ArmsSection.of_rounds(_rounds(), _NAMES),
        rewards=RewardsSection.of_rounds(_rounds()),
        rows=rows,
        n_left_out=7,
        scored_share=0.0123,
        effective=3.21,
    )


def _texts(drawing: str) -> list[str]:
    return ["".join(one.itertext()) for one in ET.fromstring(drawing).iter("text")]


def test_map_draws_every_cluster_and_escapes_its_name() -> None:
    """A disc each, an edge where tokens were taken; names are text, not markup."""
    drawing = cluster_charts.cluster_map_chart(_map(), width=620, name="one")
    assert set(_NAMES) <= set(_texts(drawing))
    assert "<script" not in drawing
    label = ET.fromstring(drawing).attrib["aria-label"]
    assert "Map of 4 clusters, 2 of them taken from; most tokens: court, judge 1.50k" in label
    root = ET.fromstring(drawing)
    styles = [one.get("style", "") for one in root.iter("path") if "fill" in one.get("style", "")]
    assert len(styles) == 4
    assert sum("stroke: var(--ink" in style for style in styles) == 2
    assert len(list(root.iter("use"))) == 50


def test_map_does_not_write_names_over_each_other() -> None:
    """Clusters at one place: only the one that gave the most is named."""
    crowded = dataclasses.replace(_map(), centres=np.zeros((4, 2)))
    drawing = cluster_charts.cluster_map_chart(crowded, width=620, name="one")
    assert _texts(drawing) == [_NAMES[0]]


def test_arms_follow_the_log() -> None:
    """Means over all probes, pulls and tokens summed up, the most generous arm first."""
    arms = ArmsSection.of_rounds(_rounds(), _NAMES, n_shown=2)
    assert arms.names == (_NAMES[3], _NAMES[2])
    np.testing.assert_array_equal(arms.rounds, [2, 3])
    np.testing.assert_allclose(arms.mean, [[0.45, 0.4], [0.2, 0.2]])
    np.testing.assert_array_equal(arms.pulls, [[2, 3], [1, 2]])
    np.testing.assert_array_equal(arms.tokens, [[300, 400], [0, 200]])
    assert np.all(arms.low <= arms.mean)
    assert arms.high[0, 1] - arms.low[0, 1] < arms.high[1, 1] - arms.low[1, 1]
    assert arms.n_left_out == 2
    drawing = cluster_charts.arms_chart(arms, width=620, name="one")
    label = ET.fromstring(drawing).attrib["aria-label"]
    assert "2 rounds, 600 tokens taken: salt, oven mean 0.4000, 3 pulls, 400 tokens" in label
    assert {"mean reward", "pulls", "tokens taken", _NAMES[2]} <= set(_texts(drawing))
    with pytest.raises(DataError, match="round 1 pulled cluster 2, and there are names of 2"):
        ArmsSection.of_rounds(_rounds(), _NAMES[:2])


def test_rewards_count_every_probe() -> None:
    """All probes, and those of clusters that gave something."""
    section = RewardsSection.of_rounds(_rounds())
    assert len(section.rewards) == 14
    assert section.accepted.sum() == 10
    drawing = cluster_charts.rewards_chart(section, width=620, name="one")
    label = ET.fromstring(drawing).attrib["aria-label"]
    assert "14 probed documents" in label
    assert "threshold" in _texts(drawing)


def test_nothing_played_can_be_drawn() -> None:
    """No rounds, one round, no probes, equal rewards."""
    for rounds in ([], _rounds()[:1], _rounds()[:2]):
        arms = ArmsSection.of_rounds(rounds, _NAMES)
        cluster_charts.arms_chart(arms, width=340, name="one")
        cluster_charts.rewards_chart(RewardsSection.of_rounds(rounds), width=340, name="one")
    same = RewardsSection(rewards=np.ones(5), accepted=np.zeros(5, dtype=np.bool_), threshold=None)
    cluster_charts.rewards_chart(same, width=340, name="one")
    unknown = dataclasses.replace(_map(), mean_reward=np.full(4, np.nan), threshold=None)
    cluster_charts.cluster_map_chart(unknown, width=340, name="one")


def test_shapes_must_fit_the_names() -> None:
    """One value a cluster."""
    with pytest.raises(DataError, match="cluster n_tokens has shape"):
        dataclasses.replace(_map(), n_tokens=np.array([1]))


def test_the_page_shows_clusters_and_their_examples_as_text(content: ReportContent) -> None:
    """Numbers stand in the table; names and examples are never markup or control characters."""
    section = make_section()
    page = build_page(dataclasses.replace(content, clusters=section))
    assert "<h2>Clusters</h2>" in page
    assert "0.0625" in page
    assert "3.2 effective clusters" in page
    assert "7 more clusters are not shown" in page
    assert "&lt;img src=x onerror=alert(2)&gt;" in page
    for forbidden in ("<img", "<script", "\u202e", "\x07"):
        assert forbidden not in page
