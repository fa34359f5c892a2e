"""`cuvee run quadmix`, killed in the midst: the same command completes it to the same files."""

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def config(
    settings: dict[str, object],
    tmp_path: Path,
    write_config: Callable[[Path, Mapping[str, object]], Path],
) -> Path:
    """The tiny pool, two criteria, the fewest runs."""
    for name in ("design", "search"):
        del settings[name]
    small: dict[str, object] = {"n_tokens": 2048}
    cast(dict[str, object], settings["validate"]).update(size="0.03m", n_seeds=1, **small)
    cast(dict[str, object], settings["proxy"]).update(size="0.03m", **small)
    settings["criteria"] = {
        "clean": {"kind": "heuristics"},
        "fluent": {"kind": "perplexity", "targets": ["code"]},
    }
    settings["curves"] = {
        "n_runs": 12,
        "n_simulated": 100,
        "n_best": 4,
        "sample_documents": 50,
        "regressions": ["linear"],
    }
    settings["prior"] = {"smallest_threshold": 0.2, "largest_threshold": 0.9}
    return write_config(tmp_path / "quadmix.yaml", settings)


def test_killed_run_resumes_to_the_same_artefacts(
    config: Path,
    tmp_path: Path,
    cuvee: Callable[..., Any],
    start: Callable[..., Any],
    contents: Callable[[Path], Any],
) -> None:
    """After kill -9 of the process group among the proxies, criteria labelled."""
    arguments = ("run", "quadmix", config, "--workers", 0)
    ended = cuvee(*arguments, "--out", tmp_path / "whole", "-q")
    assert ended.status == 0, ended.stderr
    out = tmp_path / "killed"
    process = start(*arguments, "--out", out, "-q")
    while not (out / "sweep" / "draw-001").exists() and process.poll() is None:
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()[1]
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (out / "selection").exists()
    process = start(*arguments, "--out", out, "-q")
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert contents(out) == contents(tmp_path / "whole")
    assert stdout == ended.stdout.replace(str(tmp_path / "whole"), str(out))
