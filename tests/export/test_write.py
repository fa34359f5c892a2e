"""How exports are written: whole or not at all, the same each time, and read again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cuvee import artifacts
from cuvee.corpus.store import IDS
from cuvee.errors import ArtifactError, DataError
from cuvee.export.exported import Exported
from cuvee.export.exporter import ExportConfig, Place
from cuvee.export.formats import EXPORTERS
from cuvee.export.reread import count_again
from cuvee.export.selection import SelectionFiles
from cuvee.export.sets import divide
from cuvee.export.write import export_selection

FORMATS = list(EXPORTERS)
TOKENS = [name for name, one in EXPORTERS.items() if one.content == "tokens"]


def digests(folder: Path) -> dict[str, str]:
    """Return the digest of every file."""
    return {
        path.relative_to(folder).as_posix(): artifacts.digest_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def place_of(folder: Path, run: Any, **settings: Any) -> Place:
    """Return what the exporter of a finished folder was told."""
    exported = Exported.read(folder)
    return Place(
        config=ExportConfig(to=exported.to, **{"context": 32, "file_bytes": 4 << 10, **settings}),
        layout="domains",
        root=str(folder),
        domains=exported.domains,
        vocabulary_size=run.encoder.vocabulary_size,
        end_of_text=run.encoder.end_of_text,
        n_phases=1,
        phase_shares=(1.0,),
    )


@pytest.mark.parametrize("to", FORMATS)
def test_an_export_is_the_same_bytes_when_made_again(to: str, export: Any) -> None:
    """Nothing in the files depends on the clock or on the folder's name, the root being given."""
    one, other = export(to, name="a", root="/data/x"), export(to, name="b", root="/data/x")
    assert digests(one) == digests(other)
    assert not list(one.parent.glob("*.pieces"))


@pytest.mark.parametrize("to", TOKENS)
def test_tokens_are_the_same_without_the_token_store(to: str, select: Any, export: Any) -> None:
    """Where no ids are stored, text is encoded again to the same files."""
    shares = (0.4, 0.3, 0.1, 0.2)
    bare = select(shares, with_store=False)
    one = export(to, name="a", root="/x", run=select(shares))
    other = export(to, name="b", root="/x", run=bare)
    one_data = {name: digest for name, digest in digests(one).items() if name.startswith("data/")}
    assert one_data == {k: v for k, v in digests(other).items() if k.startswith("data/")}


@pytest.mark.parametrize("to", ["megatron", "huggingface"])
def test_a_stopped_export_leaves_nothing_and_goes_on(
    to: str, made: Any, export: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped among the parts, finished parts stay; stopped among the sets, no export appears."""
    whole = digests(export(to, name="whole", root="/x"))
    dest = tmp_path / "stopped"
    config = ExportConfig(to=to, context=32, file_bytes=4 << 10, root="/x")

    class Stopped(Exception):
        """The test's own."""

    def stop_at(step: str, number: int) -> Callable[[str, int, int], None]:
        def progress(name: str, done: int, total: int) -> None:
            if (name, done) == (step, number):
                raise Stopped

        return progress

    for step, number in (("divide", 2), ("write", 1), ("read again", 2)):
        with pytest.raises(Stopped):
            export_selection(made.out, dest, config, workers=0, on_progress=stop_at(step, number))
        assert not dest.exists()
        assert not dest.with_name("stopped.partial").exists()
        waiting = dest.with_name("stopped.pieces")
        assert len(list(waiting.rglob("piece.json"))) >= 2
    kept = {path: path.stat().st_mtime_ns for path in waiting.rglob("piece.json")}
    with pytest.raises(Stopped):
        export_selection(made.out, dest, config, workers=0, on_progress=stop_at("write", 1))
    assert kept == {path: path.stat().st_mtime_ns for path in waiting.rglob("piece.json")}
    remains = dest.with_name("stopped.partial")  # what a kill leaves
    remains.mkdir()
    (remains / "half").write_text("written")
    export_selection(made.out, dest, config, workers=0)
    assert digests(dest) == whole
    assert not waiting.exists()


def test_an_export_stopped_under_an_older_index_is_begun_again(
    made: Any, export: Any, tmp_path: Path
) -> None:
    """Pieces whose index named files in place of shards are left aside, not read."""
    config = ExportConfig(to="megatron", context=32, file_bytes=4 << 10, root="/x")
    exporter, selection = EXPORTERS["megatron"], SelectionFiles.open(made.out)
    of: dict[str, Any] = {
        "content": exporter.content,
        "set_of": divide(selection, exporter, config, tokens=selection.realised_tokens).set_of,
        "inputs": {
            "selection": artifacts.digest_of(made.out / "selection"),
            "tokenizer": artifacts.digest_of(made.out / "tokenizer"),
        },
    }
    dest = tmp_path / "stopped"
    index = dest.with_name("stopped.pieces") / artifacts.digest_json(of)[:16] / "index"
    with artifacts.writing(index, stage="export", settings={}, seed=0, inputs={}) as aside:
        for name in ("key", "shard", "offset", "n_tokens", "n_bytes"):
            np.save(aside / f"{name}.npy", np.zeros(0, dtype=np.int64))
        artifacts.write_json(aside / "index.json", {"files": [], "is_complete": True})
    export_selection(made.out, dest, config, workers=0)
    assert digests(dest) == digests(export("megatron", name="whole", root="/x"))
    assert not list(tmp_path.glob("*.pieces"))


def test_an_export_goes_on_without_the_token_store(maker: Any, tmp_path: Path) -> None:
    """Deleted after the export was stopped, its ids are encoded again."""
    run = maker(tmp_path / "stopped", {"code": 60, "web": 60})((0.5, 0.5), n_tokens=2000)
    config = ExportConfig(to="megatron", context=32, root="/x")

    def stop(name: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    export_selection(run.out, tmp_path / "whole", config, workers=0)
    dest = tmp_path / "megatron"
    with pytest.raises(KeyboardInterrupt):
        export_selection(run.out, dest, config, workers=0, on_progress=stop)
    (run.out / "tokens").unlink()
    export_selection(run.out, dest, config, workers=0)
    data = {name: own for name, own in digests(dest).items() if name.startswith("data/")}
    assert data
    assert data.items() <= digests(tmp_path / "whole").items()


def test_workers_make_the_same_bytes(made: Any, export: Any, tmp_path: Path) -> None:
    """Parts divided by two processes give what one gives."""
    whole = digests(export("olmo", name="whole", root="/x"))
    config = ExportConfig(to="olmo", context=32, file_bytes=4 << 10, root="/x")
    export_selection(made.out, tmp_path / "two", config, workers=2)
    assert digests(tmp_path / "two") == whole


def test_nothing_is_written_over(made: Any, tmp_path: Path) -> None:
    """A folder that holds something else is refused before any work."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="cuvee writes over nothing"):
        export_selection(
            made.out, tmp_path / "mine", ExportConfig(to="olmo", context=32), workers=0
        )
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_finished_export_is_not_made_again(made: Any, export: Any, tmp_path: Path) -> None:
    """The same command answers at once; with other settings it is refused, and says which."""
    folder = export("olmo")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    export("olmo")
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(ArtifactError, match=r"exported with another context\. Choose another"):
        export("olmo", context=64)


@pytest.mark.parametrize("to", FORMATS)
def test_damage_is_found_when_read_again(to: str, made: Any, export: Any) -> None:
    """A byte that changed between writing and reading is an error, not a count."""
    folder = export(to, layout="mixed")
    exporter = EXPORTERS[to]
    (files,) = Exported.read(folder).sets
    place = place_of(folder, made)
    good = np.concatenate(list(exporter.lengths(folder, files, place)))
    assert len(good) == files.n_documents
    data = folder / "data"
    largest = max((p for p in data.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = largest.read_bytes()
    largest.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="Export again"):
        np.concatenate(list(exporter.lengths(folder, files, place)))


@pytest.mark.parametrize("n_bytes", [50, 51])
def test_a_shortened_token_store_is_an_error(maker: Any, tmp_path: Path, n_bytes: int) -> None:
    """Ids that are gone, or half gone, are named with their file; nothing is exported."""
    run = maker(tmp_path / "short", {"code": 30})((1.0,), n_tokens=600)
    (path,) = (run.out / "tokens").glob(f"*/{IDS}")
    path.write_bytes(path.read_bytes()[:n_bytes])
    dest = tmp_path / "megatron"
    with pytest.raises(ArtifactError, match=f"{IDS} is shorter than its documents; delete"):
        export_selection(run.out, dest, ExportConfig(to="megatron", context=32), workers=0)
    assert not dest.exists()


def test_another_length_is_an_error() -> None:
    """A document longer than was written is named."""
    import pyarrow as pa

    from cuvee.export.exporter import FileSet

    files = FileSet(name="code", phase=0, domains=(0,), n_documents=3, n_tokens=9)
    counts = pa.table({"domain": [0, 0, 0], "n_tokens": [2, 3, 4], "n_bytes": [1, 1, 1]})
    exporter = EXPORTERS["megatron"]
    right = [np.array([2, 3]), np.array([4])]
    assert count_again(iter(right), [counts], files, exporter, 1).tolist() == [9]
    for wrong, message in (
        ([[2, 4, 4]], r"document 1 of 3 is not what was written \(n_tokens differ\)"),
        ([[2, 3]], "document 2 of 3 is not what was written"),
        ([[2, 3, 4], [1]], "holds more than 3 documents"),
    ):
        arrays = [np.array(one) for one in wrong]
        with pytest.raises(DataError, match=message):
            count_again(iter(arrays), [counts], files, exporter, 1)


def test_a_selection_that_changed_is_refused(select: Any, export: Any, tmp_path: Path) -> None:
    """Counts of mixture.json that the parts do not hold are an error, and nothing is left."""
    run = select((0.4, 0.3, 0.1, 0.2), n_tokens=5_000)
    path = run.out / "selection" / "mixture.json"
    original = path.read_text()
    data = json.loads(original)
    data["domains"]["code"]["realised_tokens"] += 1
    path.write_text(json.dumps(data))
    try:
        with pytest.raises(DataError, match=r"domain 'code' has [\d,]+ tokens in the export, but"):
            export("megatron", run=run)
    finally:
        path.write_text(original)
    assert not (tmp_path / "megatron").exists()


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    """The message names the stage to run first."""
    with pytest.raises(ArtifactError, match="run `cuvee select` first"):
        export_selection(tmp_path, tmp_path / "x", ExportConfig(to="olmo"), workers=0)
