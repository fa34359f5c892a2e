"""`cuvee validate --ladder --learning-rates` on the tiny run: trained once, told in the verdict."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(900)


def test_the_order_elsewhere_is_measured_and_told(
    finished: Any, tmp_path: Path, cuvee: Callable[..., Any]
) -> None:
    """Runs of another size and rate on the design's mixtures; the verdict tells of both."""
    out = tmp_path / "out"
    shutil.copytree(finished.out, out)
    assert "of the design keep" not in " ".join(finished.stdout.split())
    options = ("--ladder", "0.05m", "--learning-rates", "0.5", "--mixtures", 4)
    command = ("validate", finished.config, "--out", out, "--workers", 0, "-q", *options)
    ended = cuvee(*command)
    assert ended.status == 0, ended.stderr
    size, rate = ended.stdout.splitlines()
    assert size.startswith("At size 0.05m and 8.19k tokens: 4 mixtures of the design keep")
    assert rate.startswith("At 0.5 times the proxies' learning rate: 4 mixtures of the design")
    spec = out / "transfer" / "rate-0.5"
    rates = {json.loads(path.read_text())["learning_rate"] for path in spec.glob("*/spec.json")}
    assert rates == {2e-3}
    sizes = out / "transfer" / "size-0.05m"
    specs = [json.loads(path.read_text()) for path in sizes.glob("*/spec.json")]
    assert {(one["size"], one["half"]) for one in specs} == {("0.05m", "search")}
    assert len(specs) == 4
    assert cuvee(*command).stdout == ended.stdout
    told = cuvee("run", "regmix", finished.config, "--out", out, "--workers", 0, "-q").stdout
    words = " ".join(told.split())
    assert size in words
    assert rate in words
    assert "Noise floor: from seed to seed" in words


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--ladder", "9m"), "model size '9m' is unknown"),
        (("--learning-rates", "1"), "factor 1 is not above 0 and other than 1"),
        (("--learning-rates", "two"), "'two' is no list of factors"),
        (("--ladder", "0.2m", "--mixtures", 3), "3 mixtures are to be trained again"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    options: tuple[object, ...],
    message: str,
    tiny_config: Path,
    tmp_path: Path,
    cuvee: Callable[..., Any],
) -> None:
    """Before anything is trained, with one message."""
    ended = cuvee("validate", tiny_config, "--out", tmp_path / "out", "-q", *options)
    assert ended.status == 1
    assert message in " ".join(ended.stderr.split())
    assert not (tmp_path / "out").exists()
