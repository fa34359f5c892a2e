"""Domains by a classifier, by clusters and by quality cells, through the command line."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import pytest

from cuvee.corpus.pool import PoolConfig
from cuvee.corpus.scan import scan_pool
from cuvee.errors import DataError
from cuvee.labels.clusters import ClusterConfig
from cuvee.methods.domains import PoolDomainsConfig, describe_domains, label_pool_domains
from cuvee.methods.job import Job

pytestmark = pytest.mark.timeout(900)

Records = list[dict[str, Any]]


def _pool(source: Path) -> Records:
    """Read the tiny pool."""
    records: Records = []
    for name in ("animals", "numbers"):
        records += pq.read_table(source / "pool" / f"{name}.parquet").to_pylist()
    return records


def _write(folder: Path, parts: Sequence[Records]) -> None:
    folder.mkdir()
    for number, part in enumerate(parts):
        text = "".join(json.dumps(record) + "\n" for record in part)
        (folder / f"{number}.jsonl").write_text(text, encoding="utf-8")


def _domains(out: Path) -> dict[int, str]:
    """Return every document's domain by its key, as the finished index has it."""
    found = {}
    for path in sorted((out / "labels" / "domain").glob("*.parquet")):
        table = pq.read_table(path)
        found |= dict(zip(table["key"].to_pylist(), table["domain"].to_pylist(), strict=True))
    return found


def _without(records: Records, domain: str) -> Records:
    """Take the domain from every second document of one kind."""
    return [
        {**record, "domain": None if place % 2 and record["domain"] == domain else record["domain"]}
        for place, record in enumerate(records)
    ]


_CLUSTERS = ClusterConfig(n_clusters=2, n_sample=150, min_documents=5)


@pytest.mark.parametrize(
    "settings",
    [
        PoolDomainsConfig(by="classifier"),
        PoolDomainsConfig(by="clusters", clusters=_CLUSTERS),
        PoolDomainsConfig(cells=2),
    ],
    ids=["classifier", "clusters", "cells"],
)
def test_label_gives_the_same_domains_in_any_layout(
    settings: PoolDomainsConfig, source: Path, tmp_path: Path
) -> None:
    """One shard or several in another order, in this process or in workers: the same domains."""
    records = _pool(source)
    by_classifier = settings.by == "classifier"
    if by_classifier:
        records = _without(records, "animals")
    found = []
    for name, parts, workers in (
        ("one", [records], 0),
        ("more", [records[150:], records[:40], records[40:150]], 2 * (settings.cells > 1)),
    ):
        _write(tmp_path / name, parts)
        pool = PoolConfig(
            shards=(str(tmp_path / name),),
            domain_missing="unlabelled" if by_classifier else None,
            validation_share=0.1,
        )
        job = Job(out=tmp_path / f"out-{name}", workers=workers)
        labels = label_pool_domains(job, pool, settings, seed=1)
        index = scan_pool(pool, job.out, seed=1, workers=0, labels=labels)
        found.append(_domains(job.out))
        assert set(index.domains) == set(found[-1].values())
        assert label_pool_domains(job, pool, settings, seed=1) == labels
    assert found[0] == found[1]
    assert len(found[0]) == len(records)
    names = set(found[0].values())
    if settings.cells == 2:
        assert names == {f"{name}:{cell}" for name in ("animals", "numbers") for cell in (1, 2)}
        return
    if by_classifier:
        assert names == {"animals", "numbers"}
        assert "accuracy 1.000" in describe_domains(job)[0]
    assert sorted(list(found[0].values()).count(name) for name in names) == [80, 120]


def test_cells_hold_about_equal_text_and_the_best_come_first(source: Path, tmp_path: Path) -> None:
    """Thirds of a domain's bytes; every score of a better cell is at least those of a worse one."""
    _write(tmp_path / "pool", [_pool(source)])
    pool = PoolConfig(shards=(str(tmp_path / "pool"),))
    job = Job(out=tmp_path / "out", workers=0)
    labels = label_pool_domains(job, pool, PoolDomainsConfig(cells=3), seed=1)
    scan_pool(pool, job.out, seed=1, workers=0, labels=labels)
    cells = _domains(job.out)
    scores: dict[str, list[float]] = {}
    for path in (tmp_path / "out" / "domains" / "labels" / "quality").glob("*.parquet"):
        table = pq.read_table(path)
        for key, score in zip(table["key"].to_pylist(), table["score"].to_pylist(), strict=True):
            scores.setdefault(cells[key], []).append(score)
    descriptors = json.loads((job.out / "corpus" / "index" / "descriptors.json").read_text("utf-8"))
    for name in ("animals", "numbers"):
        own = [scores[f"{name}:{cell}"] for cell in (1, 2, 3)]
        assert min(own[0]) >= max(own[1])
        assert min(own[1]) >= max(own[2])
        sizes = np.array([descriptors[f"{name}:{cell}"]["n_bytes"] for cell in (1, 2, 3)])
        np.testing.assert_allclose(sizes / sizes.sum(), 1 / 3, atol=0.03)


def test_labels_of_other_documents_are_refused(source: Path, tmp_path: Path) -> None:
    """One clear message, where a pool changed under its labels."""
    records = _pool(source)
    _write(tmp_path / "pool", [records])
    pool = PoolConfig(shards=(str(tmp_path / "pool"),))
    job = Job(out=tmp_path / "out", workers=0)
    labels = label_pool_domains(job, pool, PoolDomainsConfig(cells=2), seed=1)
    (tmp_path / "pool" / "0.jsonl").unlink()
    (tmp_path / "pool").rmdir()
    for others in (records[::-1], records[:-1], [*records, {**records[0], "id": "new"}]):
        _write(tmp_path / "pool", [others])
        with pytest.raises(DataError, match="does not hold the domains of the pool's documents"):
            scan_pool(pool, job.out, seed=1, workers=0, labels=labels)
        (tmp_path / "pool" / "0.jsonl").unlink()
        (tmp_path / "pool").rmdir()


def test_a_run_on_named_clusters_ends_in_a_selection(
    settings: dict[str, object],
    source: Path,
    tmp_path: Path,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    cuvee: Callable[..., Any],
) -> None:
    """`cuvee run regmix` on clusters crossed with quality cells: they are the mixture's domains."""
    settings["domains"] = {
        "by": "clusters",
        "clusters": {"n_clusters": 2, "n_sample": 150, "min_documents": 5},
        "cells": 2,
    }
    settings["targets"] = {"sets": cast(dict[str, Any], settings["targets"])["sets"]}
    config = write_config(tmp_path / "run.yaml", settings)
    out = tmp_path / "out"
    ended = cuvee("run", "regmix", config, "--out", out, "--workers", 0, "-q")
    assert ended.status == 0, ended.stderr
    names = set(_domains(out).values())
    clusters = json.loads((out / "domains" / "clusters" / "clusters.json").read_text("utf-8"))
    assert names == {f"{name}:{cell}" for name in clusters["names"] for cell in (1, 2)}
    mixture = json.loads((out / "selection" / "mixture.json").read_text(encoding="utf-8"))
    assert set(mixture["domains"]) == names
    again = cuvee("run", "regmix", config, "--out", out, "--workers", 0, "-q")
    assert again.stdout == ended.stdout


@pytest.mark.parametrize(
    ("domains", "message"),
    [
        ({"by": "classifier"}, "pool.domain_missing is null"),
        ({"cells": 0}, "cells is 0; it must be at least 1"),
        ({"cells": 2, "cells_by": {"kind": "classifier"}}, "needs the pool's domains first"),
        ({"threshold": 1.0}, "threshold is 1.0"),
        ({"by": "magic"}, "domains.by"),
    ],
)
def test_bad_settings_are_refused(
    domains: dict[str, object],
    message: str,
    settings: dict[str, object],
    tmp_path: Path,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    cuvee: Callable[..., Any],
) -> None:
    """One clear message."""
    config = write_config(tmp_path / "bad.yaml", {**settings, "domains": domains})
    ended = cuvee("label", config, "--out", tmp_path / "out", "--workers", 0, "-q")
    assert ended.status == 1
    assert message in " ".join(ended.stderr.split())
