"""Diagonal curvature against dense matrices, on files, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cuvee.arrays import IntArray
from cuvee.errors import DataError
from cuvee.influence import CausalModel, DiagonalFisher, KroneckerFactors, gradient
from cuvee.influence.solve import gauss_newton_product

from .conftest import CONTEXT, Decoder, Make, autograd_gradients

DENSE_TOLERANCE = 1e-10
"""Float64 closed forms against dense ones."""


@pytest.fixture
def exact(decoder: Decoder, make: Make) -> CausalModel:
    """The decoder in float64."""
    decoder.double()
    return make()


def _rng() -> np.random.Generator:
    return np.random.default_rng(5)


def _error(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).norm() / truth.norm())


def test_solve_equals_the_dense_solve_with_the_fishers_diagonal(
    decoder: Decoder, exact: CausalModel, documents: list[IntArray]
) -> None:
    """(diag(mean g^2) + damping)^-1 g, by torch's gradients of documents with their own labels."""
    short = [ids for ids in documents if len(ids) <= CONTEXT]
    right = gradient(exact, documents[:4], where="all")
    factors = DiagonalFisher(exact, "all", labels="text").fit(short, rng=_rng())
    found = factors.solve(right, damping=0.3)
    each = autograd_gradients(decoder, short, "all")
    for part in factors.eigen_blocks():
        rows = torch.stack([part.block.gather(grads).flatten() for grads in each])
        fisher = rows.t() @ rows / sum(map(len, short))
        dense = torch.diag(fisher.diagonal())
        damping = 0.3 * float(dense.trace()) / len(dense)
        damped = dense + damping * torch.eye(len(dense), dtype=torch.float64)
        truth = torch.linalg.solve(damped, part.block.gather(right.values).flatten())
        assert _error(part.block.gather(found.values).flatten(), truth) < DENSE_TOLERANCE


def test_sampled_labels_are_those_of_the_factors(
    exact: CausalModel, documents: list[IntArray]
) -> None:
    """The trace of a block does not depend on the basis, so that of EK-FAC is the same."""
    diagonal = DiagonalFisher(exact).fit(documents, rng=_rng())
    rotated = KroneckerFactors(exact).fit(documents, rng=_rng())
    for one, other in zip(diagonal.eigen_blocks(), rotated.eigen_blocks(), strict=True):
        assert float(one.eigenvalues.sum()) == pytest.approx(
            float(other.eigenvalues.sum()), rel=DENSE_TOLERANCE
        )


def test_refinement_approaches_the_gauss_newton_matrix(
    exact: CausalModel, documents: list[IntArray]
) -> None:
    """The residual of the damped system falls with the steps; the diagonal preconditions."""
    right = gradient(exact, documents[:4])
    factors = DiagonalFisher(exact).fit(documents, rng=_rng())
    amount = 0.05

    def residual(steps: int) -> float:
        x = dict(
            factors.solve(
                right, damping=amount, steps=steps, sample=documents, relative=False
            ).values
        )
        curved = gauss_newton_product(exact, factors.layers, documents, x)
        apart = [curved[name] + amount * x[name] - right.values[name] for name in x]
        return float(torch.cat([one.flatten() for one in apart]).norm()) / right.norm

    assert residual(30) < 0.01 * residual(0)


def test_files_add_up_and_others_are_refused(
    exact: CausalModel, documents: list[IntArray], tmp_path: Path
) -> None:
    """Two halves equal the whole; Kronecker factors are of another basis."""
    halves = [tmp_path / f"{number}.safetensors" for number in (0, 1)]
    for number, path in enumerate(halves):
        half = DiagonalFisher(exact)
        half.fit_eigenvalues(documents[number::2], label_seed=3).save(path)
    whole = DiagonalFisher(exact).fit_eigenvalues(documents, label_seed=3)
    right = gradient(exact, documents[:3])
    merged = DiagonalFisher(exact).load(*halves)
    assert merged.solve(right).dot(right) == pytest.approx(whole.solve(right).dot(right), rel=1e-10)
    with pytest.raises(DataError, match="of different basis"):
        KroneckerFactors(exact).load(halves[0])
    KroneckerFactors(exact).fit(documents, rng=_rng()).save(halves[1])
    with pytest.raises(DataError, match="of different basis"):
        DiagonalFisher(exact).load(halves[1])
    with pytest.raises(DataError, match="has no covariances"):
        whole.fit_covariances(documents, label_seed=3)


def test_what_cannot_be_fitted_is_refused(decoder: Decoder, make: Make) -> None:
    """No predicted token; numbers that are not finite."""
    with pytest.raises(DataError, match="no predicted token"):
        DiagonalFisher(make()).fit([], rng=_rng())
    with torch.no_grad():
        decoder.embed.weight[5] = float("nan")
    with pytest.raises(DataError, match="are not finite"):
        DiagonalFisher(make()).fit([[5, 5, 5]], rng=_rng())
