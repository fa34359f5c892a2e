"""From label files to copies: exact when small, streamed when large, the same however divided."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cuvee import artifacts
from cuvee.errors import ArtifactError, DataError
from cuvee.policy.quality_curve import QualityCurve
from cuvee.select import copies_table
from cuvee.select.copies_table import Copies, CopiesConfig, write_copies
from cuvee.select.label_files import LabelFiles

DOMAINS = ("books", "code", "web")
CRITERIA = ("edu", "ppl")
N = 20_000
STREAMED = CopiesConfig(in_memory_rows=0)


def _curve(steepness: float = 20.0) -> QualityCurve:
    return QualityCurve(
        domains=DOMAINS,
        criteria=CRITERIA,
        merge=np.array([[0.5, 0.5], [1.0, 0.0], [0.2, 0.8]]),
        steepness=np.array([steepness, 2.0, 300.0]),
        threshold=np.array([0.3, 0.6, 0.05]),
        exponent=np.array([1.0, 0.5, 0.8]),
        base=np.array([0.01, 0.0, 0.001]),
    )


@pytest.fixture(scope="module")
def pool() -> pa.Table:
    """Labels of documents, two in five of one criterion equal."""
    rng = np.random.default_rng(0)
    edu = np.where(rng.random(N) < 0.4, 0.0, rng.exponential(size=N))
    return pa.table(
        {
            "id": [f"document-{number}" for number in range(N)],
            "domain": rng.choice(DOMAINS, N, p=[0.05, 0.25, 0.7]),
            "n_tokens": rng.integers(1, 1000, N).astype(np.int32),
            "edu": edu.astype(np.float32),
            "ppl": rng.normal(50.0, 5.0, N).astype(np.float32),
        }
    )


def _write(folder: Path, pool: pa.Table, parts: Sequence[np.ndarray]) -> LabelFiles:
    folder.mkdir()
    files = []
    for number, rows in enumerate(parts):
        files.append(str(folder / f"{number}.parquet"))
        table = pool.take(pa.array(rows))
        pq.write_table(table, files[-1], row_group_size=max(1, len(rows) // 3))
    return LabelFiles(files=tuple(files), criteria=CRITERIA, smaller_is_better=("ppl",))


@pytest.fixture(scope="module")
def labels(pool: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> LabelFiles:
    """The pool in two files."""
    folder = tmp_path_factory.mktemp("labels") / "two"
    return _write(folder, pool, np.array_split(np.arange(N), 2))


def _taken(folder: Path) -> dict[str, int]:
    table = pa.concat_tables([pq.read_table(one) for one in sorted(folder.glob("part-*.parquet"))])
    ids = table["id"].to_pylist()
    taken = dict(zip(ids, table["copies"].to_pylist(), strict=True))
    assert len(taken) == len(ids)
    assert min(taken.values()) >= 1
    return taken


def _draw(
    folder: Path, labels: LabelFiles, settings: CopiesConfig = STREAMED, workers: int = 0
) -> tuple[Copies, dict[str, int]]:
    made = write_copies(
        folder, [_curve()], labels=labels, settings=settings, seed=3, workers=workers
    )
    return made, _taken(folder)


def test_streamed_copies_are_nearly_the_exact_ones(
    labels: LabelFiles, pool: pa.Table, tmp_path: Path
) -> None:
    """Documents whose copies differ hold no more than a few thousandths of the tokens."""
    exact, wanted = _draw(tmp_path / "exact", labels, CopiesConfig())
    streamed, found = _draw(tmp_path / "streamed", labels)
    assert exact.rank_error == 0.0
    assert 0.0 < streamed.rank_error <= 5e-4
    lengths = dict(zip(pool["id"].to_pylist(), pool["n_tokens"].to_pylist(), strict=True))
    other = {name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)}
    assert sum(lengths[name] for name in other) <= 2e-3 * sum(lengths.values())
    for made, taken in ((exact, wanted), (streamed, found)):
        assert (made.n_documents, made.n_taken, made.n_copies) == (
            N,
            len(taken),
            sum(taken.values()),
        )
        assert made.n_tokens == sum(lengths[name] * n for name, n in taken.items())


@pytest.mark.parametrize(("budget", "workers"), [(None, 0), (1_000_000, 0), (1_000_000, 2)])
def test_the_same_copies_from_any_files_by_any_workers(
    budget: int | None,
    workers: int,
    labels: LabelFiles,
    pool: pa.Table,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two files or six uneven ones, rows mixed or sorted by score, in other parts: identical."""
    settings = CopiesConfig(in_memory_rows=0, n_tokens=budget)
    wanted = _draw(tmp_path / "two", labels, settings)[1]
    monkeypatch.setattr(copies_table, "_LEAST_ROWS", 5_000)
    ends = [100, 2_000, 2_001, 9_000, 19_000]
    by_score = np.lexsort((pool["ppl"].to_numpy(), pool["domain"].to_numpy(zero_copy_only=False)))
    divisions = {
        "mixed": np.split(np.random.default_rng(1).permutation(N), ends),
        "sorted": np.split(by_score, ends),
    }
    if workers > 0:
        del divisions["sorted"]
    for name, parts in divisions.items():
        laid = _write(tmp_path / f"labels-{name}", pool, parts)
        assert _draw(tmp_path / name, laid, settings, workers)[1] == wanted


def test_bins_heavy_only_together_are_counted_again(
    labels: LabelFiles, pool: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no part sees what is heavy in all of them, a further pass gives the same copies."""
    wanted = _draw(tmp_path / "wanted", labels)[1]
    seen: list[str] = []
    monkeypatch.setattr(
        "cuvee.select.copies_passes.bins_to_divide",
        lambda cells, bins, documents: np.zeros(cells.n_bins, dtype=np.bool_),
    )
    write_copies(
        tmp_path / "again",
        [_curve()],
        labels=labels,
        settings=STREAMED,
        seed=3,
        on_progress=lambda name, done, total: seen.append(name),
    )
    assert {"scores-finer", "tokens-finer"} <= set(seen)
    assert _taken(tmp_path / "again") == wanted


def test_a_budget_discards_evenly(labels: LabelFiles, pool: pa.Table, tmp_path: Path) -> None:
    """Met within a document; less is part of more; a budget nothing reaches changes nothing."""
    whole, everything = _draw(tmp_path / "whole", labels)
    before: dict[str, int] = {}
    for budget in (30_000, 700_000):
        made, taken = _draw(
            tmp_path / str(budget), labels, CopiesConfig(in_memory_rows=0, n_tokens=budget)
        )
        assert budget <= made.n_tokens < budget + 3 * 1000
        assert made.drawn_tokens == whole.n_tokens
        assert before.items() <= taken.items() <= everything.items()
        before = taken
    ample = CopiesConfig(in_memory_rows=0, n_tokens=10 * whole.n_tokens)
    assert _draw(tmp_path / "ample", labels, ample)[1] == everything


def test_a_union_takes_what_any_curve_takes(labels: LabelFiles, tmp_path: Path) -> None:
    """Largest copies of two curves, streamed and exact nearly alike."""
    curves = [_curve(), _curve(steepness=1.0)]
    taken = []
    for name, settings in (("exact", CopiesConfig()), ("streamed", STREAMED)):
        folder = tmp_path / name
        write_copies(folder, curves, labels=labels, settings=settings, seed=3)
        taken.append(_taken(folder))
    apart = taken[0].items() ^ taken[1].items()
    assert len(apart) <= 4e-3 * len(taken[0])


def test_keys_in_place_of_ids_draw_the_same(
    labels: LabelFiles, pool: pa.Table, tmp_path: Path
) -> None:
    """The 64-bit keys that cuvee's own label columns hold decide as their ids do."""
    from cuvee.randomness import document_keys

    keys = document_keys(pool["id"].to_pylist())
    keyed = pool.drop_columns(["id"]).append_column("key", pa.array(keys))
    pq.write_table(keyed, tmp_path / "keyed.parquet")
    files = LabelFiles(
        files=(str(tmp_path / "keyed.parquet"),),
        criteria=CRITERIA,
        smaller_is_better=("ppl",),
        id="key",
    )
    made, _ = _draw(tmp_path / "by-key", files)
    assert made == _draw(tmp_path / "by-id", labels)[0]


_COMMAND = """
import sys
from pathlib import Path
from cuvee.policy.quality_curve import curves_from_json
from cuvee.artifacts import read_json
from cuvee.select.copies_table import CopiesConfig, write_copies
from cuvee.select.label_files import LabelFiles

curve, out, *files = sys.argv[1:]
curves = curves_from_json(read_json(Path(curve)))
labels = LabelFiles(
    files=tuple(files), criteria=curves[0].criteria, smaller_is_better=("ppl",)
)
settings = CopiesConfig(in_memory_rows=0)
write_copies(Path(out), curves, labels=labels, settings=settings, seed=3, workers=1)
"""
"""What `cuvee copies` does, without the seconds that the other verbs take to import."""


def _start(labels: LabelFiles, curve: Path, out: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", _COMMAND, str(curve), str(out), *labels.files]
    return subprocess.Popen(command, start_new_session=True)


def test_killed_copies_resume_to_the_same(labels: LabelFiles, tmp_path: Path) -> None:
    """After kill -9 in the midst of the passes the same command completes them alike."""
    artifacts.write_json(tmp_path / "curve.json", _curve().to_json())
    wanted = _draw(tmp_path / "wanted", labels)[1]
    out = tmp_path / "out"
    passes = tmp_path / "out.passes"
    for reached in ("scores", "draws"):
        process = _start(labels, tmp_path / "curve.json", out)
        while not (passes / reached).exists() and process.poll() is None:
            time.sleep(0.002)
        assert process.poll() is None, f"ended before {reached}"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert passes.exists()
        assert not out.exists()
    process = _start(labels, tmp_path / "curve.json", out)
    assert process.wait() == 0
    assert _taken(out) == wanted
    assert sorted(one.name for one in tmp_path.iterdir() if one.name.startswith("out")) == ["out"]


def test_another_request_is_refused(labels: LabelFiles, tmp_path: Path) -> None:
    """A finished folder answers its own request again and no other."""
    made, _ = _draw(tmp_path / "out", labels)
    assert _draw(tmp_path / "out", labels)[0] == made == Copies.read(tmp_path / "out")
    with pytest.raises(ArtifactError, match="another curve"):
        write_copies(tmp_path / "out", [_curve()], labels=labels, settings=STREAMED, seed=4)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("domain", ["code", "poems", "web"], "domain 'poems'"),
        ("edu", [0.1, float("nan"), 0.2], "'edu' of .* not finite"),
        ("edu", [0.1, None, 0.2], "'edu' of .* empty values"),
        ("n_tokens", [5, 0, 7], "'n_tokens' of .* holds 0"),
        ("edu", ["a", "b", "c"], "must hold numbers"),
        ("domain", None, "no column 'domain'"),
    ],
)
@pytest.mark.parametrize("settings", [STREAMED, CopiesConfig()])
def test_bad_labels_are_refused(
    column: str,
    values: list[object] | None,
    message: str,
    settings: CopiesConfig,
    tmp_path: Path,
) -> None:
    """One message with the file and what is wrong with it."""
    columns: dict[str, list[object]] = {
        "id": ["a", "b", "c"],
        "domain": ["code", "web", "web"],
        "n_tokens": [1, 2, 3],
        "edu": [0.1, 0.2, 0.3],
        "ppl": [1.0, 2.0, 3.0],
    }
    if values is None:
        del columns[column]
    else:
        columns[column] = values
    path = tmp_path / "bad.parquet"
    pq.write_table(pa.table(columns), path)
    bad = LabelFiles(files=(str(path),), criteria=CRITERIA)
    with pytest.raises(DataError, match=message) as caught:
        write_copies(tmp_path / "out", [_curve()], labels=bad, settings=settings, seed=0)
    assert re.search(re.escape(str(path)), str(caught.value))
