"""The real command line on a pool that is token ids already."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cuvee.corpus.store import TokenStore

WriteConfig = Callable[[Path, Mapping[str, object]], Path]


def _documents(store: TokenStore, domain: str) -> list[list[int]]:
    """Return the ids of a domain's documents, end-of-text included, sorted."""
    own = np.flatnonzero(store.domain == store.domains.index(domain)).tolist()
    return sorted(store.read(one, 0, int(store.n_tokens[one])).tolist() for one in own)


@pytest.fixture
def of_text(
    settings: dict[str, Any], write_config: WriteConfig, tmp_path: Path, cuvee: Callable[..., Any]
) -> Path:
    """A run that has read the tiny pool as text."""
    out = tmp_path / "of-text"
    config = write_config(tmp_path / "text.yaml", settings)
    ended = cuvee("label", config, "--out", out, "--workers", 0, "-q")
    assert (ended.status, ended.stderr) == (0, "")
    return out


def _as_token_files(store: TokenStore, folder: Path) -> None:
    """Write each domain's documents as one file of raw ids."""
    folder.mkdir()
    for name in store.domains:
        ids = [token for document in _documents(store, name) for token in document]
        np.array(ids, dtype="<u2").tofile(folder / f"{name}.npy")


def test_label_and_design_on_a_pool_of_token_ids(
    of_text: Path,
    settings: dict[str, Any],
    write_config: WriteConfig,
    tmp_path: Path,
    cuvee: Callable[..., Any],
) -> None:
    """Ids are kept, targets of text are read with the same tokenizer, and nothing is trained."""
    before = TokenStore.open(of_text / "tokens")
    _as_token_files(before, tmp_path / "pool")
    settings["pool"] = {
        "shards": [str(tmp_path / "pool")],
        "domain_from": "file",
        "tokenizer": str(of_text / "tokenizer" / "tokenizer.json"),
        "validation_share": 0.1,
    }
    config, out = write_config(tmp_path / "tokens.yaml", settings), tmp_path / "of-ids"
    for verb in ("label", "design"):
        ended = cuvee(verb, config, "--out", out, "--workers", 0, "-q")
        assert (ended.status, ended.stderr) == (0, "")
    found = TokenStore.open(out / "tokens")
    assert found.domains == before.domains
    assert found.vocabulary_size == before.vocabulary_size
    for name in found.domains:
        assert _documents(found, name) == _documents(before, name)
    assert found.n_bytes.sum() == before.n_bytes.sum()
    targets = [TokenStore.open(run / "targets" / "tokens") for run in (out, of_text)]
    for name in targets[0].domains:
        assert _documents(targets[0], name) == _documents(targets[1], name)
    given = (of_text / "tokenizer" / "tokenizer.json").read_bytes()
    assert (out / "tokenizer" / "tokenizer.json").read_bytes() == given


def test_token_ids_without_their_tokenizer_are_refused(
    of_text: Path,
    settings: dict[str, Any],
    write_config: WriteConfig,
    tmp_path: Path,
    cuvee: Callable[..., Any],
) -> None:
    """Before anything is read, in one message."""
    _as_token_files(TokenStore.open(of_text / "tokens"), tmp_path / "pool")
    settings["pool"] = {"shards": [str(tmp_path / "pool")], "domain_from": "file"}
    config, out = write_config(tmp_path / "tokens.yaml", settings), tmp_path / "of-ids"
    ended = cuvee("label", config, "--out", out, "--workers", 0, "-q")
    assert ended.stderr == (
        f"cuvee: shard {tmp_path / 'pool'}/animals.npy holds token ids (format 'npy'), but "
        "tokenizer is null; ids are used as they are, so the tokenizer.json that made them is "
        "needed. Give its path as tokenizer, beside shards, or leave the file out of shards.\n"
    )
    assert ended.status == 1
    assert not out.exists()
