"""From somebody's tables to a mixture: fit, show, predict and search on the command line."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cuvee import artifacts
from cuvee.arrays import FloatArray

DOMAINS = ("web", "code", "books")
TARGETS = ("code_loss", "qa")
N_RUNS = 24


def _losses(weights: FloatArray) -> FloatArray:
    """Two targets, each best served by a mixture inside the simplex."""
    supply = np.array([[0.05, 1.0, 0.05], [0.6, 0.05, 0.4]])
    return 2.0 + 1.5 * (0.05 + weights @ supply.T) ** -0.4


def _write(path: Path, head: list[str], rows: list[list[Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])
    return path


@pytest.fixture
def tables(tmp_path: Path) -> list[object]:
    """Olmix's columns, one mixture twice, and a run that diverged."""
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(3), size=N_RUNS)
    weights[1] = weights[0]
    losses = _losses(weights) + 0.005 * rng.normal(size=(N_RUNS, 2))
    losses[5] = 40.0
    names = [[row, f"r{row}", f"mix-{row:04}", row] for row in range(N_RUNS)]
    head = ["", "run", "name", "index"]
    both = [
        (tmp_path / "w.csv", DOMAINS, weights),
        (tmp_path / "l.csv", TARGETS, losses),
    ]
    paths = [
        _write(path, [*head, *columns], [[*n, *v] for n, v in zip(names, rows, strict=True)])
        for path, columns, rows in both
    ]
    return ["--weights", paths[0], "--losses", paths[1]]


@pytest.fixture
def fitted(tables: list[object], tmp_path: Path, cuvee: Callable[..., Any]) -> Path:
    """A quick convex law fitted on the tables."""
    ended = cuvee(
        "fit", *tables, "--out", tmp_path / "fit", "--model", "effective-data-power", "-q"
    )
    assert ended.status == 0, ended.stderr
    return tmp_path / "fit"


def test_fit_names_what_was_put_right(
    tables: list[object], tmp_path: Path, cuvee: Callable[..., Any]
) -> None:
    """The broken run is named and left out, the repeated mixture is named; own domains by name."""
    ended = cuvee("fit", *tables, "--out", tmp_path / "fit", "--model", "linear", "--json")
    assert ended.stderr == ""
    found = json.loads(ended.stdout)
    assert found["n_runs"] == N_RUNS - 1
    assert found["own"] == {"code_loss": "code", "qa": None}
    assert any("(1 that of 0)" in notice for notice in found["notices"])
    assert any("run 5 is left out: it diverged" in notice for notice in found["notices"])


def test_rows_are_chosen_and_written_down(
    tables: list[object], tmp_path: Path, cuvee: Callable[..., Any]
) -> None:
    """--rows fits a subset of its seed; the ids stand in the folder."""
    options = ("--rows", 8, "--row-seed", 3, "--own", "qa=web", "--objective", "qa=1")
    ended = cuvee(
        "fit", *tables, "--out", tmp_path / "fit", "--model", "linear", "--json", *options
    )
    found = json.loads(ended.stdout)
    assert found["rows"] == {"n": 8, "seed": 3, "design": "random", "out_of": N_RUNS - 1}
    assert found["own"]["qa"] == "web"
    rows = json.loads((tmp_path / "fit" / "rows.json").read_text(encoding="utf-8"))
    assert len(rows["run_ids"]) == found["n_runs"] == 8
    assert "5" not in rows["run_ids"]
    assert [score["target"] for score in found["scores"]][-1] == "objective"


def test_auto_prints_a_leaderboard_of_every_model(
    tables: list[object],
    tmp_path: Path,
    cuvee: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Models and baselines in one table, best first; --json holds the same."""
    quick = ("linear", "effective-data-power")
    monkeypatch.setattr("cuvee.fit.leaderboard.MODELS", dict.fromkeys(quick))
    ended = cuvee("fit", *tables, "--out", tmp_path / "fit", "--model", "auto")
    assert ended.status == 0, ended.stderr
    lines = ended.stdout.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("model "))
    assert lines[start + 1].startswith("effective-data-power ")
    assert "<- chosen" in lines[start + 1]
    names = {"linear", "mean of other folds", "nearest measured mixture"}
    listed = lines[start + 2 : start + 5]
    assert all(any(line.startswith(name) for line in listed) for name in names)
    again = cuvee("fit", *tables, "--out", tmp_path / "fit", "--model", "auto", "--json")
    board = json.loads(again.stdout)["leaderboard"]
    assert {one["name"] for one in board["models"]} == set(quick)
    assert board["winner"] == "effective-data-power"
    shown = cuvee("show", tmp_path / "fit").stdout.splitlines()
    start = next(place for place, line in enumerate(shown) if line.startswith("model "))
    assert shown[start + 1].startswith("effective-data-power ")
    assert shown[start + 1].endswith("<- chosen")
    assert json.loads(cuvee("show", tmp_path / "fit", "--json").stdout)["leaderboard"] == board


def test_search_sets_the_answer_beside_its_baselines(
    fitted: Path, tmp_path: Path, cuvee: Callable[..., Any]
) -> None:
    """The answer is predicted best; the same command again reads it."""
    command = ("search", fitted, "--out", tmp_path / "opt", "--json")
    ended = cuvee(*command)
    assert ended.status == 0, ended.stderr
    found = json.loads(ended.stdout)
    mixtures = {one["name"]: one for one in found["mixtures"]}
    assert list(mixtures) == [
        "found",
        "mean of the measured",
        "uniform",
        "uniform-own",
        "best-measured",
    ]
    assert mixtures["found"]["predicted"] == min(one["predicted"] for one in mixtures.values())
    assert mixtures["uniform-own"]["weights"] == {"web": 0.0, "code": 1.0, "books": 0.0}
    assert mixtures["best-measured"]["measured"] is not None
    assert mixtures["found"]["measured"] is None
    truth = _losses(np.array([[mixtures["found"]["weights"][name] for name in DOMAINS]]))
    low, high = mixtures["found"]["interval"]
    assert low <= truth.mean() <= high
    digest = artifacts.digest_of(tmp_path / "opt")
    assert json.loads(cuvee(*command).stdout) == found
    assert artifacts.digest_of(tmp_path / "opt") == digest


def test_search_as_text(fitted: Path, tmp_path: Path, cuvee: Callable[..., Any]) -> None:
    """Shares, predictions and distances, a mixture that breaks a constraint marked."""
    ended = cuvee("search", fitted, "--out", tmp_path / "opt", "--cap", "code=0.2")
    lines = ended.stdout.splitlines()
    assert lines[2].split()[:2] == ["domain", "found"]
    code = next(line for line in lines if line.startswith("code "))
    assert float(code.split()[1]) <= 0.2
    uniform = next(line for line in lines if line.startswith("uniform-own "))
    assert uniform.endswith("(outside the constraints)")
    assert lines[-1] == f"answer: {tmp_path / 'opt'}"


def test_constraints_hold(fitted: Path, tmp_path: Path, cuvee: Callable[..., Any]) -> None:
    """Bounds by name, a floor on one target, and a price that draws the answer to the mean."""

    def search(name: str, *options: object) -> tuple[dict[str, Any], dict[str, Any]]:
        ended = cuvee(
            *("search", fitted, "--out", tmp_path / name, "--json", "--objective", "qa=1"), *options
        )
        assert ended.status == 0, ended.stderr
        found, mean, *_ = json.loads(ended.stdout)["mixtures"]
        return found, mean

    free, far = search("free")
    bound, _ = search("bound", "--bound", "code=0.25:0.3")
    assert 0.25 - 1e-9 <= bound["weights"]["code"] <= 0.3 + 1e-9
    assert bound["predicted"] > free["predicted"]
    limit = (free["targets"]["code_loss"][0] + bound["targets"]["code_loss"][0]) / 2.0
    floored, _ = search("floored", "--floor", f"code_loss={limit}")
    assert floored["targets"]["code_loss"][0] <= limit + 1e-3
    assert free["predicted"] < floored["predicted"] < bound["predicted"]
    near, mean = search("near", "--kl", "10")
    assert near["predicted"] > free["predicted"]
    assert mean["distance"] < 0.1 < far["distance"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--cap", "cod=0.5"), "bounds name domain 'cod', which the pool does not have"),
        (("--cap", "code=0.5", "--bound", "code=0:1"), "'code' has a cap and a bound"),
        (("--floor", "q=1"), "a floor names 'q', which is no target; targets are code_loss, qa"),
        (("--objective", "q=1"), "'q' is no target of the tables"),
        (("--kl", "-1"), "kl is -1; it must be at least 0"),
        (("--set", "a=1"), "is a folder: give --out for the answer, and no --set"),
        (("--floor", "qa=0.5"), "no mixture is predicted to have a loss of qa of at most 0.5"),
        (("--group", "code,web=0.9:1", "--bound", "code=0:0.1", "--cap", "web=0.2"), "conflict"),
        (("--freeze", "code,nothing"), "a frozen group names domain 'nothing'"),
        (("--worse-by", "-1"), "worse_by is -1; it must be at least 0"),
        (tuple(f"--cap={name}=0.1" for name in DOMAINS), "largest shares conflict"),
    ],
)
def test_search_refuses_what_cannot_be(
    options: tuple[str, ...],
    message: str,
    fitted: Path,
    tmp_path: Path,
    cuvee: Callable[..., Any],
) -> None:
    """One message each, and no folder."""
    ended = cuvee("search", fitted, "--out", tmp_path / "opt", *options)
    assert ended.status == 1
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "opt").exists()


def test_search_tells_configs_and_folders_apart(
    fitted: Path, tmp_path: Path, cuvee: Callable[..., Any]
) -> None:
    """Options of the one are refused with the other."""
    ended = cuvee("search", fitted)
    assert "is a folder: give --out" in ended.stderr
    ended = cuvee("search", tmp_path / "no.yaml", "--cap", "a=1")
    assert "belong to the folder of a predictor" in ended.stderr
    ended = cuvee("search", tmp_path / "no.yaml")
    assert "no.yaml does not exist" in ended.stderr
    ended = cuvee("search", tmp_path, "--out", tmp_path / "opt")
    assert "run `cuvee fit` first" in ended.stderr


def test_the_next_mixtures_are_proposed(
    tables: list[object], tmp_path: Path, cuvee: Callable[..., Any]
) -> None:
    """A table of new mixtures within the caps, and what one more run is expected to gain."""
    fit = tmp_path / "fit"
    assert cuvee("fit", *tables, "--out", fit, "--model", "log-gaussian-process").status == 0
    table = tmp_path / "next.csv"
    ended = cuvee("design", fit, "--next", 3, "--out", table, "--cap", "web=0.5", "--json")
    assert ended.status == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert [one["role"] for one in found["mixtures"]] == ["best", "best", "exploratory"]
    assert found["regret"]["expected"] >= 0.0
    lines = table.read_text(encoding="utf-8").splitlines()
    columns = lines[0].split(",")
    assert len(lines) == 4
    for line in lines[1:]:
        shares = dict(zip(columns[1:], map(float, line.split(",")[1:]), strict=True))
        assert abs(sum(shares.values()) - 1.0) < 1e-9
        assert shares["web"] <= 0.5 + 1e-9
    again = cuvee("design", fit, "--next", 3, "--out", table, "--cap", "web=0.5")
    assert "one more is expected to gain" in again.stdout


def test_next_needs_a_predictor(tmp_path: Path, cuvee: Callable[..., Any]) -> None:
    """The message says what to give."""
    ended = cuvee("design", tmp_path / "no.yaml", "--next", 2, "--out", tmp_path / "n.csv")
    assert ended.status == 1
    assert "--next proposes mixtures by a predictor" in ended.stderr


def _write_study(folder: Path) -> tuple[Path, Path, Callable[..., np.ndarray]]:
    """Write tables of 14 mixtures at 3 sizes and 6 token counts, and return the law behind them."""
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(3), size=14).round(6)
    weights[:, 2] = 1.0 - weights[:, 0] - weights[:, 1]

    def law(shares: np.ndarray, size: float, n_tokens: float) -> np.ndarray:
        mixture = 0.4 * np.exp(-shares @ np.array([2.0, 0.5, 0.0]))
        scale = 3.0 * (size / 1e6) ** -0.2 + 2.0 * (n_tokens / 1e8) ** -0.4
        return np.asarray(1.5 + mixture * (1.0 + 0.3 * scale) + 0.3 * scale)

    mixtures, losses = folder / "mixtures.csv", folder / "study.csv"
    rows = [
        f"m{place},{','.join(f'{share:.6f}' for share in row)}" for place, row in enumerate(weights)
    ]
    mixtures.write_text("\n".join(["index,web,code,books", *rows]) + "\n")
    lines = ["index,size,step,qa"]
    for place, row in enumerate(weights):
        for size, name in ((1e6, "1M"), (3e6, "3M"), (1e7, "10M")):
            for step in (200, 400, 600, 900, 1200, 1500):
                loss = float(law(row, size, step * 1e5)) + 0.001 * rng.standard_normal()
                lines.append(f"m{place},{name},{step},{loss:.6f}")
    losses.write_text("\n".join(lines) + "\n")
    return mixtures, losses, law


def test_a_study_is_carried_to_another_size(tmp_path: Path, cuvee: Callable[..., Any]) -> None:
    """Runs of three sizes with steps, fitted at four times the largest: near the planted law."""
    mixtures, losses, law = _write_study(tmp_path)
    out = tmp_path / "fit"
    options = ("--at-size", "40M", "--at-tokens", "300M", "--tokens-per-step", "100000")
    told = json.loads(
        cuvee(
            "fit", "--weights", mixtures, "--losses", losses, *options, "--out", out, "--json"
        ).stdout
    )
    assert told["carried"]["sizes"] == [1_000_000, 3_000_000, 10_000_000]
    assert told["carried"]["held_out"]["rank"] > 0.9
    predicted = tmp_path / "p.csv"
    assert cuvee("predict", out, "--weights", mixtures, "--out", predicted).status == 0
    shares = np.loadtxt(mixtures, delimiter=",", skiprows=1, usecols=(1, 2, 3))
    found = np.loadtxt(predicted, delimiter=",", skiprows=1, usecols=1)
    np.testing.assert_allclose(found, law(shares, 4e7, 3e8), atol=0.03)
    text = cuvee("fit", "--weights", mixtures, "--losses", losses, *options, "--out", out).stdout
    assert "losses carried from 1.00M, 3.00M, 10.0M parameters to 40.0M and 300M tokens" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--at-size", "40M"), "--at-tokens is missing"),
        (("--at-size", "forty", "--at-tokens", "1B"), "--at-size is 'forty'; give a count"),
        (("--tokens-per-step", "5"), "belong to a study"),
        (("--at-size", "40M", "--at-tokens", "1B"), "counts steps"),
    ],
)
def test_studies_are_refused_with_a_reason(
    options: tuple[str, ...], message: str, tmp_path: Path, cuvee: Callable[..., Any]
) -> None:
    """One message, and no folder."""
    mixtures, losses, _ = _write_study(tmp_path)
    ended = cuvee(
        "fit", "--weights", mixtures, "--losses", losses, *options, "--out", tmp_path / "fit"
    )
    assert ended.status == 1
    assert message in " ".join(ended.stderr.split())
    assert not (tmp_path / "fit").exists()
