"""The sampling function: closed forms of the paper and ours."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from cuvee.errors import DataError
from cuvee.policy.quality_curve import (
    QualityCurve,
    expected_copies,
    mean_copies,
    parameter_names,
)
from cuvee.policy.ranks import RankTables, token_ranks
from cuvee.policy.sampling import draw_copies
from cuvee.randomness import document_keys


def _copies(rank: float, steepness: float, threshold: float, exponent: float, base: float) -> float:
    found = expected_copies(
        np.array([rank]), steepness=steepness, threshold=threshold, exponent=exponent, base=base
    )
    return float(found[0])


@pytest.mark.parametrize(
    ("parameters", "copies"),
    [
        ((0.0, 100, 0.05, 0.5, 0.0005), 1.409973),
        ((0.01, 100, 0.05, 0.5, 0.0005), 1.401938),
        ((0.05, 100, 0.05, 0.5, 0.0005), 1.0005),
        ((0.0501, 100, 0.05, 0.5, 0.0005), 0.0005),
        ((0.02, 10, 0.08, 1.0, 0.001), 1.292313),
        ((0.02, 1000, 0.08, 0.25, 0.0), 1.189207),
    ],
)
def test_the_curve_has_the_papers_values(
    parameters: tuple[float, float, float, float, float], copies: float
) -> None:
    """Values computed by hand from equation 3."""
    assert _copies(*parameters) == pytest.approx(copies, abs=1e-6)


def test_steep_curves_do_not_overflow() -> None:
    """A step from 2^eta + epsilon to epsilon."""
    with np.errstate(all="raise"):
        assert _copies(0.0, 1e9, 0.1, 1.0, 0.0) == 2.0
        assert _copies(1.0, 1e9, 0.1, 1.0, 0.25) == 0.25


@pytest.mark.parametrize(
    ("exponent", "steepness", "ratio"),
    [
        (1.0, 1, 1.01250),
        (1.0, 10, 1.12372),
        (1.0, 100, 1.72543),
        (1.0, 1000, 1.97227),
        (0.5, 1, 1.006),
        (0.5, 10, 1.060),
        (0.5, 100, 1.309),
        (0.5, 1000, 1.404),
        (0.0, 100, 1.0),
    ],
)
def test_the_integral_has_its_closed_values(
    exponent: float, steepness: float, ratio: float
) -> None:
    """Divided by the threshold, without epsilon; for eta = 1 the closed form too."""
    found = _integral(steepness, 0.05, exponent, 0.0)
    assert found / 0.05 == pytest.approx(ratio, abs=5e-4 if exponent == 0.5 else 6e-6)
    if exponent == 1.0:
        closed = 2.0 / steepness * np.log((1.0 + np.exp(0.05 * steepness)) / 2.0)
        assert found == pytest.approx(closed, rel=1e-11)


@given(
    steepness=st.floats(0.1, 1e5),
    threshold=st.floats(0.0, 1.0),
    exponent=st.floats(0.0, 1.0),
    base=st.floats(0.0, 0.01),
)
def test_the_integral_agrees_with_quadrature(
    steepness: float, threshold: float, exponent: float, base: float
) -> None:
    """Against adaptive quadrature of the curve up to the threshold."""
    found = _integral(steepness, threshold, exponent, base)
    low = max(0.0, threshold - 40.0 / steepness)
    curved, _ = quad(lambda r: _copies(r, steepness, threshold, exponent, 0.0), low, threshold)
    assert found == pytest.approx(curved + low * 2.0**exponent + base, rel=1e-6, abs=1e-9)


def _integral(steepness: float, threshold: float, exponent: float, base: float) -> float:
    values = (np.array([one]) for one in (steepness, threshold, exponent, base))
    one, two, three, four = values
    return float(mean_copies(steepness=one, threshold=two, exponent=three, base=four)[0])


def _curve() -> QualityCurve:
    return QualityCurve(
        domains=("code", "web"),
        criteria=("edu", "dsir"),
        merge=np.array([[0.25, 0.75], [1.0, 0.0]]),
        steepness=np.array([50.0, 100.0]),
        threshold=np.array([0.3, 0.1]),
        exponent=np.array([1.0, 0.5]),
        base=np.array([0.01, 0.0]),
    )


def test_vectors_and_json_give_the_curve_back() -> None:
    """Both ways, with names for every column."""
    curve = _curve()
    names = parameter_names(curve.domains, curve.criteria)
    assert len(names) == len(curve.vector) == 12
    assert dict(zip(names, curve.vector, strict=True))["code/dsir"] == 0.75
    again = QualityCurve.of_vector(curve.domains, curve.criteria, curve.vector)
    np.testing.assert_array_equal(again.vector, curve.vector)
    np.testing.assert_array_equal(QualityCurve.from_json(curve.to_json()).vector, curve.vector)
    with pytest.raises(DataError, match="not in the expected form"):
        QualityCurve.from_json({"criteria": ["edu"], "domains": {"web": {}}})


def test_parameters_out_of_range_are_refused() -> None:
    """A merge row that does not sum to 1, a threshold above 1."""
    vector = _curve().vector
    for place, value, words in ((0, 0.5, "sum to"), (3, 1.5, "threshold"), (2, 0.0, "steepness")):
        broken = vector.copy()
        broken[place] = value
        with pytest.raises(DataError, match=words):
            QualityCurve.of_vector(("code", "web"), ("edu", "dsir"), broken)


def test_realised_tokens_are_the_expected_share() -> None:
    """Copies drawn for 40,000 documents hold the integral's share of each domain's tokens."""
    rng = np.random.default_rng(0)
    curve = _curve()
    domain = rng.integers(2, size=40_000)
    n_tokens = rng.integers(50, 150, size=40_000)
    scores = rng.uniform(size=(40_000, 2))
    merged = np.einsum("nc,nc->n", scores, curve.merge[domain])
    tables = RankTables.of_documents(merged, n_tokens, domain, n_domains=2)
    expected = curve.bind(tables).copies(scores, domain)
    np.testing.assert_allclose(
        curve.copies(token_ranks(merged, n_tokens, domain), domain), expected
    )
    copies = draw_copies(expected, document_keys(map(str, range(40_000))), seed=1)
    assert copies.max() <= 3
    for index in range(2):
        own = domain == index
        share = (copies * n_tokens)[own].sum() / n_tokens[own].sum()
        assert share == pytest.approx(curve.token_shares[index], rel=0.03)
