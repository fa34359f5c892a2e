"""Domains: learnt from documents that have one, given to those that have none."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cuvee.corpus.pool import PoolConfig
from cuvee.corpus.read import list_shards
from cuvee.corpus.scan import scan_pool
from cuvee.errors import ArtifactError, ConfigError, DataError
from cuvee.labels.domain_model import OTHER, DomainClassifier, judge_domains
from cuvee.labels.domains import DomainsConfig, label_domains
from cuvee.randomness import document_keys

_WORDS = {
    "law": ["court", "appeal", "judge", "statute", "evidence", "verdict"],
    "food": ["flour", "butter", "oven", "sugar", "whisk", "bake"],
    "sea": ["sail", "anchor", "harbour", "tide", "mast", "rope"],
}
_BOTH = ["the", "a", "of", "and"]


def _texts(name: str, n: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(_WORDS[name] + _BOTH, size=30)) for _ in range(n)]


def _model(*names: str) -> DomainClassifier:
    return DomainClassifier.fit({name: _texts(name, 40, 1) for name in names})


@pytest.mark.parametrize("names", [("law", "food"), ("law", "food", "sea")])
def test_domains_are_told_apart(names: tuple[str, ...], tmp_path: Path) -> None:
    """Two or more; probabilities sum to 1, and a model read back says the same."""
    model = _model(*names)
    for name in names:
        found, likely = model.predict(_texts(name, 20, 2), threshold=0.5)
        assert set(found) == {name}
        assert likely.min() > 0.5
    shares = model.probabilities(_texts("law", 20, 3))
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    model.save(tmp_path / "model.npz")
    again = DomainClassifier.load(tmp_path / "model.npz")
    assert again.names == tuple(sorted(names))
    np.testing.assert_allclose(again.probabilities(_texts("law", 20, 3)), shares)


def test_unlikely_documents_are_of_another_domain() -> None:
    """Text of neither kind is below the threshold, whatever the likeliest domain."""
    found, likely = _model("law", "food").predict(["unheard words altogether"], threshold=0.9)
    assert found == [OTHER]
    assert likely[0] < 0.9


def test_the_report_is_that_of_the_predictions() -> None:
    """One of four wrong in one of two domains: accuracy, recall and F1 by hand."""
    texts = {
        "law": [*_texts("law", 3, 4), *_texts("food", 1, 4)],
        "food": _texts("food", 4, 5),
    }
    report = judge_domains(_model("law", "food"), texts, threshold=0.0)
    assert report["accuracy"] == pytest.approx(7 / 8)
    f1_law, f1_food = 2 * 3 / (2 * 3 + 1), 2 * 4 / (2 * 4 + 1)
    assert report["macro_f1"] == pytest.approx((f1_law + f1_food) / 2)
    domains = report["domains"]
    assert isinstance(domains, dict)
    assert domains["law"] == {
        "n_documents": 4,
        "recall": pytest.approx(3 / 4),
        "f1": pytest.approx(f1_law),
    }


def test_what_cannot_be_learnt_is_refused(tmp_path: Path) -> None:
    """One domain, few texts, a file of something else."""
    with pytest.raises(DataError, match="there are 1 domains"):
        DomainClassifier.fit({"law": _texts("law", 9, 1)})
    with pytest.raises(DataError, match="domain 'sea' has 2 texts to learn from"):
        DomainClassifier.fit({"law": _texts("law", 9, 1), "sea": _texts("sea", 2, 1)})
    (tmp_path / "broken.npz").write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="is not a classifier of domains"):
        DomainClassifier.load(tmp_path / "broken.npz")
    with pytest.raises(ConfigError, match="holds the domains as read"):
        DomainsConfig(column="domain")
    with pytest.raises(ConfigError, match=r"pool\.domain_missing is null"):
        label_domains(
            PoolConfig(shards=("x",)), tmp_path, settings=DomainsConfig(), seed=1, workers=0
        )


def test_every_document_gets_a_domain(tmp_path: Path) -> None:
    """Its own where it has one; the right one where it is missing, null or blank."""
    truth: dict[str, str] = {}
    (tmp_path / "pool").mkdir()
    for shard, name in enumerate(sorted(_WORDS)):
        lines = []
        for place, text in enumerate(_texts(name, 60, 10 + shard)):
            record: dict[str, object] = {"id": f"{name}-{place}", "text": text, "domain": name}
            truth[f"{name}-{place}"] = name
            if place % 4 == 1:
                record["domain"] = (None, "", " ")[place % 3]
            if place % 4 == 2:
                del record["domain"]
            lines.append(json.dumps(record) + "\n")
        (tmp_path / "pool" / f"{shard}.jsonl").write_text("".join(lines), encoding="utf-8")
    pool = PoolConfig(
        shards=(str(tmp_path / "pool"),), domain_missing="unlabelled", validation_share=0.2
    )
    index = scan_pool(pool, tmp_path / "out", seed=1, workers=0)
    assert index.domains == ("food", "law", "sea", "unlabelled")
    folder = label_domains(pool, tmp_path / "out", settings=DomainsConfig(), seed=1, workers=0)
    assert folder == tmp_path / "out" / "labels" / "predicted-domain"
    known = dict(zip(document_keys(truth).tolist(), truth.values(), strict=True))
    rows = [
        row
        for shard in list_shards(pool)
        for row in pq.read_table(folder / f"{shard.name}.parquet").to_pylist()
    ]
    assert len(rows) == 180
    assert all(row["domain"] == known[row["key"]] for row in rows)
    assert sum(row["predicted"] for row in rows) == 90
    assert all(row["probability"] == 1.0 for row in rows if not row["predicted"])
    report = json.loads(
        (tmp_path / "out" / "domains" / "predicted-domain" / "report.json").read_text()
    )
    assert report["accuracy"] == report["macro_f1"] == 1.0
    with pytest.raises(ArtifactError, match="threshold changed since"):
        label_domains(
            pool, tmp_path / "out", settings=DomainsConfig(threshold=0.9), seed=1, workers=0
        )
