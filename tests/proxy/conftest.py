"""A small real token store: three domains of made-up sentences, two targets."""

import json
from pathlib import Path

import numpy as np
import pytest

from cuvee.corpus.read import PoolConfig
from cuvee.corpus.scan import scan_pool, scan_targets
from cuvee.corpus.store import TokenStore
from cuvee.corpus.tokens import TokensConfig, make_tokenizer, tokenise_pool

WORDS = {
    "animals": [
        "the",
        "cat",
        "saw",
        "a",
        "dog",
        "and",
        "the",
        "dog",
        "saw",
        "a",
        "bird",
        "that",
        "sang",
        "to",
        "the",
        "cat",
    ],
    "numbers": [
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "plus",
        "minus",
        "equals",
    ],
    "code": [
        "def",
        "return",
        "if",
        "else",
        "for",
        "in",
        "while",
        "x",
        "=",
        "y",
        "+",
        "z",
        "(",
        ")",
        ":",
        "print",
    ],
}


def write_documents(path: Path, domain: str, n_documents: int, seed: int) -> None:
    """Write made-up documents of 5 to 400 words of one domain as JSON lines."""
    rng = np.random.default_rng(seed)
    lines = []
    for number in range(n_documents):
        words = rng.choice(WORDS[domain], size=int(rng.integers(5, 400)))
        record = {"id": f"{domain}-{seed}-{number}", "text": " ".join(words), "domain": domain}
        lines.append(json.dumps(record))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run with ``tokens`` and ``targets/tokens`` finished."""
    root = tmp_path_factory.mktemp("run")
    source = tmp_path_factory.mktemp("source")
    for seed, (domain, n_documents) in enumerate(
        {"animals": 60, "numbers": 40, "code": 20}.items()
    ):
        write_documents(source / "pool" / f"{domain}.jsonl", domain, n_documents, seed)
    for seed, domain in enumerate(("animals", "code")):
        write_documents(source / "targets" / f"{domain}.jsonl", domain, 16, 100 + seed)
    index = scan_pool(
        PoolConfig(shards=(str(source / "pool"),), validation_share=0.2), root, seed=1, workers=0
    )
    sets = {
        name: PoolConfig(shards=(str(source / "targets" / f"{name}.jsonl"),))
        for name in ("animals", "code")
    }
    targets = scan_targets(sets, root, seed=1, workers=0)
    tokenizer = make_tokenizer(TokensConfig(vocabulary_size=300), index, root, seed=1)
    tokenise_pool(index, root, tokenizer=tokenizer, workers=0)
    tokenise_pool(targets, root / "targets", tokenizer=tokenizer, workers=0)
    return root


@pytest.fixture
def store(stores: Path) -> TokenStore:
    """The pool's token store."""
    return TokenStore.open(stores / "tokens")
