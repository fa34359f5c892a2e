"""Documents as the model sees them: mean last hidden states of a checkpoint."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from cuvee.arrays import FloatArray, IntArray
from cuvee.corpus.encoder import Encoder
from cuvee.corpus.store import TokenStore
from cuvee.influence import CausalModel
from cuvee.labels.embeddings import Vectors
from cuvee.methods.quad_engine import Checkpoint, one_torch_thread
from cuvee.policy.sampling import document_order

_SAMPLE = 256
"""Documents whose mean is subtracted."""


class ProxyEmbedder:
    """Mean of the last hidden states over a text's tokens, less that of the pool.

    All texts' hidden states share a large part, beside which angles between them are small; the
    mean of a sample chosen by hash is subtracted. Each window goes through the model by itself, on
    one thread, so that a vector depends on its text alone. The model is loaded with the first text.

    Source: Mu, Viswanath, "All-but-the-top" (arXiv:1702.01417), Sec. 2.1, for the mean.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        store: TokenStore,
        tokenizer: Path,
        *,
        n_characters: int,
        seed: int,
    ) -> None:
        """Say which model, and which pool.

        Args:
            checkpoint: The model.
            store: Its pool, whose training documents the sample is of.
            tokenizer: The pool's tokenizer.json.
            n_characters: Of a text that are read, from its start.
            seed: The run's seed.
        """
        self._checkpoint, self._store, self._tokenizer = checkpoint, store, tokenizer
        self._n_characters, self._seed = n_characters, seed

    def __call__(self, texts: Sequence[str], /) -> Vectors:
        """Return the (n_documents, width) vectors; 0 where a text has no token."""
        starts = [text[: self._n_characters] for text in texts]
        documents = [
            np.frombuffer(ids, dtype=self._encoder.dtype).astype(np.int64)
            for ids in self._encoder.encode(starts)
        ]
        with one_torch_thread():
            found = [
                self._mean_states(ids) - self._centre if len(ids) else np.zeros_like(self._centre)
                for ids in documents
            ]
            width = len(self._centre)
        return np.asarray(found, dtype=np.float32).reshape(len(texts), width)

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self._tokenizer)

    @cached_property
    def _model(self) -> CausalModel:
        return self._checkpoint.open(self._store)

    @cached_property
    def _centre(self) -> FloatArray:
        """(width,) mean of the sample's vectors, each document's start as its tokens have it."""
        store = self._store
        pool = np.flatnonzero((store.side == 0) & (store.n_tokens > 0))
        order = pool[document_order(store.keys[pool], seed=self._seed, purpose="sample")]
        vectors = []
        for one in order[:_SAMPLE].tolist():
            n_tokens = min(int(store.n_tokens[one]), self._n_characters)
            vectors.append(self._mean_states(store.read(one, 0, n_tokens).astype(np.int64)))
        return np.asarray(np.mean(vectors, axis=0), dtype=np.float64)

    def _mean_states(self, ids: IntArray) -> FloatArray:
        """Return (width,) the mean over all tokens, windows apart."""
        model = self._model
        start = [] if model.start is None else [model.start]
        length = model.context - len(start)
        total: FloatArray | None = None
        for offset in range(0, len(ids), length):
            window = [*start, *ids[offset : offset + length].tolist()]
            tokens = torch.tensor([window], device=model.device)
            with torch.no_grad(), model.autocast():
                states = model.hidden(tokens, torch.zeros_like(tokens))
            own = states.reshape(len(window), -1)[len(start) :].double().sum(0).cpu().numpy()
            total = own if total is None else total + own
        assert total is not None, "asked for texts with tokens"
        return np.asarray(total / len(ids), dtype=np.float64)
