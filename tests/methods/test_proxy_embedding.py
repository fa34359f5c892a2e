"""Documents as a proxy's mean hidden states: what the model says, whatever stands beside them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from cuvee.corpus.encoder import Encoder
from cuvee.corpus.pool import PoolConfig
from cuvee.corpus.scan import scan_pool
from cuvee.corpus.store import TokenStore
from cuvee.corpus.tokens import TokensConfig, make_tokenizer, tokenise_pool
from cuvee.methods.proxy_embedding import ProxyEmbedder
from cuvee.methods.quad_engine import Checkpoint
from cuvee.policy.sampling import document_order
from cuvee.proxy.model import ProxyModel
from cuvee.proxy.sizes import model_size

_CONTEXT = 16
_SIZE = "0.03m"
_WORDS = {"law": "court appeal judge statute clause", "food": "flour butter oven sugar dough"}


def _store(out: Path) -> tuple[TokenStore, Path]:
    """Tokenise 60 short texts."""
    rng = np.random.default_rng(0)
    kinds = ["law", "food"] * 30
    texts = [" ".join(rng.choice(_WORDS[kind].split(), 12)) for kind in kinds]
    (out / "pool").mkdir()
    table = {"id": [str(one) for one in range(60)], "text": texts, "domain": kinds}
    pq.write_table(pa.table(table), out / "pool" / "part.parquet")
    pool = PoolConfig(shards=(str(out / "pool"),), validation_share=0.1)
    index = scan_pool(pool, out, seed=1, workers=0)
    config = TokensConfig(vocabulary_size=300, sample_bytes=5000)
    tokenizer = make_tokenizer(config, index, out, seed=1)
    store = tokenise_pool(index, out, tokenizer=tokenizer, workers=0)
    return store, tokenizer / "tokenizer.json"


@pytest.fixture
def embedder(tmp_path: Path) -> tuple[ProxyEmbedder, ProxyModel, TokenStore, Path]:
    """An untrained proxy as an embedder."""
    store, tokenizer = _store(tmp_path)
    module = ProxyModel(
        model_size(_SIZE),
        vocabulary_size=store.vocabulary_size,
        context=_CONTEXT,
        generator=torch.Generator().manual_seed(3),
    )
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    checkpoint = Checkpoint(
        path=str(tmp_path / "model.safetensors"),
        size=_SIZE,
        context=_CONTEXT,
        precision="float32",
        device="cpu",
    )
    made = ProxyEmbedder(checkpoint, store, tokenizer, n_characters=400, seed=1)
    return made, module, store, tokenizer


def _mean_states(module: ProxyModel, ids: list[int], start: int) -> np.ndarray:
    """Compute the mean last hidden state by the module alone, windows of the context apart."""
    states = []
    for offset in range(0, len(ids), _CONTEXT - 1):
        window = torch.tensor([[start, *ids[offset : offset + _CONTEXT - 1]]])
        with torch.no_grad():
            states.append(module.hidden(window, torch.zeros_like(window))[1:])
    return torch.cat(states).double().mean(0).numpy()


def test_vectors_are_the_models_mean_states_less_the_pools(
    embedder: tuple[ProxyEmbedder, ProxyModel, TokenStore, Path],
) -> None:
    """Texts of one window and of many, by the module itself; texts without tokens are 0."""
    embed, module, store, tokenizer = embedder
    texts = ["court appeal", " ".join(["flour sugar oven"] * 12), ""]
    found = embed(texts)
    assert found.shape == (3, model_size(_SIZE).width)
    encoder = Encoder(tokenizer)
    pool = np.flatnonzero(store.side == 0)
    order = pool[document_order(store.keys[pool], seed=1, purpose="sample")]
    centre = np.mean(
        [
            _mean_states(
                module, store.read(one, 0, int(store.n_tokens[one])).tolist(), encoder.end_of_text
            )
            for one in order.tolist()
        ],
        axis=0,
    )
    for text, vector in zip(texts[:2], found, strict=False):
        ids = np.frombuffer(encoder.encode([text])[0], dtype=encoder.dtype).tolist()
        truth = _mean_states(module, ids, encoder.end_of_text) - centre
        np.testing.assert_allclose(vector, truth, atol=1e-5)
    assert not found[2].any()


def test_a_vector_depends_on_its_text_alone(
    embedder: tuple[ProxyEmbedder, ProxyModel, TokenStore, Path],
) -> None:
    """Bit for bit, alone or among others; texts are read to their first characters."""
    embed = embedder[0]
    texts = ["court appeal judge", "sugar", "oven flour butter dough sugar oven"]
    together = embed(texts)
    for text, vector in zip(texts, together, strict=True):
        np.testing.assert_array_equal(embed([text])[0], vector)
    long = "court appeal " * 60
    np.testing.assert_array_equal(embed([long]), embed([long[:400]]))
    assert embed([]).shape[0] == 0
