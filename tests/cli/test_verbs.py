"""The command line as people and programs meet it: help, verbosity, JSON, plans, exit status."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from cuvee import artifacts
from cuvee.errors import ConfigError

VERBS = (
    "run",
    "compare",
    "label",
    "design",
    "ingest",
    "train",
    "fit",
    "predict",
    "search",
    "select",
    "validate",
    "report",
    "show",
    "watch",
    "overlap",
    "duplicates",
    "copies",
    "influence",
    "export",
)
ESCAPE = "\x1b[2J"
"""Clears a terminal that is given it raw."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config of models so small that timing them takes no time."""
    settings = {
        "pool": {"shards": ["pool"]},
        "tokens": {"vocabulary_size": 300},
        "proxy": {"context": 32, "batch_tokens": 256, "n_tokens": 4096, "learning_rate": 1e-3},
        "validate": {"size": "0.2m", "n_tokens": 8192, "learning_rate": 1e-3},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder with one finished stage, whose table holds text that would steer a terminal."""
    folder = tmp_path / "out"
    with artifacts.writing(
        folder / "runs", stage="train", settings={"a": 1}, seed=7, inputs={}
    ) as aside:
        table = pa.table({"run": ["natural", f"x{ESCAPE}"], f"loss{ESCAPE}": [1.25, float("nan")]})
        pq.write_table(table, aside / "runs.parquet")
        artifacts.write_json(aside / "about.json", {"name": f"y{ESCAPE}", "parts": [1, {"b": 2}]})
    return folder


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_explains_itself(verb: str, cuvee: Callable[..., Any]) -> None:
    """--help says how the verb is called and what it does."""
    ended = cuvee(verb, "--help")
    assert (ended.status, ended.stderr) == (0, "")
    assert ended.stdout.startswith("Usage: ")
    assert f" {verb} " in ended.stdout.splitlines()[0]
    assert len(ended.stdout.splitlines()[2].split()) > 2


def test_help_names_every_verb(cuvee: Callable[..., Any]) -> None:
    """The overview lists each verb and no other."""
    listed = cuvee("--help").stdout.partition("Commands:\n")[2]
    assert sorted(line.split()[0] for line in listed.splitlines() if line) == sorted(VERBS)


@pytest.mark.parametrize(
    ("options", "level"),
    [((), logging.WARNING), (("-q",), logging.ERROR), (("--quiet",), logging.ERROR)]
    + [((one,), logging.INFO) for one in ("-v", "--verbose")],
)
def test_verbosity_sets_the_log(
    options: tuple[str, ...], level: int, out: Path, cuvee: Callable[..., Any]
) -> None:
    """Warnings are shown, with -q only errors, with -v each stage."""
    assert cuvee("show", out, *options).status == 0
    assert logging.getLogger("cuvee").level == level


def test_errors_have_a_traceback_only_with_v(tmp_path: Path, cuvee: Callable[..., Any]) -> None:
    """One message by default; the exception itself with -v."""
    ended = cuvee("label", tmp_path / "no.yaml")
    assert ended.stderr.count("\n") == 1
    assert "Traceback" not in ended.stderr
    with pytest.raises(ConfigError, match=r"no\.yaml does not exist"):
        cuvee("label", tmp_path / "no.yaml", "-v")


def test_interruption_says_how_to_go_on(
    out: Path, cuvee: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends with 130 and without a traceback."""

    def interrupt(path: Path, *, rows: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cuvee.cli.show.read_artifact", interrupt)
    ended = cuvee("show", out)
    assert ended.status == 130
    assert ended.stderr == "cuvee: interrupted; the same command goes on from here.\n"


def test_dry_run_plans_and_writes_nothing(
    config: Path, tmp_path: Path, cuvee: Callable[..., Any]
) -> None:
    """The plan has runs, tokens, FLOPs and time of each part, and the resolved config."""
    before = sorted(tmp_path.rglob("*"))
    ended = cuvee(
        *("run", "regmix", config, "--out", tmp_path / "out", "--dry-run", "--workers", 0)
    )
    assert (ended.status, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert lines[0].split() == ["runs", "tokens", "FLOPs", "time"]
    assert lines[1].split()[:4] == ["sweep", "0.1m", "32", "1.31e+05"]
    assert lines[2].split()[:4] == ["validate", "0.2m", "12", "9.83e+04"]
    assert lines[3].split()[:3] == ["total", "44", "2.29e+05"]
    resolved = yaml.safe_load(ended.stdout.partition("\n\n")[2])
    assert resolved["design"]["n_runs"] == 32
    assert sorted(tmp_path.rglob("*")) == before


def test_dry_run_as_json(config: Path, tmp_path: Path, cuvee: Callable[..., Any]) -> None:
    """Programs get the same plan as JSON."""
    ended = cuvee("run", "regmix", config, "--dry-run", "--workers", 0, "--json")
    plan = json.loads(ended.stdout)
    assert [part["name"] for part in plan["parts"]] == ["sweep 0.1m", "validate 0.2m"]
    assert plan["total"]["n_runs"] == 44
    assert plan["total"]["seconds"] > 0
    assert plan["config"]["validate"]["size"] == "0.2m"
    assert not (tmp_path / "tiny-out").exists()


def test_train_dry_run_writes_nothing(
    config: Path, tmp_path: Path, cuvee: Callable[..., Any]
) -> None:
    """The verb of the sweep plans too."""
    ended = cuvee("train", config, "--out", tmp_path / "out", "--dry-run", "--workers", 0)
    assert (ended.status, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[1].startswith("sweep 0.1m")
    assert not (tmp_path / "out").exists()


def test_paper_preset_is_shown(config: Path, tmp_path: Path, cuvee: Callable[..., Any]) -> None:
    """The paper's 512 runs, 100,000 draws and mean of 128 stand where the file is silent."""
    ended = cuvee(
        *("run", "regmix", config, "--dry-run", "--json", "--workers", 0),
        *("--set", "preset=paper", "--set", "proxy.size=0.1m"),
    )
    plan = json.loads(ended.stdout)
    assert plan["parts"][0]["n_runs"] == plan["config"]["design"]["n_runs"] == 512
    search = plan["config"]["search"]
    assert (search["n_simulated"], search["n_best"], search["refine"]) == (100_000, 128, False)
    assert plan["config"]["fit"]["model"] == "boosted-trees"
    assert plan["config"]["proxy"]["context"] == 32
    assert plan["config"]["proxy"]["batch_tokens"] == 256


def test_batch_of_the_paper_is_timed_in_part(
    config: Path, tmp_path: Path, cuvee: Callable[..., Any]
) -> None:
    """A plan with batches of a million tokens takes no more time and memory than another."""
    ended = cuvee(
        *("run", "regmix", config, "--dry-run", "--json", "--workers", 0),
        *("--set", "proxy.batch_tokens=1048576", "--set", "proxy.n_tokens=1000000000"),
        *("--set", "validate.n_tokens=2000000"),
    )
    assert (ended.status, ended.stderr) == (0, "")
    sweep = json.loads(ended.stdout)["parts"][0]
    assert sweep["n_tokens"] == pytest.approx(32 * 1e9)


def test_show_a_run(out: Path, cuvee: Callable[..., Any]) -> None:
    """A run's folder lists its stages and how far they are."""
    (out / "sweep" / "natural").mkdir(parents=True)
    ended = cuvee("show", out)
    assert ended.stdout == (f"path: {out}\nstages:\n  runs: done\n  sweep: 0 of 1 parts done\n")


def test_show_a_stage(out: Path, cuvee: Callable[..., Any]) -> None:
    """A stage's folder shows its manifest."""
    shown = json.loads(cuvee("show", out / "runs", "--json").stdout)
    assert (shown["stage"], shown["seed"], shown["settings"]) == ("train", 7, {"a": 1})
    assert shown["files"] == ["about.json", "runs.parquet"]
    assert shown["digest"] == artifacts.digest_of(out / "runs")


def test_show_a_table(out: Path, cuvee: Callable[..., Any]) -> None:
    """A Parquet file is a table of its first rows; nothing in it steers the terminal."""
    ended = cuvee("show", out / "runs" / "runs.parquet")
    assert ended.stdout.splitlines() == [
        r"     run  loss\x1b[2J",
        " natural         1.25",
        r"x\x1b[2J         None",
        "2 of 2 rows",
    ]
    assert cuvee("show", out / "runs" / "runs.parquet", "--rows", 1).stdout.endswith(
        "1 of 2 rows\n"
    )


def test_show_a_table_as_json(out: Path, cuvee: Callable[..., Any]) -> None:
    """As JSON values are whole, and what is no number is null."""
    shown = json.loads(cuvee("show", out / "runs" / "runs.parquet", "--json").stdout)
    assert shown["n_rows"] == 2
    assert shown["rows"][1] == {"run": f"x{ESCAPE}", f"loss{ESCAPE}": None}


def test_show_json(out: Path, cuvee: Callable[..., Any]) -> None:
    """A JSON file is an outline; as JSON it is whole."""
    path = out / "runs" / "about.json"
    assert cuvee("show", path).stdout == (
        f"path: {path}\ncontent:\n  name: y\\x1b[2J\n  parts:\n    - 1\n    -\n      b: 2\n"
    )
    shown = json.loads(cuvee("show", path, "--json").stdout)
    assert shown["content"] == {"name": f"y{ESCAPE}", "parts": [1, {"b": 2}]}


def test_names_in_messages_are_escaped(tmp_path: Path, cuvee: Callable[..., Any]) -> None:
    """A path in an error message does not steer the terminal."""
    ended = cuvee("show", tmp_path / f"a{ESCAPE}")
    assert ESCAPE not in ended.stderr
    assert ended.stderr.startswith(rf"cuvee: {tmp_path}/a\x1b[2J is no artefact; ")
    assert ended.status == 1


def test_fit_and_predict(tmp_path: Path, cuvee: Callable[..., Any]) -> None:
    """Somebody else's tables give a predictor, figures as JSON, and predictions as CSV."""
    weights, losses = tmp_path / "w.csv", tmp_path / "l.csv"
    shares = [(k / 9, 1 - k / 9) for k in range(10)]
    rows = [f"{k},{web!r},{code!r}" for k, (web, code) in enumerate(shares)]
    weights.write_text("\n".join(["index,web,code", *rows]), encoding="utf-8")
    rows = [f"{k},{3 + web!r}" for k, (web, _) in enumerate(shares)]
    losses.write_text("\n".join(["index,qa", *rows]), encoding="utf-8")
    model = tmp_path / "fit"
    ended = cuvee(
        *("fit", "--weights", weights, "--losses", losses, "--out", model, "--json"),
        *("--model", "linear"),
    )
    fitted = json.loads(ended.stdout)
    assert (fitted["n_runs"], fitted["n_domains"], fitted["model"]) == (10, 2, "linear")
    assert fitted["scores"][0]["rank"] == pytest.approx(1.0)
    ended = cuvee("predict", model, "--weights", weights, "--out", tmp_path / "p.csv")
    assert ended.stdout == f"10 mixtures predicted: {tmp_path / 'p.csv'}\n"
    lines = (tmp_path / "p.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "index,qa,qa_sd"
    assert float(lines[1].split(",")[1]) == pytest.approx(3.0, abs=1e-6)


def test_fit_takes_one_kind_of_input(tmp_path: Path, cuvee: Callable[..., Any]) -> None:
    """Half of the tables, or tables beside a config, are refused."""
    ended = cuvee("fit", "--weights", tmp_path / "w.csv")
    assert ended.stderr == (
        "cuvee: cuvee fit takes either CONFIG or all of --weights, --losses and --out; give one "
        "or the other.\n"
    )
    assert ended.status == 1


def test_entry_point_is_light() -> None:
    """Workers import the command's main module again; it must not bring torch with it."""
    code = (
        "import sys, cuvee.__main__, cuvee.cli.main\n"
        "heavy = {'torch', 'pyarrow', 'scipy', 'lightgbm', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
