"""QuaDMix through the command line on the tiny pool: labels to verdict, resumed, in any layout."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyarrow import json as json_reader

from cuvee.labels.passes import align, read_column
from cuvee.methods import quadmix
from cuvee.methods.curve_study import CurveStudy, first_vectors
from cuvee.methods.curves import draw_sample, top_curve
from cuvee.methods.job import Job
from cuvee.policy.ranks import Normalisation, Normaliser
from cuvee.tables.runs import Runs, read_runs
from cuvee.tables.vectors import read_vectors, write_vectors

pytestmark = pytest.mark.timeout(900)


def _tiny(settings: dict[str, object]) -> dict[str, object]:
    for name in ("design", "search"):
        del settings[name]
    cast(dict[str, object], settings["validate"])["n_seeds"] = 1
    settings["criteria"] = {
        "clean": {"kind": "heuristics"},
        "fluent": {"kind": "perplexity", "targets": ["code"]},
    }
    settings["rivals"] = {"tidy": {"kind": "heuristics"}}
    settings["curves"] = {
        "n_runs": 14,
        "start_runs": 12,
        "batch_size": 2,
        "n_simulated": 200,
        "n_generations": 1,
        "n_best": 4,
        "sample_documents": 50,
        "regressions": ["linear"],
    }
    settings["prior"] = {"smallest_threshold": 0.2, "largest_threshold": 0.9}
    cast(dict[str, object], settings["proxy"])["size"] = "0.03m"
    return settings


def _taken(out: Path) -> dict[str, int]:
    lineage = pq.read_table(out / "selection" / "lineage.parquet")
    return dict(zip(lineage["id"].to_pylist(), lineage["copies"].to_pylist(), strict=True))


def test_the_chain_ends_in_a_verdict_and_a_report(
    settings: dict[str, object],
    tmp_path: Path,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    cuvee: Callable[..., Any],
) -> None:
    """All stages, the same again on resumption; what was chosen is what was written."""
    config = write_config(tmp_path / "quadmix.yaml", _tiny(settings))
    out = tmp_path / "out"
    ended = cuvee("run", "quadmix", config, "--out", out, "--workers", 0, "-q")
    assert ended.status == 0, ended.stderr
    made = read_vectors(out / "design" / "vectors.parquet")
    assert made.run_ids[:3] == ("natural", "top-clean", "top-fluent")
    assert made.values.shape == (12, 6 * 4)
    whole = read_vectors(out / "rounds" / "000" / "vectors.parquet")
    assert whole.run_ids[12:] == ("next-012", "next-013")
    found = json.loads((out / "optimum" / "found.json").read_text(encoding="utf-8"))
    assert found["predicted_best"] <= found["predicted_top_mean"]
    curve = json.loads((out / "optimum" / "curve.json").read_text(encoding="utf-8"))
    for one in curve["domains"].values():
        assert sum(one["merge"].values()) == pytest.approx(1.0)
    verdict = json.loads((out / "verdict" / "verdict.json").read_text(encoding="utf-8"))
    assert "union-of-tops" in json.dumps(verdict)
    assert "tidy" in json.dumps(verdict)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Quality curves" in page
    assert "At the margin" in page
    copies = _taken(out)
    assert set(copies.values()) <= {1, 2, 3}
    mixture = json.loads((out / "selection" / "mixture.json").read_text(encoding="utf-8"))
    assert mixture["n_tokens"]["realised"] == mixture["n_tokens"]["planned"]
    again = cuvee("run", "quadmix", config, "--out", out, "--workers", 0, "-q")
    assert again.stdout == ended.stdout
    assert _taken(out) == copies


def test_the_same_selection_from_another_layout(
    settings: dict[str, object],
    source: Path,
    tmp_path: Path,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    cuvee: Callable[..., Any],
) -> None:
    """Shards divided in two and named anew give equal labels, vectors and selected documents."""
    taken = []
    for name in ("one", "two"):
        pool = tmp_path / name
        pool.mkdir()
        for path in sorted((source / "pool").iterdir()):
            whole = (
                pq.read_table(path) if path.suffix == ".parquet" else json_reader.read_json(path)
            )
            odd = np.arange(whole.num_rows) % 2 == 1
            parts = [whole] if name == "one" else [whole.filter(odd), whole.filter(~odd)]
            for number, part in enumerate(parts):
                pq.write_table(part, pool / f"{9 - number}-{path.stem}.parquet")
        laid = {**_tiny(dict(settings)), "pool": {"shards": [str(pool)], "validation_share": 0.1}}
        settings = {**settings, "design": {}, "search": {}}
        config = write_config(tmp_path / f"{name}.yaml", laid)
        out = tmp_path / f"out-{name}"
        for verb in ("label", "design", "train", "fit", "search", "select"):
            ended = cuvee(verb, config, "--method", "quadmix", "--out", out, "--workers", 0, "-q")
            assert ended.status == 0, ended.stderr
        taken.append(_taken(out))
        vectors = read_vectors(out / "design" / "vectors.parquet").values
        if name == "one":
            first = vectors
            shutil.rmtree(pool)
        else:
            np.testing.assert_allclose(vectors, first, atol=1e-12)
    assert taken[0] == taken[1]


@pytest.mark.parametrize("normalisation", ["rank", "zscore"])
def test_one_scale_of_criteria_for_proxies_search_and_selection(
    normalisation: Normalisation,
    settings: dict[str, object],
    tmp_path: Path,
    write_config: Callable[[Path, Mapping[str, object]], Path],
) -> None:
    """The config's scale is what proxies are sampled by, the search is told, and the curve ranks.

    Checked on the raw scores of the label column, put on the scale by `Normaliser`.
    """
    config = write_config(
        tmp_path / "quadmix.yaml", {**_tiny(settings), "normalisation": normalisation}
    )
    read = quadmix.load_config(config)
    job = Job(out=tmp_path / "out", workers=0)
    quadmix.label(read, job)
    quadmix.design(read, job)
    shared = quadmix.study(read, job)
    store = shared.prepared.store
    tables = read_column(job.folder("labels", "clean"), store.shards)
    scores = np.empty(len(store.keys))
    for place, shard in enumerate(store.shards):
        own = store.shard == place
        scores[own] = align(tables[shard], store.keys[own])
    scale = Normaliser.fit(scores[store.side == 0], larger_is_better=True, method=normalisation)
    wanted = scale.transform(scores).astype(np.float32)
    np.testing.assert_array_equal(shared.quality.normalised[:, 0], wanted)
    spec = next(iter(shared.specs(first_vectors(job)).values()))
    np.testing.assert_array_equal(np.load(spec.quality or "")[:, 0], wanted)
    told = shared.measured(first_vectors(job), _unmeasured(shared)).sample.normalised[:, 0]
    assert set(told.tolist()) <= set(wanted.astype(np.float64).tolist())
    best = top_curve(store, shared.quality.normalised, shared.quality.criteria, 0, 2000)
    copies = draw_sample(store, shared.quality.normalised, (best,), n_tokens=10**9, seed=read.seed)
    train = store.side == 0
    assert scores[copies > 0].min() >= np.sort(scores[train])[-int((copies > 0).sum())]


def _unmeasured(shared: CurveStudy) -> Runs:
    """Make runs of the natural mixture that all lost the same."""
    n_runs, names = 12, shared.prepared.objective_names
    losses = np.ones((n_runs, len(names)))
    return Runs(
        run_ids=tuple(str(number) for number in range(n_runs)),
        domains=shared.prepared.store.domains,
        weights=np.tile(shared.prepared.statistics.natural, (n_runs, 1)),
        targets=names,
        losses=losses,
        losses_bpb=losses,
        diverged=np.zeros(n_runs, dtype=np.bool_),
        n_tokens=np.ones(n_runs, dtype=np.int64),
    )


def test_a_vector_that_takes_nothing_does_not_end_the_sweep(
    settings: dict[str, object],
    tmp_path: Path,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    cuvee: Callable[..., Any],
) -> None:
    """It counts as a run, is kept with its reason, and fit and search go on without it."""
    config = write_config(tmp_path / "quadmix.yaml", _tiny(settings))
    out = tmp_path / "out"
    rest = ("--method", "quadmix", "--out", out, "--workers", 0, "-q")
    for verb in ("label", "design"):
        assert cuvee(verb, config, *rest).status == 0
    path = out / "design" / "vectors.parquet"
    made = read_vectors(path)
    values = made.values.copy()
    places = [place for place, name in enumerate(made.names) if "omega" in name or "eps" in name]
    assert len(places) == 2 * 4, made.names
    values[5, places] = 0.0
    write_vectors(path, replace(made, values=values))
    for verb in ("train", "fit", "search"):
        ended = cuvee(verb, config, *rest)
        assert ended.status == 0, ended.stderr
    runs = read_runs(out / "runs" / "runs.parquet")
    assert list(runs.untrained) == [made.run_ids[5]]
    assert runs.diverged.sum() == 1
    assert len(runs.run_ids) == 14


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"criteria": {}}, "criteria is empty"),
        ({"rivals": {"clean": {"kind": "heuristics"}}}, "rival 'clean' has a name that is taken"),
        ({"criteria": {"a": {"kind": "magic"}}}, "criteria.a.kind"),
        ({"criteria": {"a": {"kind": "perplexity", "targets": ["x"]}}}, "names target 'x'"),
        ({"phases": [0.5, 0.5]}, "phases are not searched"),
        ({"curves": {"n_runs": 8}}, "at least 12 runs"),
        ({"search": {"kl": 0.1}}, "Leave the other keys of search out"),
        ({"search": {"bounds": {"news": [0.1, 0.2]}}}, "'news', which the pool does not have"),
        ({"max_epochs": 0.5}, "at least once"),
        ({"prior": {"largest_threshold": 1.5}}, "must rise within [0, 1]"),
    ],
)
def test_bad_settings_are_refused(
    change: dict[str, object],
    message: str,
    settings: dict[str, object],
    tmp_path: Path,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    cuvee: Callable[..., Any],
) -> None:
    """One clear message."""
    config = write_config(tmp_path / "bad.yaml", {**_tiny(settings), **change})
    ended = cuvee("run", "quadmix", config, "--out", tmp_path / "out", "--workers", 0, "-q")
    assert ended.status == 1
    assert message in " ".join(ended.stderr.split())
