"""Scores against per-document gradients, and what they must not depend on."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr

from cuvee.arrays import FloatArray, IntArray
from cuvee.errors import ConfigError, CuveeWarning, DataError
from cuvee.influence import (
    CausalModel,
    LayerVector,
    gradient,
    influence,
    influences,
    perturbed_weights,
)
from cuvee.proxy.model import ProxyModel
from cuvee.proxy.sizes import model_size

from .conftest import VOCABULARY, Decoder, Make, autograd_gradients

EXACT_TOLERANCE = 1e-5
"""Float32 trace and eps against float64 autograd."""
DIFFERENCE_TOLERANCE = 1e-3
LAYOUT_TOLERANCE = 1e-10
"""Float64."""


def _error(found: FloatArray, truth: FloatArray) -> float:
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


def _truth(
    decoder: Decoder, direction: LayerVector, documents: Sequence[IntArray], where: str
) -> tuple[FloatArray, FloatArray]:
    """Return inner products and lengths of float64 gradients."""
    each = autograd_gradients(decoder, list(documents), where)
    names = list(direction.values)
    products = [sum(float((g[n] * direction.values[n]).sum()) for n in names) for g in each]
    lengths = [np.sqrt(sum(float(g[n].square().sum()) for n in names)) for g in each]
    return np.array(products), np.array(lengths)


@pytest.mark.parametrize(
    ("mode", "tolerance"),
    [
        ("trace", EXACT_TOLERANCE),
        ("eps", EXACT_TOLERANCE),
        ("difference", DIFFERENCE_TOLERANCE),
    ],
)
@pytest.mark.parametrize("where", ["attention", "mlp", "all"])
def test_scores_equal_float64_autograd(
    decoder: Decoder, make: Make, documents: list[IntArray], mode: Any, tolerance: float, where: Any
) -> None:
    """Every document, the shortest and those of several windows too."""
    direction = gradient(make(), documents[::3], where=where)
    truth, _ = _truth(decoder, direction, documents, where)
    found = np.array(list(influence(make(), direction, documents, mode=mode)))
    assert found.shape == (len(documents),)
    assert _error(found, truth) < tolerance


def test_several_directions_and_normalisations(
    decoder: Decoder, make: Make, documents: list[IntArray]
) -> None:
    """One pass for all; sums, means and cosines as they are named."""
    directions = [gradient(make(), documents[i::3], where="all") for i in range(3)]
    truths = np.array([_truth(decoder, d, documents, "all")[0] for d in directions]).T
    lengths = _truth(decoder, directions[0], documents, "all")[1][:, None]
    norms = np.array([direction.norm for direction in directions])
    n_tokens = np.array([[len(ids)] for ids in documents])
    for normalise, truth in (
        ("sum", truths),
        ("mean", truths / n_tokens),
        ("cosine", truths / lengths / norms),
    ):
        rows = influences(make(), directions, documents, normalise=normalise)  # type: ignore[arg-type]
        assert _error(np.array(list(rows)), truth) < EXACT_TOLERANCE
    rows = influences(make(), directions, documents, mode="eps")
    assert _error(np.array(list(rows)), truths) < EXACT_TOLERANCE
    rows = influences(make(), directions, documents, mode="difference")
    assert _error(np.array(list(rows)), truths) < DIFFERENCE_TOLERANCE


def test_a_step_along_the_scores_lowers_the_reference_loss(
    decoder: Decoder, make: Make, documents: list[IntArray]
) -> None:
    """The sign: training on a document of high score helps, of low score harms."""
    model, rate = make(), 1e-7
    decoder.double()
    direction = gradient(model, documents[:3])
    scores = np.array(list(influence(model, direction, documents[3:])))
    changes = []
    for ids in documents[3:]:
        step = gradient(model, [ids])
        before = {name: decoder.get_parameter(name).detach().clone() for name in step.values}
        losses = []
        for length in (0.0, rate * len(ids)):
            with torch.no_grad():
                for name, value in step.values.items():
                    decoder.get_parameter(name).copy_(before[name] - length * value)
                losses.append(sum(float(decoder.document_loss(x)) for x in documents[:3]))
        with torch.no_grad():
            for name, value in before.items():
                decoder.get_parameter(name).copy_(value)
        changes.append((losses[1] - losses[0]) / sum(map(len, documents[:3])))
    assert _error(np.array(changes), -rate * scores) < 0.01
    assert scores.min() < 0 < scores.max()


@pytest.mark.parametrize("mode", ["trace", "eps"])
@pytest.mark.parametrize("normalise", ["sum", "cosine"])
@pytest.mark.parametrize(
    "fields",
    [
        {"batch_tokens": 1},
        {"layout": "bucketed"},
        {"plain_attention": False},
        {"plain_attention": False, "layout": "bucketed", "batch_tokens": 1000},
    ],
)
def test_scores_do_not_depend_on_the_layout(
    decoder: Decoder,
    make: Make,
    documents: list[IntArray],
    mode: Any,
    normalise: Any,
    fields: dict[str, Any],
) -> None:
    """Packing, padding, batch size, chunks and order."""
    if (mode, normalise) == ("eps", "cosine"):
        normalise = "mean"
    decoder.double()
    direction = gradient(make(), documents[:5])
    many = documents * 2  # several chunks of small batches
    one = np.array(list(influence(make(), direction, many, mode=mode, normalise=normalise)))
    rows = influence(make(**fields), direction, many[::-1], mode=mode, normalise=normalise)
    assert _error(np.array(list(rows))[::-1], one) < LAYOUT_TOLERANCE


def test_documents_without_predicted_tokens_score_zero(make: Make) -> None:
    """Empty ones, and single tokens where there is no start token."""
    model = make(start=None)
    direction = gradient(model, [[1, 2, 3]])
    for normalise in ("sum", "mean", "cosine"):
        scores = list(influence(model, direction, [[], [4], [1, 2, 3]], normalise=normalise))  # type: ignore[arg-type]
        assert scores[:2] == [0.0, 0.0]
        assert scores[2] > 0
    assert list(influence(model, direction, [])) == []


def test_scores_are_streamed(make: Make, documents: list[IntArray]) -> None:
    """An endless source gives its first scores."""
    direction = gradient(make(), documents)

    def endless() -> Any:
        while True:
            yield documents[9]

    scores = influence(make(), direction, endless())
    assert next(scores) == pytest.approx(next(scores), rel=1e-4)


def test_bfloat16_ranks_as_float32_does() -> None:
    """Autocast on a proxy of 0.2M parameters."""
    size = model_size("0.1m")
    generator = torch.Generator().manual_seed(2)
    proxy = ProxyModel(size, vocabulary_size=VOCABULARY, context=32, generator=generator)
    with torch.no_grad():
        for value in proxy.blocks.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=generator))
    rng = np.random.default_rng(3)
    lengths = rng.integers(2, 60, size=60)
    documents = [rng.integers(0, VOCABULARY, size=int(length)) for length in lengths]
    scores = []
    for precision in ("own", "bfloat16"):
        model = CausalModel(
            module=proxy,
            hidden=proxy.hidden,
            head=proxy.head,
            context=32,
            plain_attention=True,
            precision=precision,  # type: ignore[arg-type]
        )
        direction = gradient(model, documents[:20])
        scores.append(list(influence(model, direction, documents)))
    assert spearmanr(scores[0], scores[1]).statistic >= 0.999


def test_moved_weights_serve_another_engine(
    decoder: Decoder, make: Make, documents: list[IntArray]
) -> None:
    """Losses of a module with those weights give the scores."""
    decoder.double()
    direction = gradient(make(), documents[:4])
    totals = []
    for sign in (1, -1):
        moved, length = perturbed_weights(make(), direction, sign * 1e-4)
        engine = Decoder(torch.Generator()).double()
        engine.load_state_dict({**decoder.state_dict(), **moved})
        with torch.no_grad():
            totals.append(np.array([float(engine.document_loss(ids)) for ids in documents]))
    found = (totals[0] - totals[1]) / (2 * length)
    truth = np.array(list(influence(make(), direction, documents)))
    assert _error(found, truth) < DIFFERENCE_TOLERANCE


def test_doubtful_steps_are_told(make: Make, documents: list[IntArray]) -> None:
    """A step far too long, or far too short for float32."""
    direction = gradient(make(), documents[:4])
    for step in (3.0, 1e-8):
        with pytest.warns(CuveeWarning, match="so they may be doubted"):
            list(influence(make(), direction, documents, mode="difference", step=step))


def test_logits_may_stand_for_hidden_states(
    decoder: Decoder, make: Make, documents: list[IntArray]
) -> None:
    """Models whose head is more than a matrix."""

    def logits(tokens: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
        return F.linear(decoder.hidden(tokens, segments), decoder.head.weight.detach().clone())

    direction = gradient(make(), documents)
    one = np.array(list(influence(make(), direction, documents)))
    other = np.array(list(influence(make(hidden=logits, head=None), direction, documents)))
    assert _error(other, one) < EXACT_TOLERANCE


def test_what_cannot_be_meant_is_refused(
    decoder: Decoder, make: Make, documents: list[IntArray]
) -> None:
    """One message each, before a document is read."""
    direction = gradient(make(), documents)
    for fields, match in (
        ({"mode": "jvp"}, "mode='jvp' is unknown"),
        ({"normalise": "max"}, "normalise='max' is unknown"),
        ({"normalise": "cosine", "mode": "eps"}, "needs the lengths of gradients"),
    ):
        with pytest.raises(ConfigError, match=match):
            influence(make(), direction, documents, **fields)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="lost in half precision"):
        influence(make(precision="bfloat16"), direction, documents, mode="difference")
    with pytest.raises(ConfigError, match="no direction"):
        influences(make(), [], documents)
    with pytest.raises(DataError, match="model and direction are of different tokenizer"):
        influence(make(tokenizer="other"), direction, documents)
    with torch.no_grad():
        decoder.get_parameter("blocks.1.attn.o_proj.weight").mul_(2)
    with pytest.raises(DataError, match="model and direction are of different weights"):
        influence(make(), direction, documents)
