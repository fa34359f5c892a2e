"""A design trained by somebody else's trainer: its configs, its logs, and the search on them."""

import csv
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cuvee import artifacts
from cuvee.methods import measure
from cuvee.methods.job import Job
from cuvee.tables.design import read_design
from cuvee.tables.runs import read_runs, read_trajectory

DOMAINS = ("code", "prose", "tiny bits")
N_TOKENS = 4_096
POINTS = (2_048, 4_096)
BEST = {"code": 0.6, "prose": 0.35, "tiny bits": 0.05}
"""The fake trainer's losses are lowest here."""


def _write_pool(root: Path) -> None:
    root.mkdir()
    rng = np.random.default_rng(0)
    words = {"code": "def if else return x y", "prose": "the sea a hill was", "tiny bits": "0 1 2"}
    for name, own in words.items():
        lines = [
            {"id": f"{name}-{n}", "domain": name, "text": " ".join(rng.choice(own.split(), 60))}
            for n in range(60)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (root / f"{name[:4]}.jsonl").write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of three domains, and a config without targets: the domains are the targets."""
    root = tmp_path_factory.mktemp("own-trainer")
    _write_pool(root / "pool")
    shape = {"context": 64, "batch_tokens": 512}
    settings = {
        "pool": {"shards": [str(root / "pool")], "validation_share": 0.25},
        "tokens": {"vocabulary_size": 300, "sample_bytes": 20_000},
        "runs": "design",
        "design": {"n_runs": 10, "oversample": 20},
        "proxy": {"n_tokens": N_TOKENS, "repetition_matched": False, **shape},
        "fit": {"model": "linear"},
        "validate": {"size": "0.2m", "n_tokens": 8192, "learning_rate": 1e-3},
        "search": {"n_simulated": 500, "n_best": 16},
    }
    (root / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return root


@pytest.fixture
def designed(source: Path, tmp_path: Path, cuvee: Callable[..., Any]) -> Path:
    """The run's folder after `cuvee design --to megatron`."""
    kept = source / "designed"
    if not kept.exists():
        ended = _design(cuvee, source, kept, "megatron", "--root", "/data")
        assert ended.status == 0, ended.stderr
    return Path(shutil.copytree(kept, tmp_path / "out"))


def _design(cuvee: Callable[..., Any], source: Path, out: Path, to: str, *more: object) -> Any:
    config = source / "config.yaml"
    settings = more[more.index("--set") :] if "--set" in more else ()
    settings = tuple(one for one in settings if one != "--json")
    if not out.exists():
        ended = cuvee("label", config, "--out", out, "--workers", 0, "-q", *settings)
        assert ended.status == 0, ended.stderr
    return cuvee("design", config, "--out", out, "--workers", 0, "-q", "--to", to, *more)


def _blend(run: Path) -> dict[str, float]:
    """Read a blend as Megatron does: weights and prefixes in turn."""
    words = (run / "blend.txt").read_text().split()
    return {Path(prefix).name: float(w) for w, prefix in zip(words[::2], words[1::2], strict=True)}


def _train(run: Path) -> dict[str, float]:
    """Stand for a trainer: final losses that follow from its blend alone."""
    names = {"code": "code", "prose": "prose"}
    blend = {names.get(name, "tiny bits"): share for name, share in _blend(run).items()}
    far = {name: blend.get(name, 0.0) - BEST[name] for name in DOMAINS}
    return {f"domain/{name}": 3.0 + sum(far.values()) - 0.8 * far["code"] for name in DOMAINS}


def _rows(out: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for run in sorted((out / "trainer" / "megatron").iterdir()):
        if run.is_dir():
            for at in POINTS:
                losses = {name: loss + 1.0 / at for name, loss in _train(run).items()}
                rows.append({"run_id": run.name, "tokens": at, "size": "70M", **losses})
    return rows


def _log(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_from_design_to_search_by_another_trainer(
    source: Path, designed: Path, tmp_path: Path, cuvee: Callable[..., Any]
) -> None:
    """Configs, a trainer that reads only them, its losses, and a search that uses these."""
    rows = _rows(designed)
    np.random.default_rng(1).shuffle(rows)  # type: ignore[arg-type]
    log = _log(tmp_path / "losses.csv", rows)
    ended = cuvee("ingest", designed, "--from", log, "--json")
    assert ended.status == 0, ended.stderr
    assert json.loads(ended.stdout)["n_runs"] == 10
    runs = read_runs(designed / "runs" / "runs.parquet")
    drawn = read_design(designed / "trainer" / "megatron" / "drawn.parquet")
    assert runs.run_ids == drawn.run_ids
    np.testing.assert_allclose(runs.weights, drawn.weights)
    by_id = {row["run_id"]: row for row in rows if row["tokens"] == N_TOKENS}
    expected = [[by_id[one][name] for name in runs.targets] for one in runs.run_ids]
    np.testing.assert_allclose(runs.losses, np.array(expected, dtype=np.float64))
    trajectory = read_trajectory(designed / "sweep" / runs.run_ids[0] / "trajectory.parquet")
    assert trajectory.n_tokens.tolist() == list(POINTS)
    for verb in ("train", "fit", "search"):
        more = () if verb == "fit" else ("--workers", 0)
        ended = cuvee(verb, source / "config.yaml", "--out", designed, "-q", *more)
        assert ended.status == 0, ended.stderr
    found = artifacts.read_json(designed / "optimum" / "optimum.json")
    assert isinstance(found, dict)
    shares = dict(zip(found["domains"], found["weights"], strict=True))
    assert shares["code"] == max(shares.values())  # what lowers the fake trainer's losses
    assert not (designed / "machine.json").exists()  # nothing was trained here
    assert measure.ingested_size(Job(out=designed, workers=0)) == "70m"


def test_blend_is_what_is_fitted(designed: Path) -> None:
    """Each run's blend has the drawn weights, all above 0, and paths without white space."""
    folder = designed / "trainer" / "megatron"
    drawn = read_design(folder / "drawn.parquet")
    plan = artifacts.read_json(folder / "plan.json")
    assert isinstance(plan, dict)
    for run_id, row in zip(drawn.run_ids, drawn.weights, strict=True):
        blend = _blend(folder / run_id)
        assert sum(blend.values()) == pytest.approx(1.0)
        assert sorted(blend.values()) == pytest.approx(sorted(row[row > 0.0]))
        assert min(row[row > 0.0]) * N_TOKENS >= plan["context"]
    assert plan["domains"]["code"]["path"] == "/data/data/code"
    assert " " not in plan["domains"]["tiny bits"]["path"]


@pytest.mark.parametrize("to", ["olmo", "nanotron", "torchtitan", "llama-factory"])
def test_every_trainer_is_told_the_same_mixture(
    to: str, source: Path, designed: Path, cuvee: Callable[..., Any]
) -> None:
    """Token shares, or where documents are drawn such shares of them that tokens come out."""
    ended = _design(cuvee, source, designed, to, "--data", "code=/mine/code")
    assert ended.status == 0, ended.stderr
    folder = designed / "trainer" / to
    drawn = read_design(folder / "drawn.parquet")
    plan: Any = artifacts.read_json(folder / "plan.json")
    means = np.array([plan["domains"][name]["document_tokens"] for name in drawn.domains])
    for run_id, row in zip(drawn.run_ids, drawn.weights, strict=True):
        found, paths = _told(to, folder / run_id)
        own = row[row > 0.0]
        if to == "llama-factory":
            tokens = np.array(found) * means[row > 0.0]
            found = (tokens / tokens.sum()).tolist()
        assert found == pytest.approx(own.tolist())
        if row[0] > 0.0 and paths:
            assert paths[0].startswith("/mine/code")


def _told(to: str, run: Path) -> tuple[list[float], list[str]]:
    """Read a run's shares and paths back from its config."""
    if to == "olmo":
        sources = yaml.safe_load((run / "source_mixture.yaml").read_text())["sources"]
        assert all(one["max_repetition_ratio"] >= 1.0 for one in sources)
        return [one["target_ratio"] for one in sources], [one["paths"][0] for one in sources]
    if to == "nanotron":
        stage = yaml.safe_load((run / "data_stages.yaml").read_text())["data_stages"][0]
        dataset = stage["data"]["dataset"]
        return dataset["dataset_weights"], dataset["dataset_folder"]
    if to == "llama-factory":
        settings = yaml.safe_load((run / "train.yaml").read_text())
        listed = json.loads((run.parent / "dataset_info.json").read_text())
        names = settings["dataset"].split(",")
        shares = [float(share) for share in settings.get("interleave_probs", "1").split(",")]
        return shares, [listed[name]["file_name"] for name in names]
    values: dict[str, Any] = {}
    for line in (run / "dataloader.py").read_text().splitlines():
        if line.startswith(("FOLDERS", "WEIGHTS")):
            name, _, value = line.partition(" = ")
            values[name] = yaml.safe_load(value)
    return list(values["WEIGHTS"].values()), list(values["FOLDERS"].values())


def test_a_domain_below_one_sequence_is_left_out_and_said(
    source: Path, tmp_path: Path, cuvee: Callable[..., Any]
) -> None:
    """With long sequences small shares cannot be drawn: config, mixture and notes agree."""
    more = ("--set", "proxy.context=1024", "--set", "proxy.batch_tokens=1024")
    ended = _design(cuvee, source, tmp_path / "out", "megatron", "--json", *more)
    assert ended.status == 0, ended.stderr
    made = json.loads(ended.stdout)
    drawn = read_design(tmp_path / "out" / "trainer" / "megatron" / "drawn.parquet")
    run_id, names = next(iter(made["left_out"].items()))
    assert all(drawn.row(run_id)[drawn.domains.index(name)] == 0.0 for name in names)
    assert drawn.row(run_id).sum() == pytest.approx(1.0)
    assert any("less than one sequence of 1,024 tokens" in note for note in made["notes"])


def test_names_of_a_tracker_and_steps(
    designed: Path, tmp_path: Path, cuvee: Callable[..., Any]
) -> None:
    """Columns of any name, a file a run, rows of training steps, bits per byte, and divergence."""
    files = []
    drawn = read_design(designed / "trainer" / "megatron" / "drawn.parquet")
    for number, run in enumerate(drawn.run_ids):
        losses = _train(designed / "trainer" / "megatron" / run)
        lines: list[dict[str, object]] = [{"_step": 1, "train/loss": 9.0}]
        for step in (4, 8):
            bpb = {f"eval/{name[7:]}": loss for name, loss in losses.items()}
            lines.append({"_step": step, "train/loss": 1.0, **bpb})
        if number == 2:
            lines[-1]["eval/code"] = float("nan")
        path = tmp_path / f"{run}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        files += ["--from", path]
    names = [part for name in DOMAINS for part in ("--target", f"{name}=eval/{name}")]
    more = ("--step-column", "_step", "--tokens-per-step", 512, "--unit", "bpb", "--json")
    ended = cuvee("ingest", designed, *files, *names, *more)
    assert ended.status == 0, ended.stderr
    runs = read_runs(designed / "runs" / "runs.parquet")
    assert json.loads(ended.stdout)["diverged"] == [runs.run_ids[2]]
    assert runs.diverged.tolist() == [place == 2 for place in range(10)]
    assert runs.losses_bpb[0].tolist() == pytest.approx(
        [_train(designed / "trainer" / "megatron" / runs.run_ids[0])[name] for name in runs.targets]
    )


def test_charts_exported_by_a_tracker(
    designed: Path, tmp_path: Path, cuvee: Callable[..., Any]
) -> None:
    """A chart a metric, a column a run beside its bounds, blank where a run has no such step."""
    rows, files = _rows(designed), []
    runs = sorted({str(row["run_id"]) for row in rows})
    for name in DOMAINS:
        lines: list[dict[str, object]] = []
        for step, at in zip((4, 8), POINTS, strict=True):
            values = {row["run_id"]: row[f"domain/{name}"] for row in rows if row["tokens"] == at}
            line: dict[str, object] = {"Step": step}
            for run in runs:
                line[f"{run} - eval/{name}"] = "" if run == "natural" and step == 4 else values[run]
                line[f"{run} - eval/{name}__MIN"] = line[f"{run} - eval/{name}__MAX"] = 0.0
            lines.append(line)
        files += ["--from", _log(tmp_path / f"chart-{name}.csv", lines)]
    names = [part for name in DOMAINS for part in ("--target", f"{name}=eval/{name}")]
    ended = cuvee("ingest", designed, *files, *names, "--tokens-per-step", 512, "--json")
    assert ended.status == 0, ended.stderr
    assert json.loads(ended.stdout)["n_points"] == 19
    found = read_runs(designed / "runs" / "runs.parquet")
    by_id = {row["run_id"]: row for row in rows if row["tokens"] == N_TOKENS}
    expected = [[by_id[one][name] for name in found.targets] for one in found.run_ids]
    np.testing.assert_allclose(found.losses, np.array(expected, dtype=np.float64))


def _drop_run(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    return [row for row in rows if row["run_id"] != "natural"]


def _repeat(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    return [*rows, rows[0]]


def _stop_early(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    return [row for row in rows if row["run_id"] != "natural" or row["tokens"] != N_TOKENS]


def _renamed(old: str, new: str) -> Callable[[list[dict[str, object]]], list[dict[str, object]]]:
    return lambda rows: [{new if k == old else k: v for k, v in row.items()} for row in rows]


def _stranger(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    return [*rows, {**rows[0], "run_id": "mine"}]


def _word(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{**rows[0], "domain/code": "low"}, *rows[1:]]


def _blank(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{**rows[0], "domain/code": ""}, *rows[1:]]


def _all_diverged(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{**row, "domain/code": math.nan} for row in rows]


def _sizes(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{**row, "size": "1B" if row["run_id"] == "natural" else "70M"} for row in rows]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_drop_run, "lack 1 of the design's 10 runs: natural"),
        (_repeat, "repeats run"),
        (_stop_early, "run 'natural' ends at 2,048 of 4,096 tokens"),
        (_stranger, "run 'mine', which is not in the design"),
        (_renamed("domain/code", "domain/cod"), "column 'domain/cod' is of no target"),
        (_renamed("domain/code", "loss"), "no column is of target 'domain/code'"),
        (_renamed("tokens", "when"), "no column named n_tokens or tokens"),
        (_word, "is 'low'; expected a number"),
        (_blank, "has no loss on 'domain/code'"),
        (_all_diverged, "every run diverged"),
        (_sizes, "logs are of 2 sizes"),
    ],
)
def test_bad_logs_are_refused(
    spoil: Callable[[list[dict[str, object]]], list[dict[str, object]]],
    message: str,
    designed: Path,
    tmp_path: Path,
    cuvee: Callable[..., Any],
) -> None:
    """One message that says what is wrong; nothing is written."""
    log = _log(tmp_path / "losses.csv", spoil(_rows(designed)))
    ended = cuvee("ingest", designed, "--from", log)
    assert ended.status == 1
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not (designed / "runs").exists()
    assert not (designed / "sweep").exists()


def test_options_that_do_not_go_together(
    source: Path, designed: Path, tmp_path: Path, cuvee: Callable[..., Any]
) -> None:
    """Unknown trainers, domains and targets, other methods, and a second ingestion are refused."""
    log = _log(tmp_path / "losses.csv", _rows(designed))
    for arguments, message in (
        (("--target", "cod=domain/code"), "--target names 'cod', which is not a target"),
        (("--unit", "bits"), "choose nats or bpb"),
        (("--tokens-per-byte", "cod=0.3"), "--tokens-per-byte names 'cod'"),
        (("--run-column", "who"), "has no column 'who'"),
    ):
        ended = cuvee("ingest", designed, "--from", log, *arguments)
        assert (ended.status, message in ended.stderr) == (1, True), ended.stderr
    for to, more, message in (
        ("mosaic", (), "there are no run configs for 'mosaic'"),
        ("olmo", ("--data", "cod=/x"), "--data names 'cod'"),
        ("olmo", ("--data", "code=/my data"), "white space"),
        ("olmo", ("--method", "quadmix"), "not of quadmix"),
        ("megatron", ("--root", "/elsewhere"), "was written with another --root"),
    ):
        ended = _design(cuvee, source, designed, to, *more)
        assert (ended.status, message in ended.stderr) == (1, True), ended.stderr
    assert cuvee("ingest", designed, "--from", log, "-q").status == 0
    ended = cuvee("ingest", designed, "--from", log)
    assert "holds measured runs already" in ended.stderr
