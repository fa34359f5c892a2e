"""Two finished runs on one page: what each found, refused where they cannot be compared."""

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cuvee import artifacts
from cuvee.errors import ArtifactError, DataError
from cuvee.methods.side_by_side import read_side, write_comparison
from cuvee.validate.compare import compare

SCRIPT = "<script>alert(1)</script>\u202e"


def finished_run(
    out: Path,
    *,
    targets: tuple[str, ...] = ("qa", "code"),
    text: str = "f" * 64,
    weights: tuple[float, ...] = (0.5, 0.5),
    size: str = "0.2m",
    chosen: float = 2.0,
) -> Path:
    """Make the artefacts of a run that are read, as the chain writes them."""
    rng = np.random.default_rng(3)
    n_targets, mixtures = len(targets), ("chosen", "natural")
    tables = {
        name: level + rng.normal(0, 0.001, (3, n_targets))
        for name, level in zip(mixtures, (chosen, 2.5), strict=True)
    }
    settings: dict[str, Any] = {
        "pool": {"shards": [SCRIPT]},
        "targets": {"sets": {name: {} for name in targets}},
        "tokens": {"vocabulary_size": 300},
        "validate": {"size": size, "n_tokens": 4000, "n_seeds": 3},
    }
    out.mkdir(parents=True)
    (out / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    for index in ("corpus/index", "targets/index"):
        with stage(out / index) as aside:
            artifacts.write_json(aside / "summary.json", {"fingerprint": text})
    with stage(out / "selection") as aside:
        shares = {"web": {"planned_share": 0.25}, SCRIPT: {"planned_share": 0.75}}
        artifacts.write_json(aside / "mixture.json", {"domains": shares})
    with stage(out / "optimum") as aside:
        found = {"predicted": 1.75, "predicted_sd": 0.1, "interval": [1.5, 2.0]}
        artifacts.write_json(aside / "optimum.json", found)
    verdict = compare(tables, targets, np.array(weights), chosen="chosen", confidence=0.95)
    with stage(out / "verdict") as aside:
        artifacts.write_json(aside / "verdict.json", verdict.to_json())
    for name in ("natural", "draw-000"):
        with stage(out / "sweep" / name) as aside:
            artifacts.write_json(aside / "spec.json", {"size": "0.1m", "context": 32})
            artifacts.write_json(aside / "result.json", {"n_tokens": 1500})
    artifacts.write_json(out / artifacts.TIMING, {"train": 75.0})
    return out


def stage(folder: Path) -> Any:
    """Begin an artefact."""
    return artifacts.writing(folder, stage="test", settings={}, seed=1, inputs={})


def test_both_runs_are_shown(tmp_path: Path) -> None:
    """Mixtures, losses, verdicts, costs and the settings that differ, of both."""
    one = finished_run(tmp_path / "one")
    other = finished_run(tmp_path / "other", chosen=2.25)
    write_comparison(one, other, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    text = " ".join(unescape(re.sub(r"<[^>]*>", " ", page.partition("<body>")[2])).split())
    for words in ("−0.250", "75.00%", "2 runs, 3.00k tokens", "1 min 15 s", "1.500 to 2.000"):
        assert words in text, words
    assert "Nothing: both runs have the same settings" in text
    assert text.count("better") >= 4


def test_settings_that_differ_are_named(tmp_path: Path) -> None:
    """Only those; and losses of models of other sizes are not subtracted."""
    one = finished_run(tmp_path / "one")
    other = finished_run(tmp_path / "other", size="0.4m")
    write_comparison(one, other, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    table = page[page.index('<section id="settings">') :]
    assert "validate.<wbr>size" in table or "validate.size" in table
    assert "<code>0.4m</code>" in table
    assert "n_seeds" not in table
    assert "compare the differences to each run" in page


def test_text_of_the_runs_is_escaped(tmp_path: Path) -> None:
    """Names and settings are text; nothing is asked for from outside."""
    one = finished_run(tmp_path / "one")
    other = finished_run(tmp_path / f"other{SCRIPT.replace('/', '')}", size="0.4m")
    write_comparison(one, other, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "\u202e" not in page
    assert "&lt;script&gt;" in page
    assert all(
        link.startswith(("#", "data:text/csv"))
        for link in re.findall(r'(?:href|src)="([^"]*)', page)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": ("qa", "law")}, "was judged on qa, code; .* on qa, law"),
        ({"weights": (0.75, 0.25)}, "weigh their targets differently .0.5, 0.5 and 0.75, 0.25"),
        ({"text": "0" * 64}, "but of other text"),
    ],
)
def test_other_targets_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """Losses on other targets, weights or texts cannot stand side by side."""
    one = finished_run(tmp_path / "one")
    other = finished_run(tmp_path / "other", **change)
    with pytest.raises(DataError, match=message):
        write_comparison(one, other, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_unfinished_runs_are_refused(tmp_path: Path) -> None:
    """A folder without a run, without a verdict, and with a verdict of another kind."""
    with pytest.raises(ArtifactError, match="holds no run"):
        read_side(tmp_path)
    (tmp_path / "config.yaml").write_text("seed: 1\n", encoding="utf-8")
    with pytest.raises(ArtifactError, match="run `cuvee validate` first"):
        read_side(tmp_path)
    with stage(tmp_path / "verdict") as aside:
        (aside / "checks.json").write_text(json.dumps([]), encoding="utf-8")
    with pytest.raises(ArtifactError, match="no verdict on mixtures"):
        read_side(tmp_path)


def test_the_command(tmp_path: Path, cuvee: Callable[..., Any]) -> None:
    """`report --compare` writes the page; a config beside it, or neither, is refused."""
    one, other = finished_run(tmp_path / "one"), finished_run(tmp_path / "other")
    ended = cuvee("report", "--compare", one, other, "--out", tmp_path)
    assert ended.stdout == f"side by side: {tmp_path / 'side-by-side.html'}\n"
    assert (tmp_path / "side-by-side.html").exists()
    both = cuvee("report", tmp_path / "c.yaml", "--compare", one, other)
    assert (both.status, "takes no config" in both.stderr) == (1, True)
    neither = cuvee("report")
    assert (neither.status, "takes a config, or --compare" in neither.stderr) == (1, True)
