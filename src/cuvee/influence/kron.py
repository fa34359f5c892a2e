"""Kronecker-factored curvature of the tracked matrices: K-FAC, and EK-FAC by corrected eigenvalues.

For y = W x with input a and output gradient g of each token, G = sum_t g_t a_t^T over a window and
the curvature of a block is H ~ S (x) A, S = mean g g^T, A = mean a a^T; row-major, (S (x) A) vec(G)
= vec(S G A). EK-FAC keeps the eigenvectors and puts L_ij = mean (Q_S^T G Q_A)_ij^2 in place of the
products of eigenvalues. All means are per token, as that of the Gauss-Newton matrix.

Source: Martens, Grosse (arXiv:1503.05671), Sec. 3; George et al. (arXiv:1806.03884), Sec. 3;
    Grosse et al. (arXiv:2308.03296), Sec. 2.2; Quad (arXiv:2409.16986) for attention.
Deviation: Quad's released code multiplies by L + damping where it must divide, rotates by Q_S for
    Q_S^T, leaves attention out and takes true labels of the reference set; none of it is kept.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from cuvee.errors import ConfigError, DataError, NotFittedError
from cuvee.influence.batches import Batch, Chunk, Document, chunks
from cuvee.influence.blocks import Block, QueryKeyValue, make_blocks
from cuvee.influence.factor_sums import FactorSums, check_identity
from cuvee.influence.gradient import product
from cuvee.influence.head import sampled_gradient
from cuvee.influence.kept_tokens import BlockTokens, KeptTokens
from cuvee.influence.model import CausalModel, Where, tracked_layers, weights_digest
from cuvee.influence.passes import Pull, against_targets, backward_tokens, window_gradients
from cuvee.influence.solve import (
    BlockCurvature,
    EigenBlock,
    Values,
    conjugate_gradients,
    eigen,
    gauss_newton_product,
    solve_blocks,
)
from cuvee.influence.vectors import LayerVector, check_same
from cuvee.randomness import integer_seed

Labels = Literal["sampled", "text"]
KEEP_BYTES = 1 << 30
"""Memory that `KroneckerFactors.fit` may use to save its second pass."""
EIGENVECTORS = "eigenvectors"
"""Basis of the squares, where a file of sums does not name another."""


class Squares(Protocol):
    """Squares a block's gradients in the block's basis."""

    def squares(self, batch: Batch, rows: Tensor, grads: Tensor) -> Tensor:
        """Return their (n_out, n_in) sum over windows; tokens as of `BlockTokens`."""


class KroneckerFactors:
    """Curvature of the loss on a sample of training text, and its damped inverse."""

    def __init__(
        self,
        model: CausalModel,
        where: Where = "attention",
        *,
        query_key_value: QueryKeyValue = "fused",
        splits: Mapping[str, Sequence[int]] | None = None,
        labels: Labels = "sampled",
        corrected: bool = True,
    ) -> None:
        """Choose what is fitted.

        Args:
            model: The model.
            where: Which matrices.
            query_key_value: One block for the three, or three that share their input factor.
            splits: Rows of query, key and value in fused matrices, by name (`make_blocks`).
            labels: "sampled": drawn from the model, the Fisher information, which is the
                Gauss-Newton matrix. "text": the text's own, the empirical Fisher matrix.
            corrected: EK-FAC; False for K-FAC, one pass instead of two.
        """
        if labels not in ("sampled", "text"):
            raise ConfigError(f"labels={labels!r} is unknown; allowed: sampled, text.")
        self.model = model
        self.labels = labels
        self.corrected = corrected
        self.layers = tracked_layers(model, where)
        self.blocks = make_blocks(self.layers, query_key_value, splits)
        self._digest = weights_digest(model, self.layers)
        self._eigen: list[EigenBlock] | None = None
        self.sums_: FactorSums | None = None
        """Sums and counts, once fitted."""

    def fit(
        self,
        sample: Iterable[Document],
        *,
        rng: np.random.Generator,
        keep_bytes: int = KEEP_BYTES,
    ) -> Self:
        """Go through a sample once for the factors, once more for corrected eigenvalues.

        Args:
            sample: Token ids of documents of the training distribution; read again for the second
                pass, so a list or the like.
            rng: Source of the labels' seed. Labels depend on it, the text and the place in it, not
                on order or batches.
            keep_bytes: Memory for inputs and gradients of the first pass, which the second then
                need not compute again; beyond it they are computed twice, to the same result.

        Raises:
            DataError: The sample can be read once only, has no predicted token, or gives numbers
                that are not finite.
        """
        if self.corrected and isinstance(sample, Iterator):
            raise DataError("the sample can be read only once. Give a list of documents.")
        seed = integer_seed(rng)
        kept = KeptTokens(keep_bytes if self.corrected else 0)
        self._fit_covariances(sample, seed, kept)
        return self._fit_eigenvalues(sample, seed, kept) if self.corrected else self

    def fit_covariances(self, sample: Iterable[Document], *, label_seed: int) -> Self:
        """Sum a a^T per input and g g^T per block: the first pass, whose files add up."""
        return self._fit_covariances(sample, label_seed, KeptTokens(0))

    def fit_eigenvalues(self, sample: Iterable[Document], *, label_seed: int) -> Self:
        """Sum (Q_S^T G Q_A)^2 over windows: the second pass, after all first ones are added."""
        return self._fit_eigenvalues(sample, label_seed, KeptTokens(0))

    def solve(
        self,
        gradient: LayerVector,
        *,
        damping: float = 0.1,
        steps: int = 0,
        sample: Iterable[Document] | None = None,
        relative: bool = True,
    ) -> LayerVector:
        """Multiply a gradient by the inverse of the damped curvature.

        Args:
            gradient: Of the reference set (`gradient`).
            damping: Added to eigenvalues; above 0.
            steps: 0: closed form, block by block. More: conjugate gradients on the Gauss-Newton
                matrix of ``sample``, all layers together, with the closed form as preconditioner.
            sample: Documents for steps > 0; read once a step.
            relative: Damping is in units of each block's mean eigenvalue.

        Returns:
            The direction whose inner product with a document's gradient is its influence.

        Raises:
            ConfigError: Damping or steps are out of range, or the sample is missing.
            DataError: The gradient is of another model, other layers or another tokenizer.
            NotFittedError: Before `fit`.
        """
        if damping <= 0 or steps < 0:
            raise ConfigError(
                f"damping={damping} and steps={steps}; damping above 0 and steps of 0 or more are "
                "needed."
            )
        self._fitted()
        check_same(self._like(), gradient, "factors and gradient")
        blocks = self._curvature()
        dampings = [damping * float(b.eigenvalues.mean()) if relative else damping for b in blocks]
        if min(dampings) <= 0:
            raise DataError(
                "a block has no curvature at all, so damping relative to it is 0. Fit a larger "
                "sample or set relative=False."
            )
        values = {name: value.double() for name, value in gradient.values.items()}
        if steps == 0:
            return gradient.with_values(solve_blocks(blocks, values, dampings).values())
        documents = self._sample_for_steps(sample)

        def damped(x: Values) -> Values:
            curved = gauss_newton_product(self.model, self.layers, documents, x)
            for part, amount in zip(blocks, dampings, strict=True):
                rows = part.block.gather(curved) + amount * part.block.gather(x)
                part.block.scatter(rows, curved)
            return curved

        solved = conjugate_gradients(
            damped, lambda x: solve_blocks(blocks, x, dampings), values, steps
        )
        return gradient.with_values(solved.values())

    def save(self, path: Path) -> None:
        """Write sums, counts and digests as safetensors."""
        self._fitted().save(path)

    def load(self, *paths: Path) -> Self:
        """Take over files that `save` wrote, added up.

        Raises:
            ArtifactError: A file cannot be read.
            DataError: One is of another model, other layers, tokenizer, labels or eigenbasis.
        """
        total: FactorSums | None = None
        for path in paths:
            found = FactorSums.load(path).to(self.model.device)
            seed = {"label seed": found.identity.get("label seed", "")}
            wanted = {"basis": EIGENVECTORS} | self._identity(0) | seed
            known = {"basis": EIGENVECTORS} | dict(found.identity)
            check_identity(wanted, known, f"this model and {path.name}")
            total = found if total is None else total + found
        if total is None:
            raise ConfigError("no file to load. Give one or more that save() wrote.")
        self._take(total)
        return self

    def eigen_blocks(self) -> list[EigenBlock]:
        """Return eigenvectors and eigenvalues of all blocks.

        Raises:
            NotFittedError: Before `fit`.
        """
        self._fitted()
        return self._eigen_blocks()

    def _fit_covariances(
        self, sample: Iterable[Document], label_seed: int, kept: KeptTokens
    ) -> Self:
        self._check_weights()
        device = self.model.device
        inputs = {
            str(block.group): torch.zeros(
                block.n_in, block.n_in, dtype=torch.float64, device=device
            )
            for block in self.blocks
        }
        outputs = {
            block.name: torch.zeros(block.n_out, block.n_out, dtype=torch.float64, device=device)
            for block in self.blocks
        }
        n_tokens = 0
        for chunk in chunks(self.model, sample):
            n_tokens += int(chunk.n_predicted.sum())
            for batch in chunk.batches():
                tokens = kept.add(self._tokens(chunk, batch, label_seed))
                text = None if bool(batch.is_text.all()) else batch.is_text
                for name, rows in _by_group(self.blocks, tokens).items():
                    read = rows if text is None else rows[text]
                    inputs[name] += product(read, read)
                for block, (_, grads) in zip(self.blocks, tokens, strict=True):
                    outputs[block.name] += product(grads, grads)
        if n_tokens == 0:
            raise DataError("the sample has no predicted token. Give documents of 2 or more.")
        self._take(
            FactorSums(
                identity=self._identity(label_seed),
                inputs=inputs,
                outputs=outputs,
                n_tokens=n_tokens,
            )
        )
        return self

    def _fit_eigenvalues(
        self, sample: Iterable[Document], label_seed: int, kept: KeptTokens
    ) -> Self:
        self._check_weights()
        sums = self._fitted()
        bases, device = self._bases(), self.model.device
        squares = {
            block.name: torch.zeros(block.n_out, block.n_in, dtype=torch.float64, device=device)
            for block in self.blocks
        }
        n_tokens = 0
        for chunk in chunks(self.model, sample):
            n_tokens += int(chunk.n_predicted.sum())
            for batch in chunk.batches():
                tokens = kept.next() or self._tokens(chunk, batch, label_seed)
                for block, (rows, grads) in zip(self.blocks, tokens, strict=True):
                    squares[block.name] += bases[block.name].squares(batch, rows, grads)
        self._take(replace(sums, squares=squares, n_tokens_squares=n_tokens))
        return self

    def _tokens(self, chunk: Chunk, batch: Batch, label_seed: int) -> BlockTokens:
        """Return inputs and output gradients of each block, padding included."""
        rows: dict[str, Tensor] = {}
        grads: dict[str, Tensor] = {}

        def keep(name: str, inputs: Tensor, gradients: Tensor) -> None:
            if name in rows:
                raise DataError(
                    f"{name} is used more than once in a forward pass, which Kronecker factors do "
                    "not cover. Leave it out by a predicate on names."
                )
            rows[name], grads[name] = inputs, gradients

        pull = against_targets(batch)
        if self.labels == "sampled":
            pull = _against_draws(batch, chunk.uniforms(batch, label_seed))
        backward_tokens(self.model, self.layers, batch, pull, keep)
        found = []
        for block in self.blocks:
            parts = [grads[p.layer][:, p.start : p.stop] for p in block.pieces]
            joined = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
            found.append((rows[block.pieces[0].layer], joined))
        return found

    def _curvature(self) -> Sequence[BlockCurvature]:
        """Return what solves each block."""
        return self._eigen_blocks()

    def _bases(self) -> Mapping[str, Squares]:
        """Return what squares the gradients of each block in the second pass."""
        parts = self._eigen_blocks()
        return {part.block.name: _Basis(part, self.model.dtype) for part in parts}

    def _eigen_blocks(self) -> list[EigenBlock]:
        if self._eigen is None:
            sums = self._fitted()
            of_inputs = {
                name: eigen(value / sums.n_tokens, f"inputs {name}")
                for name, value in sums.inputs.items()
            }
            self._eigen = []
            for block in self.blocks:
                l_in, q_in = of_inputs[str(block.group)]
                l_out, q_out = eigen(sums.outputs[block.name] / sums.n_tokens, block.name)
                values = torch.outer(l_out, l_in)
                if block.name in sums.squares:
                    values = sums.squares[block.name] / sums.n_tokens_squares
                self._eigen.append(EigenBlock(block, q_out, q_in, values))
        return self._eigen

    def _take(self, sums: FactorSums) -> None:
        self.sums_, self._eigen = sums, None

    def _fitted(self) -> FactorSums:
        if self.sums_ is None:
            raise NotFittedError("the factors are not fitted. Call fit() or load() first.")
        return self.sums_

    def _identity(self, label_seed: int) -> dict[str, str]:
        groups = dict.fromkeys(str(block.group) for block in self.blocks)
        names = {"inputs": list(groups), "outputs": [block.name for block in self.blocks]}
        return {
            "layers": json.dumps(names),
            "weights": self._digest,
            "tokenizer": self.model.tokenizer,
            "labels": self.labels,
            "label seed": str(label_seed),
        }

    def _like(self) -> LayerVector:
        shapes = {layer.name: torch.empty(layer.n_out, layer.n_in) for layer in self.layers}
        return LayerVector(shapes, self._digest, self.model.tokenizer)

    def _check_weights(self) -> None:
        if weights_digest(self.model, self.layers) != self._digest:
            raise DataError(
                "the model's weights changed since these factors were begun. Make new "
                "KroneckerFactors for the new weights."
            )

    def _sample_for_steps(self, sample: Iterable[Document] | None) -> Iterable[Document]:
        if sample is None or isinstance(sample, Iterator):
            raise ConfigError(
                "steps > 0 needs a sample that can be read once a step. Give a list of documents."
            )
        self._check_weights()
        return sample


class _Basis:
    """Eigenvectors of a block in the type of the tokens."""

    def __init__(self, part: EigenBlock, dtype: torch.dtype) -> None:
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        self._q_out, self._q_in = part.q_out.to(wide), part.q_in.to(wide)

    def squares(self, batch: Batch, rows: Tensor, grads: Tensor) -> Tensor:
        """Return the sum over windows of (Q_S^T G Q_A)^2; tokens or G are rotated, the cheaper."""
        rows, grads = rows.to(self._q_in.dtype), grads.to(self._q_in.dtype)
        n_out, n_in = len(self._q_out), len(self._q_in)
        by_token = len(rows) * (n_out**2 + n_in**2)
        early = by_token < len(batch.spans) * n_out * n_in * (n_out + n_in)
        if early:
            rows, grads = rows @ self._q_in, grads @ self._q_out
        total = rows.new_zeros(n_out, n_in)
        for each in window_gradients(batch, rows, grads):
            if not early:
                each = self._q_out.t() @ each @ self._q_in
            total.addcmul_(each, each)
        return total


def _by_group(blocks: Sequence[Block], tokens: BlockTokens) -> dict[str, Tensor]:
    return {str(block.group): pair[0] for block, pair in zip(blocks, tokens, strict=True)}


def _against_draws(batch: Batch, uniforms: Tensor) -> Pull:
    def pull(hidden: Tensor, head: Tensor | None) -> Tensor:
        return sampled_gradient(hidden, head, uniforms, batch.is_text.to(hidden.dtype))

    return pull
