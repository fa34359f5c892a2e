"""Mixtures carry phases, match domains by name and turn shares into exact quotas."""

import json

import numpy as np
import pytest

from cuvee.artifacts import canonical_json
from cuvee.config import parse
from cuvee.errors import DataError
from cuvee.policy.mixture import Mixture, Phase
from cuvee.tables.statistics import PoolStatistics

STATISTICS = PoolStatistics(
    domains=("books", "code", "web"),
    n_documents=np.array([2, 5, 10]),
    n_bytes=np.array([400, 300, 1600]),
    n_tokens=np.array([100, 50, 400]),
    available_tokens=np.array([100, 50, 400]),
)
MIXTURE = Mixture.flat(("books", "code", "web"), (0.5, 0.2, 0.3))


def test_flat_mixture_has_one_phase() -> None:
    """One phase holds the whole run."""
    assert MIXTURE.phases == (Phase(share=1.0, weights=(0.5, 0.2, 0.3)),)
    np.testing.assert_allclose(MIXTURE.overall, [0.5, 0.2, 0.3])


def test_overall_is_the_mean_over_phases() -> None:
    """Phases count by their share of the run."""
    mixture = Mixture(
        domains=("a", "b"),
        phases=(Phase(share=0.75, weights=(1.0, 0.0)), Phase(share=0.25, weights=(0.2, 0.8))),
    )
    np.testing.assert_allclose(mixture.overall, [0.8, 0.2])


def test_json_round_trip() -> None:
    """A mixture read back is the mixture written."""
    text = canonical_json(MIXTURE.to_json())
    assert Mixture.from_json(json.loads(text)) == MIXTURE


def test_mixture_is_a_config_section() -> None:
    """The same fields can stand in a config file."""
    settings = {"domains": ["a", "b"], "phases": [{"weights": [0.5, 0.5]}]}
    assert parse(Mixture, settings) == Mixture.flat(("a", "b"), (0.5, 0.5))


def test_expected_copies_are_epochs_of_the_domain() -> None:
    """Half of 400 tokens from a domain of 100 is two copies of each document."""
    bound = MIXTURE.bind(STATISTICS, n_tokens=400)
    copies = bound.copies(np.array([0, 1, 2, 0]))
    np.testing.assert_allclose(copies, [2.0, 1.6, 0.3, 2.0])


def test_quotas_sum_to_the_budget() -> None:
    """Quotas are whole tokens by largest remainder."""
    bound = MIXTURE.bind(STATISTICS, n_tokens=333)
    assert bound.quotas.sum() == 333
    assert np.all(np.abs(bound.quotas - bound.weights * 333) < 1.0)


def test_bind_follows_domain_names() -> None:
    """Order does not matter, and unnamed domains of the pool get nothing."""
    mixture = Mixture.flat(("web", "books", "elsewhere"), (0.9, 0.1, 0.0))
    bound = mixture.bind(STATISTICS, n_tokens=100)
    assert bound.domains == STATISTICS.domains
    np.testing.assert_allclose(bound.weights, [0.1, 0.0, 0.9])


def test_bind_refuses_weight_on_a_missing_domain() -> None:
    """The message names the domain and those there are."""
    mixture = Mixture.flat(("books", "wbe"), (0.5, 0.5))
    with pytest.raises(DataError, match=r"weight 0\.5 to domain 'wbe'.*books, code, web"):
        mixture.bind(STATISTICS, n_tokens=100)


@pytest.mark.parametrize(
    ("domains", "phases", "message"),
    [
        (("a", "a"), (Phase(weights=(0.5, 0.5)),), "unique names"),
        (("a",), (), "no phases"),
        (("a",), (Phase(share=0.5, weights=(1.0,)),), r"phase shares sum to 0\.5"),
        (("a", "b"), (Phase(weights=(0.5, 0.4)),), r"row 0 sums to 0\.9"),
    ],
)
def test_mixture_refuses_what_is_no_mixture(
    domains: tuple[str, ...], phases: tuple[Phase, ...], message: str
) -> None:
    """Every check says what was found."""
    with pytest.raises(DataError, match=message):
        Mixture(domains=domains, phases=phases)


def test_phase_refuses_an_empty_share() -> None:
    """A phase lasts for some part of the run."""
    with pytest.raises(DataError, match="phase share is 0"):
        Phase(share=0.0, weights=(1.0,))


@pytest.mark.parametrize(
    "data",
    [
        {"phases": []},
        {"domains": ["a", "b"], "phases": [{"share": 1.0, "weights": {"a": 1.0}}]},
        {"domains": ["a"], "phases": 3},
    ],
)
def test_from_json_refuses_another_form(data: dict[str, object]) -> None:
    """The message says what the form is."""
    with pytest.raises(DataError, match="it needs domains, and phases"):
        Mixture.from_json(data)  # type: ignore[arg-type]


def test_from_json_refuses_unknown_domains() -> None:
    """A weight for a domain that is not listed is a mistake, not a zero."""
    data = {"domains": ["a"], "phases": [{"share": 1.0, "weights": {"a": 1.0, "z": 0.0}}]}
    with pytest.raises(DataError, match="weighs 'z'"):
        Mixture.from_json(data)


def test_columns_of_phases_and_back() -> None:
    """A row of a design becomes the mixture of its phases, and the same row again."""
    row = np.array([0.6, 0.15, 0.0, 0.25])
    mixture = Mixture.of_columns(("a", "b"), row, shares=(0.75, 0.25))
    np.testing.assert_allclose(mixture.columns, row, atol=1e-15)
    np.testing.assert_allclose(mixture.phases[0].weights, (0.8, 0.2))
    assert mixture.column_names == ("a@1", "b@1", "a@2", "b@2")
    np.testing.assert_allclose(mixture.overall, (0.6, 0.4))


def test_flat_mixture_is_the_same_in_all_phases() -> None:
    """A mixture without phases takes the columns of a design with phases."""
    mixture = Mixture.flat(("a", "b"), (0.8, 0.2), shares=(0.75, 0.25))
    np.testing.assert_allclose(mixture.columns, (0.6, 0.15, 0.2, 0.05))


def test_columns_that_do_not_keep_the_phases_are_refused() -> None:
    """A phase's columns sum to its share."""
    with pytest.raises(DataError, match=r"sum to 0\.5; they must sum to its share 0\.75"):
        Mixture.of_columns(("a", "b"), (0.25, 0.25, 0.25, 0.25), shares=(0.75, 0.25))
