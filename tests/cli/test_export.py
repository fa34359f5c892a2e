"""`cuvee export` on the command line: table, JSON, defaults and refusals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cuvee import artifacts
from cuvee.corpus.encoder import train_tokenizer
from cuvee.corpus.pool import PoolConfig
from cuvee.corpus.scan import scan_pool
from cuvee.corpus.tokens import TokensConfig, make_tokenizer, tokenise_pool
from cuvee.policy.mixture import Mixture
from cuvee.select.budget import SelectConfig, plan
from cuvee.select.write import SelectionSource, write_selection


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a run's folder with a selection of two domains, 3 to 1."""
    out = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    words = np.array(["alpha", "beta", "gamma", "delta"])
    rows = [
        {"id": f"{name}{number}", "text": " ".join(rng.choice(words, 30)), "domain": name}
        for name in ("books", "web")
        for number in range(40)
    ]
    pq.write_table(pa.Table.from_pylist(rows), out / "pool.parquet")
    pool = PoolConfig(shards=(str(out / "pool.parquet"),), validation_share=0.1)
    index = scan_pool(pool, out, seed=1, workers=0)
    tokenizer = make_tokenizer(TokensConfig(vocabulary_size=300), index, out, seed=1)
    store = tokenise_pool(index, out, tokenizer=tokenizer, workers=0)
    mixture = Mixture.flat(store.domains, (0.75, 0.25))
    write_selection(
        out / "selection",
        mixture,
        plan(mixture, store.statistics(), n_tokens=4_000, max_epochs=1e9),
        source=SelectionSource(
            pool=pool,
            tokens=out / "tokens",
            tokenizer=artifacts.digest_of(tokenizer),
            fingerprint=index.fingerprint,
        ),
        settings=SelectConfig(),
        seed=1,
    )
    return out


def test_export_prints_shares_and_use(run: Path, cuvee: Any) -> None:
    """The table has planned, realised and their difference; the last line says what to do."""
    done = cuvee("export", run, "--to", "megatron", "--context", 64, "--workers", 0, "-q")
    assert done.status == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["domain", "tokens", "planned", "realised", "difference"]
    name, tokens, planned, realised, difference = lines[1].split()
    assert (name, planned) == ("books", "0.750000")
    assert float(realised) - 0.75 == pytest.approx(float(difference), abs=1.1e-6)
    written = json.loads((run / "selection" / "mixture.json").read_text())["domains"]["books"]
    assert int(tokens.replace(",", "")) == written["realised_tokens"]
    assert lines[-1] == f"megatron: --data-args-path {run}/export/megatron/blend.txt"
    again = cuvee("export", run, "--to", "megatron", "--context", 64, "--workers", 0, "-q")
    assert again.stdout == done.stdout


def test_export_prints_how_another_tokenizer_moves_the_shares(
    run: Path, cuvee: Any, tmp_path: Path
) -> None:
    """The table then has the selection's shares beside the export's, and a note sums them up."""
    given, dest = tmp_path / "tokenizer.json", tmp_path / "exported"
    given.write_text(train_tokenizer(["alpha alpha"], vocabulary_size=257), encoding="utf-8")
    arguments = ("--to", "olmo", "--dest", dest, "--context", 64, "--tokenizer", given)
    done = cuvee("export", run, *arguments, "--workers", 0, "-q")
    assert done.status == 0, done.stderr
    lines = done.stdout.splitlines()
    heads = ["domain", "tokens", "planned", "selected", "realised", "difference"]
    assert lines[0].split() == heads
    row = dict(zip(heads, lines[1].split(), strict=True))
    written = json.loads((run / "selection" / "mixture.json").read_text())["domains"]["books"]
    assert float(row["selected"]) == pytest.approx(written["realised_share"], abs=1e-6)
    assert int(row["tokens"].replace(",", "")) > written["realised_tokens"]
    moved = float(row["realised"]) - float(row["planned"])
    assert moved == pytest.approx(float(row["difference"]), abs=2e-6)
    assert "counted with another tokenizer than the run's" in done.stdout
    refused = cuvee("export", run, *arguments[:-2], "--workers", 0, "-q")
    assert "exported with another tokenizer" in refused.stderr


def test_export_prints_json(run: Path, cuvee: Any, tmp_path: Path) -> None:
    """--json is export.json's numbers; --dest is where it stands."""
    dest = tmp_path / "with space"
    done = cuvee(
        "export", run, "--to", "huggingface", "--dest", dest, "--json", "--workers", 0, "-q"
    )
    found = json.loads(done.stdout)
    about = json.loads((dest / "export.json").read_text())
    assert found["domains"] == about["domains"]
    assert found["layout"] == "domains"


def test_export_refuses_in_one_line(run: Path, cuvee: Any, tmp_path: Path) -> None:
    """A wrong format, layout or path ends with one message and nothing written."""
    dest = tmp_path / "a b"
    for arguments, message in (
        (("--to", "webdataset"), "there is no format 'webdataset'"),
        (("--to", "olmo", "--layout", "rows"), "layout is 'rows'"),
        (("--to", "olmo", "--context", "0"), "context is 0"),
        (("--to", "megatron", "--dest", dest), "holds white space"),
        (("--to", "olmo", "--tokenizer", tmp_path / "none.json"), "none.json does not exist"),
        (("--to", "olmo", "--context", "9999999"), "Lower --context"),
    ):
        done = cuvee("export", run, *arguments, "--workers", 0, "-q")
        assert done.status == 1
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not dest.exists()
