"""Folders that appear complete or not at all."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from cuvee import artifacts
from cuvee.errors import ArtifactError


def make(folder: Path, text: str = "x", **changes: object) -> None:
    """Write one small artefact."""
    settings: dict[str, object] = {"stage": "test", "settings": {"a": 1}, "seed": 1, "inputs": {}}
    with artifacts.writing(folder, **{**settings, **changes}) as aside:  # type: ignore[arg-type]
        (aside / "data.txt").write_text(text, encoding="utf-8")


def interrupted(folder: Path, error: type[BaseException]) -> None:
    """Start an artefact and fail half-way."""
    with artifacts.writing(folder, stage="test", settings={}, seed=1, inputs={}) as aside:
        (aside / "half.txt").write_text("half", encoding="utf-8")
        raise error


def test_a_folder_appears_complete(tmp_path: Path) -> None:
    """The finished folder holds the files, a manifest and the done mark."""
    make(tmp_path / "a")
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {"data.txt", artifacts.MANIFEST, artifacts.DONE}
    assert artifacts.is_done(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_nothing_bears_the_name_while_it_is_written(tmp_path: Path) -> None:
    """Until the block ends there is only the folder aside."""
    with artifacts.writing(tmp_path / "a", stage="t", settings={}, seed=1, inputs={}) as aside:
        assert not (tmp_path / "a").exists()
        assert aside.is_dir()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    """Whatever stops the block, no half-written folder stays."""
    with pytest.raises(error):
        interrupted(tmp_path / "a", error)
    assert list(tmp_path.iterdir()) == []


def test_remains_of_a_killed_job_are_removed(tmp_path: Path) -> None:
    """A folder aside left by kill -9 does not leak into the next artefact."""
    (tmp_path / "a.partial").mkdir()
    (tmp_path / "a.partial" / "stale.txt").write_text("old", encoding="utf-8")
    make(tmp_path / "a")
    assert not (tmp_path / "a" / "stale.txt").exists()


def test_two_writers_of_one_folder_do_not_meet(tmp_path: Path) -> None:
    """A writer given up for lost leaves nothing where another took its place."""
    settings = {"stage": "design", "settings": {}, "seed": 1, "inputs": {}}
    with artifacts.writing(tmp_path / "a", **settings) as lost:  # type: ignore[arg-type]
        (lost / "rows.txt").write_text("1 2", encoding="utf-8")
        with artifacts.writing(tmp_path / "a", **settings) as second:  # type: ignore[arg-type]
            (second / "rows.txt").write_text("1 2 3", encoding="utf-8")
            assert not lost.exists()
        lost.mkdir()
        (lost / "rows.txt").write_text("1 2 3", encoding="utf-8")  # the same: it may end
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / "rows.txt").read_text(encoding="utf-8") == "1 2 3"
    with ExitStack() as still_writing:
        first = artifacts.writing(tmp_path / "b", **settings)  # type: ignore[arg-type]
        aside = first.__enter__()
        still_writing.enter_context(artifacts.writing(tmp_path / "b", **settings))  # type: ignore[arg-type]
        aside.mkdir()
        with pytest.raises(ArtifactError, match="was being written by another process as well"):
            first.__exit__(None, None, None)
    assert artifacts.is_done(tmp_path / "b")


def test_a_finished_folder_is_not_made_again(tmp_path: Path) -> None:
    """Writing over a finished artefact is refused."""
    make(tmp_path / "a")
    with pytest.raises(ArtifactError, match="already finished; delete it to make it again"):
        make(tmp_path / "a")


def test_a_foreign_folder_is_never_deleted(tmp_path: Path) -> None:
    """A folder that cuvee did not make is refused, its files untouched."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "draft.tex").write_text("mine", encoding="utf-8")
    with pytest.raises(ArtifactError, match="is not a finished artefact; cuvee writes over"):
        make(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "draft.tex").read_text(encoding="utf-8") == "mine"


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    """`mkdir out` beforehand is no obstacle."""
    (tmp_path / "a").mkdir()
    make(tmp_path / "a")
    assert artifacts.is_done(tmp_path / "a")


def test_the_digest_follows_content_settings_seed_and_inputs(tmp_path: Path) -> None:
    """Equal artefacts have equal digests; any difference shows."""
    variants: list[dict[str, object]] = [
        {},
        {"text": "y"},
        {"settings": {"a": 2}},
        {"seed": 2},
        {"inputs": {"pool": "0"}},
    ]
    digests = []
    for number, changes in enumerate([*variants, {}]):
        make(tmp_path / str(number), **changes)  # type: ignore[arg-type]
        digests.append(artifacts.digest_of(tmp_path / str(number)))
    assert digests[0] == digests[-1]
    assert len(set(digests)) == len(variants)


def test_timing_and_logs_are_not_part_of_the_digest(tmp_path: Path) -> None:
    """Wall-clock figures and logs differ from run to run, the artefact does not."""
    for name, seconds in (("a", 1), ("b", 2)):
        with artifacts.writing(tmp_path / name, stage="t", settings={}, seed=1, inputs={}) as aside:
            artifacts.write_json(aside / artifacts.TIMING, {"seconds": seconds})
            (aside / "run.log").write_text(str(seconds), encoding="utf-8")
    assert artifacts.digest_of(tmp_path / "a") == artifacts.digest_of(tmp_path / "b")


def test_unfinished_folders_are_named(tmp_path: Path) -> None:
    """Asking for what is not there says which stage makes it."""
    with pytest.raises(ArtifactError, match="is not finished; run the stage that writes it"):
        artifacts.digest_of(tmp_path / "a")
    with pytest.raises(ArtifactError, match="run `cuvee label` first"):
        artifacts.require(tmp_path / "a", made_by="cuvee label")
    make(tmp_path / "a")
    assert artifacts.require(tmp_path / "a", made_by="cuvee label") == tmp_path / "a"


def test_json_is_canonical() -> None:
    """Order of keys does not matter; NaN is refused."""
    assert artifacts.digest_json({"a": 1, "b": 2}) == artifacts.digest_json({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        artifacts.canonical_json(float("nan"))


def test_json_files_are_read_back_or_named(tmp_path: Path) -> None:
    """A missing or damaged JSON file is an artefact error with its path."""
    artifacts.write_json(tmp_path / "a.json", {"name": "\u00e9", "n": [1, 2.5, None]})
    assert artifacts.read_json(tmp_path / "a.json") == {"name": "\u00e9", "n": [1, 2.5, None]}
    with pytest.raises(ArtifactError, match=r"b\.json does not exist"):
        artifacts.read_json(tmp_path / "b.json")
    (tmp_path / "c.json").write_text('{"a": ', encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"c\.json is not valid JSON"):
        artifacts.read_json(tmp_path / "c.json")
    (tmp_path / "d.json").write_bytes(b'"\xff"')
    with pytest.raises(ArtifactError, match=r"d\.json is not valid JSON"):
        artifacts.read_json(tmp_path / "d.json")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["n"][1] == 2.5


def test_two_commands_never_share_a_folder(tmp_path: Path) -> None:
    """A second process is refused with the number of the first, which leaves no trace."""
    code = (
        "import sys; from pathlib import Path; from cuvee import artifacts\n"
        "with artifacts.locked(Path(sys.argv[1])): pass\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with artifacts.locked(tmp_path):
        second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"is in use by process {os.getpid()}; wait for it" in second.stderr
    assert list(tmp_path.iterdir()) == []
    assert subprocess.run(command, check=False).returncode == 0


def test_parts_are_held_side_by_side(tmp_path: Path) -> None:
    """Parts of one division stand together, and the last one leaves nothing."""
    with (
        artifacts.locked_part(tmp_path, part="part-1", division="halves"),
        artifacts.locked_part(tmp_path, part="part-2", division="halves"),
    ):
        assert {path.name for path in tmp_path.iterdir()} == {
            ".lock",
            ".lock-part-1",
            ".lock-part-2",
        }
    assert list(tmp_path.iterdir()) == []


def test_a_part_keeps_off_what_would_collide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the same part again nor a part of another division nor a whole command comes in."""
    monkeypatch.setattr(artifacts, "_PATIENCE", 0.0)
    one = artifacts.locked_part(tmp_path, part="part-1", division="halves")
    whole = artifacts.locked(tmp_path)
    again = artifacts.locked_part(tmp_path, part="part-1", division="halves")
    other = artifacts.locked_part(tmp_path, part="part-2", division="thirds")
    with one:
        with (
            pytest.raises(ArtifactError, match=f"part-1 of .* in use by process {os.getpid()};"),
            again,
        ):
            pass
        for refused in (other, whole):
            with pytest.raises(ArtifactError, match=f"^{tmp_path} is in use by halves; "), refused:
                pass
        with artifacts.locked_part(tmp_path, part="part-2", division="halves"):
            pass
    assert list(tmp_path.iterdir()) == []
    with (
        artifacts.locked(tmp_path),
        pytest.raises(ArtifactError, match=f"in use by process {os.getpid()};"),
        artifacts.locked_part(tmp_path, part="part-1", division="halves"),
    ):
        pass
    with artifacts.locked_part(tmp_path, part="part-1", division="thirds"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_part_leaves_does_not_matter(tmp_path: Path) -> None:
    """Its files are taken over, whatever division comes next."""
    code = (
        "import os, sys; from pathlib import Path; from cuvee import artifacts\n"
        "with artifacts.locked_part(Path(sys.argv[1]), part='part-1', division='halves'):\n"
        "    os._exit(9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert (killed.returncode, len(list(tmp_path.iterdir()))) == (9, 2)
    with artifacts.locked_part(tmp_path, part="part-1", division="thirds"):
        assert (tmp_path / artifacts.LOCK).read_text(encoding="utf-8") == "thirds"
    with artifacts.locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
